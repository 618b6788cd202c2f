"""Read the maps and scores that other programs wrote. Not a method: the name starts with `_`.

A map is a gray PNG of 8 bits (0 to 255) or 16 bits (0 to 65535), or an NPY array of floats in [0, 1]; 0 is real.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flbench.errors import MethodError

SUFFIXES = (".png", ".npy")
SCORES = "scores.csv"
MOST_PIXELS = 40_000_000
"""Largest allowed height times width, as for images: a file of a few bytes may claim any size."""

_SCALES = {"1": 1.0, "L": 255.0, "I;16": 65535.0, "I;16B": 65535.0}


def read_map(path: Path) -> Tensor:
    """Return a map as float32 (H, W) in [0, 1].

    Raises:
        ValueError: The file is damaged or holds something else; says what, without the path.
    """
    return as_map(read_levels(path), path.name)


def read_levels(path: Path) -> np.ndarray:
    """Return a map as its file has it: uint8 (H, W) of an 8-bit PNG, else floats that should be in [0, 1].

    Raises:
        ValueError: The file is damaged or holds something else; says what, without the path.
    """
    return _read_npy(path) if path.suffix.lower() == ".npy" else _read_png(path)


def as_map(array: np.ndarray, name: str) -> Tensor:
    """Return what `read_levels` read of a file of some name as float32 (H, W) in [0, 1].

    Raises:
        ValueError: It is no map; says what it is.
    """
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: an array of shape {array.shape}, expected (height, width)")
    if array.dtype == np.uint8:
        return torch.from_numpy(array / np.float32(255))
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinity")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"{name}: values in {array.min():.3g}..{array.max():.3g}, expected 0..1")
    return torch.from_numpy(array.astype(np.float32))


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, it takes no memory before its size is known
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path.name}: several arrays, expected one")
    _within_limit(array.size, path)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path.name}: an array of {array.dtype}, expected floats in [0, 1]")
    return np.array(array)


def _within_limit(pixels: int, path: Path) -> None:
    if pixels > MOST_PIXELS:
        raise ValueError(f"{path.name}: {pixels} pixels, at most {MOST_PIXELS} are read")


def _read_png(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, (width, height) = image.mode, image.size
            too_large = width * height > MOST_PIXELS
            array: np.ndarray = np.empty(0) if too_large else np.asarray(image, np.uint8 if mode == "L" else np.float32)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise ValueError(f"{path.name}: damaged ({type(error).__name__})") from error
    _within_limit(width * height, path)
    if mode not in _SCALES:
        raise ValueError(f"{path.name}: a PNG of mode {mode}, expected gray of 8 or 16 bits")
    return array if mode == "L" else array / np.float32(_SCALES[mode])


def read_scores(path: Path, key: str) -> dict[str, float] | None:
    """Return the scores of a CSV with the columns `key` and `score`, None if there is no such file.

    Raises:
        MethodError: A column is missing, or a score is no number in [0, 1]; names the line.
    """
    if not path.is_file():
        return None
    found: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            lacking = [name for name in (key, "score") if name not in (rows.fieldnames or ())]
            if lacking:
                raise MethodError(f"{path.name} has no column {lacking[0]!r}", hint=f"its first line: {key},score")
            for row in rows:
                found[row[key] or ""] = _score(row["score"], f"{path.name}, line {rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MethodError(f"{path.name} cannot be read: {error}") from error
    return found


def _score(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise MethodError(f"{where}: score {text!r} is no number in [0, 1]")
    return value


def scores_of(names: Iterable[str], known: Mapping[str, float] | None, reasons: dict[int, str]) -> Tensor | None:
    """Return the scores of a batch, None if none are known at all; a name without one is added to the reasons."""
    if known is None:
        return None
    scores = []
    for place, name in enumerate(names):
        if name not in known:
            reasons.setdefault(place, f"no score of {name} in {SCORES}")
        scores.append(known.get(name, 0.0))
    return torch.tensor(scores)
