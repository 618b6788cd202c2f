"""Profiles of the embedded data set and the fingerprints of their recipes; imports neither torch nor pandas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flbench.errors import UsageError, suggest
from flbench.files import file_digest
from flbench.protocol import fingerprint

RENDERER_VERSION = 1
"""Raised whenever the renderer or the camera changes a pixel."""

RECIPE_VERSION = 1
"""Raised whenever camera, generators or forge change a pixel; part of every data set's fingerprint."""

DATABASE = "synthfaces"

WEIGHTS = Path(__file__).parent / "weights"
EXPECTED = WEIGHTS / "expected_pixels.json"


@dataclass(frozen=True)
class Profile:
    """One size of the embedded data set.

    Attributes:
        name: How it is asked for.
        size: Height and width of the images.
        people: Number of identities per split, one photo each.
        first_seed: Seed of the first identity; the splits follow one another. Below the seeds that trained generators.
        categories: Categories of the fakes per split, as `generator/attribute`.
    """

    name: str
    size: int
    people: Mapping[str, int]
    first_seed: int
    categories: Mapping[str, tuple[str, ...]]

    def seeds(self, split: str) -> range:
        """Return the identity seeds of a split."""
        start = self.first_seed
        for name, count in self.people.items():
            if name == split:
                return range(start, start + count)
            start += count
        raise KeyError(split)


_LEARNT = ("stgan/bald", "stgan/blond_hair", "stgan/eyeglasses", "pggan/entire")
_TESTED = (
    "stgan/bald",
    "stgan/bangs",
    "stgan/black_hair",
    "stgan/blond_hair",
    "stgan/brown_hair",
    "stgan/eyeglasses",
    "stgan/male",
    "stgan/mustache",
    "stgan/smile",
    "pggan/bald",
    "pggan/black_hair",
    "pggan/blond_hair",
    "pggan/entire",
    "pggan/eyeglasses",
)
_CATEGORIES = {"train": _LEARNT, "valid": _LEARNT, "test": _TESTED}

PROFILES: Mapping[str, Profile] = {
    "mini": Profile("mini", 128, {"train": 640, "valid": 64, "test": 160}, 10_000, _CATEGORIES),
    "tiny": Profile("tiny", 64, {"train": 24, "valid": 8, "test": 16}, 1_000, _CATEGORIES),
}


def make(profile: str, into: Path, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> None:
    """Make the data set of a profile: `flbench.synthetic.forge.make`, imported when it is needed.

    Raises:
        UsageError: No such profile, or `into` exists.
        RunError: Another process is making it, or the disk refuses.
    """
    from flbench.synthetic import forge

    forge.make(profile, into, workers=workers, progress=progress)


def recipe(profile: str) -> str:
    """Return the sha256 of everything that decides the pixels of a profile: versions, numbers, seeds and weights.

    Raises:
        UsageError: No such profile.
    """
    chosen = profile_named(profile)
    generators = sorted({category.split("/")[0] for names in chosen.categories.values() for category in names})
    return fingerprint(
        {
            "recipe": RECIPE_VERSION,
            "renderer": RENDERER_VERSION,
            "profile": asdict(chosen),
            "weights": {name: file_digest(WEIGHTS / f"{name}.safetensors") for name in generators},
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
