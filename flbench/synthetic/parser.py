"""The parser that ships: a small network, trained on synthetic faces, that tells the parts of a face apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm import create_model
from torch import Tensor, nn

from flbench.data.fakeness import CLASSES
from flbench.data.images import resize
from flbench.data.parsers import nearest
from flbench.data.parsing_quality import good_regions
from flbench.errors import DataError
from flbench.files import file_digest
from flbench.synthetic.profiles import WEIGHTS
from flbench.synthetic.workers import steady

NAME = "parser"
"""Name of the weights' file and of its card."""

SIZE = 128
"""Side of what the network sees, in pixels."""

MIRRORED = tuple({4: 5, 5: 4, 6: 7, 7: 6, 8: 9, 9: 8}.get(number, number) for number in range(len(CLASSES)))
"""Class that each class becomes when the image is mirrored."""

_ENCODER = "tf_efficientnet_lite0"
_BATCH = 8
_FINEST = 512


class ParserNet(nn.Module):
    """EfficientNet-Lite0 and a light decoder: from the coarsest features to those of half the image's side.

    At every scale the features of the encoder, brought to `width` channels, are added to what comes from below, and
    two depthwise separable convolutions mix them. The class scores are brought to the image's side bilinearly.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        encoder: Any = create_model(_ENCODER, pretrained=False, features_only=True)
        channels: list[int] = encoder.feature_info.channels()
        self.encoder: nn.Module = encoder
        self.lateral = nn.ModuleList(nn.Conv2d(channel, width, 1) for channel in channels)
        self.mix = nn.ModuleList(nn.Sequential(*_separable(width), *_separable(width)) for _ in channels[1:])
        self.head = nn.Conv2d(width, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores (B, 19, H, W) of images (B, 3, H, W) in [0, 1]; H and W divisible by 32."""
        features = self.encoder(images * 2 - 1)
        levels = [lateral(level) for lateral, level in zip(self.lateral, features, strict=True)]
        x = levels.pop()
        for level, mix in zip(reversed(levels), self.mix, strict=True):
            x = mix(level + F.interpolate(x, size=level.shape[-2:], mode="bilinear", align_corners=False))
        return F.interpolate(self.head(x), size=images.shape[-2:], mode="bilinear", align_corners=False)


def _separable(width: int) -> tuple[nn.Module, ...]:
    """Return a depthwise and a pointwise convolution, normalised and rectified."""
    return (
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class SynthfacesParser:
    """Parse photos with the network trained on synthetic faces; offered where it was measured to be good enough.

    Args:
        folder: Where weights and card lie; the shipped ones if None.

    Raises:
        DataError: They are missing or damaged.
    """

    name = "synthfaces"

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or WEIGHTS
        path = folder / f"{NAME}.safetensors"
        self.card = read_card(folder)
        self.net = ParserNet()
        try:
            self.net.load_state_dict({name: value.float() for name, value in load_file(path).items()}, strict=False)
            self.digest = file_digest(path)
        except Exception as error:  # safetensors and torch raise whatever they meet
            raise DataError(f"{path} cannot be used: {error}", hint="reinstall flbench, or train it again") from error
        self.net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        measured = self.card["measured_on_real"]
        self.regions = good_regions(measured) if measured else frozenset()
        self.note = "a small network trained on synthetic faces alone"

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the maps uint8 (H, W) of images uint8 (H, W, 3); the network sees them at 128 x 128.

        The scores of an image and of its mirror image are averaged.
        """
        maps: list[np.ndarray] = []
        with steady(), torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                chosen = images[start : start + _BATCH]
                batch = torch.from_numpy(np.stack([resize(image, SIZE) for image in chosen]))
                shares = self._shares(batch.permute(0, 3, 1, 2).float() / 255)
                maps += [_classes(share, image.shape) for share, image in zip(shares, chosen, strict=True)]
        return maps

    def _shares(self, batch: Tensor) -> Tensor:
        """Return the probability of each class, (B, 19, S, S)."""
        batch = batch.contiguous(memory_format=torch.channels_last)
        mirrored = self.net(batch.flip(-1)).softmax(1).flip(-1)[:, list(MIRRORED)]
        return (self.net(batch).softmax(1) + mirrored) / 2


def _classes(share: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Return the likeliest class of each pixel of an image (H, W, 3), from probabilities (19, S, S).

    Probabilities are interpolated up to 512 pixels, which keeps edges smooth; a larger map repeats pixels.
    """
    height, width = shape[:2]
    shrink = min(1.0, _FINEST / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    fine = F.interpolate(share[None], size=size, mode="bilinear", align_corners=False)[0]
    return nearest(fine.argmax(0).to(torch.uint8).numpy(), (height, width))


def read_card(folder: Path) -> dict[str, Any]:
    """Return what the card beside the weights says.

    Raises:
        DataError: It is missing or damaged.
    """
    path = folder / f"{NAME}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="reinstall flbench, or train the parser") from error
