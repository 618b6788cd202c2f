"""Publish: copy records and per-image scores into a folder for the repository, and render its boards.

    <into>/README.md                                        the index
    <into>/<data set>/<protocol>.md                         the newest versions' board; older ones carry theirs
    <into>/<data set>/<protocol>-<figure>.svg, .png         what a board shows as figures
    <into>/<data set>/<protocol>-conventions.md             thresholded metrics under every convention
    <into>/<data set>/<protocol>-v<version>/protocol.json   the protocol as it was when the records were made
    <into>/<data set>/<protocol>-v<version>/<cell>/         run.json, images.parquet, panel.webp, cases.webp

Boards are rendered from what lies in this folder alone, so a clone without a study renders them again to the byte. The
bytes of a figure depend on the versions of matplotlib and FreeType as well. So a figure carries a mark that follows
from the records it shows: by the mark, not by its bytes, it is found missing, stale or left over, and drawn again.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from flbench.errors import DataError
from flbench.files import atomic_write, sweep
from flbench.protocol import Protocol, fingerprint
from flbench.record import Record, read_record
from flbench.reporting.board import age, boards
from flbench.reporting.drawing import SUFFIXES, marked
from flbench.reporting.model import SHOWN_CASES, SHOWN_PANEL, Board, Entry, Key
from flbench.reporting.plots import Plot, board_plots, draw_plots, is_drawn
from flbench.reporting.render import MARK, Listed, Picture, conventions_page, index, markdown
from flbench.scoring.metrics import WORST
from flbench.scoring.resampling import MATCH
from flbench.study import CASES, PANEL, RECORD, SCORES, read_scores

INDEX = "README.md"
PROTOCOL = "protocol.json"
CONVENTIONS = "-conventions"
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


@dataclass(frozen=True)
class _Page:
    """A board with the folder and the name of its files."""

    board: Board
    home: str
    stem: str

    @property
    def href(self) -> str:
        return f"{self.home}/{self.stem}.md"

    @cached_property
    def figures(self) -> list[Plot]:
        """What there is to draw: which follows from all scores, and is asked several times."""
        return board_plots(self.board)

    def plots(self, into: Path) -> dict[Path, Plot]:
        """Return the files of its figures."""
        return {file: plot for plot in self.figures for file in plot.files(into / self.home, self.stem)}

    def listed(self) -> Listed:
        """Return what the index needs, without the scores, which take memory."""
        rows = [replace(r, entries=tuple(replace(e, scores=None) for e in r.entries)) for r in self.board.rows]
        return Listed(replace(self.board, rows=tuple(rows)), self.href)

    def texts(self) -> dict[str, str]:
        """Return what its markdown files must say."""
        pictures = [Picture(p.caption, *(file.name for file in p.files(Path(), self.stem))) for p in self.figures]
        beside = f"{self.stem}{CONVENTIONS}.md"
        conventions = conventions_page(self.board, f"{self.stem}.md")
        made = {self.href: markdown(self.board, pictures, beside if conventions else "")}
        return made | ({f"{self.home}/{beside}": conventions} if conventions else {})


def publish(study_records: Iterable[tuple[Record, Path]], protocols: Mapping[str, Protocol], into: Path) -> list[Path]:
    """Copy cells of a study into a folder of leaderboards and render every board in it.

    A newer record of the same cell replaces the older one. A panel is copied only if the data set's images may be
    shown; one published before is taken away when they may not.

    Args:
        study_records: Records, each with the folder that holds its files.
        protocols: Protocols by name, as written.
        into: Folder of the leaderboards.

    Returns:
        Every file that is new or has changed, sorted.

    Raises:
        DataError: A file of a cell is missing or damaged, or a cell's name cannot be a folder's.
        RunError: A file cannot be written.
    """
    for folder in {path.parent for path in into.glob("**/.*.tmp")}:
        sweep(folder)
    newest: dict[str, tuple[Record, Path]] = {}
    for record, folder in sorted(study_records, key=lambda pair: age(pair[0])):
        newest[record.cell] = record, folder
    written: list[Path] = []
    for _, (record, folder) in sorted(newest.items()):
        target = into / _home(record)
        if _is_newer(record, target):
            written += _copy(record, folder, target)
        protocol = protocols.get(record.protocol.name)
        if protocol is not None and protocol.fingerprint == record.protocol.fingerprint:
            text = json.dumps(protocol.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
            written += _changed(target.parent / PROTOCOL, text)
    drawn: set[Path] = set()

    def write(page: _Page, texts: Mapping[str, str]) -> None:
        for path, text in texts.items():
            written.extend(_changed(into / path, text))
        written.extend(draw_plots(page.figures, into / page.home, page.stem))
        drawn.update(page.plots(into))

    texts = _rendered(into, protocols, write)
    written += _changed(into / INDEX, texts[INDEX])
    for old in _left_over(into, texts, drawn):
        old.unlink()
    return sorted(set(written))


def stale(into: Path, protocols: Mapping[str, Protocol]) -> list[Path]:
    """Return the boards that are not what the records beside them give: missing, changed, or left over.

    Of figures it is the mark that is compared.

    Raises:
        DataError: As `render`.
    """
    plots: dict[Path, bool] = {}

    def look(page: _Page, texts: Mapping[str, str]) -> None:
        plots.update({file: is_drawn(file, plot) for file, plot in page.plots(into).items()})

    texts = _rendered(into, protocols, look)
    wrong = [into / path for path, text in texts.items() if not _says(into / path, text)]
    wrong += [file for file, drawn in plots.items() if not drawn]
    return sorted([*wrong, *_left_over(into, texts, plots)])


def render(into: Path, protocols: Mapping[str, Protocol]) -> dict[str, str]:
    """Return what every board and the index must say, from the records in a folder of leaderboards.

    Args:
        into: Folder of the leaderboards.
        protocols: Protocols by name; the content stored beside the records is used where these have moved on.

    Returns:
        POSIX path relative to `into`, to text.

    Raises:
        DataError: A record or its scores are damaged.
    """
    return dict(sorted(_rendered(into, protocols, lambda page, texts: None).items()))


def _rendered(
    into: Path, protocols: Mapping[str, Protocol], see: Callable[[_Page, Mapping[str, str]], None]
) -> dict[str, str]:
    """Return every text by its path, the index too, after each page was shown with its texts to `see`."""
    texts: dict[str, str] = {}
    listed: list[Listed] = []
    for page in _pages(into, protocols):
        said = page.texts()
        see(page, said)
        texts |= said
        listed.append(page.listed())
        del page  # with its scores, before those of the next one are read
    texts[INDEX] = index(listed)
    return texts


def _pages(into: Path, protocols: Mapping[str, Protocol]) -> Iterator[_Page]:
    """Yield every board's page; the per-image scores of one board at a time are in memory."""
    folders: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(into.glob(f"*/*/*/{RECORD}")):
        folders[path.relative_to(into).parts[0]].append(path.parent)
    for home, cells in sorted(folders.items()):
        parts: dict[tuple[str, str], dict[Key, list[tuple[Record, Path]]]] = defaultdict(lambda: defaultdict(list))
        at_hand: dict[tuple[str, str], Protocol] = {}
        for folder in cells:
            record = read_record(folder / RECORD)
            asked = record.protocol
            which = asked.name, asked.fingerprint
            parts[which][Key.of(record)].append((record, folder))
            for protocol in (protocols.get(asked.name), _stored(folder.parent / PROTOCOL)):
                if protocol is not None and protocol.fingerprint == asked.fingerprint:
                    at_hand.setdefault(which, protocol)
        found = [(which, key) for which in sorted(parts) for key in sorted(parts[which])]
        for name, (which, key) in zip(_names([key for _, key in found]), found, strict=True):
            known = {which[0]: at_hand[which]} if which in at_hand else {}
            yield _Page(boards([_entry(*cell, into / home) for cell in parts[which][key]], known)[0], home, name)


def _entry(record: Record, folder: Path, home: Path) -> Entry:
    """Return one published cell.

    Raises:
        DataError: Its scores are damaged.
    """
    there = (folder / SCORES).exists()
    needed = (*MATCH, "identity", "label", "status", "score", record.protocol.primary)
    scores = read_scores(folder, hint="publish the cell again", columns=needed) if there else None
    primary = record.protocol.primary
    if scores is not None and primary in (*WORST, "false_alarm") and primary not in scores:
        raise DataError(f"scores {folder / SCORES} have no column {primary}", hint="publish the cell again")
    shown = {name: record.dataset.publishable and (folder / name).exists() for name in (SHOWN_PANEL, SHOWN_CASES)}
    beside = folder.relative_to(home).as_posix()
    return Entry(record=record, scores=scores, folder=beside, panel=shown[SHOWN_PANEL], cases=shown[SHOWN_CASES])


def _stored(path: Path) -> Protocol | None:
    """Return the protocol stored beside records, or None."""
    try:
        return Protocol.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise DataError(f"protocol {path} is damaged: {error}", hint="delete it and publish again") from error


def _names(keys: list[Key]) -> list[str]:
    """Return the stem of each board's files: the newest versions have the plain name, and no two are equal."""
    data = max((_natural(key.dataset_version) for key in keys), default=[])
    newest: dict[str, int] = {}
    for key in keys:
        newest[key.protocol] = max(newest.get(key.protocol, 0), key.version)
    names = []
    for key in keys:
        words = [_safe(key.protocol)] + ([f"v{key.version}"] if key.version < newest[key.protocol] else [])
        words += [_safe(f"data-v{key.dataset_version}")] if _natural(key.dataset_version) < data else []
        words += [_safe(f"{old}={new}".replace("/", ".")) for old, new in key.mapping]
        words += [_safe(key.region)] if key.region not in ("", "parsing") else []
        words += ["without-" + "-".join(map(_safe, key.missing))] if key.missing else []
        words += ["with-" + "-".join(map(_safe, key.added))] if key.added else []
        names.append("-".join(words)[:120])
    folded = Counter(name.casefold() for name in names)
    alone = [folded[name.casefold()] == 1 and not name.endswith(CONVENTIONS) for name in names]
    return [
        name if free else f"{name}-{fingerprint(list(key))[:8]}"
        for name, free, key in zip(names, alone, keys, strict=True)
    ]


def _natural(version: str) -> list[tuple[int, str]]:
    """Return a key that puts version 10 after version 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", version)]


def _safe(text: str) -> str:
    """Return text as it may stand in a file name; what had to change is told apart by a piece of its fingerprint."""
    kept = _UNSAFE.sub("-", text).strip(".-")[:80]
    return kept if kept == text else f"{kept or 'x'}-{fingerprint(text)[:8]}"


def _home(record: Record) -> Path:
    """Return the folder of a cell, relative to the leaderboards.

    Raises:
        DataError: The cell's name is not that of a plain folder.
    """
    data, asked = record.dataset, record.protocol
    cell = record.cell
    if not cell or cell.startswith(".") or not all(sign.isalnum() or sign in "._=+-" for sign in cell):
        raise DataError(f"a record is of cell {cell!r}, which cannot be the name of a folder")
    return Path(_safe(data.name), _safe(f"{asked.name}-v{asked.version}"), cell)


def _is_newer(record: Record, target: Path) -> bool:
    """Return whether a record should replace what is published under its cell."""
    if not (target / RECORD).exists():
        return True
    published = read_record(target / RECORD)
    return age(record) > age(published) or (age(record) == age(published) and record != published)


def _copy(record: Record, folder: Path, target: Path) -> list[Path]:
    """Copy the files of a cell, `run.json` last."""
    written = []
    scores = folder / SCORES
    if scores.exists():
        written += _changed(target / SCORES, scores)
    elif record.results:
        raise DataError(f"cell {record.cell} has results but no {SCORES}", hint="run the cell again")
    else:
        (target / SCORES).unlink(missing_ok=True)
    for name, shown in ((PANEL, SHOWN_PANEL), (CASES, SHOWN_CASES)):
        if record.dataset.publishable and (folder / name).exists():
            written += _changed(target / shown, _lightened(folder / name))
        else:
            (target / shown).unlink(missing_ok=True)
    return written + _changed(target / RECORD, record.to_json())


def _left_over(into: Path, texts: Container[str], drawn: Container[Path]) -> list[Path]:
    """Return boards and figures that no record asks for any more; files that someone made are not among them."""
    boards_ = [path for path in into.glob("*/*.md") if path.relative_to(into).as_posix() not in texts and _ours(path)]
    figures = [path for suffix in SUFFIXES for path in into.glob(f"*/*{suffix}") if path not in drawn and marked(path)]
    return sorted([*boards_, *figures])


def _ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n") == MARK


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _lightened(picture: Path) -> bytes:
    """Return a panel as WebP, a fifth of its bytes: hundreds of them lie in a repository for good.

    Raises:
        DataError: It is damaged.
    """
    from PIL import Image

    made = io.BytesIO()
    try:
        with Image.open(picture, formats=("PNG",)) as image:
            image.convert("RGB").save(made, "WEBP", quality=85)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"picture {picture} cannot be read: {error}", hint="delete it and run the cell again"
        ) from error
    return made.getvalue()


def _changed(path: Path, source: Path | str | bytes) -> list[Path]:
    """Write a file unless it says the same already; return it if it was written."""
    if isinstance(source, str | bytes):
        said = source.encode() if isinstance(source, str) else source
        if path.is_file() and path.read_bytes() == said:
            return []
        atomic_write(path, lambda temporary: temporary.write_bytes(said))
    else:
        if path.is_file() and path.read_bytes() == source.read_bytes():
            return []
        atomic_write(path, lambda temporary: shutil.copyfile(source, temporary))
    return [path]
