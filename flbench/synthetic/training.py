"""Training of the small generators; whoever does not trust the shipped weights can make their own."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flbench.errors import RunError, UsageError, suggest
from flbench.synthetic.generators import FAMILIES, NATIVE, Discriminator
from flbench.synthetic.losses import fooling_loss, judging_loss, naming_loss, region_loss
from flbench.synthetic.measure import measure_generator
from flbench.synthetic.pairs import FIRST_TRAINING_SEED, Faces, prepare_faces, sample_pairs
from flbench.synthetic.schedule import share_of_rate
from flbench.synthetic.workers import steady

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the machine."""

    family: str
    steps: int
    seed: int = 0
    people: int = 800
    held_out: int = 60
    size: int = NATIVE
    batch: int = 8
    rate: float = 1e-3
    warm_up: int = 100
    flat: float = 0.6
    last_rate: float = 0.03
    sharpness: float = 1.0
    judged_from: float = 0.15
    adversarial_from: float = 0.3
    adversarial_weight: float = 0.02
    naming_weight: float = 0.02
    discriminator_rate: float = 4e-4
    average: float = 0.998
    half_precision: bool = True


def recipe_of(
    family: str, *, steps: int | None = None, seed: int = 0, people: int = Recipe.people, size: int = NATIVE
) -> Recipe:
    """Return the recipe of a family: its own weights of the losses, and its own steps if none are given."""
    known = FAMILIES[family]
    return Recipe(
        family=family,
        steps=steps or known.steps,
        seed=seed,
        people=people,
        size=size,
        held_out=min(60, people // 4),
        sharpness=known.sharpness,
        adversarial_weight=known.adversarial,
        naming_weight=known.naming,
    )


def learning_rate(recipe: Recipe, step: int, share: float) -> float:
    """Return the learning rate after `step` steps, when `share` of the budget (0 to 1) is used."""
    course = share_of_rate(step, share, warm_up=recipe.warm_up, flat=recipe.flat, last=recipe.last_rate)
    return recipe.rate * course


class _Trainer:
    """State of one training: networks, optimisers, averaged weights, counters; saved and restored as safetensors."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.generator: nn.Module = FAMILIES[recipe.family].build().to(device)
            self.judge: nn.Module = Discriminator().to(device)
        self.memory_format = _memory_format(self.generator)
        self.generator.to(memory_format=self.memory_format)
        self.judge.to(memory_format=torch.channels_last)
        self.recipe, self.device = recipe, device
        self.optimiser = torch.optim.Adam(self.generator.parameters(), recipe.rate, betas=(0.5, 0.99))
        self.judge_optimiser = torch.optim.Adam(self.judge.parameters(), recipe.discriminator_rate, betas=(0.5, 0.99))
        self.averaged = {name: value.detach().clone() for name, value in self.generator.named_parameters()}
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        self.losses: list[float] = []

    def update(self, faces: Faces, people: range, share: float) -> None:
        """Do one step."""
        recipe = self.recipe
        edits = FAMILIES[recipe.family].learnt
        emphasis = FAMILIES[recipe.family].emphasis
        pairs = sample_pairs(faces, people, edits, recipe.batch, seed=recipe.seed, step=self.step, emphasis=emphasis)
        source, target, difference, wanted = (tensor.to(self.device) for tensor in pairs)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, self.step, share)
        with self._autocast():
            output = self.generator(source.contiguous(memory_format=self.memory_format), difference)
        output = output.float()
        reconstruction = region_loss(output, target, source, recipe.sharpness)
        loss = reconstruction
        if share >= recipe.adversarial_from:
            self.judge.requires_grad_(False)
            with self._autocast():
                verdict = self.judge(output)
            loss = loss + recipe.adversarial_weight * fooling_loss(verdict)
            loss = loss + recipe.naming_weight * naming_loss(verdict, wanted)
            self.judge.requires_grad_(True)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if share >= recipe.judged_from:
            self._update_judge(target, output.detach(), wanted)
        self._average()
        self.step += 1
        self.losses.append(reconstruction.item())
        if not np.isfinite(self.losses[-1]):
            raise RunError(f"{recipe.family}: the loss is not a number at step {self.step}", hint="try another seed")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.half_precision)

    def _update_judge(self, photo: Tensor, fake: Tensor, attributes: Tensor) -> None:
        with self._autocast():
            verdict = self.judge(torch.cat([photo, fake]))
        loss = judging_loss(verdict, attributes)
        self.judge_optimiser.zero_grad()
        loss.backward()
        self.judge_optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        """Follow the weights by an exponential moving average, quickly at first."""
        rate = 1 - min(self.recipe.average, (1 + self.step) / (10 + self.step))
        names, parameters = zip(*self.generator.named_parameters(), strict=True)
        torch._foreach_lerp_([self.averaged[name] for name in names], list(parameters), rate)

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights and the running statistics, float16."""
        state = {name: value.detach() for name, value in self.generator.state_dict().items()} | self.averaged
        return {name: value.half().contiguous().cpu() for name, value in state.items() if value.is_floating_point()}

    def save(self, path: Path) -> None:
        """Write the whole state to one safetensors file, atomically."""
        tensors = {f"generator.{name}": value for name, value in self.generator.state_dict().items()}
        tensors |= {f"judge.{name}": value for name, value in self.judge.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.items()}
        for title, optimiser in (("optimiser", self.optimiser), ("judge_optimiser", self.judge_optimiser)):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{title}.{index}.{name}": value for name, value in state.items()}
        counters = {"step": self.step, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        metadata = {"counters": json.dumps(counters), "losses": json.dumps(self.losses[-2000:])}
        metadata["recipe"] = json.dumps(asdict(self.recipe), sort_keys=True)
        temporary = path.with_suffix(".tmp")
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary, metadata=metadata)
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Read a state written by `save` for the same recipe."""
        with safe_open(path, "pt") as handle:
            metadata = handle.metadata()
        if json.loads(metadata["recipe"]) != asdict(self.recipe):
            raise UsageError(f"{path.name} was made by another recipe", hint="remove it or use another folder")
        tensors = load_file(path)
        self.generator.load_state_dict(_under(tensors, "generator"))
        self.judge.load_state_dict(_under(tensors, "judge"))
        self.averaged = {name: value.to(self.device) for name, value in _under(tensors, "averaged").items()}
        for title, optimiser in (("optimiser", self.optimiser), ("judge_optimiser", self.judge_optimiser)):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in _under(tensors, title).items():
                index, _, key = name.partition(".")
                state.setdefault(int(index), {})[key] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        counters = json.loads(metadata["counters"])
        self.step, self.seconds, self.cpu_seconds = counters["step"], counters["seconds"], counters["cpu_seconds"]
        self.losses = json.loads(metadata["losses"])


def _memory_format(network: nn.Module) -> torch.memory_format:
    """Choose the layout of feature maps that trains faster: a StarGAN step takes half the time with channels last.

    Not with dilated convolutions: on CPUs torch (seen in 2.14) gives them bfloat16 gradients that are no numbers.
    """
    dilated = any(isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1) for layer in network.modules())
    return torch.contiguous_format if dilated else torch.channels_last


def _under(tensors: dict[str, Tensor], title: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{title}."): value for name, value in tensors.items() if name.startswith(f"{title}.")}


def train_generator(
    family: str,
    *,
    into: Path,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    people: int = 800,
    size: int = NATIVE,
    workers: int = 2,
    cache: Path | None = None,
    checkpoint_every: int = 250,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train one generator family and write `<family>.safetensors` (float16) with its card `<family>.json`.

    The run resumes from `<family>.checkpoint.safetensors` in `into` if there is one; the checkpoint is removed at the
    end, and usable weights lie in `into` from the first checkpoint on.

    Args:
        family: A name in `FAMILIES`.
        into: Folder for weights, card and checkpoint.
        steps: Budget in steps of 8 images; None: the family's own, which the shipped weights had.
        seconds: Budget in wall seconds of training; whichever budget ends first. The learning rate follows the one
            that is further used. Only a budget in steps alone gives the same weights twice.
        seed: Seed of initial weights and of the batches.
        device: torch device.
        threads: torch threads.
        people: Identities that are rendered; the last of them, at most 60, are held out for the measurements.
        size: Side of the images, divisible by 16.
        workers: Rendering processes.
        cache: Folder for the rendered people; a folder below the system's temporary folder if None.
        checkpoint_every: Steps between two checkpoints.
        progress: Called with one line now and then.

    Returns:
        The card.

    Raises:
        UsageError: If the family is unknown, or a checkpoint of another recipe lies in `into`.
        RunError: If the training diverges.
    """
    if family not in FAMILIES:
        raise UsageError(f"no generator family {family!r}", hint=suggest(family, list(FAMILIES)))
    say = progress or (lambda line: None)
    recipe = recipe_of(family, steps=steps, seed=seed, people=people, size=size)
    into.mkdir(parents=True, exist_ok=True)
    cache = cache or Path(tempfile.gettempdir()) / "flbench-generator-training"
    faces = prepare_faces(cache, people=people, size=recipe.size, workers=workers, progress=progress)
    checkpoint = into / f"{family}.checkpoint.safetensors"
    with steady(threads):
        trainer = _Trainer(recipe, torch.device(device))
        if checkpoint.exists():
            trainer.restore(checkpoint)
            say(f"{family}: resumed at step {trainer.step}")
        _loop(trainer, faces, into, seconds, checkpoint_every, say)
        card = _finish(trainer, faces, into)
    checkpoint.unlink(missing_ok=True)
    return card


def _loop(
    trainer: _Trainer, faces: Faces, into: Path, seconds: float | None, checkpoint_every: int, say: Progress
) -> None:
    """Train until the budget is used."""
    recipe = trainer.recipe
    people = range(0, recipe.people - recipe.held_out)
    wall, cpu = time.monotonic() - trainer.seconds, time.process_time() - trainer.cpu_seconds
    while True:
        trainer.seconds, trainer.cpu_seconds = time.monotonic() - wall, time.process_time() - cpu
        share = max(trainer.step / recipe.steps, trainer.seconds / seconds if seconds else 0.0)
        if share >= 1:
            return
        trainer.update(faces, people, share)
        if trainer.step % 50 == 0:
            loss = float(np.mean(trainer.losses[-50:]))
            say(f"{recipe.family} step {trainer.step} ({share:.1%}, {trainer.seconds:.0f} s) loss {loss:.4f}")
        if trainer.step % checkpoint_every == 0:
            trainer.save(into / f"{recipe.family}.checkpoint.safetensors")
            _write_weights(trainer, into)


def _write_weights(trainer: _Trainer, into: Path) -> str:
    """Write the weights, atomically; return their sha256."""
    path = into / f"{trainer.recipe.family}.safetensors"
    temporary = path.with_suffix(".tmp")
    save_file(trainer.weights(), temporary)
    temporary.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _finish(trainer: _Trainer, faces: Faces, into: Path) -> dict[str, Any]:
    """Write weights and card; the card's measurements are taken from the weights as shipped, on held-out people."""
    recipe, family = trainer.recipe, FAMILIES[trainer.recipe.family]
    digest = _write_weights(trainer, into)
    generator = load_generator(recipe.family, into)
    held_out = range(recipe.people - recipe.held_out, recipe.people)
    card = {
        "family": recipe.family,
        "title": family.title,
        "paper": family.paper,
        "upsampling": family.upsampling,
        "data": "photos of flbench's own procedural faces; no photograph of a person",
        "identities": f"seeds {FIRST_TRAINING_SEED} to {FIRST_TRAINING_SEED + held_out.start - 1}",
        "held_out": f"seeds {FIRST_TRAINING_SEED + held_out.start} to {FIRST_TRAINING_SEED + held_out.stop - 1}",
        "parameters": sum(value.numel() for value in generator.parameters()),
        "recipe": asdict(recipe),
        "optimiser": "Adam (0.5, 0.99), warm-up, flat, linear fall; weights averaged exponentially",
        "edits_learnt": list(family.learnt),
        "emphasis": dict(family.emphasis),
        "losses": "L1, but for the share `sharpness` after a [1 2 1] blur, + the same in the changed region / its "
        "area; least-squares patch discriminator; its attribute classifier",
        "steps": trainer.step,
        "images": trainer.step * recipe.batch,
        "wall_seconds": round(trainer.seconds),
        "cpu_seconds": round(trainer.cpu_seconds),
        "last_loss": round(float(np.mean(trainer.losses[-500:])), 4),
        "sha256": digest,
        "torch": torch.__version__,
    } | measure_generator(generator, faces, held_out, family.learnt)
    text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (into / f"{recipe.family}.json").write_text(text, encoding="utf-8")
    return card


def load_generator(family: str, folder: Path | None = None) -> nn.Module:
    """Build a family and load its weights for inference on the CPU in float32.

    Args:
        family: A name in `FAMILIES`.
        folder: Where `<family>.safetensors` lies; the shipped weights if None.

    Raises:
        UsageError: If the family is unknown or has no weights there.
    """
    if family not in FAMILIES:
        raise UsageError(f"no generator family {family!r}", hint=suggest(family, list(FAMILIES)))
    path = (folder or Path(__file__).parent / "weights") / f"{family}.safetensors"
    if not path.is_file():
        raise UsageError(f"no weights for the generator family {family!r}", hint="train it, or reinstall flbench")
    generator = FAMILIES[family].build()
    weights = {name: value.float() for name, value in load_file(path).items()}
    missing = generator.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or any(not name.endswith("num_batches_tracked") for name in missing.missing_keys):
        raise UsageError(f"{path.name} does not fit the family {family!r}", hint="train it again")
    return generator.eval().requires_grad_(False)
