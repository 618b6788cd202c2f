"""What all painters of a face share, and the parts around the face: background, neck, clothes, ears, jewellery."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flbench.synthetic.fields import (
    Canvas,
    Fields,
    Frame,
    Window,
    bump,
    colour,
    inside,
    make_fields,
    ridge,
    smoothstep,
    superellipse,
)
from flbench.synthetic.identity import Attributes, Identity

# CelebAMask-HQ class numbers.
SKIN, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LEFT_EAR, RIGHT_EAR = range(1, 10)
MOUTH, UPPER_LIP, LOWER_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH = range(10, 19)

_HAIR_COLOURS = {
    "black_hair": (0.014, 0.0115, 0.010),
    "blond_hair": (0.56, 0.365, 0.140),
    "brown_hair": (0.085, 0.043, 0.021),
    "": (0.22, 0.090, 0.042),
}


def skin_tone(identity: Identity) -> Tensor:
    """Return the albedo (3, 1, 1) of the skin: geometric mixture of a light and a dark tone, warmed or cooled."""
    melanin, warmth = identity.skin.melanin, identity.skin.warmth
    light, dark = colour((0.74, 0.45, 0.34)), colour((0.15, 0.062, 0.034))
    mixed = torch.exp(torch.log(light) * (1 - melanin) + torch.log(dark) * melanin)
    return mixed * colour((1 + 0.04 * warmth, 1.0, 1 - 0.10 * warmth))


def hair_colour(identity: Identity, attributes: Attributes) -> Tensor:
    """Return the albedo (3, 1, 1) of the hair; old people without a hair colour attribute are grey."""
    name = next((c for c in _HAIR_COLOURS if c and getattr(attributes, c)), "")
    base = colour(_HAIR_COLOURS[name]) * identity.hair.value
    grey = 0.0 if attributes.young else (0.10 if name else 0.75)
    return base * (1 - grey) + colour((0.36, 0.35, 0.335)) * grey


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
        self.light_colour = colour((1 + 0.07 * light.warmth, 1.0, 1 - 0.09 * light.warmth)) * light.key
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
        return self.identity.shape.width * (1 + 0.045 * (self.male - 0.5))

    @property
    def chin(self) -> float:
        """The height v of the chin."""
        return self.identity.shape.chin * (1 + 0.04 * (self.male - 0.5))

    @property
    def nose_tip(self) -> float:
        """The height v of the tip of the nose."""
        return self.identity.eyes.y + self.identity.shape.nose_length + 0.045

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
        return lambert.add_(0.25).mul_(1 / 1.25).clamp_(0, 1.2), half.clamp_(0, 1)


def paint_background(scene: Scene) -> None:
    """Paint a gradient with out-of-focus blobs and a vignette."""
    fields, around = scene.fields, scene.identity.surroundings
    slope = 0.45 * (math.cos(around.angle) * fields.x + math.sin(around.angle) * fields.y)
    mix = (slope + 0.25 * around.blobs * fields.broad).add_(0.5).clamp_(0, 1)
    near, far = (0.45 * c + 0.55 * c.mean() for c in (colour(around.near), colour(around.far)))
    brightness = 1 + 0.8 * around.blobs * smoothstep(-0.2, 2.2, fields.medium)
    brightness *= 1 - 0.20 * (fields.x.square() + fields.y.square())
    brightness *= 1 + 0.012 * fields.tiny + 0.02 * around.blobs * fields.small
    scene.canvas.rgb = (near + (far - near) * mix) * brightness


def paint_neck(scene: Scene) -> None:
    """Paint the neck with the shadow that the chin casts on it, and perhaps a necklace."""
    identity = scene.identity
    width = identity.shape.neck * (1 + 0.14 * scene.male)
    window = scene.frame.window(0, 0.65, 0.55, 0.45, feature=False)
    f = scene.fields.crop(window)
    flare = 0.22 * smoothstep(0.62, 1.0, f.v).square_()
    coverage = inside(f.u.abs() - width - flare, scene.soft) * inside(0.25 - f.v, scene.soft)
    height = 0.30 * f.u.mul(1 / (width * 1.3)).square_().neg_().add_(1).clamp_(min=0).sqrt_()
    height += 0.012 * ridge(f.u.abs() - 0.10 + 0.12 * (f.v - 0.6), 0.03)
    diffuse, _ = scene.shade(height)
    shadow = 1 - 0.55 * smoothstep(0.20, 0.0, f.v - scene.chin - 0.02 + 0.2 * identity.light.x * f.u)
    amount = (identity.light.ambient * 0.75 + diffuse * 0.62) * shadow * (1 + 0.03 * f.small)
    scene.canvas.paint(scene.tone * scene.light_colour * amount, coverage, window, NECK)
    if identity.surroundings.jewellery > 0.78 and not scene.attributes.male:
        chain = ridge(f.v - 0.74 + 0.9 * f.u.square(), 0.012) * coverage * (0.7 + 0.3 * f.grain.clamp(-1, 1))
        scene.canvas.paint(colour((0.55, 0.42, 0.18)), chain.clamp_(0, 1), window, NECKLACE)


def paint_cloth(scene: Scene) -> None:
    """Paint shoulders with a collar and soft folds."""
    identity, around = scene.identity, scene.identity.surroundings
    window = scene.frame.window(0, 0.85, 1.0, 0.35, feature=False)
    f = scene.fields.crop(window)
    side = f.u.abs()
    shoulder = 0.70 + 0.30 * (side - 0.24).clamp_(min=0).pow_(1.3) + 0.015 * f.medium - 0.02 * scene.male
    neckline = 0.82 + 0.12 * around.collar - 0.75 * side * (1 + around.collar)
    width = identity.shape.neck * (1 + 0.14 * scene.male)
    opening = torch.minimum(neckline - f.v, width * 1.05 - side)
    coverage = inside(shoulder - f.v, scene.soft) * inside(opening, scene.soft)
    cloth = colour(around.cloth)
    cloth = 0.6 * cloth + 0.4 * cloth.mean()
    folds = 0.5 + 0.5 * torch.sin(9 * f.u + 4 * f.broad + 5 * f.v)
    amount = 0.55 + 0.35 * folds + 0.10 * f.small + 0.06 * f.grain
    scene.canvas.paint(cloth * scene.light_colour * 0.8 * amount, coverage, window, CLOTH)


def paint_ears(scene: Scene) -> None:
    """Paint both ears; the head is painted over their inner halves later."""
    turn = scene.identity.pose.yaw
    for side, label in ((-1, LEFT_EAR), (1, RIGHT_EAR)):
        centre = side * (scene.head_width * 0.985 + 0.012)
        window = scene.frame.window(centre, 0.03, 0.10, 0.18, feature=False)
        f = scene.fields.crop(window)
        du, dv = f.u - centre, f.v - 0.03
        radius = superellipse(du + side * 0.1 * dv, dv, 0.055 * (1 - 0.3 * side * turn), 0.12, 2)
        coverage = inside((radius - 1) * 0.055, scene.soft)
        amount = 0.72 - 0.30 * ridge(radius - 0.5, 0.20) + 0.1 * side * scene.identity.light.x
        scene.canvas.paint(
            scene.tone * colour((0.86, 0.74, 0.72)) * scene.light_colour * amount, coverage, window, label
        )
        if scene.identity.surroundings.jewellery < 0.22 and not scene.attributes.male:
            drop = bump(superellipse(du + side * 0.005, dv - 0.145, 0.016, 0.024, 2).square_().mul_(2))
            scene.canvas.paint(colour((0.75, 0.62, 0.35)), (drop * 1.4).clamp_(0, 1), window, EARRING)
