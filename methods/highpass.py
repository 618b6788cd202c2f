"""High-pass residual energy: what a small filter removes from the image, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flbench.locator import Locator, Prediction

from ._filters import check_positive, check_window, local_mean, saturate
from ._networks import choose

RESIDUALS = ("median", "laplacian")
SENSES = ("rough", "smooth")


class HighPass(Locator):
    """Training-free: local energy of what a 3 x 3 high-pass filter leaves of the image, brought to [0, 1].

    A camera leaves noise of much the same strength everywhere; a generator smooths it away, or adds a texture of its
    own. With E the mean square of the residual over the three channels and a window, the map is r / (r + half) where
    r = sqrt(E): one rule for every image, so a photo is not stretched until something in it is white.

    Where it departs from the paper: Mahdian and Saic estimate the deviation of the noise block by block, as the median
    absolute value of the finest diagonal wavelet band, and merge blocks of like noise into regions; here it is the root
    mean square of a 3 x 3 residual in a sliding window, and the map is gray. Which regions are the forged ones they
    leave to the eye, since a forgery may be smoother or rougher than its surroundings: here `sense` states it.

    Args:
        residual: "median": image minus its 3 x 3 median. "laplacian": image filtered by the 3 x 3 Laplacian
            [0 -1 0; -1 4 -1; 0 -1 0] / 4. Edge pixels are repeated outwards.
        sense: Which is called fake, "rough" or "smooth"; the map of one is 1 minus that of the other.
        window: Side in pixels of the square over which the energy is averaged, odd.
        half: Root mean square of the residual, in gray levels of 255, at which the map is 0.5.
    """

    title = "High-pass residual"
    paper = (
        "Mahdian and Saic, Using noise inconsistencies for blind image forensics, Image and Vision Computing 27, 2009"
    )
    licence = "Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smooth": {"sense": "smooth"},
        "laplacian": {"residual": "laplacian"},
    }

    def __init__(self, *, residual: str = "median", sense: str = "rough", window: int = 9, half: float = 4.0) -> None:
        self.residual = choose("residual", residual, RESIDUALS)
        self.sense = choose("sense", sense, SENSES)
        self.window = check_window(window)
        self.half = check_positive("half", half) / 255

    def predict(self, images: Tensor) -> Prediction:
        """Return the map of local residual energy; the image score is left to the protocol's rule."""
        residual = images - median3(images) if self.residual == "median" else laplacian3(images)
        energy = local_mean(residual.square().mean(dim=1, keepdim=True), self.window)
        fakeness = saturate(energy.clamp_min(0).sqrt(), self.half)[:, 0]
        return Prediction(fakeness if self.sense == "rough" else 1 - fakeness)


def median3(images: Tensor) -> Tensor:
    """Return the 3 x 3 median of every channel of (B, C, H, W), edge pixels repeated outwards.

    Each column of three is sorted once; the median of nine is that of the largest low, the middle middle and the
    smallest high. This is exact, and seven times as fast as `torch.median` of nine values on a CPU.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    low, middle, high = _sorted3(padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :])
    lows = _sorted3(*_neighbours(low))[2]
    middles = _sorted3(*_neighbours(middle))[1]
    highs = _sorted3(*_neighbours(high))[0]
    return _sorted3(lows, middles, highs)[1]


def _neighbours(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return left neighbours, pixels and right neighbours of padded planes."""
    return planes[..., :-2], planes[..., 1:-1], planes[..., 2:]


def _sorted3(one: Tensor, two: Tensor, three: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three tensors sorted element by element."""
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    low, middle = torch.minimum(low, three), torch.maximum(low, three)
    return low, torch.minimum(middle, high), torch.maximum(middle, high)


def laplacian3(images: Tensor) -> Tensor:
    """Return every channel of (B, C, H, W) minus the mean of its four neighbours, edge pixels repeated outwards."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    above, below = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    return images - (above + below + left + right) / 4
