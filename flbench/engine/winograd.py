"""Let wide 3 x 3 convolutions of a network multiply less, by Winograd's minimal filtering."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.polynomial import polynomial
from torch import Tensor, nn

Extent = tuple[int, int]

POINTS: Mapping[int, tuple[float, ...]] = {4: (0, 0.75, -0.75, 1.5, -1.5), 5: (0, 1, -1, 2, -1.5, 0.5)}
"""Outputs that a tile has a side, with where its polynomials are evaluated; infinity is one more point.

Of some hundred sets tried, these err least: at 256 channels, the furthest of 400,000 numbers is 1e-5 and 2e-5 of their
standard deviation off.
"""

# Measured on a CPU at 28 x 28: a block with 256 channels gains a sixth, with 128 nothing. With few tiles, a matrix
# product is as long as reading its weights takes.
CHANNELS = 256
TILES = 16
WORTH = 0.6

ROOM = 2**30
"""Bytes that weights at the points may take, four or five times what the weights do: an ONNX file holds two GiB."""


class Winograd(nn.Conv2d):
    """A 3 x 3 convolution of stride 1 that multiplies less, for inputs of one size; others it takes as any does.

    An input is cut into tiles that overlap by two pixels, and each tile is seen as the values of a polynomial at a few
    points. There, a convolution is one product for each point and pair of channels, hence matrix products. A dilated
    convolution is one of several grids, each by itself. Cutting, evaluating and zero padding, one after the other along
    rows and columns, are a matrix each, made once. With m outputs a side of a tile, m + 2 points a side take
    ((m + 2) / m)^2 products an output in place of 9.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; the matrices are Toom's and
    Cook's. In float32 the sums are less exact than in the usual order, by a factor of ten to thirty.

    Args:
        conv: What it stands for; the weights are shared. Zero padding given in numbers, one group.
        extent: Height and width of its input.
        outputs: Outputs that a tile has a side, a key of `POINTS`.
        early: Whether channels are brought last before tiles are cut; which is faster depends on the engine.
    """

    def __init__(self, conv: nn.Conv2d, extent: Extent, outputs: int, *, early: bool = False) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            3,
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.extent, self.points, self.early = extent, outputs + 2, early
        self.tiles = tuple(_tiles(extent[axis], _axis(conv, axis), outputs) for axis in (0, 1))
        made = [_matrices(extent[axis], _axis(conv, axis), outputs) for axis in (0, 1)]
        kernel = torch.from_numpy(_toom_cook(outputs)[1])
        weight = torch.einsum("ia,ocab,jb->ijco", kernel, conv.weight.detach().double(), kernel).flatten(0, 1)
        for name, matrix in {
            "cut_rows": made[0][0],
            "cut_columns": made[1][0].T,
            "join_rows": made[0][1],
            "join_columns": made[1][1],
        }.items():
            self.register_buffer(name, torch.tensor(matrix).to(conv.weight), persistent=False)
        self.register_buffer("evaluated", weight.to(conv.weight).contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution of (B, C, H, W)."""
        if images.ndim != 4 or tuple(images.shape[-2:]) != self.extent:
            return super().forward(images)
        made: Any = self
        count, channels, side = images.shape[0], self.in_channels, self.points
        (rows, columns), filters = self.tiles, self.out_channels
        # Two transposes, of a matrix and of long runs, take less time than one of single numbers.
        if self.early:
            lines = made.cut_columns.T @ images.permute(0, 2, 3, 1)
            cut = made.cut_rows @ lines.reshape(count, self.extent[0], -1)
        else:
            cut = (made.cut_rows @ (images @ made.cut_columns)).reshape(count, channels, -1).transpose(1, 2)
        cut = cut.reshape(count, side, rows, side, columns, channels)
        cut = cut.permute(1, 3, 0, 2, 4, 5).reshape(side * side, count * rows * columns, channels)
        joined = (cut @ made.evaluated).reshape(side, side, count, rows, columns, filters)
        joined = joined.permute(2, 0, 3, 1, 4, 5).reshape(count, side * rows, side * columns * filters)
        joined = (made.join_rows @ joined).reshape(count, -1, side * columns, filters)
        result: Tensor = (made.join_columns @ joined).permute(0, 3, 1, 2)
        return result if self.bias is None else result + self.bias[:, None, None]


def multiplying_less(module: nn.Module, extents: Mapping[str, Extent], *, early: bool = False) -> nn.Module | None:
    """Return a copy of a network whose convolutions multiply less where that is worth it; None if it is nowhere.

    The weights are shared with the network, which stays as it is.

    Args:
        module: The network.
        extents: Height and width of what its convolutions are given, by their names.
        early: As for `Winograd`.
    """
    chosen: dict[str, int] = {}
    room = ROOM
    for name, extent in extents.items():
        outputs = _outputs(module.get_submodule(name), extent)
        if name and outputs and (size := _size(module.get_submodule(name), outputs)) <= room:
            chosen[name] = outputs
            room -= size
    if not chosen:
        return None
    copied = copy.deepcopy(module, {id(part): part for part in (*module.parameters(), *module.buffers())})
    for name, outputs in chosen.items():
        conv: Any = copied.get_submodule(name)
        above, _, last = name.rpartition(".")
        setattr(copied.get_submodule(above), last, Winograd(conv, extents[name], outputs, early=early))
    return copied


def _outputs(conv: nn.Module, extent: Extent) -> int | None:
    """Return how many outputs a tile of a convolution should have a side; None where the usual way is as good."""
    if type(conv) is not nn.Conv2d or conv.kernel_size != (3, 3) or conv.stride != (1, 1) or conv.groups != 1:
        return None
    if isinstance(conv.padding, str) or conv.padding_mode in ("reflect", "replicate", "circular"):
        return None
    if conv._forward_hooks or conv._forward_pre_hooks:
        return None
    if min(conv.in_channels, conv.out_channels) < CHANNELS:
        return None
    shares = {outputs: _share(conv, extent, outputs) for outputs in POINTS}
    best = min(shares, key=lambda outputs: shares[outputs])
    return best if shares[best] <= WORTH else None


def _size(conv: Any, outputs: int) -> int:
    """Return the bytes of a convolution's weights at the points."""
    return int(conv.in_channels * conv.out_channels * (outputs + 2) ** 2 * conv.weight.element_size())


def _share(conv: nn.Conv2d, extent: Extent, outputs: int) -> float:
    """Return the multiplications that are left, as a share of those that do not meet the padding."""
    axes = [_axis(conv, axis) for axis in (0, 1)]
    tiles = [_tiles(size, axis, outputs) for size, axis in zip(extent, axes, strict=True)]
    if min(tiles) <= 0 or tiles[0] * tiles[1] < TILES:
        return float("inf")
    inside = [_inside(size, *axis) for size, axis in zip(extent, axes, strict=True)]
    (high, wide), (rows, columns) = extent, [(outputs + 2) * count for count in tiles]
    pairs = conv.in_channels * conv.out_channels
    moved = (conv.in_channels + conv.out_channels) * (high * wide * columns + rows * high * columns)
    return (pairs * rows * columns + moved) / max(1, pairs * inside[0] * inside[1])


def _axis(conv: nn.Conv2d, axis: int) -> Extent:
    """Return padding and dilation along an axis."""
    return int(conv.padding[axis]), conv.dilation[axis]


def _inside(size: int, padding: int, dilation: int) -> int:
    """Return how many pairs of an output and a tap of a row lie inside the input."""
    out = size + 2 * (padding - dilation)
    return sum(
        max(0, min(out, size - shift) - max(0, -shift)) for shift in (tap * dilation - padding for tap in range(3))
    )


def _tiles(size: int, axis: Extent, outputs: int) -> int:
    """Return how many tiles lie along an axis, those of all grids of a dilated convolution together."""
    padding, dilation = axis
    return math.ceil(math.ceil((size + 2 * (padding - dilation)) / dilation) / outputs) * dilation


def _matrices(size: int, axis: Extent, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what cuts and evaluates a row of pixels, (points x tiles, H), and what makes the row that comes of it."""
    padding, dilation = axis
    found = size + 2 * (padding - dilation)
    inward, _, outward = _toom_cook(outputs)
    points, tiles = outputs + 2, _tiles(size, axis, outputs) // dilation
    cut, join = np.zeros((points, tiles, dilation, size)), np.zeros((found, points, tiles, dilation))
    for tile, grid in np.ndindex(tiles, dilation):
        for step in range(points):
            place = (tile * outputs + step) * dilation + grid - padding
            if 0 <= place < size:
                cut[:, tile, grid, place] = inward[:, step]
        for step in range(outputs):
            place = (tile * outputs + step) * dilation + grid
            if place < found:
                join[place, :, tile, grid] = outward[step]
    return cut.reshape(-1, size), join.reshape(found, -1)


def _toom_cook(outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices B^T, G and A^T of F(outputs, 3): A^T ((G g) * (B^T d)) filters a row d by three numbers g."""
    at = POINTS[outputs]
    size = len(at) + 1
    inward, kernel, outward = np.zeros((size, size)), np.zeros((size, 3)), np.zeros((outputs, size))
    for row, point in enumerate(at):
        others = [other for other in at if other != point]
        inward[row, :-1] = polynomial.polyfromroots(others)
        kernel[row] = point ** np.arange(3.0) / np.prod([point - other for other in others])
        outward[:, row] = point ** np.arange(float(outputs))
    inward[-1] = polynomial.polyfromroots(at)
    kernel[-1, -1] = outward[-1, -1] = 1
    return inward, kernel, outward
