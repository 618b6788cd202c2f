"""What all painters of a face share: the person, the canvas, colours and light."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flbench.synthetic.fields import Canvas, Fields, Frame, Window, colour, make_fields
from flbench.synthetic.identity import Attributes, Identity

# CelebAMask-HQ class numbers.
SKIN, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LEFT_EAR, RIGHT_EAR = range(1, 10)
MOUTH, UPPER_LIP, LOWER_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH = range(10, 19)

_HAIR_COLOURS = {
    "black_hair": (0.014, 0.0115, 0.010),
    "blond_hair": (0.62, 0.430, 0.205),
    "brown_hair": (0.098, 0.050, 0.024),
    "": (0.31, 0.102, 0.038),
}


GREY = torch.tensor((0.42, 0.41, 0.40)).view(3, 1, 1)
"""The albedo of grey hair."""


def skin_tone(identity: Identity) -> Tensor:
    """Return the albedo (3, 1, 1) of the skin: geometric mixture of a light and a dark tone, warmed or cooled."""
    melanin, warmth, undertone = identity.skin.melanin, identity.skin.warmth, identity.skin.undertone
    light, dark = colour((0.78, 0.50, 0.385)), colour((0.140, 0.070, 0.046))
    mixed = torch.exp(torch.log(light) * (1 - melanin) + torch.log(dark) * melanin)
    return mixed * colour((1 + 0.04 * warmth, 1 + 0.035 * undertone, 1 - 0.11 * warmth - 0.03 * undertone))


def hair_colour(identity: Identity, attributes: Attributes) -> Tensor:
    """Return the albedo (3, 1, 1) of the hair; old people without a hair colour attribute are grey or white."""
    name = next((c for c in _HAIR_COLOURS if c and getattr(attributes, c)), "")
    base = colour(_HAIR_COLOURS[name]) * identity.hair.value
    grey = 0.0 if attributes.young else (0.06 if name else 0.9)
    return base * (1 - grey) + GREY * grey


@dataclass
class Scene:
    """One face being painted."""

    identity: Identity
    attributes: Attributes
    frame: Frame
    fields: Fields = field(init=False)
    canvas: Canvas = field(init=False)
    tone: Tensor = field(init=False)
    hair: Tensor = field(init=False)
    light_colour: Tensor = field(init=False)
    fill_colour: Tensor = field(init=False)
    diffuse: Tensor = field(init=False)
    """Light that reaches the skin (S, S); zero outside the head."""
    head: Tensor = field(init=False)
    """Coverage of the head (S, S)."""

    def __post_init__(self) -> None:
        size, light = self.frame.size, self.identity.light
        self.fields = make_fields(self.identity, self.frame)
        self.canvas = Canvas(size)
        self.tone = skin_tone(self.identity)
        self.hair = hair_colour(self.identity, self.attributes)
        self.light_colour = colour((1 + 0.08 * light.warmth, 1.0, 1 - 0.12 * light.warmth)) * light.key
        self.fill_colour = colour((1 - 0.05 * light.warmth, 1.0, 1 + 0.08 * light.warmth)) * light.key
        self.diffuse = torch.zeros(size, size)
        self.head = torch.zeros(size, size)

    @property
    def soft(self) -> float:
        """Half the width of an anti-aliased edge, in head units."""
        return 0.75 * self.frame.pixel

    @property
    def male(self) -> float:
        """1 for male, 0 for female."""
        return float(self.attributes.male)

    @property
    def old(self) -> float:
        """1 for old, 0 for young."""
        return float(not self.attributes.young)

    @property
    def smile(self) -> float:
        """1 for a smile, else 0."""
        return float(self.attributes.smile)

    @property
    def head_width(self) -> float:
        """Half the width of the head."""
        return self.identity.shape.width * (1 + 0.06 * (self.male - 0.5))

    @property
    def chin(self) -> float:
        """The height v of the chin."""
        return self.identity.shape.chin * (1 + 0.06 * (self.male - 0.5))

    @property
    def nose_tip(self) -> float:
        """The height v of the tip of the nose."""
        return self.identity.eyes.y + self.identity.shape.nose_length + 0.045

    @property
    def nose_u(self) -> float:
        """How far the tip of the nose moves sideways beyond the face, because it stands out of a turned head."""
        return 0.038 * self.identity.pose.yaw

    @property
    def neck_width(self) -> float:
        """Half the width of the neck."""
        return self.identity.shape.neck * (1 + 0.20 * self.male)

    @property
    def nose_width(self) -> float:
        """Half the width of the nose."""
        return self.identity.shape.nose_width * (1 + 0.10 * self.male)

    @property
    def everywhere(self) -> Window:
        """The window of the whole picture."""
        return slice(0, self.frame.size), slice(0, self.frame.size)

    def shade(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """Light a height field: wrapped Lambert term and cosine to the half vector, both (h, w)."""
        light = self.identity.light
        norm = math.sqrt(light.x**2 + light.y**2 + 0.81)
        lx, ly, lz = light.x / norm, light.y / norm, 0.9 / norm
        half_norm = math.sqrt(lx**2 + ly**2 + (lz + 1) ** 2)
        step = 2 * self.frame.pixel * self.frame.pose.scale
        zx, zy = torch.zeros_like(height), torch.zeros_like(height)
        torch.sub(height[:, 2:], height[:, :-2], out=zx[:, 1:-1])
        torch.sub(height[2:], height[:-2], out=zy[1:-1])
        zx /= step
        zy /= step
        inverse = torch.rsqrt(zx.square().add_(zy.square()).add_(1))
        lambert = (lz - zx * lx - zy * ly) * inverse
        half = ((lz + 1) - zx * lx - zy * ly) * inverse / half_norm
        return lambert.add_(light.wrap).mul_(1 / (1 + light.wrap)).clamp_(0, 1.2), half.clamp_(0, 1)
