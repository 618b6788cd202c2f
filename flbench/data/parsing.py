"""Fill in the parsing maps of a data set that came without them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from flbench.data.dataset import BY_PARSER, Dataset, read_dataset, write_dataset
from flbench.data.fakeness import REGIONS
from flbench.data.images import read_image
from flbench.data.importers import locked
from flbench.data.parsers import FolderParser, Parser
from flbench.errors import DataError, UsageError
from flbench.files import replacing

PALETTE = bytes.fromhex(
    "000000 e0ac8a 5ca43c d6c628 3e46f0 c424c8 3ce2e6 f6bec4 784618 e82c2c"
    "78d23c f4f45a 1c1c96 283cbe f05096 28bebe 145a14 f69c42 28b446"
)
"""One colour per CelebAMask-HQ class, for whoever opens a parsing map in a viewer."""

_BATCH = 8
_DIGITS = 12
_MOST_SIGNS = 120


class Filled(NamedTuple):
    """What filling in did.

    Attributes:
        parser: Name of the parser.
        attributes: Edited attributes in whose region the data set may now be scored by these maps.
        added: Maps added or renewed.
        kept: Images that had a map already, which was kept.
        skipped: Sample and reason of what has got no map.
    """

    parser: str
    attributes: tuple[str, ...]
    added: int
    kept: int
    skipped: list[tuple[str, str]]


def fill_parsing(
    dataset: Dataset,
    parser: Parser,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Filled:
    """Make the parsing maps that a data set lacks, photos and fakes alike, and write them into it.

    Maps are written one by one as `parsing/_<parser>/<sample>.<image>.<map>.png`, the last two the start of a checksum:
    other maps have other paths, and no file that the manifest names is changed. The manifest and `dataset.toml` come
    last, so a kill leaves the data set as it was, and what was finished is found again if the parser has a digest. The
    version is raised if it is a number.

    Args:
        dataset: Imported, not made by a recipe.
        parser: What makes the maps.
        replace: Renew the maps that are there too; one that the parser cannot make stays, unless another parser made
            it.
        progress: Called with images done and images in all.

    Raises:
        UsageError: The data set was made by a recipe, or has maps of another parser and `replace` is false.
        DataError: The parser fails, or gave no map at all.
        RunError: An import into the data set is running, or it cannot be written.
    """
    with locked(dataset.folder):
        dataset = read_dataset(dataset.folder)  # an import may have ended meanwhile
        about = dataset.about
        if about.recipe:
            raise UsageError(f"{dataset.label} was made by a recipe and has exact maps", hint="import into a folder")
        if about.parser not in ("", parser.name) and not replace:
            what = f"{dataset.label} has maps of the parser {about.parser}"
            raise UsageError(what, hint="--replace puts new ones in their place")
        rows = dataset.manifest.copy()
        todo = rows if replace else rows[rows["parsing"] == ""]
        work = _Work(dataset.folder, parser)
        for start in range(0, len(todo), _BATCH):
            work.parse(todo.iloc[start : start + _BATCH])
            if progress:
                progress(min(start + _BATCH, len(todo)), len(todo))
        if len(todo) and not work.paths:
            raise DataError(f"parser {parser.name} made no map: {': '.join(work.skipped[0])}")
        found = pd.Series([work.paths.get(sample, "") for sample in rows["sample_id"]], index=rows.index, dtype=str)
        stale = (found == "") & rows["parsing"].str.startswith(BY_PARSER) & replace
        rows["parsing"] = rows["parsing"].mask(stale, "").where(found == "", found)
        if work.paths:
            attributes = set(REGIONS if parser.regions is None else parser.regions)
            if about.parser and not replace:  # maps of an earlier version of the parser are kept
                attributes &= set(about.parsed_attributes)
            version = str(int(about.version) + 1) if about.version.isdecimal() else about.version
            changes = {"version": version, "parser": parser.name, "parsed_attributes": tuple(sorted(attributes))}
            about = about.model_copy(update=changes)
            write_dataset(dataset.folder, about, rows)
            _remove_unnamed(dataset.folder, rows)
    return Filled(parser.name, about.parsed_attributes, len(work.paths), len(rows) - len(todo), work.skipped)


class _Work:
    """The maps made so far."""

    def __init__(self, folder: Path, parser: Parser) -> None:
        self.folder = folder
        self.parser = parser
        digest = f"-{parser.digest[:8]}" if parser.digest else ""
        self.place = f"{BY_PARSER}{parser.name}{digest}"
        self.paths: dict[str, str] = {}
        self.skipped: list[tuple[str, str]] = []
        if not (folder / self.place).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{folder / 'parsing'} is a link that leads outside", hint="remove it")
        there = (folder / self.place).glob("*.png") if digest else ()
        self.finished = {path.name.rsplit(".", 2)[0]: f"{self.place}/{path.name}" for path in there}

    def parse(self, rows: pd.DataFrame) -> None:
        """Make and write the maps of a few rows."""
        waiting, images = [], []
        for row in rows.to_dict("records"):
            if _key(row) in self.finished:
                self.paths[row["sample_id"]] = self.finished[_key(row)]
                continue
            try:
                image = read_image(self.folder / row["image"])
                if isinstance(self.parser, FolderParser):
                    self._bring(self.parser, row, image)
                    continue
            except DataError as error:
                self.skipped.append((row["sample_id"], str(error)))
                continue
            waiting.append(row)
            images.append(image)
        if images:
            for row, classes in zip(waiting, self.parser(images), strict=True):
                self._write(row, classes)

    def _bring(self, parser: FolderParser, row: dict[str, str], image: np.ndarray) -> None:
        path = parser.find(row["sample_id"], row["image"], real=row["label"] == "real")
        if path is not None:
            self._write(row, parser.read(path, image.shape))
        else:
            self.skipped.append((row["sample_id"], "the folder has no map of its name"))

    def _write(self, row: dict[str, str], classes: np.ndarray) -> None:
        checksum = hashlib.sha256(repr(classes.shape).encode() + classes.tobytes()).hexdigest()
        relative = f"{self.place}/{_key(row)}.{checksum[:_DIGITS]}.png"
        write_parsing(self.folder / relative, classes)
        self.paths[row["sample_id"]] = relative


def _key(row: dict[str, str]) -> str:
    """Return what names the image of a row: its sample and, as far as known, its content."""
    return f"{file_stem(row['sample_id'])}.{row['sha256'][:_DIGITS]}"


def file_stem(sample: str) -> str:
    """Return the name of a sample as it may stand in a file name: one per sample, without slashes, not too long."""
    name = quote(sample, safe=" ")
    if len(name) <= _MOST_SIGNS:
        return name
    return f"{name[:_MOST_SIGNS]}-{hashlib.sha256(sample.encode()).hexdigest()[:16]}"


def write_parsing(path: Path, classes: np.ndarray) -> None:
    """Write a parsing map uint8 (H, W), atomically, as a palette PNG whose indices are the classes.

    Raises:
        RunError: The folder cannot be written.
    """
    image = Image.fromarray(classes)
    image.putpalette(PALETTE)
    with replacing(path) as temporary:
        image.save(temporary, "PNG")


def _remove_unnamed(folder: Path, rows: pd.DataFrame) -> None:
    """Remove the maps of parsers that the manifest no longer names."""
    named = {*rows["parsing"]}
    for path in folder.glob(f"{BY_PARSER}*/*.png"):
        if path.relative_to(folder).as_posix() not in named:
            path.unlink(missing_ok=True)
