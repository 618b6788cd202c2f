"""Thresholded metrics under every convention in use, side by side: a page of its own beside a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from flbench.protocol import METRICS
from flbench.record import Convention
from flbench.reporting.layout import WIDEST, Cell, Column, Group, Table, parts
from flbench.reporting.model import Board, Row
from flbench.reporting.words import NOTHING, Number, clean, plain
from flbench.scoring.conventions import CONVENTIONS

Shown = Mapping[str, Mapping[str, Convention]]
"""Name of a method, or of whatever a column is about, to name of a convention to its number."""

BETWEEN = " · "


class _Name(NamedTuple):
    """A convention's name in parts: `f1/image/fakes/0.5/as-is/0.1`."""

    metric: str
    images: str
    how: str
    truth: str

    @classmethod
    def of(cls, name: str) -> _Name:
        words = name.split("/")
        if len(words) < 5:
            return cls("", "", name, "")
        return cls(words[0], " / ".join(words[1:3]), " / ".join(words[3:-1]), words[-1])


def convention_tables(board: Board) -> list[Table]:
    """Return a table per test slice of clean images and metric; nothing if the records have no conventions."""
    rows = [*board.placed("ranked"), *board.placed("reference")]
    made: list[Table] = []
    for test in board.tests:
        names = {row.method + (" (reference)" if row.place == "reference" else ""): row for row in rows}
        shown = {name: found for name, row in names.items() if (found := _of(row, test.name))}
        made += side_by_side(shown, clean(test.name), folded=board.long)
    return made


def side_by_side(shown: Shown, title: str, *, folded: bool = False) -> list[Table]:
    """Return a table per metric: a row per convention with its images, a column per method.

    Conventions that differ in the ground truth's binarisation alone stand in one cell, in ascending order. They are
    ordered as `CONVENTIONS` has them, others by name behind them.

    Args:
        shown: What stands in the columns.
        title: What the numbers are of.
        folded: Whether the tables are closed at first.
    """
    order = {name: place for place, name in enumerate(CONVENTIONS)}
    names = sorted(
        {name for found in shown.values() for name in found}, key=lambda name: (order.get(name, len(order)), name)
    )
    metrics = dict.fromkeys(_Name.of(name).metric for name in names)
    made: list[Table] = []
    for metric in metrics:
        mine = [name for name in names if _Name.of(name).metric == metric]
        truths = list(dict.fromkeys(_Name.of(name).truth for name in mine))
        heading = f"{clean(METRICS.get(metric, metric))}: {title}" if metric else title
        note = f"Ground truth binarised at {BETWEEN.join(map(clean, truths))}." if truths != [""] else ""
        for start, part in enumerate(parts(list(shown), WIDEST - 3)):
            columns = (Column("Convention", False), Column("Images"), Column("Undefined"), *map(Column, part))
            groups = _groups([shown[column] for column in part], mine)
            told = {} if start else {"title": heading, "note": note}
            made.append(Table(**{"title": "", **told}, columns=columns, groups=groups, folded=folded))
    return made


def _groups(columns: Sequence[Mapping[str, Convention]], names: Sequence[str]) -> tuple[Group, ...]:
    """Return rows by what is averaged over which images."""
    together: dict[str, dict[str, list[str]]] = {}
    for name in names:
        known = _Name.of(name)
        together.setdefault(known.images, {}).setdefault(known.how, []).append(name)
    return tuple(
        Group(clean(images), tuple(_row(how, members, columns) for how, members in rows.items()))
        for images, rows in together.items()
    )


def _row(how: str, members: Sequence[str], columns: Sequence[Mapping[str, Convention]]) -> tuple[Cell, ...]:
    found = [[column.get(name) for name in members] for column in columns]
    counts = [[None if c is None else c.n for c in column] for column in found]
    left_out = [[None if c is None else c.undefined for c in column] for column in found]
    values = [Cell(BETWEEN.join(_value(c) for c in column)) for column in found]
    return Cell(clean(how)), Cell(_counted(counts)), Cell(_counted(left_out)), *values


def _value(found: Convention | None) -> str:
    return NOTHING if found is None else plain(Number(value=found.value), "")


def _counted(columns: Sequence[Sequence[int | None]]) -> str:
    """Return counts that all methods share, for each ground truth unless they are equal; a range if methods differ."""
    said = []
    for place in zip(*columns, strict=True):
        known = sorted({count for count in place if count is not None})
        said.append(NOTHING if not known else str(known[0]) if len(known) == 1 else f"{known[0]}–{known[-1]}")
    return said[0] if len(set(said)) == 1 else BETWEEN.join(said)


def _of(row: Row, test: str) -> dict[str, Convention]:
    """Return the conventions of one method, means over its seeds."""
    results = [result for entry in row.entries if (result := entry.record.result(test)) is not None]
    names = dict.fromkeys(name for result in results for name in result.conventions)
    return {name: _mean([r.conventions[name] for r in results if name in r.conventions]) for name in names}


def _mean(found: Sequence[Convention]) -> Convention:
    values = [convention.value for convention in found if convention.value is not None]
    return Convention(
        value=fmean(values) if len(values) == len(found) else None,
        n=min(convention.n for convention in found),
        undefined=max(convention.undefined for convention in found),
    )
