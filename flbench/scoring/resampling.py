"""Resamples of people: what every interval over images rests on.

Tables hold one row per image, as `images.parquet` does; the columns used here are `test`, `condition`, `sample_id`,
`identity`, `label` (real | fake), `status`, `score`, the map metrics of `WORST` and `false_alarm`.

Intervals are 95 % percentile bootstraps over *identities*: photos of one person are not independent, so people are
drawn with replacement, each with all of their images, and a mean is the ratio of two sums over the people drawn.
Numbers do not depend on the order of rows, nor, to the bit, on the run: rows are sorted first, and no sum goes through
a threaded library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flbench.errors import UsageError, suggest
from flbench.scoring.metrics import WORST

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RESAMPLES = 2000
LEVEL = (2.5, 97.5)
"""Percentiles of the resamples between which the 95 % interval lies."""

ALWAYS = ("tpr", "tnr", "false_alarm")
"""Told beside every protocol's metrics."""

KNOWN = (*WORST, "acc", "auroc", *ALWAYS)

MATCH = ["test", "condition", "sample_id"]

# Measured: steps of 1 MiB of float64 stay in the cache; they also bound the memory for any number of images.
_BLOCK = 1 << 17

# Resamples of so many counts are kept, in 32 MiB: methods are compared on the same people over and over.
_KEPT = 1 << 24


@dataclass(frozen=True)
class Column:
    """One metric of the images of a table, failed ones at their price.

    Attributes:
        values: float64 (rows,); NaN where undefined.
        applies: bool (rows,), images that the metric is about.
        failed: bool (rows,).
        fake: bool (rows,).
        pooled: Whether the metric ranks all images (AUROC) instead of averaging one value per image.
    """

    values: Float
    applies: Bools
    failed: Bools
    fake: Bools
    pooled: bool = False

    @property
    def counts(self) -> Bools:
        """Images with a value."""
        return self.applies & ~np.isnan(self.values)


def column_of(table: pd.DataFrame, metric: str) -> Column:
    """Read one metric from a table and put the worst value where an image failed."""
    fake = (table["label"] == "fake").to_numpy(dtype=bool)
    failed = (table["status"] != "ok").to_numpy(dtype=bool)
    if metric in WORST:
        return Column(np.where(failed, WORST[metric], _floats(table[metric])), fake, failed, fake)
    if metric == "false_alarm":
        return Column(np.where(failed, 1.0, _floats(table[metric])), ~fake, failed, fake)
    score = _floats(table["score"])
    failed = failed | ~np.isfinite(score)
    if metric == "auroc":
        return Column(
            np.where(failed, np.where(fake, -np.inf, np.inf), score), np.ones_like(fake), failed, fake, pooled=True
        )
    right = ~failed & ((score >= 0.5) == fake)
    applies = {"acc": np.ones_like(fake), "tpr": fake, "tnr": ~fake}[metric]
    return Column(right.astype(np.float64), applies, failed, fake)


class Statistic(ABC):
    """A number that can be computed for any weighting of identities.

    Attributes:
        people: Identities that count; with fewer than two there is no interval.
        width: Values per resample that `of` holds in memory.
    """

    people: int
    width: int

    @abstractmethod
    def of(self, drawn: Float, counted: dict[bytes, Float]) -> Float:
        """Return the number for each resample.

        Args:
            drawn: float64 (r, identities), how often each was drawn.
            counted: What statistics of the same resamples share; they add to it.

        Returns:
            float64 (r,), NaN where nothing was drawn.
        """

    def plain(self, people: int) -> float:
        """Return the number for the sample itself: every identity once."""
        return float(self.of(np.ones((1, people)), {})[0])


class Mean(Statistic):
    """Mean over images: a ratio of two sums over identities."""

    def __init__(self, column: Column, codes: Ints, people: int) -> None:
        counts = column.counts
        self.sums = np.bincount(codes[counts], weights=column.values[counts], minlength=people)
        self.counts = np.bincount(codes[counts], minlength=people).astype(np.float64)
        self.people = int(np.count_nonzero(self.counts))
        self.width = people
        self._images = self.counts.tobytes()

    def of(self, drawn: Float, counted: dict[bytes, Float]) -> Float:
        """Return the ratio of the sums of those drawn; metrics of the same images share the lower one."""
        # einsum and not @: a threaded BLAS may add in another order from run to run.
        if self._images not in counted:
            counted[self._images] = np.einsum("ri,i->r", drawn, self.counts)
        count = counted[self._images]
        total = np.einsum("ri,i->r", drawn, self.sums)
        return np.divide(total, count, out=np.full(len(drawn), np.nan), where=count > 0)


class Auroc(Statistic):
    """Area under the ROC curve with every image weighted by how often its identity was drawn (Mann-Whitney).

    Real images are sorted once; for each fake the weight of the real ones below it is a difference of running sums.
    All weights and sums are whole numbers below 2**53, hence exact.
    """

    def __init__(self, column: Column, codes: Ints, people: int) -> None:
        fakes = column.counts & column.fake
        reals = column.counts & ~column.fake
        order = np.argsort(column.values[reals], kind="stable")
        below = column.values[reals][order]
        self.real_codes = codes[reals][order]
        self.fake_codes = codes[fakes]
        self.beaten = np.searchsorted(below, column.values[fakes], side="left")
        self.reached = np.searchsorted(below, column.values[fakes], side="right")
        self.people = min(len(np.unique(self.fake_codes)), len(np.unique(self.real_codes)))
        self.width = max(people, len(codes))

    def of(self, drawn: Float, counted: dict[bytes, Float]) -> Float:
        """Return the area with every image counted as often as its identity was drawn."""
        weights = drawn[:, self.fake_codes]
        running = np.zeros((len(drawn), len(self.real_codes) + 1))
        np.cumsum(drawn[:, self.real_codes], axis=1, out=running[:, 1:])
        won = np.sum(weights * (running[:, self.beaten] + running[:, self.reached]), axis=1)
        pairs = 2 * weights.sum(axis=1) * running[:, -1]
        return np.divide(won, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)


def statistic_of(column: Column, codes: Ints, people: int) -> Statistic:
    """Return the statistic of a metric's values.

    Args:
        column: The values.
        codes: Number of each row's identity.
        people: How many identities there are.
    """
    return Auroc(column, codes, people) if column.pooled else Mean(column, codes, people)


def bootstrap(statistics: Sequence[Statistic], people: int, resamples: int, seed: int) -> Float:
    """Return float64 (statistics, resamples): every statistic under the same resamples."""
    replicates = np.empty((len(statistics), resamples))
    step = max(1, _BLOCK // max(1, *(statistic.width for statistic in statistics)))
    start = 0
    for drawn in draws(people, resamples, seed, step):
        counted: dict[bytes, Float] = {}
        for row, statistic in zip(replicates, statistics, strict=True):
            row[start : start + len(drawn)] = statistic.of(drawn, counted)
        start += len(drawn)
    return replicates


def draws(people: int, resamples: int, seed: int, step: int) -> Iterator[Float]:
    """Yield float64 (at most `step`, people), how often each identity is drawn; the same numbers for every `step`."""
    if people * resamples <= _KEPT and people <= np.iinfo(np.uint16).max:
        kept = _kept(people, resamples, seed)
        yield from (kept[start : start + step].astype(np.float64) for start in range(0, len(kept), step))
    else:
        yield from (drawn.astype(np.float64) for drawn in _drawn(people, resamples, seed, step))


@lru_cache(maxsize=1)
def _kept(people: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """Return uint16 (resamples, people): all that `_drawn` yields."""
    counts = np.empty((resamples if people else 0, people), np.uint16)
    start = 0
    for drawn in _drawn(people, resamples, seed, max(1, _BLOCK // max(1, people))):
        counts[start : start + len(drawn)] = drawn
        start += len(drawn)
    return counts


def _drawn(people: int, resamples: int, seed: int, step: int) -> Iterator[Ints]:
    """Yield int64 (at most `step`, people), how often each identity is drawn."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples if people else 0, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, people, size=(rows, people))
        drawn += people * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * people).reshape(rows, people)


def interval_of(replicates: Float, statistic: Statistic) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval, or two Nones if it would rest on one identity."""
    replicates = replicates[~np.isnan(replicates)]
    if statistic.people < 2 or not len(replicates):
        return None, None
    low, high = np.percentile(replicates, LEVEL)
    return float(low), float(high)


def check_known(metrics: Sequence[str]) -> None:
    """Refuse names that are no metric.

    Raises:
        UsageError: The first of them, with a suggestion.
    """
    for name in metrics:
        if name not in KNOWN:
            raise UsageError(f"unknown metric {name!r}", hint=suggest(name, list(KNOWN)))


def sorted_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in an order of their own, whatever order they came in."""
    table = scores.sort_values(MATCH, kind="stable", ignore_index=True)
    twice = table[table.duplicated(MATCH)]
    if len(twice):
        raise ValueError(f"sample {twice['sample_id'].iloc[0]!r} is there twice")
    return table


def people_of(table: pd.DataFrame) -> tuple[int, Ints]:
    """Return the number of identities and the number of each row's identity; an image without one is its own."""
    identity = table["identity"].fillna("").astype(str)
    # A NUL cannot occur in a manifest, so that no sample is taken for a person of that name.
    names = identity.where(identity != "", "\0" + table["sample_id"].astype(str))
    codes, unique = pd.factorize(names, sort=True)
    return len(unique), codes.astype(np.int64)


def matched(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of both tables that have a partner in the other one, in one order."""
    first, second = sorted_rows(a), sorted_rows(b)
    if not first[MATCH].equals(second[MATCH]):
        keys = [pd.MultiIndex.from_frame(table[MATCH]) for table in (first, second)]
        first = first[keys[0].isin(keys[1])].reset_index(drop=True)
        second = second[keys[1].isin(keys[0])].reset_index(drop=True)
    if not (first[["label", "identity"]].astype(str) == second[["label", "identity"]].astype(str)).all(axis=None):
        raise ValueError("a sample has another label or identity in the other table")
    return first, second


def _floats(column: pd.Series) -> Float:
    """Return float64 values with NaN for None."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
