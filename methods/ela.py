"""Error level analysis: what one more JPEG compression changes, without any training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flbench.errors import UsageError
from flbench.locator import Locator, Prediction

from ._filters import check_positive, check_window, local_mean, saturate
from ._networks import choose

SUBSAMPLINGS = ("4:4:4", "4:2:0")


class ErrorLevels(Locator):
    """Training-free: how much each pixel changes when the image is compressed once more as JPEG.

    What was compressed before has settled and changes little; what was pasted or painted later changes more. With d
    the mean absolute change over the three channels and a window, the map is d / (d + half): one rule for every image.
    On images that were never JPEG, as the fakes and photos of the paper's data sets, the cue is texture alone.

    Where it departs from the paper: Krawetz looks at the difference with the eye, brightened by hand; here it is
    averaged over a window and brought to [0, 1] by a stated rule. The codec is Pillow's libjpeg, so the map is one of
    uint8 pixels: images are rounded to them first.

    Args:
        quality: JPEG quality of the compression, 1 to 100.
        subsampling: "4:4:4" or "4:2:0", of the chroma.
        window: Side in pixels of the square over which the change is averaged, odd.
        half: Mean change, in gray levels of 255, at which the map is 0.5.
    """

    title = "Error level analysis"
    paper = "Krawetz, A Picture's Worth: Digital Image Analysis and Forensics, Black Hat 2007"
    licence = "Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"quality": 95, "window": 1}}

    def __init__(self, *, quality: int = 90, subsampling: str = "4:2:0", window: int = 9, half: float = 4.0) -> None:
        if not 1 <= quality <= 100:
            raise UsageError(f"quality={quality} is no JPEG quality", hint="1 to 100")
        self.quality = quality
        self.subsampling = choose("subsampling", subsampling, SUBSAMPLINGS)
        self.window = check_window(window)
        self.half = check_positive("half", half) / 255

    def predict(self, images: Tensor) -> Prediction:
        """Return the map of changes; the image score is left to the protocol's rule."""
        changes = torch.stack([torch.from_numpy(self._change(image)) for image in images.cpu()]).to(images.device)
        return Prediction(saturate(local_mean(changes.unsqueeze(1), self.window), self.half)[:, 0])

    def _change(self, image: Tensor) -> np.ndarray:
        """Return the mean absolute change, float32 (H, W) in [0, 1], of an image (3, H, W) under one compression."""
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        again = np.asarray(Image.open(file), dtype=np.int16)
        return (np.abs(again - pixels).mean(axis=2) / 255).astype(np.float32)
