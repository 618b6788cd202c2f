"""Profiles of the embedded data set and the fingerprints of their recipes; imports neither torch nor pandas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flbench.errors import UsageError, suggest
from flbench.files import file_digest
from flbench.protocol import fingerprint

if TYPE_CHECKING:
    from flbench.synthetic.casting import Need

RENDERER_VERSION = 2
"""Raised whenever the renderer or the camera changes a pixel."""

RECIPE_VERSION = 5
"""Raised whenever camera, generators or forge change a pixel; part of every data set's fingerprint."""

DATABASE = "synthfaces"

GUEST_DATABASE = "synthphotos"
"""Where the photos of guests are from, which no generator edits."""

WEIGHTS = Path(__file__).parent / "weights"
EXPECTED = WEIGHTS / "expected_pixels.json"

FINISHED = "-finished"
"""What the name of a profile ends with whose images are all given one more finish, see `finish.py`."""

OFFERED: Mapping[str, tuple[str, ...]] = {
    "stgan": ("bald", "bangs", "black_hair", "blond_hair", "brown_hair", "eyeglasses", "male", "mustache", "smile"),
    "attgan": ("bald", "bangs", "black_hair", "blond_hair", "brown_hair", "eyeglasses", "male", "smile"),
    "stargan": ("black_hair", "blond_hair", "brown_hair", "gender", "age"),
    "icgan": ("bald", "bangs", "eyeglasses", "smile"),
    "stylegan": ("smile", "age", "gender", "entire"),
    "pggan": ("entire",),
    "stylegan2": ("entire",),
}
"""Generator family to its attributes in the paper's Table 1, in the order of the table."""

CATEGORIES = tuple(f"{family}/{attribute}" for family, attributes in OFFERED.items() for attribute in attributes)
"""The 32 categories of the paper's Table 1, as `generator/attribute`."""


class Setting(NamedTuple):
    """Where and with what photos are taken."""

    scenery: str
    camera: str


SETTINGS: Mapping[str, Setting] = {
    "train": Setting("studio", "compact"),
    "valid": Setting("studio", "compact"),
    "test": Setting("outdoor", "phone"),
    "guests": Setting("studio", "webcam"),
}
"""A test is taken elsewhere and with another camera, so that no locator can live on either; its guests with a third."""


class Split(NamedTuple):
    """Who is in a split.

    Attributes:
        sources: People whose photos are edited; the photos are in the data set too.
        others: People of whom there is a photo and no fake.
        fakes: Category to the number of its fakes; fewer if fewer sources can be edited so.
        guests: People of whom there is a photo in another setting and of another database, and no fake.
    """

    sources: int
    others: int
    fakes: Mapping[str, int]
    guests: int = 0

    @property
    def people(self) -> int:
        """How many people it shows."""
        return self.sources + self.others + self.guests


@dataclass(frozen=True)
class Profile:
    """One size of the embedded data set.

    Attributes:
        name: How it is asked for.
        size: Height and width of the images.
        native: Height and width at which photos are taken and edited; enlarged alike where `size` is more.
        first_seed: Seed of the first identity; splits follow one another, sources first. Below the seeds that trained
            generators.
        splits: Who is in train, valid and test.
        settings: Where and with what the photos of each split are taken, and those of guests.
        finished: Whether all images are given one more finish.
    """

    name: str
    size: int
    native: int
    first_seed: int
    splits: Mapping[str, Split]
    settings: Mapping[str, Setting] = field(default_factory=lambda: SETTINGS)
    finished: bool = False

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """Categories of the fakes per split."""
        return {name: tuple(split.fakes) for name, split in self.splits.items()}

    @property
    def generators(self) -> list[str]:
        """Generator families that make fakes, sorted."""
        return sorted({category.partition("/")[0] for split in self.splits.values() for category in split.fakes})

    def seeds(self, split: str) -> range:
        """Return the identity seeds of a split: sources, then others, then guests."""
        start = self.first_seed
        for name, people in self.splits.items():
            if name == split:
                return range(start, start + people.people)
            start += people.people
        raise KeyError(split)

    def sources(self, split: str) -> range:
        """Return the seeds of those whose photos are edited."""
        return self.seeds(split)[: self.splits[split].sources]

    def others(self, split: str) -> range:
        """Return the seeds of those who are on photos only."""
        people = self.splits[split]
        return self.seeds(split)[people.sources : people.sources + people.others]

    def guests(self, split: str) -> range:
        """Return the seeds of those who are on photos of another database."""
        people = self.splits[split]
        return self.seeds(split)[people.sources + people.others :]


def _each(count: int, *, more: int = 0) -> dict[str, int]:
    """Ask for `count` fakes of every category, and `more` of those that single fits learn from."""
    learnt = ("stgan/bald", "stgan/blond_hair", "stgan/smile", "stargan/blond_hair")
    return dict.fromkeys(CATEGORIES, count) | dict.fromkeys(learnt, more or count)


_TINY_LEARNT = ("stgan/bald", "stgan/blond_hair", "stgan/eyeglasses", "stargan/blond_hair", "pggan/entire")
_TINY_TESTED = (*CATEGORIES[:9], "stargan/blond_hair", "stargan/gender", "pggan/entire")

# Smile and male suit every second person. So there are twice as many sources as fakes, and in train and valid as many
# others again: with fewer, sources would have to give photos instead of fakes (`dataset.select_fit`).
_PLAIN = (
    Profile(
        "tiny",
        64,
        64,
        1_000,
        {
            "train": Split(20, 16, dict.fromkeys(_TINY_LEARNT, 20)),
            "valid": Split(8, 6, dict.fromkeys(_TINY_LEARNT, 8)),
            "test": Split(12, 8, dict.fromkeys(_TINY_TESTED, 12), guests=8),
        },
    ),
    Profile(
        "mini",
        128,
        128,
        10_000,
        {
            "train": Split(520, 520, _each(30, more=270)),
            "valid": Split(48, 48, _each(4, more=20)),
            "test": Split(112, 64, _each(48), guests=48),
        },
    ),
    Profile(
        "standard",
        128,
        128,
        20_000,
        {
            "train": Split(1_100, 1_100, _each(500)),
            "valid": Split(230, 230, _each(100)),
            "test": Split(450, 400, _each(200), guests=200),
        },
    ),
    Profile(
        "full",
        224,
        128,
        100_000,
        {
            "train": Split(10_400, 10_400, _each(5_000)),
            "valid": Split(1_100, 1_100, _each(500)),
            "test": Split(2_200, 1_000, _each(1_000), guests=1_000),
        },
    ),
)
_FINISHED = tuple(replace(profile, name=f"{profile.name}{FINISHED}", finished=True) for profile in _PLAIN)

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (*_PLAIN, *_FINISHED)}


def make(profile: str, into: Path, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> None:
    """Make the data set of a profile: `flbench.synthetic.forge.make`, imported when it is needed.

    Raises:
        UsageError: No such profile, or `into` exists.
        RunError: Another process is making it, or the disk refuses or has too little space.
        Interrupted: Ctrl+C; what is finished is kept.
    """
    from flbench.synthetic import forge

    forge.make(profile, into, workers=workers, progress=progress)


def estimate(profile: str) -> Need:
    """Estimate how many images a profile has and how many bytes it takes on disk.

    Raises:
        UsageError: No such profile.
    """
    from flbench.synthetic.casting import chunks, need_of

    chosen = profile_named(profile)
    return need_of(chosen, chunks(chosen))


def datasheet() -> str:
    """Return what the data set is, what it stands for and what it cannot, as markdown."""
    from flbench.synthetic import datasheet as pages

    return pages.datasheet()


def recipe(profile: str) -> str:
    """Return the sha256 of everything that decides the pixels of a profile: versions, numbers, seeds and weights.

    Raises:
        UsageError: No such profile.
    """
    chosen = profile_named(profile)
    return fingerprint(
        {
            "recipe": RECIPE_VERSION,
            "renderer": RENDERER_VERSION,
            "profile": asdict(chosen),
            "weights": {name: file_digest(WEIGHTS / f"{name}.safetensors") for name in chosen.generators},
        }
    )


def expected_pixels(profile: str) -> dict[str, str] | None:
    """Return the recorded `recipe`, `pixels`, `machine` and `torch` of a profile, or None if there is no record."""
    if not EXPECTED.is_file():
        return None
    return json.loads(EXPECTED.read_text(encoding="utf-8")).get(profile)


def profile_named(name: str) -> Profile:
    """Return a profile by its name.

    Raises:
        UsageError: No such profile.
    """
    if name not in PROFILES:
        raise UsageError(f"no data set profile {name!r}", hint=suggest(name, list(PROFILES)))
    return PROFILES[name]
