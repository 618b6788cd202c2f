"""What gives a fake away besides its edit: upsampling peaks, missing sensor noise, a border frame; one number each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from flbench.scoring.metrics import auroc
from flbench.synthetic.measure import gray

RING, NEXT_RING = 2, 8
"""Width in pixels of the border frame and of the ring it is compared with."""

LEAST_POWER = 1e-3
"""Floor of powers in squared gray levels, so that a flat image has a finite level: -30 dB."""


class Bound(NamedTuple):
    """What a spectral peak must be.

    Attributes:
        point: Name of the frequency, a key of `SPECTRAL_POINTS`.
        least: The peak in dB that is to be reached, or None.
        most: The peak in dB that it is to stay below, or None.
    """

    point: str
    least: float | None = None
    most: float | None = None

    def holds(self, peaks: Mapping[str, float]) -> bool:
        """Tell whether the measured peaks keep to it."""
        peak = peaks[self.point]
        return (self.least is None or peak >= self.least) and (self.most is None or peak < self.most)

    def __str__(self) -> str:
        sign, level = ("≥", self.least) if self.least is not None else ("<", self.most)
        return f"{sign} {level:g} dB at ({self.point})"


FINGERPRINTS: Mapping[str, tuple[Bound, ...]] = {
    "tconv": (Bound("1/2,1/2", least=10),),
    "nearest": (Bound("1/2,0", least=5), Bound("1/2,1/2", most=4)),
    "nearest+blur": (Bound("1/2,1/2", most=4),),
}
"""Operator of upsampling -> what its spectrum must show: a transposed convolution a grid up to the corner, nearest
neighbour a peak on the axes and none in the corner, blurred or not. Nothing is asked of a transposed convolution with a
low-pass filter, which may leave some of the grid."""


def residual(image: np.ndarray) -> np.ndarray:
    """Return what a 3x3 median removes from the luma of an image uint8 (H, W, 3): float32 (H, W) in gray levels."""
    luma = gray(image.transpose(2, 0, 1))
    return luma - median_filter(luma, 3)


def mean_power(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean power spectrum of the residuals of images uint8 (S, S, 3): float64 (S, S), zero in the middle.

    By Parseval's theorem its mean is the mean squared residual.
    """
    power = np.mean([np.abs(np.fft.fft2(residual(image))) ** 2 for image in images], axis=0)
    return np.fft.fftshift(power) / power.size


def power_level(remainder: np.ndarray) -> float:
    """Return the mean square of a residual in dB of squared gray levels, at least -30."""
    return 10 * math.log10(max(float(np.square(remainder, dtype=np.float64).mean()), LEAST_POWER))


def frame_level(values: np.ndarray) -> float:
    """Return how much stronger the border is, in dB: mean of the outermost 2 pixels over that of the next 8.

    Args:
        values: Not negative, (H, W), both sides more than 20: squared residuals, or M on the scale of gray levels.
    """
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in values.shape)
    depth = np.minimum(rows[:, None], columns[None, :])
    border = float(values[depth < RING].mean(dtype=np.float64))
    inner = float(values[(depth >= RING) & (depth < RING + NEXT_RING)].mean(dtype=np.float64))
    return 10 * math.log10(max(border, LEAST_POWER) / max(inner, LEAST_POWER))


class Separation(NamedTuple):
    """How well one number tells fakes from photos.

    Attributes:
        photos: Its mean over photos.
        fakes: Its mean over fakes.
        auroc: Area under the ROC curve of the better of the two directions, .5 to 1; None without photos or fakes.
    """

    photos: float | None
    fakes: float | None
    auroc: float | None


def separation(photos: Sequence[float], fakes: Sequence[float]) -> Separation:
    """Measure how well one number, by a threshold in either direction, tells fakes from photos."""
    scores = np.array([*photos, *fakes], float)
    area = auroc(scores, np.arange(len(scores)) >= len(photos))
    return Separation(
        float(np.mean(photos)) if len(photos) else None,
        float(np.mean(fakes)) if len(fakes) else None,
        None if math.isnan(area) else max(area, 1 - area),
    )
