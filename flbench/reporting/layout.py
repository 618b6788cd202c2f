"""Tables without markup, and the two ways in which rows of a board stand in them: a row or a column per method.

Every format (markdown now, others later) and the terminal draw these same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from flbench.protocol import LOWER_IS_BETTER
from flbench.reporting.model import Board, Row
from flbench.reporting.words import NOTHING, Number, plain

T = TypeVar("T")

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
        folded: Whether it is closed at first, where the format can.
    """

    title: str
    note: str = ""
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    folded: bool = False


Draw = Callable[[Number | None, str], str]
START = (Column("Rank"), Column("Method", False))


class Line(NamedTuple):
    """A row of a table that has a column per method.

    Attributes:
        name: What the row is about.
        metric: Whose best value is made strong; "" for none.
        cell: Draws the cell of a method.
    """

    name: str
    metric: str
    cell: Callable[[Row], Cell]


def parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut what does not fit into one table into pieces that do."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def drawn(number: Number | None, metric: str, draw: Draw = plain) -> Cell:
    """Return a number as a cell."""
    return Cell(draw(number, metric), number.value if number is not None else None)


def best(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """Return cells with the best one strong, and all that show the same number; of one number none is the best."""
    values = [cell.value for cell in cells if cell.value is not None]
    if not metric or len(values) < 2:
        return list(cells)
    top = min(values) if metric in LOWER_IS_BETTER else max(values)
    shown = {cell.text.split(" ")[0] for cell in cells if cell.value == top}
    return [cell._replace(strong=cell.text.split(" ")[0] in shown) for cell in cells]


def footnotes(board: Board) -> list[str]:
    """Return the notes of all rows, each text once; a mark is the place in this list, from 1."""
    return list(dict.fromkeys(note for row in board.rows for note in row.notes))


def identity(board: Board, row: Row) -> tuple[Cell, Cell]:
    """Return rank and method, which every table with a row per method starts with."""
    notes = footnotes(board)
    marks = tuple(notes.index(note) + 1 for note in row.notes)
    return Cell(row.rank or NOTHING), Cell(row.method, marks=marks)


def down(board: Board, cells: Callable[[Row], Sequence[Cell]], metrics: Sequence[str]) -> tuple[Group, ...]:
    """Return a row per method: ranked ones with the best of each column strong, then reference rows.

    Args:
        board: The board.
        cells: What follows rank and method in a row.
        metrics: Metric of each of these cells; "" for a column without a best.
    """
    ranked, references = board.placed("ranked"), board.placed("reference")
    columns = [
        best(column, metric) for column, metric in zip(_turned(map(cells, ranked)), metrics, strict=bool(ranked))
    ]
    found = _turned(columns) if columns else [()] * len(ranked)
    first = tuple((*identity(board, row), *cells_) for row, cells_ in zip(ranked, found, strict=True))
    second = tuple((*identity(board, row), *cells(row)) for row in references)
    return tuple(Group(label, rows) for label, rows in (("", first), ("Reference rows, never ranked", second)) if rows)


def across(
    board: Board,
    title: str,
    head: str,
    groups: Iterable[tuple[str, Sequence[Line]]],
    *,
    note: str = "",
    folded: bool = False,
) -> list[Table]:
    """Return a column per method, ranked ones first; as many tables as it takes.

    Args:
        board: The board.
        title: Heading of the first table.
        head: Head of the first column.
        groups: Labels and lines.
        note: A sentence under the heading.
        folded: Whether the tables are closed at first.
    """
    ranked, references = board.placed("ranked"), board.placed("reference")
    names = [row.method for row in ranked] + [f"{row.method} (reference)" for row in references]
    filled = []
    for label, lines in groups:
        rows = [
            (line.name, [*best([line.cell(r) for r in ranked], line.metric), *map(line.cell, references)])
            for line in lines
        ]
        filled.append((label, rows))
    made: list[Table] = []
    for part in parts(range(len(names)), WIDEST - 1):
        columns = (Column(head, False), *(Column(names[k]) for k in part))
        shown = tuple(
            Group(label, tuple((Cell(name), *(cells[k] for k in part)) for name, cells in rows))
            for label, rows in filled
        )
        made.append(
            Table(title="" if made else title, note="" if made else note, columns=columns, groups=shown, folded=folded)
        )
    return made


def _turned(rows: Iterable[Sequence[Cell]]) -> list[tuple[Cell, ...]]:
    return list(zip(*rows, strict=True))
