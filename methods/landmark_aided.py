"""Landmark-aided localization: a heat map of face parts joins the image before it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe, Training

from ._networks import (
    Fusion,
    Normalise,
    check_input_size,
    choose,
    pad,
    resize,
    size_of,
    steady_norms,
    timm_model,
)

LEAST = 32  # pixels: the deepest stage halves the image five times
PART_WIDTHS = (16, 32, 64)
"""Channels of the head that finds the face part, each at half the side of the one before."""


class LandmarkAided(NeuralLocator):
    """Two branches, detection and localization, on the image and a heat map of where the face parts are.

    Songsri-in and Zafeiriou give the network facial landmarks as input besides the image. flbench has no landmarks, and
    none may be handed in when predicting. What stands in for them is one heat map: the face attention map, the edited
    attribute's face parts blurred outward, which a small head learns to predict from the image. It is an
    approximation, and departs from the publication in this: it knows the parts that the training slice edits and no
    others, it is a region and not points, and it is learnt with the locator instead of by a landmark detector.

    The predicted heat map is the input both while fitting and when predicting, so that nothing differs between the
    two and a photo, whose own attention map is white, is not told by it. The head is taught by the fakes alone;
    no other loss reaches it, so that its output stays a map of face parts. A convolution that starts at zero adds the
    heat map to the normalised image: the backbone starts as it was pretrained.

    Loss: `map_weight` x mean |map - truth| + `score_weight` x cross-entropy of the detection + `part_weight` x
    cross-entropy of the heat map against the face attention map, over fakes. The default backbone is light; `paper` is
    Xception at 299 px, with the optimiser of `fakelocator:paper`: the published network's layers and optimiser
    are not reproduced.

    Args:
        backbone: Any timm model with feature maps.
        weights: "imagenet" or "none".
        download: Whether weights may be fetched over the network; those of tf_efficientnet_lite0 are installed.
        hidden: Channels in which the feature maps are merged for the map.
        map_weight: Weight of the map's loss.
        score_weight: Weight of the detection's loss.
        part_weight: Weight of the heat map's loss.
        input_size: Side in pixels that images are resized to for the network, and the map back; None: their own.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Landmark-aided localization"
    paper = "Songsri-in and Zafeiriou, Complement Face Forensic Detection and Localization, arXiv 1910.05455"
    licence = "Apache-2.0; ImageNet weights of tf_efficientnet_lite0: Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "backbone": "legacy_xception",
            "hidden": 128,
            "input_size": 299,
            "steps": None,
            "epochs": 10.0,
            "batch": 8,
            "lr": 1e-4,
            "beta1": 0.99,
            "weight_decay": 1e-7,
            "schedule": "constant",
            "flip": False,
        },
    }

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "imagenet",
        download: bool = False,
        hidden: int = 32,
        map_weight: float = 5.0,
        score_weight: float = 0.3,
        part_weight: float = 1.0,
        input_size: int | None = None,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        self.backbone = backbone
        self.weights = choose("weights", weights, ("imagenet", "none"))
        self.download = download
        self.hidden = hidden
        self.map_weight = map_weight
        self.score_weight = score_weight
        self.part_weight = part_weight
        self.input_size = check_input_size(input_size, least=LEAST)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network, its backbone filled with ImageNet weights if asked for and `pretrained` is true.

        Raises:
            MethodError: Unknown backbone, or weights that cannot be had.
        """
        weights = self.weights if pretrained else "none"
        backbone = timm_model(self.backbone, weights=weights, download=self.download, features_only=True)
        network = _Network(backbone, Normalise(self.backbone), hidden=self.hidden)
        return network.to(memory_format=torch.channels_last)

    def fit(self, training: Training) -> None:
        """Build the network and let the harness optimise it.

        Raises:
            MethodError: The training slice has no parsing map, so there is nothing to learn face parts from.
        """
        if not training.attention:
            raise MethodError(
                "landmark_aided learns face parts from parsing maps, the training slice has none",
                hint="add parsing maps to the data set; see flbench data",
            )
        super().fit(training)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of the losses of map, detection and heat map."""
        images, truth, attention = batch.images, batch.fakeness, batch.attention
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images, truth, attention = resize(images, size), resize(truth, size), resize(attention, size)
        maps, scores, parts = module(images)
        total = self.map_weight * (maps.float().sigmoid() - truth).abs().mean()
        total = total + self.score_weight * F.binary_cross_entropy_with_logits(scores.float(), batch.labels)
        fakes = batch.labels > 0.5
        if fakes.any():
            found = F.binary_cross_entropy_with_logits(parts[fakes].float(), attention[fakes])
            total = total + self.part_weight * found
        return total

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return maps of the images' own size and the probability of a fake."""
        size = size_of(images)
        own = size if self.input_size is None else (self.input_size, self.input_size)
        maps, scores, _ = module(resize(images, own))
        return Prediction(resize(maps.float().sigmoid(), size).clamp(0, 1), scores.float().sigmoid())


class _Network(nn.Module):
    """The head for face parts, and a backbone with two branches that sees its heat map.

    Args:
        backbone: timm's, with feature maps.
        normalise: What the backbone expects.
        hidden: See `LandmarkAided`.
    """

    def __init__(self, backbone: Any, normalise: nn.Module, *, hidden: int) -> None:
        super().__init__()
        channels = backbone.feature_info.channels()
        self.normalise = normalise
        self.parts = _parts()
        self.join = nn.Conv2d(1, 3, 3, padding=1)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)  # type: ignore[arg-type]
        self.backbone = backbone
        self.locate = Fusion(channels, hidden=hidden)
        self.detect = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels[-1], 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the map (B, H, W), of the score (B,) and of the heat map (B, H, W).

        Args:
            images: (B, 3, H, W) in [0, 1], of any size; padded for the network and cropped back.
        """
        height, width = size_of(images)
        with steady_norms(self, images):
            padded = pad(self.normalise(images), multiple=LEAST, least=LEAST)
            whole = size_of(padded)
            parts = resize(self.parts(padded), whole)
            heat = parts.detach().sigmoid()
            features = self.backbone(padded + self.join(heat))
            maps = resize(self.locate(features), whole)
            scores = self.detect(features[-1].mean(dim=(2, 3))).squeeze(1)
        return maps[:, :height, :width], scores, parts[:, 0, :height, :width]


def _parts() -> nn.Sequential:
    """Return the head that gives one logit of a face part per 8 x 8 pixels; its last layers see a wide context."""
    layers: list[nn.Module] = []
    before = 3
    for width in PART_WIDTHS:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    for dilation in (2, 4):
        layers += [nn.Conv2d(before, before, 3, padding=dilation, dilation=dilation, bias=False)]
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 1))
