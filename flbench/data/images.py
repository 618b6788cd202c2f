"""Decode images, parsing maps and masks by one rule, and bring them to a protocol's size.

The rule for photos and fakes, all of which become uint8 RGB:

* PNG, JPEG, WebP, BMP and TIFF are decoded in full, whatever the file is called; anything else is refused, and so is a
  file that ends early.
* Gray is repeated. 16-bit channels keep their high byte. Palettes are looked up. CMYK and YCbCr are converted by
  Pillow's formula. Float, 32-bit integer and CIELAB pixels are refused.
* Transparency is laid over white, so what no viewer shows does not count.
* Of several frames the first counts.
* Colour profiles are ignored.
* The EXIF orientation is not applied: pixels count as they are stored, because masks and parsing maps are stored beside
  them. The check of a data set names images that carry one. (TIFF's own orientation tag is part of its pixels.)
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from flbench.errors import DataError, UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 40_000_000
"""Height times width of an image, at most, unless the user says otherwise."""

LIMIT_VARIABLE = "FLBENCH_MAX_PIXELS"
"""Environment variable by which `--max-pixels` reaches the processes of a command."""

_ORIENTATION = 0x0112

# Pillow warns of images over its own limit, where `max_pixels` is ours, and of damaged metadata, which are ignored.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(path: Path, *, max_pixels: int | None = None) -> np.ndarray:
    """Decode a photo or a fake by the rule of this module.

    Args:
        path: The file.
        max_pixels: Largest allowed height times width; None: `pixel_limit()`. Pillow's own limit, about 179 million,
            holds in any case.

    Returns:
        uint8 (H, W, 3), writable.

    Raises:
        DataError: The file is missing, empty, truncated, damaged, too large, or no image; names file and reason.
    """
    return np.array(_to_rgb(_decode(path, max_pixels), path))


def read_gray(path: Path, *, max_pixels: int | None = None) -> np.ndarray:
    """Decode a stored mask: gray pixels as they are (1 bit as 0 and 255), colour through Gray of the RGB rule.

    Args:
        path: The file.
        max_pixels: Largest allowed height times width; None: `pixel_limit()`.

    Returns:
        uint8 (H, W), writable.

    Raises:
        DataError: As for `read_image`.
    """
    image = _decode(path, max_pixels)
    if image.mode not in ("L", "1"):
        image = _to_rgb(image, path)
    return np.array(image.convert("L"))


def read_parsing(path: Path, *, max_pixels: int | None = None) -> np.ndarray:
    """Decode a parsing map: the palette index or gray value of a pixel is its class; colours are never looked at.

    Args:
        path: The file.
        max_pixels: Largest allowed height times width; None: `pixel_limit()`.

    Returns:
        uint8 (H, W), writable.

    Raises:
        DataError: As for `read_image`, or the map is neither a palette nor an 8-bit gray image.
    """
    image = _decode(path, max_pixels)
    if image.mode not in ("P", "L"):
        hint = "store class numbers as palette or 8-bit gray PNG"
        raise DataError(f"{path.name}: a parsing map of mode {image.mode}", hint=hint)
    return np.array(image)


def pixel_limit() -> int:
    """Return the largest height times width that the user allows: that of `--max-pixels`, or `MAX_PIXELS`.

    Raises:
        UsageError: The environment variable holds no whole number of 1 or more.
    """
    said = os.environ.get(LIMIT_VARIABLE) or str(MAX_PIXELS)
    with suppress(ValueError):  # of 5,000 digits too
        if (limit := int(said)) >= 1:
            return limit
    raise UsageError(
        f"{LIMIT_VARIABLE} is {said[:40]!r}, no number of pixels",
        hint=f"a whole number, height times width, such as {MAX_PIXELS}; or leave it unset",
    )


def conversion(path: Path) -> str:
    """Return in a word or two what `read_image` does to the pixels of a file beyond decoding it, "" for nothing.

    Only the header is read, so this costs nothing beside decoding; a file that is no image is not converted.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                return "several frames"
            if image.has_transparency_data:
                return "transparency"
            kinds = {"1": "black and white", "L": "gray", "P": "palette", "RGB": ""}
            return "16 bits" if image.mode.startswith("I;16") else kinds.get(image.mode, image.mode)
    except Exception:  # whoever decodes it says what is wrong
        return ""


def shape_of(path: Path) -> tuple[int, int]:
    """Return height and width of what `read_image` gives, from the header alone where that tells.

    Raises:
        DataError: The file is missing or no image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format != "TIFF":  # Pillow turns one upright when it decodes it
                return image.height, image.width
    except Exception:  # decoding it says what is wrong
        pass
    height, width = read_image(path).shape[:2]
    return height, width


def orientation(path: Path) -> int:
    """Return the EXIF orientation of an image that `read_image` can read, 1 (upright) if there is none."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "TIFF":
                return 1
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is ignored, and parsers of it raise whatever they meet
        return 1


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bring an image to a square by Pillow's antialiased bilinear filter; the aspect ratio is not kept.

    Args:
        image: uint8 (H, W, 3).
        size: Height and width in pixels.

    Returns:
        uint8 (size, size, 3); the same array if it has that size already.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resize_classes(classes: np.ndarray, size: int) -> np.ndarray:
    """Bring a parsing map to a square by the nearest pixel, so that no class is made up.

    Args:
        classes: uint8 (H, W).
        size: Height and width in pixels.

    Returns:
        uint8 (size, size); the same array if it has that size already.
    """
    if classes.shape == (size, size):
        return classes
    return np.array(Image.fromarray(classes).resize((size, size), Image.Resampling.NEAREST))


def _decode(path: Path, max_pixels: int | None) -> Image.Image:
    """Open and fully decode the first frame, with every way to fail turned into one kind of error."""
    most = pixel_limit() if max_pixels is None else max_pixels
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path.name}: 0 bytes")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > most:
                raise DataError(
                    f"{path.name}: too_large, {width}x{height} is over {most} pixels", hint="--max-pixels allows more"
                )
            image.load()
            return image.copy()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: missing") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path.name}: not an image ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path.name}: too_large, {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = "truncated" if "truncated" in reason.lower() else "damaged"
        raise DataError(f"{path.name}: {what} ({reason.replace(str(path), path.name)})") from error


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise DataError(f"{path.name}: pixels of mode {image.mode} have no 8-bit meaning", hint="store it as 8-bit RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
