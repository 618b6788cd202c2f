"""What the methods without training share: gray images, local means, one rule that brings a residual to [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flbench.errors import UsageError

LUMA = (0.299, 0.587, 0.114)


def gray(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of images (B, 3, H, W): 0.299 R + 0.587 G + 0.114 B."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def local_mean(planes: Tensor, window: int) -> Tensor:
    """Return the mean of (B, C, H, W) over `window` x `window` pixels around each, edge pixels repeated outwards."""
    if window == 1:
        return planes
    side = window // 2
    padded = F.pad(planes, (side, side, side, side), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, window), stride=1), (window, 1), stride=1)


def saturate(values: Tensor, half: float) -> Tensor:
    """Bring values of at least 0 to [0, 1): values / (values + half), so `half` goes to 0.5 in every image alike."""
    return values / (values + half)


def check_window(window: int) -> int:
    """Return the side of a window in pixels.

    Raises:
        UsageError: It is not odd and at least 1, so it has no middle.
    """
    if window < 1 or window % 2 == 0:
        raise UsageError(f"window={window} has no middle pixel", hint="an odd number, such as 9; 1 for no smoothing")
    return window


def check_positive(option: str, value: float) -> float:
    """Return the value of an option that must be above zero.

    Raises:
        UsageError: It is not.
    """
    if not value > 0:
        raise UsageError(f"{option}={value} must be above 0")
    return value
