"""Make the batches of a fit in processes of their own.

A GPU is given a thousand small tasks a step by one thread, which waits for the interpreter whenever another thread has
it: measured, threads that make batches cost a step a fifth of its time. Processes write batches into memory that all of
them share from the start, since to hand over memory costs the one that gets it 1.3 ms a batch.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flbench.data.batches import on_device
from flbench.engine.ahead import one_ahead
from flbench.errors import DataError
from flbench.locator import Batch

_AHEAD = 2
"""Batches that each process makes ahead."""

_FLOATS = 5
"""Numbers that a batch has for each pixel: three of the image, ground truth and attention map."""

Make = Callable[[int], Batch]
Shape = tuple[int, int, int]


def can_load(workers: int) -> bool:
    """Tell whether some processes can load: they are forks, which only Linux does safely."""
    return workers > 1 and sys.platform == "linux"


def loaded(make: Make, steps: range, workers: int, device: torch.device, shape: Shape) -> Iterator[Batch]:
    """Yield the batches of steps, in order, each made by one of some processes.

    Args:
        make: Returns the batch of a step, on the CPU; it must depend on the step alone.
        steps: Which.
        workers: How many processes; they are forks of this one and end with the iterator.
        device: Where the batches go.
        shape: How many images every batch has, and their height and width.

    Raises:
        DataError: An image is missing or cannot be decoded.
    """
    places = _places(workers * _AHEAD + 1, shape)
    loader: DataLoader[Any] = DataLoader(
        _Steps(make, places),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it draws from the one that the fit draws from
    )
    return one_ahead(_received(iter(loader), steps, places, device, shape))  # forks have no thread but this one


def _received(
    arriving: Iterator[tuple[str, ...]], steps: range, places: np.ndarray, device: torch.device, shape: Shape
) -> Iterator[Batch]:
    try:
        for step in steps:
            if failed := next(arriving):
                message, hint = failed
                raise DataError(message, hint=hint)
            yield _unpacked(on_device([places[step % len(places)]], device)[0], shape)
    finally:
        del arriving  # an error would keep it, and with it the processes


def _places(count: int, shape: Shape) -> np.ndarray:
    """Return memory for so many batches, float32 (count, numbers), that forks share; no name of it is left behind."""
    images, height, width = shape
    numbers = images * (height * width * _FLOATS + 1)
    return np.frombuffer(mmap.mmap(-1, 4 * count * numbers), np.float32).reshape(count, numbers)


def _unpacked(numbers: Tensor, shape: Shape) -> Batch:
    count, height, width = shape
    pixels = count * height * width
    images, fakeness, attention, labels = numbers.split((3 * pixels, pixels, pixels, count))
    return Batch(images.view(count, 3, height, width), fakeness.view(shape), labels, attention.view(shape))


class _Steps(Dataset[Any]):
    """Batches by their step, each written into its place.

    An item is empty or, for a batch that cannot be made, message and hint of the error, which torch would rewrite. When
    a batch is asked for, no more than `_AHEAD` for each process are on their way after it, so its place is its own.
    """

    def __init__(self, make: Make, places: np.ndarray) -> None:
        self._make = make
        self._places = places

    def __getitem__(self, step: int) -> tuple[str, ...]:
        try:
            batch = self._make(step)
        except DataError as error:
            return error.message, error.hint
        parts = (batch.images, batch.fakeness, batch.attention, batch.labels)
        np.concatenate([part.numpy().ravel() for part in parts], out=self._places[step % len(self._places)])
        return ()
