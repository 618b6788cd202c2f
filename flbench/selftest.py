"""Hold the metrics against answers that were worked out by hand, to see that this machine computes what it should.

All maps are 8 × 8 pixels. `left` and `right` are white on their half, 32 pixels; `corner` on the upper half of `left`,
16 pixels; `gray` is one half everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from flbench.scoring.metrics import auroc, map_metrics
from flbench.scoring.pixels import pixel_metrics

TOLERANCE = 1e-9
"""How far an answer may be from the one by hand; values by hand have twelve digits or are exact."""

_SIDE = 8
_UNDEFINED = math.nan


class Known(NamedTuple):
    """A pair of maps and what every metric must say of it.

    Attributes:
        truth: Name of the ground truth, one of `MAPS`.
        prediction: Name of the map.
        answers: Metric to value; NaN for undefined.
    """

    truth: str
    prediction: str
    answers: Mapping[str, float]


def _painted(rows: int, columns: slice, level: float = 1.0) -> np.ndarray:
    """Return a black map with a box of one level, float32 (1, 8, 8)."""
    made = np.zeros((1, _SIDE, _SIDE), np.float32)
    made[:, :rows, columns] = level
    return made


_WHOLE, _LEFT, _RIGHT = slice(0, 8), slice(0, 4), slice(4, 8)
MAPS: Mapping[str, np.ndarray] = {
    "black": _painted(0, _WHOLE),
    "white": _painted(8, _WHOLE),
    "gray": _painted(8, _WHOLE, 0.5),
    "left": _painted(8, _LEFT),
    "right": _painted(8, _RIGHT),
    "corner": _painted(4, _LEFT),
}

_HALF_WRONG = 6.020599913280  # 10 log10(1 / 0.25)
_ROOT_HALF = 0.707106781187

MAP_ANSWERS: tuple[Known, ...] = (
    # Nothing to find, nothing said: right, and without a fake pixel there is no F1.
    Known("black", "black", {"coss": 1, "psnr": 100, "ssim": 1, "mae": 0, "f1": _UNDEFINED, "iou": _UNDEFINED}),
    # Nothing to find, all called fake. Both maps are flat: SSIM is C1 / (1 + C1) with C1 = 0.0001.
    Known("black", "white", {"coss": 0, "psnr": 0, "ssim": 0.0001 / 1.0001, "mae": 1, "f1": _UNDEFINED}),
    # All fake, nothing said.
    Known("white", "black", {"coss": 0, "psnr": 0, "ssim": 0.0001 / 1.0001, "mae": 1, "f1": 0, "iou": 0}),
    # All fake and found; without a real pixel there is no AUROC.
    Known("white", "white", {"coss": 1, "psnr": 100, "ssim": 1, "mae": 0, "f1": 1, "pixel_auroc": _UNDEFINED}),
    # Perfect.
    Known("left", "left", {"coss": 1, "psnr": 100, "ssim": 1, "mae": 0, "f1": 1, "iou": 1, "pixel_auroc": 1}),
    # Inverted.
    Known("left", "right", {"coss": 0, "psnr": 0, "mae": 1, "f1": 0, "iou": 0, "pixel_auroc": 0}),
    # Undecided everywhere: cosine 16 / (√32 · 4); at one half all 64 pixels are called fake, 32 of them rightly.
    Known(
        "left",
        "gray",
        {"coss": _ROOT_HALF, "psnr": _HALF_WRONG, "mae": 0.5, "f1": 2 / 3, "iou": 0.5, "pixel_auroc": 0.5},
    ),
    # Half of it found: cosine 16 / (√32 · √16); half of the fake pixels rank first, the others tie with the real ones.
    Known(
        "left",
        "corner",
        {"coss": _ROOT_HALF, "psnr": _HALF_WRONG, "mae": 0.25, "f1": 2 / 3, "iou": 0.5, "pixel_auroc": 0.75},
    ),
)
"""Pairs of maps, and their metrics by hand."""

SCORE_ANSWERS: tuple[tuple[tuple[float, ...], tuple[bool, ...], float], ...] = (
    # Of the four pairs of a fake and a real image three are in order.
    ((0.1, 0.4, 0.35, 0.8), (False, False, True, True), 0.75),
    ((0.9, 0.8, 0.2, 0.1), (False, False, True, True), 0.0),
    ((0.5, 0.5, 0.5, 0.5), (False, True, False, True), 0.5),
    ((0.5, 0.6), (True, True), _UNDEFINED),
)
"""Scores of images, which of them are fakes, and the AUROC by hand."""


def wrong_answers(
    maps: Callable[..., Mapping[str, np.ndarray]] = map_metrics,
    pixels: Callable[..., Mapping[str, np.ndarray]] = pixel_metrics,
    images: Callable[..., float] = auroc,
) -> tuple[list[str], int]:
    """Compare every metric with the answer by hand.

    Args:
        maps: Computes COSS, PSNR, SSIM and MAE.
        pixels: Computes F1, IoU and pixel AUROC.
        images: Computes the AUROC of image scores.

    Returns:
        A sentence for each wrong answer, and the number of answers.
    """
    wrong: list[str] = []
    count = 0
    for truth, prediction, answers in MAP_ANSWERS:
        found = {**maps(MAPS[truth], MAPS[prediction]), **pixels(MAPS[truth], MAPS[prediction])}
        for metric, expected in answers.items():
            count += 1
            got = float(found[metric][0])
            if not _equal(got, expected):
                wrong.append(f"{metric} of {prediction} for {truth} is {got:.9g}, by hand {expected:.9g}")
    for scores, fakes, expected in SCORE_ANSWERS:
        count += 1
        got = images(np.array(scores), np.array(fakes))
        if not _equal(got, expected):
            wrong.append(f"auroc of {scores} is {got:.9g}, by hand {expected:.9g}")
    return wrong, count


def _equal(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or abs(one - other) <= TOLERANCE
