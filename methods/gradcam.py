"""Grad-CAM: where a plain real/fake classifier looks, without any supervision of the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
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

LEAST = 32  # pixels: the deepest features of a stride of 32 need some
SCALES = ("score", "peak")


class GradCam(NeuralLocator):
    """Weak baseline: gradient-weighted class activation map of a classifier that is fitted on image labels only.

    With A the feature maps (B, K, h, w) of one layer and y the logit of "fake", a_k is the mean over pixels of
    dy / dA_k, and the map is ReLU(sum_k a_k A_k), enlarged bilinearly. Divided by its peak it is in [0, 1] in every
    image, in photos too; so by default it is also multiplied by the probability that the image is fake.

    It marks what convinces the classifier and not all that was changed. Where a generator leaves its trace in every
    pixel, any spot is proof enough, and the map may be further from the ground truth than one that is white all over.

    Where it departs from the paper: that explains classifiers of many classes; here there is one logit, so the class
    that is explained is always "fake", whatever the classifier's verdict; and the multiplication by the probability
    (`scale` "score") is this project's. `paper` leaves it out and takes the paper's VGG-16 at 224 px, its last
    convolution before the pooling (14 x 14), with the optimiser of `fakelocator:paper`, since the paper fits no
    classifier of forgeries.

    Loss: cross-entropy of the classifier. Ground truth maps are not looked at.

    Args:
        backbone: A convolutional classifier of timm.
        weights: "imagenet" or "none".
        download: Whether weights may be fetched over the network; those of tf_efficientnet_lite0 are installed.
        layer: Name of the backbone's submodule whose output is A, such as "blocks.4"; "": the features that the head
            gets, the deepest.
        scale: "peak": a map's largest value is 1. "score": it is the image's score.
        input_size: Side in pixels that images are resized to for the network; None: their own.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Grad-CAM"
    paper = "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, arXiv 1610.02391"
    licence = "Apache-2.0; ImageNet weights of tf_efficientnet_lite0: Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "backbone": "vgg16",
            "layer": "features.29",
            "scale": "peak",
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
        "middle": {"layer": "blocks.4"},
    }

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "imagenet",
        download: bool = False,
        layer: str = "",
        scale: str = "score",
        input_size: int | None = None,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        self.backbone = backbone
        self.weights = choose("weights", weights, ("imagenet", "none"))
        self.download = download
        self.layer = layer
        self.scale = choose("scale", scale, SCALES)
        self.input_size = check_input_size(input_size, least=LEAST)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the classifier, its backbone filled with ImageNet weights if asked for and `pretrained` is true.

        Raises:
            MethodError: timm knows no such backbone, or the weights cannot be had.
            UsageError: The backbone has no such layer.
        """
        import timm

        if not timm.is_model(self.backbone):
            raise MethodError(f"backbone {self.backbone} is not in timm", hint="see timm.list_models()")
        weights = self.weights if pretrained else "none"
        backbone = timm_model(self.backbone, weights=weights, download=self.download, num_classes=1)
        if self.layer not in dict(backbone.named_modules()):
            hint = f"one of its submodules, such as {next(name for name, _ in backbone.named_children())}"
            raise UsageError(f"layer={self.layer} is not in {self.backbone}", hint=hint)
        return _Classifier(backbone, Normalise(self.backbone)).to(memory_format=torch.channels_last)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of the classifier with the images' labels."""
        logits = module(self._resized(batch.images))
        return F.binary_cross_entropy_with_logits(logits.float(), batch.labels)

    def predict(self, images: Tensor) -> Prediction:
        """Run the classifier forward, and backward as far as the layer.

        Raises:
            MethodError: Neither fitted nor loaded.
        """
        if self.module is None:
            raise MethodError("GradCam predicts before it was fitted", hint="call fit or load first")
        self.module.eval()
        # The map is made of gradients, so they are recorded even where a caller has switched them off.
        with torch.inference_mode(False), torch.enable_grad():
            return self.forward(self.module, images.clone())

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return the enlarged map and the fake's probability."""
        height, width = size_of(images)
        own = self._resized(images)
        features, logits = activations(module, own, self.layer)
        (gradients,) = torch.autograd.grad(logits.sum(), features)
        weights = gradients.mean(dim=(2, 3), keepdim=True)
        maps = (weights * features.detach()).sum(dim=1).relu().float()
        # The features span the padded image, of which the image is the upper left part.
        spanned = (max(height, LEAST), max(width, LEAST)) if self.input_size is None else (height, width)
        maps = resize(maps, spanned)[:, :height, :width]
        score = logits.detach().float().sigmoid()
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        return Prediction((maps if self.scale == "peak" else maps * score.view(-1, 1, 1)).clamp(0, 1), score)

    def _resized(self, images: Tensor) -> Tensor:
        return images if self.input_size is None else resize(images, (self.input_size, self.input_size))


class _Classifier(nn.Module):
    """A timm classifier of one logit, between the image and its features' pooling.

    Args:
        backbone: timm's model, with one class.
        normalise: What the backbone expects.
    """

    def __init__(self, backbone: Any, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,) of images (B, 3, H, W) in [0, 1]."""
        with steady_norms(self, images):
            return self.backbone.forward_head(self.features(images)).squeeze(1)

    def features(self, images: Tensor) -> Tensor:
        """Return what is pooled, (B, K, h, w)."""
        return self.backbone.forward_features(pad(self.normalise(images), least=LEAST))


def activations(module: Any, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return a layer's output (B, K, h, w) as the leaf of a gradient, and the logits (B,) that follow from it.

    Raises:
        MethodError: The layer's output is not a stack of feature maps.
    """
    if not layer:
        with torch.no_grad():
            pooled = module.features(images)
        leaf = _leaf(pooled, "what is pooled")
        return leaf, module.backbone.forward_head(leaf).squeeze(1)
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(_leaf(output, layer))
        return kept[0].clone()  # the next layer may work in place, which a leaf forbids

    handle = module.backbone.get_submodule(layer).register_forward_hook(keep)
    try:
        logits = module(images)
    finally:
        handle.remove()
    return kept[0], logits


def _leaf(output: Tensor, layer: str) -> Tensor:
    if output.ndim != 4:
        hint = "choose a convolutional backbone, or another layer"
        raise MethodError(f"{layer} gives {tuple(output.shape)}, which is no stack of feature maps", hint=hint)
    return output.detach().requires_grad_()
