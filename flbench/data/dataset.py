"""A data set is a folder: `dataset.toml`, a manifest with one row per image, and the images.

The manifest is `manifest.parquet`, or `manifest.csv` for those who write one by hand. Nothing here opens an image.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flbench.data.manifest import COLUMNS, ENTIRE, LABELS, SPLITS, among, checked, read_manifest, texts, write_manifest
from flbench.errors import DataError, suggest
from flbench.files import write_text
from flbench.protocol import Category, FitSlice, TestSlice

__all__ = [
    "COLUMNS",
    "ENTIRE",
    "LABELS",
    "SPLITS",
    "About",
    "Dataset",
    "Selection",
    "lacks_other",
    "leaks",
    "read_dataset",
    "select_fit",
    "select_test",
    "write_dataset",
]

ABOUT = "dataset.toml"
BY_PARSER = "parsing/_"
"""How the paths of maps made by a parser start; no database may be called so, so no imported map is there."""


class About(BaseModel):
    """What `dataset.toml` says.

    Attributes:
        name: Short name, such as `synthfaces-mini`.
        version: Changed whenever an image or a row changes.
        title: One line for headings.
        licence: Licence of the images.
        size: Declared height and width in pixels.
        publishable: Whether images may be shown in published figures.
        database: Where the photos that fakes were made of are from, if all are from one place.
        mask_polarity: What white means in stored masks; empty where the data set stores none.
        recipe: Fingerprint of the recipe, for a data set made by code.
        pixels: Checksum of the pixels, for a data set made by code.
        note: What a reader must know.
        categories: Categories that must not be empty, as `generator/attribute`; empty: those of the rows.
        parser: Name of the parser that made the parsing maps below `BY_PARSER`; empty: there are none.
        parsed_attributes: Edited attributes in whose region these maps are good enough to score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    version: str = Field(min_length=1)
    title: str
    licence: str
    size: int = Field(ge=1, le=16384)
    publishable: bool = False
    database: str = ""
    mask_polarity: Literal["fake_is_white", "fake_is_black", ""] = ""
    recipe: str = ""
    pixels: str = ""
    note: str = ""
    categories: tuple[str, ...] = Field(default=(), strict=False)
    parser: str = ""
    parsed_attributes: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("categories")
    @classmethod
    def _written_right(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        for category in categories:
            Category.parse(category)
        return categories


class Selection(NamedTuple):
    """Rows of a manifest that take part.

    Attributes:
        fakes: Fake rows in the order of `sample_id`, index 0..n-1.
        reals: Real rows in the order of `sample_id`, index 0..n-1.
    """

    fakes: pd.DataFrame
    reals: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set that was read and whose manifest holds together.

    Attributes:
        folder: Where it lies.
        about: What `dataset.toml` says.
        manifest: A row per image, columns `COLUMNS`, sorted by `sample_id`, index 0..n-1.
    """

    folder: Path
    about: About
    manifest: pd.DataFrame

    @property
    def label(self) -> str:
        """Name and version, such as `synthfaces-mini v1`."""
        return f"{self.about.name} v{self.about.version}"

    @cached_property
    def fingerprint(self) -> str:
        """The recipe's fingerprint, or the sha256 of the rows, the size and the polarity of masks.

        Independent of the order of rows, the format of the manifest and the place of the folder. Pixels count through
        the column `sha256`, so a manifest without it has a fingerprint that does not see changed pixels.
        """
        if self.about.recipe:
            return self.about.recipe
        digest = hashlib.sha256(json.dumps([self.about.size, self.about.mask_polarity]).encode())
        if self.about.parser:
            digest.update(json.dumps(sorted(self.about.parsed_attributes)).encode())
        for piece in texts(self.manifest):
            digest.update(piece.encode())
        return digest.hexdigest()

    @cached_property
    def leaks(self) -> list[str]:
        """What stands in more than one split, as `leaks` says; every cell of a run asks."""
        return leaks(self.manifest)

    def path(self, relative: str) -> Path:
        """Return where a path of the manifest lies."""
        return self.folder / relative

    def parsed(self, fakes: pd.DataFrame) -> pd.Series:
        """Return for every fake whether it, or the photo it was made from, has a parsing map to score it by."""
        photos = self._photos_parsing(fakes)
        columns = zip(fakes["parsing"], photos, fakes["attribute"], strict=True)
        return pd.Series([any(self.region_maps(*row)) for row in columns], index=fakes.index, dtype=bool)

    def region_maps(self, parsing: str, photo: str, attribute: str) -> list[str]:
        """Return the parsing maps in which the region of a fake may be looked up.

        Those of a parser count only for the attributes for which it is good enough.

        Args:
            parsing: Path of the fake's map, or "".
            photo: Path of its photo's map, or "".
            attribute: What was edited.
        """
        trusted = not self.about.parser or attribute.lower() in self.about.parsed_attributes
        paths = [path for path in dict.fromkeys((parsing, photo)) if path]
        return [path for path in paths if trusted or not path.startswith(BY_PARSER)]

    def why_unparsed(self, fakes: pd.DataFrame) -> str:
        """Return why fakes have no parsing map to score them by, as the end of a sentence."""
        distrusted = fakes[(fakes["parsing"] != "") | (self._photos_parsing(fakes) != "")]
        if distrusted.empty:
            return "have no parsing map"
        names = ", ".join(sorted(distrusted["attribute"].unique()))
        return f"have only maps of the parser {self.about.parser}, which is not good enough for {names}"

    def _photos_parsing(self, fakes: pd.DataFrame) -> pd.Series:
        """Return the parsing map of each fake's photo, or ""."""
        paths = dict(zip(self.manifest["sample_id"], self.manifest["parsing"], strict=True))
        return fakes["source"].map(lambda source: paths.get(source, ""))

    def categories(self) -> list[Category]:
        """Return the categories of the fakes, sorted."""
        fakes = self.manifest[self.manifest["label"] == "fake"]
        pairs = fakes[["generator", "attribute"]].drop_duplicates()
        return sorted(Category(*pair) for pair in pairs.itertuples(index=False, name=None))

    @cached_property
    def counts(self) -> pd.DataFrame:
        """Number of images: a row per category and a last row `real`, a column per split."""
        rows = self.manifest
        kind = (rows["generator"] + "/" + rows["attribute"]).where(rows["label"] == "fake", "real")
        table = pd.crosstab(kind, rows["split"])
        order = [*map(str, self.categories()), "real"]
        table = table.reindex(index=order, columns=list(SPLITS), fill_value=0)
        return table.rename_axis(index="category", columns="split")


def write_dataset(folder: Path, about: About, manifest: pd.DataFrame) -> Dataset:
    """Write `dataset.toml` and the manifest into a folder that holds, or will hold, the images.

    Each file is written beside its place and moved there; a kill leaves the old ones. A manifest that is CSV stays CSV.

    Args:
        folder: Made if it does not exist.
        about: What to say about the data set.
        manifest: Columns `COLUMNS` in any order, rows in any order; missing values become empty strings.

    Returns:
        The data set as `read_dataset` would read it.

    Raises:
        UsageError: The manifest does not hold together; names the row.
        RunError: The folder cannot be written.
    """
    rows = checked(manifest)
    write_text(folder / ABOUT, _to_toml(about))
    write_manifest(folder, rows)
    return Dataset(folder, about, rows)


def read_dataset(folder: Path) -> Dataset:
    """Read `dataset.toml` and the manifest of a folder; images are not opened.

    Raises:
        DataError: The folder, `dataset.toml` or the manifest is missing or damaged.
        UsageError: The manifest does not hold together: no rows, missing or unknown columns, identifiers given twice,
            paths that lead outside the folder, values that cannot be; names the line.
    """
    if not folder.is_dir():
        raise DataError(f"data set {folder} does not exist", hint="make or import one, or check the path")
    about = _read_about(folder / ABOUT)
    return Dataset(folder, about, read_manifest(folder))


def select_fit(dataset: Dataset, fit: FitSlice, split: str) -> Selection:
    """Return what a fit slice learns from in a split.

    "disjoint": real photos and fakes show different people. Those of whom the split has no fake at all give real
    photos. The others, in the order of the sha256 of their identity, give fakes; while fewer than half of the people
    of a database give photos, every second of them, from the second on, gives photos instead. "paired": every fake,
    and the real photos of the same identities. Neither depends on the order of rows; sides are the same for every fit
    slice. Real photos are only those of the databases that the slice's fakes, or the photos they were made of, are
    from. `per_category` holds for the fakes that are left, those of the categories that the split has: the first ones
    in the order of the sha256 of their `sample_id`.

    Args:
        dataset: Where to look.
        fit: The slice.
        split: "train", "valid" or "test".
    """
    rows = dataset.manifest[dataset.manifest["split"] == split]
    fakes = rows[_in_categories(rows, fit.categories)]
    reals = rows[rows["label"] == "real"]
    reals = reals[_from(reals, _databases(dataset, fakes))]
    if fit.people == "disjoint":
        photographed = _photographed(rows)
        fakes = _evened(fakes[~among(fakes["identity"], photographed)], fit.per_category)
        reals = reals[among(reals["identity"], photographed)]
    else:
        fakes = _evened(fakes, fit.per_category)
        reals = reals[among(reals["identity"], fakes["identity"])]
    return Selection(fakes.reset_index(drop=True), reals.reset_index(drop=True))


def select_test(
    dataset: Dataset, test: TestSlice, reals: Literal["balanced", "all"], fit: FitSlice | None = None
) -> Selection:
    """Return what a test slice is measured on: fakes of its categories in the test split, and real photos.

    Real photos are those of the databases that the fakes, or the photos they were made of, are from. A slice of other
    photos has no fake, and every real photo of the test split that is from other databases than `fit` learnt from.

    Args:
        dataset: Where to look.
        test: The slice.
        reals: "balanced": as many real photos as fakes, or all there are: first those of people of whom the split has
            no fake, then the others, each in the order of the sha256 of their `sample_id`; "all": every one.
        fit: What is tested; a slice of other photos needs it.

    Raises:
        ValueError: A slice of other photos, and no `fit`.
    """
    rows = dataset.manifest
    tested = rows["split"] == "test"
    fakes = rows[tested & _in_categories(rows, test.categories)]
    photos = rows[tested & (rows["label"] == "real")]
    if test.photos == "other":
        if fit is None:
            raise ValueError(f"test {test.name!r} takes photos of other databases than its fit's: which fit?")
        photos = photos[~_from(photos, _learnt_from(dataset, fit))]
    else:
        photos = photos[_from(photos, _databases(dataset, fakes))]
        if reals == "balanced":
            edited = among(photos["identity"], rows.loc[tested & (rows["label"] == "fake"), "identity"])
            hashes = np.array([hashlib.sha256(name.encode()).digest() for name in photos["sample_id"]], "S32")
            photos = photos.iloc[np.sort(np.lexsort((hashes, edited))[: len(fakes)])]
    return Selection(fakes.reset_index(drop=True), photos.reset_index(drop=True))


def lacks_other(dataset: Dataset, fit: FitSlice) -> bool:
    """Tell whether the test split has no real photo of another database than those a fit slice learnt from."""
    rows = dataset.manifest[(dataset.manifest["split"] == "test") & (dataset.manifest["label"] == "real")]
    return bool(_from(rows, _learnt_from(dataset, fit)).all())


def leaks(manifest: pd.DataFrame) -> list[str]:
    """Return what stands in more than one split, one sentence each: identities first, then equal image contents."""
    found = []
    for column, what in (("identity", "identity"), ("sha256", "the same image content")):
        known = manifest.loc[manifest[column] != "", [column, "split"]].drop_duplicates()
        twice = known[known.duplicated(column, keep=False)]
        for value, splits in twice.groupby(column, sort=True)["split"]:
            named = f"{what} {value!r}" if column == "identity" else f"{what} (sha256 {value[:12]})"
            found.append(f"{named} is in {' and '.join(s for s in SPLITS if s in set(splits))}")
    return found


def _photographed(rows: pd.DataFrame) -> set[str]:
    """Return the identities of a split that give real photos where people are disjoint.

    Each database is divided by itself: many photos of one would else leave no photos of another. A person is of the
    database of their photo, if there is one.
    """
    homes = rows.sort_values("label", ascending=False, kind="stable").drop_duplicates("identity")
    edited, found = set(rows.loc[rows["label"] == "fake", "identity"]), set[str]()
    for _, home in homes.groupby("database"):
        people = set(home["identity"])
        wanted = max(0, len(people) // 2 - len(people - edited))
        found |= (people - edited) | set(sorted(people & edited, key=_sha256)[1::2][:wanted])
    return found


def _databases(dataset: Dataset, fakes: pd.DataFrame) -> set[str]:
    """Return the databases that are named for fakes and for the photos they were made of."""
    photos = among(dataset.manifest["sample_id"], fakes["source"])
    return {*fakes["database"].unique(), *dataset.manifest.loc[photos, "database"].unique()} - {""}


def _learnt_from(dataset: Dataset, fit: FitSlice) -> set[str]:
    """Return the databases of the fakes that a fit slice may see while it learns."""
    rows = dataset.manifest[dataset.manifest["split"] != "test"]
    return _databases(dataset, rows[_in_categories(rows, fit.categories)])


def _from(photos: pd.DataFrame, databases: set[str]) -> pd.Series:
    """Tell which photos are from databases; where a name is missing on either side, nothing says they are not."""
    if not databases:
        return pd.Series(True, index=photos.index)
    return photos["database"].isin({*databases, ""})


def _evened(fakes: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """Keep as many fakes of every category as the rarest has, at most `most`; without `most` all."""
    if most is None or fakes.empty:
        return fakes
    category = ["generator", "attribute"]
    share = min(most, fakes.groupby(category).size().min())
    ordered = fakes.loc[fakes["sample_id"].map(_sha256).sort_values().index]
    return fakes.loc[ordered.groupby(category).head(share).index.sort_values()]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _in_categories(rows: pd.DataFrame, categories: Iterable[str]) -> pd.Series:
    return (rows["label"] == "fake") & (rows["generator"] + "/" + rows["attribute"]).isin(list(categories))


def _to_toml(about: About) -> str:
    """Write the fields as TOML; a JSON string is a TOML string but for the delete character."""
    lines = []
    for key, value in about.model_dump(mode="json").items():
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
    return "\n".join(lines) + "\n"


def _read_about(path: Path) -> About:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return About.model_validate(document)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="is this folder a data set?") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise DataError(f"{path}: unknown key {key!r}", hint=suggest(key, list(About.model_fields))) from error
        raise DataError(f"{path}: {key}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits, brackets in brackets
        raise DataError(f"{path} is not valid TOML: {error}") from error
