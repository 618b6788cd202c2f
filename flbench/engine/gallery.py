"""The gallery of a cell: a few samples with their maps, for the pictures that are drawn after a run."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flbench.data.batches import Example
from flbench.files import atomic_write

ROWS = 6
"""Samples shown of a cell, spread over its test slices and conditions: one of each at least."""

SLICES = 18
"""Test slices under conditions of which samples are shown: more would make a picture that nobody reads."""

CASES = 3
"""Best and worst samples shown of a test slice."""


class Shown(NamedTuple):
    """One sample with what a method made of it.

    Attributes:
        sample: Its identifier.
        photo: uint8 (S, S, 3), the real image, as it was taken; black where there is none.
        example: Image, ground truth and region as they were scored.
        fakeness: float32 (S, S), the prediction.
    """

    sample: str
    photo: np.ndarray
    example: Example
    fakeness: np.ndarray


class Chooser:
    """Choose the samples of one test slice under one condition.

    Args:
        first: How many to show as they come.
        cases: How many of the best and of the worst.
        lower_is_better: What "best" means.
    """

    def __init__(self, first: int, cases: int = 0, *, lower_is_better: bool = False) -> None:
        self._wanted = first
        self._cases = cases
        self._sign = -1.0 if lower_is_better else 1.0
        self._first: list[Shown] = []
        self._best: list[tuple[float, int, Shown]] = []
        self._worst: list[tuple[float, int, Shown]] = []
        self._seen = 0

    def offer(self, shown: Shown, value: float) -> None:
        """Consider a sample with the value of the primary metric."""
        self._seen += 1
        if len(self._first) < self._wanted:
            self._first.append(shown)
        if not self._cases or not math.isfinite(value):
            return
        good = self._sign * value
        for heap, key in ((self._best, good), (self._worst, -good)):
            entry = (key, -self._seen, shown)  # the number decides ties, so that arrays are never compared
            if len(heap) < self._cases:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)

    def arrays(self, test: str, condition: str) -> dict[str, np.ndarray]:
        """Return the chosen samples as arrays of one length, ready to be drawn; nothing if there is none."""
        chosen = [("first", shown) for shown in self._first]
        if self._seen > 2 * self._cases:  # else best and worst would show the same samples
            for case, heap in (("best", self._best), ("worst", self._worst)):
                chosen += [(case, shown) for _, _, shown in sorted(heap, reverse=True)]
        if not chosen:
            return {}
        shown = [entry for _, entry in chosen]
        examples = [entry.example for entry in shown]
        return {
            "sample_ids": np.array([entry.sample for entry in shown]),
            "tests": np.array([test] * len(shown)),
            "conditions": np.array([condition] * len(shown)),
            "cases": np.array([case for case, _ in chosen]),
            "real": np.stack([entry.photo for entry in shown]),
            "fake": np.stack([example.image for example in examples]),
            "truth": np.stack([_byte(example.truth) for example in examples]),
            "prediction": np.stack([_byte(entry.fakeness) for entry in shown]),
            "region": np.stack([np.zeros(e.truth.shape, bool) if e.region is None else e.region for e in examples]),
        }


def joined(galleries: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return several galleries as one; empty ones do not count."""
    full = [gallery for gallery in galleries if gallery]
    return {name: np.concatenate([gallery[name] for gallery in full]) for name in full[0]} if full else {}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as .npz, atomically and without pickle.

    Not compressed: photos do not become much smaller, and it would take as long as scoring hundreds of images.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    atomic_write(path, write)


def _byte(fakeness: np.ndarray) -> np.ndarray:
    return np.round(np.clip(fakeness, 0, 1) * 255).astype(np.uint8)
