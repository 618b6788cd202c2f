"""Pictures of a cell: samples as the method saw them and as it should have seen them, beside what it made of them.

Maps of one picture share one scale, which follows from the ground truth alone, so that the pictures of several methods
on one data set can be compared; what lies above is drawn as its top. The outline is the region that is scored. A file
depends on the gallery and the title only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flbench.errors import DataError
from flbench.reporting.conditions import phrase
from flbench.reporting.drawing import save
from flbench.reporting.galleries import Arrays, case_rows, chosen, common_rows, first_rows, is_empty, read_gallery
from flbench.reporting.words import clean
from flbench.scoring.metrics import coss
from flbench.study import CASES, PANEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

"""Best and worst samples, beside the panel of a cell."""
COLUMNS: Final = ("real", "fake", "ground truth", "prediction", "overlay")
_SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_COLOURS = "magma"  # light means fake: its lightness rises evenly, so it reads in grey and with any colour vision
_DPI = 100
_LABEL, _GAP, _HEAD, _FOOT, _BAR, _EDGE, _LINE = 172, 6, 58, 14, 92, 14, 14  # pixels


class _Row(NamedTuple):
    """One sample: what stands at its left, its pictures and what stands under them, and the region that is scored."""

    label: str
    pictures: list[NDArray]
    captions: list[str]
    region: NDArray[np.bool_]


def draw_cell_figures(gallery: Path, folder: Path, title: str) -> list[Path]:
    """Draw what a cell's gallery has: `panel.png`, and `cases.png` if it has best or worst samples.

    Args:
        gallery: As `read_gallery` takes it, or without any array, as that of a cell that was tested on no fake.
        folder: Where to write; a picture there that has no samples any more is removed.
        title: Printed above.

    Returns:
        The files; none for a gallery without any array.

    Raises:
        DataError: The gallery is missing or damaged, or its arrays do not fit together.
        RunError: A file cannot be written.
    """
    if is_empty(gallery):
        for name in (PANEL, CASES):
            (folder / name).unlink(missing_ok=True)
        return []
    drawn = [folder / PANEL]  # last, since it tells that all is drawn
    if cases(gallery, folder / CASES, f"{title} · best and worst"):
        drawn.append(folder / CASES)
    else:
        (folder / CASES).unlink(missing_ok=True)
    panel(gallery, folder / PANEL, title)
    return drawn


def panel(gallery: Path, out: Path, title: str) -> None:
    """Draw the first samples of a gallery: real, fake, ground truth, prediction and prediction over the fake.

    A sample under several conditions has a row for each of them, next to each other; the label says which.

    Args:
        gallery: As `read_gallery` takes it.
        out: PNG to write (or SVG, by its suffix).
        title: Printed above.

    Raises:
        DataError: The gallery is missing, damaged or empty, or its arrays do not fit together.
        RunError: The file cannot be written.
    """
    arrays = read_gallery(gallery)
    rows = first_rows(arrays) or list(range(len(arrays["cases"])))
    _write(chosen(arrays, rows), out, title)


def cases(gallery: Path, out: Path, title: str) -> bool:
    """Draw the best and the worst samples of a gallery, with their value; nothing if it has none.

    Args:
        gallery: As `read_gallery` takes it.
        out: PNG to write (or SVG, by its suffix).
        title: Printed above.

    Returns:
        Whether there was anything to draw.

    Raises:
        DataError: The gallery is missing, damaged or empty, or its arrays do not fit together.
        RunError: The file cannot be written.
    """
    arrays = read_gallery(gallery)
    rows = case_rows(arrays)
    if rows:
        _write(chosen(arrays, rows), out, title)
    return bool(rows)


def compare(galleries: Mapping[str, Path], out: Path, title: str) -> None:
    """Draw what several methods made of the same samples: real, fake, ground truth, then a column per method.

    Args:
        galleries: Name of a method, as the head of its column, to its gallery.
        out: PNG to write (or SVG, by its suffix).
        title: Printed above.

    Raises:
        DataError: A gallery cannot be used, they share no sample, or two differ in what they say of one.
        RunError: The file cannot be written.
    """
    read = {name: read_gallery(path) for name, path in galleries.items()}
    rows = common_rows(list(read.values())) if read else []
    if not rows or not rows[0]:
        raise DataError(f"the galleries of {', '.join(galleries) or 'no method'} share no sample")
    shared = [chosen(arrays, some) for arrays, some in zip(read.values(), rows, strict=True)]
    arrays, told = shared[0], _conditions_told(shared[0])
    drawn = []
    for row in range(len(rows[0])):
        pictures = [arrays["real"][row], arrays["fake"][row], _unit(arrays["truth"][row])]
        pictures += [_unit(other["prediction"][row]) for other in shared]
        captions = ["", "", "", *(_value(other, row) for other in shared)]
        drawn.append(_Row(_label(arrays, row, told), pictures, captions, _region(arrays, row)))
    heads = [*COLUMNS[:3], *(_wrapped(name, 20) for name in read)]
    save(partial(_draw, heads, drawn, scale(arrays["truth"]), clean(title)), [out], dpi=_DPI)


def scale(truth: NDArray[np.uint8]) -> float:
    """Return the top of the colour scale: a round number that few true values (uint8) exceed."""
    marked = truth[truth > 0]
    top = float(np.quantile(marked, 0.98)) / 255 if marked.size else 0.0
    return next(value for value in _SCALES if value >= min(top, 1.0))


def overlay(fake: NDArray[np.uint8], shade: NDArray[np.floating], colours: Colormap) -> NDArray[np.float64]:
    """Lay a map over an image that was darkened and drained of colour.

    Args:
        fake: uint8 (H, W, 3).
        shade: float (H, W) in [0, 1], place on the colour scale.
        colours: The colour scale.

    Returns:
        float64 (H, W, 3) in [0, 1].
    """
    gray = fake.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    opacity = np.minimum(1.0, 1.6 * shade)[..., None] * 0.8
    return (1 - opacity) * 0.7 * gray[..., None] + opacity * colours(shade)[..., :3]


def _write(arrays: Arrays, out: Path, title: str) -> None:
    """Draw all samples of a gallery in their order."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    top, told = scale(arrays["truth"]), _conditions_told(arrays)
    colours, norm = colormaps[_COLOURS], Normalize(0, top, clip=True)
    rows = []
    for row in range(len(arrays["truth"])):
        case = str(arrays["cases"][row])
        lines = [*([case.upper()] if case != "first" else []), _label(arrays, row, told), _value(arrays, row)]
        pictures = _pictures(arrays, row, colours, norm)
        rows.append(_Row("\n".join(lines), pictures, [""] * len(pictures), _region(arrays, row)))
    save(partial(_draw, COLUMNS, rows, top, clean(title)), [out], dpi=_DPI)


def _draw(heads: Sequence[str], rows: Sequence[_Row], top: float, title: str) -> Figure:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    height, width = rows[0].region.shape
    # Whole multiples of small images keep their pixels; large ones are brought down to what a page can show.
    side = width * max(1, round(144 / width)) if width <= 160 else 160
    tall = round(side * height / width)
    step = tall + _GAP + (_LINE if any(map(any, (row.captions for row in rows))) else 0)
    across = _LABEL + len(heads) * (side + _GAP) + _BAR
    start = _HEAD + _LINE * any("\n" in head for head in heads)
    down = start + len(rows) * step + _FOOT
    figure = Figure(figsize=(across / _DPI, down / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    colours, norm = colormaps[_COLOURS], Normalize(0, top, clip=True)

    def place(x: float, y: float, wide: float, high: float) -> Axes:
        """Return axes at a place in pixels, counted from the upper left."""
        return figure.add_axes((x / across, 1 - (y + high) / down, wide / across, high / down))

    def write(x: float, y: float, text: str, size: float, **how: Any) -> None:
        figure.text(x / across, 1 - y / down, text, size=size, parse_math=False, **how)

    write(_EDGE, 14, title, 11, weight="bold", va="top")
    for column, name in enumerate(heads):
        write(_LABEL + column * (side + _GAP) + side / 2, start - 6, name, 9, ha="center", va="bottom")
    for number, row in enumerate(rows):
        y = start + number * step
        write(_EDGE, y + tall / 2, row.label, 8, va="center")
        for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            x = _LABEL + column * (side + _GAP)
            write(x + side / 2, y + tall + 2, caption, 8, ha="center", va="top")
            axes = place(x, y, side, tall)
            axes.set_axis_off()
            axes.imshow(picture, cmap=colours, norm=norm, interpolation="antialiased", aspect="auto")
            if column >= 2 and row.region.any() and not row.region.all():
                _outline(axes, row.region)
    high = min(len(rows) * step - _GAP, 3 * tall)
    axes = place(_LABEL + len(heads) * (side + _GAP) + 8, start, 14, high)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes, extend="max" if norm.vmax != 1 else "neither")
    bar.set_label("fakeness", size=9)
    bar.ax.tick_params(labelsize=8)
    bar.ax.grid(visible=False)
    return figure


def _conditions_told(arrays: Arrays) -> bool:
    """Return whether labels must say the condition."""
    return bool((arrays["conditions"] != "clean").any())


def _label(arrays: Arrays, row: int, told: bool) -> str:
    """Return sample, test slice and, where there are several, the condition."""
    lines = [_wrapped(arrays["sample_ids"][row]), _wrapped(arrays["tests"][row])]
    return "\n".join(lines + ([_wrapped(phrase(str(arrays["conditions"][row])))] if told else []))


def _region(arrays: Arrays, row: int) -> NDArray[np.bool_]:
    return arrays["region"][row].astype(bool) if "region" in arrays else np.zeros(arrays["truth"].shape[1:], bool)


def _value(arrays: Arrays, row: int) -> str:
    """Return the COSS of one sample, taken in the region if there is one."""
    region = _region(arrays, row)
    truth, prediction = (arrays[name][row][None].astype(np.float32) / 255 for name in ("truth", "prediction"))
    value = coss(truth, prediction, region[None] if region.any() else None)[0]
    return f"COSS {value:.2f}{' in region' if region.any() and not region.all() else ''}"


def _unit(bytes_: NDArray[np.uint8]) -> NDArray[np.float64]:
    return bytes_.astype(np.float64) / 255


def _pictures(arrays: Arrays, row: int, colours: Colormap, norm: Normalize) -> list[NDArray]:
    truth, prediction = (_unit(arrays[name][row]) for name in ("truth", "prediction"))
    fake = arrays["fake"][row]
    return [arrays["real"][row], fake, truth, prediction, overlay(fake, np.asarray(norm(prediction)), colours)]


def _wrapped(text: object, width: int = 24) -> str:
    """Break a long name after a separator; at most two lines."""
    line = clean(text)
    if len(line) > 2 * width:
        line = line[: width - 1] + "…" + line[-width:]
    if len(line) <= width:
        return line
    cut = max(line.rfind(sign, len(line) - width - 1, width) for sign in "-_./ ") + 1 or width
    return f"{line[:cut]}\n{line[cut:]}"


def _outline(axes: Axes, region: NDArray[np.bool_]) -> None:
    """Draw the border of a region: white on black, so that it is seen on light and dark."""
    padded = np.pad(region, 1).astype(np.float64)  # a region that touches the edge is closed there
    steps = (np.arange(-1, region.shape[1] + 1), np.arange(-1, region.shape[0] + 1))
    limits = axes.get_xlim(), axes.get_ylim()
    for colour, thickness in (("black", 1.8), ("white", 0.8)):
        axes.contour(*steps, padded, levels=[0.5], colors=[colour], linewidths=thickness)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
