"""Hair: strands that follow the cut, long hair behind the head, hair over it, bangs, and what baldness leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flbench.synthetic.cuts import Cut, choose_cut
from flbench.synthetic.fields import Fields, bump, inside, ridge, smooth_noise, smoothstep, superellipse
from flbench.synthetic.scene import GREY, HAIR, Scene

_STRAND_STREAM = 9103


@dataclass(frozen=True)
class Strands:
    """Where the hair is and how its strands run; all members are (H, W) or a colour (3, H, W)."""

    cut: Cut
    texture: Tensor
    """Brightness of a strand, about unit variance, constant along it."""
    shade: Tensor
    """Light on the hair: form, highlight band, texture."""
    gleam: Tensor
    """White specular reflection, and the light along the rim."""
    tint: Tensor
    """Albedo: the colour of the hair with streaks and greying temples."""
    outline: Tensor
    """Smooth signed distance to the outer outline of the hair; negative inside."""
    fringe: Tensor
    """What the strands add to a distance: loose ends at every edge."""


def _strand_texture(seed: int, rows: int = 8) -> Tensor:
    """Return a texture (1, 1, rows, 256) of strands: four octaves across, slowly changing along."""
    rng = np.random.Generator(np.random.PCG64([_STRAND_STREAM, seed]))
    total = torch.zeros(1, 1, rows, 256)
    for columns, weight in ((256, 0.60), (120, 0.55), (50, 0.35), (18, 0.15)):
        octave = torch.from_numpy(rng.standard_normal((1, 1, rows, columns), dtype=np.float32))
        total += weight * F.interpolate(octave, size=(rows, 256), mode="bilinear", align_corners=True)
    return total * 1.25


def _sample_strands(texture: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Look the texture up at coordinates in [-1, 1] (H, W)."""
    grid = torch.stack([across, along], -1)[None]
    return F.grid_sample(texture, grid, mode="bilinear", padding_mode="reflection", align_corners=True)[0, 0]


def _curls(scene: Scene, f: Fields) -> Tensor:
    """Return curls without direction: the crests of a fine noise over tufts."""
    rng = np.random.Generator(np.random.PCG64([_STRAND_STREAM, scene.identity.seed, 1]))
    fine = smooth_noise(rng, 76, scene.frame.size)
    return 0.9 - 1.3 * (0.8 * fine + 0.4 * f.tiny).abs_().clamp_(max=1.6) + 0.5 * f.small + 0.25 * f.grain


def _run(scene: Scene, cut: Cut) -> tuple[Tensor, Tensor, Tensor]:
    """Return the coordinates of the strands, across and along, and the bright band across them."""
    f, hair = scene.fields, scene.identity.hair
    wave = (0.008 + 0.020 * cut.wave) * f.medium + 0.006 * f.small
    part = hair.part * 0.20
    side = f.u - part
    if not cut.parted:
        angle = torch.atan2(side + 0.45 * hair.sweep * (f.v + 0.3), 0.16 - f.v)
        radius = (side.square() + (f.v - 0.10).square()).sqrt_()
        band = ridge(radius - 0.60 - 0.05 * f.medium, 0.10)
        return angle * 0.42 + 2.2 * wave + 0.10 * hair.sweep * radius, radius * 2.2 - 1 + 0.10 * f.small, band
    # Arcs that start at the parting, run outwards over the temple and then hang down.
    wave = wave + 0.013 * cut.wave * torch.sin(20 * f.v + 3 * f.broad) * smoothstep(-0.3, 0.2, f.v)
    above = (0.10 - f.v).clamp_(min=0)
    arc = (side.square() + above.mul(0.85).square_()).sqrt_()
    across = (arc + wave) * 1.15 + 0.15 * side - 0.5
    slope = above / (side.abs() + above + 0.05)
    band = ridge(slope - 0.52 - 0.06 * f.medium, 0.15) * smoothstep(0.12, -0.05, f.v)
    return across, (f.v + 0.7) * 0.9 - 1 + 0.08 * f.broad, band


def comb(scene: Scene) -> Strands:
    """Compute the strands of one head."""
    f, hair, light = scene.fields, scene.identity.hair, scene.identity.light
    cut = choose_cut(scene.identity, scene.attributes)
    across, along, band = _run(scene, cut)
    texture = _sample_strands(_strand_texture(scene.identity.seed), across, along)
    if cut.curl:
        texture = texture + (_curls(scene, f) - texture) * cut.curl
        band = band * (1 - 0.7 * cut.curl)
    texture = texture + 0.12 * f.grain
    spread = scene.head_width + cut.side + (0.006 + 0.010 * cut.curl) * f.small + 0.012 * cut.wave * f.medium
    crown = scene.identity.shape.skull + cut.top * (1 + 0.25 * torch.sin(2.2 * f.u + 4 * hair.part))
    u = f.u
    upper = (superellipse(u / spread, (f.v + 0.015) / crown, 1, 1, 2.35) - 1) * scene.head_width
    hanging = smoothstep(0.05, 0.5, f.v)
    spread = spread * (1 + 0.10 * hanging) + 0.03 * cut.wave * hanging * torch.sin(13 * f.v + 2 * f.broad)
    lower = f.u.abs() - spread + (0.5 * f.v.clamp(min=0) if cut.ends < 0.1 else 0)
    outline = torch.where(f.v < -0.015, upper, lower)
    fringe = hair.flyaway * 0.007 * texture.clamp(-2, 2) + 0.004 * f.tiny
    # The volume is lit like an ellipsoid, so that the head turns away from the light at its sides.
    nx, ny = (f.u / (spread * 1.15)), (f.v + 0.10) / 0.95
    nz = (1 - nx.square() - ny.square()).clamp_(min=0.04).sqrt_()
    form = (0.75 * nx * light.x + 0.75 * ny * light.y + 0.8 * nz).add_(light.wrap).clamp_(0.10, 1.3)
    rim = 1 - 0.30 * smoothstep(-0.08, 0.0, outline)
    shade = (1 + 0.22 * texture).clamp_(0.35, 1.9) * (0.26 + 0.55 * form + 0.38 * band + 0.05 * f.medium) * rim
    gleam = (0.03 + 0.02 * light.key) * band * (0.5 + 0.5 * texture).clamp_(min=0)
    back = smoothstep(-0.07, 0.0, outline) * smoothstep(0.05, 0.35, f.u * (1 if light.rim_side > 0 else -1))
    gleam = gleam + 0.30 * light.rim * back * (0.6 + 0.4 * texture).clamp_(min=0)
    return Strands(cut, texture, shade, gleam, _tint(scene, f, texture), outline, fringe)


def _tint(scene: Scene, f: Fields, texture: Tensor) -> Tensor:
    """Return the albedo of the hair (3, H, W): lighter streaks, grey temples of the old."""
    hair = scene.identity.hair
    tint = scene.hair * (1 + 0.10 * texture + 0.30 * hair.streaks * smoothstep(0.4, 1.6, f.medium + 0.5 * texture))
    if not scene.old:
        return tint
    temple = smoothstep(0.31, 0.43, f.u.abs()) * smoothstep(0.35, -0.05, f.v)
    grey = (0.55 * temple * (1 + 0.3 * texture) + 0.18 * smoothstep(0.6, 1.8, texture)).clamp_(0, 0.75)
    return tint + (GREY * 0.9 - tint) * grey


def paint_back_hair(scene: Scene, strands: Strands) -> None:
    """Paint the hair behind neck and shoulders, a pony tail or a bun."""
    cut, f, hair = strands.cut, scene.fields, scene.identity.hair
    if scene.attributes.bald or (cut.ends < 0.1 and not cut.tail):
        return
    if cut.tail:
        side = 1 if hair.sweep > 0 else -1
        if cut.tail == 2:
            distance = superellipse(f.u - 0.1 * hair.part, f.v + scene.identity.shape.skull + 0.06, 0.15, 0.11, 2) - 1
            distance = distance * 0.11
        else:
            middle = side * (0.27 + 0.05 * torch.sin(5 * f.v))
            distance = torch.maximum((f.u - middle).abs() - 0.10 * smoothstep(1.15, 0.6, f.v), 0.15 - f.v)
    else:
        distance = torch.maximum(strands.outline, (f.v - cut.ends) + 0.05 * f.u.abs())
    coverage = inside(distance + 1.6 * strands.fringe, 0.012) * inside(distance - 0.016, 0.016)
    paint = strands.tint * scene.light_colour * (strands.shade * (0.62 if cut.tail else 0.55))
    solid = inside(distance, scene.soft)
    scene.canvas.paint(paint, coverage, scene.everywhere, HAIR, solid=solid)


def _hairline(scene: Scene, cut: Cut) -> Tensor:
    """Return the height v (H, W) at which the hair begins above the forehead."""
    f, hair = scene.fields, scene.identity.hair
    start = hair.line - 0.06 * cut.recession * scene.male
    temples = (0.55 - 0.45 * cut.recession) * f.u.square() + 1.9 * (f.u.abs() - 0.27).clamp_(min=0).pow_(1.4)
    temples -= 0.10 * cut.recession * bump(((f.u.abs() - 0.20) / 0.09).square_())
    parting = bump(((f.u - hair.part * 0.20) / 0.06).square_().mul_(2)) * (0.03 if cut.parted else 0)
    return temples.add_(start) + 0.010 * f.medium + 0.006 * f.small - parting


def paint_top_hair(scene: Scene, strands: Strands) -> None:
    """Paint the hair on and beside the head, with its shadow on the face; or the fringe of a bald head."""
    if scene.attributes.bald:
        _paint_bald_fringe(scene, strands)
        return
    f, cut = scene.fields, strands.cut
    below = f.v - _hairline(scene, cut)
    front = torch.maximum(below, f.v - 0.2)
    lean = 0.5 * smoothstep(0.0, 0.6, f.v) if cut.ends > 0.15 else 0.0
    inner = scene.head_width * (1 - cut.cover * (0.4 + smoothstep(-0.3, 0.3, f.v)) + 0.12 * lean)
    inner = inner + 0.006 * f.medium
    beside = torch.maximum(inner - f.u.abs(), f.v - cut.ends)
    edge = torch.minimum(front, beside)
    distance = torch.maximum(edge, strands.outline)
    solid = inside(distance, scene.soft)
    soft = 0.022 if cut.ends < 0.15 else 0.014
    coverage = inside(edge + 1.3 * strands.fringe, soft) * inside(strands.outline + 1.5 * strands.fringe, 0.010)
    reach = 0.016 if cut.ends > 0.15 else 0.008
    coverage *= cut.density * inside(distance - reach, reach)
    shadow = ridge(below.clamp(min=0), 0.06) * smoothstep(0.3, 0.1, f.v)
    if cut.ends > 0.15:
        shadow = torch.maximum(shadow, 0.9 * smoothstep(0.09, 0.0, beside) * smoothstep(-0.35, 0.0, f.v))
    scene.canvas.darken(1 - 0.32 * shadow * scene.head * (1 - coverage), scene.everywhere)
    root = 1 - 0.30 * bump((below.clamp(max=0) / 0.03).square_()) * smoothstep(0.2, 0.0, f.v)
    paint = (strands.tint * (strands.shade * root) + strands.gleam) * scene.light_colour
    scene.canvas.paint(paint, coverage, scene.everywhere, HAIR, solid=solid)


def _paint_bald_fringe(scene: Scene, strands: Strands) -> None:
    """Paint the short hair that a bald man keeps above the ears."""
    if not scene.attributes.male:
        return
    f = scene.fields
    near = inside(scene.head_width * 0.93 - f.u.abs(), 0.03) * inside(f.u.abs() - scene.head_width - 0.018, scene.soft)
    coverage = near * smoothstep(-0.28, -0.16, f.v) * smoothstep(0.05, 0.0, f.v) * scene.head * 0.75
    scene.canvas.paint(strands.tint * scene.light_colour * (strands.shade * 0.8), coverage, scene.everywhere, HAIR)


def paint_bangs(scene: Scene, strands: Strands) -> None:
    """Paint the fringe over the forehead, if the attribute is set."""
    if not scene.attributes.bangs:
        return
    hair, width = scene.identity.hair, scene.head_width
    window = scene.frame.window(0, hair.line + 0.06, width * 1.05, 0.36, feature=False)
    f = scene.fields.crop(window)
    texture = _sample_strands(
        _strand_texture(scene.identity.seed + 1),
        (f.u + hair.bang_slant * (f.v + 0.4) * (0.6 + f.u.abs())) * 1.2 + 0.010 * f.medium + 0.004 * f.small,
        (f.v + 0.5).mul(1.6) + 0.05 * f.small,
    )
    texture += (strands.texture[window] - texture) * (0.7 * strands.cut.curl)
    texture += 0.10 * f.grain
    side = (f.u / width).square_()
    lower = hair.line + hair.bang_length + 0.05 + 0.33 * hair.bang_slant * f.u + 0.012 * f.small + 0.015 * f.medium
    lower += 0.10 * side
    roots = hair.line - 0.17
    above = f.v - lower
    within = inside(f.u.abs() - width * 0.97, scene.soft) * inside(strands.outline[window], scene.soft)
    within *= smoothstep(roots - 0.08, roots + 0.04, f.v)
    coverage = inside(above - 0.024 * texture.clamp(-1.5, 1.5), 0.016) * within
    shadow = ridge(above.clamp(min=0), 0.055) * scene.head[window]
    scene.canvas.darken(1 - 0.32 * shadow * (1 - coverage), window)
    band = ridge(f.v - hair.line - 0.05 - 0.03 * f.medium, 0.07)
    tips = 1 - 0.25 * smoothstep(-0.08, 0.0, above)
    lit = 0.62 + 0.36 * band + 0.22 * (f.u * scene.identity.light.x) / width
    shade = (1 + 0.22 * texture).clamp_(0.35, 2.0) * lit * tips * (1 - 0.25 * side)
    gleam = 0.03 * band * texture.clamp(min=0)
    tint = strands.tint[:, window[0], window[1]]
    solid = inside(above, scene.soft) * within
    scene.canvas.paint((tint * shade + gleam) * scene.light_colour, coverage, window, HAIR, solid=solid)
