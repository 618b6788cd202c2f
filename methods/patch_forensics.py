"""Patch forensics: a truncated classifier whose patches each say real or fake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import UsageError
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe

from ._networks import (
    Normalise,
    check_input_size,
    choose,
    pad,
    resize,
    size_of,
    steady_norms,
    timm_model,
)

BACKBONES = {"tf_efficientnet_lite0": 7, "legacy_xception": 12, "resnet18": 4}
"""Backbones of timm, and the number of blocks that there are to keep."""

AVERAGES = ("probabilities", "logits")
LEAST = 32  # pixels: Xception's unpadded stem needs some


class PatchForensics(NeuralLocator):
    """Weak baseline: a truncated classifier; every patch is told real or fake, and the scores of patches are the map.

    The first blocks of a classifier see a small patch only. A 1 x 1 convolution gives a logit per patch, each fitted to
    the label of the whole image; the image score is the mean over its patches, the map their probabilities, enlarged
    bilinearly. Padding within the network shifts a patch's middle by up to four pixels, which is not undone.

    The default keeps two blocks of the network that `fakelocator` starts from: a patch has 19 px, a stride of 4, and at
    128 px a patch is the same share of the image as in `paper`: Xception after block 2 at 299 px, from random weights,
    patches of 43 px, a stride of 8, a map of 37 x 37.

    Where it departs from the paper: two classes are one logit, which is the same; states are judged by the loss on the
    valid slice rather than by the accuracy of patches; images are resized to 299 px without cropping; random weights
    are timm's (Kaiming) where the authors' code draws Xavier's. The paper's fakes are wholly synthetic or have a face
    swapped: where a small attribute was edited, most patches of a fake are labelled wrong.

    Loss: cross-entropy of every patch with its image's label, mean over patches.

    Args:
        backbone: "tf_efficientnet_lite0", "legacy_xception" or "resnet18", of timm.
        blocks: How many blocks are kept after the stem.
        weights: "imagenet" or "none".
        download: Whether weights may be fetched over the network; those of tf_efficientnet_lite0 are installed.
        average: What is averaged over patches for the image score: "probabilities", as in the paper, or "logits".
        input_size: Side in pixels that images are resized to for the network; None: their own.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Patch forensics"
    paper = "Chai et al., What Makes Fake Images Detectable?, arXiv 2008.10588"
    licence = "Apache-2.0; ImageNet weights of tf_efficientnet_lite0: Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "backbone": "legacy_xception",
            "weights": "none",
            "input_size": 299,
            "steps": None,
            "epochs": 1000.0,
            "batch": 32,
            "schedule": "constant",
            "checks": 1000,
            "patience": 20,
        },
        "logits": {"average": "logits"},
    }

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        blocks: int = 2,
        weights: str = "imagenet",
        download: bool = False,
        average: str = "probabilities",
        input_size: int | None = None,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        self.backbone = choose("backbone", backbone, tuple(BACKBONES))
        if not 1 <= blocks <= BACKBONES[backbone]:
            raise UsageError(f"blocks={blocks} of {backbone} cannot be kept", hint=f"1 to {BACKBONES[backbone]}")
        self.blocks = blocks
        self.weights = choose("weights", weights, ("imagenet", "none"))
        self.download = download
        self.average = choose("average", average, AVERAGES)
        self.input_size = check_input_size(input_size, least=LEAST)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the truncated network, filled with ImageNet weights if asked for and `pretrained` is true.

        Raises:
            MethodError: The weights cannot be had.
        """
        weights = self.weights if pretrained else "none"
        whole = timm_model(self.backbone, weights=weights, download=self.download, num_classes=0)
        first = _first(whole, self.blocks)
        return _Patches(first, Normalise(self.backbone)).to(memory_format=torch.channels_last)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of all patches with their images' labels."""
        logits = module(self._resized(batch.images)).float()
        return F.binary_cross_entropy_with_logits(logits, batch.labels.view(-1, 1, 1).expand_as(logits))

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return the patches' probabilities enlarged to the images' size, and their mean."""
        height, width = size_of(images)
        logits = module(self._resized(images)).float()
        patches = logits.sigmoid()
        mean = patches.mean(dim=(1, 2)) if self.average == "probabilities" else logits.mean(dim=(1, 2)).sigmoid()
        # The patches span the padded image, of which the image is the upper left part.
        spanned = (max(height, LEAST), max(width, LEAST)) if self.input_size is None else (height, width)
        return Prediction(resize(patches, spanned)[:, :height, :width].clamp(0, 1), mean)

    def _resized(self, images: Tensor) -> Tensor:
        return images if self.input_size is None else resize(images, (self.input_size, self.input_size))


class _Patches(nn.Module):
    """The first layers of a classifier, and a logit for each place of their feature maps.

    Args:
        first: The layers.
        normalise: What they expect.
    """

    def __init__(self, first: nn.Sequential, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.first = first
        self.patch = nn.Conv2d(_channels(first), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, h, w) of the patches of images (B, 3, H, W) in [0, 1]."""
        with steady_norms(self, images):
            return self.patch(self.first(pad(self.normalise(images), least=LEAST))).squeeze(1)


def _first(whole: nn.Module, blocks: int) -> nn.Sequential:
    """Return stem and first blocks of one of the backbones."""
    parts: dict[str, Any] = dict(whole.named_children())
    if "blocks" in parts:
        return nn.Sequential(parts["conv_stem"], parts["bn1"], *list(parts["blocks"])[:blocks])
    last = f"layer{blocks}" if "layer1" in parts else f"block{blocks}"
    names = list(parts)
    return nn.Sequential(*(parts[name] for name in names[: names.index(last) + 1]))


@torch.no_grad()
def _channels(first: nn.Module) -> int:
    """Return the number of channels that the layers give."""
    first.eval()
    channels = first(torch.zeros(1, 3, LEAST, LEAST)).shape[1]
    first.train()
    return int(channels)
