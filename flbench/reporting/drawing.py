"""What all figures share: fixed settings, colours that differ in lightness too, and files that do not change by chance.

Bytes depend on what is drawn and on the versions of matplotlib and FreeType, on nothing else: no date, no random name,
none of the user's settings. SVG holds its text as outlines, so that it looks the same everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flbench.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = (".svg", ".png")
MARK: Final = "made by flbench publish"
"""What the metadata of a published figure start with: a file without it was made by someone and is never removed."""

_DPI = 110
_HEAD_BYTES = 8192
_STYLE: Any = {
    "svg.hashsalt": "flbench",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "text.parse_math": False,
    "figure.facecolor": "white",
}


class Look(NamedTuple):
    """How one method is drawn: told apart by marker and line as well as by colour."""

    colour: str
    marker: str
    line: Any


# Okabe and Ito's colours, the pale ones left out and dark and light ones in turn; each with its own marker and dashes.
LOOKS: Final = (
    Look("#0072B2", "o", "-"),
    Look("#D55E00", "s", (0, (5, 2))),
    Look("#009E73", "^", (0, (1, 1.2))),
    Look("#000000", "D", (0, (6, 2, 1, 2))),
    Look("#CC79A7", "v", (0, (3, 1))),
    Look("#E69F00", "P", (0, (8, 2, 1, 2, 1, 2))),
    Look("#56B4E9", "X", (0, (2, 2))),
    Look("#7F7F7F", "*", (0, (9, 3))),
)
REFERENCE: Final = Look("0.55", "o", "-")


@contextmanager
def settings() -> Iterator[None]:
    """Draw with matplotlib's own settings and these, whatever a user's matplotlibrc says."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def panes(figure: Figure, rows: int, columns: int, **how: Any) -> list[list[Axes]]:
    """Return a grid of axes, whatever its size."""
    made: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False, **how).tolist()
    return made


def save(draw: Callable[[], Figure], files: Sequence[Path], mark: str = "", *, dpi: int = _DPI) -> None:
    """Draw once and write as SVG or PNG, by the suffixes.

    Args:
        draw: Makes the figure; called under `settings`.
        files: Where to write; PNG where the suffix is another one.
        mark: What the figure shows, kept in the metadata; "" keeps nothing.
        dpi: Pixels per inch.

    Raises:
        RunError: A file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with settings():
        figure = draw()
        figure.dpi = dpi
        if engine := figure.get_layout_engine():  # costs as much as drawing, and need not be done for each file
            engine.execute(figure)
            figure.set_layout_engine("none")
        told = {"Description": f"{MARK} {mark}"} if mark else {}
        for file in files:
            with replacing(file) as path:
                if file.suffix.lower() == ".svg":
                    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, **told})
                else:
                    figure.dpi = dpi  # an SVG has left its own
                    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None, **told})


def marked(path: Path, mark: str = "") -> bool:
    """Return whether a file is a figure that `save` has written with this mark, or with any that starts so."""
    with path.open("rb") as file:
        return f"{MARK} {mark}".encode() in file.read(_HEAD_BYTES)
