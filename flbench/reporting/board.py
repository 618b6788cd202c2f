"""Records become boards: one board for one protocol version on one data set version.

Runs with other categories, other regions or missing slices answer another question, so they have a board of their own.
`render.py` turns a board into markdown, the console into a terminal's table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from flbench.protocol import LOWER_IS_BETTER, Protocol, TestSlice, fingerprint
from flbench.record import ProtocolInfo, Record, Result, Value
from flbench.reporting.model import Board, Entry, Key, Place, Row, Slice
from flbench.reporting.words import TITLES, Number, clean, number_of
from flbench.scoring.comparison import mean_over, tie_groups

if TYPE_CHECKING:
    import pandas as pd

TRIAL = "trial"
"""A record with a flag that starts so was cut short on purpose: listed, never ranked."""
SCORE_METRICS = ("acc", "auroc", "tpr", "tnr")
"""Metrics that follow from image scores; every other one has a column of its own."""
MOST_NOTES = 3
"""Notes of one kind that a row has at most; more are told as one."""


@dataclass
class _Group:
    """Entries of one method with one set of options."""

    good: list[Entry] = field(default_factory=list)
    bad: list[tuple[Entry, str]] = field(default_factory=list)


def boards(entries: Iterable[Entry], protocols: Mapping[str, Protocol], *, rank: bool = True) -> list[Board]:
    """Group records into boards and rank them; the order of the entries does not matter.

    Args:
        entries: Cells.
        protocols: Protocols by name, unmapped; one whose fingerprint is not the records' is not used.
        rank: Whether to find ties, which needs scores; without, rows are in order and have no rank.
    """
    groups: dict[Key, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[Key.of(entry.record)].append(entry)
    return [_board(key, groups[key], protocols.get(key.protocol), rank) for key in sorted(groups)]


def _board(key: Key, entries: list[Entry], protocol: Protocol | None, rank: bool) -> Board:
    if protocol is not None and (protocol.version, protocol.fingerprint) != (key.version, key.fingerprint):
        protocol = None
    if protocol is not None:
        protocol = protocol.mapped(dict(key.mapping))
    shown = _latest(entries)
    asked = shown[0].record.protocol
    tests, conditions = _tests(shown, protocol, asked), _conditions(shown)
    grouped: dict[str, _Group] = defaultdict(_Group)
    for entry in shown:
        reason = _reason(entry, protocol, tests, asked.primary, rank)
        group = grouped[_identity(entry.record)]
        if reason:
            group.bad.append((entry, reason))
        else:
            group.good.append(entry)
    rows = []
    for group in grouped.values():
        if group.good:
            place: Place = "reference" if group.good[0].record.method.reference else "ranked"
            rows.append(_row(group.good, place, tests, asked.primary))
        for entry, reason in group.bad:
            rows.append(replace(_row([entry], "unranked", tests, asked.primary), reason=reason))
    return Board(
        key=key,
        protocol=protocol,
        asked=asked,
        dataset=shown[0].record.dataset,
        tests=tests,
        conditions=conditions,
        rows=tuple(_ordered(rows, asked.primary, [test.name for test in tests if test.ranks], rank)),
        shadowed=len(entries) - len(shown),
    )


def _identity(record: Record) -> str:
    """Return what makes two records seeds of one row."""
    trial = [flag for flag in record.flags if flag.startswith(TRIAL)]
    return fingerprint([record.method.name, record.method.options, trial])


def age(record: Record) -> tuple[bool, str, str]:
    """Return a key by which a newer record is greater; one without numbers never replaces one with them."""
    return record.status in ("ok", "partial"), str(record.provenance.get("finished") or ""), record.cell


def _latest(entries: Iterable[Entry]) -> list[Entry]:
    """Return one entry per method, options and seed, ordered by cell."""
    best: dict[tuple[str, int], Entry] = {}
    for entry in sorted(entries, key=lambda entry: age(entry.record)):
        best[(_identity(entry.record), entry.record.seed)] = entry
    return sorted(best.values(), key=lambda entry: (entry.record.seed, entry.record.cell))


def _tests(entries: Sequence[Entry], protocol: Protocol | None, asked: ProtocolInfo) -> tuple[Slice, ...]:
    results: dict[str, list[Result]] = {}
    for entry in entries:
        for result in entry.record.results:
            if result.condition == "clean":
                results.setdefault(result.test, []).append(result)
    if protocol is not None:
        slices = [test for test in protocol.test if test.name not in asked.missing]
    else:
        slices = [_told(name, tests[0]) for name, tests in results.items()]
    others = [test.name for test in slices if not test.reference]
    ranking = others or [test.name for test in slices]
    found = []
    for test in slices:
        measured = results.get(test.name, [])
        undefined = [r.metrics[asked.primary].undefined for r in measured if asked.primary in r.metrics]
        found.append(
            Slice(
                name=test.name,
                fit=test.fit,
                categories=test.categories,
                fakes=max((r.fakes for r in measured), default=0),
                reals=max((r.reals for r in measured), default=0),
                undefined=min(undefined, default=0),
                reference=test.reference,
                ranks=test.name in ranking,
            )
        )
    return tuple(found)


def _told(name: str, result: Result) -> TestSlice:
    """Return a test slice as a record tells it, for want of the protocol."""
    photos: Literal["same", "other"] = "same" if result.categories else "other"
    return TestSlice(name=name, fit="", categories=result.categories, photos=photos)


def _conditions(entries: Sequence[Entry]) -> tuple[str, ...]:
    found = dict.fromkeys(result.condition for entry in entries for result in entry.record.results)
    return ("clean", *(condition for condition in found if condition != "clean"))


def _reason(entry: Entry, protocol: Protocol | None, tests: Sequence[Slice], primary: str, rank: bool) -> str:
    """Return why a record cannot be ranked, "" if it can."""
    record = entry.record
    trial = [flag for flag in record.flags if flag.startswith(TRIAL)]
    if trial:
        return clean(trial[0])
    # A slice that the data set lacks makes a record partial, but on this board every row lacks it.
    lacking = record.status == "partial" and record.protocol.missing and not _too_many_failed(entry, protocol)
    if record.status != "ok" and not lacking:
        return clean(record.reason) or "no reason given"
    if protocol is None:
        return "the protocol with this fingerprint is not at hand, so what ranks is not known"
    if any(_value(record, test.name, primary) is None for test in tests if test.ranks):
        return f"{TITLES.get(primary, primary)} is undefined"
    if rank and entry.scores is None:
        return "no per-image scores, so neither interval nor ties can be checked"
    return ""


def _too_many_failed(entry: Entry, protocol: Protocol | None) -> bool:
    allowed = protocol.scoring.max_failed if protocol is not None else 0.0
    if entry.scores is not None:
        return bool(len(entry.scores)) and bool((entry.scores["status"] != "ok").mean() > allowed)
    results = entry.record.results
    failed = sum(r.metrics[m].failed for r in results for m in ("tpr", "tnr") if m in r.metrics)
    return failed > allowed * sum(r.fakes + r.reals for r in results)


def _value(record: Record, test: str, metric: str) -> float | None:
    result = record.result(test)
    value = result.metrics.get(metric) if result is not None else None
    return value.value if value is not None else None


def _row(entries: Sequence[Entry], place: Place, tests: Sequence[Slice], primary: str) -> Row:
    results = [result for entry in entries for result in entry.record.results]
    numbers = _merged([(result, result.metrics) for result in results], len(entries))
    gammas = _merged([(result, result.gamma) for result in results], len(entries))
    ranking = [test.name for test in tests if test.ranks]
    if len(ranking) == 1:
        mean = numbers.get((ranking[0], "clean"), {}).get(primary, Number(value=None))
    else:
        mean = _mean_over(entries, ranking, primary)
    notes = _notes(entries, numbers)
    return Row(place=place, entries=tuple(entries), primary=mean, numbers=numbers, gammas=gammas, notes=notes)


def _merged(
    results: Iterable[tuple[Result, Mapping[str, Value]]], seeds: int
) -> dict[tuple[str, str], dict[str, Number]]:
    """Return values of all seeds as one number per test slice, condition and metric."""
    values: dict[tuple[str, str], dict[str, list[Value]]] = defaultdict(lambda: defaultdict(list))
    for result, metrics in results:
        for metric, value in metrics.items():
            values[result.test, result.condition][metric].append(value)
    return {
        where: {metric: merged(found, seeds) for metric, found in metrics.items()} for where, metrics in values.items()
    }


def merged(values: Sequence[Value], seeds: int) -> Number:
    """Return mean and standard deviation of a metric over seeds; undefined if it is under one of them."""
    if seeds == 1:
        return number_of(values[0])
    known = [value.value for value in values if value.value is not None]
    whole = len(known) == seeds
    return Number(
        value=fmean(known) if whole else None,
        std=stdev(known) if whole else None,
        undefined=max(value.undefined for value in values),
        failed=sum(value.failed for value in values),
        capped=sum(value.capped for value in values),
    )


def _mean_over(entries: Sequence[Entry], tests: Sequence[str], metric: str) -> Number:
    """Return the mean of a metric over several slices; for one seed with its interval, if scores are at hand."""
    means = []
    for entry in entries:
        values = [_value(entry.record, test, metric) for test in tests]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return Number(value=None)
        means.append(fmean(known))
    if len(means) > 1:
        return Number(value=fmean(means), std=stdev(means))
    scores = entries[0].scores
    if scores is None or _column_of(metric) not in scores:
        return Number(value=means[0])
    interval = mean_over(_ranking_scores(scores, tests), metric)
    return Number(value=means[0], low=interval.low, high=interval.high)


def _ranking_scores(scores: pd.DataFrame, tests: Sequence[str]) -> pd.DataFrame:
    return scores[(scores["condition"] == "clean") & scores["test"].isin(tests)]


def _over_seeds(entries: Sequence[Entry], tests: Sequence[str], metric: str) -> pd.DataFrame:
    """Return a metric per image, averaged over the seeds; an image that failed under one seed counts as failed."""
    import pandas as pd

    tables = [_ranking_scores(entry.scores, tests) for entry in entries if entry.scores is not None]
    if len(tables) == 1:
        return tables[0]
    whole = pd.concat(tables, ignore_index=True).sort_values("status", key=lambda status: status == "ok", kind="stable")
    rules = {"identity": "first", "label": "first", "status": "first", _column_of(metric): "mean"}
    return whole.groupby(["test", "condition", "sample_id"], sort=True, as_index=False).agg(rules)


def _column_of(metric: str) -> str:
    """Return the column of per-image scores that a metric is computed from."""
    return "score" if metric in SCORE_METRICS else metric


def _notes(entries: Sequence[Entry], numbers: Mapping[tuple[str, str], Mapping[str, Number]]) -> tuple[str, ...]:
    notes = list(dict.fromkeys(clean(flag) for entry in entries for flag in entry.record.flags))
    failed: dict[str, int] = {}
    capped: dict[str, int] = {}
    for (test, condition), metrics in numbers.items():
        where = clean(test if condition == "clean" else f"{test}, {condition}")
        failed[where] = sum(metrics[name].failed for name in ("tpr", "tnr") if name in metrics)
        capped[where] = metrics["psnr"].capped if "psnr" in metrics else 0
    notes += _counted(failed, lambda n: f"{n} failed image{'s' if n > 1 else ''} counted with the worst value")
    notes += _counted(capped, lambda n: f"PSNR is cut at 100 dB for {n} map{'s' if n > 1 else ''}")
    return tuple(notes)


def _counted(counts: Mapping[str, int], say: Callable[[int], str]) -> list[str]:
    """Return a note for each place that has a count; one for all of them if they are many."""
    found = {where: n for where, n in counts.items() if n}
    if len(found) > MOST_NOTES:
        return [f"{say(sum(found.values()))}, in {len(found)} of {len(counts)} test slices and conditions"]
    return [f"{where}: {say(n)}" for where, n in found.items()]


def _ordered(rows: Sequence[Row], primary: str, tests: Sequence[str], rank: bool) -> list[Row]:
    """Return ranked rows with their ranks, reference rows, and the rest."""
    sign = 1 if primary in LOWER_IS_BETTER else -1

    def by_value(row: Row) -> tuple[float, str, str]:
        value = row.primary.value
        return math.inf if value is None else sign * value, row.method, _identity(row.record)

    def by_name(row: Row) -> tuple[str, str, int]:
        return row.method, _identity(row.record), row.record.seed

    ranked = sorted((row for row in rows if row.place == "ranked"), key=by_value)
    if rank and ranked:
        tables = [_over_seeds(row.entries, tests, primary) for row in ranked]
        ranks = tie_groups(tables, primary)
        ranked = [replace(row, rank=text) for row, text in zip(ranked, ranks, strict=True)]
    references = sorted((row for row in rows if row.place == "reference"), key=by_value)
    return [*ranked, *references, *sorted((row for row in rows if row.place == "unranked"), key=by_name)]
