"""Files damaged by chance, the same ones for the same seed: flipped bits, cut ends, changed heads, parts repeated."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

FORMATS = {
    "PNG": ({}, {"compress_level": 0}, {"optimize": True}),
    "JPEG": ({}, {"progressive": True}, {"quality": 5, "subsampling": 0}),
    "BMP": ({},),
    "WEBP": ({}, {"lossless": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"}),
}
MODES = ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK")
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
BRACKETS = ("[", "{", "{a=", "[[", "a.", '"', "'''", '"""', "\\u", "\\U0010FFFF", "\x00", "\ufeff", "\r", "é", "=", "#")
VALUES = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1" * 5000,
    "-0",
    "true",
    "1979-05-27",
    "07:32:00",
    "[]",
    "{}",
    '""',
    "0x" + "f" * 40,
)


def images(rng: random.Random) -> Iterator[bytes]:
    """Yield small images of every kind that can be read, as files."""
    pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    for mode in MODES:
        picture = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode)
        for name, variants in FORMATS.items():
            for how in variants:
                file = io.BytesIO()
                try:
                    picture.save(file, name, **how)
                except (OSError, ValueError):
                    continue  # the format has no such pixels
                yield file.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a file with one to four damages."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(made) or 1)
        match rng.randrange(8):
            case 0:
                made[place : place + 1] = bytes([made[place] ^ 1 << rng.randrange(8)]) if made else b"x"
            case 1:
                del made[place:]
            case 2:
                del made[place : place + rng.randint(1, 40)]
            case 3:
                made[place:place] = rng.randbytes(rng.randint(1, 40))
            case 4:  # a number of the head: sizes, counts and offsets are there
                width = rng.choice((1, 2, 4))
                place = rng.randrange(min(len(made), 64) or 1)
                value = rng.choice(NUMBERS) & (1 << 8 * width) - 1
                made[place : place + width] = value.to_bytes(width, rng.choice(("big", "little")))
            case 5:
                other = rng.randrange(len(made) or 1)
                made[place:place] = made[other : other + rng.randint(1, 200)]
            case 6:
                made[place : place + 4] = rng.randbytes(4)
            case 7:
                made[place : place + 1] = bytes([rng.choice((0, 255))])
    return bytes(made)


def damaged_text(text: str, rng: random.Random) -> bytes:
    """Return a TOML or JSON document with one to four damages, most of which leave it a document."""
    for _ in range(rng.randint(1, 4)):
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        place = rng.randrange(len(text) or 1)
        match rng.randrange(8):
            case 0:
                lines[line] = lines[line].partition("=")[0] + "= " + rng.choice(VALUES)
            case 1:
                lines.insert(line, rng.choice(lines))
            case 2:
                del lines[line]
            case 3:
                depth = rng.choice((1, 3, 50, 2000))
                lines[line] = lines[line].partition("=")[0] + "= " + rng.choice(BRACKETS) * depth
            case 4:
                text = text[:place] + rng.choice(BRACKETS) + text[place:]
                continue
            case 5:
                text = text[:place] + text[place + rng.randint(1, 30) :]
                continue
            case 6:
                lines[line] = rng.choice(("[", "[[")) + "a." * rng.choice((0, 3, 900)) + "b" + rng.choice(("]", "]]"))
            case 7:
                return damaged(text.encode(), rng)
        text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


def cases(seed: int, corpus: list[bytes], how: Callable[[bytes, random.Random], bytes], count: int) -> Iterator[bytes]:
    """Yield so many damaged files; the same seed gives the same ones."""
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        yield how(rng.choice(corpus), rng)
