"""The figures of a board: which there are, what they are called, and their files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flbench.protocol import fingerprint
from flbench.reporting.curves import draw_gamma, measured, shown
from flbench.reporting.dots import SIDE_BY_SIDE, draw_dots, drawn_rows
from flbench.reporting.drawing import SUFFIXES, marked, save
from flbench.reporting.heat import blocks, draw_heat
from flbench.reporting.model import Board
from flbench.reporting.reliability import draw_reliability, scored
from flbench.reporting.words import TITLES, clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWING = 1
"""Increased when figures of the same records are to look different."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One figure of a board.

    Attributes:
        name: Part of its file's name, unique on the board.
        caption: What it shows, in a sentence.
        mark: Follows from the records that are drawn; files with another mark show other records.
        draw: Draws it, under `drawing.settings`.
    """

    name: str
    caption: str
    mark: str
    draw: Callable[[], Figure]

    def files(self, into: Path, stem: str) -> list[Path]:
        """Return where it is written: SVG, then PNG."""
        return [into / f"{stem}-{self.name}{suffix}" for suffix in SUFFIXES]


def board_plots(board: Board) -> list[Plot]:
    """Return the figures that a board has, in order; nothing is drawn yet.

    Methods on every metric; γ under degradations, one figure per test slice or for the means of many; a matrix of fits
    and tests for each ranked method; reliability of the image score.
    """
    label = f"{clean(board.asked.name)} on {clean(board.dataset.name)}"
    found = [*_methods(board, label), *_gamma(board, label), *_matrices(board, label), *_reliability(board, label)]
    seen = fingerprint(
        [
            DRAWING,
            list(board.key),
            [[row.method, row.rank, [e.record.digest for e in row.entries]] for row in drawn_rows(board)],
        ]
    )
    names: dict[str, int] = {}
    made = []
    for name, caption, draw in found:
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}-{names[name]}"
        made.append(Plot(name=unique, caption=caption, mark=fingerprint([seen, unique])[:16], draw=draw))
    return made


def draw_board_figures(board: Board, into: Path, stem: str = "") -> list[Path]:
    """Draw the figures of a board, as `draw_plots` does; `stem` is "" for the protocol's name.

    Raises:
        RunError: A file cannot be written.
    """
    return draw_plots(board_plots(board), into, stem or board.key.protocol)


def draw_plots(plots: Iterable[Plot], into: Path, stem: str) -> list[Path]:
    """Draw figures as `<stem>-<name>.svg` and `.png`; what is drawn already stays as it is.

    Args:
        plots: The figures of a board.
        into: Folder.
        stem: What file names start with.

    Returns:
        The files that were written.

    Raises:
        RunError: A file cannot be written.
    """
    written = []
    for plot in plots:
        files = plot.files(into, stem)
        if not all(is_drawn(file, plot) for file in files):
            save(plot.draw, files, plot.mark)
            written += files
    return written


def is_drawn(file: Path, plot: Plot) -> bool:
    """Return whether a file shows the records of a figure, however it came about."""
    return file.is_file() and marked(file, plot.mark)


Found = tuple[str, str, Callable[[], "Figure"]]


def _methods(board: Board, label: str) -> Iterator[Found]:
    if len(drawn_rows(board)) > 1:
        what = "95 % intervals (over several seeds: standard deviations)"
        if len(board.tests) > SIDE_BY_SIDE:
            what = "means and ranges over the test slices that rank"
        yield "methods", f"Every metric of every method, with {what}.", partial(draw_dots, board, f"Methods: {label}")


def _gamma(board: Board, label: str) -> Iterator[Found]:
    if len(board.conditions) < 2 or not shown(board):
        return
    left_out = len(board.placed("ranked")) - len(shown(board))
    rest = f" The first {len(shown(board))} methods by rank." if left_out else ""
    groups = [("", board.ranking)] if board.long else [(test.name, [test.name]) for test in board.tests]
    for name, tests in groups:
        if not measured(board, tests):
            continue
        of = f", means over {len(tests)} test slices" if board.long else f": {clean(name)}" if len(groups) > 1 else ""
        caption = f"γ, the percentage of the clean value, with 95 % intervals{of}.{rest}"
        if board.long:
            caption = f"γ, the percentage of the clean value{of}.{rest}"
        part = "gamma" if len(groups) == 1 else f"gamma-{slug(name)}"
        yield part, caption, partial(draw_gamma, board, tests, f"Left under degradations: {label}{of}")


def _matrices(board: Board, label: str) -> Iterator[Found]:
    if not blocks(board):
        return
    primary = TITLES.get(board.asked.primary, board.asked.primary)
    for row in board.placed("ranked"):
        caption = (
            f"{primary} of {row.method}, fitted on rows and tested on columns; framed: tested on its own category."
        )
        yield f"matrix-{slug(row.method)}", caption, partial(draw_heat, board, row, f"{row.method}: {label}")


def _reliability(board: Board, label: str) -> Iterator[Found]:
    if scored(board):
        caption = "Share of fakes against the image score in ten bins, with the expected calibration error (ECE)."
        yield "scores", caption, partial(draw_reliability, board, f"Reliability of the image score: {label}")


def slug(text: str) -> str:
    """Return text as part of a file's name; what had to change is told apart by a piece of its fingerprint."""
    kept = re.sub(r"[^A-Za-z0-9._=+-]+", "-", text).strip(".-")[:60]
    return kept if kept == text else f"{kept or 'x'}-{fingerprint(text)[:6]}"
