"""What the steps of a condition do to pixels.

An image is degraded by itself: the result depends on its pixels, the condition and the sample's key, never on order,
batch or thread count. Two things are random and drawn from the sha256 of the key: the field of the noise and the
permutation of the quadrants. Neither depends on the severity, so the severities of one sample are a paired comparison.
A kind that stands twice in a chain draws anew the second time.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flbench.compiled import compiled
from flbench.condition import Condition, Step
from flbench.data.normals import normals

Pixels = NDArray[np.uint8]

ORDERS = tuple(permutations(range(4)))[1:]
"""The 23 ways in which four quadrants change places: place `i` (row by row) gets quadrant `order[i]`."""


class Degraded(NamedTuple):
    """One image after a condition, with what is scored beside it.

    Attributes:
        image: uint8 (H, W, 3).
        photo: uint8 (H, W, 3), the real image of a fake, never degraded but disorganized like the image; or None.
        truth: float32 (H, W), the clean ground truth, disorganized like the image; or None.
        region: bool (H, W), disorganized like the image; or None.
    """

    image: np.ndarray
    photo: np.ndarray | None
    truth: np.ndarray | None
    region: np.ndarray | None


def degrade(
    condition: Condition,
    image: np.ndarray,
    *,
    photo: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    region: np.ndarray | None = None,
    key: str,
) -> Degraded:
    """Take an image through the steps of a condition, in their order.

    JPEG, blur, noise and low resolution change the image alone. `disorganized` permutes image, photo, truth and region
    alike, so that a map still lies over its image and Eq. 4 can be recomputed from photo and degraded image.

    Args:
        condition: What happens.
        image: uint8 (H, W, 3).
        photo: uint8 (H, W, 3), the real image of a fake; None for a real one.
        truth: float32 (H, W) in [0, 1]; None where it is recomputed.
        region: bool (H, W), pixels that are scored; None for all.
        key: What is random depends on it; the sample's id.

    Returns:
        Arrays of the same shapes and types. What a condition leaves alone is the array that was given, not a copy.

    Raises:
        ValueError: The image is not uint8 (H, W, 3), or the others differ from it in size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if any(other is not None and other.shape[:2] != image.shape[:2] for other in (photo, truth, region)):
        raise ValueError(f"photo, truth or region differs in size from the image {image.shape}")
    state = Degraded(image, photo, truth, region)
    turns: Counter[str] = Counter()
    for step in condition.steps:
        seed = _seed(step.kind, turns[step.kind], key)
        turns[step.kind] += 1
        if step.kind == "disorganized":
            state = _disorganized(state, ORDERS[seed % len(ORDERS)])
        elif not step.is_identity:
            state = state._replace(image=_changed(state.image, step, seed))
    return state


def jpeg(image: Pixels, quality: int) -> Pixels:
    """Compress as JPEG and decode: libjpeg-turbo with its scaled standard tables, 4:2:0, as Pillow does to the bit.

    OpenCV's way to that library takes three fifths of the time of Pillow's, and other threads run meanwhile.

    Args:
        image: uint8 (H, W, 3).
        quality: 1 to 100.

    Returns:
        uint8 (H, W, 3).
    """
    import cv2  # here, because it takes a moment and no other condition needs it

    blue_first = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", blue_first, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR_RGB), np.uint8)


def blur(image: Pixels, size: int) -> Pixels:
    """Blur by a Gaussian kernel of `size` × `size` taps that add up to one.

    Its standard deviation is 0.3((size - 1)/2 - 1) + 0.8. Beyond the border the image is mirrored without repeating
    the outermost pixel (reflect-101), as often as the kernel needs. Sums are float64, rounded to the nearest.

    Args:
        image: uint8 (H, W, 3).
        size: Side of the kernel in pixels, odd; 1 changes nothing.

    Returns:
        uint8 (H, W, 3).
    """
    places = np.arange(size) - size // 2
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    taps = np.exp(-0.5 * np.square(places / sigma))
    taps /= taps.sum()
    reach = size // 2
    rows, columns = (_mirrored(np.arange(-reach, side + reach), side) for side in image.shape[:2])
    return _blurred(np.ascontiguousarray(image), taps, rows, columns)


def _mirrored(places: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return where places on and beyond a side lie in it."""
    period = max(1, 2 * (side - 1))
    within = np.abs(places) % period
    return np.minimum(within, period - within) if side > 1 else np.zeros_like(places)


@compiled("uint8[:, :, ::1](uint8[:, :, ::1], float64[::1], int64[::1], int64[::1])")
def _blurred(image: Pixels, taps: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Pixels:
    """Correlate with symmetric taps, down the columns and along the rows; `rows` and `columns` tell what lies where."""
    height, width, channels = image.shape
    reach = len(taps) // 2
    lines = image.reshape(height, width * channels)
    result = np.empty_like(lines)
    line, sums = np.empty((width + 2 * reach) * channels), np.empty(width * channels)
    for y in range(height):
        for x in range(len(sums)):
            sums[x] = lines[y, x] * taps[reach]
        for far in range(reach, 0, -1):
            above, below = lines[rows[y + reach - far]], lines[rows[y + reach + far]]
            for x in range(len(sums)):
                sums[x] += (float(above[x]) + float(below[x])) * taps[reach - far]
        for place in range(len(columns)):
            for channel in range(channels):
                line[place * channels + channel] = sums[columns[place] * channels + channel]
        middle = line[reach * channels :]
        for x in range(len(sums)):
            sums[x] = middle[x] * taps[reach]
        for far in range(reach, 0, -1):
            left, right = line[(reach - far) * channels :], line[(reach + far) * channels :]
            for x in range(len(sums)):
                sums[x] += (left[x] + right[x]) * taps[reach - far]
        for x in range(len(sums)):
            result[y, x] = np.uint8(min(max(np.rint(sums[x]), 0.0), 255.0))
    return result.reshape(image.shape)


def noise(image: Pixels, variance: float, seed: int) -> Pixels:
    """Add Gaussian noise, independent in every pixel and channel, then clip and round to the nearest.

    The noise is a field of unit variance, float32 `normals`, scaled: the same field for every variance.

    Args:
        image: uint8 (H, W, 3).
        variance: Of the noise before clipping, for pixels in [0, 1]; 0 changes nothing.
        seed: Of the field.

    Returns:
        uint8 (H, W, 3).
    """
    field = normals(seed, image.size).reshape(image.shape)
    return _added(np.ascontiguousarray(image), np.float32(255 * math.sqrt(variance)), field)


@compiled("uint8[:, :, ::1](uint8[:, :, ::1], float32, float32[:, :, ::1])")
def _added(image: Pixels, scale: np.float32, field: NDArray[np.float32]) -> Pixels:
    """Return the image with a scaled field added to it, clipped and rounded."""
    result = np.empty_like(image)
    pixels, made, added = image.reshape(-1), result.reshape(-1), field.reshape(-1)
    for i in range(len(pixels)):
        value = np.rint(np.float32(pixels[i]) + scale * added[i])
        made[i] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
    return result


def low_resolution(image: Pixels, ratio: int) -> Pixels:
    """Reduce each side by a ratio and enlarge the image back, both by Pillow's antialiased bilinear filter.

    Args:
        image: uint8 (H, W, 3).
        ratio: A side becomes round(side / ratio), ties to even, and at least 1 pixel; 1 changes nothing.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = image.shape[:2]
    small = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BILINEAR)
    return np.array(reduced.resize((width, height), Image.Resampling.BILINEAR))


def disorganize(array: NDArray[Any], order: tuple[int, ...]) -> NDArray[Any]:
    """Let the four quadrants change places.

    They are those of the largest top left part with even sides, so all have one size and every pixel is kept: in an
    image of odd height the last row stays where it is, in one of odd width the last column. An image one pixel high or
    wide has no quadrants and stays as it is.

    Args:
        array: (H, W) or (H, W, channels), any type.
        order: Place `i` (top left, top right, bottom left, bottom right) gets quadrant `order[i]`.

    Returns:
        A new array of the same shape and type.
    """
    height, width = array.shape[0] // 2, array.shape[1] // 2
    quadrants = [(slice(top, top + height), slice(left, left + width)) for top in (0, height) for left in (0, width)]
    result = array.copy()
    for place, source in enumerate(order):
        result[quadrants[place]] = array[quadrants[source]]
    return result


def _changed(image: Pixels, step: Step, seed: int) -> Pixels:
    value = step.value or 0.0
    match step.kind:
        case "jpeg":
            return jpeg(image, int(value))
        case "blur":
            return blur(image, int(value))
        case "noise":
            return noise(image, value, seed)
        case "lowres":
            return low_resolution(image, int(value))
    raise ValueError(f"nothing is known of what {step.name} does to pixels")


def _disorganized(state: Degraded, order: tuple[int, ...]) -> Degraded:
    return Degraded(
        image=disorganize(state.image, order),
        photo=None if state.photo is None else disorganize(state.photo, order),
        truth=None if state.truth is None else disorganize(state.truth, order),
        region=None if state.region is None else disorganize(state.region, order),
    )


def _seed(kind: str, turn: int, key: str) -> int:
    """Return 128 bits for one step of a chain, by how many of its kind came before: no two steps draw the same."""
    return int.from_bytes(hashlib.sha256(f"{kind}\0{turn}\0{key}".encode()).digest()[:16], "big")
