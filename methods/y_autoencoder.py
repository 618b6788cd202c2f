"""The Y-shaped auto-encoder: one encoder whose activation classifies, one decoder that segments and reconstructs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import UsageError
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe

from ._networks import check_input_size, choose, pad, resize, size_of, steady_norms

SEGMENTATIONS = ("l1", "cross_entropy")
STRIDE = 16
"""Pixels of the image per pixel of the latent features."""


class YAutoencoder(NeuralLocator):
    """Multi-task auto-encoder: half of its latent stands for real, half for fake; two branches segment and rebuild.

    The encoder halves the image four times; its features are split by channels into two halves, h0 for real and h1 for
    fake, whose activations a_c = mean |h_c| classify. The half of the other class is set to zero before the decoder,
    by the label while fitting and by the larger activation when predicting (and when a state is judged); the decoder's
    first layers are shared and then fork into the map and the reconstruction. The probability that the image is
    fake is the second of softmax(a_0, a_1), so it spans less than [0, 1].

    Losses, means over the batch, with label y (1 fake), map M, ground truth T, image X and reconstruction X':
        activation: |a_1 - y| + |a_0 - (1 - y)|
        segmentation: "l1": |M - T|, T gray. "cross_entropy": -T log M - (1 - T) log(1 - M), as published.
        reconstruction: (X' - X)^2, both in [-1, 1].
    The loss of the whole is the sum, weighted by the options; the published weights are 1, 1 and 1.

    It departs from the publication in three points. The map has one channel and a sigmoid instead of two and a
    softmax, which is the same function with half of the last layer. Images are scaled to [-1, 1], the range of the
    reconstruction's tanh. The published masks are binary: `paper` binarises the ground truth at 0.1, the default leaves
    it gray. The default is the published network, small enough for two cores, at the images' own size.

    Args:
        width: Channels of the first layer; doubled at each of four halvings.
        segmentation: "l1" or "cross_entropy".
        truth_threshold: Ground truth at or above is 1, below 0; None: gray.
        activation_weight: Weight of the activation loss.
        segmentation_weight: Weight of the segmentation loss.
        reconstruction_weight: Weight of the reconstruction loss.
        input_size: Side in pixels that images are resized to for the network, and the map back; None: their own.
        steps: Optimiser steps of a fit; None: `epochs` decides.
        batch: Images per step.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Y-shaped auto-encoder"
    paper = (
        "Nguyen et al., Multi-task Learning for Detecting and Segmenting Manipulated Facial Images, arXiv 1906.06876"
    )
    licence = "Apache-2.0; no pretrained weights"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "segmentation": "cross_entropy",
            "truth_threshold": 0.1,
            "segmentation_weight": 1.0,
            "input_size": 256,
            "steps": None,
            "epochs": 100.0,
            "batch": 64,
            "weight_decay": 5e-4,
            "schedule": "constant",
            "flip": False,
        },
        "cross-entropy": {"segmentation": "cross_entropy", "segmentation_weight": 1.0},
    }

    def __init__(
        self,
        *,
        width: int = 8,
        segmentation: str = "l1",
        truth_threshold: float | None = None,
        activation_weight: float = 1.0,
        segmentation_weight: float = 5.0,
        reconstruction_weight: float = 1.0,
        input_size: int | None = None,
        steps: int | None = 800,
        batch: int = 16,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(steps=steps, batch=batch, **recipe))
        if width < 1:
            raise UsageError(f"width={width} leaves the network no channel", hint="at least 1; the published one is 8")
        self.width = width
        self.segmentation = choose("segmentation", segmentation, SEGMENTATIONS)
        self.truth_threshold = truth_threshold
        self.activation_weight = activation_weight
        self.segmentation_weight = segmentation_weight
        self.reconstruction_weight = reconstruction_weight
        self.input_size = check_input_size(input_size)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network, at random whatever `pretrained` says: there are no weights to start from."""
        return _Network(self.width).to(memory_format=torch.channels_last)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of activation, segmentation and reconstruction loss."""
        images, truth = batch.images, batch.fakeness
        if self.truth_threshold is not None:
            truth = (truth >= self.truth_threshold).float()
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images, truth = resize(images, size), resize(truth, size)
        activations, logits, rebuilt = module(images, batch.labels if module.training else None)
        if self.segmentation == "l1":
            segmentation = (logits.sigmoid() - truth).abs().mean()
        else:
            segmentation = F.binary_cross_entropy_with_logits(logits, truth)
        return (
            self.activation_weight * activation_loss(activations, batch.labels)
            + self.segmentation_weight * segmentation
            + self.reconstruction_weight * (rebuilt - signed(images)).square().mean()
        )

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return maps of the images' own size and the probability of the fake half."""
        size = size_of(images)
        own = size if self.input_size is None else (self.input_size, self.input_size)
        activations, logits, _ = module(resize(images, own))
        maps = resize(logits.float().sigmoid(), size).clamp(0, 1)
        return Prediction(maps, activations.float().softmax(dim=1)[:, 1])


class _Network(nn.Module):
    """Encoder, shared decoder and its two branches.

    Args:
        width: Channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        one, two, four, eight, sixteen = (width * factor for factor in (1, 2, 4, 8, 16))
        self.encoder = nn.Sequential(
            *_down(3, one, 1), *_down(one, one, 2),
            *_down(one, two, 1), *_down(two, two, 2),
            *_down(two, four, 1), *_down(four, four, 2),
            *_down(four, eight, 1), *_down(eight, eight, 2),
            *_down(eight, sixteen, 1),
        )  # fmt: skip
        self.shared = nn.Sequential(
            *_up(sixteen, eight, 1), *_up(eight, eight, 2),
            *_up(eight, four, 1), *_up(four, four, 2),
        )  # fmt: skip
        self.segment = _branch(width, 1)
        self.rebuild = nn.Sequential(*_branch(width, 3), nn.Tanh())

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return activations (B, 2), map logits (B, H, W) and reconstructions (B, 3, H, W) in [-1, 1].

        Args:
            images: (B, 3, H, W) in [0, 1], of any size; padded for the network and cropped back.
            labels: (B,), the half that the decoder sees, 1 fake; None: the half that is more active.
        """
        height, width = size_of(images)
        with steady_norms(self, images):
            latent = self.encoder(pad(signed(images), multiple=STRIDE))
            activations = activations_of(latent)
            chosen = activations.argmax(dim=1) if labels is None else labels
            shared = self.shared(keep_half(latent, chosen))
            logits, rebuilt = self.segment(shared), self.rebuild(shared)
        return activations, logits[:, 0, :height, :width], rebuilt[..., :height, :width]


def signed(images: Tensor) -> Tensor:
    """Scale images from [0, 1] to [-1, 1]."""
    return 2 * images - 1


def activations_of(latent: Tensor) -> Tensor:
    """Return the mean absolute values (B, 2) of the two halves of latent features (B, C, h, w), real first."""
    return latent.unflatten(1, (2, -1)).abs().mean(dim=(2, 3, 4))


def keep_half(latent: Tensor, labels: Tensor) -> Tensor:
    """Set the half of the other class to zero: the second where the label (B,) is 0, the first where it is 1."""
    fake = labels.to(latent.dtype).view(-1, 1, 1, 1)
    real_half, fake_half = latent.chunk(2, dim=1)
    return torch.cat([real_half * (1 - fake), fake_half * fake], dim=1)


def activation_loss(activations: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the batch of |a_1 - y| + |a_0 - (1 - y)| for activations (B, 2) and labels (B,)."""
    wanted = torch.stack([1 - labels, labels], dim=1)
    return (activations - wanted).abs().sum(dim=1).mean()


def _down(before: int, after: int, stride: int) -> list[nn.Module]:
    """Return a 3 x 3 convolution, normalised and rectified."""
    return [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.BatchNorm2d(after), nn.ReLU()]


def _up(before: int, after: int, stride: int) -> list[nn.Module]:
    """Return a transposed 3 x 3 convolution, normalised and rectified."""
    layer = nn.ConvTranspose2d(before, after, 3, stride=stride, padding=1, output_padding=stride - 1)
    return [layer, nn.BatchNorm2d(after), nn.ReLU()]


def _branch(width: int, channels: int) -> nn.Sequential:
    """Return one arm of the Y, from a quarter of the image's side to the whole."""
    return nn.Sequential(
        *_up(4 * width, 2 * width, 1), *_up(2 * width, 2 * width, 2),
        *_up(2 * width, width, 1), *_up(width, width, 2),
        nn.ConvTranspose2d(width, channels, 3, padding=1),
    )  # fmt: skip
