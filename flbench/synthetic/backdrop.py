"""What is behind the head, always out of focus: walls, panels and lamps of a studio, or trees, skies and houses."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flbench.synthetic.fields import Fields, colour, inside, smooth_noise, smoothstep
from flbench.synthetic.scene import Scene

_BACKDROP_STREAM = 9106


def paint_background(scene: Scene) -> None:
    """Paint the background of the identity's scenery."""
    rng = np.random.Generator(np.random.PCG64([_BACKDROP_STREAM, scene.identity.surroundings.seed]))
    paint = _outdoor if scene.identity.scenery == "outdoor" else _studio
    picture = paint(scene, rng)
    f = scene.fields
    picture *= 1 - 0.12 * (f.x.square() + f.y.square()) + 0.008 * f.tiny
    scene.canvas.rgb = picture.clamp_(0, 1.2)


def _studio(scene: Scene, rng: np.random.Generator) -> Tensor:
    """Return a plain or mottled wall, a wall with printed panels, or a dark room with lamps."""
    f, around = scene.fields, scene.identity.surroundings
    slope = 0.45 * (math.cos(around.angle) * f.x + math.sin(around.angle) * f.y)
    mix = (slope + 0.25 * around.blobs * f.broad).add_(0.5).clamp_(0, 1)
    near, far = (0.4 * c + 0.6 * c.mean() for c in (colour(around.near), colour(around.far)))
    picture = near + (far - near) * mix
    if around.kind < 0.40:
        return picture * (1 + 0.5 * around.blobs * smoothstep(-0.2, 2.2, f.medium))
    if around.kind < 0.70:
        bright = 0.35 + 0.5 * rng.uniform() if rng.uniform() < 0.5 else 0.05
        picture = 0.35 * picture + 0.65 * bright
        for _ in range(7):
            shade = rng.uniform(0.01, 0.6, 3)
            _rectangle(picture, f, rng, paint=0.6 * shade + 0.4 * shade.mean(), soft=0.05)
        return picture
    picture = picture * 0.35
    for _ in range(6):
        _disc(picture, f, rng, paint=rng.uniform(0.1, 0.9, 3) * rng.uniform(0.3, 1.0), largest=0.22)
    return picture


def _outdoor(scene: Scene, rng: np.random.Generator) -> Tensor:
    """Return foliage with bright gaps, a sky over a horizon, or the front of a house."""
    f, around = scene.fields, scene.identity.surroundings
    if around.kind < 0.45:
        leaf = smooth_noise(rng, 14, scene.frame.size) * 0.6 + 0.5 * f.medium
        green = colour((rng.uniform(0.05, 0.16), rng.uniform(0.12, 0.24), rng.uniform(0.02, 0.06)))
        picture = green * (1 + 0.55 * leaf).clamp_(0.15, 3) + colour((0.10, 0.11, 0.05)) * smoothstep(0.3, 1.8, f.broad)
        for _ in range(9):
            _disc(picture, f, rng, paint=np.array([0.75, 0.85, 0.6]) * rng.uniform(0.3, 1.0), largest=0.14)
        return picture
    zenith = colour((rng.uniform(0.10, 0.45), rng.uniform(0.28, 0.55), rng.uniform(0.55, 0.85)))
    haze = colour((0.80, 0.82, 0.85))
    picture = zenith + (haze - zenith) * smoothstep(-1.1, 0.4, f.y + 0.12 * f.broad)
    picture = picture + (haze - picture) * (0.6 * smoothstep(0.4, 1.8, f.broad + 0.5 * f.medium))
    ground = colour((rng.uniform(0.08, 0.32), rng.uniform(0.10, 0.26), rng.uniform(0.04, 0.16)))
    horizon = rng.uniform(-0.35, 0.35)
    land = inside(horizon - f.y + 0.06 * f.broad + 0.03 * f.medium, 0.05)
    picture = picture + (ground * (1 + 0.25 * f.medium + 0.15 * f.small) - picture) * land
    if around.kind > 0.72:
        _house(picture, f, rng)
    return picture


def _house(picture: Tensor, f: Fields, rng: np.random.Generator) -> None:
    """Paint one or two fronts with rows of windows over the picture."""
    for _ in range(int(rng.integers(1, 3))):
        left, width, top = rng.uniform(-1.4, 0.6), rng.uniform(0.6, 1.3), rng.uniform(-1.1, -0.3)
        front = inside(torch.maximum((f.x - left - width / 2).abs() - width / 2, top - f.y), 0.025)
        wall = torch.from_numpy(np.float32(rng.uniform(0.12, 0.55) + rng.uniform(-0.06, 0.06, 3))).view(3, 1, 1)
        step, share = rng.uniform(0.22, 0.4), rng.uniform(0.24, 0.34)
        gap_x = ((f.x - left) / step).remainder(1).sub_(0.5).abs_() - share
        gap_y = ((f.y - top) / (1.4 * step)).remainder(1).sub_(0.5).abs_() - share
        panes = inside(torch.maximum(gap_x, gap_y), 0.09) * 0.75
        picture += (wall * (1 - panes) * (1 + 0.05 * f.medium) - picture) * front


def _rectangle(picture: Tensor, f: Fields, rng: np.random.Generator, *, paint: np.ndarray, soft: float) -> None:
    """Paint one blurred upright panel."""
    x, y, half_x, half_y = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.03, 0.35), rng.uniform(0.03, 0.35)
    alpha = inside(torch.maximum((f.x - x).abs() - half_x, (f.y - y).abs() - half_y), soft)
    picture += (_column(paint) - picture) * alpha


def _disc(picture: Tensor, f: Fields, rng: np.random.Generator, *, paint: np.ndarray, largest: float) -> None:
    """Add one highlight, spread to a disc by the defocused lens."""
    x, y, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.3, 1) * largest
    distance = ((f.x - x).square() + (f.y - y).square()).sqrt_() - radius
    picture += _column(paint) * (inside(distance, 0.02) * 0.6)


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(3, 1, 1)
