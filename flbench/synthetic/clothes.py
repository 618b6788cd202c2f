"""Clothes: crew necks, blouses, shirts, jackets, turtlenecks, plain or patterned; and now and then a hat."""

from __future__ import annotations

import torch
from torch import Tensor

from flbench.synthetic.fields import Fields, colour, inside, ridge, smoothstep
from flbench.synthetic.identity import HAT_SHARE
from flbench.synthetic.scene import CLOTH, HAT, Scene


def _dull(values: tuple[float, float, float]) -> Tensor:
    """Return a colour (3, 1, 1) with less saturation, as most cloth has."""
    cloth = colour(values)
    return 0.6 * cloth + 0.4 * cloth.mean()


def _weave(scene: Scene, f: Fields, u: Tensor) -> Tensor:
    """Return the colour of the cloth (3, h, w): plain, striped, checked, dotted or flowered."""
    around = scene.identity.surroundings
    first, second, kind = _dull(around.cloth), _dull(around.second), around.pattern
    if kind < 0.55:
        return first * (1 + 0.05 * f.tiny)
    row, column = torch.sin(around.pitch * f.v + 1.2 * f.broad), torch.sin(around.pitch * u + 1.2 * f.broad)
    if kind < 0.70:
        amount = smoothstep(-0.3, 0.3, row if kind < 0.62 else column)
    elif kind < 0.80:
        amount = 0.5 * smoothstep(-0.2, 0.2, row) + 0.5 * smoothstep(-0.2, 0.2, column)
    elif kind < 0.88:
        amount = smoothstep(0.35, 0.6, row * column)
    else:
        amount = smoothstep(0.5, 1.0, f.small)
    return first + (second - first) * amount


def paint_cloth(scene: Scene) -> None:
    """Paint shoulders with neckline, collar or lapels, and soft folds."""
    identity, around = scene.identity, scene.identity.surroundings
    window = scene.frame.window(0, 0.75, 1.0, 0.40, feature=False)
    f = scene.fields.crop(window)
    u = f.u - 0.02 * identity.pose.yaw
    side, width, kind = u.abs(), scene.neck_width, around.garment
    shoulder = 0.50 + 0.40 * (side - width).clamp_(min=0).pow_(1.25) + 0.008 * f.medium - 0.015 * scene.male
    lit = smoothstep(-0.9, 0.9, u * identity.light.x * 1.4)
    folds = 0.5 + 0.5 * torch.sin(8 * side + 3.5 * f.broad + 4 * f.v)
    amount = (0.38 + 0.30 * lit + 0.26 * folds + 0.06 * f.small + 0.04 * f.grain) * (
        1 - 0.40 * smoothstep(0.20, 0.0, f.v - shoulder) * smoothstep(width * 1.9, width, side)
    )
    light = scene.light_colour * amount
    if kind < 0.30:  # crew neck
        opening = 0.61 + 0.05 * around.collar - 1.8 * side.square() - f.v
        ribs = 1 - 0.30 * ridge(opening + 0.035, 0.030)
    elif kind < 0.55:  # blouse, open in a V or round and deep
        opening = 0.66 + 0.24 * around.collar - (0.55 + around.collar) * side - f.v
        ribs = 1 - 0.20 * ridge(opening + 0.02, 0.016)
    elif kind < 0.63:  # turtleneck
        opening = 0.575 - 0.6 * side.square() - f.v
        shoulder = torch.minimum(shoulder, torch.where(side < width * 1.10, 0.40, 2.0))
        ribs = 1 - 0.28 * ridge(opening + 0.10, 0.03)
    else:
        _paint_shirt(scene, f, u, shoulder, light, jacket=kind > 0.80)
        return
    inner = torch.minimum(opening, width * 1.12 - side) if kind >= 0.63 else opening
    coverage = inside(shoulder - f.v, scene.soft) * inside(inner, scene.soft)
    scene.canvas.paint(_weave(scene, f, u) * light * ribs, coverage, window, CLOTH)


def _paint_shirt(scene: Scene, f: Fields, u: Tensor, shoulder: Tensor, light: Tensor, *, jacket: bool) -> None:
    """Paint a shirt with two collar leaves and buttons, or a jacket with lapels over a bright shirt."""
    around, side, width = scene.identity.surroundings, u.abs(), scene.neck_width
    window = scene.frame.window(0, 0.75, 1.0, 0.40, feature=False)
    body = inside(shoulder - f.v, scene.soft)
    gap = 0.68 + 0.08 * around.collar - 1.1 * side - f.v
    bright = 0.55 + 0.45 * colour(around.second)
    shirt = bright * 0.75 if jacket else _weave(scene, f, u)
    scene.canvas.paint(shirt * light, body * inside(gap, scene.soft), window, CLOTH)
    leaf_outer = side - width * 1.10 - 0.10
    leaf_lower = f.v - 0.69 - 0.06 * around.collar + 0.35 * (side - 0.10).abs()
    leaf_upper = 0.455 + 0.26 * (side - width).clamp(min=0) + 0.05 * (width - side).clamp(min=0) / width - f.v
    leaf_distance = torch.maximum(torch.maximum(leaf_outer, leaf_lower), torch.maximum(leaf_upper, gap))
    shadow = 0.45 * smoothstep(0.05, 0.0, leaf_distance)
    scene.canvas.darken(1 - shadow * body, window)
    scene.canvas.paint(shirt * light * 1.22, inside(leaf_distance, scene.soft), window, CLOTH)
    if not jacket:
        placket = ridge(side - 0.035, 0.006) * inside(gap + 0.02, scene.soft) * body
        scene.canvas.darken(1 - 0.30 * placket, window)
        return
    dark = _dull(around.cloth) * 0.30
    front = torch.maximum(0.23 - 0.45 * (f.v - 0.58) - side, shoulder - 0.015 - f.v)
    lapel = torch.maximum(front, side - 0.38 - 0.25 * (f.v - 0.65).clamp(max=0.1))
    scene.canvas.darken(1 - 0.40 * smoothstep(0.05, 0, front) * body, window)
    scene.canvas.paint(dark * light, inside(front, scene.soft), window, CLOTH)
    edge = 1.25 - 0.55 * ridge(side - 0.38 - 0.25 * (f.v - 0.65).clamp(max=0.1), 0.012)
    scene.canvas.paint(dark * light * edge, inside(lapel, scene.soft), window, CLOTH)


def paint_hat(scene: Scene, outline: Tensor) -> None:
    """Paint a knitted cap or a hat with a brim over the hair, if the person wears one.

    Args:
        scene: The face.
        outline: Signed distance to the outline of the hair (S, S): the hat holds all hair above its edge.
    """
    around = scene.identity.surroundings
    if not scene.identity.hatted:
        return
    f, hair = scene.fields, scene.identity.hair
    brimmed = around.hat < HAT_SHARE / 2
    edge = hair.line + 0.02 + 0.25 * f.u.square() * (1 if brimmed else -0.3)
    spread, crown = scene.head_width + 0.045, scene.identity.shape.skull + 0.07
    dome = (((f.u / spread).square_() + ((f.v + 0.02) / crown).square_()).sqrt_() - 1) * scene.head_width
    distance = torch.maximum(torch.minimum(dome, outline - 0.02), f.v - edge)
    if brimmed:
        brim = torch.maximum(f.u.abs() - spread - 0.10, (f.v - edge + 0.01).abs() - 0.035 * (1 - 0.5 * f.u.square()))
        distance = torch.minimum(distance, brim)
    knit = 1 - 0.10 * torch.sin(75 * f.u) + 0.05 * f.grain
    band = 1 - 0.35 * ridge(f.v - edge + 0.10, 0.02)
    lit = 0.55 + 0.40 * smoothstep(-0.9, 0.9, 1.5 * f.u * scene.identity.light.x - 0.6 * f.v)
    scene.canvas.darken(1 - 0.35 * smoothstep(0.07, 0, f.v - edge) * scene.head, scene.everywhere)
    paint = _dull(around.second) * scene.light_colour * (lit * band * knit)
    scene.canvas.paint(paint, inside(distance, scene.soft), scene.everywhere, HAT)
