"""A training-free method in a distribution of its own: where is the sensor noise missing?"""

import torch.nn.functional as F
from torch import Tensor

from flbench.locator import Locator, Prediction


class Residual(Locator):
    """Marks pixels whose surroundings carry little high-pass residual: generators rarely reproduce sensor noise.

    The residual is the image minus its 3 x 3 mean; its energy is averaged over a window and mapped to fakeness
    1 / (1 + energy / scale), so that a surface without any noise is 1.

    Args:
        window: Side in pixels, odd, over which energy is averaged.
        scale: Energy of the residual, in squared gray levels of [0, 1], that gives a fakeness of one half.
    """

    title = "Missing residual"
    paper = "an example, not a published method"
    licence = "Apache-2.0"

    def __init__(self, *, window: int = 15, scale: float = 1e-4) -> None:
        self.window = window
        self.scale = scale

    def predict(self, images: Tensor) -> Prediction:
        """Return one minus the normalised local energy of the residual, averaged over the colours."""
        residual = images - _mean(images, 3)
        energy = _mean(residual.square(), self.window).mean(dim=1)
        return Prediction(1 / (1 + energy / self.scale))


def _mean(images: Tensor, window: int) -> Tensor:
    """Return the mean over a square window, edges repeated."""
    side = window // 2
    padded = F.pad(images, (side, side, side, side), mode="replicate")
    return F.avg_pool2d(padded, window, stride=1)
