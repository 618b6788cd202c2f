"""Pictures of a report: averaged spectra; sheets of photo, fake and difference. The same numbers, the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flbench.files import replacing
from flbench.synthetic.measure import SPECTRAL_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flbench.synthetic.report import Report, Sample

_DPI = 100
_PANEL, _GAP, _EDGE, _HEAD, _BAR, _ACROSS = 2.56, 0.16, 0.5, 0.66, 0.85, 5  # inches, and panels in a row
_LABEL, _TITLE, _SPACE, _LINE = 92, 26, 3, 14  # pixels
_QUALITY = 78

TOP = 0.4
"""M that is drawn white on a sheet. The scale is the square root of M, so that what is small and everywhere shows."""


def draw_report(report: Report, into: Path, *, sheets: bool) -> list[Path]:
    """Draw the pictures of a report into a folder.

    Args:
        report: The report.
        into: Folder; made if it does not exist.
        sheets: Whether images of the data set may be shown.

    Returns:
        The files: `spectra.png`, then `<generator>.jpg` for every generator if sheets are drawn.

    Raises:
        RunError: The folder cannot be written.
    """
    operators = {row["generator"]: row["upsampling"] for row in report.document["generators"]}
    files = [into / "spectra.png"]
    draw_spectra(report.spectra, operators, files[0])
    for generator in operators if sheets else ():
        groups = {name: some for name, some in report.samples.items() if some and name.startswith(f"{generator}/")}
        if groups:
            files.append(into / f"{generator}.jpg")
            draw_sheet(groups, files[-1])
    return files


def draw_spectra(spectra: Mapping[str, np.ndarray], operators: Mapping[str, str], path: Path) -> None:
    """Draw averaged power spectra, one panel each, all on one logarithmic scale.

    Panels show frequencies from -1/4 to 3/4 cycles per pixel, so that what is at one half is not at the border.

    Args:
        spectra: Name to mean power (S, S) with frequency zero in the middle, as `traces.mean_power` returns it.
        operators: Name to the upsampling operator, for those that have one.
        path: PNG to write; depends on the numbers and names only.

    Raises:
        RunError: The file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = {name: 10 * np.log10(np.maximum(power, 1e-3)) for name, power in spectra.items()}
    every = np.concatenate([level.ravel() for level in levels.values()])
    low, high = np.floor(np.quantile(every, 0.01)), np.ceil(np.quantile(every, 0.999))
    across = min(_ACROSS, len(levels))
    down = -(-len(levels) // across)
    width = _EDGE + across * (_PANEL + _GAP) + _BAR
    height = down * (_PANEL + _HEAD) + 0.1
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever a user's matplotlibrc says
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        colours = mpl.colormaps["viridis"].resampled(24)  # its lightness rises evenly; steps make the file small
        for place, (name, level) in enumerate(levels.items()):
            row, column = divmod(place, across)
            x, y = _EDGE + column * (_PANEL + _GAP), height - (row + 1) * (_PANEL + _HEAD) + 0.2
            axes = figure.add_axes((x / width, y / height, _PANEL / width, _PANEL / height))
            quarter = level.shape[0] // 4
            moved = np.roll(np.fft.ifftshift(level), (quarter, quarter), axis=(0, 1))
            extent = (-0.25, 0.75, 0.75, -0.25)
            shown = axes.imshow(moved, cmap=colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
            _label(axes, name, operators.get(name, ""), first=column == 0)
        box = ((width - _BAR + 0.05) / width, 0.2 / height, 0.14 / width, _PANEL / height)
        bar = figure.colorbar(shown, cax=figure.add_axes(box), extend="both")
        bar.set_label("power, dB", size=9)
        bar.ax.tick_params(labelsize=8)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def _label(axes: Axes, name: str, operator: str, *, first: bool) -> None:
    """Write the name, mark the frequencies where upsampling leaves peaks, number the axes."""
    axes.set_title(f"{name}\n{operator}" if operator else name, fontsize=10, parse_math=False)
    points = {(y, x) for pair in SPECTRAL_POINTS.values() for y, x in (pair, pair[::-1])}
    down, across = zip(*sorted(points), strict=True)
    axes.scatter(across, down, s=70, facecolors="none", edgecolors="white", linewidths=0.6)
    ticks, words = (0, 0.25, 0.5), ("0", "1/4", "1/2")
    axes.set_xticks(ticks, words, fontsize=7)
    axes.set_yticks(ticks, words if first else [""] * len(ticks), fontsize=7)
    axes.tick_params(length=2, pad=1)


def draw_sheet(groups: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """Draw fakes pixel for pixel: a group of three rows per category, with photo, fake and M, a person per column.

    M is drawn in gray, its square root from black for 0 to white for `TOP` and more.

    Args:
        groups: Category to its fakes, all of one size.
        path: JPEG to write; depends on the images and names only.

    Raises:
        RunError: The file cannot be written.
    """
    side = max(sample.fake.shape[0] for samples in groups.values() for sample in samples)
    across = max(map(len, groups.values()))
    group = _TITLE + 3 * (side + _SPACE)
    sheet = Image.new("RGB", (_LABEL + across * (side + _SPACE), len(groups) * group), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, (category, samples) in enumerate(groups.items()):
        top = place * group
        pen.text((_SPACE, top + 6), category, fill="black", font=font)
        for row, words in enumerate(("photo", "fake", f"difference\n(white: {TOP:g})")):
            y = top + _TITLE + row * (side + _SPACE)
            pen.multiline_text((_SPACE, y + side // 2 - _LINE), words, fill="black", font=font)
            for column, sample in enumerate(samples):
                picture = (sample.photo, sample.fake, _shade(sample.fakeness))[row]
                sheet.paste(Image.fromarray(picture), (_LABEL + column * (side + _SPACE), y))
    with replacing(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=_QUALITY, optimize=True)


def _shade(fakeness: np.ndarray) -> np.ndarray:
    """Return M as uint8 (H, W) on the scale of a sheet."""
    return np.round(np.sqrt(np.clip(fakeness / TOP, 0, 1)) * 255).astype(np.uint8)
