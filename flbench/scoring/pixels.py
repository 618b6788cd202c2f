"""Pixels as a yes-or-no question: F1, IoU, AUROC and AP of fakeness maps against a binarised ground truth.

All of it comes from one sort of an image's pixels: a `Ranking` counts, for every value that a map takes, how many
fake and how many real pixels reach it. Pixels of equal value are never told apart. NaN means *undefined* and nothing
else: F1, IoU and AP need a fake pixel, AUROC a fake and a real one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flbench.compiled import compiled

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
Float = NDArray[np.float64]
Ints = NDArray[np.int64]

THRESHOLD = 0.5
"""Fakeness at and above which a pixel is called fake."""

BINARISED = 0.1
"""Ground truth at and above which a pixel is fake."""

CODE_BITS = 2
"""Bits that tell how many levels the ground truth reaches; a float32 in [0, 1] leaves as many of a key's 32."""

# A key is sorted by three digits.
_DIGITS = 3
_DIGIT_BITS = 11
_DIGIT = (1 << _DIGIT_BITS) - 1

# What files of 8 bits call one.
_GRAYS = 255

PIXEL_METRICS = ("f1", "iou", "pixel_auroc", "pixel_ap")
"""What `pixel_metrics` knows."""


class Pixels(NamedTuple):
    """The pixels of one image that count.

    Attributes:
        values: float32 (P,) in [0, 1], what the map says.
        reached: uint8 (P,), how many of the binarisation levels the ground truth reaches.
    """

    values: NDArray[np.float32]
    reached: NDArray[np.uint8]


def pixels_of(truth: Array, prediction: Array, region: Mask | None, binarised: Sequence[float]) -> Pixels:
    """Return the pixels of one image, or those of its region.

    Args:
        truth: float (H, W) in [0, 1].
        prediction: float (H, W) in [0, 1], taken as float32.
        region: bool (H, W), pixels that count; None: all.
        binarised: Up to three levels in ascending order; the ground truth reaches one where it is not below it.

    Raises:
        ValueError: Shapes differ, a map has NaN, the prediction leaves [0, 1], or the levels are too many or not in
            order.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"expected two maps of one shape, got {truth.shape} and {prediction.shape}")
    if region is not None and (region.shape != truth.shape or region.dtype != np.bool_):
        raise ValueError(f"expected a bool region {truth.shape}, got {region.dtype} {region.shape}")
    if len(binarised) >= 1 << CODE_BITS or list(binarised) != sorted(set(binarised)):
        raise ValueError(f"expected at most three ascending levels, got {tuple(binarised)}")
    if not np.isfinite(truth).all():
        raise ValueError("the truth has NaN or infinity")
    if prediction.size and not (prediction.min() >= 0 and prediction.max() <= 1):  # NaN fails both
        raise ValueError("the prediction has NaN or leaves [0, 1]")
    t, p = (truth.ravel(), prediction.ravel()) if region is None else (truth[region], prediction[region])
    reached = np.zeros(len(t), np.uint8)
    for level in binarised:
        reached += (t >= level).view(np.uint8)
    return Pixels(np.asarray(p, np.float32) + np.float32(0), reached)  # -0 becomes 0: its bits would rank first


@dataclass(frozen=True)
class Ranking:
    """How many fake and real pixels a map calls fake, for every threshold that makes a difference.

    Column k stands for the k highest values called fake; column 0 for nothing, the last one for everything.

    Attributes:
        values: float32 (K,), the distinct values of the map, highest first.
        tp: int64 (K + 1,), fake pixels called fake.
        fp: int64 (K + 1,), real pixels called fake.
    """

    values: NDArray[np.float32]
    tp: Ints
    fp: Ints

    @property
    def positives(self) -> int:
        """Number of fake pixels."""
        return int(self.tp[-1])

    @property
    def negatives(self) -> int:
        """Number of real pixels."""
        return int(self.fp[-1])

    def column(self, threshold: float) -> int:
        """Return the column of a threshold: how many distinct values are not below it."""
        return int(np.count_nonzero(self.values >= threshold))

    def f1_at(self, column: int) -> float:
        """Return F1 = 2 TP / (2 TP + FP + FN) at a column, in [0, 1]; NaN without a fake pixel."""
        tp, fp = int(self.tp[column]), int(self.fp[column])
        return 2 * tp / (tp + fp + self.positives) if self.positives else math.nan

    def iou_at(self, column: int) -> float:
        """Return IoU = TP / (TP + FP + FN) at a column, in [0, 1]; NaN without a fake pixel."""
        return int(self.tp[column]) / (int(self.fp[column]) + self.positives) if self.positives else math.nan

    def inverse(self) -> Ranking:
        """Return the ranking of 1 - map: column k here and column -1 - k there split the pixels between them."""
        return Ranking(1 - self.values[::-1], self.positives - self.tp[::-1], self.negatives - self.fp[::-1])

    def best(self) -> int:
        """Return the column of the highest F1, which is that of the highest IoU too; the first of equals."""
        return _best(self.tp, self.fp) if self.positives else 0

    def auroc(self) -> float:
        """Return how often a fake pixel ranks above a real one, a tie counting one half; NaN without both."""
        if not self.positives or not self.negatives:
            return math.nan
        pairs = self.positives * self.negatives
        if pairs >= 1 << 62:  # pixels of many images together, of which twice the pairs are no int64
            steps = np.diff(self.fp).astype(np.float64) * (self.tp[1:] + self.tp[:-1])
            return min(1.0, float(steps.sum()) / (2 * pairs))
        return _twice_the_wins(self.tp, self.fp) / (2 * pairs)

    def average_precision(self) -> float:
        """Return the sum of precision × gain in recall, not interpolated, as scikit-learn; NaN without a fake pixel."""
        if not self.positives:
            return math.nan
        return _average_precision(self.tp, self.fp)


@compiled("int64(int64[::1], int64[::1])")
def _best(tp: Ints, fp: Ints) -> int:
    best, highest = 0, -1.0
    for k in range(len(tp)):
        f1 = 2.0 * tp[k] / (tp[k] + fp[k] + tp[-1])
        if f1 > highest:
            best, highest = k, f1
    return best


@compiled("int64(int64[::1], int64[::1])")
def _twice_the_wins(tp: Ints, fp: Ints) -> int:
    """Return how many pairs of a fake and a real pixel rank the fake one higher, twice; a tie counts once."""
    twice = 0
    for k in range(1, len(tp)):
        twice += (fp[k] - fp[k - 1]) * (tp[k] + tp[k - 1])
    return twice


@compiled("float64(int64[::1], int64[::1])")
def _average_precision(tp: Ints, fp: Ints) -> float:
    total = 0.0
    for k in range(1, len(tp)):
        if tp[k] > tp[k - 1]:
            total += float(tp[k] - tp[k - 1]) * (float(tp[k]) / float(tp[k] + fp[k]))
    return min(1.0, total / tp[-1])


def rank(pixels: Pixels, levels: int) -> list[Ranking]:
    """Return the ranking of an image for each binarisation level, from one sort.

    Args:
        pixels: Of one image.
        levels: How many binarisation levels `pixels` was made with.
    """
    bits, counts = _counted(_descending(*pixels), levels)
    return [Ranking(bits.view(np.float32), tp, counts[levels] - tp) for tp in counts[:levels]]


@compiled("uint32[::1](float32[::1], uint8[::1])")
def _descending(values: NDArray[np.float32], reached: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the pixels of an image as keys uint32 (P,): a value's bits, then what is reached; sorted, highest first.

    Floats in [0, 1] are ordered as their bits are, and whole numbers are sorted by their digits, without comparing. The
    pixels of a map that was stored in 8 bits need only be counted.
    """
    bits = values.view(np.uint32)
    keys, other = np.empty_like(bits), np.empty_like(bits)
    grays = np.arange(_GRAYS + 1).astype(np.float32) / np.float32(_GRAYS)
    found = np.zeros((_GRAYS + 1, 1 << CODE_BITS), np.int64)
    for i in range(len(values)):
        gray = int(values[i] * np.float32(_GRAYS) + np.float32(0.5))
        if grays[gray] != values[i]:
            break
        found[gray, reached[i]] += 1
    else:
        place, bits = 0, grays.view(np.uint32)
        for gray in range(_GRAYS, -1, -1):
            for code in range((1 << CODE_BITS) - 1, -1, -1):
                keys[place : place + found[gray, code]] = (bits[gray] << CODE_BITS) | code
                place += found[gray, code]
        return keys
    counts = np.zeros((_DIGITS, 1 << _DIGIT_BITS), np.int64)
    for i in range(len(keys)):
        keys[i] = (bits[i] << CODE_BITS) | reached[i]
        for digit in range(_DIGITS):
            counts[digit, (keys[i] >> (digit * _DIGIT_BITS)) & _DIGIT] += 1
    for digit in range(_DIGITS):
        place = 0
        for value in range(_DIGIT, -1, -1):
            place, counts[digit, value] = place + counts[digit, value], place
        for i in range(len(keys)):
            value = (keys[i] >> (digit * _DIGIT_BITS)) & _DIGIT
            other[counts[digit, value]] = keys[i]
            counts[digit, value] += 1
        keys, other = other, keys
    return keys


@compiled("Tuple((uint32[::1], int64[:, ::1]))(uint32[::1], int64)")
def _counted(keys: NDArray[np.uint32], levels: int) -> tuple[NDArray[np.uint32], Ints]:
    """Return the distinct values among sorted keys, as bits (K,), and how many pixels reach them (levels + 1, K + 1).

    In row `level` only pixels count whose ground truth is beyond that level; in the last row all do.
    """
    code, last = (1 << CODE_BITS) - 1, len(keys) - 1
    distinct = min(1, len(keys))
    for i in range(1, len(keys)):
        distinct += (keys[i] ^ keys[i - 1]) > code
    bits = np.empty(distinct, np.uint32)
    counts = np.zeros((levels + 1, distinct + 1), np.int64)
    k = 0
    for i in range(len(keys)):  # what the next pixel says of the same value takes the place of what this one says
        bits[k] = keys[i] >> CODE_BITS
        counts[levels, k + 1] = i + 1
        k += (keys[i] ^ keys[min(i + 1, last)]) > code
    for level in range(levels):
        k, found = 0, 0
        for i in range(len(keys)):
            found += (keys[i] & code) > level
            counts[level, k + 1] = found
            k += (keys[i] ^ keys[min(i + 1, last)]) > code
    return bits, counts


def pixel_metrics(
    truth: Array,
    prediction: Array,
    region: Mask | None = None,
    *,
    binarised: float = BINARISED,
    asked: Collection[str] = PIXEL_METRICS,
) -> dict[str, Float]:
    """Return the thresholded metrics of each image, those of the protocols' columns.

    F1 and IoU call a pixel fake at 0.5 and above; AUROC and AP go through all thresholds, as scikit-learn's
    `roc_auc_score` and `average_precision_score`, and need a sort, which is left out where neither is asked.

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1], taken as float32.
        region: bool (N, H, W), pixels that count; None: all.
        binarised: Ground truth at and above which a pixel is fake.
        asked: Names of metrics; others, of other modules too, are left out.

    Returns:
        `f1`, `iou`, `pixel_auroc` and `pixel_ap`, each float64 (N,) in [0, 1]; NaN where no pixel that counts is fake
        and, for AUROC, where none is real.

    Raises:
        ValueError: Shapes differ, a map has NaN, or the prediction leaves [0, 1].
    """
    if truth.ndim != 3 or truth.shape != prediction.shape:
        raise ValueError(f"expected two maps (N, H, W), got {truth.shape} and {prediction.shape}")
    if region is not None and region.shape != truth.shape:
        raise ValueError(f"expected a bool region {truth.shape}, got {region.dtype} {region.shape}")
    values = {name: np.empty(len(truth)) for name in PIXEL_METRICS if name in asked}
    for i in range(len(truth) if values else 0):
        part = None if region is None else region[i]
        pixels = pixels_of(truth[i], prediction[i], part, (binarised,))
        halves = _halves(pixels)
        fakes, pairs = halves.positives, halves.positives * halves.negatives
        twice, total = _areas(_descending(*pixels)) if {"pixel_auroc", "pixel_ap"} & set(values) else (0, 0.0)
        for name, of_image in values.items():
            match name:
                case "f1":
                    of_image[i] = halves.f1_at(1)
                case "iou":
                    of_image[i] = halves.iou_at(1)
                case "pixel_auroc":
                    of_image[i] = twice / (2 * pairs) if pairs else math.nan
                case "pixel_ap":
                    of_image[i] = min(1.0, total / fakes) if fakes else math.nan
    return values


@compiled("Tuple((int64, float64))(uint32[::1])")
def _areas(keys: NDArray[np.uint32]) -> tuple[int, float]:
    """Return twice the wins and the sum of precision × gain of sorted keys, as of a `Ranking`, which takes longer."""
    code, last = (1 << CODE_BITS) - 1, len(keys) - 1
    twice, total, tp, tp_above, above = 0, 0.0, 0, 0, 0
    for i in range(len(keys)):
        tp += (keys[i] & code) > 0
        if i == last or (keys[i] ^ keys[i + 1]) > code:
            twice += (i + 1 - tp - (above - tp_above)) * (tp + tp_above)
            total += float(tp - tp_above) * (float(tp) / float(i + 1))
            tp_above, above = tp, i + 1
    return twice, total


def _halves(pixels: Pixels) -> Ranking:
    """Return the ranking of an image that tells pixels at `THRESHOLD` and above from those below, and no more."""
    called, fake = pixels.values >= THRESHOLD, pixels.reached > 0
    tp = [0, int(np.count_nonzero(called & fake)), int(np.count_nonzero(fake))]
    every = [0, int(np.count_nonzero(called)), len(fake)]
    values = np.array([1, 0], np.float32)
    return Ranking(values, np.array(tp, np.int64), np.array(every, np.int64) - np.array(tp, np.int64))
