"""Do two data sets put the same methods in the same order? Numbers from records and per-image scores alone.

Compared are the boards of one protocol version on two data sets. Runs that depart from the protocol (`--map`, regions
from the difference, missing slices) may stand on either side; what stands behind each side is told with the numbers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations, product
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from scipy.stats import kendalltau, rankdata

from flbench.protocol import LOWER_IS_BETTER, Protocol, fingerprint
from flbench.reporting.board import boards
from flbench.reporting.model import Board, Entry, Row
from flbench.reporting.words import Number
from flbench.scoring.comparison import paired_difference
from flbench.scoring.resampling import RESAMPLES

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["agree", "opposite", "undecided"]
Two = tuple[Row, Row]
"""One method: its row on the first data set, and on the second."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method by one metric.

    Attributes:
        method: Its name, with the options set by the user.
        reference: Whether it is a reference row.
        numbers: Its value on each data set.
        places: Its place on each data set among the lines with a value on both, from 1 for the best; equal values
            share the first of their places. None without a value on both.
    """

    method: str
    reference: bool
    numbers: tuple[Number, Number]
    places: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods by one metric.

    Attributes:
        first: The one that is better on the first data set, if they are told apart there.
        second: The other one.
        references: Whether a reference row is among them.
        verdict: "agree": both data sets tell the two apart, in the same order; "opposite": both do, in opposite
            orders; "undecided": at least one of them does not.
    """

    first: str
    second: str
    references: bool
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How far two orders agree.

    Attributes:
        methods: Methods with a value on both data sets.
        tau: Kendall's tau-b between the two orders, in [-1, 1]; None for fewer than two methods, or if all are equal on
            one of the data sets.
        agree: Pairs of methods that both data sets tell apart in the same order.
        opposite: Pairs that both tell apart in opposite orders.
        undecided: The other pairs.
    """

    methods: int
    tau: float | None
    agree: int
    opposite: int
    undecided: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One test slice, one condition, one metric.

    Attributes:
        test: Name of the test slice.
        condition: "clean", or a degradation.
        metric: The metric.
        lines: Methods by their place on the first data set, then reference rows.
        pairs: Every two of the lines that have a value on both data sets.
    """

    test: str
    condition: str
    metric: str
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]

    def tally(self, *, references: bool) -> Tally:
        """Count agreement over the methods, with or without the reference rows."""
        lines = [line for line in self.lines if line.places and (references or not line.reference)]
        verdicts = Counter(pair.verdict for pair in self.pairs if references or not pair.references)
        return Tally(
            methods=len(lines),
            tau=_tau([[line.numbers[side].value or 0.0 for line in lines] for side in (0, 1)]),
            agree=verdicts["agree"],
            opposite=verdicts["opposite"],
            undecided=verdicts["undecided"],
        )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One protocol version on two data sets.

    Attributes:
        boards: The board on each data set.
        comparisons: By test slice, condition and metric, as the protocol orders them.
        left_out: What could not be compared, with the reason.
        unpaired: Methods, on each data set, whose per-image scores are missing: they are told apart by intervals that
            do not touch, all others by a paired bootstrap.
    """

    boards: tuple[Board, Board]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    unpaired: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def labels(self) -> tuple[str, str]:
        """Names of the data sets with their versions; with a piece of the fingerprint where these are the same."""
        first, second = (f"{board.key.dataset} v{board.key.dataset_version}" for board in self.boards)
        if first != second:
            return first, second
        marks = [board.key.dataset_fingerprint[:8] for board in self.boards]
        return f"{first} {marks[0]}", f"{second} {marks[1]}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that are compared."""
        return tuple(dict.fromkeys(comparison.metric for comparison in self.comparisons))

    def total(self, metric: str, *, references: bool) -> Tally:
        """Add up the pairs of all test slices and conditions; tau is the mean, `methods` the most there are."""
        found = [c.tally(references=references) for c in self.comparisons if c.metric == metric]
        known = [tally.tau for tally in found if tally.tau is not None]
        return Tally(
            methods=max((tally.methods for tally in found), default=0),
            tau=fmean(known) if known else None,
            agree=sum(tally.agree for tally in found),
            opposite=sum(tally.opposite for tally in found),
            undecided=sum(tally.undecided for tally in found),
        )


Progress = Callable[[str, int, int], None]


def agreements(
    entries: Iterable[Entry],
    protocols: Mapping[str, Protocol],
    *,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
) -> list[Agreement]:
    """Compare every two boards of one protocol version that stand on different data sets.

    Rows are those that a board ranks, and its reference rows; two rows are one method if name and options are equal.
    The order of the entries does not matter.

    Args:
        entries: Cells.
        protocols: Protocols by name, as written.
        resamples: Number of bootstrap resamples.
        progress: Called with stage, done and total.

    Returns:
        An agreement per two boards; those with the same categories replaced come first.
    """
    groups: dict[tuple[str, int, str], list[Board]] = defaultdict(list)
    for board in boards(entries, protocols, rank=False):
        groups[board.key.protocol, board.key.version, board.key.fingerprint].append(board)
    made = []
    for _, found in sorted(groups.items(), key=lambda item: item[0]):
        both = [(a, b) for a, b in combinations(found, 2) if _data(a) != _data(b)]
        both.sort(key=lambda two: two[0].key.mapping != two[1].key.mapping)
        made += [_agreement(a, b, resamples, progress) for a, b in both]
    return made


def agreement_document(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement as values that JSON knows."""
    key = agreement.boards[0].key
    comparisons = [
        asdict(found) | {name: asdict(found.tally(references=told)) for name, told in _SCOPES}
        for found in agreement.comparisons
    ]
    return {
        "protocol": {"name": key.protocol, "version": key.version, "fingerprint": key.fingerprint},
        "data": [_side(board, names) for board, names in zip(agreement.boards, agreement.unpaired, strict=True)],
        "comparisons": comparisons,
        "summary": {
            metric: {name: asdict(agreement.total(metric, references=told)) for name, told in _SCOPES}
            for metric in agreement.metrics
        },
        "left_out": [{"what": what, "reason": reason} for what, reason in agreement.left_out],
    }


_SCOPES = (("methods", False), ("with_references", True))


def _side(board: Board, unpaired: Sequence[str]) -> dict[str, Any]:
    key = board.key
    return {
        "name": key.dataset,
        "version": key.dataset_version,
        "fingerprint": key.dataset_fingerprint,
        "mapping": dict(key.mapping),
        "missing": list(key.missing),
        "region": key.region,
        "unpaired": list(unpaired),
        "tests": [
            {"name": t.name, "categories": list(t.categories), "fakes": t.fakes, "reals": t.reals} for t in board.tests
        ],
    }


def _data(board: Board) -> tuple[str, str, str]:
    return board.key.dataset, board.key.dataset_version, board.key.dataset_fingerprint


def _agreement(a: Board, b: Board, resamples: int, progress: Progress | None) -> Agreement:
    ours, theirs = _rows(a), _rows(b)
    both = [(row, theirs[name]) for name, row in ours.items() if name in theirs]
    names = [test.name for test in b.tests]
    wheres = [
        (test.name, condition)
        for test in a.tests
        for condition in a.conditions
        if test.name in names and condition in b.conditions
    ]
    metrics = [metric for metric in a.asked.metrics if metric in b.asked.metrics]
    asked = list(product(wheres, metrics)) if both else []
    found = []
    for done, ((test, condition), metric) in enumerate(asked, 1):
        found.append(_comparison(both, test, condition, metric, resamples))
        if progress is not None:
            progress(f"compare {a.key.protocol} on {a.key.dataset} and {b.key.dataset}", done, len(asked))
    bare = [
        tuple(two[side].method for two in both if any(entry.scores is None for entry in two[side].entries))
        for side in (0, 1)
    ]
    agreement = Agreement(boards=(a, b), comparisons=tuple(found), unpaired=(bare[0], bare[1]))
    return _with_left_out(agreement, ours, theirs)


def _rows(board: Board) -> dict[str, Row]:
    """Return the rows that can be compared, by what makes two of them one method."""
    rows = [*board.placed("ranked"), *board.placed("reference")]
    return {fingerprint([row.record.method.name, row.record.method.options]): row for row in rows}


def _with_left_out(agreement: Agreement, ours: Mapping[str, Row], theirs: Mapping[str, Row]) -> Agreement:
    left: list[tuple[str, str]] = []
    for label, board in zip(agreement.labels, agreement.boards, strict=True):
        left += [(f"{row.method} on {label}", row.reason) for row in board.placed("unranked")]
    for rows, others, label, other in ((ours, theirs, *agreement.labels), (theirs, ours, *agreement.labels[::-1])):
        told = [row.method for name, row in rows.items() if name not in others]
        left += [(f"{method} on {label}", f"no row with these options on {other}") for method in told]
    return replace(agreement, left_out=tuple(left))


def _comparison(both: Sequence[Two], test: str, condition: str, metric: str, resamples: int) -> Comparison:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    nothing = Number(value=None)
    numbers = [[two[side].number(test, metric, condition) or nothing for two in both] for side in (0, 1)]
    known = [k for k in range(len(both)) if numbers[0][k].value is not None and numbers[1][k].value is not None]
    ranks = [rankdata([-sign * (side[k].value or 0.0) for k in known], method="min") for side in numbers]
    places = {k: (int(ranks[0][i]), int(ranks[1][i])) for i, k in enumerate(known)}
    lines = [
        Line(
            method=two[0].method,
            reference=two[0].place == "reference",
            numbers=(numbers[0][k], numbers[1][k]),
            places=places.get(k),
        )
        for k, two in enumerate(both)
    ]
    above = partial(_above, test=test, condition=condition, metric=metric, resamples=resamples)
    pairs = []
    for i, j in combinations(sorted(known, key=lambda k: (places[k], lines[k].method)), 2):
        first = above(both[i][0], both[j][0])
        second = above(both[i][1], both[j][1]) if first else 0  # what one side leaves open, none can decide
        verdict: Verdict = "undecided" if not first or not second else "agree" if first == second else "opposite"
        upper, lower = (j, i) if sign * first < 0 else (i, j)
        names = {"first": lines[upper].method, "second": lines[lower].method}
        pairs.append(Pair(**names, references=lines[i].reference or lines[j].reference, verdict=verdict))
    last = (math.inf, math.inf)
    lines.sort(key=lambda line: (line.reference, line.places or last, line.method))
    return Comparison(test=test, condition=condition, metric=metric, lines=tuple(lines), pairs=tuple(pairs))


def _above(a: Row, b: Row, *, test: str, condition: str, metric: str, resamples: int) -> int:
    """Return 1 if the value of `a` is above that of `b`, -1 if below, 0 if the data cannot tell."""
    ours, theirs = (_scores(row, test, condition) for row in (a, b))
    if ours and theirs:
        # Every seed of one with every seed of the other has the same mean as seed by seed, which needs equal numbers.
        seeds = list(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else list(product(ours, theirs))
        first, second = (_stacked([two[side] for two in seeds]) for side in (0, 1))
        found = paired_difference(first, second, metric, resamples=resamples)
        return int(math.copysign(1, found.value)) if found.separable and found.value else 0
    one, other = (row.number(test, metric, condition) or Number(value=None) for row in (a, b))
    return int(_clears(one, other)) - int(_clears(other, one))


def _clears(one: Number, other: Number) -> bool:
    """Return whether all of one interval is above the other; without intervals nothing is."""
    return one.low is not None and other.high is not None and one.low > other.high


def _scores(row: Row, test: str, condition: str) -> list[pd.DataFrame]:
    """Return the per-image scores of each seed; nothing if one of them is missing."""
    tables = [entry.scores for entry in row.entries if entry.scores is not None]
    if len(tables) < len(row.entries):
        return []
    return [table[(table["test"] == test) & (table["condition"] == condition)] for table in tables]


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables of several seeds as slices of one table: the mean over slices is the mean over seeds."""
    import pandas as pd

    if len(tables) == 1:
        return tables[0]
    return pd.concat([table.assign(test=str(place)) for place, table in enumerate(tables)], ignore_index=True)


def _tau(values: Sequence[Sequence[float]]) -> float | None:
    """Return Kendall's tau-b of two lists of values (M. G. Kendall, "Rank Correlation Methods"; scipy's), or None."""
    if len(values[0]) < 2:
        return None
    tau = float(kendalltau(values[0], values[1], variant="b").statistic)
    return None if math.isnan(tau) else tau
