"""Hair: strands that follow the cut, long hair behind the head, hair over it, bangs, and what baldness leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flbench.synthetic.fields import bump, inside, ridge, smoothstep, superellipse
from flbench.synthetic.scene import HAIR, Scene

_STRAND_STREAM = 9103


@dataclass(frozen=True)
class Strands:
    """Where the hair is and how its strands run; all members are (H, W)."""

    texture: Tensor
    """Brightness of a strand, about unit variance, constant along it."""
    shade: Tensor
    """Light on the hair: highlight band, volume, texture."""
    gleam: Tensor
    """White specular reflection."""
    outline: Tensor
    """Signed distance to the outer outline of the hair; negative inside."""
    ends: Tensor
    """The height v at which long hair ends."""


def _strand_texture(seed: int, rows: int = 6) -> Tensor:
    """Return a texture (1, 1, rows, 96) of strands: three octaves across, slowly changing along."""
    rng = np.random.Generator(np.random.PCG64([_STRAND_STREAM, seed]))
    total = torch.zeros(1, 1, rows, 192)
    for columns, weight in ((192, 0.50), (72, 0.60), (24, 0.45)):
        octave = torch.from_numpy(rng.standard_normal((1, 1, rows, columns), dtype=np.float32))
        total += weight * F.interpolate(octave, size=(rows, 192), mode="bilinear", align_corners=True)
    return total * 1.3


def _sample_strands(texture: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Look the texture up at coordinates in [-1, 1] (H, W)."""
    grid = torch.stack([across, along], -1)[None]
    return F.grid_sample(texture, grid, mode="bilinear", padding_mode="reflection", align_corners=True)[0, 0]


def comb(scene: Scene) -> Strands:
    """Compute the strands of one head: parted arcs for long hair, combed back rays for short hair."""
    f, hair, light = scene.fields, scene.identity.hair, scene.identity.light
    wave = (0.006 + 0.022 * hair.curl) * f.medium + 0.014 * hair.curl * torch.sin(22 * f.v + 3 * f.broad)
    part = hair.part * 0.16
    side = f.u - part
    if scene.attributes.male:
        angle = torch.atan2(side + 0.25 * hair.sweep * (f.v + 0.3), 0.10 - f.v)
        radius = (side.square() + (f.v - 0.10).square()).sqrt_()
        across, along = angle * 0.42 + 1.5 * wave, radius * 1.5 - 1
        band = ridge(radius - 0.60 - 0.03 * f.medium, 0.11)
    else:
        # Arcs that start at the parting, run outwards over the temple and then hang down.
        above = (0.10 - f.v).clamp_(min=0)
        arc = (side.square() + above.mul(0.85).square_()).sqrt_()
        across = (arc + wave) * 1.35 * side.mul(60).clamp_(-1, 1)
        along = (f.v + 0.7) * 0.7 - 1 + 0.05 * f.broad
        slope = above / (side.abs() + above + 0.05)
        band = ridge(slope - 0.52 - 0.04 * f.medium, 0.15) * smoothstep(0.12, -0.05, f.v)
    texture = _sample_strands(_strand_texture(scene.identity.seed), across, along) + 0.10 * f.grain
    volume = hair.volume * (1 + 0.35 * (1 - scene.male))
    spread = scene.head_width + volume + 0.010 * f.small * (0.4 + hair.curl)
    crown = scene.identity.shape.skull + volume
    upper = (superellipse(f.u / spread, (f.v + 0.015) / crown, 1, 1, 2) - 1) * scene.head_width
    lower = f.u.abs() - spread * (1 + 0.12 * smoothstep(0, 0.5, f.v)) + 0.5 * scene.male * f.v.clamp(min=0)
    outline = torch.where(f.v < -0.015, upper, lower) + 0.007 * texture
    rim = 1 - 0.40 * smoothstep(-0.09, 0.0, outline)
    lit = 1 - 0.35 * smoothstep(0.05, 0.9, f.u * (-1.6 * light.x))
    shade = (1 + 0.30 * texture).clamp_(0.35, 2.0) * (0.62 + 0.50 * band + 0.10 * f.broad) * rim * lit
    gleam = 0.045 * band * (0.5 + 0.5 * texture).clamp_(min=0)
    length = 0.35 + 0.65 * hair.length
    ends = 0.15 + 0.75 * length + 0.02 * f.small + 0.05 * texture
    return Strands(texture, shade, gleam, outline, ends)


def paint_back_hair(scene: Scene, strands: Strands) -> None:
    """Paint the long hair behind neck and shoulders."""
    if scene.attributes.male or scene.attributes.bald:
        return
    coverage = inside(strands.outline, scene.soft) * inside(scene.fields.v - strands.ends, 0.04)
    paint = scene.hair * scene.light_colour * (strands.shade * 0.55)
    scene.canvas.paint(paint, coverage, scene.everywhere, HAIR)


def paint_top_hair(scene: Scene, strands: Strands) -> None:
    """Paint the hair on and beside the head, with its shadow on the forehead; or the fringe of a bald head."""
    if scene.attributes.bald:
        _paint_bald_fringe(scene, strands)
        return
    f, hair, soft = scene.fields, scene.identity.hair, scene.soft
    start = hair.line + 0.04 * scene.old * scene.male
    temples = 0.62 * f.u.square() + 1.9 * (f.u.abs() - 0.25).clamp_(min=0).pow_(1.4)
    parting = 0.05 * bump(((f.u - hair.part * 0.16) / 0.06).square_().mul_(2))
    line = temples.add_(start) + 0.012 * f.medium + 0.016 * strands.texture - parting
    below = f.v - line
    front = inside(below, 0.014) * smoothstep(0.45, 0.2, f.v)
    inner = scene.head_width * (0.985 - 0.06 * (1 - scene.male) * smoothstep(-0.3, 0.3, f.v)) + 0.006 * strands.texture
    length = torch.full_like(f.v, -0.07) if scene.attributes.male else strands.ends
    beside = inside(inner - f.u.abs(), 0.008) * inside(f.v - length - 0.02 * strands.texture, 0.03 + 0.03 * scene.male)
    coverage = torch.maximum(front, beside) * inside(strands.outline, soft)
    shadow = ridge(below.clamp(min=0), 0.06) * scene.head * smoothstep(0.3, 0.1, f.v)
    scene.canvas.darken(1 - 0.30 * shadow * (1 - coverage), scene.everywhere)
    root = 1 - 0.35 * bump((below.clamp(max=0) / 0.03).square_()) * smoothstep(0.2, 0.0, f.v)
    paint = (scene.hair * (strands.shade * root) + strands.gleam) * scene.light_colour * 0.95
    scene.canvas.paint(paint, coverage, scene.everywhere, HAIR)


def _paint_bald_fringe(scene: Scene, strands: Strands) -> None:
    """Paint the short hair that a bald man keeps above the ears."""
    if not scene.attributes.male:
        return
    f = scene.fields
    near = inside(scene.head_width * 0.93 - f.u.abs(), 0.03) * inside(f.u.abs() - scene.head_width - 0.018, scene.soft)
    coverage = near * smoothstep(-0.30, -0.18, f.v) * smoothstep(0.05, 0.0, f.v) * scene.head * 0.75
    scene.canvas.paint(scene.hair * scene.light_colour * (strands.shade * 0.8), coverage, scene.everywhere, HAIR)


def paint_bangs(scene: Scene, strands: Strands) -> None:
    """Paint the fringe over the forehead, if the attribute is set."""
    if not scene.attributes.bangs:
        return
    hair, width = scene.identity.hair, scene.head_width
    window = scene.frame.window(0, hair.line + 0.06, width * 1.05, 0.36, feature=False)
    f = scene.fields.crop(window)
    texture = _sample_strands(
        _strand_texture(scene.identity.seed + 1),
        (f.u + hair.bang_slant * (f.v + 0.4) * (0.6 + f.u.abs())) * 1.35 + 0.006 * f.medium,
        (f.v + 0.5).mul(1.2),
    )
    texture += 0.10 * f.grain
    side = (f.u / width).square_()
    lower = hair.line + hair.bang_length + 0.05 + 0.33 * hair.bang_slant * f.u + 0.030 * texture + 0.012 * f.small
    lower += 0.10 * side
    roots = hair.line - 0.10
    above = f.v - lower
    coverage = inside(above, 0.020) * inside(f.u.abs() - width * 0.97, scene.soft)
    coverage *= inside(strands.outline[window], scene.soft) * smoothstep(roots - 0.08, roots + 0.04, f.v)
    shadow = ridge(above.clamp(min=0), 0.055) * scene.head[window]
    scene.canvas.darken(1 - 0.32 * shadow * (1 - coverage), window)
    band = ridge(f.v - hair.line - 0.05, 0.08)
    tips = 1 - 0.25 * smoothstep(-0.08, 0.0, above)
    shade = (1 + 0.28 * texture).clamp_(0.35, 2.0) * (0.60 + 0.42 * band) * tips * (1 - 0.25 * side)
    gleam = 0.03 * band * texture.clamp(min=0)
    scene.canvas.paint((scene.hair * shade + gleam) * scene.light_colour, coverage, window, HAIR)
