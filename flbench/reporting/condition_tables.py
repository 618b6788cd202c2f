"""What is left of a method under degradations, with γ, the percentage of the clean value, and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean

from flbench.reporting.conditions import families
from flbench.reporting.layout import Cell, Line, Table, across, drawn
from flbench.reporting.model import Board, Row
from flbench.reporting.words import Number, clean, heading, share

NOTE = "In brackets γ, the percentage of the clean value, with the 95 % interval of a paired bootstrap over people."
MEANS = "Means over the {} test slices that rank; in brackets the mean of γ, the percentage of the clean value."


def condition_tables(board: Board, metrics: Sequence[str] = ()) -> list[Table]:
    """Return a table per metric: conditions are rows, methods are columns.

    One test slice has its conditions by kind; of several each has a group; of many the means are shown.

    Args:
        board: The board.
        metrics: Which; none: all, and those that do not rank are closed at first.
    """
    if len(board.conditions) < 2:
        return []
    made = []
    for metric in metrics or board.asked.metrics:
        if board.long:
            name, note = f"{heading(metric)} under conditions", MEANS.format(len(board.ranking))
            groups = _by_kind(board, tuple(board.ranking), metric)
        elif len(board.tests) > 1:
            name, note = f"{heading(metric)} under conditions", NOTE
            groups = [(clean(t.name), [_line(c, (t.name,), metric) for c in board.conditions]) for t in board.tests]
        else:
            (test,) = board.tests
            name, note = f"{heading(metric)} under conditions: {clean(test.name)}", NOTE
            groups = _by_kind(board, (test.name,), metric)
        folded = not metrics and metric != board.asked.primary
        made += across(board, name, "Condition", groups, note=note, folded=folded)
    return made


def _by_kind(board: Board, tests: tuple[str, ...], metric: str) -> list[tuple[str, list[Line]]]:
    groups = [("", [_line("clean", tests, metric)])]
    for family in families(board.conditions):
        label = f"{family.title}: {family.axis}" if family.axis else family.title
        groups.append((label, [_line(name, tests, metric) for name in family.names]))
    return groups


def _line(condition: str, tests: tuple[str, ...], metric: str) -> Line:
    return Line(clean(condition), metric, partial(_cell, condition=condition, tests=tests, metric=metric))


def _cell(row: Row, *, condition: str, tests: tuple[str, ...], metric: str) -> Cell:
    number = mean([row.number(test, metric, condition) for test in tests])
    cell = drawn(number, metric)
    gamma = mean([row.gamma(test, metric, condition) for test in tests])
    if gamma is not None and row.place == "reference":  # what they are worth is known; their columns stay narrow
        gamma = Number(value=gamma.value)
    left = share(gamma)
    return cell._replace(text=f"{cell.text} ({left})") if left and number is not None else cell


def mean(numbers: Sequence[Number | None]) -> Number | None:
    """Return the mean over test slices: of one slice its number; of several without an interval, if all have one."""
    if len(numbers) == 1:
        return numbers[0]
    values = [number.value for number in numbers if number is not None and number.value is not None]
    return Number(value=fmean(values)) if numbers and len(values) == len(numbers) else None
