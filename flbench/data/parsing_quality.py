"""How well a parser finds the parts of a face, measured on photos with known parsing maps, and what that allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flbench.data.fakeness import CLASSES, REGIONS, region_of
from flbench.data.images import SUFFIXES, read_image, read_parsing
from flbench.data.manifest import ENTIRE
from flbench.errors import DataError

LEAST_POOLED = 0.6
"""A region is good enough to score in from this IoU on, over the pixels of all photos together..."""

LEAST_PER_IMAGE = 0.5
"""...and from this mean over photos on."""

_BATCH = 8

Parse = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


def good_regions(measured: Mapping[str, Any]) -> frozenset[str]:
    """Return the attributes whose region a parser finds well enough, from what `measure_parser` returned.

    The region of `entire` is the whole image, so it needs no parser.
    """
    good = {
        attribute
        for attribute, found in measured["regions"].items()
        if found["pooled"] >= LEAST_POOLED and found["per_image"] >= LEAST_PER_IMAGE
    }
    return frozenset(good | {ENTIRE})


def measure_parser(
    parse: Parse, images: Path, masks: Path, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Compare the maps of a parser with known ones: IoU per class and IoU per region.

    A class counts over the pixels of all photos together. A region counts so ("pooled"), and as the mean over the
    photos where it is not empty in both maps ("per_image", of "n" photos).

    Args:
        parse: The parser.
        images: Folder of photos.
        masks: Folder of their parsing maps, of the photos' size and under the same names but for the suffix.
        progress: Called with photos done and photos in all.

    Returns:
        "images": number of photos; "mean_iou": mean over the classes that the known maps have; "classes": class to IoU,
        None for a class that neither map has; "regions": attribute to "pooled", "per_image" and "n". Rounded to four
        digits.

    Raises:
        DataError: A folder has no photo with a map, or one cannot be read, or differs in size from its photo.
    """
    known = {path.stem: path for path in sorted(masks.glob("*")) if path.suffix.lower() in SUFFIXES}
    photos = [path for path in sorted(images.glob("*")) if path.suffix.lower() in SUFFIXES and path.stem in known]
    if not photos:
        raise DataError(f"no photo of {images} has a parsing map of its name in {masks}")
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    overlaps: dict[str, list[tuple[int, int]]] = {attribute: [] for attribute in sorted({*REGIONS} - {ENTIRE})}
    for start in range(0, len(photos), _BATCH):
        chosen = photos[start : start + _BATCH]
        for path, found in zip(chosen, parse([read_image(path) for path in chosen]), strict=True):
            truth = read_parsing(known[path.stem])
            if truth.shape != found.shape or truth.max() >= len(CLASSES):
                raise DataError(f"{known[path.stem]} is no parsing map of {path.name}: {truth.shape}, {truth.max()}")
            pairs = truth.astype(np.int64) * len(CLASSES) + found
            confusion += np.bincount(pairs.ravel(), minlength=confusion.size).reshape(confusion.shape)
            for attribute, counts in overlaps.items():
                wanted, given = region_of(attribute, truth), region_of(attribute, found)
                counts.append((int((wanted & given).sum()), int((wanted | given).sum())))
        if progress:
            progress(start + len(chosen), len(photos))
    classes = _class_ious(confusion)
    present = [classes[name] for number, name in enumerate(CLASSES) if confusion[number].any()]
    return {
        "images": len(photos),
        "mean_iou": round(float(np.mean([value or 0.0 for value in present])), 4),
        "classes": classes,
        "regions": {attribute: _region_ious(counts) for attribute, counts in overlaps.items()},
    }


def _class_ious(confusion: np.ndarray) -> dict[str, float | None]:
    """Return the IoU of each class of a table of counts (true class, found class)."""
    hits = np.diag(confusion)
    unions = confusion.sum(0) + confusion.sum(1) - hits
    return {name: round(float(hits[n] / unions[n]), 4) if unions[n] else None for n, name in enumerate(CLASSES)}


def _region_ious(counts: list[tuple[int, int]]) -> dict[str, float]:
    """Return the pooled IoU, the mean per photo and the number of photos, from intersections and unions."""
    filled = [(both, either) for both, either in counts if either]
    if not filled:
        return {"pooled": 0.0, "per_image": 0.0, "n": 0}
    both, either = (sum(column) for column in zip(*filled, strict=True))
    per_image = float(np.mean([both / either for both, either in filled]))
    return {"pooled": round(both / either, 4), "per_image": round(per_image, 4), "n": len(filled)}
