"""Identities and attributes of the synthetic people: what a seed stands for, and what an edit changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

ATTRIBUTES: tuple[str, ...] = (
    "bald",
    "bangs",
    "black_hair",
    "blond_hair",
    "brown_hair",
    "eyeglasses",
    "male",
    "mustache",
    "smile",
    "young",
)
"""The order of an attribute vector; generators are conditioned on differences of such vectors."""

HAIR_COLOURS: tuple[str, ...] = ("black_hair", "blond_hair", "brown_hair")

EDITS: Mapping[str, str] = {name: name for name in ATTRIBUTES if name != "young"} | {"age": "young", "gender": "male"}
"""Edit (the manifest's `attribute` column, names of the paper's Table 1) -> the attribute that it flips."""

HAIR_EDITS: frozenset[str] = frozenset({"bald", "bangs", *HAIR_COLOURS})
"""Edits of the hair, which a hat hides."""

HAT_SHARE = 0.03
"""Share of people with a hat."""

GEOMETRIC_EDITS: frozenset[str] = frozenset(
    {"bald", "bangs", "eyeglasses", "male", "gender", "mustache", "smile", "age"}
)
"""Edits that change the parsing map; the three hair colours leave it as it is."""

SCENERIES: tuple[str, ...] = ("studio", "outdoor")
"""Families of backgrounds: walls and blurred rooms, or foliage, skies and buildings."""

_IDENTITY_STREAM = 9101
T = TypeVar("T")


@dataclass(frozen=True)
class Attributes:
    """The binary attributes of one face; hair colours exclude each other and `bald` excludes `bangs`."""

    bald: bool = False
    bangs: bool = False
    black_hair: bool = False
    blond_hair: bool = False
    brown_hair: bool = False
    eyeglasses: bool = False
    male: bool = False
    mustache: bool = False
    smile: bool = False
    young: bool = True

    def vector(self) -> np.ndarray:
        """Return the attributes as float32 zeros and ones, in the order of `ATTRIBUTES`."""
        return np.array([getattr(self, name) for name in ATTRIBUTES], dtype=np.float32)

    def set(self, name: str, value: bool) -> Attributes:
        """Return a copy with one attribute set and the attributes it excludes cleared.

        Args:
            name: One of `ATTRIBUTES`.
            value: The new value. A new hair colour clears the other two and `bald`; `bald` clears `bangs`, and
                `bangs` clears `bald`.

        Raises:
            ValueError: If there is no such attribute.
        """
        if name not in ATTRIBUTES:
            raise ValueError(f"no attribute {name!r}; known: {', '.join(ATTRIBUTES)}")
        changes = {name: value}
        if value and name in HAIR_COLOURS:
            changes |= {other: False for other in HAIR_COLOURS if other != name} | {"bald": False}
        elif value and name == "bald":
            changes["bangs"] = False
        elif value and name == "bangs":
            changes["bald"] = False
        return replace(self, **changes)

    def edit(self, name: str) -> Attributes:
        """Return the attributes after the edit `name` (see `EDITS`), which flips one attribute."""
        if name not in EDITS:
            raise ValueError(f"no edit {name!r}; known: {', '.join(EDITS)}")
        attribute = EDITS[name]
        return self.set(attribute, not getattr(self, attribute))

    def lacks(self, name: str) -> bool:
        """Tell whether the edit `name` would make what its name says: add its attribute, or for `age` take youth."""
        return getattr(self, EDITS[name]) == (name == "age")


def _draw(sample: Callable[[np.random.Generator], object]) -> Any:
    """Declare a latent by how it is drawn."""
    return field(metadata={"sample": sample})


def _uniform(low: float, high: float) -> Any:
    return _draw(lambda rng: float(rng.uniform(low, high)))


def _normal(mean: float, deviation: float, limit: float) -> Any:
    return _draw(lambda rng: mean + float(np.clip(rng.normal(0, deviation), -limit, limit)))


def _beta(a: float, b: float) -> Any:
    return _draw(lambda rng: float(rng.beta(a, b)))


def _sample(kind: Callable[..., T], rng: np.random.Generator) -> T:
    """Draw every latent of a dataclass in the order of its fields."""
    return kind(**{item.name: item.metadata["sample"](rng) for item in fields(kind)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pose:
    """Where the head is; the unit of all lengths is half the image side divided by `scale`."""

    roll: float = _normal(0, 0.06, 0.16)
    yaw: float = _normal(0, 0.50, 1.1)
    pitch: float = _normal(0, 0.45, 1.0)
    scale: float = _uniform(1.33, 1.49)
    x: float = _normal(0, 0.02, 0.05)
    y: float = _normal(0.015, 0.02, 0.05)


@dataclass(frozen=True)
class Shape:
    """Head, nose and neck."""

    width: float = _uniform(0.375, 0.425)
    chin: float = _uniform(0.56, 0.62)
    skull: float = _uniform(0.56, 0.61)
    jaw: float = _uniform(2.0, 2.4)
    taper: float = _uniform(0.20, 0.29)
    cheek: float = _uniform(0.7, 1.3)
    nose_width: float = _uniform(0.060, 0.082)
    nose_length: float = _uniform(0.190, 0.230)
    nose_height: float = _uniform(1.0, 1.5)
    neck: float = _uniform(0.185, 0.220)
    fold: float = _uniform(0.7, 1.3)
    ear: float = _uniform(0.85, 1.15)
    ear_out: float = _uniform(-0.006, 0.014)


@dataclass(frozen=True)
class Skin:
    """Colour of the skin: `melanin` 0 (light) to 1 (dark)."""

    melanin: float = _beta(1.15, 2.2)
    warmth: float = _uniform(-1, 1)
    undertone: float = _uniform(-1, 1)
    oil: float = _uniform(0.3, 1.2)
    beard: float = _uniform(0, 1)
    stubble: float = _uniform(0, 1)
    blush: float = _uniform(0.4, 1.3)
    freckles: float = _draw(lambda rng: float(rng.uniform() ** 3))


@dataclass(frozen=True)
class Eyes:
    """Eyes and brows."""

    x: float = _uniform(0.180, 0.205)
    y: float = _uniform(-0.070, -0.042)
    width: float = _uniform(0.083, 0.098)
    height: float = _uniform(0.034, 0.045)
    tilt: float = _uniform(-0.10, 0.16)
    iris: float = _uniform(0, 1)
    iris_value: float = _uniform(0.6, 1.3)
    gaze: float = _normal(0, 0.15, 0.4)
    brow_height: float = _uniform(0.098, 0.124)
    brow_thickness: float = _uniform(0.010, 0.016)
    brow_arch: float = _uniform(0.010, 0.034)
    brow_tilt: float = _uniform(-0.006, 0.014)


@dataclass(frozen=True)
class Mouth:
    """Mouth and mustache."""

    y: float = _uniform(0.345, 0.375)
    width: float = _uniform(0.145, 0.180)
    upper: float = _uniform(0.024, 0.036)
    lower: float = _uniform(0.038, 0.056)
    bend: float = _uniform(-0.028, -0.008)
    makeup: float = _uniform(0, 1)
    mustache_width: float = _uniform(1.0, 1.3)
    mustache_height: float = _uniform(0.8, 1.2)


@dataclass(frozen=True)
class Hair:
    """Cut and texture of the hair; its colour is an attribute."""

    cut: float = _uniform(0, 1)
    volume: float = _uniform(0.06, 0.12)
    length: float = _uniform(0, 1)
    recession: float = _draw(lambda rng: float(rng.uniform() ** 2))
    flyaway: float = _uniform(0.3, 1.2)
    streaks: float = _uniform(0, 1)
    part: float = _uniform(-0.6, 0.6)
    line: float = _uniform(-0.41, -0.35)
    curl: float = _draw(lambda rng: float(rng.uniform() ** 2))
    value: float = _uniform(0.85, 1.2)
    sweep: float = _uniform(-1, 1)
    bang_length: float = _uniform(0.12, 0.175)
    bang_slant: float = _uniform(-0.25, 0.25)


@dataclass(frozen=True)
class Light:
    """One warm or cool key light, soft or hard; a fill of the opposite colour; perhaps light along the rim."""

    x: float = _uniform(-0.8, 0.8)
    y: float = _uniform(-0.75, -0.2)
    ambient: float = _uniform(0.20, 0.46)
    key: float = _uniform(0.90, 1.22)
    warmth: float = _uniform(-1, 1)
    wrap: float = _uniform(0.12, 0.40)
    rim: float = _beta(1.0, 2.5)
    rim_side: float = _uniform(-1, 1)


def _colour(low: float, high: float, power: float = 1.0) -> Any:
    return _draw(lambda rng: tuple(float(c) for c in rng.uniform(low, high, 3) ** power))


@dataclass(frozen=True)
class Surroundings:
    """Background, clothes and things worn."""

    near: tuple[float, float, float] = _colour(0.02, 0.55)
    far: tuple[float, float, float] = _colour(0.02, 0.60)
    angle: float = _uniform(0, 6.28)
    blobs: float = _uniform(0, 1)
    kind: float = _uniform(0, 1)
    seed: int = _draw(lambda rng: int(rng.integers(2**31)))
    cloth: tuple[float, float, float] = _colour(0.01, 0.6, 1.5)
    second: tuple[float, float, float] = _colour(0.01, 0.8)
    garment: float = _uniform(0, 1)
    pattern: float = _uniform(0, 1)
    pitch: float = _uniform(18, 46)
    collar: float = _uniform(0, 1)
    hat: float = _uniform(0, 1)
    frame_thickness: float = _uniform(0.010, 0.016)
    frame_width: float = _uniform(0.115, 0.138)
    frame_height: float = _uniform(0.078, 0.108)
    frame_squareness: float = _uniform(2, 5)
    frame_colour: float = _uniform(0, 1)
    jewellery: float = _uniform(0, 1)


@dataclass(frozen=True)
class Identity:
    """One synthetic person: every latent that stays the same under an edit, and the attributes of the photo."""

    seed: int
    attributes: Attributes
    pose: Pose
    shape: Shape
    skin: Skin
    eyes: Eyes
    mouth: Mouth
    hair: Hair
    light: Light
    surroundings: Surroundings
    scenery: str = SCENERIES[0]

    @property
    def hatted(self) -> bool:
        """Whether the person wears a hat."""
        return self.surroundings.hat < HAT_SHARE


def _sample_attributes(rng: np.random.Generator, melanin: float) -> Attributes:
    """Draw attributes with frequencies like those of photographs of celebrities."""
    draw = {
        name: float(rng.uniform()) for name in ("male", "young", "bald", "bangs", "smile", "eyeglasses", "mustache")
    }
    colour_odds = np.array([0.34, 0.22 * (1 - 0.8 * melanin), 0.34, 0.10])
    colour = int(rng.choice(4, p=colour_odds / colour_odds.sum()))
    male = draw["male"] < 0.5
    bald = male and draw["bald"] < 0.12
    attributes = Attributes(
        bald=bald,
        bangs=not bald and draw["bangs"] < (0.15 if male else 0.30),
        male=male,
        young=draw["young"] < 0.72,
        smile=draw["smile"] < 0.5,
        eyeglasses=draw["eyeglasses"] < 0.12,
        mustache=male and draw["mustache"] < 0.15,
    )
    return replace(attributes, **{HAIR_COLOURS[colour]: True}) if colour < 3 else attributes


def sample_identity(seed: int, scenery: str = SCENERIES[0]) -> Identity:
    """Draw one person. The same seed gives the same person on every machine, in whatever scenery.

    Args:
        seed: Any non-negative integer.
        scenery: One of `SCENERIES`; changes the background and nothing else.

    Raises:
        ValueError: If there is no such scenery.
    """
    if scenery not in SCENERIES:
        raise ValueError(f"no scenery {scenery!r}; known: {', '.join(SCENERIES)}")
    rng = np.random.Generator(np.random.PCG64([_IDENTITY_STREAM, seed]))
    skin = _sample(Skin, rng)
    return Identity(
        seed=seed,
        skin=skin,
        pose=_sample(Pose, rng),
        shape=_sample(Shape, rng),
        eyes=_sample(Eyes, rng),
        mouth=_sample(Mouth, rng),
        hair=_sample(Hair, rng),
        light=_sample(Light, rng),
        surroundings=_sample(Surroundings, rng),
        attributes=_sample_attributes(rng, skin.melanin),
        scenery=scenery,
    )
