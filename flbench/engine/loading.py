"""Make the batches of a fit in processes of their own.

A GPU is given a thousand small tasks a step by one thread, which waits for the interpreter whenever another thread has
it: measured, threads that make batches cost a step a fifth of its time. A batch goes from process to process as one
tensor, since each of them has to be received.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flbench.errors import DataError
from flbench.locator import Batch

_AHEAD = 2
"""Batches that each process makes ahead."""

_SHARED = Path("/dev/shm")
"""Where torch hands tensors from process to process, on Linux."""

Make = Callable[[int], Batch]


def can_load(workers: int, size: int) -> bool:
    """Tell whether processes can hand over batches of so many bytes: containers often have little shared memory.

    Args:
        workers: How many processes.
        size: Bytes of a batch.
    """
    return workers > 1 and _SHARED.is_dir() and shutil.disk_usage(_SHARED).free > 2 * workers * _AHEAD * size


class _Packed(NamedTuple):
    """A batch as one tensor.

    Attributes:
        numbers: float32, one dimension: images, ground truth, attention maps, labels.
        shape: Of the images.
    """

    numbers: Tensor
    shape: tuple[int, ...]


def loaded(make: Make, steps: range, workers: int, device: torch.device) -> Iterator[Batch]:
    """Yield the batches of steps, in order, each made by one of some processes.

    Args:
        make: Returns the batch of a step, on the CPU; it must depend on the step alone.
        steps: Which.
        workers: How many processes; they are forks of this one and end with the iterator.
        device: Where the batches go.

    Raises:
        DataError: An image is missing or cannot be decoded.
    """
    loader: DataLoader[Any] = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it draws from the one that the fit draws from
    )
    for made in loader:
        if not isinstance(made, _Packed):
            message, hint = made
            raise DataError(message, hint=hint)
        yield _unpacked(made, device)


def _packed(batch: Batch) -> _Packed:
    parts = (batch.images, batch.fakeness, batch.attention, batch.labels)
    return _Packed(torch.cat([part.flatten() for part in parts]), tuple(batch.images.shape))


def _unpacked(packed: _Packed, device: torch.device) -> Batch:
    count, channels, height, width = packed.shape
    pixels = count * height * width
    numbers = packed.numbers.to(device, non_blocking=True)
    images, fakeness, attention, labels = numbers.split((channels * pixels, pixels, pixels, count))
    maps = (count, height, width)
    return Batch(images.view(packed.shape), fakeness.view(maps), labels, attention.view(maps))


class _Steps(Dataset[Any]):
    """Batches by their step; for one that cannot be made, message and hint of the error, which torch would rewrite."""

    def __init__(self, make: Make) -> None:
        self._make = make

    def __getitem__(self, step: int) -> _Packed | tuple[str, str]:
        try:
            return _packed(self._make(step))
        except DataError as error:
            return error.message, error.hint
