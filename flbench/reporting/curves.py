"""Curves of γ under degradations, as Fig. 10 of the paper: severity in native units, a line per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from flbench.reporting.condition_tables import mean
from flbench.reporting.conditions import Family, families, phrase
from flbench.reporting.drawing import LOOKS, Look, blank, panes
from flbench.reporting.model import Board, Row
from flbench.reporting.words import TITLES, Number, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ACROSS = 3
"""Panes in a row where there is one kind of degradation."""
_LOGARITHMIC = 16  # from this ratio of severities on


class Point(NamedTuple):
    """γ at one severity, in percent, and what lies around it."""

    x: float
    value: float
    low: float
    high: float


def shown(board: Board) -> list[Row]:
    """Return the methods that are drawn: as many of the ranked ones as can be told apart."""
    return board.placed("ranked")[: len(LOOKS)]


def measured(board: Board, tests: Sequence[str]) -> list[str]:
    """Return the metrics that have a γ on these test slices."""
    return [
        metric
        for metric in board.asked.metrics
        if any(row.gamma(t, metric, c) for row in shown(board) for t in tests for c in board.conditions)
    ]


def draw_gamma(board: Board, tests: Sequence[str], title: str) -> Figure:
    """Draw a pane per metric and kind of degradation.

    Bands are 95 % intervals, over several seeds the standard deviation; means over several test slices have none. At a
    severity that changes nothing, such as a blur of one pixel, γ is 100.

    Args:
        board: The board.
        tests: Test slices; of several the mean is drawn.
        title: Printed above.
    """
    kinds, metrics = families(board.conditions), measured(board, tests)
    if len(kinds) == 1:
        across = min(ACROSS, len(metrics))
        grid = [[(metric, kinds[0]) for metric in metrics[i : i + across]] for i in range(0, len(metrics), across)]
        ratios = [1.0] * across
    else:
        grid = [[(metric, kind) for kind in kinds] for metric in metrics]
        ratios = [1.0 if kind.axis else max(0.35, min(1.0, 0.2 * len(kind.names))) for kind in kinds]
    figure = blank(1.2 + 2.3 * sum(ratios), 1.1 + 1.85 * len(grid))
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=10, fontweight="bold")
    axes = panes(figure, len(grid), len(ratios), width_ratios=ratios)
    for line, places in zip(axes, grid, strict=True):
        for pane in line[len(places) :]:
            pane.set_axis_off()
        for pane, (metric, kind) in zip(line, places, strict=False):
            _pane(pane, board, tests, metric, kind)
        if len(kinds) > 1:
            _level(line[: len(places)])
        for pane, (metric, _) in list(zip(line, places, strict=False))[: 1 if len(kinds) > 1 else None]:
            pane.set_ylabel(f"γ of {TITLES.get(metric, metric)}, %")
    if len(kinds) > 1:
        for pane, kind in zip(axes[0], kinds, strict=True):
            pane.set_title(kind.title)
    handles = [_handle(row, look) for row, look in zip(shown(board), LOOKS, strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), handlelength=3.4)
    return figure


def points(row: Row, tests: Sequence[str], metric: str, family: Family) -> list[Point]:
    """Return γ of one method for every severity that has one, in the family's order; without an axis by place."""
    same = _unchanged(family)
    found = [] if same is None else [Point(same, 100.0, 100.0, 100.0)]
    xs = family.values or tuple(float(place) for place in range(len(family.names)))
    for x, condition in zip(xs, family.names, strict=True):
        number = mean([row.gamma(test, metric, condition) for test in tests])
        if number is not None and number.value is not None:
            found.append(Point(x, number.value, *_around(number, number.value)))
    return found if same is None or len(found) > 1 else []


def _unchanged(family: Family) -> float | None:
    """Return the severity at which γ is 100 without being measured; None if the axis has no such place."""
    return None if family.identity in family.values or _logarithmic(family) else family.identity


def _around(number: Number, value: float) -> tuple[float, float]:
    if number.std is not None:
        return value - number.std, value + number.std
    return (value if number.low is None else number.low), (value if number.high is None else number.high)


def _logarithmic(family: Family) -> bool:
    values = family.values
    return bool(values) and min(values) > 0 and max(values) / min(values) >= _LOGARITHMIC and not family.falling


def _pane(axes: Axes, board: Board, tests: Sequence[str], metric: str, family: Family) -> None:
    axes.axhline(100, color="0.6", linewidth=0.8)
    rows = shown(board)
    for place, (row, look) in enumerate(zip(rows, LOOKS, strict=False)):
        found = points(row, tests, metric, family)
        if family.axis:
            _curve(axes, found, look)
        else:
            _dots(axes, found, look, 0.5 * ((place + 0.5) / len(rows) - 0.5))
    _ticks(axes, family)
    values = [point.value for row in rows for point in points(row, tests, metric, family)]
    axes.set_ylim(1.05 * min([0.0, *values]), max(105.0, axes.get_ylim()[1]))


def _curve(axes: Axes, found: Sequence[Point], look: Look) -> None:
    xs, values = [point.x for point in found], [point.value for point in found]
    lows, highs = [point.low for point in found], [point.high for point in found]
    if len(found) > 1:
        axes.fill_between(xs, lows, highs, color=look.colour, alpha=0.18, linewidth=0)
    else:  # a band needs two points
        axes.vlines(xs, lows, highs, color=look.colour, linewidth=1.2)
    axes.plot(xs, values, color=look.colour, marker=look.marker, linestyle=look.line, linewidth=1.4, ms=4.5)


def _dots(axes: Axes, found: Sequence[Point], look: Look, shift: float) -> None:
    for point in found:
        axes.plot([point.x + shift] * 2, [point.low, point.high], color=look.colour, linewidth=1.2)
        axes.plot([point.x + shift], [point.value], color=look.colour, marker=look.marker, linestyle="", ms=5)


def _ticks(axes: Axes, family: Family) -> None:
    """Name every severity; harsher is further right."""
    from matplotlib.ticker import NullFormatter, NullLocator

    if not family.axis:
        axes.set_xticks(
            range(len(family.names)), [clean(phrase(name)).replace(", then ", ",\nthen ") for name in family.names]
        )
        axes.set_xlim(-0.5, len(family.names) - 0.5)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(visible=False, axis="x")
        return
    if _logarithmic(family):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    values = [*([] if (same := _unchanged(family)) is None else [same]), *family.values]
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlabel(family.axis)
    if family.falling:
        axes.invert_xaxis()


def _level(line: Sequence[Axes]) -> None:
    """Give the panes of one metric the same range."""
    low, high = (
        pick(edges) for pick, edges in zip((min, max), zip(*(a.get_ylim() for a in line), strict=True), strict=True)
    )
    for axes in line:
        axes.set_ylim(low, high)


def _handle(row: Row, look: Look) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, ms=4.5, label=row.method)
