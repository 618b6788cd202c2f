"""Statistics over images: means with bootstrap intervals, paired differences, ranks with ties.

Tables hold one row per image, as `images.parquet` does; the columns used here are `test`, `condition`, `sample_id`,
`identity`, `label` (real | fake), `status`, `score`, `coss`, `psnr`, `ssim`, `mae` and `false_alarm`.

Intervals are 95 % percentile bootstraps over *identities*: photos of one person are not independent, so people are
drawn with replacement, each with all of their images, and a mean is the ratio of two sums over the people drawn.
Numbers do not depend on the order of rows, nor, to the bit, on the run: rows are sorted first, and no sum goes through
a threaded library.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flbench.errors import UsageError, suggest
from flbench.record import Value
from flbench.scoring.metrics import PSNR_CAP, WORST

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RESAMPLES = 2000
LEVEL = (2.5, 97.5)
"""Percentiles of the resamples between which the 95 % interval lies."""

ALWAYS = ("tpr", "tnr", "false_alarm")
"""Told beside every protocol's metrics."""

KNOWN = (*WORST, "acc", "auroc", *ALWAYS)

_MATCH = ["test", "condition", "sample_id"]

# Measured: steps of 1 MiB of float64 stay in the cache; they also bound the memory for any number of images.
_BLOCK = 1 << 17


class Difference(NamedTuple):
    """How much one method is above another on the same images.

    Attributes:
        value: Mean of `a` minus mean of `b`; None if no image has a value in both.
        low: Lower end of the 95 % interval; None if fewer than two identities count.
        high: Upper end.
        n: Images that count.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def separable(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


def summarise(
    scores: pd.DataFrame, metrics: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Value]:
    """Reduce the images of one test slice under one condition to one value per metric.

    Map metrics are means over fakes, `false_alarm` is a mean over real images; `acc`, `tpr` and `tnr` are shares of
    all, fake and real images that are right with the score at 0.5 or above called fake; `auroc` is pooled.

    A failed image (status other than "ok", or, where scores count, without a score) costs the worst there is: COSS 0,
    PSNR 0 dB, SSIM -1, MAE 1, false alarm 1, a wrong class, the lowest rank for a fake and the highest for a real
    image. SSIM's worst is -1 and not 0, because a bad map may lie below 0 and failing must never pay. An undefined
    value is left out. Both are counted.

    An interval is null where fewer than two identities count (for `auroc`: on either side); resamples in which a
    metric has no image at all are left out of its interval.

    Args:
        scores: One row per image; a sample is there once. An image without an identity counts as a person of its own.
        metrics: Names from `flbench.protocol.METRICS`.
        resamples: Number of bootstrap resamples, the same ones for every metric.
        seed: Seed of the resamples.

    Returns:
        The metrics asked for, then `tpr`, `tnr` and `false_alarm`.

    Raises:
        UsageError: An unknown metric.
        ValueError: Rows of several slices or conditions, or a sample twice.
    """
    _known(metrics)
    if len(scores[["test", "condition"]].drop_duplicates()) > 1:
        raise ValueError("one slice and one condition at a time")
    table = _sorted(scores)
    people, codes = _people(table)
    columns = {name: _column(table, name) for name in dict.fromkeys((*metrics, *ALWAYS))}
    statistics = [_statistic(column, codes, people) for column in columns.values()]
    drawn = _bootstrap(statistics, people, resamples, seed)
    return {
        name: _value(name, column, statistic.plain(people), _interval(replicates, statistic))
        for (name, column), statistic, replicates in zip(columns.items(), statistics, drawn, strict=True)
    }


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare two methods on the images that both have, by one bootstrap over their identities.

    Both see the same resamples, so what is hard for both cancels. With several test slices or conditions the
    difference is the plain mean of the slices' differences. Failed images count as in `summarise`; an image whose
    value is undefined in one table is left out of both.

    Args:
        a: One row per image; matched by test, condition and sample_id.
        b: The same of the other method.
        metric: A name that `summarise` knows.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        UsageError: An unknown metric.
        ValueError: A sample twice within a slice and condition, or with another label or identity.
    """
    _known([metric])
    first, second = _matched(a, b)
    people, codes = _people(first)
    statistics: list[_Statistic] = []
    differences = []
    n = 0
    for rows in first.groupby(["test", "condition"], sort=True).indices.values():
        ours, theirs = _column(first.iloc[rows], metric), _column(second.iloc[rows], metric)
        both = ours.counts & theirs.counts
        pair = [_statistic(replace(column, applies=both), codes[rows], people) for column in (ours, theirs)]
        difference = pair[0].plain(people) - pair[1].plain(people)
        if not math.isnan(difference):
            statistics += pair
            differences.append(difference)
            n += int(both.sum())
    if not differences:
        return Difference(None, None, None, 0)
    drawn = _bootstrap(statistics, people, resamples, seed)
    fewest = min(statistics, key=lambda statistic: statistic.people)
    low, high = _interval(np.mean(drawn[0::2] - drawn[1::2], axis=0), fewest)
    return Difference(float(np.mean(differences)), low, high, n)


def tie_groups(tables: Sequence[pd.DataFrame], metric: str, *, resamples: int = RESAMPLES, seed: int = 0) -> list[str]:
    """Return ranks in which methods that the data cannot tell apart share one.

    The first method leads a group. Each following one joins it as long as the interval of its paired difference to
    the leader holds zero (or there is no interval, which tells nothing apart); the first that does not leads the next.

    Args:
        tables: Score tables of the methods, the best method first, as `paired_difference` takes them.
        metric: The metric that ranks.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        One rank per table: "1", or "2–3" for a group of two in second and third place.
    """
    groups: list[list[int]] = []
    for place, table in enumerate(tables):
        if groups:
            leader = tables[groups[-1][0]]
            if not paired_difference(leader, table, metric, resamples=resamples, seed=seed).separable:
                groups[-1].append(place)
                continue
        groups.append([place])
    return [_span(group) for group in groups for _ in group]


@dataclass(frozen=True)
class _Column:
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


def _column(table: pd.DataFrame, metric: str) -> _Column:
    """Read one metric from a table and put the worst value where an image failed."""
    fake = (table["label"] == "fake").to_numpy(dtype=bool)
    failed = (table["status"] != "ok").to_numpy(dtype=bool)
    if metric in WORST:
        return _Column(np.where(failed, WORST[metric], _floats(table[metric])), fake, failed, fake)
    if metric == "false_alarm":
        return _Column(np.where(failed, 1.0, _floats(table[metric])), ~fake, failed, fake)
    score = _floats(table["score"])
    failed = failed | ~np.isfinite(score)
    if metric == "auroc":
        return _Column(
            np.where(failed, np.where(fake, -np.inf, np.inf), score), np.ones_like(fake), failed, fake, pooled=True
        )
    right = ~failed & ((score >= 0.5) == fake)
    applies = {"acc": np.ones_like(fake), "tpr": fake, "tnr": ~fake}[metric]
    return _Column(right.astype(np.float64), applies, failed, fake)


class _Statistic(ABC):
    """A number that can be computed for any weighting of identities.

    Attributes:
        people: Identities that count; with fewer than two there is no interval.
        width: Values per resample that `of` holds in memory.
    """

    people: int
    width: int

    @abstractmethod
    def of(self, drawn: Float) -> Float:
        """Return float64 (r,), NaN where nothing was drawn, for float64 (r, identities) how often each was drawn."""

    def plain(self, people: int) -> float:
        """Return the number for the sample itself: every identity once."""
        return float(self.of(np.ones((1, people)))[0])


class _Mean(_Statistic):
    """Mean over images: a ratio of two sums over identities."""

    def __init__(self, column: _Column, codes: Ints, people: int) -> None:
        counts = column.counts
        self.sums = np.bincount(codes[counts], weights=column.values[counts], minlength=people)
        self.counts = np.bincount(codes[counts], minlength=people).astype(np.float64)
        self.people = int(np.count_nonzero(self.counts))
        self.width = people

    def of(self, drawn: Float) -> Float:
        # einsum and not @: a threaded BLAS may add in another order from run to run.
        total = np.einsum("ri,i->r", drawn, self.sums)
        count = np.einsum("ri,i->r", drawn, self.counts)
        return np.divide(total, count, out=np.full(len(drawn), np.nan), where=count > 0)


class _Auroc(_Statistic):
    """Area under the ROC curve with every image weighted by how often its identity was drawn (Mann-Whitney).

    Real images are sorted once; for each fake the weight of the real ones below it is a difference of running sums.
    All weights and sums are whole numbers below 2**53, hence exact.
    """

    def __init__(self, column: _Column, codes: Ints, people: int) -> None:
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

    def of(self, drawn: Float) -> Float:
        weights = drawn[:, self.fake_codes]
        running = np.zeros((len(drawn), len(self.real_codes) + 1))
        np.cumsum(drawn[:, self.real_codes], axis=1, out=running[:, 1:])
        won = np.sum(weights * (running[:, self.beaten] + running[:, self.reached]), axis=1)
        pairs = 2 * weights.sum(axis=1) * running[:, -1]
        return np.divide(won, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)


def _statistic(column: _Column, codes: Ints, people: int) -> _Statistic:
    return _Auroc(column, codes, people) if column.pooled else _Mean(column, codes, people)


def _bootstrap(statistics: Sequence[_Statistic], people: int, resamples: int, seed: int) -> Float:
    """Return float64 (statistics, resamples): every statistic under the same resamples."""
    replicates = np.empty((len(statistics), resamples))
    step = max(1, _BLOCK // max(1, *(statistic.width for statistic in statistics)))
    start = 0
    for drawn in _draws(people, resamples, seed, step):
        for row, statistic in zip(replicates, statistics, strict=True):
            row[start : start + len(drawn)] = statistic.of(drawn)
        start += len(drawn)
    return replicates


def _draws(people: int, resamples: int, seed: int, step: int) -> Iterator[Float]:
    """Yield float64 (at most `step`, people), how often each identity is drawn; the same numbers for every `step`."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples if people else 0, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, people, size=(rows, people))
        drawn += people * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * people)
        yield counts.reshape(rows, people).astype(np.float64)


def _interval(replicates: Float, statistic: _Statistic) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval, or two Nones if it would rest on one identity."""
    replicates = replicates[~np.isnan(replicates)]
    if statistic.people < 2 or not len(replicates):
        return None, None
    low, high = np.percentile(replicates, LEVEL)
    return float(low), float(high)


def _value(name: str, column: _Column, value: float, interval: tuple[float | None, float | None]) -> Value:
    """Put a number, its interval and what was counted together."""
    undefined = math.isnan(value)
    n = 0 if undefined else int(column.counts.sum())
    return Value(
        value=None if undefined else value,
        low=interval[0],
        high=interval[1],
        n=n,
        undefined=int(column.applies.sum()) - n,
        failed=int((column.failed & column.applies).sum()),
        capped=int((column.applies & (column.values >= PSNR_CAP)).sum()) if name == "psnr" else 0,
    )


def _known(metrics: Sequence[str]) -> None:
    for name in metrics:
        if name not in KNOWN:
            raise UsageError(f"unknown metric {name!r}", hint=suggest(name, list(KNOWN)))


def _sorted(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in an order of their own, whatever order they came in."""
    table = scores.sort_values(_MATCH, kind="stable", ignore_index=True)
    twice = table[table.duplicated(_MATCH)]
    if len(twice):
        raise ValueError(f"sample {twice['sample_id'].iloc[0]!r} is there twice")
    return table


def _people(table: pd.DataFrame) -> tuple[int, Ints]:
    """Return the number of identities and the number of each row's identity; an image without one is its own."""
    identity = table["identity"].fillna("").astype(str)
    # A NUL cannot occur in a manifest, so that no sample is taken for a person of that name.
    names = identity.where(identity != "", "\0" + table["sample_id"].astype(str))
    codes, unique = pd.factorize(names, sort=True)
    return len(unique), codes.astype(np.int64)


def _matched(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of both tables that have a partner in the other one, in one order."""
    first, second = (_sorted(table).set_index(_MATCH, drop=False) for table in (a, b))
    first = first[first.index.isin(second.index)].reset_index(drop=True)
    second = second[second.index.isin(pd.MultiIndex.from_frame(first[_MATCH]))].reset_index(drop=True)
    if not (first[["label", "identity"]].astype(str) == second[["label", "identity"]].astype(str)).all(axis=None):
        raise ValueError("a sample has another label or identity in the other table")
    return first, second


def _floats(column: pd.Series) -> Float:
    """Return float64 values with NaN for None."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _span(group: Sequence[int]) -> str:
    first, last = group[0] + 1, group[-1] + 1
    return str(first) if first == last else f"{first}–{last}"
