"""What a generator does, in numbers: error, strength of its edits inside and outside the region, spectral traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, median_filter
from torch import Tensor, nn

from flbench.synthetic.faces import ATTRIBUTES, EDITS
from flbench.synthetic.pairs import Faces

SPECTRAL_POINTS: Mapping[str, tuple[float, float]] = {
    "1/2,0": (0.5, 0.0),
    "1/2,1/2": (0.5, 0.5),
    "1/4,0": (0.25, 0.0),
    "1/4,1/4": (0.25, 0.25),
    "1/2,1/4": (0.5, 0.25),
    "1/8,1/8": (0.125, 0.125),
}
"""Frequencies, in cycles per pixel, where upsampling by two leaves peaks."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def gray(images: np.ndarray) -> np.ndarray:
    """Return .299 R + .587 G + .114 B of images (..., 3, H, W) as float32 (..., H, W)."""
    return np.tensordot(images.astype(np.float32), _LUMA, axes=([-3], [0]))


def spectral_peaks(images: np.ndarray) -> dict[str, float]:
    """Measure periodic traces: how far, in dB, the spectrum stands out at each of `SPECTRAL_POINTS`.

    The spectrum is the mean power of what a 3x3 median removes from the luma; a point is compared with the median of
    the 11x11 frequencies around it. Points on an axis are averaged over both axes.

    Args:
        images: uint8 or float (N, 3, H, W), H = W, in [0, 255].
    """
    luma = gray(images)
    residual = luma - np.stack([median_filter(image, 3) for image in luma])
    power = (np.abs(np.fft.fft2(residual)) ** 2).mean(0)
    side = power.shape[0]
    peaks = {}
    for name, (first, second) in SPECTRAL_POINTS.items():
        levels = []
        for fy, fx in {(first, second), (second, first), (first, -second), (second, -first)}:
            row, column = round(fy * side), round(fx * side)
            around = power[np.ix_(*(np.arange(at - 5, at + 6) % side for at in (row, column)))]
            levels.append(10 * np.log10(power[row % side, column % side] / np.median(around)))
        peaks[name] = round(float(np.mean(levels)), 1)
    return peaks


@torch.no_grad()
def apply(generator: nn.Module, images: Tensor, differences: Tensor) -> Tensor:
    """Edit photos: uint8 (B, 3, H, W) and differences float32 (B, 10) -> uint8 (B, 3, H, W)."""
    output = generator(images.float().mul_(1 / 127.5).sub_(1), differences)
    return output.float().clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def measure_generator(generator: nn.Module, faces: Faces, people: range, edits: Sequence[str]) -> dict[str, Any]:
    """Measure a generator on people it was not trained on.

    Args:
        generator: In evaluation mode.
        faces: Photos of the people and of their flips.
        people: Whom to measure on.
        edits: Keys of `EDITS`; asked of people who lack what the edit makes.

    Returns:
        `held_out_l1`: mean absolute error against the ideal edit, 0-255; `edits`: for every edit the mean of M (the
        gray difference to the photo, 0-1) `inside` and `outside` the region where the ideal edit differs by more than
        .06 (dilated by a pixel), their `ratio`, the region's `share` of M's mass, its `area` and the number `n` of
        people; `reconstruction`: the mean of M without an edit; `fingerprint` and `fingerprint_photos`: spectral
        peaks in dB of the fakes, reconstructions included, and of the photos.
    """
    chosen_people = slice(people.start, people.stop)
    photos, before = faces.images[chosen_people, 0], faces.attributes[chosen_people, 0]
    measured: dict[str, Any] = {}
    plain = _apply_all(generator, photos, np.zeros((len(photos), len(ATTRIBUTES)), np.float32))
    errors, made = [], [plain]
    for edit in edits:
        attribute = ATTRIBUTES.index(EDITS[edit])
        after = faces.attributes[chosen_people, 1 + attribute]
        chosen = (after[:, attribute] > before[:, attribute]) != (edit == "age")
        if not chosen.any():
            continue
        ideal = faces.images[chosen_people, 1 + attribute][chosen]
        difference = (after - before)[chosen]
        fakes = _apply_all(generator, photos[chosen], difference)
        errors.append(np.abs(fakes.astype(np.float32) - ideal).mean())
        made.append(fakes)
        measured[edit] = _strength(photos[chosen], ideal, fakes)
    difference = np.abs(plain.astype(np.float32) - photos) / 255
    return {
        "held_out_l1": round(float(np.mean(errors)), 2),
        "edits": measured,
        "reconstruction": round(float(gray(difference).mean()), 4),
        "fingerprint": spectral_peaks(np.concatenate(made)),
        "fingerprint_photos": spectral_peaks(photos),
    }


def _apply_all(generator: nn.Module, photos: np.ndarray, differences: np.ndarray) -> np.ndarray:
    chunks = [
        apply(
            generator,
            torch.from_numpy(photos[start : start + 8].copy()),
            torch.from_numpy(differences[start : start + 8]),
        )
        for start in range(0, len(photos), 8)
    ]
    return torch.cat(chunks).numpy()


def _strength(photos: np.ndarray, ideal: np.ndarray, fakes: np.ndarray) -> dict[str, float]:
    """Compare M inside and outside the region of the ideal edit, all images together."""
    wanted = gray(np.abs(ideal.astype(np.float32) - photos)) / 255 > 0.06
    region = np.stack([binary_dilation(mask) for mask in wanted])
    fakeness = gray(np.abs(fakes.astype(np.float32) - photos)) / 255
    inside, outside = float(fakeness[region].mean()), float(fakeness[~region].mean())
    return {
        "n": len(photos),
        "area": round(float(region.mean()), 4),
        "inside": round(inside, 4),
        "outside": round(outside, 4),
        "ratio": round(inside / outside, 2),
        "share": round(float(fakeness[region].sum() / fakeness.sum()), 3),
    }
