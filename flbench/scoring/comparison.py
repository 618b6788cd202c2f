"""Compare what was measured: methods on the same images, a condition with the clean images, quantities in general.

Both sides of a comparison see the same resamples of people, so what is hard for both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from flbench.record import Value
from flbench.scoring.resampling import (
    RESAMPLES,
    Ints,
    Statistic,
    bootstrap,
    check_known,
    column_of,
    interval_of,
    matched,
    people_of,
    sorted_rows,
    statistic_of,
)


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
    check_known([metric])
    first, second = matched(a, b)
    people, codes = people_of(first)
    statistics: list[Statistic] = []
    differences = []
    n = 0
    for rows in first.groupby(["test", "condition"], sort=True).indices.values():
        ours, theirs = column_of(first.iloc[rows], metric), column_of(second.iloc[rows], metric)
        both = ours.counts & theirs.counts
        pair = [statistic_of(replace(column, applies=both), codes[rows], people) for column in (ours, theirs)]
        difference = pair[0].plain(people) - pair[1].plain(people)
        if not math.isnan(difference):
            statistics += pair
            differences.append(difference)
            n += int(both.sum())
    if not differences:
        return Difference(None, None, None, 0)
    drawn = bootstrap(statistics, people, resamples, seed)
    fewest = min(statistics, key=lambda statistic: statistic.people)
    low, high = interval_of(np.mean(drawn[0::2] - drawn[1::2], axis=0), fewest)
    return Difference(float(np.mean(differences)), low, high, n)


def mean_over(scores: pd.DataFrame, metric: str, *, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Return the plain mean of a metric over the slices and conditions of a table: its difference to nothing.

    Slices without a value are left out. Failed and undefined images count as in `summarise`.

    Args:
        scores: One row per image.
        metric: A name that `summarise` knows.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        UsageError: An unknown metric.
        ValueError: A sample twice within a slice and condition.
    """
    check_known([metric])
    table = sorted_rows(scores)
    people, codes = people_of(table)
    statistics: list[Statistic] = []
    values = []
    n = 0
    for rows in table.groupby(["test", "condition"], sort=True).indices.values():
        column = column_of(table.iloc[rows], metric)
        statistic = statistic_of(column, codes[rows], people)
        value = statistic.plain(people)
        if not math.isnan(value):
            statistics.append(statistic)
            values.append(value)
            n += int(column.counts.sum())
    if not values:
        return Difference(None, None, None, 0)
    drawn = bootstrap(statistics, people, resamples, seed)
    fewest = min(statistics, key=lambda statistic: statistic.people)
    return Difference(float(np.mean(values)), *interval_of(np.mean(drawn, axis=0), fewest), n)


def gammas(
    degraded: pd.DataFrame, clean: pd.DataFrame, metrics: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Value]:
    """Return γ of each metric, the percentage of the clean value left under a condition (FakeLocator, Fig. 10).

    It is taken over the images that have a value in both tables, and its interval from resamples of people that both
    share. Failed images count as in `summarise`. γ is undefined where the clean value is zero; a resample in which it
    is counts for no interval.

    Args:
        degraded: One row per image of one slice under one condition.
        clean: The same images without a degradation.
        metrics: Names that `summarise` knows.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        UsageError: An unknown metric.
        ValueError: A sample twice, or with another label or identity.
    """
    check_known(metrics)
    tables = matched(degraded.assign(condition=""), clean.assign(condition=""))
    persons = people_of(tables[0])
    return {metric: _gamma(tables, persons, metric, resamples, seed) for metric in metrics}


def _gamma(
    tables: tuple[pd.DataFrame, pd.DataFrame], persons: tuple[int, Ints], metric: str, resamples: int, seed: int
) -> Value:
    people, codes = persons
    columns = column_of(tables[0], metric), column_of(tables[1], metric)
    both = columns[0].counts & columns[1].counts
    pair = [statistic_of(replace(column, applies=both), codes, people) for column in columns]
    left, whole = (statistic.plain(people) for statistic in pair)
    if math.isnan(left) or math.isnan(whole) or whole == 0:
        return Value(value=None, undefined=int(columns[1].applies.sum()))
    drawn = bootstrap(pair, people, resamples, seed)
    shares = np.divide(drawn[0], drawn[1], out=np.full(resamples, np.nan), where=drawn[1] != 0)
    low, high = interval_of(100 * shares, min(pair, key=lambda statistic: statistic.people))
    n = int(both.sum())
    return Value(value=100 * (left / whole), low=low, high=high, n=n, undefined=int(columns[1].applies.sum()) - n)


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


class Margin(NamedTuple):
    """How far the left side lies above the bound.

    Attributes:
        left: The left quantity; None if it is undefined in one of its tables.
        right: The right quantity, before factor and offset; None if there is none, or if it is undefined.
        value: `left - (factor * right + offset)`; None if either side is undefined.
        low: Lower end of its 95 % interval; None if on a table fewer than two identities count.
        high: Upper end.
    """

    left: float | None
    right: float | None
    value: float | None
    low: float | None
    high: float | None


def margin(
    left: Sequence[pd.DataFrame],
    right: Sequence[pd.DataFrame],
    metric: str,
    *,
    factor: float = 1.0,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Margin:
    """Compare two quantities, each the plain mean of a metric over tables of its own.

    A table is one test slice under one condition by one seed, so that a mean over slices, over conditions and over
    seeds is one thing. Every table counts its own images only. Resamples draw from the people of all tables together;
    those in which a table has nobody left are left out. Failed and undefined images count as in `summarise`.

    Args:
        left: Tables of the left quantity, at least one.
        right: Tables of the right quantity; none: the bound is the offset.
        metric: A name that `summarise` knows.
        factor: What the right quantity is multiplied by.
        offset: What is added to it, in the metric's units.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        UsageError: An unknown metric.
        ValueError: No table on the left, or a sample twice in one table.
    """
    check_known([metric])
    if not left:
        raise ValueError("the left side has no table")
    tables = [sorted_rows(table) for table in (*left, *right)]
    people, codes = people_of(pd.concat([table[["sample_id", "identity"]] for table in tables], ignore_index=True))
    parts = np.split(codes, np.cumsum([len(table) for table in tables])[:-1])
    statistics = [
        statistic_of(column_of(table, metric), part, people) for table, part in zip(tables, parts, strict=True)
    ]
    sides = slice(len(left)), slice(len(left), None)
    plain = np.array([statistic.plain(people) for statistic in statistics])
    ours, theirs = (_mean(plain[side]) for side in sides)
    value = ours - (factor * theirs + offset)
    found = [None if math.isnan(number) else float(number) for number in (ours, theirs, value)]
    shown = (found[0], found[1] if right else None, found[2])
    if found[2] is None:
        return Margin(*shown, None, None)
    drawn = bootstrap(statistics, people, resamples, seed)
    above = _mean(drawn[sides[0]]) - (factor * _mean(drawn[sides[1]]) + offset)
    low, high = interval_of(above, min(statistics, key=lambda statistic: statistic.people))
    return Margin(*shown, low, high)


def _mean(rows: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis; zero for no rows, so that a bound without a right side is a number."""
    return rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1:])


def _span(group: Sequence[int]) -> str:
    first, last = group[0] + 1, group[-1] + 1
    return str(first) if first == last else f"{first}–{last}"
