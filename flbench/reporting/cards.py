"""What a terminal shows, as tables without markup: runs, listings, and cards of one method, protocol or record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flbench.protocol import Protocol
from flbench.record import Record, Result
from flbench.reporting.condition_tables import condition_tables
from flbench.reporting.layout import Cell, Column, Group, Table
from flbench.reporting.model import Board, Row
from flbench.reporting.tables import by_slice
from flbench.reporting.words import (
    NOTHING,
    Number,
    bare,
    categories,
    condition_definitions,
    count,
    definitions,
    describe,
    full,
    heading,
    machine,
    number_of,
    seconds,
    share,
)

if TYPE_CHECKING:
    from flbench.data.dataset import Dataset
    from flbench.data.inspection import Finding
    from flbench.footprint import Footprint
    from flbench.method_file import MethodEntry

REFERENCES = "reference rows"


def table(
    columns: Sequence[str], rows: Iterable[Iterable[object]], *, title: str = "", right: Iterable[int] = ()
) -> Table:
    """Return a table of one group.

    Args:
        columns: Heads.
        rows: Cells, or what is to be printed in them.
        title: Heading.
        right: Places of the columns that hold numbers.
    """
    numbers = set(right)
    heads = tuple(Column(name, place in numbers) for place, name in enumerate(columns))
    cells = tuple(tuple(item if isinstance(item, Cell) else Cell(str(item)) for item in row) for row in rows)
    return Table(title=title, columns=heads, groups=(Group("", cells),))


def pairs(items: Iterable[tuple[str, object]], title: str = "") -> Table:
    """Return a table of labels and what they stand for, without heads; pairs that say nothing are left out."""
    rows = [(Cell(label, strong=True), text) for label, text in items if str(text)]
    return table(("", ""), rows, title=title)


def run_tables(board: Board, *, wide: bool = True) -> list[Table]:
    """Return the tables of a run: several slices as a matrix of the primary metric, then all metrics of each slice.

    Many slices are rows of one table, without the other metrics. Under conditions the primary metric is told, with γ.

    Args:
        board: The board.
        wide: Whether there is room for the time per image.
    """
    title = f"{board.key.protocol} v{board.key.version} on {board.key.dataset} v{board.key.dataset_version}"
    title += f" ({board.key.departures})" if board.key.departures else ""
    conditions = condition_tables(board, [board.asked.primary])
    if len(board.tests) == 1:
        return [_metrics(board, board.tests[0].name, title, wide=wide), *conditions]
    if board.long:
        return [_means(board, title), *by_slice(board), *conditions]
    each = (_metrics(board, test.name, test.name, wide=wide) for test in board.tests)
    return [_matrix(board, title), *each, *conditions]


def _drawn(board: Board, title: str, columns: Iterable[Column], cells: Callable[[Row], Iterable[Cell]]) -> Table:
    """Return a table of ranked and reference rows, with ranks where there are any."""
    told = any(row.rank for row in board.rows)

    def whole(place: str) -> tuple[tuple[Cell, ...], ...]:
        start = [(Cell(row.rank), Cell(row.method))[not told :] for row in board.placed(place)]
        return tuple((*first, *cells(row)) for first, row in zip(start, board.placed(place), strict=True))

    heads = (Column("rank"), Column("method", False))[not told :]
    groups = (Group("", whole("ranked")), Group(REFERENCES, whole("reference")))
    return Table(title=title, columns=(*heads, *columns), groups=groups)


def _primary(number: Number | None, metric: str) -> Cell:
    return Cell(full(number, metric), number.value if number is not None else None, strong=True)


def _means(board: Board, title: str) -> Table:
    """Return the mean of the primary metric over the slices that rank, with its interval."""
    primary = board.asked.primary
    head = Column(f"mean {heading(primary)} over {len(board.ranking)} slices")
    return _drawn(board, title, [head], lambda row: [_primary(row.primary, primary)])


def _matrix(board: Board, title: str) -> Table:
    """Return the primary metric: its mean over the slices that rank, with its interval, and each slice."""
    primary = board.asked.primary

    def cells(row: Row) -> tuple[Cell, ...]:
        each = (Cell(bare(row.number(test.name, primary), primary)) for test in board.tests)
        return _primary(row.primary, primary), *each

    names = (Column(test.name if test.ranks else f"({test.name})") for test in board.tests)
    return _drawn(board, title, (Column(f"mean {heading(primary)}"), *names), cells)


def _metrics(board: Board, test: str, title: str, *, wide: bool) -> Table:
    """Return every metric of one test slice, the one that ranks first and with its interval."""
    primary = board.asked.primary
    others = [metric for metric in board.asked.metrics if metric != primary]

    def cells(row: Row) -> tuple[Cell, ...]:
        each = (Cell(bare(row.number(test, metric), metric)) for metric in others)
        time = [Cell(seconds(row.seconds("s_per_image")))] if wide else []
        return _primary(row.number(test, primary), primary), *each, *time

    heads = (Column(heading(metric)) for metric in (primary, *others))
    return _drawn(board, title, (*heads, *([Column("s/image")] if wide else [])), cells)


def listing_tables(document: Mapping[str, Any]) -> list[Table]:
    """Return tables of methods (registry entries), protocols, names of data sets, and cells of a study."""
    made = []
    rows: list[tuple[object, ...]]
    if "methods" in document:
        rows = [
            (
                entry.name,
                Cell("broken" if entry.broken else "reference" if entry.reference else "ok"),
                f"a {entry.target}" if entry.target else ", ".join(entry.variants) or NOTHING,
                entry.broken or entry.summary or entry.title,
            )
            for entry in document["methods"]
        ]
        made.append(table(("method", "status", "after the colon", "what it is"), rows, title="methods"))
    if "protocols" in document:
        rows = [
            (
                protocol.label,
                protocol.title,
                len(protocol.fit),
                len(protocol.test),
                len(protocol.conditions),
                heading(protocol.scoring.primary),
            )
            for protocol in document["protocols"]
        ]
        heads = ("protocol", "title", "fits", "test slices", "conditions", "ranked by")
        made.append(table(heads, rows, title="protocols", right=(2, 3, 4)))
    if "data" in document:
        rows = [(data["name"], ", ".join(data["profiles"])) for data in document["data"]]
        made.append(table(("data set", "profiles"), rows, title="data sets made by code"))
    if "cells" in document:
        rows = [(Cell(cell["status"]), cell["cell"], cell["reason"]) for cell in document["cells"]]
        made.append(table(("status", "cell", "why"), rows, title=f"{count(len(rows))} cells"))
    return made


def method_tables(entry: MethodEntry) -> list[Table]:
    """Return all that is known of a method without importing it."""
    about = [("method", entry.name), ("title", entry.title), ("what it is", entry.summary), ("paper", entry.paper)]
    about += [("licence", entry.licence), ("from", entry.distribution), ("broken", entry.broken)]
    made = [pairs(about)]
    if entry.options:
        rows = [
            (name, value if isinstance(value, str) else json.dumps(value), entry.told.get(name, ""))
            for name, value in entry.options.items()
        ]
        made.append(table(("option", "default", "what it does"), rows, title="options, set with --set OPTION=VALUE"))
    if entry.variants:
        said = [(name, json.dumps(dict(given))) for name, given in entry.variants.items()]
        made.append(table(("variant", "sets"), said, title=f"variants, addressed as {entry.name}:VARIANT"))
    return made


def footprint_table(name: str, measured: Footprint) -> Table:
    """Return what a method costs here, or why that is not known."""
    if measured.why:
        return pairs([("not measured", measured.why)], f"{name} on this machine")
    macs = NOTHING if measured.macs is None else count(measured.macs)
    where = f"{measured.batch} at a time, {measured.size} × {measured.size}, {measured.threads} CPU threads"
    said = [("parameters", count(measured.parameters)), ("multiply-accumulates", f"{macs} per image")]
    said += [("time", f"{1000 * measured.seconds:.1f} ms per image ({where})")]
    return pairs(said, f"{name} on this machine")


def protocol_tables(protocol: Protocol) -> list[Table]:
    """Return a protocol in words, its test slices, and the definitions of its metrics."""
    about: list[tuple[str, object]] = [("protocol", protocol.label), ("title", protocol.title)]
    about += [("fingerprint", protocol.fingerprint), *describe(protocol)]
    other = "no fake; photos of other databases"
    rows = [
        (t.name, t.fit, categories(t.categories) or other, "reference" if t.reference else "ranks")
        for t in protocol.test
    ]
    slices = table(("test slice", "fit", "fakes of", "role"), rows, title="test slices")
    made = [pairs(about), slices, pairs(definitions(protocol.scoring.metrics), "metrics")]
    degradations = condition_definitions(protocol.conditions)
    return [*made, *([pairs(degradations, "conditions")] if degradations else [])]


def record_tables(record: Record, stale: str = "") -> list[Table]:
    """Return a record: what, of what, on what, why it is stale, and the numbers of each test slice and condition."""
    asked, data = record.protocol, record.dataset
    about: list[tuple[str, object]] = [("cell", record.cell), ("status", record.status), ("reason", record.reason)]
    about += [("stale", stale)]
    about += [("flag", flag) for flag in record.flags]
    about += [("method", record.method.name), ("options", json.dumps(record.method.options, sort_keys=True))]
    about += [("protocol", f"{asked.name} v{asked.version}"), ("data set", f"{data.name} v{data.version}")]
    about += [("seed", record.seed), ("parameters", count(record.method.parameters))]
    about += [(name, seconds(value)) for name, value in sorted(record.timings.items())]
    about += [("measured on", machine(record.provenance)), ("digest", record.digest)]
    made = [pairs(about)]
    for result in record.results:
        rows = [
            [heading(metric), full(number_of(value), metric), value.n, value.undefined, value.failed]
            + ([_gamma(result, metric)] if result.gamma else [])
            for metric, value in result.metrics.items()
        ]
        heads = ("metric", "value", "images", "undefined", "failed", *(["γ"] if result.gamma else []))
        title = f"{result.test}, {result.condition}: {result.fakes} fakes, {result.reals} real photos"
        made.append(table(heads, rows, title=title, right=range(1, len(heads))))
    return made


def _gamma(result: Result, metric: str) -> str:
    return share(number_of(result.gamma[metric])) if metric in result.gamma else ""


def dataset_tables(dataset: Dataset) -> list[Table]:
    """Return what a data set says about itself, and its images per category and split."""
    about, counts = dataset.about, dataset.counts
    said: list[tuple[str, object]] = [("data set", dataset.label), ("title", about.title), ("folder", dataset.folder)]
    said += [("size", f"{about.size} × {about.size}"), ("licence", about.licence), ("note", about.note)]
    said += [("fingerprint", dataset.fingerprint)]
    if about.parser:
        said += [("parsed by", f"{about.parser}, for {', '.join(about.parsed_attributes) or 'no region'}")]
    rows = [(category, *row) for category, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)]
    columns = ("category", *map(str, counts.columns))
    return [pairs(said), table(columns, rows, title="images", right=range(1, len(columns)))]


def fit_table(fits: Iterable[Mapping[str, Any]], folder: Path) -> Table:
    """Return a table of fits from their `fit.json`."""
    rows = []
    for fit in fits:
        numbers = (fit.get("steps"), fit.get("best_step"))
        time = seconds(fit.get("timings", {}).get("fit_s"))
        warning = f"collapsed: {fit['collapsed']}" if fit.get("collapsed") else ""
        rows.append((fit["fit"], *(NOTHING if n is None else n for n in numbers), time, warning))
    return table(("fit", "steps", "best", "seconds", ""), rows, title=f"fits in {folder}", right=range(1, 4))


def finding_table(findings: Sequence[Finding], label: str) -> Table:
    """Return a table of what is wrong with a data set."""
    return table(("finding", "where", "what"), findings, title=f"{len(findings)} findings in {label}")
