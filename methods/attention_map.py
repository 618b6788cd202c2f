"""The attention-map baseline: a classifier that multiplies its features with a coarse, supervised map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe, Training

from ._networks import (
    Normalise,
    check_input_size,
    choose,
    clamp_straight,
    pad,
    resize,
    size_of,
    steady_norms,
    timm_model,
)

BACKBONES = ("tf_efficientnet_lite0", "legacy_xception", "vgg16")
ATTENTIONS = ("regression", "template")
SUPERVISIONS = ("map", "label")
PEAK = 0.75
ENLARGEMENTS = ("bilinear", "nearest")
LEAST = 32  # pixels: Xception's unpadded stem needs some
TEMPLATES = 10
GRID = 19


class AttentionMap(NeuralLocator):
    """Baseline: a classifier whose features are multiplied with a coarse attention map, supervised and then enlarged.

    After Dang, Stehouwer et al.: in the middle of a classifier the feature maps give a map of about 1/16 of the image's
    side, which is compared with the shrunk ground truth and multiplied with every channel before the classifier goes
    on. FakeLocator's authors enlarged that map and binarised it; they do not say how, so here the ground truth is
    binarised too: a map that learns gray values near 0.2 would never reach one half. `gray` leaves both gray.

    The default starts from the same network and ImageNet weights as the default of `fakelocator`, cut after the
    stage of stride 16 (8 x 8 at 128 px). `paper` is Xception, cut after block 7 (19 x 19 at 299 px), with the optimiser
    of `fakelocator:paper`, since FakeLocator's authors name none for the baseline. `vgg16` is the other backbone of
    Dang et al., cut after its third pooling (28 x 28 at 224 px), its features averaged where VGG has two wide layers.

    Loss: `map_weight` x the map's loss + cross-entropy of the classifier. With `supervision` by the "map" that is mean
    |map - shrunk truth|; by the "label", which Dang et al. call weak, it is the mean of the map for a real image, and
    |maximum of the map - 0.75| for a fake: one bright spot is enough, so the map hardly says where.

    Args:
        backbone: "tf_efficientnet_lite0", "legacy_xception" or "vgg16", of timm.
        weights: "imagenet" or "none".
        download: Whether weights may be fetched over the network; those of tf_efficientnet_lite0 are installed.
        attention: "regression": a separable convolution and a sigmoid. "template": a weighted sum of the mean map
            of the training fakes and their first ten principal maps, weights regressed from the image, clamped to
            [0, 1].
        supervision: "map": by the ground truth. "label": by whether the image is a fake.
        binarise: Whether the map is 0 or 1, in the ground truth while fitting as in the prediction.
        truth_threshold: Ground truth at or above is 1, when `binarise`.
        map_threshold: Enlarged map at or above is 1, when `binarise`.
        enlarge: "bilinear" or "nearest", from the coarse map to the image's size.
        map_weight: Weight of the map's loss.
        input_size: Side in pixels that images are resized to for the network; None: their own.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Attention map"
    paper = "Dang et al., On the Detection of Digital Face Manipulation, arXiv 1910.01717"
    licence = "Apache-2.0; ImageNet weights of tf_efficientnet_lite0: Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "backbone": "legacy_xception",
            "input_size": 299,
            "steps": None,
            "epochs": 10.0,
            "batch": 8,
            "lr": 1e-4,
            "beta1": 0.99,
            "beta2": 0.999,
            "weight_decay": 1e-7,
            "schedule": "constant",
            "flip": False,
        },
        "vgg16": {
            "backbone": "vgg16",
            "input_size": 224,
            "steps": None,
            "epochs": 10.0,
            "batch": 8,
            "lr": 1e-4,
            "beta1": 0.99,
            "beta2": 0.999,
            "weight_decay": 1e-7,
            "schedule": "constant",
            "flip": False,
        },
        "gray": {"binarise": False},
        "template": {"attention": "template"},
        "weak": {"supervision": "label"},
    }

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "imagenet",
        download: bool = False,
        attention: str = "regression",
        supervision: str = "map",
        binarise: bool = True,
        truth_threshold: float = 0.1,
        map_threshold: float = 0.5,
        enlarge: str = "bilinear",
        map_weight: float = 1.0,
        input_size: int | None = None,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        self.backbone = choose("backbone", backbone, BACKBONES)
        self.weights = choose("weights", weights, ("imagenet", "none"))
        self.download = download
        self.attention = choose("attention", attention, ATTENTIONS)
        self.supervision = choose("supervision", supervision, SUPERVISIONS)
        self.binarise = binarise
        self.truth_threshold = truth_threshold
        self.map_threshold = map_threshold
        self.enlarge = choose("enlarge", enlarge, ENLARGEMENTS)
        self.map_weight = map_weight
        self.input_size = check_input_size(input_size, least=LEAST)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network, its backbone filled with ImageNet weights if asked for and `pretrained` is true.

        Raises:
            MethodError: The weights cannot be had.
        """
        weights = self.weights if pretrained else "none"
        backbone = timm_model(self.backbone, weights=weights, download=self.download, num_classes=0)
        network = _Network(backbone, Normalise(self.backbone), attention=self.attention)
        return network.to(memory_format=torch.channels_last)

    def fit(self, training: Training) -> None:
        """Build the network, take the templates from the training slice if there are any, and let it be optimised."""
        module = cast(_Network, self.build(pretrained=True)).to(training.device)
        self.module = module
        if isinstance(module.attention, _Templates):
            maps = [resize(self._target(b.fakeness[b.labels > 0.5]), (GRID, GRID)) for b in training.batches()]
            module.attention.take(torch.cat(maps))
        training.optimise(module, self.loss, self.recipe)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted loss of the coarse map plus the cross-entropy of the classifier."""
        images, truth = batch.images, self._target(batch.fakeness)
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images, truth = resize(images, size), resize(truth, size)
        maps, logits = module(images)
        head = F.binary_cross_entropy_with_logits(logits.float(), batch.labels)
        if self.supervision == "label":
            return self.map_weight * peak_loss(maps.float(), batch.labels) + head
        shrunk = resize(pad(truth.unsqueeze(1), least=LEAST).squeeze(1), size_of(maps))
        return self.map_weight * (maps.float() - shrunk).abs().mean() + head

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return the map enlarged to the images' size, binarised if the options say so, and the fake's probability."""
        height, width = images.shape[-2:]
        own = (height, width) if self.input_size is None else (self.input_size, self.input_size)
        maps, logits = module(resize(images, own))
        # The coarse map spans the padded image, of which the image is the upper left part.
        spanned = (max(height, LEAST), max(width, LEAST)) if self.input_size is None else (height, width)
        corners = False if self.enlarge == "bilinear" else None
        enlarged = F.interpolate(maps.float().unsqueeze(1), size=spanned, mode=self.enlarge, align_corners=corners)
        fakeness = enlarged[:, 0, :height, :width].clamp(0, 1)
        if self.binarise:
            fakeness = (fakeness >= self.map_threshold).float()
        return Prediction(fakeness, logits.float().sigmoid())

    def _target(self, truth: Tensor) -> Tensor:
        """Return the ground truth (B, H, W) that the map is fitted to, before it is shrunk."""
        return (truth >= self.truth_threshold).float() if self.binarise else truth


def peak_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Return the weakly supervised loss of Dang et al.: no activation for real images, a peak of 0.75 for fakes.

    Args:
        maps: float32 (B, h, w) in [0, 1].
        labels: float32 (B,), 1 for a fake.
    """
    real, fake = maps.mean(dim=(1, 2)), (maps.amax(dim=(1, 2)) - PEAK).abs()
    return torch.where(labels > 0.5, fake, real).mean()


class _Network(nn.Module):
    """A timm classifier cut in two, with the attention map between the halves.

    Args:
        backbone: One of `BACKBONES` without its last layer.
        normalise: What the backbone expects.
        attention: "regression" or "template".
    """

    def __init__(self, backbone: nn.Module, normalise: nn.Module, *, attention: str) -> None:
        super().__init__()
        parts: dict[str, Any] = dict(backbone.named_children())
        parts.pop("global_pool", None)
        stages = list(parts.pop("blocks", ()))
        if "features" in parts:  # VGG
            layers = list(parts["features"])
            third = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][2]
            first, last = layers[: third + 1], layers[third + 1 :]
        elif stages:
            first = [parts["conv_stem"], parts["bn1"], *stages[:5]]
            last = [*stages[5:], parts["conv_head"], parts["bn2"]]
        else:
            names = list(parts)
            cut = names.index("block8")
            end = names.index("act4") + 1
            first = [parts[name] for name in names[:cut]]
            last = [parts[name] for name in names[cut:end]]
        self.normalise = normalise
        self.first = nn.Sequential(*first)
        self.last = nn.Sequential(*last)
        channels, features = self._channels()
        self.attention = _Templates(channels) if attention == "template" else _Regression(channels)
        self.classifier = nn.Linear(features, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return coarse maps (B, h, w) in [0, 1] and logits (B,) of images (B, 3, H, W) in [0, 1]."""
        with steady_norms(self, images):
            features = self.first(pad(self.normalise(images), least=LEAST))
            maps = self.attention(features)
            pooled = self.last(features * maps).mean(dim=(2, 3))
        return maps.squeeze(1), self.classifier(pooled).squeeze(1)

    @torch.no_grad()
    def _channels(self) -> tuple[int, int]:
        """Return the number of channels where the backbone is cut, and at its end."""
        self.eval()
        middle = self.first(torch.zeros(1, 3, LEAST, LEAST))
        end = self.last(middle)
        self.train()
        return int(middle.shape[1]), int(end.shape[1])


class _Regression(nn.Sequential):
    """The map as a separable 3 x 3 convolution of the features, and a sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, 1, 1),
            nn.Sigmoid(),
        )


class _Templates(nn.Module):
    """The map as a weighted sum of the mean map of the training fakes and their principal maps.

    Mean and principal maps are fixed, GRID x GRID, and resized to the features' size; the weights come from the image.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, GRID, GRID))
        self.register_buffer("basis", torch.zeros(TEMPLATES, GRID, GRID))
        self.squeeze = nn.Sequential(nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        self.weigh = nn.Linear(128, TEMPLATES + 1)

    def take(self, maps: Tensor) -> None:
        """Set mean and principal maps from maps (N, GRID, GRID), scaled so that a weight of 1 is one deviation.

        Raises:
            MethodError: There is no map.
        """
        if len(maps) == 0:
            raise MethodError(
                "attention_map has no templates: the training slice has no fake", hint="set attention=regression"
            )
        flat = maps.double().flatten(1)
        mean = flat.mean(dim=0)
        _, deviations, axes = torch.linalg.svd(flat - mean, full_matrices=False)
        count = min(TEMPLATES, len(axes))
        scaled = axes[:count] * (deviations[:count, None] / len(maps) ** 0.5)
        # The sign of a principal axis is arbitrary: fix it, so that every machine gets the same templates.
        scaled = scaled * torch.where(scaled.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        self.mean.copy_(mean.view(1, GRID, GRID))
        self.basis.zero_()
        self.basis[:count].copy_(scaled.view(count, GRID, GRID))

    def forward(self, features: Tensor) -> Tensor:
        """Return maps (B, 1, h, w) in [0, 1]."""
        weights = self.weigh(self.squeeze(features).mean(dim=(2, 3)))
        templates = resize(torch.cat([self.mean, self.basis]), size_of(features))
        return clamp_straight(torch.einsum("bk,khw->bhw", weights, templates)).unsqueeze(1)
