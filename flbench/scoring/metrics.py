"""Metrics of one fakeness map, computed for many images at once.

Maps are float32 (N, H, W) in [0, 1]; regions are bool (N, H, W) or None for the whole image. Everything is summed in
float64: in float32 the variances of SSIM cancel on flat maps, and most fakeness maps are flat. Each image is reduced
by itself, so a value never depends on what else is in the batch. NaN means *undefined* and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flbench.compiled import compiled
from flbench.scoring.structure import BORDER, WINDOW, ssim_inside

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
Float = NDArray[np.float64]

PSNR_CAP = 100.0
"""Decibels given to a map without error, and the most that any map gets."""

WORST: Mapping[str, float] = {
    "coss": 0.0,
    "psnr": 0.0,
    "ssim": -1.0,
    "mae": 1.0,
    "f1": 0.0,
    "iou": 0.0,
    "pixel_auroc": 0.0,
    "pixel_ap": 0.0,
}
"""The worst value that a map in [0, 1] can get: what a failed image costs."""

# Pixels that are turned into float64 together: 512 KiB stay in the cache.
_BLOCK_PIXELS = 1 << 16

_GRAY_LEVEL = 1.0 / 255.0

# Digits of the 30 bits that a float32 in [0, 1] fills.
_DIGITS = 3
_DIGIT_BITS = 10


def coss(truth: Array, prediction: Array, region: Mask | None = None) -> Float:
    """Return the cosine similarity of flattened maps.

    Both maps zero: 1, because nothing was to be found and nothing was said. One of them zero: 0.

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1].
        region: bool (N, H, W), pixels that count; None: all.

    Returns:
        float64 (N,) in [0, 1]; NaN where the region is empty.
    """
    return _reduce(("coss",), truth, prediction, region)["coss"]


def psnr(truth: Array, prediction: Array, region: Mask | None = None) -> Float:
    """Return the peak signal-to-noise ratio, 10 log10(1 / MSE), at most `PSNR_CAP`.

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1].
        region: bool (N, H, W), pixels that count; None: all.

    Returns:
        float64 (N,) in decibels, in [0, 100]; NaN where the region is empty.
    """
    return _reduce(("psnr",), truth, prediction, region)["psnr"]


def mae(truth: Array, prediction: Array, region: Mask | None = None) -> Float:
    """Return the mean absolute error.

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1].
        region: bool (N, H, W), pixels that count; None: all.

    Returns:
        float64 (N,) in [0, 1]; NaN where the region is empty.
    """
    return _reduce(("mae",), truth, prediction, region)["mae"]


def ssim(truth: Array, prediction: Array, region: Mask | None = None) -> Float:
    """Return the mean of the SSIM map, the three pixels along each edge left out.

    Inside a region it is the mean of the same map over the region's pixels. (Zeroing everything outside and comparing
    then would measure the background: .99 for a region of 1 %.)

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1].
        region: bool (N, H, W), pixels that count; None: all.

    Returns:
        float64 (N,) in [-1, 1]; NaN where no pixel of the region is three pixels away from the edge, and for images
        smaller than 7 pixels on a side.
    """
    return _reduce(("ssim",), truth, prediction, region)["ssim"]


def map_metrics(
    truth: Array, prediction: Array, region: Mask | None = None, *, asked: Collection[str] | None = None
) -> dict[str, Float]:
    """Return the map metrics of a batch.

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1].
        region: bool (N, H, W), pixels that count; None: all.
        asked: Names of metrics; others, of other modules too, are left out. None: all.

    Returns:
        `coss`, `psnr`, `ssim` and `mae`, each float64 (N,); NaN where undefined.

    Raises:
        ValueError: Shapes differ, or a map has NaN or infinity, which would pass for undefined.
    """
    return _reduce(tuple(name for name in _OF_MAPS if asked is None or name in asked), truth, prediction, region)


def ssim_map(truth: Array, prediction: Array) -> Float:
    """Return the SSIM of the window around each pixel (Wang et al. 2004).

    The settings are scikit-image's defaults: a uniform window of 7 × 7, K1 = 0.01, K2 = 0.03, unbiased covariance;
    the data range is 1. At the edge the image is mirrored, as `structural_similarity(..., full=True)` does it.

    Args:
        truth: float (N, H, W) in [0, 1].
        prediction: float (N, H, W) in [0, 1].

    Returns:
        float64 (N, H, W) in [-1, 1]; NaN for images smaller than 7 pixels on a side.
    """
    _check(truth, prediction, None)
    result = np.full(truth.shape, np.nan)
    if min(truth.shape[1:]) < WINDOW:
        return result
    for image in range(len(truth)):
        t, p = (np.pad(maps[image].astype(np.float64), BORDER, mode="symmetric") for maps in (truth, prediction))
        result[image] = ssim_inside(t, p)
    return result


def auroc(scores: Array, fake: Mask) -> float:
    """Return the area under the ROC curve: how often a fake scores higher than a real one; a tie counts one half.

    Args:
        scores: float (N,), higher for fake; infinite values are allowed.
        fake: bool (N,), the truth.

    Returns:
        The area in [0, 1]; NaN if there is no fake or no real one.

    Raises:
        ValueError: A score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no rank")
    reals = np.sort(scores[~fake])
    fakes = scores[fake]
    if not len(reals) or not len(fakes):
        return math.nan
    beaten = np.searchsorted(reals, fakes, side="left")
    reached = np.searchsorted(reals, fakes, side="right")
    return int((beaten + reached).sum()) / (2 * len(reals) * len(fakes))


def top_score(prediction: Array, share: float = 0.05) -> Float:
    """Return the score of an image by its map alone: the mean of the highest pixels.

    Args:
        prediction: float (N, H, W) in [0, 1].
        share: Share of the pixels, rounded up to at least one.

    Returns:
        float64 (N,) in [0, 1].
    """
    pixels = math.prod(prediction.shape[1:])
    keep = max(1, math.ceil(share * pixels))
    flat = np.ascontiguousarray(prediction.reshape(-1, pixels), np.float32) + np.float32(0)  # -0 would rank first
    return np.array([_mean_of_highest(one, keep) for one in flat])


@compiled("float64(float32[::1], int64)")
def _mean_of_highest(values: NDArray[np.float32], keep: int) -> float:
    """Return the mean of the `keep` highest of values (P,) in [0, 1], without sorting them.

    Such floats are ordered as their bits are. The lowest that is kept is found digit by digit, from the highest: how
    many values have each next digit tells which it has.
    """
    bits = values.view(np.uint32)
    found, left = np.uint32(0), keep
    for digit in range(_DIGITS - 1, -1, -1):
        shift = np.uint32(digit * _DIGIT_BITS)
        above = np.uint32(shift + _DIGIT_BITS)
        counts = np.zeros(1 << _DIGIT_BITS, np.int64)
        for i in range(len(bits)):
            if bits[i] >> above == found:
                counts[(bits[i] >> shift) & np.uint32((1 << _DIGIT_BITS) - 1)] += 1
        last = (1 << _DIGIT_BITS) - 1
        while counts[last] < left:
            left -= counts[last]
            last -= 1
        found = np.uint32(found << np.uint32(_DIGIT_BITS)) | np.uint32(last)
        lowest = np.uint32(found << shift)
        reaching, count = np.empty_like(bits), 0
        for i in range(len(bits)):  # what does not reach it is overwritten by the next
            reaching[count] = bits[i]
            count += bits[i] >= lowest
        bits = reaching[:count]
    kept = bits.view(np.float32)
    total, least = 0.0, 1.0
    for i in range(len(kept)):
        total += kept[i]
        least = min(least, kept[i])
    return (total - (len(kept) - keep) * least) / keep


def false_alarm(prediction: Array) -> Float:
    """Return the share of pixels called fake, at one half or above; meant for real images.

    Args:
        prediction: float (N, H, W) in [0, 1].

    Returns:
        float64 (N,) in [0, 1].
    """
    return (prediction >= 0.5).mean(axis=(1, 2), dtype=np.float64)


def collapse(predictions: Array, labels: Mask | None = None) -> str | None:
    """Say whether a fit collapsed: its maps hardly depend on the pixel, or hardly on the image.

    Two things are looked for. *One number*: inside the typical map of a fake, and from image to image, values differ
    by less than two gray levels of 255; an 8-bit picture of it shows a flat card, while an edit that a person can
    just see gives a ground truth of more than that in its pixels. The highest and lowest 0.1 % of a map's pixels do
    not count, so that a few hot ones hide nothing, but an edit of 1 % of a face does. *One map*: all maps together
    hold less than 1 % of their energy in what differs from the mean map; a locator that is silent on real images
    holds half of it there, and one that follows faces at all, more than 10 %.

    Reference rows are collapsed by design; the caller leaves them out. Give real images too where fakes are wholly
    synthetic: without them a map of ones may be right, and is not flagged.

    Args:
        predictions: float (N, H, W) in [0, 1].
        labels: bool (N,), True for a fake; None: all are fakes.

    Returns:
        One sentence without a full stop, or None.
    """
    fake = np.ones(len(predictions), dtype=bool) if labels is None else np.asarray(labels, dtype=bool)
    if not fake.any():
        return None
    low, high, level, energy = _spread(predictions)
    whole = level[fake].mean()
    if fake.all() and whole > 0.5:
        return None
    step = 2 * _GRAY_LEVEL
    inside = float(np.median((high - low)[fake]))
    between = float(np.ptp(np.percentile(level[fake], (5, 95))))
    if not fake.all():
        between = max(between, abs(float(np.median(level[fake]) - np.median(level[~fake]))))
    if inside < step and between < step:
        return f"the maps are one number, {whole:.3f}, at nearly every pixel of every image"
    mean = np.mean(predictions, axis=0, dtype=np.float64)
    common = len(predictions) * float(np.square(mean).sum())
    if len(predictions) > 1 and energy.sum() - common < 0.01 * energy.sum():
        return "the maps are nearly the same for every image, whatever it shows"
    return None


def _spread(predictions: Array) -> tuple[Float, Float, Float, Float]:
    """Return, per map, the lowest and highest value without 0.1 % of the pixels, the mean, and the energy."""
    count = len(predictions)
    pixels = math.prod(predictions.shape[1:])
    drop = pixels // 1000
    low, high, level, energy = (np.empty(count) for _ in range(4))
    for block in _blocks(predictions.shape):
        flat = predictions[block].reshape(-1, pixels).astype(np.float64)
        level[block] = flat.mean(axis=1)
        energy[block] = np.square(flat).sum(axis=1)
        flat.partition((drop, pixels - 1 - drop), axis=1)
        low[block] = flat[:, drop]
        high[block] = flat[:, pixels - 1 - drop]
    return low, high, level, energy


def _reduce(names: Sequence[str], truth: Array, prediction: Array, region: Mask | None) -> dict[str, Float]:
    """Return some metrics of a batch, image by image."""
    values = {name: np.empty(len(truth)) for name in names}
    if not values:
        return values
    _check(truth, prediction, region)
    everywhere = np.ones(truth.shape[1:], bool)
    for image in range(len(truth)):
        t, p = (np.ascontiguousarray(maps[image], np.float64) for maps in (truth, prediction))
        part = None if region is None else np.ascontiguousarray(region[image])
        if set(names) - {"ssim"}:
            sums = Sums(*_sums(t, p, everywhere if part is None else part).tolist())
        for name in names:
            values[name][image] = _ssim(t, p, part) if name == "ssim" else _OF_SUMS[name](sums)
    return values


class Sums(NamedTuple):
    """Sums over the pixels of an image that count."""

    truth_squared: float
    prediction_squared: float
    product: float
    error_squared: float
    error: float
    pixels: float


@compiled("float64[::1](float64[:, ::1], float64[:, ::1], boolean[:, ::1])")
def _sums(t: Float, p: Float, inside: Mask) -> Float:
    """Return the fields of `Sums`, float64 (6,), for two maps (H, W). Columns are added up first, each by itself."""
    height, width = t.shape
    columns = np.zeros((6, width))
    for y in range(height):
        for x in range(width):
            counts = 1.0 if inside[y, x] else 0.0
            one, two = counts * t[y, x], counts * p[y, x]
            error = abs(one - two)
            columns[0, x] += one * one
            columns[1, x] += two * two
            columns[2, x] += one * two
            columns[3, x] += error * error
            columns[4, x] += error
            columns[5, x] += counts
    return columns.sum(axis=1)


def _coss(sums: Sums) -> float:
    if not sums.pixels:
        return math.nan
    length = math.sqrt(sums.truth_squared) * math.sqrt(sums.prediction_squared)
    if not length:
        return float(sums.truth_squared == sums.prediction_squared)
    return min(1.0, sums.product / length)


def _psnr(sums: Sums) -> float:
    if not sums.pixels:
        return math.nan
    error = sums.error_squared / sums.pixels
    return PSNR_CAP if error <= 10.0 ** (-PSNR_CAP / 10.0) else 10.0 * math.log10(1.0 / error)


def _mae(sums: Sums) -> float:
    return sums.error / sums.pixels if sums.pixels else math.nan


_OF_SUMS: Mapping[str, Callable[[Sums], float]] = {"coss": _coss, "psnr": _psnr, "mae": _mae}
_OF_MAPS = ("coss", "psnr", "ssim", "mae")


def _ssim(t: Float, p: Float, region: Mask | None) -> float:
    if min(t.shape) < WINDOW:
        return math.nan
    counted = ssim_inside(t, p)
    if region is not None:
        counted = counted[region[BORDER:-BORDER, BORDER:-BORDER]]
    return float(counted.mean()) if counted.size else math.nan


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices over images that hold at most `_BLOCK_PIXELS` pixels, or one image."""
    step = max(1, _BLOCK_PIXELS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _check(truth: Array, prediction: Array, region: Mask | None) -> None:
    """Refuse what would give a number that means something else."""
    if truth.ndim != 3 or truth.shape != prediction.shape:
        raise ValueError(f"expected two maps (N, H, W), got {truth.shape} and {prediction.shape}")
    if 0 in truth.shape[1:]:
        raise ValueError(f"maps without pixels: {truth.shape}")
    if region is not None and (region.shape != truth.shape or region.dtype != np.bool_):
        raise ValueError(f"expected a bool region {truth.shape}, got {region.dtype} {region.shape}")
    for name, maps in (("truth", truth), ("prediction", prediction)):
        if not np.isfinite(maps).all():
            raise ValueError(f"the {name} has NaN or infinity")
