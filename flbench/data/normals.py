"""Normally distributed numbers: bit for bit numpy's, in less than half of the time.

They are drawn by the ziggurat of Marsaglia and Tsang (2000). 256 layers of one area cover the right half of the curve
exp(-x² / 2): at the bottom a box and the tail beside it, above it boxes. Layer, sign and a place in the layer are drawn
at random; nearly all places have the curve above them wherever in the layer's height they are, and are the numbers.

numpy promises to keep what PCG64 draws, but not what its Generator makes of it (NEP 19): here that stays too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flbench.compiled import compiled

Bits = NDArray[np.uint32]
Floats = NDArray[np.float32]

# Of 32 random bits, the lowest eight choose the layer, the next one the sign and the others the place.
_LAYER = (1 << 8) - 1
_LAYER_AND_SIGN = (1 << 9) - 1
_PLACE_SHIFT = 9
_PLACES = 1 << 23

_TAIL = 3.6541528853610088
"""Where the tail begins: chosen so that the highest of the layers ends where the curve does."""

# As float32, in which numbers are computed; a fraction is what 24 bits are of one.
_BEGIN, _INVERSE, _FRACTION = np.float32(_TAIL), np.float32(1 / _TAIL), np.float32(2.0**-24)


def _curve(x: float) -> float:
    return math.exp(-0.5 * x * x)


def _layers() -> tuple[Floats, Bits, Floats]:
    """Return what is known of the layers: of the bottom one first, then from the top down.

    Returns:
        The distance of neighbouring places, for all layers to the right and again for all to the left; how many places
        lie under the curve all the way up; the height of the curve at the layer's edge, but for the bottom layer at 0.
    """
    area = _TAIL * _curve(_TAIL) + math.sqrt(math.pi / 2) * math.erfc(_TAIL / math.sqrt(2))
    edges = [_TAIL]
    while len(edges) < _LAYER:
        edges.append(math.sqrt(-2 * math.log(area / edges[-1] + _curve(edges[-1]))))
    widths = np.array([area / _curve(_TAIL), *reversed(edges)])  # the bottom one as if its tail were part of the box
    inner = np.array([_TAIL, 0, *widths[1:-1]]) / widths
    steps = np.concatenate([widths, -widths]) / _PLACES
    heights = np.array([1, *map(_curve, widths[1:])])
    return steps.astype(np.float32), np.rint(inner * _PLACES).astype(np.uint32), heights.astype(np.float32)


_STEPS, _INNER, _HEIGHTS = _layers()


def normals(seed: int, count: int) -> Floats:
    """Draw numbers of mean 0 and variance 1.

    Args:
        seed: Of PCG64.
        count: How many.

    Returns:
        float32 (count,), equal to `np.random.default_rng(seed).standard_normal(count, np.float32)`.
    """
    source = np.random.PCG64(seed)
    spare = 4 + count // 64
    words = source.random_raw(count // 2 + spare)
    while len(found := _drawn(words.view(np.uint32), count)) < count:
        words = np.append(words, source.random_raw(spare))
    return found


@compiled("float32[::1](uint32[::1], int64)")
def _drawn(bits: Bits, count: int) -> Floats:
    """Return `count` numbers made of random bits, 32 at a time; fewer where the bits run out."""
    found, made = np.empty(count, np.float32), 0
    while True:
        left = found[made:]
        run = min(len(left), len(bits))
        for i in range(run):
            left[i] = np.float32(np.int32(bits[i] >> _PLACE_SHIFT)) * _STEPS[bits[i] & _LAYER_AND_SIGN]
            if bits[i] >> _PLACE_SHIFT >= _INNER[bits[i] & _LAYER]:
                break
        else:
            return found[: made + run]
        layer, place = bits[i] & _LAYER, bits[i] >> _PLACE_SHIFT
        made, bits = made + i, bits[i + 1 :]
        if layer:  # where the curve passes through the layer, a height is drawn too
            if len(bits) < 1:
                return found[:made]
            x, low, high = float(found[made]), _HEIGHTS[layer], _HEIGHTS[layer - 1]
            made += (high - low) * (np.float32(bits[0] >> 8) * _FRACTION) + low < math.exp(-0.5 * x * x)
            bits = bits[1:]
        else:  # the tail, by Marsaglia's method of 1964
            beyond, height = np.float32(0), np.float32(0)
            while height + height <= beyond * beyond:
                if len(bits) < 2:
                    return found[:made]
                beyond = -_INVERSE * np.log1p(-np.float32(bits[0] >> 8) * _FRACTION)
                height = -np.log1p(-np.float32(bits[1] >> 8) * _FRACTION)
                bits = bits[2:]
            found[made] = -(_BEGIN + beyond) if place >> 8 & 1 else _BEGIN + beyond
            made += 1
