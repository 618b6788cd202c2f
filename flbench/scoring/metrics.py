"""Metrics of one fakeness map, computed for many images at once.

Maps are float32 (N, H, W) in [0, 1]; regions are bool (N, H, W) or None for the whole image. Everything is summed in
float64: in float32 the variances of SSIM cancel on flat maps, and most fakeness maps are flat. Each image is reduced
by itself, so a value never depends on what else is in the batch. NaN means *undefined* and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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

# Measured: beyond 64 Ki pixels (512 KiB of float64) the temporaries leave the cache and SSIM takes three times as long.
_BLOCK_PIXELS = 1 << 16

_GRAY_LEVEL = 1.0 / 255.0

# One value in so many tells where the highest ones begin; measured, a third of the time of a partition.
_SAMPLED = 32


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
    return _reduce(tuple(name for name in _METRICS if asked is None or name in asked), truth, prediction, region)


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
    edge = ((0, 0), (BORDER, BORDER), (BORDER, BORDER))
    for block in _blocks(truth.shape):
        t = np.pad(truth[block].astype(np.float64), edge, mode="symmetric")
        p = np.pad(prediction[block].astype(np.float64), edge, mode="symmetric")
        result[block] = ssim_inside(t, p)
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
    return np.array([_highest(one, keep).mean(dtype=np.float64) for one in prediction.reshape(-1, pixels)])


def _highest(values: Array, keep: int) -> Array:
    """Return the highest of values (P,), (keep,), in ascending order: sums of floats depend on it."""
    sample = np.sort(values[::_SAMPLED])
    guess = sample[max(0, len(sample) - keep // _SAMPLED - keep // (4 * _SAMPLED) - 8)]
    some = values[values >= guess]
    return np.sort(some if len(some) >= keep else values)[-keep:]


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
    """Return some metrics of a batch, block by block."""
    _check(truth, prediction, region)
    values = {name: np.empty(len(truth)) for name in names}
    for block in _blocks(truth.shape):
        t = truth[block].astype(np.float64)
        p = prediction[block].astype(np.float64)
        part = None if region is None else region[block]
        for name in names:
            values[name][block] = _METRICS[name](t, p, part)
    return values


def _coss(t: Float, p: Float, region: Mask | None) -> Float:
    if region is not None:
        t = t * region
        p = p * region
    dot = np.sum(t * p, axis=(1, 2))
    norms = np.sqrt(np.sum(t * t, axis=(1, 2))), np.sqrt(np.sum(p * p, axis=(1, 2)))
    length = norms[0] * norms[1]
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    values = np.divide(dot, length, out=both_zero.astype(np.float64), where=length > 0)
    values = np.clip(values, -1.0, 1.0)
    return values if region is None else np.where(region.any(axis=(1, 2)), values, np.nan)


def _psnr(t: Float, p: Float, region: Mask | None) -> Float:
    error = _mean(np.square(t - p), region)
    floor = 10.0 ** (-PSNR_CAP / 10.0)
    return np.where(error <= floor, PSNR_CAP, 10.0 * np.log10(1.0 / np.maximum(error, floor)))


def _mae(t: Float, p: Float, region: Mask | None) -> Float:
    return _mean(np.abs(t - p), region)


def _ssim(t: Float, p: Float, region: Mask | None) -> Float:
    if min(t.shape[1:]) < WINDOW:
        return np.full(len(t), np.nan)
    inside = slice(BORDER, -BORDER)
    return _mean(ssim_inside(t, p), None if region is None else region[:, inside, inside])


_METRICS = {"coss": _coss, "psnr": _psnr, "ssim": _ssim, "mae": _mae}


def _mean(values: Float, region: Mask | None) -> Float:
    """Return the mean of each (H, W) map over its region; NaN where the region is empty."""
    if region is None:
        return values.mean(axis=(1, 2))
    count = region.sum(axis=(1, 2))
    total = np.sum(values * region, axis=(1, 2))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


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
