"""Draw what a study shows: a panel for each cell, methods side by side, and the figures of its boards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flbench.errors import DataError
from flbench.files import sweep
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.study import CASES, GALLERY, PANEL, SCORES, Study

if TYPE_CHECKING:
    from flbench.reporting.model import Entry

FIGURES = "figures"
Progress = Callable[[str, int, int], None]


def entries(study: Study, records: Iterable[Record]) -> list[Entry]:
    """Return records with their per-image scores, where these are at hand and whole."""
    from flbench.reporting.model import Entry

    made = []
    for record in records:
        scores = None
        if (study.cell_folder(record.cell) / SCORES).is_file():
            with suppress(DataError):
                scores = study.scores(record.cell)
        made.append(Entry(record=record, scores=scores))
    return made


def draw_panels(records: Sequence[Record], study: Study) -> dict[str, Path]:
    """Draw the panel of every ranked method that has none yet, and return where all of them are."""
    panels = {}
    for record in records:
        folder = study.cell_folder(record.cell)
        if record.method.reference or not (folder / GALLERY).is_file():
            continue
        panel = folder / PANEL
        if _older(panel, folder / GALLERY):
            from flbench.reporting.figures import draw_cell_figures

            sweep(folder, (PANEL, CASES))
            title = f"{record.method.name} · {record.protocol.name} · {record.dataset.name}"
            draw_cell_figures(folder / GALLERY, folder, title)
        if panel.is_file():  # a gallery may have no sample
            panels[record.cell] = panel
    return panels


def draw_boards(
    records: Sequence[Record], protocols: Mapping[str, Protocol], study: Study, *, progress: Progress | None = None
) -> list[Path]:
    """Draw the figures of the boards that records make, and methods side by side, into the study's `figures/`.

    What is drawn from the same records already is left as it is.

    Args:
        records: Records of a run.
        protocols: Protocols by name, as written.
        study: Where galleries and scores are.
        progress: Called with stage, done and total.

    Returns:
        The pictures as PNG, those that stayed too.

    Raises:
        RunError: A file cannot be written.
    """
    from flbench.reporting.board import boards
    from flbench.reporting.plots import board_plots, draw_board_figures

    measured = [record for record in records if record.results]
    if not any(not record.method.reference for record in measured):
        return []
    into = study.folder / FIGURES
    sweep(into)
    made: list[Path] = []
    ready = boards(entries(study, measured), protocols)
    for done, board in enumerate(ready, 1):
        stem = f"{board.key.protocol}-v{board.key.version}-{board.key.dataset}"
        stem += f"-{board.key.fingerprint[:8]}" if board.key.departures else ""
        draw_board_figures(board, into, stem)
        made += [file for plot in board_plots(board) for file in plot.files(into, stem) if file.suffix == ".png"]
        made += _side_by_side([row.record for row in board.placed("ranked")], study, into / f"{stem}-maps.png")
        if progress is not None:
            progress("draw", done, len(ready))
    return made


def _side_by_side(records: Sequence[Record], study: Study, out: Path) -> list[Path]:
    """Draw the maps of several methods on the samples that they share; a cell without samples has no column."""
    galleries: dict[str, Path] = {}
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        path = study.cell_folder(record.cell) / GALLERY
        if path.is_file() and path.stat().st_size:
            counts[record.method.name] += 1
            number = counts[record.method.name]
            galleries[record.method.name if number == 1 else f"{record.method.name} ({number})"] = path
    if len(galleries) < 2:
        return []
    if any(_older(out, path) for path in galleries.values()):
        from flbench.reporting.figures import compare

        try:
            compare(galleries, out, f"{records[0].protocol.name} · {records[0].dataset.name}")
        except DataError:  # galleries of other versions share no sample
            return []
    return [out]


def _older(made: Path, source: Path) -> bool:
    return not made.is_file() or made.stat().st_mtime < source.stat().st_mtime
