"""Test a locator that exists in Python only: an instance, a module or a function. Nothing here prints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flbench.data.batches import Frames
from flbench.data.dataset import Dataset, read_dataset
from flbench.engine.evaluate import run_cell
from flbench.engine.fit import weights_digest
from flbench.engine.inference import FULL
from flbench.engine.plan import Request, make_plan
from flbench.engine.runtime import Events, Runtime
from flbench.errors import UsageError
from flbench.locator import Locator, Prediction
from flbench.method_file import MethodEntry
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.registry import MethodChoice, find_protocol
from flbench.study import PARTIAL, RECORD, Study

Progress = Callable[[str, int, int], None]
Maps = Callable[[Tensor], Any]

ORIGIN = "given from Python"
"""What a record says in place of the distribution that brought the method."""


_SETTINGS = (
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),
)
"""What a run sets in torch, beside threads and determinism."""


class GivenLocator(Locator):
    """A module or a function as a locator.

    Args:
        predict: Takes float32 (B, 3, H, W) in [0, 1]; returns maps (B, H, W) or (B, 1, H, W) in [0, 1], or a pair of
            maps and scores (B,), or a `Prediction`.
    """

    title = "Given from Python"
    licence = "not stated"

    def __init__(self, predict: Maps) -> None:
        self.function = predict

    def predict(self, images: Tensor) -> Prediction:
        """Return what the function says."""
        said = self.function(images)
        maps, score = said if isinstance(said, tuple) and len(said) == 2 else (said, None)
        if isinstance(maps, Tensor) and maps.ndim == 4 and maps.shape[1] == 1:
            maps = maps[:, 0]
        return Prediction(maps, score)

    def to(self, device: torch.device) -> None:
        """Move the module to `device`; a function has to look at its images."""
        if isinstance(self.function, nn.Module):
            self.function.to(device)

    def save(self, folder: Path) -> None:
        """Write the module's state as safetensors; a function has none."""
        if isinstance(self.function, nn.Module) and self.function.state_dict():
            from safetensors.torch import save_file

            state = self.function.state_dict()
            plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
            save_file(plain, folder / "weights.safetensors")

    @property
    def parameters(self) -> int:
        """Number of the module's parameters."""
        return sum(p.numel() for p in self.function.parameters()) if isinstance(self.function, nn.Module) else 0


def evaluate(
    locator: Locator | nn.Module | Maps,
    protocol: Protocol | str,
    dataset: Dataset | Path | str,
    *,
    study: Study | Path | str | None = None,
    name: str = "",
    request: Request | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: str = FULL,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Record:
    """Test a locator on a protocol as it is, in this process; nothing is fitted.

    It is tested anew at every call, since a record cannot tell which code a Python object stands for. What it has
    learnt is fingerprinted (option `weights` of the record), and the record says that it was given from Python.

    Args:
        locator: A locator, fitted if it needs to be; a module; or a function, see `GivenLocator`.
        protocol: A protocol, its name, or its TOML file.
        dataset: A data set, or its folder.
        study: Where record and per-image scores go; None keeps nothing but the record that is returned.
        name: What to call it; the record says `python:NAME`. Default: the name of its class or function.
        request: Conditions, mapping and so on, as for a run.
        device: "auto", "cpu", "cuda"...
        threads: CPU threads; None: as many as torch uses now.
        precision: In which networks predict: "float32", on GPUs also "tf32", "bfloat16" or "float16".
        batch: Images predicted together; None: found from the device and their size.
        progress: Called with stage, done and total.

    Returns:
        The record. A locator that breaks the contract has one too: its status is "failed", with the reason.

    Raises:
        UsageError: It is no locator, or the protocol cannot run on the data set.
        DataError: The data set is damaged.
        RunError: The record cannot be written.
    """
    made = _as_locator(locator)
    asked = find_protocol(protocol) if isinstance(protocol, str) else protocol
    source = dataset if isinstance(dataset, Dataset) else read_dataset(Path(dataset))
    choice = _choice(made, name or _name_of(locator))
    (cell,) = make_plan(source, [(asked, [choice])], [0], request or Request()).cells
    frames = Frames(source, size=int(cell.protocol.size), region=cell.region, on_disk=True)
    with _stored(study) as store, _undone(made), store.lock(cell.id):
        runtime = Runtime.set_up(device, threads or torch.get_num_threads(), precision=precision, batch=batch)
        folder = store.cell_folder(cell.id)
        (folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        return run_cell(cell, frames, store, runtime, Events(_sender(progress)))


def _as_locator(thing: Locator | nn.Module | Maps) -> Locator:
    if isinstance(thing, Locator):
        return thing
    if isinstance(thing, type) or not callable(thing):
        what = f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
        raise UsageError(f"{what} is no locator", hint="an instance, an nn.Module, or a function of images")
    return GivenLocator(thing)


def _name_of(thing: Any) -> str:
    name = getattr(thing, "__name__", type(thing).__name__)
    return name if name.isidentifier() else "function"


def _choice(locator: Locator, name: str) -> MethodChoice:
    """Return a locator as the choice of a method whose name is `python:NAME`."""
    with tempfile.TemporaryDirectory(prefix="flbench-") as folder:
        try:
            locator.save(Path(folder))
            digest = weights_digest(Path(folder))
        except Exception:  # what is not fitted has nothing to save; the record will say why it cannot predict
            digest = None
    kind = type(locator)
    entry = MethodEntry(
        name="python",
        module=kind.__module__,
        kind=kind.__name__,
        title=name if kind is GivenLocator else getattr(kind, "title", name),
        paper=kind.paper,
        licence=kind.licence,
        reference=kind.reference,
        options={"weights": None if digest is None else f"sha256:{digest}"},
        distribution=ORIGIN,
    )
    return MethodChoice(entry=entry, variant=name, ready=locator)


@contextmanager
def _stored(study: Study | Path | str | None) -> Iterator[Study]:
    """Open a study, or one that is gone at the end."""
    if study is not None:
        yield study if isinstance(study, Study) else Study(Path(study))
        return
    with tempfile.TemporaryDirectory(prefix="flbench-") as folder:
        yield Study(Path(folder))


@contextmanager
def _undone(locator: Locator) -> Iterator[None]:
    """Let the module predict, and put back what the caller had of it and of torch."""
    threads, debug = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    settings = [(owner, name, getattr(owner, name)) for owner, name in _SETTINGS]
    module = locator.function if isinstance(locator, GivenLocator) and isinstance(locator.function, nn.Module) else None
    training = [part for part in module.modules() if part.training] if module is not None else []
    try:
        if module is not None:
            module.eval()
        yield
    finally:
        for part in training:
            part.training = True
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(debug)
        for owner, name, value in settings:
            setattr(owner, name, value)


def _sender(progress: Progress | None) -> Callable[[dict[str, Any]], None]:
    def send(event: dict[str, Any]) -> None:
        if progress is not None and event["event"] == "progress":
            progress(event["stage"], event["done"], event["total"])

    return send
