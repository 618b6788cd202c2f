"""The primary metric as a matrix: what was fitted on against what was tested on, as Table 4 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flbench.protocol import LOWER_IS_BETTER, Category
from flbench.reporting.drawing import blank, panes
from flbench.reporting.model import Board, Row, Slice
from flbench.reporting.words import bare, clean, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

ACROSS = 4
"""Blocks in a row."""
_CELL, _LABELS = 0.52, 1.15  # inches


class Block(NamedTuple):
    """Fits and what they were tested on, as far as they have to do with each other.

    Attributes:
        title: What all fits and tests share, such as the attribute; "" if nothing.
        fits: Names to print, a row each.
        tests: Names to print, a column each.
        cells: (row, column) to the name of the test slice.
        own: Cells whose test categories are those of the fit.
    """

    title: str
    fits: tuple[str, ...]
    tests: tuple[str, ...]
    cells: Mapping[tuple[int, int], str]
    own: frozenset[tuple[int, int]]


def blocks(board: Board) -> list[Block]:
    """Return the matrix of fits and tests; in pieces if it falls into several of at least 2 × 2 each.

    Returns:
        Nothing if the protocol is not at hand, has one fit, or tests no fit on two things.
    """
    if board.protocol is None:
        return []
    known = {fit.name: fit.categories for fit in board.protocol.fit}
    tests = [test for test in board.tests if test.fit in known]
    fits = list(dict.fromkeys(test.fit for test in tests))
    if len(fits) < 2 or max(sum(t.fit == fit for t in tests) for fit in fits) < 2:
        return []
    pieces = _pieces(tests)
    whole = any(len({f(t) for t in piece}) < 2 for piece in pieces for f in (lambda t: t.fit, _column))
    return [_block(piece, known) for piece in ([tests] if whole else pieces)]


def draw_heat(board: Board, row: Row, title: str) -> Figure:
    """Draw the matrix of one method with the value in every cell; a framed cell is tested on what it was fitted on.

    Colours have the same range for every method of the board, and are lighter where the value is better.

    Args:
        board: The board.
        row: The method.
        title: Printed above.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    primary = board.asked.primary
    found = blocks(board)
    across = min(ACROSS, len(found))
    down = -(-len(found) // across)
    wide = max(len(block.tests) for block in found) * _CELL + _LABELS
    high = max(len(block.fits) for block in found) * _CELL + _LABELS
    colours = colormaps["cividis_r" if primary in LOWER_IS_BETTER else "cividis"]
    scale = ScalarMappable(Normalize(0, _top(board)), colours)
    figure = blank(0.9 + across * wide, 0.6 + down * high)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=10, fontweight="bold")
    places = [axes for line in panes(figure, down, across) for axes in line]
    for axes, block in zip(places, found, strict=False):
        _matrix(axes, block, row, primary, scale)
    for axes in places[len(found) :]:
        axes.set_axis_off()
    bar = figure.colorbar(scale, ax=places, fraction=0.03, aspect=30)
    bar.set_label(heading(primary))
    bar.outline.set_visible(False)
    figure.supxlabel("tested on", fontsize=9)
    figure.supylabel("fitted on", fontsize=9)
    return figure


def _column(test: Slice) -> str:
    """Return what makes two slices one column."""
    return ", ".join(test.categories) or test.name


def _pieces(tests: Sequence[Slice]) -> list[list[Slice]]:
    """Return slices in groups that share neither fit nor column with each other."""
    made: list[list[Slice]] = []
    for test in tests:
        linked = [piece for piece in made if any(t.fit == test.fit or _column(t) == _column(test) for t in piece)]
        made = [piece for piece in made if piece not in linked] + [[*(t for piece in linked for t in piece), test]]
    order = {test.name: place for place, test in enumerate(tests)}
    ordered = [sorted(piece, key=lambda test: order[test.name]) for piece in made]
    return sorted(ordered, key=lambda piece: order[piece[0].name])


def _block(tests: Sequence[Slice], known: Mapping[str, tuple[str, ...]]) -> Block:
    fits = list(dict.fromkeys(test.fit for test in tests))
    columns = list(dict.fromkeys(_column(test) for test in tests))
    # Columns in the order of the fits put what was fitted and tested on one thing onto the diagonal.
    own_columns = [", ".join(known[fit]) for fit in fits]
    columns.sort(key=lambda column: own_columns.index(column) if column in own_columns else len(fits))
    cells, own = {}, set()
    for test in tests:
        place = fits.index(test.fit), columns.index(_column(test))
        cells[place] = test.name
        if set(test.categories) == set(known[test.fit]):
            own.add(place)
    title, drop = _shared([name for fit in fits for name in known[fit]] + [n for t in tests for n in t.categories])
    fit_names = [_short(known[fit], drop) or fit for fit in fits]
    if len(set(fit_names)) < len(fits):
        fit_names = fits
    by_column = {_column(test): test for test in tests}
    names = [_short(by_column[column].categories, drop) or by_column[column].name for column in columns]
    return Block(title, tuple(map(clean, fit_names)), tuple(map(clean, names)), cells, frozenset(own))


def _shared(names: Sequence[str]) -> tuple[str, int | None]:
    """Return the generator or attribute that all categories share, and which part of a name it is."""
    parsed = [Category.parse(name) for name in names]
    for part in (1, 0):
        words = {category[part] for category in parsed}
        if len(words) == 1:
            return words.pop(), part
    return "", None


def _short(categories: Sequence[str], drop: int | None) -> str:
    """Return a few categories without the part that all share; "" for many, which a slice's own name says better."""
    if len(categories) > 2:
        return ""
    words = [name if drop is None else Category.parse(name)[1 - drop] for name in categories]
    return ",\n".join(words)


def _top(board: Board) -> float:
    """Return the top of the colours' range: 1, or the highest value on the board."""
    primary = board.asked.primary
    numbers = [row.number(test.name, primary) for row in board.placed("ranked") for test in board.tests]
    return max([1.0, *(n.value for n in numbers if n is not None and n.value is not None)])


def _matrix(axes: Axes, block: Block, row: Row, primary: str, scale: ScalarMappable) -> None:
    from matplotlib.patches import Rectangle

    axes.set_xlim(-0.5, len(block.tests) - 0.5)
    axes.set_ylim(len(block.fits) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    for (y, x), test in block.cells.items():
        number = row.number(test, primary)
        value = number.value if number is not None else None
        colour = (0.95, 0.95, 0.95, 1.0) if value is None else scale.to_rgba(np.array([value]))[0]
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
        light = sum(part * weight for part, weight in zip(colour, (0.299, 0.587, 0.114), strict=False))
        ink = "black" if light > 0.5 else "white"
        axes.text(x, y, bare(number, primary), ha="center", va="center", fontsize=7.5, color=ink)
    for y, x in sorted(block.own):
        for width, ink in ((2.6, "white"), (1.4, "black")):
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=ink, linewidth=width))
    turn = 0 if max(len(name) for name in block.tests) <= 6 else 35
    axes.set_xticks(range(len(block.tests)), block.tests, rotation=turn, ha="right" if turn else "center", fontsize=7.5)
    axes.set_yticks(range(len(block.fits)), block.fits, fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(clean(block.title), fontweight="bold")
