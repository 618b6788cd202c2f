"""Ground truth from pairs, regions from parsing maps, and the face attention map.

Source: FakeLocator (arXiv 2001.09598), Eq. 4 for the map, the section on face parsing for region and attention. Class
numbers are those of CelebAMask-HQ.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from flbench.errors import DataError, suggest

CLASSES = (
    "background",
    "skin",
    "nose",
    "eyeglasses",
    "left_eye",
    "right_eye",
    "left_brow",
    "right_brow",
    "left_ear",
    "right_ear",
    "mouth",
    "upper_lip",
    "lower_lip",
    "hair",
    "hat",
    "earring",
    "necklace",
    "neck",
    "cloth",
)
"""Names of the CelebAMask-HQ classes 0-18, the index is the class; left and right as the viewer sees them."""

_SKIN, _NOSE, _MOUTH, _UPPER_LIP, _LOWER_LIP, _HAIR = 1, 2, 10, 11, 12, 13
_LIPS = (_MOUTH, _UPPER_LIP, _LOWER_LIP)
_FACE = tuple(range(_SKIN, _HAIR + 1))

REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "age": _FACE,
        "bald": (_HAIR,),
        "bangs": (_HAIR,),
        "black_hair": (_HAIR,),
        "blond_hair": (_HAIR,),
        "brown_hair": (_HAIR,),
        "bushy_eyebrows": (6, 7),
        "entire": tuple(range(len(CLASSES))),
        "eyeglasses": (3, 4, 5, 6, 7),
        "gender": _FACE,
        "gray_hair": (_HAIR,),
        "male": _FACE,
        "mouth_slightly_open": _LIPS,
        "mustache": (_UPPER_LIP,),
        "pale_skin": (_SKIN, _NOSE),
        "smile": _LIPS,
        "young": _FACE,
    }
)
"""Parsing classes of an attribute. Where an attribute changes what is there (bald, bangs, eyeglasses), the classes are
looked up in the photo and in the fake. Gender and age change the whole head: skin, nose, glasses, eyes, brows, ears,
mouth, lips and hair. Mustache has no class; `region_of` says what is added to the upper lip."""

ATTENTION_SIGMA = 1 / 64
"""Standard deviation of the blur of `face_attention` as a share of the image's side: 2 pixels at 128, 3.5 at 224."""


def fakeness_map(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Return the gray-scale ground truth of a pair, Eq. 4: Gray(|real - fake|) / 255.

    Gray = 0.299 R + 0.587 G + 0.114 B. The weighted sum is exact in float32 (thousandths, below 2 ** 24), so the map
    is the same on every machine: the correctly rounded quotient, 0 where the pixels are equal, 1 where black meets
    white.

    Args:
        real: uint8 (H, W, 3), the photo.
        fake: uint8 (H, W, 3), its manipulation.

    Returns:
        float32 (H, W) in [0, 1].

    Raises:
        DataError: The two differ in size.
    """
    if real.shape != fake.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (real, fake)]
        raise DataError(f"the photo is {sizes[0]}, its fake {sizes[1]}", hint="bring both to one size first")
    difference = np.maximum(real, fake) - np.minimum(real, fake)
    thousandths = difference.astype(np.float32) @ np.array([299, 587, 114], np.float32)
    return thousandths / np.float32(255_000)


def region_of(attribute: str, *parsings: np.ndarray) -> np.ndarray:
    """Return the region of an attribute: the union over parsing maps of the photo and, where there is one, the fake.

    For `mustache` the region is the upper lip and the skin above it: in the rows from the lowest of the nose to the
    lowest of the upper lip, within the columns of the mouth and lips widened by an eighth of their width on both sides.
    A map without nose or without upper lip gives the upper lip alone, if there is one. The rule is meant for upright
    faces.

    Args:
        attribute: A key of `REGIONS`, in any case.
        parsings: uint8 (H, W), at least one, all of one size.

    Returns:
        bool (H, W); for `entire` all true.

    Raises:
        DataError: An attribute without an entry, no parsing map, or maps of different sizes.
    """
    name = attribute.lower()
    if name not in REGIONS:
        raise DataError(f"no region is defined for attribute {attribute!r}", hint=suggest(name, list(REGIONS)))
    if not parsings:
        raise DataError(f"the region of {attribute!r} needs a parsing map")
    if len({parsing.shape for parsing in parsings}) > 1:
        raise DataError("the parsing maps of photo and fake differ in size")
    region = np.zeros(parsings[0].shape, bool)
    if name == "entire":
        return ~region
    chosen = np.zeros(256, bool)
    chosen[list(REGIONS[name])] = True
    for parsing in parsings:
        region |= chosen[parsing]
        if name == "mustache":
            region |= _above_lip(parsing)
    return region


def difference_region(fakeness: np.ndarray, *, threshold: float = 0.1, dilate: int = 3) -> np.ndarray:
    """Return the region where a map is at least `threshold`, grown by a square: the stand-in without parsing maps.

    Args:
        fakeness: float32 (H, W) in [0, 1].
        threshold: Smallest fakeness that counts.
        dilate: Pixels by which the region grows in every direction, diagonals included; 0: not at all.

    Returns:
        bool (H, W).
    """
    return _grow(fakeness >= threshold, dilate)


def face_attention(region: np.ndarray) -> np.ndarray:
    """Blur a region outward: 1 inside, falling smoothly to 0 outside.

    The paper blurs the region so that the light area expands, without a number. Here, with sigma = `ATTENTION_SIGMA`
    times the mean of height and width: the region is grown by 2 sigma (whole pixels, diagonals included), blurred by a
    Gaussian of standard deviation sigma, cut at three of them, and set to 1 in the region. The value is one half at
    2 sigma and 0 beyond 5 sigma from a straight edge; growing first keeps the light around thin regions.

    Args:
        region: bool (H, W).

    Returns:
        float32 (H, W) in [0, 1]; 1 in the region, zeros for an empty one.
    """
    sigma = ATTENTION_SIGMA * (region.shape[0] + region.shape[1]) / 2
    grown = _grow(region, round(2 * sigma))
    blurred = ndimage.gaussian_filter(grown.astype(np.float32), sigma, mode="nearest", truncate=3)
    return np.where(region, np.float32(1), np.clip(blurred, 0, 1))


def _grow(region: np.ndarray, pixels: int) -> np.ndarray:
    return ndimage.maximum_filter(region, size=2 * pixels + 1, mode="constant", cval=False)


def _above_lip(parsing: np.ndarray) -> np.ndarray:
    """Return the skin between nose and upper lip, bool (H, W)."""
    found = np.zeros(parsing.shape, bool)
    nose_rows = np.flatnonzero((parsing == _NOSE).any(axis=1))
    lip_rows = np.flatnonzero((parsing == _UPPER_LIP).any(axis=1))
    if not nose_rows.size or not lip_rows.size:
        return found
    columns = np.flatnonzero(np.isin(parsing, _LIPS).any(axis=0))
    margin = (columns[-1] - columns[0] + 1) // 8
    rows = slice(nose_rows[-1], lip_rows[-1] + 1)
    span = slice(max(0, columns[0] - margin), columns[-1] + margin + 1)
    found[rows, span] = parsing[rows, span] == _SKIN
    return found
