"""The training loop: one method, one slice, one seed, resumable at any kill with the same bits.

Everything a step does follows from the seed, the step number and the state before it: each step seeds torch's
generators anew, and batches come from `Sampler`. A checkpoint therefore needs no generator state: parameters,
optimiser moments, the best state so far and the history are all there is.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flbench.data.batches import Frames, Sampler
from flbench.data.dataset import select_fit
from flbench.engine.ahead import one_ahead
from flbench.engine.loading import can_load, loaded
from flbench.engine.plan import Fit
from flbench.engine.runtime import Events, Runtime
from flbench.errors import DataError, FlbenchError, MethodError
from flbench.files import atomic_write, file_digest, make_folder, raise_if_full, save_into, storing, write_json
from flbench.locator import Batch, Locator, Loss, NeuralLocator, Recipe, Training
from flbench.registry import MethodChoice, load_method
from flbench.scoring.metrics import collapse
from flbench.study import CHECKPOINT, FIT, LOG, Study

_CPU = torch.device("cpu")

VALID_IMAGES = 128
"""Images of the valid slice looked at, half fakes, half real photos: enough to rank states, cheap beside a fit."""

SAVE_SECONDS = 30.0
"""A checkpoint is written at least this often; when it is written changes no result."""


@dataclass
class History:
    """What a fit went through.

    Attributes:
        step: Steps done.
        best_step: Step of the state that is kept.
        best_loss: Its loss on the valid slice.
        stale: Looks at the valid slice since the best.
        losses: One entry per look: step, mean training loss since the last look, valid loss.
        stopped: Whether the fit stopped early.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    stale: int = 0
    losses: list[dict[str, float | None]] = field(default_factory=list)
    stopped: bool = False
    running: float = 0.0
    counted: int = 0


class SliceTraining(Training):
    """A training slice in memory, and the plain torch loop over it.

    Args:
        frames: Decoded samples.
        fit: What is fitted.
        runtime: Device and threads.
        folder: Where the checkpoint is kept.
        events: Where progress goes.
    """

    def __init__(self, frames: Frames, fit: Fit, runtime: Runtime, folder: Path, events: Events) -> None:
        piece = fit.protocol.slice(fit.slice)
        self.frames = frames
        self.binarised = piece.binarised
        self.slice = select_fit(frames.dataset, piece, "train")
        self.valid = select_fit(frames.dataset, piece, "valid")
        self.seed = fit.seed
        self.size = frames.size
        self.device = runtime.device
        self.loaders = runtime.beside
        self.attention = bool(frames.dataset.parsed(self.slice.fakes).any())
        self.history = History()
        self.folder = folder
        self.cap = fit.cap
        self.cut_short = False
        self.events = events
        if self.slice.fakes.empty or self.slice.reals.empty:
            raise DataError(
                f"the training slice {fit.slice} has {len(self.slice.fakes)} fakes and {len(self.slice.reals)} real "
                f"photos in {frames.dataset.label}",
                hint="a fit needs both; see flbench data show",
            )

    def batches(self, *, batch: int = 32) -> Iterator[Batch]:
        """Yield the training slice once, fakes first, without augmentation."""
        samples = [*self.slice.fakes["sample_id"], *self.slice.reals["sample_id"]]
        for start in range(0, len(samples), batch):
            self.events.progress("read", min(start + batch, len(samples)), len(samples))
            yield self.batch(samples[start : start + batch])

    def batch(
        self, samples: Sequence[str], flips: np.ndarray | None = None, device: torch.device | None = None
    ) -> Batch:
        """Return a batch of samples, with binary maps where the slice asks for them; on the fit's device by default."""
        made = self.frames.batch(samples, device or self.device, flips)
        if self.binarised is None:
            return made
        return made._replace(fakeness=(made.fakeness >= self.binarised).float())

    def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
        """Fit `module` in place and leave it in its best state on the valid slice.

        Raises:
            MethodError: The loss is not finite, so the fit would be worthless.
        """
        sampler = Sampler(self.slice, batch=recipe.batch, seed=self.seed)
        steps = recipe.steps if recipe.steps is not None else math.ceil(recipe.epochs * sampler.steps_per_epoch)
        self.cut_short = self.cap is not None and self.cap < steps
        steps = max(1, min(steps, self.cap or steps))
        looks = {math.ceil(steps * (i + 1) / recipe.checks) for i in range(recipe.checks)}
        optimiser = torch.optim.Adam(
            module.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        best = self._resume(module, optimiser)
        history = self.history
        saved, note = time.monotonic(), ""
        losses: list[tuple[int, Tensor]] = []
        if self.device.type == "cuda":  # where channels come last, GPUs without TF32 are many times slower
            module.to(memory_format=torch.contiguous_format)
        for batch in self._batches(sampler, recipe, range(history.step, steps)):
            if history.stopped:
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * rate(history.step, steps, recipe.schedule)
            losses.append((history.step, self._step(module, optimiser, loss, batch)))
            history.step += 1
            look = history.step in looks
            save = history.step < steps and (look or time.monotonic() - saved > SAVE_SECONDS or self.events.stopping)
            while len(losses) > (0 if look or save else 1):  # a GPU is still busy with the last one
                note = f"loss {self._count(*losses.pop(0)):.3f}"
            if look:
                best = self._look(module, loss, recipe, best)
            if save:
                self._save(module, optimiser, best)
                saved = time.monotonic()
                self.events.check()
            self.events.progress("fit", history.step, steps, note)
        if best:
            module.load_state_dict(best)
        module.eval()

    def _batches(self, sampler: Sampler, recipe: Recipe, steps: range) -> Iterator[Batch]:
        """Yield the batches of some steps, made ahead; each is a function of the seed and the step alone."""

        def make(step: int, device: torch.device = _CPU) -> Batch:
            samples = sampler.samples(step)
            return self.batch(samples, sampler.flips(step, len(samples)) if recipe.flip else None, device)

        if can_load(self.loaders):
            yield from loaded(make, steps, self.loaders, self.device, (recipe.batch, self.size, self.size))
        else:
            yield from one_ahead(make(step, self.device) for step in steps)

    def _step(self, module: nn.Module, optimiser: torch.optim.Optimizer, loss: Loss, batch: Batch) -> Tensor:
        _seed_generators(step_seed(self.seed, self.history.step), self.device)
        if not module.training:
            module.train()
        optimiser.zero_grad(set_to_none=True)
        value = loss(module, batch)
        value.backward()
        optimiser.step()
        return value.detach()

    def _count(self, step: int, loss: Tensor) -> float:
        """Note the loss of a step, once it is known.

        Raises:
            MethodError: It is not finite.
        """
        value = float(loss)
        if not math.isfinite(value):
            raise MethodError(
                f"the loss is {value} at step {step}", hint="lower the learning rate, or look at the method's loss"
            )
        self.history.running += value
        self.history.counted += 1
        return value

    def _look(self, module: nn.Module, loss: Loss, recipe: Recipe, best: dict[str, Tensor]) -> dict[str, Tensor]:
        """Measure the valid slice, note it, and return the best state so far."""
        history = self.history
        mean = history.running / max(1, history.counted)
        history.running, history.counted = 0.0, 0
        value = self._valid_loss(module, loss, recipe)
        history.losses.append({"step": history.step, "train": mean, "valid": value})
        judged = mean if value is None else value
        if judged < history.best_loss or value is None:
            history.best_loss, history.best_step, history.stale = judged, history.step, 0
            return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        history.stale += 1
        history.stopped = recipe.patience is not None and history.stale >= recipe.patience
        return best

    def _valid_loss(self, module: nn.Module, loss: Loss, recipe: Recipe) -> float | None:
        samples = self._valid_samples()
        if not samples:
            return None
        module.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(samples), recipe.batch):
                part = samples[start : start + recipe.batch]
                batch = self.batch(part)
                total += float(loss(module, batch).item()) * len(part)
        return total / len(samples)

    def _valid_samples(self) -> list[str]:
        """Return fakes and real photos in turn, so that every batch has both."""
        fakes = list(self.valid.fakes["sample_id"])[: VALID_IMAGES // 2]
        reals = list(self.valid.reals["sample_id"])[: VALID_IMAGES // 2]
        return [sample for pair in zip(fakes, reals, strict=False) for sample in pair]

    def _save(self, module: nn.Module, optimiser: torch.optim.Optimizer, best: dict[str, Tensor]) -> None:
        tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in state.items()}
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        metadata = {"history": json.dumps(asdict(self.history))}
        atomic_write(self.folder / CHECKPOINT, lambda path: save_file(plain, path, metadata=metadata))

    def _resume(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Load the checkpoint, if there is a readable one, and return the best state it knows."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return {}
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                history = History(**json.loads(file.metadata()["history"]))
            module.load_state_dict(_part(tensors, "module/"))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
            self.events.warn(f"checkpoint of {self.folder.name} is damaged or of another version; the fit starts again")
            return {}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimiser/").items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        self.history = history
        return {name: tensor.to(self.device) for name, tensor in _part(tensors, "best/").items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def rate(step: int, steps: int, schedule: str) -> float:
    """Return the learning rate of a step as a share of its peak.

    "falling": linear warm-up over the first 5 % (at most 100 steps), flat to one half, then linear to 3 %.
    """
    if schedule == "constant":
        return 1.0
    warm = min(100, max(1, steps // 20))
    if step < warm:
        return (step + 1) / warm
    done = step / steps
    return 1.0 if done < 0.5 else 1 - 0.97 * (done - 0.5) / 0.5


def step_seed(seed: int, step: int) -> int:
    """Return a 63-bit seed for the generators of one step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed what a step may draw from, as `torch.manual_seed` does.

    That also asks kinds of devices that are not here, and they keep every seed with a trace of where it came from.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)


def make_fit(fit: Fit, frames: Frames, study: Study, runtime: Runtime, events: Events) -> dict[str, Any]:
    """Carry out a fit, or find it done, and return what its `fit.json` says.

    Raises:
        MethodError: The method cannot be loaded or fitted; what it raised is in the fit's log.
        DataError: The training slice is empty or unreadable.
        RunError: The disk is full.
    """
    done = study.fit(fit.id)
    if done is not None:
        return done
    folder = study.fit_folder(fit.id)
    make_folder(folder)
    started = time.perf_counter()
    training = SliceTraining(frames, fit, runtime, folder, events)
    torch.manual_seed(step_seed(fit.seed, 0))
    locator = load_method(fit.method)
    how: dict[str, str] = {}
    try:
        if fit.method.weights is None:
            with runtime.fitting() as how:
                locator.fit(training)
        else:
            for note in take_weights(locator, fit.method):
                events.warn(note)
        save_into(folder, locator.save)
    except FlbenchError:
        raise
    except Exception as error:
        raise_if_full(error, folder)
        with storing(folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
        what = f"fitting {fit.method.name} failed: {type(error).__name__}: {error}"
        raise MethodError(what, hint=f"the traceback is in {folder / LOG}") from error
    history = training.history
    document = {
        "fit": fit.id,
        "method": fit.method.name,
        "options": fit.method.options,
        "slice": fit.protocol.slice(fit.slice).model_dump(mode="json"),
        "dataset": frames.dataset.fingerprint,
        "size": frames.size,
        "seed": fit.seed,
        "fakes": len(training.slice.fakes),
        "reals": len(training.slice.reals),
        "parameters": locator.parameters,
        "steps": history.step,
        "best_step": history.best_step,
        "stopped_early": history.stopped,
        "cap": fit.cap if training.cut_short else None,
        "losses": history.losses,
        "collapsed": None if fit.method.entry.reference else collapsed(locator, training),
        "weights": weights_digest(folder),
        "timings": {"fit_s": time.perf_counter() - started},
        "provenance": {**runtime.provenance(), **how},
    }
    write_json(folder / FIT, document)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return document


def take_weights(locator: Locator, method: MethodChoice) -> list[str]:
    """Let weights that were given stand for a fit, and return what was done to make them fit, a sentence each.

    Raises:
        MethodError: The method is no network, or the file is not one of weights that fit it.
    """
    assert method.weights is not None
    if not isinstance(locator, NeuralLocator):
        raise MethodError(f"method {method.name} is no network and takes no weights", hint="leave out --weights")
    return locator.load_weights(Path(method.weights.place), sha256=method.weights.digest)


def collapsed(locator: Locator, training: SliceTraining) -> str | None:
    """Return why the maps of a fitted locator are worthless (near-constant), or None."""
    chosen = training.valid if len(training.valid.fakes) else training.slice
    samples = [*chosen.fakes["sample_id"][:32], *chosen.reals["sample_id"][:32]]
    batch = training.frames.batch(samples, training.device)
    locator.to(training.device)
    return collapse(locator.predict(batch.images).fakeness.cpu().numpy(), batch.labels.cpu().numpy() > 0.5)


def weights_digest(folder: Path) -> str | None:
    """Return the sha256 over the files that a locator saved, None if it saved nothing."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".safetensors", ".json"))
    kept = [path for path in files if path.name not in (FIT, CHECKPOINT)]
    if not kept:
        return None
    text = "".join(f"{path.name} {file_digest(path)}\n" for path in kept)
    return hashlib.sha256(text.encode()).hexdigest()
