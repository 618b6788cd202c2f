"""Face X-ray: paint the boundary along which two photos were blended, learnt without a single fake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe

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

PARTNERS = ("self", "other")
LEAST = 32  # pixels: the deepest stage halves the image five times
HARMONICS = 4


class FaceXray(NeuralLocator):
    """Blending boundary B = 4 M (1 - M), learnt from photos blended with photos; blind to wholly synthetic images.

    Every photo of a batch is shown twice: as it is, with an empty boundary, and blended with a partner by a mask M in
    [0, 1], I = M F + (1 - M) P, with the boundary 4 M (1 - M), which is 1 where both have the same share. The fakes
    of the training slice are never looked at. The predicted boundary is the map: it outlines what was pasted in and
    leaves the inside black. It cannot see a wholly synthetic image, where nothing was blended, nor an edit for which a
    generator painted the whole picture anew. The ground truth of the protocols is the difference and not its
    outline, so its scores are low by construction.

    The mask is a random closed curve around the middle of the image with a soft edge; the publication takes the convex
    hull of the face's landmarks, deforms and blurs it, and a data set of flbench has no landmarks. For the same
    reason the partner is not the photo with the nearest landmarks: "other" is the next photo of the batch, its colours
    matched within the mask; "self" is the same photo, a little moved, scaled and recoloured, after Shiohara and
    Yamasaki 2022 (arXiv 2204.08376).

    Loss: `map_weight` x cross-entropy of the boundary, mean over pixels + cross-entropy of the score, which comes from
    the mean of the boundary map alone. The network is a backbone whose feature maps are merged at the finest
    stride, as HRNet does. The default backbone starts from installed ImageNet weights; `paper` is HRNet-W48 with the
    published weight of the loss, batch, rate and steps, and without the published warm start on a fixed backbone.

    Args:
        backbone: Any timm model with feature maps; "hrnet_*" gives those of its four parallel branches.
        weights: "imagenet" or "none".
        download: Whether weights may be fetched over the network; those of tf_efficientnet_lite0 are installed.
        partner: "self" or "other".
        hidden: Channels in which the feature maps are merged.
        map_weight: Weight of the boundary's loss.
        input_size: Side in pixels that images are resized to for the network, and the map back; None: their own.
        steps: Optimiser steps of a fit; None: `epochs` decides.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Face X-ray"
    paper = "Li et al., Face X-ray for More General Face Forgery Detection, arXiv 1912.13458"
    licence = "Apache-2.0; ImageNet weights of tf_efficientnet_lite0: Apache-2.0, of HRNet: MIT"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "backbone": "hrnet_w48",
            "partner": "other",
            "hidden": 720,
            "input_size": 256,
            "steps": 200_000,
            "batch": 32,
            "lr": 2e-4,
        },
        "other": {"partner": "other"},
    }

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "imagenet",
        download: bool = False,
        partner: str = "self",
        hidden: int = 32,
        map_weight: float = 100.0,
        input_size: int | None = None,
        steps: int | None = 400,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(steps=steps, **recipe))
        if self.recipe.batch < 2:
            raise UsageError(f"batch={self.recipe.batch} has no room for a photo beside the fake", hint="at least 2")
        self.backbone = backbone
        self.weights = choose("weights", weights, ("imagenet", "none"))
        self.download = download
        self.partner = choose("partner", partner, PARTNERS)
        self.hidden = hidden
        self.map_weight = map_weight
        self.input_size = check_input_size(input_size, least=LEAST)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network, its backbone filled with ImageNet weights if asked for and `pretrained` is true.

        Raises:
            MethodError: Unknown backbone, or weights that cannot be had.
        """
        weights = self.weights if pretrained else "none"
        # HRNet's own feature maps; timm would put its classifier's wider ones on top.
        options = {"feature_location": ""} if self.backbone.startswith("hrnet") else {}
        backbone = timm_model(self.backbone, weights=weights, download=self.download, features_only=True, **options)
        skipped = 1 if self.backbone.startswith("hrnet") else 0
        network = _Network(backbone, Normalise(self.backbone), hidden=self.hidden, skipped=skipped)
        return network.to(memory_format=torch.channels_last)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the loss over the batch's photos, as they are and blended; its fakes are left out.

        A module in evaluation mode gets the same masks and partners every time, so that states can be compared.

        Raises:
            MethodError: The batch has no photo.
        """
        photos = batch.images[batch.labels < 0.5]
        if len(photos) == 0:
            raise MethodError(
                "face_xray learns from real photos, the batch has none", hint="look at the protocol's fit"
            )
        if self.input_size is not None:
            photos = resize(photos, (self.input_size, self.input_size))
        generator = None if module.training else Generator().manual_seed(0)
        blended, edges = blends(photos, partner=self.partner, generator=generator)
        images, truth = torch.cat([photos, blended]), torch.cat([torch.zeros_like(edges), edges])
        labels = torch.cat([torch.zeros(len(photos)), torch.ones(len(photos))]).to(photos.device)
        maps, scores = module(images)
        painted = F.binary_cross_entropy_with_logits(maps.float(), truth)
        return self.map_weight * painted + F.binary_cross_entropy_with_logits(scores.float(), labels)

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return boundary maps of the images' own size, and the probability that there is a boundary."""
        size = size_of(images)
        own = size if self.input_size is None else (self.input_size, self.input_size)
        maps, scores = module(resize(images, own))
        return Prediction(resize(maps.float().sigmoid(), size).clamp(0, 1), scores.float().sigmoid())


class _Network(nn.Module):
    """A backbone, its merged feature maps, and a score from the map's mean.

    Args:
        backbone: timm's, with feature maps.
        normalise: What the backbone expects.
        hidden: See `FaceXray`.
        skipped: Number of the finest feature maps that are not merged.
    """

    def __init__(self, backbone: Any, normalise: nn.Module, *, hidden: int, skipped: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.skipped = skipped
        self.fusion = Fusion(backbone.feature_info.channels()[skipped:], hidden=hidden)
        # The means of boundary maps lie close together, near 0: spread them before they are weighed.
        self.score = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the boundary (B, H, W) and of the score (B,) for images (B, 3, H, W) in [0, 1]."""
        height, width = size_of(images)
        with steady_norms(self, images):
            padded = pad(self.normalise(images), multiple=LEAST, least=LEAST)
            logits = resize(self.fusion(self.backbone(padded)[self.skipped :]), size_of(padded))
            maps = logits[:, :height, :width]
            scores = self.score(maps.sigmoid().mean(dim=(1, 2)).unsqueeze(1))
        return maps, scores.squeeze(1)


def boundary(masks: Tensor) -> Tensor:
    """Return 4 M (1 - M) of masks in [0, 1]: 1 where M is one half, 0 where it is 0 or 1."""
    return 4 * masks * (1 - masks)


def blend(inside: Tensor, outside: Tensor, masks: Tensor) -> Tensor:
    """Return M x inside + (1 - M) x outside for images (B, 3, H, W) and masks (B, H, W)."""
    shares = masks.unsqueeze(1)
    return shares * inside + (1 - shares) * outside


def blends(photos: Tensor, *, partner: str, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Paste a partner into every photo.

    Args:
        photos: (B, 3, H, W) in [0, 1].
        partner: See `FaceXray`; a single photo has no other but its mirror image.
        generator: Source of chance, on the CPU; None: torch's own.

    Returns:
        The blended photos, and their boundaries (B, H, W).
    """
    masks = random_masks(len(photos), size_of(photos), generator=generator).to(photos.device)
    if partner == "self":
        pasted = altered(photos, generator=generator)
    else:
        others = photos.roll(1, dims=0) if len(photos) > 1 else photos.flip(-1)
        pasted = match_colours(others, photos, masks)
    return blend(pasted, photos, masks), boundary(masks)


def random_masks(count: int, size: tuple[int, int], *, generator: Generator | None) -> Tensor:
    """Return soft masks (count, H, W) in [0, 1], each a random closed curve around the middle of the image.

    The radius is 15 to 38 % of a side, stretched by up to 4/3 one way, with four harmonics of falling amplitude. Across
    the edge the mask falls like a step that was blurred by a Gaussian of 1 to 5 % of the side.
    """
    height, width = size

    def between(low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, columns, 1, generator=generator)

    aspect = between(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    down = ((torch.arange(height) + 0.5) / height).view(1, -1, 1) - between(0.4, 0.6)
    right = ((torch.arange(width) + 0.5) / width).view(1, 1, -1) - between(0.4, 0.6)
    down, right = down * aspect, right / aspect
    angle, distance = torch.atan2(down, right), torch.hypot(down, right)
    order = torch.arange(2, 2 + HARMONICS).view(1, -1, 1, 1)
    amplitude = between(-0.2, 0.2, HARMONICS).unsqueeze(3) / order
    phase = between(0, 2 * math.pi, HARMONICS).unsqueeze(3)
    radius = between(0.15, 0.38) * (1 + (amplitude * torch.cos(order * angle.unsqueeze(1) + phase)).sum(dim=1))
    deviation = between(0.01, 0.05)
    return (1 + torch.erf((radius - distance) / (deviation * math.sqrt(2)))) / 2


def altered(photos: Tensor, *, generator: Generator | None) -> Tensor:
    """Return photos (B, 3, H, W) each moved by up to 3 % of a side, scaled by up to 5 %, recoloured by up to 10 %.

    Resampling leaves its own texture, as the enlargement at a generator's end does; values stay in [0, 1].
    """
    count = len(photos)

    def around(centre: float, reach: float, columns: int) -> Tensor:
        drawn = torch.rand(count, columns, generator=generator).to(photos.device)
        return centre + reach * (2 * drawn - 1)

    scale = around(1, 0.05, 1)
    move = around(0, 0.06, 2)  # half a side is 1 here
    zero = torch.zeros_like(scale)
    rows = [torch.cat([scale, zero, move[:, :1]], dim=1), torch.cat([zero, scale, move[:, 1:]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(photos.shape), align_corners=False)
    moved = F.grid_sample(photos, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    gain, shift = around(1, 0.1, 3).view(-1, 3, 1, 1), around(0, 0.1, 3).view(-1, 3, 1, 1)
    return (gain * moved + shift).clamp(0, 1)


def match_colours(images: Tensor, like: Tensor, masks: Tensor) -> Tensor:
    """Give images (B, 3, H, W) the means and deviations of others per channel, within masks (B, H, W).

    Clamped to [0, 1]. After Reinhard et al. 2001, in RGB.
    """
    shares = masks.unsqueeze(1)
    shares = shares / shares.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = (shares * values).sum(dim=(2, 3), keepdim=True)
        return mean, (shares * (values - mean).square()).sum(dim=(2, 3), keepdim=True).sqrt()

    mean, deviation = moments(images)
    wanted_mean, wanted_deviation = moments(like)
    return ((images - mean) / deviation.clamp_min(1e-3) * wanted_deviation + wanted_mean).clamp(0, 1)
