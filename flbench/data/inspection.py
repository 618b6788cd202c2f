"""Look at a data set: find what is wrong with it, and draw what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from flbench.data.dataset import ENTIRE, SPLITS, Dataset
from flbench.data.decoding import read_gray, read_image, read_parsing
from flbench.data.fakeness import CLASSES, REGIONS, difference_region, face_attention, fakeness_map, region_of
from flbench.data.images import orientation, resize, resize_classes
from flbench.errors import DataError, UsageError
from flbench.files import file_digest, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Progress = Callable[[int, int], None]

_GROUPS_AT_ONCE = 256
_SHEET_LIMIT = 120
_HEADINGS = ("photo", "fake", "ground truth", "region", "face attention map")


class Finding(NamedTuple):
    """One thing that is wrong, or odd, about a data set.

    Attributes:
        kind: "missing", "unreadable", "size mismatch", "duplicate content", "identity leak", "mask polarity",
            "mask values", "empty category", "unchanged fake", "parsing classes", "changed file", "orientation",
            "case clash".
        where: `sample_id`, or the category, or the data set's name for what concerns no single sample.
        message: What it is, with the file.
    """

    kind: str
    where: str
    message: str


class _Seen(NamedTuple):
    """What was found in one photo and its fakes, and the content of their files by `sample_id`."""

    findings: list[Finding]
    contents: list[tuple[str, str]]


def check_dataset(dataset: Dataset, *, progress: Progress | None = None, threads: int = 2) -> list[Finding]:
    """Decode every file of a data set and return what is wrong, in the order of the manifest.

    * missing, unreadable: images, parsing maps and stored masks, decoded in full.
    * size mismatch: a fake and its photo, a parsing map or a mask and its image.
    * duplicate content: two images of equal bytes. (Parsing maps may repeat.) A fake equal to its own photo, pixel by
      pixel, is an unchanged fake.
    * identity leak: an identity, or a photo and its fake, in more than one split.
    * mask polarity: a stored mask that goes against |photo - fake| (negative correlation), or an undeclared polarity.
    * mask values: a mask of a fake that is all zero, or whose largest value is 1 where 255 is white.
    * parsing classes: a class that is not one of CelebAMask-HQ's.
    * empty category: a declared category without fakes, or one without fakes in a split.
    * changed file: an image whose sha256 is not the manifest's.
    * orientation: an image with an EXIF orientation, which is not applied.
    * case clash: two files whose names differ only by case, one file on some systems.

    Args:
        dataset: What to check.
        progress: Called in the calling thread with images done and images in all.
        threads: Threads that decode.
    """
    rows = dataset.manifest
    findings = [*_empty_categories(dataset), *_leaks(rows), *_case_clashes(rows)]
    if (rows["mask"] != "").any() and not dataset.about.mask_polarity:
        hint = "set mask_polarity in dataset.toml; until then white counts as fake"
        findings.append(Finding("mask polarity", dataset.about.name, f"masks are stored, but no polarity: {hint}"))
    lead = rows["source"].where(rows["source"] != "", rows["sample_id"])
    groups = [indices for _, indices in sorted(rows.groupby(lead, sort=True).indices.items())]
    contents: dict[str, str] = {}
    first: dict[str, int] = {}
    place = {sample: number for number, sample in enumerate(rows["sample_id"])}
    found: list[Finding] = []
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
        # In portions, so that a long manifest does not become a long list of waiting tasks.
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            portion = groups[start : start + _GROUPS_AT_ONCE]
            for indices, seen in zip(
                portion, pool.map(lambda g: _inspect(dataset, rows.iloc[g]), portion), strict=True
            ):
                found += seen.findings
                contents.update(seen.contents)
                done += len(indices)
                if progress:
                    progress(done, len(rows))
    unchanged = {finding.where for finding in found if finding.kind == "unchanged fake"}
    for sample in rows["sample_id"]:
        if sample not in contents or sample in unchanged:
            continue
        number = first.setdefault(contents[sample], place[sample])
        if number != place[sample]:
            row, other = rows.iloc[place[sample]], rows.iloc[number]
            twin = f"{other['image']} of {other['sample_id']} (split {other['split']})"
            message = f"{row['image']} (split {row['split']}) has the content of {twin}"
            found.append(Finding("duplicate content", sample, message))
    return findings + sorted(found, key=lambda finding: place[finding.where])


def _inspect(dataset: Dataset, group: pd.DataFrame) -> _Seen:
    """Decode a photo and its fakes, one pair in memory at a time."""
    seen = _Seen([], [])
    photo: np.ndarray | None = None
    records = sorted(group.to_dict("records"), key=lambda row: row["label"] == "fake")
    for row in records:
        sample = row["sample_id"]
        image = _image(dataset, row, seen)
        parsing = _side_file(dataset, row, "parsing", read_parsing, image, seen)
        if parsing is not None:
            _look_at_parsing(row, parsing, seen)
        mask = _side_file(dataset, row, "mask", read_gray, image, seen)
        if row["label"] == "real":
            photo = image
            continue
        if mask is not None and row["attribute"] != ENTIRE:
            _look_at_mask(row, mask, seen)
        if image is None or photo is None or not row["source"]:
            continue
        if image.shape != photo.shape:
            sizes = f"{row['image']} is {_size(image)}, its photo {records[0]['image']} is {_size(photo)}"
            seen.findings.append(Finding("size mismatch", sample, sizes))
            continue
        fakeness = fakeness_map(photo, image)
        if not fakeness.any():
            message = f"{row['image']} has the pixels of its photo {records[0]['image']}"
            seen.findings.append(Finding("unchanged fake", sample, message))
        elif mask is not None and mask.shape == fakeness.shape:
            _look_at_polarity(dataset, row, mask, fakeness, seen)
    return seen


def _image(dataset: Dataset, row: dict[str, str], seen: _Seen) -> np.ndarray | None:
    path = dataset.path(row["image"])
    try:
        image = read_image(path)
    except DataError as error:
        seen.findings.append(_unreadable(row, row["image"], error))
        return None
    digest = file_digest(path)
    seen.contents.append((row["sample_id"], digest))
    if row["sha256"] and digest != row["sha256"]:
        seen.findings.append(Finding("changed file", row["sample_id"], f"{row['image']} is not what was imported"))
    turned = orientation(path)
    if turned != 1:
        message = f"{row['image']} has EXIF orientation {turned}, which is not applied: rotate the pixels"
        seen.findings.append(Finding("orientation", row["sample_id"], message))
    return image


def _side_file(
    dataset: Dataset,
    row: dict[str, str],
    column: str,
    read: Callable[[Path], np.ndarray],
    image: np.ndarray | None,
    seen: _Seen,
) -> np.ndarray | None:
    """Decode the parsing map or mask of a row, if it has one, and compare its size with the image's."""
    if not row[column]:
        return None
    try:
        array = read(dataset.path(row[column]))
    except DataError as error:
        seen.findings.append(_unreadable(row, row[column], error))
        return None
    if image is not None and array.shape != image.shape[:2]:
        sizes = f"{column} {row[column]} is {_size(array)}, its image {row['image']} is {_size(image)}"
        seen.findings.append(Finding("size mismatch", row["sample_id"], sizes))
    return array


def _unreadable(row: dict[str, str], file: str, error: DataError) -> Finding:
    reason = error.message.removeprefix(f"{Path(file).name}: ")
    if reason == "missing":
        return Finding("missing", row["sample_id"], f"{file} does not exist")
    return Finding("unreadable", row["sample_id"], f"{file}: {reason}")


def _look_at_parsing(row: dict[str, str], parsing: np.ndarray, seen: _Seen) -> None:
    unknown = [int(value) for value in np.flatnonzero(np.bincount(parsing.ravel())) if value >= len(CLASSES)]
    if unknown:
        message = f"{row['parsing']} has class {unknown[0]}; known are 0 to {len(CLASSES) - 1}"
        seen.findings.append(Finding("parsing classes", row["sample_id"], message))


def _look_at_mask(row: dict[str, str], mask: np.ndarray, seen: _Seen) -> None:
    highest = int(mask.max())
    if highest <= 1:
        message = "is all zero" if highest == 0 else "has no value above 1, where 255 is white"
        seen.findings.append(Finding("mask values", row["sample_id"], f"{row['mask']} {message}"))


def _look_at_polarity(
    dataset: Dataset, row: dict[str, str], mask: np.ndarray, fakeness: np.ndarray, seen: _Seen
) -> None:
    white = mask.astype(np.float64) - mask.mean()
    if dataset.about.mask_polarity == "fake_is_black":
        white = -white
    # The sign of the covariance is that of the correlation, and exists for constant masks too.
    if (white * (fakeness - fakeness.mean(dtype=np.float64))).sum() < 0:
        message = f"{row['mask']} goes against |photo - fake|; is the polarity in dataset.toml right?"
        seen.findings.append(Finding("mask polarity", row["sample_id"], message))


def _empty_categories(dataset: Dataset) -> list[Finding]:
    """Find categories without fakes, or without fakes in a split; one whose fakes are all for testing is whole."""
    counts = dataset.counts()
    findings = []
    for category in dataset.about.categories:
        if category not in counts.index:
            findings.append(Finding("empty category", category, "declared in dataset.toml, but has no fakes"))
    for category, row in counts.iterrows():
        empty = [split for split in SPLITS if row[split] == 0]
        if empty and empty != ["train", "valid"]:
            what = "photos" if category == "real" else "fakes"
            findings.append(Finding("empty category", str(category), f"no {what} in {' and '.join(empty)}"))
    return findings


def _leaks(rows: pd.DataFrame) -> list[Finding]:
    """Find identities in several splits, and fakes that are not where, or who, their photo is."""
    findings = []
    once = rows.drop_duplicates(["identity", "split"])
    for identity, group in once[once.duplicated("identity", keep=False)].groupby("identity", sort=True):
        places = [f"{row['split']} ({row['sample_id']}: {row['image']})" for row in group.to_dict("records")]
        message = f"identity {identity!r} is in {' and in '.join(places)}"
        findings.append(Finding("identity leak", group["sample_id"].iloc[0], message))
    photos = rows.set_index("sample_id")[["identity", "split", "image"]].add_suffix("_photo")
    fakes = rows[rows["source"] != ""].join(photos, on="source")
    for row in fakes[fakes["identity"] != fakes["identity_photo"]].to_dict("records"):
        people = f"{row['image']} shows {row['identity']!r}, its photo {row['image_photo']} {row['identity_photo']!r}"
        splits = "the same split" if row["split"] == row["split_photo"] else f"{row['split']} and {row['split_photo']}"
        findings.append(Finding("identity leak", row["sample_id"], f"{people}, in {splits}"))
    return findings


def _case_clashes(rows: pd.DataFrame) -> list[Finding]:
    files = rows[["sample_id", "image"]].drop_duplicates("image")
    folded = files["image"].str.casefold()
    findings = []
    for _, group in files[folded.duplicated(keep=False)].groupby(folded):
        message = f"{' and '.join(group['image'])} differ by case only"
        findings.append(Finding("case clash", group["sample_id"].iloc[0], message))
    return findings


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def contact_sheet(dataset: Dataset, path: Path, *, rows: int = 2) -> None:
    """Draw a few fakes of every category as PNG: photo, fake, ground truth, region and face attention map.

    Fakes are the first of the test split (of any, if it has none) in the order of the sha256 of their `sample_id`.
    Everything is brought to the data set's size. The region is the attribute's, from parsing maps of photo and fake;
    without them, where the ground truth is at least 0.1, which stands below it, and attention is white as in
    training. What cannot be read is named in its place.

    Args:
        dataset: What to draw.
        path: The PNG to write.
        rows: Fakes of each category.

    Raises:
        UsageError: The data set has no fakes.
        RunError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    chosen = [row for category in dataset.categories() for row in _examples(dataset, category, rows)]
    if not chosen:
        raise UsageError(f"{dataset.label} has no fakes to draw", hint="import a category first")
    chosen = chosen[:_SHEET_LIMIT]
    # Laid out by hand, in inches: matplotlib's own layout engine takes seconds on so many axes.
    width, height = 10.6, 1.72 * len(chosen) + 0.8
    figure = Figure(figsize=(width, height), dpi=100)
    grid = figure.subplots(len(chosen), len(_HEADINGS), squeeze=False)
    figure.subplots_adjust(1.35 / width, 0.2 / height, 9.6 / width, 1 - 0.6 / height, wspace=0.04, hspace=0.12)
    figure.suptitle(
        f"{dataset.label}: {dataset.about.size} px, licence {dataset.about.licence}",
        y=1 - 0.15 / height,
        parse_math=False,
    )
    photos = dataset.manifest.set_index("sample_id")
    shown: Any = None
    for number, (row, axes) in enumerate(zip(chosen, grid, strict=True)):
        for axis, heading in zip(axes, _HEADINGS, strict=True):
            axis.set(xticks=[], yticks=[])
            if number == 0:
                axis.set_title(heading, fontsize=10)
        label = f"{row['generator']}\n{row['attribute']}\n{(row['source'] or row['sample_id']).rpartition('/')[2][:18]}"
        axes[0].set_ylabel(label, fontsize=9, parse_math=False, rotation=0, ha="right", va="center")
        shown = _draw(dataset, row, photos, axes) or shown
    if shown is not None:
        length = min(height - 0.8, 3.2)
        place = figure.add_axes((9.75 / width, 1 - (0.6 + length) / height, 0.15 / width, length / height))
        bar = figure.colorbar(shown, cax=place)
        bar.set_label("fakeness, attention", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _examples(dataset: Dataset, category: Any, count: int) -> list[dict[str, str]]:
    rows = dataset.manifest
    fakes = rows[(rows["generator"] == category.generator) & (rows["attribute"] == category.attribute)]
    tests = fakes[fakes["split"] == "test"]
    records = (tests if len(tests) else fakes).to_dict("records")
    return sorted(records, key=lambda row: hashlib.sha256(row["sample_id"].encode()).digest())[:count]


def _draw(dataset: Dataset, row: dict[str, str], photos: pd.DataFrame, axes: np.ndarray) -> Any:
    """Draw one row; return the ground truth's image for the colour bar, or None if it could not be drawn."""
    size = dataset.about.size
    source = photos.loc[row["source"]] if row["source"] else None
    try:
        fake = resize(read_image(dataset.path(row["image"])), size)
        axes[1].imshow(fake, interpolation="nearest")
        photo = None if source is None else resize(read_image(dataset.path(source["image"])), size)
        if photo is None:
            _say(axes[0], "none")
        else:
            axes[0].imshow(photo, interpolation="nearest")
        truth = _truth(dataset, row, photo, fake)
        shown = axes[2].imshow(truth, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        files = dataset.region_maps(row["parsing"], "" if source is None else source["parsing"], row["attribute"])
        maps = [resize_classes(read_parsing(dataset.path(file)), size) for file in files]
        parsed = bool(maps) and row["attribute"].lower() in REGIONS
        if row["attribute"] == ENTIRE:
            region = np.ones((size, size), bool)
        else:
            region = region_of(row["attribute"], *maps) if parsed else difference_region(truth)
        _outline(axes[3], fake, region)
        attention = face_attention(region)
        if not parsed and row["attribute"] != ENTIRE:
            attention = np.ones((size, size), np.float32)
            axes[3].set_xlabel("from the difference", fontsize=8)
            axes[4].set_xlabel("white: no region", fontsize=8)
        axes[4].imshow(attention, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        return shown
    except DataError as error:
        for axis in axes:
            if not axis.images:
                _say(axis, error.message)
        return None


def _truth(dataset: Dataset, row: dict[str, str], photo: np.ndarray | None, fake: np.ndarray) -> np.ndarray:
    size = dataset.about.size
    if row["mask"]:
        mask = read_gray(dataset.path(row["mask"]))
        gray = resize(np.repeat(mask[:, :, None], 3, axis=2), size)[:, :, 0] / np.float32(255)
        return 1 - gray if dataset.about.mask_polarity == "fake_is_black" else gray
    if photo is None:
        return np.ones((size, size), np.float32)
    return fakeness_map(photo, fake)


def _outline(axis: Axes, fake: np.ndarray, region: np.ndarray) -> None:
    """Draw the fake, darkened outside the region, with the region's outline."""
    dark = np.where(region[:, :, None], fake, fake // 3)
    axis.imshow(dark, interpolation="nearest")
    if region.any() and not region.all():
        axis.contour(region.astype(np.float32), levels=[0.5], colors=["#00e5ff"], linewidths=1)
    if not region.any():
        axis.set_xlabel("empty", fontsize=8)


def _say(axis: Axes, text: str) -> None:
    axis.text(
        0.5, 0.5, text, ha="center", va="center", wrap=True, fontsize=8, transform=axis.transAxes, parse_math=False
    )
