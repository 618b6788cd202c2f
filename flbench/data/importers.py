"""Import folders of photos and fakes into a data set, one category at a time.

Images are copied; no file that the manifest names is ever overwritten, and the manifest is written last, so a kill in
the middle leaves the data set as it was.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from flbench.data.dataset import COLUMNS, ENTIRE, About, Dataset, read_dataset, write_dataset
from flbench.data.fakeness import REGIONS
from flbench.data.images import SUFFIXES, read_image, read_parsing
from flbench.data.manifest import NAME
from flbench.data.people import UNPRINTABLE, read_identities, split_of
from flbench.errors import DataError, RunError, UsageError
from flbench.files import file_digest, storage_error

Progress = Callable[[int, int], None]
Link = Literal["copy", "hard"]

_LOCK = ".import.lock"


class Report(NamedTuple):
    """What an import did.

    Attributes:
        added_real: Photos added.
        added_fake: Fakes added.
        skipped: Name and reason of what was left out.
        warnings: Name and reason of what is odd, though imported.
    """

    added_real: int
    added_fake: int
    skipped: list[tuple[str, str]]
    warnings: list[tuple[str, str]]


def import_pairs(
    *,
    real: Path,
    fake: Path,
    generator: str,
    attribute: str,
    database: str,
    into: Path,
    parsing: Path | None = None,
    fake_parsing: Path | None = None,
    identities: Path | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    licence: str = "",
    link: Link = "copy",
    replace: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Add one category to a data set, which is made if it does not exist: photos and their fakes, paired by name.

    A photo and its fake have the same file name but for the suffix. A photo that another category brought is used
    again, with its identity and its split. A new identity gets its split from `split_of`, so the split depends neither
    on the order of imports nor on what else is there. With the attribute `entire` fakes have no photo: each is an
    identity of its own, and every photo of `real` is added.

    The first import declares the data set's size: the most common shorter side of the photos. A later one raises the
    version, if that is a number.

    Args:
        real: Folder of photos.
        fake: Folder of fakes.
        generator: Who made the fakes, such as `stargan`.
        attribute: What was edited, such as `black_hair`.
        database: Where the photos are from, such as `celeba`.
        into: Folder of the data set.
        parsing: Folder of parsing maps of the photos, by the same names.
        fake_parsing: Folder of parsing maps of the fakes, by the same names.
        identities: CSV with the columns image (file name, suffix optional) and identity; None: each photo is a person.
        fractions: Shares of train, valid and test.
        seed: Seed of the split.
        licence: Licence of the images, for a new data set.
        link: "copy", or "hard" for hard links, which share their bytes with the originals.
        replace: Put the category in the place of the one of this name that is there.
        progress: Called with images done and images in all.

    Raises:
        UsageError: A folder is missing, no names match, the category is there already, or a value cannot be.
        DataError: Nothing readable was found.
        RunError: Another import into the folder is running, or it cannot be written.
    """
    for option, name in (("generator", generator), ("attribute", attribute), ("database", database)):
        if not NAME.fullmatch(name) or name == "real":
            raise UsageError(f"{option} cannot be called {name!r}", hint="letters, digits and _ . + - only, not 'real'")
    work = _Import(into, database, fractions, seed, link, identities)
    photos, fakes = work.files(real, "real"), work.files(fake, "fake")
    shared = photos.keys() & fakes.keys()
    if not fakes or (not shared and attribute != ENTIRE):
        raise UsageError(f"no image of {fake} has the name of one of {real}", hint="a photo and its fake share a name")
    maps, fake_maps = work.files(parsing, "parsing"), work.files(fake_parsing, "fake parsing")
    if attribute.lower() not in REGIONS:
        work.warnings.append((attribute, "no region is defined for this attribute"))
    with locked(into):
        work.open()
        stale = work.take_out(generator, attribute, replace=replace)
        folder = work.free_folder(f"{generator}/{attribute}")
        wanted_photos, wanted_fakes = (photos, fakes) if attribute == ENTIRE else (shared, shared)
        total = len(wanted_photos) + len(wanted_fakes)
        sizes: dict[str, tuple[int, ...]] = {}
        for done, name in enumerate(sorted(wanted_photos), 1):
            image = work.add_photo(name, photos[name], maps.get(name))
            if image is not None:
                sizes[name] = image.shape
            if progress:
                progress(done, total)
        for done, name in enumerate(sorted(wanted_fakes), 1 + len(wanted_photos)):
            if attribute == ENTIRE or name in sizes:
                size = None if attribute == ENTIRE else sizes[name]
                work.add_fake(name, fakes[name], fake_maps.get(name), generator, attribute, folder, size)
            if progress:
                progress(done, total)
        if attribute != ENTIRE:
            work.skipped += [(photos[name].name, "no fake has its name") for name in sorted(photos.keys() - shared)]
            work.skipped += [(fakes[name].name, "no photo has its name") for name in sorted(fakes.keys() - shared)]
        if not work.added_fake:
            raise DataError(f"nothing of {fake} could be imported: {': '.join(work.skipped[0])}")
        work.close(licence, stale)
    return Report(work.added_real, work.added_fake, work.skipped, work.warnings)


def import_photos(
    *,
    real: Path,
    database: str,
    into: Path,
    parsing: Path | None = None,
    identities: Path | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    licence: str = "",
    link: Link = "copy",
    progress: Progress | None = None,
) -> Report:
    """Add photos without fakes; everything else is as in `import_pairs`.

    Raises:
        UsageError: The folder is missing or has no images, or a value cannot be.
        DataError: Nothing readable was found.
        RunError: Another import into the folder is running, or it cannot be written.
    """
    if not NAME.fullmatch(database):
        raise UsageError(f"database cannot be called {database!r}", hint="letters, digits and _ . + - only")
    work = _Import(into, database, fractions, seed, link, identities)
    photos, maps = work.files(real, "real"), work.files(parsing, "parsing")
    if not photos:
        raise UsageError(f"{real} has no images", hint=f"known: {', '.join(sorted(SUFFIXES))}")
    with locked(into):
        work.open()
        for done, name in enumerate(sorted(photos), 1):
            work.add_photo(name, photos[name], maps.get(name))
            if progress:
                progress(done, len(photos))
        if not work.rows:
            raise DataError(f"nothing of {real} could be imported: {': '.join(work.skipped[0])}")
        work.close(licence, [])
    return Report(work.added_real, 0, work.skipped, work.warnings)


class _Import:
    """What one import has gathered; rows become part of the data set when it is closed."""

    def __init__(
        self,
        into: Path,
        database: str,
        fractions: tuple[float, float, float],
        seed: int,
        link: Link,
        identities: Path | None,
    ) -> None:
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise UsageError(f"the shares of train, valid and test are {fractions}", hint="they must add up to 1")
        self.into = into
        self.database = database
        self.fractions = fractions
        self.seed = seed
        self.link = link
        self.identities = None if identities is None else read_identities(identities)
        self.old: Dataset | None = None
        self.rows: dict[str, dict[str, str]] = {}
        self.splits: dict[str, str] = {}
        self.sides: Counter[int] = Counter()
        self.added_real = self.added_fake = 0
        self.skipped: list[tuple[str, str]] = []
        self.warnings: list[tuple[str, str]] = []

    def files(self, folder: Path | None, what: str) -> dict[str, Path]:
        """Return the images of a folder by their names without suffix, in Unicode's composed form."""
        if folder is None:
            return {}
        if not folder.is_dir():
            raise UsageError(f"the folder of {what} images {folder} does not exist", hint="check the path")
        if folder.resolve().is_relative_to(self.into.resolve()):
            raise UsageError(
                f"the folder of {what} images {folder} is inside the data set", hint="import from elsewhere"
            )
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            if UNPRINTABLE.search(path.name):
                shown = path.name.encode("utf-8", "backslashreplace").decode()
                self.skipped.append((shown, "the name is not UTF-8, or has a control character or a backslash"))
                continue
            name = unicodedata.normalize("NFC", path.stem)
            if name in found:
                raise UsageError(f"{folder} has both {found[name].name} and {path.name}", hint="keep one of them")
            found[name] = path
        return found

    def open(self) -> None:
        """Read what the data set has so far."""
        if not (self.into / "dataset.toml").exists():
            return
        self.old = read_dataset(self.into)
        if self.old.about.recipe:
            raise UsageError(f"{self.into} was made by a recipe", hint="import into another folder")
        self.rows = {row["sample_id"]: row for row in self.old.manifest.to_dict("records")}
        self.splits = dict(zip(self.old.manifest["identity"], self.old.manifest["split"], strict=True))

    def take_out(self, generator: str, attribute: str, *, replace: bool) -> list[str]:
        """Remove the rows of a category that is there already; return the paths of their files."""
        key = (generator, attribute, self.database)
        there = [row for row in self.rows.values() if (row["generator"], row["attribute"], row["database"]) == key]
        if there and not replace:
            what = f"{generator}/{attribute} of {self.database} is in {self.into} already ({len(there)} fakes)"
            raise UsageError(what, hint="--replace puts the new one in its place")
        for row in there:
            del self.rows[row["sample_id"]]
        return [row[column] for row in there for column in ("image", "parsing", "mask") if row[column]]

    def free_folder(self, name: str) -> str:
        """Return the first of `name`, `name.2`, ... in which the old manifest has no file."""
        old = [] if self.old is None else [*self.old.manifest["image"], *self.old.manifest["parsing"]]
        used = {path.partition("/")[2].rpartition("/")[0] for path in old}
        number = 1
        folder = f"{self.database}/{name}"
        while folder in used:
            number += 1
            folder = f"{self.database}/{name}.{number}"
        return folder

    def add_photo(self, name: str, path: Path, parsing: Path | None) -> np.ndarray | None:
        """Add a photo that is not there yet; return its pixels, or None if it was left out."""
        image = self._readable(path)
        if image is None:
            return None
        sample = f"{self.database}/{name}"
        row = self.rows.get(sample)
        if row is not None:
            if file_digest(path) != (row["sha256"] or file_digest(self.into / row["image"])):
                self.skipped.append((path.name, f"another photo is in the data set as {sample}"))
                return None
        else:
            identity = self._identity(name)
            if identity is None:
                self.skipped.append((path.name, "the table of identities does not name it"))
                return None
            target = self._bring(path, f"images/{self.database}/real/{name}{path.suffix.lower()}")
            row = self._row(sample, target, identity, label="real")
            self.sides[min(image.shape[:2])] += 1
            self.added_real += 1
        if parsing is not None and not row["parsing"]:
            row["parsing"] = self._bring_parsing(parsing, f"{self.database}/real", name, image)
        return image

    def add_fake(
        self,
        name: str,
        path: Path,
        parsing: Path | None,
        generator: str,
        attribute: str,
        folder: str,
        size: tuple[int, ...] | None,
    ) -> None:
        """Add the fake of a photo of a given size, or one without photo."""
        image = self._readable(path)
        if image is None:
            return
        if size is not None and image.shape != size:
            sizes = f"{image.shape[1]}x{image.shape[0]}, its photo {size[1]}x{size[0]}"
            self.warnings.append((path.name, f"the fake is {sizes}; both are resized when they are compared"))
        photo = self.rows[f"{self.database}/{name}"] if size is not None else None
        identity = f"{generator}/{self.database}/{name}" if photo is None else photo["identity"]
        row = self._row(
            f"{generator}/{attribute}/{self.database}/{name}",
            self._bring(path, f"images/{folder}/{name}{path.suffix.lower()}"),
            identity,
            label="fake",
            source="" if photo is None else photo["sample_id"],
            generator=generator,
            attribute=attribute,
        )
        if parsing is not None:
            row["parsing"] = self._bring_parsing(parsing, folder, name, image)
        self.added_fake += 1

    def close(self, licence: str, stale: list[str]) -> None:
        """Write the data set, then remove the files that it no longer names."""
        rows = pd.DataFrame(list(self.rows.values()), columns=list(COLUMNS))
        databases = rows["database"].unique()
        database = databases[0] if len(databases) == 1 else ""
        if self.old is None:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.into.resolve().name).strip("-._") or "imported"
            size = max(self.sides.items(), key=lambda item: (item[1], item[0]))[0]
            about = About(
                name=name,
                version="1",
                title=f"{name}, imported from folders",
                licence=licence or "unknown",
                size=size,
                database=database,
            )
        else:
            about = self.old.about
            version = str(int(about.version) + 1) if about.version.isdecimal() else about.version
            about = about.model_copy(update={"version": version, "database": database})
        write_dataset(self.into, about, rows)
        named = {*rows["image"], *rows["parsing"], *rows["mask"]}
        for path in stale:
            if path not in named:
                (self.into / path).unlink(missing_ok=True)

    def _readable(self, path: Path) -> np.ndarray | None:
        try:
            return read_image(path)
        except DataError as error:
            self.skipped.append((path.name, error.message.removeprefix(f"{path.name}: ")))
            return None

    def _identity(self, name: str) -> str | None:
        if self.identities is None:
            return f"{self.database}/{name}"
        return f"{self.database}/{self.identities[name]}" if name in self.identities else None

    def _row(self, sample: str, image: str, identity: str, **values: str) -> dict[str, str]:
        split = self.splits.setdefault(identity, split_of(identity, fractions=self.fractions, seed=self.seed))
        row = dict.fromkeys(COLUMNS, "")
        row.update(sample_id=sample, image=image, identity=identity, split=split, database=self.database, **values)
        row["sha256"] = file_digest(self.into / image)
        self.rows[sample] = row
        return row

    def _bring(self, source: Path, target: str) -> str:
        path = self.into / target
        path.parent.mkdir(parents=True, exist_ok=True)
        # What lies here is left over from an import that was killed; if it is a hard link, writing would reach through.
        path.unlink(missing_ok=True)
        if self.link == "hard":
            os.link(source.resolve(), path)
        else:
            shutil.copyfile(source, path)
        return target

    def _bring_parsing(self, source: Path, folder: str, name: str, image: np.ndarray) -> str:
        try:
            shape = read_parsing(source).shape
        except DataError as error:
            self.warnings.append((source.name, f"parsing map left out: {error.message}"))
            return ""
        if shape != image.shape[:2]:
            sizes = f"{shape[1]}x{shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            self.warnings.append((source.name, f"the parsing map is {sizes}"))
        return self._bring(source, f"parsing/{folder}/{name}{source.suffix.lower()}")


@contextmanager
def locked(into: Path) -> Iterator[None]:
    """Hold the data set for one command that changes it, and say in one line if it cannot be written."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        with FileLock(into / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise RunError(f"another import into {into} is running", hint="wait for it to end") from error
    except OSError as error:
        raise storage_error(error, Path(error.filename or into)) from error
