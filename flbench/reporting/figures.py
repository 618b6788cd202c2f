"""The panel of a cell: a few samples as the method saw them and as it should have seen them."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from flbench.errors import DataError
from flbench.files import replacing
from flbench.reporting.words import clean
from flbench.scoring.metrics import coss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

Arrays = Mapping[str, NDArray]

COLUMNS: Final = ("real", "fake", "ground truth", "prediction", "overlay")
_KEYS = ("real", "fake", "truth", "prediction", "sample_ids", "tests")
_SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_COLOURS = "magma"  # light means fake: its lightness rises evenly, so it reads in grey and with any colour vision
_DPI = 100
_LABEL, _GAP, _HEAD, _FOOT, _BAR, _EDGE = 172, 6, 58, 14, 92, 14  # pixels


def panel(gallery: Path, out: Path, title: str) -> None:
    """Draw the samples of a gallery: real, fake, ground truth, prediction and prediction over the fake.

    Both maps share one scale, which follows from the ground truth alone, so that the panels of several methods on one
    data set can be compared; what lies above is drawn as its top. The outline is the region that is scored. The file
    depends on the gallery and the title only.

    Args:
        gallery: npz with `real`, `fake` (n, H, W, 3) uint8; `truth`, `prediction` (n, H, W) uint8; `sample_ids`,
            `tests` (n,) text; optionally `region` (n, H, W) bool.
        out: PNG to write (or SVG, by its suffix).
        title: Printed above.

    Raises:
        DataError: The gallery is missing, damaged or empty, or its arrays do not fit together.
        RunError: The file cannot be written.
    """
    arrays = read_gallery(gallery)
    import matplotlib as mpl

    kind = out.suffix.lstrip(".").lower() or "png"
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        mpl.rcdefaults()  # whatever a user's matplotlibrc says
        mpl.rcParams["svg.hashsalt"] = "flbench"
        figure = _draw(arrays, clean(title))
        with replacing(out) as path:
            figure.savefig(path, format=kind, dpi=_DPI, metadata=metadata)


def read_gallery(path: Path) -> dict[str, NDArray]:
    """Read a gallery and hold its arrays to each other.

    Raises:
        DataError: It is missing, damaged or empty, or its arrays do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"gallery {path} cannot be read: {error}", hint="run the cell again") from error
    absent = [name for name in _KEYS if name not in arrays]
    if absent:
        raise DataError(f"gallery {path} has no {', '.join(absent)}", hint="run the cell again")
    count, *size = arrays["truth"].shape
    expected = {"real": (count, *size, 3), "fake": (count, *size, 3), "prediction": (count, *size)}
    expected |= {"region": (count, *size)} if "region" in arrays else {}
    expected |= {"sample_ids": (count,), "tests": (count,)}
    wrong = [name for name, shape in expected.items() if arrays[name].shape != shape]
    if wrong or count == 0 or len(size) != 2:
        what = f"shapes that do not fit: {', '.join(wrong)}" if wrong else "no sample"
        raise DataError(f"gallery {path} has {what}", hint="run the cell again")
    return arrays


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


def _draw(arrays: Arrays, title: str) -> Figure:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    count, height, width = arrays["truth"].shape
    # Whole multiples of small images keep their pixels; large ones are brought down to what a page can show.
    side = width * max(1, round(144 / width)) if width <= 160 else 160
    tall = round(side * height / width)
    across = _LABEL + len(COLUMNS) * (side + _GAP) + _BAR
    down = _HEAD + count * (tall + _GAP) + _FOOT
    figure = Figure(figsize=(across / _DPI, down / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    colours, norm = colormaps[_COLOURS], Normalize(0, scale(arrays["truth"]), clip=True)

    def place(x: float, y: float, wide: float, high: float) -> Axes:
        """Return axes at a place in pixels, counted from the upper left."""
        return figure.add_axes((x / across, 1 - (y + high) / down, wide / across, high / down))

    figure.text(_EDGE / across, 1 - 14 / down, title, size=11, weight="bold", va="top", parse_math=False)
    for column, name in enumerate(COLUMNS):
        x = _LABEL + column * (side + _GAP) + side / 2
        figure.text(x / across, 1 - (_HEAD - 6) / down, name, size=9, ha="center", va="bottom")
    regions = arrays.get("region", np.zeros((count, height, width), bool)).astype(bool)
    for row in range(count):
        y = _HEAD + row * (tall + _GAP)
        text = _label(arrays, regions[row], row)
        figure.text(_EDGE / across, 1 - (y + tall / 2) / down, text, size=8, va="center", parse_math=False)
        pictures = _pictures(arrays, row, colours, norm)
        for column, picture in enumerate(pictures):
            axes = place(_LABEL + column * (side + _GAP), y, side, tall)
            axes.set_axis_off()
            axes.imshow(picture, cmap=colours, norm=norm, interpolation="antialiased", aspect="auto")
            if column >= 2 and regions[row].any() and not regions[row].all():
                _outline(axes, regions[row])
    high = min(count * (tall + _GAP) - _GAP, 3 * tall)
    axes = place(_LABEL + len(COLUMNS) * (side + _GAP) + 8, _HEAD, 14, high)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes, extend="max" if norm.vmax != 1 else "neither")
    bar.set_label("fakeness", size=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _label(arrays: Arrays, region: NDArray[np.bool_], row: int) -> str:
    """Return sample, test slice and COSS, taken in the region if there is one."""
    truth, prediction = (arrays[name][row][None].astype(np.float32) / 255 for name in ("truth", "prediction"))
    value = coss(truth, prediction, region[None] if region.any() else None)[0]
    lines = [_wrapped(arrays["sample_ids"][row]), _wrapped(arrays["tests"][row])]
    return "\n".join([*lines, f"COSS {value:.2f}{' in region' if region.any() and not region.all() else ''}"])


def _wrapped(text: object, width: int = 24) -> str:
    """Break a long name after a separator; at most two lines."""
    line = clean(text)
    if len(line) > 2 * width:
        line = line[: width - 1] + "…" + line[-width:]
    if len(line) <= width:
        return line
    cut = max(line.rfind(sign, len(line) - width - 1, width) for sign in "-_./ ") + 1 or width
    return f"{line[:cut]}\n{line[cut:]}"


def _pictures(arrays: Arrays, row: int, colours: Colormap, norm: Normalize) -> list[NDArray]:
    truth, prediction = (arrays[name][row].astype(np.float64) / 255 for name in ("truth", "prediction"))
    fake = arrays["fake"][row]
    return [arrays["real"][row], fake, truth, prediction, overlay(fake, np.asarray(norm(prediction)), colours)]


def _outline(axes: Axes, region: NDArray[np.bool_]) -> None:
    """Draw the border of a region: white on black, so that it is seen on light and dark."""
    padded = np.pad(region, 1).astype(np.float64)  # a region that touches the edge is closed there
    steps = (np.arange(-1, region.shape[1] + 1), np.arange(-1, region.shape[0] + 1))
    limits = axes.get_xlim(), axes.get_ylim()
    for colour, thickness in (("black", 1.8), ("white", 0.8)):
        axes.contour(*steps, padded, levels=[0.5], colors=[colour], linewidths=thickness)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
