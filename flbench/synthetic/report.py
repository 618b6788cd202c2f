"""What a data set of fakes is worth, in numbers: do edits look like their name, where is the difference, what leaks.

Nothing here is particular to the embedded data set but what only its maker can know: what a person looked like before
the edit, and what a perfect edit would have looked like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter

from flbench.data.batches import Frames
from flbench.data.dataset import ENTIRE, SPLITS, Dataset
from flbench.data.fakeness import REGIONS, fakeness_map
from flbench.errors import UsageError
from flbench.synthetic.classifier import AttributeClassifier, read_attributes
from flbench.synthetic.generators import FAMILIES
from flbench.synthetic.identity import ATTRIBUTES, EDITS
from flbench.synthetic.knowledge import Knowledge, knowledge_of
from flbench.synthetic.measure import SPECTRAL_POINTS, spectral_peaks
from flbench.synthetic.traces import (
    FINGERPRINTS,
    Bound,
    Separation,
    frame_level,
    mean_power,
    power_level,
    residual,
    separation,
)

SCHEMA = "flbench.data-report/1"
LIMIT = 200
"""Fakes of a category, photos of a split and fakes of a generator that are looked at, at most."""

IDEAL = 40
"""Of these, fakes of a category that are compared with the perfect edit: rendering one takes longer than looking."""

EXAMPLES = 6
"""Fakes of a category on a sheet."""

AWAY = 1 / 16
"""Share of the side by which a pixel must be away from the region to count as away: 8 pixels at 128."""

STRONG = 0.1
AGREEMENT, RATIO, UNTOLD = 0.90, 2.0, 0.60
"""What is asked for: agreement with the claim, M inside over outside, AUROC of a number that tells nothing."""

PHOTO_BOUNDS = tuple(Bound(point, most=3) for point in SPECTRAL_POINTS)
NUMBERS = ("power", "frame", "brightness")
"""Single numbers that a detector could live on."""

Progress = Callable[[int, int], None]


class Sample(NamedTuple):
    """One fake of a sheet: photo and fake, uint8 (S, S, 3), and M, float32 (S, S) in [0, 1]."""

    photo: np.ndarray
    fake: np.ndarray
    fakeness: np.ndarray


class Report(NamedTuple):
    """What was measured.

    Attributes:
        document: The numbers, ready for JSON.
        spectra: Mean residual power spectra, (S, S), of the photos and of each generator's fakes.
        samples: Category to a few of its fakes, for sheets.
    """

    document: dict[str, Any]
    spectra: dict[str, np.ndarray]
    samples: dict[str, list[Sample]]


@dataclass
class Strength:
    """Sums of M over images: in the region, outside it, and away from it."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("inside", "outside", "away"), 0.0))
    pixels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("inside", "outside", "away"), 0))

    def add(self, fakeness: np.ndarray, region: np.ndarray) -> None:
        """Add an image: M float32 (H, W) and its region bool (H, W)."""
        reach = round(AWAY * sum(region.shape) / 2)
        away = ~maximum_filter(region, size=2 * reach + 1, mode="constant", cval=False)
        for name, where in (("inside", region), ("outside", ~region), ("away", away)):
            self.sums[name] += float(fakeness[where].sum(dtype=np.float64))
            self.pixels[name] += int(where.sum())

    def means(self) -> dict[str, float | None]:
        """Return the mean of M over all pixels `inside`, `outside` and `away`, and the `ratio` of the first two."""
        means = {name: self.sums[name] / count if count else None for name, count in self.pixels.items()}
        inside, outside = means["inside"], means["outside"]
        return means | {"ratio": inside / outside if inside is not None and outside else None}


def report_dataset(
    dataset: Dataset,
    *,
    classifier: AttributeClassifier | None = None,
    limit: int = LIMIT,
    ideal: int = IDEAL,
    progress: Progress | None = None,
) -> Report:
    """Measure a data set.

    Images are the first of each category, split or generator in the order of the sha256 of the identity, so categories
    show the same people as far as they can. Fakes are compared with the photos of the same people.

    Args:
        dataset: What to measure.
        classifier: Reads attributes; None leaves agreement out.
        limit: Images that are looked at per category, split and generator, at most.
        ideal: Fakes per category that are compared with the perfect edit, at most; 0 for none.
        progress: Called with images done and their total.

    Raises:
        UsageError: The data set has no fakes.
        DataError: An image is missing or cannot be read.
    """
    fakes = _chosen_fakes(dataset, limit)
    if fakes.empty:
        raise UsageError(f"{dataset.label} has no fakes to report on", hint="import a category first")
    return _Reporter(dataset, classifier, limit, ideal, fakes, progress).report()


def _order(names: Iterable[str]) -> list[str]:
    return [hashlib.sha256(name.encode()).hexdigest() for name in names]


def _chosen_fakes(dataset: Dataset, limit: int) -> pd.DataFrame:
    """Return the fakes to look at with their `category`, and `photo`: the photo of the same person, or ""."""
    rows = dataset.manifest
    photos = rows[rows["label"] == "real"].drop_duplicates("identity").set_index("identity")["sample_id"]
    fakes = rows[rows["label"] == "fake"].copy()
    fakes["category"] = fakes["generator"] + "/" + fakes["attribute"]
    fakes["photo"] = fakes["source"].where(fakes["source"] != "", fakes["identity"].map(photos).fillna(""))
    fakes["order"] = _order(fakes["identity"])
    return fakes.sort_values(["category", "order", "sample_id"]).groupby("category").head(limit).reset_index(drop=True)


def _without_guests(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the databases that have fakes: photos of others stand beside none."""
    return rows[rows["database"].isin(set(rows.loc[rows["label"] == "fake", "database"]))]


class _Reporter:
    """One measurement: looks at every image once and keeps its numbers."""

    def __init__(
        self,
        dataset: Dataset,
        classifier: AttributeClassifier | None,
        limit: int,
        ideal: int,
        fakes: pd.DataFrame,
        progress: Progress | None,
    ) -> None:
        self.dataset, self.classifier, self.limit, self.ideal = dataset, classifier, limit, ideal
        self.fakes, self.progress = fakes, progress or (lambda done, total: None)
        self.frames = Frames(dataset, size=dataset.about.size, region="parsing")
        self.known: Knowledge | None = knowledge_of(dataset)
        self.rows = _without_guests(dataset.manifest)
        self.photos = self._chosen_photos()
        self.looks: dict[str, dict[str, float]] = {}
        self.samples: dict[str, list[Sample]] = {}

    @property
    def _native(self) -> bool:
        """Whether spectra are those of cameras and generators: images enlarged afterwards have others."""
        return self.known is None or self.known.native

    def _chosen_photos(self) -> pd.DataFrame:
        """Return photos: those of the people on the fakes, and some of every split."""
        photos = self.rows[self.rows["label"] == "real"].copy()
        photos["order"] = _order(photos["identity"])
        photos = photos.sort_values(["order", "sample_id"])
        some = photos.groupby("split").head(self.limit)["sample_id"]
        return photos[photos["sample_id"].isin({*some, *self.fakes["photo"]})].reset_index(drop=True)

    def report(self) -> Report:
        """Measure photos, categories, generators; then put it together."""
        total, done = len(self.photos) + len(self.fakes), 0
        for start in range(0, len(self.photos), 32):
            self._look(self.photos["sample_id"][start : start + 32])
            self.progress(min(start + 32, len(self.photos)), total)
        done = len(self.photos)
        categories = []
        for category, rows in self.fakes.groupby("category", sort=True):
            self._look(rows["sample_id"])
            categories.append(self._category(str(category), rows))
            done += len(rows)
            self.progress(done, total)
        spectra: dict[str, np.ndarray] = {}
        photos = [self._photos(split, spectra) for split in SPLITS if (self.photos["split"] == split).any()]
        generators = [self._generator(str(name), rows, spectra) for name, rows in self.fakes.groupby("generator")]
        about = self.dataset.about
        document = {
            "schema": SCHEMA,
            "dataset": {"name": about.name, "version": about.version, "fingerprint": self.dataset.fingerprint},
            "size": about.size,
            "images": len(self.dataset.manifest),
            "measured": total,
            "points": list(SPECTRAL_POINTS),
            "asked": {"agreement": AGREEMENT, "ratio": RATIO, "auroc": UNTOLD},
            "categories": categories,
            "photos": photos,
            "generators": generators,
        }
        return Report(_rounded(document), spectra, self.samples)

    def _look(self, samples: Sequence[str]) -> None:
        """Take the single numbers of images, and how sure the classifier is of their attributes."""
        images = [self.frames.image(sample) for sample in samples]
        chances = read_attributes(self.classifier, np.stack(images)) if self.classifier else None
        for place, (sample, image) in enumerate(zip(samples, images, strict=True)):
            remainder = residual(image)
            numbers = {"power": power_level(remainder), "frame": frame_level(remainder**2)}
            numbers["brightness"] = float(image.mean())
            if chances is not None:
                numbers |= dict(zip(ATTRIBUTES, chances[place].tolist(), strict=True))
            self.looks[sample] = numbers

    def _of(self, samples: Iterable[str], number: str) -> list[float]:
        return [self.looks[sample][number] for sample in samples]

    def _category(self, category: str, rows: pd.DataFrame) -> dict[str, Any]:
        """Measure one category."""
        generator, attribute = category.split("/", 1)
        every = self.dataset.manifest
        whole = (every["generator"] == generator) & (every["attribute"] == attribute)
        strength, whole_means, above, present = Strength(), [], [], []
        parsed = self.dataset.parsed(rows) if attribute.lower() in REGIONS else pd.Series(False, index=rows.index)
        for row, has_region in zip(rows.to_dict("records"), parsed.tolist(), strict=True):
            fakeness = self._fakeness(row)
            if fakeness is None:
                continue
            whole_means.append(float(fakeness.mean()))
            above.append(float((fakeness > STRONG).mean()))
            present.append(float((fakeness > 0).mean()))
            region = self.frames.region(row["sample_id"]) if has_region or attribute == ENTIRE else None
            if region is not None:
                strength.add(fakeness, region)
            shown = self.samples.setdefault(category, [])
            if len(shown) < EXAMPLES and row["photo"]:
                shown.append(Sample(self.frames.image(row["photo"]), self.frames.image(row["sample_id"]), fakeness))
        means = strength.means()
        found: dict[str, Any] = {"category": category, "n": int(whole.sum()), "measured": len(rows)}
        found |= means | {"mean": _mean(whole_means), "above": _mean(above), "present": _mean(present)}
        found |= self._agreement(attribute, rows)
        found["ratio_holds"] = None if means["ratio"] is None else means["ratio"] >= RATIO
        found["sources"] = self._sources(attribute, every[whole])
        return found

    def _fakeness(self, row: Mapping[str, str]) -> np.ndarray | None:
        """Return M; for a face that is synthetic as a whole the difference to the person's photo, if there is one."""
        if row["attribute"] != ENTIRE:
            return self.frames.truth(row["sample_id"])
        if not row["photo"]:
            return None
        return fakeness_map(self.frames.image(row["photo"]), self.frames.image(row["sample_id"]))

    def _agreement(self, attribute: str, rows: pd.DataFrame) -> dict[str, Any]:
        """Compare what the classifier reads with what the edit claims: on fakes, photos and perfect edits."""
        empty = dict.fromkeys(("agreement", "agreement_photos", "agreement_ideal", "agreement_holds", "ideal"))
        if self.known is None or attribute not in EDITS:
            return empty
        flipped, strength, agreed, ideals = EDITS[attribute], Strength(), [], []
        wanted = [bool(getattr(self.known.after(row, attribute), flipped)) for row in rows.to_dict("records")]
        for row in rows.head(self.ideal).to_dict("records"):
            perfect = self.known.perfect_edit(row, attribute)
            ideals.append(perfect.image)
            agreed.append(bool(getattr(perfect.look, flipped)))
            strength.add(self.frames.truth(row["sample_id"]), perfect.region)
        found = empty | {"ideal": strength.means() if ideals else None}
        if self.classifier is None:
            return found
        told = _share(self._of(rows["sample_id"], flipped), wanted)
        found |= {"agreement": told, "agreement_holds": told >= AGREEMENT}
        photos = [(photo, claim) for photo, claim in zip(rows["photo"], wanted, strict=True) if photo]
        found["agreement_photos"] = _share(self._of([p for p, _ in photos], flipped), [claim for _, claim in photos])
        if ideals:
            chances = read_attributes(self.classifier, np.stack(ideals))[:, ATTRIBUTES.index(flipped)]
            found["agreement_ideal"] = _share(chances.tolist(), agreed)
        return found

    def _sources(self, attribute: str, fakes: pd.DataFrame) -> dict[str, Any] | None:
        """Find the attribute, of those that the edit leaves alone, in which people on fakes and photos differ most."""
        if self.known is None:
            return None
        reals = self.rows[(self.rows["label"] == "real") & self.rows["split"].isin(set(fakes["split"]))]
        photographed = self.known.vectors(reals)
        before, after = self.known.vectors(fakes), self.known.vectors(fakes, attribute)
        if not len(photographed) or not len(before):
            return None
        kept = [place for place in range(len(ATTRIBUTES)) if (before[:, place] == after[:, place]).all()]
        place = max(kept, key=lambda at: (abs(after[:, at].mean() - photographed[:, at].mean()), -at))
        told = separation(photographed[:, place].tolist(), after[:, place].tolist())
        found = {"attribute": ATTRIBUTES[place], **_separated(told)}
        if attribute in EDITS:  # whoever asks only whether a face looks edited so
            edited = ATTRIBUTES.index(EDITS[attribute])
            found["edit_auroc"] = separation(photographed[:, edited].tolist(), after[:, edited].tolist()).auroc
        return found

    def _photos(self, split: str, spectra: dict[str, np.ndarray]) -> dict[str, Any]:
        """Measure the photos of a split."""
        rows = self.photos[self.photos["split"] == split].head(self.limit)
        images = [self.frames.image(sample) for sample in rows["sample_id"]]
        peaks = _peaks(images)
        setting = self.known.setting(split) if self.known else {}
        name = f"photos, {setting['camera']}" if setting else "photos"
        if name not in spectra:
            spectra[name] = mean_power(images)
        count = int(((self.rows["label"] == "real") & (self.rows["split"] == split)).sum())
        found: dict[str, Any] = {"split": split, "n": count, "measured": len(rows), "peaks": peaks}
        found |= {"scenery": "", "camera": ""} | setting
        found["holds"] = all(bound.holds(peaks) for bound in PHOTO_BOUNDS) if self._native else None
        return found | {number: _mean(self._of(rows["sample_id"], number)) for number in NUMBERS}

    def _generator(self, name: str, rows: pd.DataFrame, spectra: dict[str, np.ndarray]) -> dict[str, Any]:
        """Measure the spectral fingerprint of a generator and what each single number tells of its fakes."""
        rows = rows.sort_values(["order", "sample_id"])
        images = [self.frames.image(sample) for sample in rows["sample_id"].head(self.limit)]
        peaks, upsampling = _peaks(images), FAMILIES[name].upsampling if name in FAMILIES else ""
        spectra[name] = mean_power(images)
        bounds = FINGERPRINTS.get(upsampling, ()) if self._native else ()
        same = sorted({photo for photo in rows["photo"] if photo})
        photos = same or self.photos[self.photos["split"].isin(set(rows["split"]))]["sample_id"].tolist()
        told = {
            number: _separated(separation(self._of(photos, number), self._of(rows["sample_id"], number)))
            for number in NUMBERS
        }
        found: dict[str, Any] = {"generator": name, "upsampling": upsampling, "measured": len(rows), "peaks": peaks}
        found |= {"bounds": [str(bound) for bound in bounds], "numbers": told}
        return found | {"holds": all(bound.holds(peaks) for bound in bounds) if bounds else None}


def _peaks(images: Sequence[np.ndarray]) -> dict[str, float]:
    return spectral_peaks(np.stack(images).transpose(0, 3, 1, 2))


def _separated(told: Separation) -> dict[str, Any]:
    return told._asdict() | {"holds": None if told.auroc is None else told.auroc < UNTOLD}


def _share(chances: Sequence[float], claims: Sequence[bool]) -> float:
    """Return the share of readings that are as claimed."""
    return float(np.mean((np.array(chances) > 0.5) == np.array(claims, bool)))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _rounded(item: Any) -> Any:
    """Return a document with numbers that are the same on every machine, to four decimals."""
    if isinstance(item, Mapping):
        return {key: _rounded(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_rounded(value) for value in item]
    if isinstance(item, bool | np.bool_):
        return bool(item)
    return round(float(item), 4) if isinstance(item, float) else item
