"""What stands on a board: its head in words and its tables, still without markup.

Every format (markdown now, others later) and the terminal draw these same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flbench.protocol import LOWER_IS_BETTER
from flbench.reporting.model import Board, Row
from flbench.reporting.words import (
    NOTHING,
    TITLES,
    Number,
    clean,
    count,
    definitions,
    describe,
    full,
    heading,
    link,
    listing,
    plain,
    seconds,
)

WIDEST = 8
"""Columns that a table has at most: more cannot be read on a page."""


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
        text: What to print.
        value: The number behind it, for formats that sort or export.
        href: An http(s) address, or a path relative to the board.
        strong: Whether it is the best of its column.
        marks: Numbers of footnotes.
    """

    text: str
    value: float | None = None
    href: str = ""
    strong: bool = False
    marks: tuple[int, ...] = ()


class Column(NamedTuple):
    """Head of a column."""

    title: str
    right: bool = True


class Group(NamedTuple):
    """Rows under one label; the first group of a table has none."""

    label: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a board.

    Attributes:
        title: Heading; "" for a table that goes on under the one before.
        note: A sentence under the heading.
        columns: Heads.
        groups: Rows.
    """

    title: str
    note: str = ""
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def footnotes(board: Board) -> list[str]:
    """Return the notes of all rows, each text once; a mark is the place in this list, from 1."""
    return list(dict.fromkeys(note for row in board.rows for note in row.notes))


def title(board: Board) -> str:
    """Return the heading of a board."""
    return f"{clean(board.asked.title)} on {clean(board.dataset.title or board.dataset.name)}"


def head(board: Board) -> list[tuple[str, str]]:
    """Return the protocol and the data in words: pairs of a label and a sentence."""
    key, data = board.key, board.dataset
    said = [
        ("Protocol", f"{key.protocol} v{key.version}, fingerprint {key.fingerprint[:12]}"),
        ("Departs from the protocol", f"{key.departures}; never to be compared with the protocol as written"),
        (
            "Data set",
            f"{data.name} v{data.version}, fingerprint {data.fingerprint[:12]}, scored at {data.size} × {data.size} px"
            + (f", licence {data.licence}" if data.licence else ""),
        ),
        ("Note on the data", data.note),
    ]
    if not key.departures:
        del said[1]
    if board.protocol is not None:
        said += describe(board.protocol, region=key.region)
    primary = TITLES.get(board.asked.primary, board.asked.primary)
    over = f" over {listing(board.ranking)}" if len(board.ranking) > 1 else ""
    mean = "the mean of " if len(board.ranking) > 1 else ""
    said += [
        (
            "Rank",
            f"by {mean}{primary}{over}; methods that a paired bootstrap over people cannot tell from the first of "
            "their group share a rank",
        ),
        (
            "Intervals",
            "in brackets, 95 % percentile bootstrap over people, 2,000 resamples; over several seeds ± is the "
            "standard deviation",
        ),
    ]
    if board.shadowed:
        older = "record of the same method, options and seed is" if board.shadowed == 1 else "records are"
        said.append(("Left out", f"{board.shadowed} older {older} not shown"))
    return [(label, clean(sentence)) for label, sentence in said if clean(sentence)]


def metric_words(board: Board) -> list[tuple[str, str]]:
    """Return the definitions of the metrics on the board."""
    return definitions([*board.asked.metrics, "tpr", "tnr", "false_alarm"])


def slices(board: Board) -> Table:
    """Return the table of test slices."""
    rows = []
    for test in board.tests:
        role = "ranks" if test.ranks else "reference" if test.reference else NOTHING
        left_out = str(test.undefined) if test.undefined else NOTHING
        numbers = (Cell(str(test.fakes), test.fakes), Cell(str(test.reals), test.reals), Cell(left_out, test.undefined))
        rows.append((Cell(clean(test.name)), Cell(clean(listing(test.categories))), *numbers, Cell(role)))
    columns = (
        Column("Test slice", False),
        Column("Fakes of", False),
        Column("Fakes"),
        Column("Real photos"),
        Column("Undefined"),
        Column("Role", False),
    )
    return Table(title="Test slices", columns=columns, groups=(Group("", tuple(rows)),))


def tables(board: Board) -> list[Table]:
    """Return the tables of results: the ranking, one table per test slice, conditions, detection, cost, the rest."""
    made = _ranking(board)
    if len(board.tests) > 1 or len(board.asked.metrics) > 1:
        made += _metrics(board)
    made += _conditions(board)
    made += _detection(board)
    if board.placed("ranked") or board.placed("reference"):
        made.append(_cost(board))
    return [*made, *_unranked(board), *_reported(board)]


Draw = Callable[[Number | None, str], str]


def _identity(board: Board, row: Row) -> tuple[Cell, Cell]:
    """Return the cells that every table of results starts with."""
    notes = footnotes(board)
    marks = tuple(notes.index(note) + 1 for note in row.notes)
    return Cell(row.rank or NOTHING), Cell(row.method, marks=marks)


def _grouped(board: Board, cells: Callable[[Row], Sequence[Cell]], metrics: Sequence[str]) -> tuple[Group, ...]:
    """Return ranked rows with the best of each column strong, then reference rows.

    Args:
        board: The board.
        cells: What follows rank and method in a row.
        metrics: Metric of each of these cells; "" for a column without a best.
    """
    ranked = [list(cells(row)) for row in board.placed("ranked")]
    for place, metric in enumerate(metrics):
        known = [row[place].value for row in ranked]
        values = [value for value in known if value is not None]
        if not metric or len(values) < 2:
            continue
        best = min(values) if metric in LOWER_IS_BETTER or metric == "false_alarm" else max(values)
        shown = {row[place].text.split(" ")[0] for row in ranked if row[place].value == best}
        for row in ranked:
            row[place] = row[place]._replace(strong=row[place].text.split(" ")[0] in shown)
    first = tuple((*_identity(board, row), *found) for row, found in zip(board.placed("ranked"), ranked, strict=True))
    second = tuple((*_identity(board, row), *cells(row)) for row in board.placed("reference"))
    return tuple(Group(label, rows) for label, rows in (("", first), ("Reference rows, never ranked", second)) if rows)


def _cell(number: Number | None, metric: str, draw: Draw = plain) -> Cell:
    return Cell(draw(number, metric), number.value if number is not None else None)


_START = (Column("Rank"), Column("Method", False))


def _ranking(board: Board) -> list[Table]:
    """Return the primary metric: its mean over the slices that rank, and each slice."""
    primary = board.asked.primary
    several = len(board.ranking) > 1
    mean = [Column(f"Mean {heading(primary)}" if several else heading(primary))]
    names = [test.name for test in board.tests if len(board.tests) > 1]
    made: list[Table] = []
    for part in _parts(names, WIDEST - 4) or [()]:

        def cells(row: Row, part: Sequence[str] = part) -> list[Cell]:
            seeds = Cell(", ".join(map(str, row.seeds)) or NOTHING)
            each = [_cell(row.number(test, primary), primary, full) for test in part]
            return [_cell(row.primary, primary, full), *each, seeds]

        columns = [Column(f"{clean(test)}{'' if test in board.ranking else ' (reference)'}") for test in part]
        made.append(
            Table(
                title="" if made else "Ranking",
                columns=(*_START, *mean, *columns, Column("Seeds")),
                groups=_grouped(board, cells, [primary, *[primary] * len(part), ""]),
            )
        )
    return made


def _parts(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """Cut names into lists that fit into one table each."""
    return [names[start : start + size] for start in range(0, len(names), size)]


def _metrics(board: Board) -> list[Table]:
    """Return all metrics of each test slice."""
    made = []
    for test in board.tests:
        for start, part in enumerate(_parts(board.asked.metrics, WIDEST - 2)):

            def cells(row: Row, part: Sequence[str] = part, test: str = test.name) -> list[Cell]:
                return [_cell(row.number(test, metric), metric) for metric in part]

            made.append(
                Table(
                    title="" if start else f"All metrics: {clean(test.name)}",
                    columns=(*_START, *(Column(heading(metric)) for metric in part)),
                    groups=_grouped(board, cells, part),
                )
            )
    return made


def _conditions(board: Board) -> list[Table]:
    """Return the primary metric under each condition, with γ, its percentage of the clean value."""
    primary = board.asked.primary
    if len(board.conditions) < 2:
        return []
    made = []
    for test in board.tests:
        for start, part in enumerate(_parts(board.conditions, WIDEST - 2)):

            def cells(row: Row, part: Sequence[str] = part, test: str = test.name) -> list[Cell]:
                clear = row.number(test, primary)
                return [_degraded(row.number(test, primary, condition), clear, primary) for condition in part]

            made.append(
                Table(
                    title="" if start else f"{heading(primary)} under conditions: {clean(test.name)}",
                    note="" if start else "In brackets γ, the percentage of the clean value.",
                    columns=(*_START, *(Column(clean(condition)) for condition in part)),
                    groups=_grouped(board, cells, [primary] * len(part)),
                )
            )
    return made


def _degraded(number: Number | None, clear: Number | None, metric: str) -> Cell:
    cell = _cell(number, metric)
    if number is None or clear is None or number is clear or number.value is None or not clear.value:
        return cell
    return cell._replace(text=f"{cell.text} ({100 * number.value / clear.value:.0f} %)")


def _detection(board: Board) -> list[Table]:
    """Return what is called fake, and the area marked on real photos, for each test slice."""
    made: list[Table] = []
    for part in _parts([test.name for test in board.tests], 2):

        def cells(row: Row, part: Sequence[str] = part) -> list[Cell]:
            return [_cell(row.number(test, m), m) for test in part for m in ("tpr", "tnr", "false_alarm")]

        names = [f"{heading(m)} {clean(test)}" for test in part for m in ("tpr", "tnr", "false_alarm")]
        made.append(
            Table(
                title="" if made else "Real or fake, and false alarms",
                columns=(*_START, *map(Column, names)),
                groups=_grouped(board, cells, [""] * len(names)),
            )
        )
    return made


def _cost(board: Board) -> Table:
    """Return what each method is and costs."""

    def cells(row: Row) -> list[Cell]:
        method = row.record.method
        reference = link(method.paper)
        paper = Cell("paper", href=reference) if reference else Cell(clean(method.paper) or NOTHING)
        time = row.seconds("s_per_image")
        return [
            Cell(clean(method.title), href=""),
            Cell(count(method.parameters) if method.parameters else NOTHING, method.parameters),
            Cell(seconds(row.seconds("fit_s")), row.seconds("fit_s")),
            Cell(seconds(time), time),
            Cell(row.machine),
            paper,
        ]

    columns = (
        *_START,
        Column("Title", False),
        Column("Parameters"),
        Column("Fit, s"),
        Column("s/image"),
        Column("Measured on", False),
        Column("Paper", False),
    )
    return Table(title="Methods", columns=columns, groups=_grouped(board, cells, [""] * 6))


def _unranked(board: Board) -> list[Table]:
    """Return what stands below the line, with the reason."""
    rows = []
    for row in board.placed("unranked"):
        record = row.record
        seed = Cell(str(record.seed) if record.method.fits else NOTHING)
        value = _cell(row.primary, board.asked.primary, full)
        rows.append((_identity(board, row)[1], seed, Cell(record.status), value, Cell(row.reason)))
    columns = (
        Column("Method", False),
        Column("Seed"),
        Column("Status", False),
        Column(heading(board.asked.primary)),
        Column("Reason", False),
    )
    return [Table(title="Not ranked", columns=columns, groups=(Group("", tuple(rows)),))] if rows else []


def _reported(board: Board) -> list[Table]:
    """Return the numbers that the paper reports."""
    if board.protocol is None or not board.protocol.reported:
        return []
    made = []
    reported = board.protocol.reported
    present = {metric for line in reported for metric in line.values}
    metrics = [m for m in board.asked.metrics if m in present] + sorted(present - set(board.asked.metrics))
    for start, part in enumerate(_parts(metrics, WIDEST - 3)):
        rows = tuple(
            (
                Cell(clean(line.method)),
                Cell(clean(line.test)),
                Cell(clean(line.source)),
                *(_cell(Number(value=line.values.get(metric)), metric) for metric in part),
            )
            for line in reported
        )
        made.append(
            Table(
                title="" if start else "As reported by the paper, on other data; never ranked",
                columns=(
                    Column("Method", False),
                    Column("Tested on", False),
                    Column("Source", False),
                    *(Column(heading(metric)) for metric in part),
                ),
                groups=(Group("", rows),),
            )
        )
    return made
