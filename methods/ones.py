"""The map that calls every pixel fake."""

from __future__ import annotations

import torch
from torch import Tensor

from flbench.locator import Prediction, Reference


class Ones(Reference):
    """Reference row: the all-one map, which calls every pixel of every image fake."""

    title = "Ones"
    licence = "Apache-2.0"
    reference = True

    def predict(self, images: Tensor) -> Prediction:
        """Return ones, float32 (B, H, W)."""
        return Prediction(torch.ones_like(images[:, 0], dtype=torch.float32))
