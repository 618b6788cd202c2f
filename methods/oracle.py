"""The map that is the ground truth."""

from __future__ import annotations

from torch import Tensor

from flbench.errors import MethodError
from flbench.locator import Prediction, Reference


class Oracle(Reference):
    """Reference row: the ground truth itself, the best any method could score."""

    title = "Oracle"
    licence = "Apache-2.0"
    reference = True

    def predict(self, images: Tensor) -> Prediction:
        """Refuse: without the ground truth there is nothing to say.

        Raises:
            MethodError: Always.
        """
        raise MethodError(
            "oracle knows nothing but the ground truth, which was not shown to it", hint="a benchmark run shows it"
        )

    def predict_knowing(self, images: Tensor, truth: Tensor) -> Prediction:
        """Return the truth (B, H, W), and score 1 for an image of which any pixel is fake, 0 for the others."""
        return Prediction(truth.float(), (truth.flatten(1) > 0).any(dim=1).float())
