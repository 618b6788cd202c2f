"""How far an image score is a probability: the share of fakes among images that were given about the same score."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flbench.reporting.drawing import blank, panes
from flbench.reporting.model import Board, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 10
ACROSS = 4
"""Methods in a row."""


class Reliability(NamedTuple):
    """Scores in bins of equal width; the last one holds a score of 1 too.

    Attributes:
        fakes: int64 (bins,), fakes in each bin.
        reals: int64 (bins,), real photos in each.
        scores: float64 (bins,), mean score in each; NaN for an empty one.
        error: Expected calibration error in [0, 1]: mean over images of the distance between the mean score and the
            share of fakes in their bin (Naeini et al. 2015).
    """

    fakes: NDArray[np.int64]
    reals: NDArray[np.int64]
    scores: NDArray[np.float64]
    error: float

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images in each bin."""
        return self.fakes + self.reals

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of fakes in each bin, float64 (bins,); NaN for an empty one."""
        return np.divide(self.fakes, self.counts, out=np.full(len(self.fakes), np.nan), where=self.counts > 0)


def reliability(scores: NDArray[np.floating], fake: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Put scores into bins.

    Args:
        scores: (n,) in [0, 1], n at least 1.
        fake: (n,).
        bins: How many.
    """
    edges = np.arange(1, bins) / bins
    places = np.searchsorted(edges, scores, side="right")
    fakes = np.bincount(places[fake], minlength=bins)
    reals = np.bincount(places[~fake], minlength=bins)
    counts = fakes + reals
    sums = np.bincount(places, weights=scores, minlength=bins)
    means = np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)
    error = float(np.abs(sums - fakes).sum() / counts.sum())
    return Reliability(fakes, reals, means, error)


def of_row(row: Row) -> Reliability | None:
    """Return the reliability of a method on clean images: every image of every test slice and seed that has a score.

    Returns:
        None without per-image scores, or without both fakes and real photos.
    """
    tables = [entry.scores for entry in row.entries if entry.scores is not None]
    parts = [
        table[(table["condition"] == "clean") & (table["status"] == "ok") & table["score"].notna()] for table in tables
    ]
    if not parts:
        return None
    scores = np.concatenate([part["score"].to_numpy(np.float64) for part in parts])
    fake = np.concatenate([(part["label"] == "fake").to_numpy(bool) for part in parts])
    if not fake.any() or fake.all():
        return None
    return reliability(np.clip(scores, 0, 1), fake)


def scored(board: Board) -> list[Row]:
    """Return the ranked methods whose scores can be drawn."""
    return [row for row in board.placed("ranked") if of_row(row) is not None]


def draw_reliability(board: Board, title: str) -> Figure:
    """Draw for every ranked method the share of fakes against the score, and below how many images there are.

    Args:
        board: The board.
        title: Printed above.
    """
    found = [(row, known) for row in board.placed("ranked") if (known := of_row(row)) is not None]
    across = min(ACROSS, len(found))
    down = -(-len(found) // across)
    figure = blank(0.5 + 2.5 * max(2, across), 0.9 + 3.1 * down)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=10, fontweight="bold")
    grid = panes(figure, 2 * down, across, height_ratios=[2.4, 1.0] * down)
    for place in range(down * across):
        upper, lower = grid[2 * (place // across)][place % across], grid[2 * (place // across) + 1][place % across]
        if place >= len(found):
            upper.set_axis_off()
            lower.set_axis_off()
            continue
        row, known = found[place]
        _curve(upper, known)
        _bars(lower, known)
        upper.set_title(f"{row.method}\nECE {known.error:.3f}, {known.counts.sum():,} images")
        if place % across == 0:
            upper.set_ylabel("share of fakes")
            lower.set_ylabel("images")
    handles, names = grid[1][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _curve(axes: Axes, known: Reliability) -> None:
    bins = len(known.counts)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
    filled = known.counts > 0
    left = np.arange(bins)[filled] / bins
    axes.bar(left, known.shares[filled], 1 / bins, align="edge", color="#56B4E9", alpha=0.45, edgecolor="white")
    axes.plot(known.scores[filled], known.shares[filled], color="#0072B2", marker="o", ms=4, linewidth=1.2)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(np.arange(0, 1.1, 0.2), [])
    axes.tick_params(labelsize=7.5)


def _bars(axes: Axes, known: Reliability) -> None:
    bins = len(known.counts)
    left = np.arange(bins) / bins
    axes.bar(left, known.reals, 1 / bins, align="edge", color="0.75", edgecolor="white", label="real")
    axes.bar(
        left, known.fakes, 1 / bins, bottom=known.reals, align="edge", color="#D55E00", edgecolor="white", label="fake"
    )
    for x, count in zip(left, known.counts, strict=True):
        if count:
            axes.text(x + 0.5 / bins, count, f"{count}", ha="center", va="bottom", fontsize=5.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.25 * known.counts.max())
    axes.set_xticks(np.arange(0, 1.1, 0.2), [f"{x:.1f}" for x in np.arange(0, 1.1, 0.2)])
    axes.set_xlabel("image score")
    axes.tick_params(labelsize=7)
    axes.grid(visible=False, axis="x")
