"""Scalar fields on the pixel grid: coordinates of the head, noise, soft edges, and the canvas they are painted on.

Lengths are in head units (the half side of the image divided by the head's scale); a field is float32 (H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flbench.synthetic.identity import Identity, Pose

Window = tuple[slice, slice]
_NOISE_STREAM = 9102


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high` (falls if `low` > `high`)."""
    t = x.sub(low).mul_(1 / (high - low)).clamp_(0, 1)
    return t.mul(-2).add_(3).mul_(t).mul_(t)


def inside(distance: Tensor, softness: float) -> Tensor:
    """Return the coverage of the area where `distance` < 0, with an edge of `softness` to either side."""
    return distance.mul(-0.5 / softness).add_(0.5).clamp_(0, 1)


def bump(squared: Tensor) -> Tensor:
    """Return a bell of the squared distance: like exp(-q / 2), but zero beyond three deviations and without `exp`."""
    t = squared.mul(-1 / 9).add_(1).clamp_(min=0)
    return t.square_().square_()


def ridge(distance: Tensor, width: float) -> Tensor:
    """Return a bell across a line: one where `distance` is 0, about .37 at `width`."""
    return bump(distance.mul(math.sqrt(2) / width).square_())


def superellipse(x: Tensor, y: Tensor, a: float, b: float, power: float) -> Tensor:
    """Return the radius of (x, y) measured by a superellipse with half axes a and b: one on the curve."""
    if power == 2:
        return (x.mul(1 / a).square_() + y.mul(1 / b).square_()).sqrt_()
    total = x.abs().mul_(1 / a).pow_(power) + y.abs().mul_(1 / b).pow_(power)
    return total.pow_(1 / power)


def colour(values: tuple[float, float, float]) -> Tensor:
    """Return a linear-light colour as a tensor (3, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


@cache
def _spline_basis(cells: int, size: int) -> Tensor:
    """Return the cubic B-spline basis (size, cells + 3) that turns a lattice into a smooth row."""
    position = (np.arange(size) + 0.5) / size * cells
    first = np.floor(position).astype(int)
    t = position - first
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    basis = np.zeros((size, cells + 3), np.float32)
    for offset, weight in enumerate(weights):
        basis[np.arange(size), first + offset] = weight
    return torch.from_numpy(basis)


def smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Tensor:
    """Return smooth noise (size, size) of about unit variance with `cells` bumps per side."""
    lattice = torch.from_numpy(rng.standard_normal((cells + 3, cells + 3), dtype=np.float32))
    basis = _spline_basis(cells, size)
    return basis @ lattice @ basis.T * 2.1


@dataclass(frozen=True)
class Frame:
    """Placement of the head in the image, for turning head coordinates into pixel windows."""

    size: int
    pose: Pose

    @property
    def shift(self) -> tuple[float, float]:
        """How far the middle of the face moves sideways and down because the head is turned."""
        return 0.13 * self.pose.yaw, 0.06 * self.pose.pitch

    @property
    def pixel(self) -> float:
        """The side of a pixel in head units."""
        return 2 / self.size / self.pose.scale

    def window(self, u: float, v: float, half_u: float, half_v: float, *, feature: bool = True) -> Window:
        """Return the pixel window that holds the box around (u, v), whatever the roll and the noise of the outline."""
        if feature:
            dome = math.sqrt(max(0.0, 1 - (u / 0.6) ** 2))
            u, v = u + self.shift[0] * dome, v + self.shift[1]
            half_u, half_v = half_u * 1.18 + 0.025, half_v + 0.025
        cosine, sine = math.cos(self.pose.roll), math.sin(self.pose.roll)
        half_x = half_u * cosine + half_v * abs(sine) + 0.03
        half_y = half_v * cosine + half_u * abs(sine) + 0.03
        x = self.pose.x + self.pose.scale * (cosine * u - sine * v)
        y = self.pose.y + self.pose.scale * (sine * u + cosine * v)
        return self._slice(y, half_y), self._slice(x, half_x)

    def _slice(self, centre: float, half: float) -> slice:
        half = half * self.pose.scale
        start = int((centre - half + 1) / 2 * self.size)
        stop = int((centre + half + 1) / 2 * self.size) + 1
        start = min(max(start, 0), self.size - 2)
        return slice(start, min(max(stop, start + 2), self.size))


@dataclass(frozen=True)
class Fields:
    """Everything that is known of every pixel before anything is painted; all members are (H, W)."""

    x: Tensor
    """Image coordinates, -1 to 1."""
    y: Tensor
    u: Tensor
    """Head coordinates: 0 in the middle of the face, v downwards."""
    v: Tensor
    uf: Tensor
    """Feature coordinates: head coordinates moved and squeezed by yaw and pitch."""
    vf: Tensor
    broad: Tensor
    """Noise with 4, 8, 20 and 48 bumps per side, and one value per pixel."""
    medium: Tensor
    small: Tensor
    tiny: Tensor
    grain: Tensor

    def crop(self, window: Window) -> Fields:
        """Return the same fields inside a pixel window (views, no copies)."""
        return replace(self, **{item.name: getattr(self, item.name)[window] for item in fields(self)})


def make_fields(identity: Identity, frame: Frame) -> Fields:
    """Compute coordinates and noise of one face; the noise depends on the identity's seed and the size only."""
    size, pose = frame.size, frame.pose
    rng = np.random.Generator(np.random.PCG64([_NOISE_STREAM, identity.seed]))
    broad, broad_v, medium, small, tiny = (smooth_noise(rng, cells, size) for cells in (4, 4, 8, 20, 48))
    grain = torch.from_numpy(rng.standard_normal((size, size), dtype=np.float32))
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cosine, sine = math.cos(pose.roll), math.sin(pose.roll)
    u = ((x - pose.x) * cosine + (y - pose.y) * sine) / pose.scale + 0.006 * broad
    v = ((y - pose.y) * cosine - (x - pose.x) * sine) / pose.scale + 0.006 * broad_v
    dome = u.mul(1 / 0.6).square_().neg_().add_(1).clamp_(min=0).sqrt_()
    uf = u - frame.shift[0] * dome
    uf = uf * (1 + 0.14 * pose.yaw * uf.mul(20).clamp_(-1, 1))
    vf = v - frame.shift[1] * dome
    return Fields(x, y, u, v, uf, vf, broad, medium, small, tiny, grain)


class Canvas:
    """The picture while it is painted: linear RGB (3, S, S) and CelebAMask-HQ classes (S, S)."""

    def __init__(self, size: int) -> None:
        self.rgb = torch.zeros(3, size, size)
        self.classes = torch.zeros(size, size, dtype=torch.uint8)

    def paint(
        self, paint: Tensor, alpha: Tensor, window: Window, label: int | None = None, *, solid: Tensor | None = None
    ) -> None:
        """Blend `paint` (3, h, w) or (3, 1, 1) over a window.

        Pixels covered by more than half take the class; what has loose strands gives its `solid` coverage for that.
        """
        region = self.rgb[:, window[0], window[1]]
        # `lerp` gives the paint itself where alpha is 1: nothing hidden leaks through the rounding.
        torch.lerp(region, paint, alpha, out=region)
        if label is not None:
            self.classes[window].masked_fill_((alpha if solid is None else solid) > 0.5, label)

    def darken(self, factor: Tensor, window: Window) -> None:
        """Multiply a window by a factor (h, w)."""
        self.rgb[:, window[0], window[1]] *= factor
