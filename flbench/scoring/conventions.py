"""F1, IoU, pixel AUROC and pixel AP under every convention in use, in one pass over a slice.

One locator on one data set has as many F1s as there are ways to average, to threshold and to treat real images, and
papers seldom say which is theirs. Here each way has a name, such as `f1/image/fakes/0.5/as-is/0.1`: metric, averaging,
images, threshold, map, ground truth; AUROC and AP have no threshold. `AXES` explains the parts, `CONVENTIONS` the
names. The protocols' columns `f1`, `iou`, `pixel_auroc` and `pixel_ap` are those in `COLUMNS`: one value per image,
averaged over fakes, at threshold 0.5, of the map as it is, ground truth binarised at 0.1.

Combinations that nobody would use are not there. A threshold chosen on valid is for a map whose polarity is known, so
it never goes with the inverse. Images without a fake pixel that count 1 when nothing is called there have neither an
oracle threshold (it would call nothing, always) nor an inverse nor an AUROC or AP (no threshold, so nothing is called).
Leaving such images out instead is `image/fakes`, whichever images are given.

What was read, as published: MVSS-Net (`evaluate.py`, `common/utils.py`), TruFor (`test_docker/metrics.py`),
ImageForensicsOSN (`test.py`) and IMDLBenCo (`evaluation/`). Not reproduced: `>` in place of `>=` at the threshold, maps
rounded to 8 bits first, a band left out along the edge of the ground truth (TruFor), averages over batches, and IoU
averaged over the fake and the real class (CAT-Net).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np

from flbench.protocol import METRICS
from flbench.record import Convention
from flbench.scoring.pixels import BINARISED, THRESHOLD, Array, Mask, Ranking, pixels_of, rank
from flbench.scoring.pool import Pool, level_edges

GROUND_TRUTHS = (0.05, BINARISED, 0.2)
"""Ground truth at and above which a pixel is fake, one convention each."""

AXES: Mapping[str, str] = {
    "metric": "f1: 2 TP / (2 TP + FP + FN) of pixels. iou: TP / (TP + FP + FN). pixel_auroc: how often a fake pixel"
    " ranks above a real one, a tie counting one half. pixel_ap: average precision, not interpolated.",
    "averaging": "image: one value per image, then the mean (MVSS-Net, TruFor, IMDLBenCo). pooled: one value from the"
    " pixels of all images taken together, so that images with large edits weigh more.",
    "images": "fakes: fakes only; one without a fake pixel has no value and is left out (TruFor). all-zero: fakes and"
    " real images, 0 where no pixel is fake, whatever the map says (IMDLBenCo). all-one: fakes and real images, where"
    " no pixel is fake 1 if nothing is called fake and else 0 (the F1 function of MVSS-Net, IoU in ImageForensicsOSN)."
    " all, when pooled: fakes and real images, whose pixels should not be called.",
    "threshold": "Pixels at and above it are called fake. 0.5: fixed. valid: the one with the best pooled F1 on the"
    " valid split. oracle: the best one for the test images themselves, for each image when averaged by image"
    " (TruFor's best F1), one for all when pooled. AUROC and AP have none.",
    "map": "as-is: the map. or-inverse: the better value of the map and of 1 - map, for each image when averaged by"
    " image (TruFor, IMDLBenCo's double mode), once when pooled.",
    "ground truth": "Fakeness at and above which a pixel of the gray-scale ground truth is fake: 0.05, 0.1 or 0.2.",
}
"""The parts of a convention's name in order, with what each choice means and who uses it."""

_CUTS = ("0.5/as-is", "valid/as-is", "oracle/as-is", "0.5/or-inverse", "oracle/or-inverse")
_AREAS = ("as-is", "or-inverse")
_HOW = {"f1": _CUTS, "iou": _CUTS, "pixel_auroc": _AREAS, "pixel_ap": _AREAS}
_FAKES, _ZERO, _ONE = "image/fakes", "image/all-zero", "image/all-one"
_POOLED, _POOLED_ALL = "pooled/fakes", "pooled/all"

_OVER_WORDS = {
    _FAKES: "mean over fakes",
    _ZERO: "mean over fakes and real images, 0 for one without a fake pixel",
    _ONE: "mean over fakes and real images, for one without a fake pixel 1 if nothing is called and else 0",
    _POOLED: "over the pixels of all fakes together",
    _POOLED_ALL: "over the pixels of all fakes and real images together",
}


class _Rule(NamedTuple):
    """A convention: which images, what of a ranking, and the index of its ground truth."""

    name: str
    metric: str
    over: str
    how: str
    truth: int

    @property
    def what(self) -> str:
        return f"{self.metric}/{self.how}"

    @property
    def pooled(self) -> bool:
        return self.over in (_POOLED, _POOLED_ALL)

    @property
    def words(self) -> str:
        per = "for all together" if self.pooled else "for each image"
        parts = [f"{METRICS[self.metric]}, {_OVER_WORDS[self.over]}"]
        if self.how in _CUTS:
            fixed, valid = self.how.startswith("0.5"), self.how.startswith("valid")
            chosen = "the threshold chosen on valid" if valid else f"the best threshold {per}"
            parts.append("at threshold 0.5" if fixed else f"at {chosen}")
        parts.append("map as it is" if "as-is" in self.how else f"the better of the map and its inverse {per}")
        return "; ".join([*parts, f"ground truth binarised at {GROUND_TRUTHS[self.truth]:g}"])


def _rules() -> Iterator[_Rule]:
    for metric, hows in _HOW.items():
        for over in _OVER_WORDS:
            for how in hows if over != _ONE else [how for how in hows if how in _CUTS[:2]]:
                for truth, level in enumerate(GROUND_TRUTHS):
                    yield _Rule(f"{metric}/{over}/{how}/{level:g}", metric, over, how, truth)


_RULES = tuple(_rules())

CONVENTIONS: Mapping[str, str] = {rule.name: rule.words for rule in _RULES}
"""Every convention by name, in words."""

COLUMNS: Mapping[str, str] = {metric: f"{metric}/{_FAKES}/{hows[0]}/{BINARISED:g}" for metric, hows in _HOW.items()}
"""The convention of each column that a protocol may ask for."""


class Tally:
    """Collects images of a slice and gives its numbers under every convention.

    Per-image values are exact. Pooled ones count pixels at 65,536 levels of fakeness, 0.1 % apart in distance to the
    nearer of 0 and 1: closer values may count as ties, thresholds are exact. Measured on sigmoids of noise, this moved
    AUROC by less than 2e-6 and AP by less than 5e-5, and both by less than 3e-5 where 1 % of the pixels were so far
    out (below 2⁻³³) that they tied. Memory does not grow with the number of images, and the numbers do not depend on
    their order, to the bit.

    Args:
        valid: Ground truth level to the threshold chosen on valid, as `choose_thresholds` gives them; others are
            lowered to the nearest level. Conventions for which there is none are left out.

    Raises:
        ValueError: A level that is not in `GROUND_TRUTHS`, or a threshold outside [0, 1].
    """

    def __init__(self, valid: Mapping[float, float] | None = None) -> None:
        valid = dict(valid or {})
        for level, threshold in valid.items():
            if level not in GROUND_TRUTHS or not 0 <= threshold <= 1:
                raise ValueError(f"no threshold {threshold} for ground truth binarised at {level}")
        self._thresholds = [
            {"0.5": THRESHOLD} | ({"valid": _rounded(valid[level])} if level in valid else {})
            for level in GROUND_TRUTHS
        ]
        self._rules = [r for r in _RULES if "valid" not in r.how or "valid" in self._thresholds[r.truth]]
        self._means = {rule: _Mean() for rule in self._rules if not rule.pooled}
        self._fakes, self._reals = Pool(), Pool()

    def add(self, truth: Array, prediction: Array, fake: bool, region: Mask | None = None) -> None:
        """Add one image.

        Args:
            truth: float (H, W) in [0, 1]; zeros for a real image.
            prediction: float (H, W) in [0, 1].
            fake: Whether the image is a fake.
            region: bool (H, W), pixels that count; None: all. An image without any has no value.

        Raises:
            ValueError: Shapes differ, a map has NaN, the prediction leaves [0, 1], or a real image has fake pixels.
        """
        pixels = pixels_of(truth, prediction, region, GROUND_TRUTHS)
        if not fake and pixels.reached.any():
            raise ValueError("a real image has fake pixels in its ground truth")
        (self._fakes if fake else self._reals).add(pixels)
        rankings = rank(pixels, len(GROUND_TRUTHS))
        measured = [_measure(*pair) for pair in zip(rankings, self._thresholds, strict=True)]
        for rule, mean in self._means.items():
            if not fake and rule.over == _FAKES:
                continue
            ranking = rankings[rule.truth]
            if rule.over == _FAKES or ranking.positives or not ranking.negatives:
                mean.add(measured[rule.truth][rule.what])
            elif rule.over == _ZERO:
                mean.add(0.0)
            else:
                threshold = self._thresholds[rule.truth][rule.how.split("/")[0]]
                mean.add(0.0 if ranking.column(threshold) else 1.0)

    def results(self) -> dict[str, Convention]:
        """Return the number of every convention.

        For a mean, `undefined` counts images without a value. For a pooled value `n` counts the images whose pixels
        went in; it is 0, and all are undefined, where these pixels give no value.
        """
        pools = {_POOLED: self._fakes, _POOLED_ALL: self._fakes.joined(self._reals)}
        pooled = {
            (over, truth): _measure(pool.ranking(truth), thresholds)
            for over, pool in pools.items()
            for truth, thresholds in enumerate(self._thresholds)
        }
        return {
            rule.name: _pooled(pooled[rule.over, rule.truth][rule.what], pools[rule.over])
            if rule.pooled
            else self._means[rule].convention()
            for rule in self._rules
        }


def choose_thresholds(
    truths: Iterable[Array], predictions: Iterable[Array], regions: Iterable[Mask | None] | None = None
) -> dict[float, float]:
    """Choose the threshold with the best pooled F1 on images of the valid split, for each ground truth level.

    Args:
        truths: Of each image, float (H, W) in [0, 1]; zeros for a real image.
        predictions: Of each image, float (H, W) in [0, 1].
        regions: Of each image, bool (H, W) or None; None: every pixel counts.

    Returns:
        Ground truth level to threshold in [0, 1], of equally good ones the highest that some pixel reaches. A level
        that no pixel of the ground truth reaches is missing.

    Raises:
        ValueError: Not as many predictions or regions as truths, shapes differ, a map has NaN, or a prediction leaves
            [0, 1].
    """
    pool = Pool()
    pairs = zip(truths, predictions, strict=True)
    parts = repeat(None) if regions is None else regions
    for (truth, prediction), region in zip(pairs, parts, strict=regions is not None):
        pool.add(pixels_of(truth, prediction, region, GROUND_TRUTHS))
    chosen = {}
    for index, level in enumerate(GROUND_TRUTHS):
        ranking = pool.ranking(index)
        if ranking.positives:
            chosen[level] = float(ranking.values[ranking.best() - 1])
    return chosen


def _rounded(threshold: float) -> float:
    edges = level_edges()
    return float(edges[np.searchsorted(edges, np.float32(threshold), side="right") - 1])


def _measure(ranking: Ranking, thresholds: Mapping[str, float]) -> dict[str, float]:
    """Return what a ranking gives, by metric and how; NaN where undefined."""
    inverse = ranking.inverse()
    columns = {f"{name}/": (ranking.column(t), -1 - ranking.column(t)) for name, t in thresholds.items()}
    columns["oracle/"] = ranking.best(), inverse.best()
    values: dict[str, float] = {}
    for name, (column, other) in columns.items():
        for metric, own, opposite in (
            ("f1", ranking.f1_at(column), inverse.f1_at(other)),
            ("iou", ranking.iou_at(column), inverse.iou_at(other)),
        ):
            values[f"{metric}/{name}as-is"] = own
            values[f"{metric}/{name}or-inverse"] = max(own, opposite)
    for metric, area, opposite in (
        ("pixel_auroc", ranking.auroc(), inverse.auroc()),
        ("pixel_ap", ranking.average_precision(), inverse.average_precision()),
    ):
        values[f"{metric}/as-is"] = area
        values[f"{metric}/or-inverse"] = max(area, opposite)
    return values


def _pooled(value: float, pool: Pool) -> Convention:
    if math.isnan(value):
        return Convention(value=None, n=0, undefined=pool.images + pool.empty)
    return Convention(value=value, n=pool.images, undefined=pool.empty)


@dataclass
class _Mean:
    """A mean of values in [0, 1], summed as integers of 2⁻⁶⁰: exactly, so in any order."""

    total: int = 0
    n: int = 0
    undefined: int = 0

    def add(self, value: float) -> None:
        if math.isnan(value):
            self.undefined += 1
        else:
            self.total += round(math.ldexp(value, 60))
            self.n += 1

    def convention(self) -> Convention:
        value = self.total / (self.n << 60) if self.n else None
        return Convention(value=value, n=self.n, undefined=self.undefined)
