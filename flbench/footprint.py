"""What a method costs here: parameters, multiply-accumulates, and seconds per image."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from flbench.errors import FlbenchError
from flbench.locator import Locator, NeuralLocator
from flbench.registry import MethodChoice, load_method
from flbench.trial import Shown, Trial, ask, make_images

SIZE = 128
"""Height and width in pixels of the images that are looked at."""

BATCH = 8
"""Images that are looked at together."""

_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a method costs here.

    Attributes:
        parameters: Of its network, the head included; 0 if it has none.
        macs: Multiply-accumulates of convolutions, matrix products and attention for one image, as torch counts them;
            None where it cannot, as for a method that takes gradients to predict.
        seconds: Per image, median of three rounds.
        size: Height and width of the images in pixels.
        batch: Images that were looked at together.
        threads: CPU threads.
        why: Why nothing could be measured, "" if it was.
    """

    parameters: int = 0
    macs: int | None = 0
    seconds: float = 0.0
    size: int = SIZE
    batch: int = BATCH
    threads: int = 0
    why: str = ""


def measure_footprint(choice: MethodChoice) -> Footprint:
    """Look at made images with a method as it is built, and count and time what that takes on the CPU.

    Weights are never fetched: what a network costs does not depend on what it has learnt.

    Args:
        choice: The method with its options.

    Raises:
        MethodError: The method cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="flbench-") as folder:
        try:
            locator = _ready(choice, Path(folder))
            shown = make_images(BATCH, (SIZE, SIZE))
            with torch.inference_mode():
                ask(locator, shown.one(0))
                macs = _macs(locator, shown.one(0))
                taken = []
                for _ in range(_ROUNDS):
                    start = time.perf_counter()
                    ask(locator, shown)
                    taken.append(time.perf_counter() - start)
        except FlbenchError as error:
            return Footprint(why=str(error))
    return Footprint(
        parameters=locator.parameters,
        macs=macs,
        seconds=statistics.median(taken) / BATCH,
        threads=torch.get_num_threads(),
    )


def _ready(choice: MethodChoice, folder: Path) -> Locator:
    """Return a locator that can predict: a network as it is built, anything else after a trial's fit."""
    locator = load_method(choice)
    if isinstance(locator, NeuralLocator):
        locator.module = locator.build(pretrained=False)
        return locator
    return Trial(choice, load_method, folder).locator


def _macs(locator: Locator, shown: Shown) -> int | None:
    try:
        with FlopCounterMode(display=False) as counter:
            ask(locator, shown)
    except RuntimeError:  # torch's counter follows modules by hooks that torch.autograd.grad refuses
        return None
    return counter.get_total_flops() // 2
