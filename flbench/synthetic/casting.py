"""Casting: who is in a data set, whose photo is edited how, in which units it is made and what it needs on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from flbench.data.manifest import ENTIRE
from flbench.synthetic.identity import (
    EDITS,
    GEOMETRIC_EDITS,
    HAIR_COLOURS,
    HAIR_EDITS,
    Attributes,
    Identity,
    sample_identity,
)
from flbench.synthetic.profiles import Profile

CHUNK = 8
"""People per unit of work. Fixed: a generator's last bits may depend on how many images share a batch."""

_BLOCK = 4_096
"""Files take whole blocks of a disk, half a one too much on the average."""


class Need(NamedTuple):
    """What a profile takes: `images` on the whole, photos and fakes, and `bytes` on disk, with parsing maps."""

    images: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.images:,} images, about {amount(self.bytes)}"


@dataclass(frozen=True)
class Chunk:
    """One unit of work: a few people of one split.

    Attributes:
        number: Its place among all chunks of the profile.
        split: "train", "valid" or "test".
        seeds: Seeds of the people.
        fakes: Category to those of the seeds whose photo is edited so; categories without any are left out.
        guests: Whether they are guests, whose photos are taken in a setting of their own.
    """

    number: int
    split: str
    seeds: tuple[int, ...]
    fakes: Mapping[str, tuple[int, ...]]
    guests: bool = False

    @property
    def images(self) -> int:
        """How many images it makes."""
        return len(self.seeds) + sum(map(len, self.fakes.values()))

    @property
    def edited_maps(self) -> set[tuple[int, str]]:
        """Seed and flipped attribute of the faces whose parsing map an edit changes; or `entire`, which flips some."""
        pairs = ((category.partition("/")[2], seeds) for category, seeds in self.fakes.items())
        changing = GEOMETRIC_EDITS | {ENTIRE}
        return {(seed, EDITS.get(edit, edit)) for edit, seeds in pairs if edit in changing for seed in seeds}


def applicable(identity: Identity, attribute: str) -> bool:
    """Tell whether a photo can be edited so: it lacks the attribute, and hair edits need hair and no hat.

    `gender` makes men of women and `age` makes young people old: the other ways, long hair made up and wrinkles taken
    away, are beyond so small generators. `entire` suits everyone.
    """
    return _suits(identity.attributes, identity.hatted, attribute)


def cast(profile: Profile, split: str) -> dict[str, set[int]]:
    """Choose whose photos are edited: category to the seeds of its sources.

    The sources of a split are put in the order of the sha256 of `category:seed`, another one for every category, and
    the first ones whose photo can be edited so are taken, as many as the profile asks for or as there are.
    """
    looks = _looks(profile.sources(split), profile.settings[split].scenery)
    chosen = {}
    for category, count in profile.splits[split].fakes.items():
        attribute = category.partition("/")[2]
        able = [seed for seed, known in looks.items() if _suits(*known, attribute)]
        chosen[category] = set(sorted(able, key=lambda seed: _order(category, seed))[:count])
    return chosen


def chunks(profile: Profile) -> list[Chunk]:
    """Divide a profile into units of work, in the order of splits and seeds."""
    return [Chunk(number, *parts) for number, parts in enumerate(_parts(profile))]


def need_of(profile: Profile, work: list[Chunk]) -> Need:
    """Estimate what chunks of a profile take on disk.

    Measured on data sets of 64 and 128 pixels, within a tenth, and on a sample of 224: an image is a PNG of 1.36 bytes
    per pixel and .66 per pixel that was really photographed, a parsing map one of .06 bytes per pixel.
    """
    images = sum(chunk.images for chunk in work)
    maps = sum(len(chunk.seeds) + len(chunk.edited_maps) for chunk in work)
    per_image = 1.36 * profile.size**2 + 0.66 * profile.native**2 + 300
    per_map = 0.06 * profile.size**2 + 300
    return Need(images, round(images * per_image + maps * per_map + (images + maps) * _BLOCK / 2))


def amount(size: int) -> str:
    """Write a number of bytes in megabytes or gigabytes, with two digits."""
    value, unit = (size / 1e9, "GB") if size >= 995e6 else (size / 1e6, "MB")
    return f"{value:.1f} {unit}" if value < 9.95 else f"{float(f'{value:.2g}'):.0f} {unit}"


@lru_cache(maxsize=8)
def _looks(seeds: range, scenery: str) -> Mapping[int, tuple[Attributes, bool]]:
    """Draw people and keep looks and hats: seconds for ten thousand, so once for estimating and making."""
    people = (sample_identity(seed, scenery) for seed in seeds)
    return {person.seed: (person.attributes, person.hatted) for person in people}


def _suits(look: Attributes, hatted: bool, attribute: str) -> bool:
    if attribute == ENTIRE:
        return True
    if hatted and attribute in HAIR_EDITS:
        return False
    if look.bald and (attribute in HAIR_COLOURS or attribute == "bangs"):
        return False
    return look.lacks(attribute)


def _parts(profile: Profile) -> Iterator[tuple[str, tuple[int, ...], dict[str, tuple[int, ...]], bool]]:
    for split in profile.splits:
        chosen = cast(profile, split)
        groups = ((profile.sources(split), False), (profile.others(split), False), (profile.guests(split), True))
        for group, guests in groups:
            for start in range(0, len(group), CHUNK):
                seeds = tuple(group[start : start + CHUNK])
                fakes = {name: tuple(seed for seed in seeds if seed in taken) for name, taken in chosen.items()}
                yield split, seeds, {name: some for name, some in fakes.items() if some}, guests


def _order(category: str, seed: int) -> str:
    return hashlib.sha256(f"{category}:{seed}".encode()).hexdigest()
