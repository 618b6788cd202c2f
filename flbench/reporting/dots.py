"""Methods side by side: a pane per metric, a dot with its interval per method, as Table 2 of the paper in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from flbench.protocol import LOWER_IS_BETTER
from flbench.reporting.drawing import LOOKS, REFERENCE, Look, blank, panes
from flbench.reporting.model import Board, Row
from flbench.reporting.words import Number, bare, clean, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ACROSS = 3
"""Panes in a row."""
SIDE_BY_SIDE = 4
"""Test slices drawn as dots of their own; of more, mean and range are drawn."""
_OPEN = frozenset({"psnr", *LOWER_IS_BETTER})
"""Metrics whose pane ends where the ranked methods do, since all that is of interest may be far below the top."""


class Dot(NamedTuple):
    """A value and what lies around it: interval, standard deviation, or range over test slices."""

    value: float
    low: float
    high: float


def drawn_rows(board: Board) -> list[Row]:
    """Return the methods that are drawn, the best first, then reference rows."""
    return [*board.placed("ranked"), *board.placed("reference")]


def draw_dots(board: Board, title: str) -> Figure:
    """Draw every metric of the protocol for every method.

    Up to four test slices have a dot each, with its 95 % interval (over several seeds the standard deviation); of more
    the dot is the mean and the line the range over the slices that rank. PSNR and errors are drawn up to what holds the
    ranked methods; the value of a reference row beyond is written at the border.

    Args:
        board: The board.
        title: Printed above.
    """
    rows, metrics = drawn_rows(board), board.asked.metrics
    tests = [test.name for test in board.tests] if len(board.tests) <= SIDE_BY_SIDE else []
    across = min(ACROSS, len(metrics))
    down = -(-len(metrics) // across)
    each = 0.24 + 0.11 * max(0, len(tests) - 1)
    longest = max(len(row.method) for row in rows)
    figure = blank(0.4 + min(3.0, 0.075 * longest) + 2.5 * across, 0.75 + down * (0.55 + each * len(rows)))
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=10, fontweight="bold")
    places = [axes for line in panes(figure, down, across, sharey=True) for axes in line]
    for axes, metric in zip(places, metrics, strict=False):
        _pane(axes, board, rows, metric, tests)
    for axes in places[len(metrics) :]:
        axes.set_axis_off()
    if len(tests) > 1:
        handles = [_handle(test, look) for test, look in zip(tests, LOOKS, strict=False)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(tests))
    return figure


def dot(number: Number | None) -> Dot | None:
    """Return a number as it is drawn; None if it is undefined."""
    if number is None or number.value is None:
        return None
    value = number.value
    if number.std is not None:
        return Dot(value, value - number.std, value + number.std)
    return Dot(value, value if number.low is None else number.low, value if number.high is None else number.high)


def spread(row: Row, tests: Sequence[str], metric: str) -> Dot | None:
    """Return mean and range of a metric over test slices; None unless all have it."""
    found = [row.number(test, metric) for test in tests]
    values = [number.value for number in found if number is not None and number.value is not None]
    if not values or len(values) < len(found):
        return None
    return Dot(sum(values) / len(values), min(values), max(values))


def _pane(axes: Axes, board: Board, rows: Sequence[Row], metric: str, tests: Sequence[str]) -> None:
    lines = []
    for place, row in enumerate(rows):
        dots = [dot(row.number(test, metric)) for test in tests] if tests else [spread(row, board.ranking, metric)]
        lines.append((place, row, dots))
    low, high = _limits(metric, [(row, dots) for _, row, dots in lines])
    for place, row, dots in lines:
        for k, found in enumerate(dots):
            shift = 0.0 if len(dots) == 1 else 0.6 * ((k + 0.5) / len(dots) - 0.5)
            if found is not None:
                _mark(axes, found, place + shift, LOOKS[k], row.place == "reference", low, high, metric)
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(visible=False, axis="y")
    ranked = sum(row.place == "ranked" for row in rows)
    if 0 < ranked < len(rows):
        axes.axhline(ranked - 0.5, color="0.7", linewidth=0.8)
    axes.set_title(clean(heading(metric)))


def _limits(metric: str, lines: Sequence[tuple[Row, Sequence[Dot | None]]]) -> tuple[float, float]:
    """Return the range of a pane: 0 to 1, or from 0 to what holds the ranked methods."""
    told = [found for _, dots in lines for found in dots if found is not None]
    if metric not in _OPEN:
        return min([0.0, *(found.low for found in told)]) - 0.03, max([1.0, *(found.high for found in told)]) + 0.03
    ranked = [found.high for row, dots in lines if row.place == "ranked" for found in dots if found is not None]
    top = max(ranked or [found.high for found in told] or [1.0]) or 1.0
    return -0.02 * top, 1.3 * top


def _mark(axes: Axes, found: Dot, y: float, look: Look, reference: bool, low: float, high: float, metric: str) -> None:
    colour = REFERENCE.colour if reference else look.colour
    if found.value > high:
        text = f"{bare(Number(value=found.value), metric)} →"
        axes.text(high, y, text, ha="right", va="center", fontsize=7, color="0.35")
        return
    axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    face = "white" if reference else colour
    axes.plot([found.value], [y], marker=look.marker, color=colour, markerfacecolor=face, linestyle="", ms=5)


def _handle(test: str, look: Look) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="", ms=5, label=clean(test))
