"""The map that calls every pixel real."""

from __future__ import annotations

import torch
from torch import Tensor

from flbench.locator import Prediction, Reference


class Zeros(Reference):
    """Reference row: the all-zero map, which calls every pixel of every image real."""

    title = "Zeros"
    licence = "Apache-2.0"
    reference = True

    def predict(self, images: Tensor) -> Prediction:
        """Return zeros, float32 (B, H, W)."""
        return Prediction(torch.zeros_like(images[:, 0], dtype=torch.float32))
