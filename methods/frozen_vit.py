"""A frozen vision transformer with a light decoder on its patch tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

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
    weights_at_hand,
)

if TYPE_CHECKING:
    from flbench.protocol import Protocol

DECODERS = ("light", "linear")


class FrozenViT(NeuralLocator):
    """A self-supervised vision transformer, never changed, with a small decoder that reads its patch tokens.

    The transformer's weights are the method. They are not installed with flbench: put them into the local Hugging Face
    cache, or say `download=true`; until then the method is skipped. A saved fit holds the transformer too and needs
    neither. `random` freezes the transformer as it is drawn: the control that says what the decoder does alone.

    The tokens of `layers` blocks, evenly spread over the depth, are set side by side on the grid of patches.
    Decoders:
        light: 1 x 1 convolution, then twice a doubling of the side and a 3 x 3 convolution, then the map.
        linear: a linear layer per patch, enlarged bilinearly: the linear evaluation on segmentation of Oquab et al.
    The score comes from a linear layer on the mean token. Loss: `map_weight` x mean |map - truth| + `score_weight` x
    cross-entropy of the score.

    There is no publication of this locator: it is what DINOv2's evaluation on segmentation becomes here. `paper`
    follows that evaluation (last block, linear layer; 518 px, the size of the released weights) with this file's loss.

    Args:
        encoder: Any vision transformer of timm; a tag after a dot names its weights.
        weights: "pretrained", or "none": at random.
        download: Whether weights may be fetched over the network.
        layers: Number of blocks that are read; the last is among them.
        decoder: "light" or "linear".
        hidden: Channels of the light decoder.
        map_weight: Weight of the map's loss.
        score_weight: Weight of the score's loss.
        input_size: Side in pixels that images are resized to for the network, and the map back; None: their own.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Frozen ViT"
    paper = "Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, arXiv 2304.07193"
    licence = "Apache-2.0; weights of DINO and DINOv2: Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "layers": 1,
            "decoder": "linear",
            "input_size": 518,
            "steps": None,
            "epochs": 10.0,
            "batch": 16,
        },
        "linear": {"layers": 1, "decoder": "linear"},
        "registers": {"encoder": "vit_small_patch14_reg4_dinov2.lvd142m"},
        "base": {"encoder": "vit_base_patch14_dinov2.lvd142m"},
        "random": {"weights": "none"},
        "dino": {"encoder": "vit_small_patch16_224.dino"},
    }

    def __init__(
        self,
        *,
        encoder: str = "vit_small_patch14_dinov2.lvd142m",
        weights: str = "pretrained",
        download: bool = False,
        layers: int = 4,
        decoder: str = "light",
        hidden: int = 64,
        map_weight: float = 5.0,
        score_weight: float = 0.3,
        input_size: int | None = 224,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        if layers < 1:
            raise UsageError(f"layers={layers} reads no block", hint="at least 1")
        self.encoder = encoder
        self.weights = choose("weights", weights, ("pretrained", "none"))
        self.download = download
        self.layers = layers
        self.decoder = choose("decoder", decoder, DECODERS)
        self.hidden = hidden
        self.map_weight = map_weight
        self.score_weight = score_weight
        self.input_size = check_input_size(input_size)

    def skip(self, protocol: Protocol) -> str | None:
        """Decline every protocol while the weights are not at hand and may not be fetched."""
        if self.weights == "none" or self.download or weights_at_hand(self.encoder):
            return None
        return f"the weights of {self.encoder} are not in the local Hugging Face cache; set download=true to fetch them"

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network, with the transformer's weights if `pretrained` is true and they are not "none".

        Raises:
            MethodError: Not a vision transformer of timm, fewer blocks than `layers`, or weights that cannot be had.
        """
        from timm.models import is_model_in_modules

        if not is_model_in_modules(self.encoder.partition(".")[0], ("vision_transformer",)):
            hint = "such as vit_small_patch14_dinov2.lvd142m"
            raise MethodError(f"{self.encoder} is not a vision transformer of timm", hint=hint)
        weights = self.weights if pretrained else "none"
        name = self.encoder if weights != "none" else self.encoder.partition(".")[0]
        vit = timm_model(name, weights=weights, download=self.download, num_classes=0, dynamic_img_size=True)
        if self.layers > len(vit.blocks):
            raise MethodError(f"{self.encoder} has {len(vit.blocks)} blocks, not {self.layers}", hint="set layers")
        return _Network(vit, Normalise(self.encoder), layers=self.layers, decoder=self.decoder, hidden=self.hidden)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted L1 loss of the map plus the cross-entropy of the score."""
        images, truth = batch.images, batch.fakeness
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images, truth = resize(images, size), resize(truth, size)
        maps, scores = module(images)
        total = self.map_weight * (maps.float().sigmoid() - truth).abs().mean()
        return total + self.score_weight * F.binary_cross_entropy_with_logits(scores.float(), batch.labels)

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return maps of the images' own size and the probability of a fake."""
        size = size_of(images)
        own = size if self.input_size is None else (self.input_size, self.input_size)
        maps, scores = module(resize(images, own))
        return Prediction(resize(maps.float().sigmoid(), size).clamp(0, 1), scores.float().sigmoid())


class _Network(nn.Module):
    """The frozen transformer and what is fitted on its tokens.

    Args:
        vit: timm's.
        normalise: What it expects.
        layers: See `FrozenViT`.
        decoder: See `FrozenViT`.
        hidden: See `FrozenViT`.
    """

    def __init__(self, vit: Any, normalise: nn.Module, *, layers: int, decoder: str, hidden: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.vit = vit.requires_grad_(False).eval()
        self.patch = int(vit.patch_embed.patch_size[0])
        self.indices = spread(len(vit.blocks), layers)
        channels = vit.embed_dim * layers
        self.locate = _light(channels, hidden) if decoder == "light" else nn.Conv2d(channels, 1, 1)
        self.detect = nn.Linear(channels, 1)

    def train(self, mode: bool = True) -> _Network:
        """Switch the decoder to training mode; the transformer stays as it is."""
        super().train(mode)
        self.vit.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the map (B, H, W) and of the score (B,) for images (B, 3, H, W) in [0, 1]."""
        height, width = size_of(images)
        padded = pad(self.normalise(images), multiple=self.patch)
        with torch.no_grad():
            found = self.vit.forward_intermediates(padded, indices=self.indices, norm=True, intermediates_only=True)
        tokens = torch.cat(found, dim=1)
        with steady_norms(self, images):
            maps = resize(self.locate(tokens).squeeze(1), size_of(padded))
        return maps[:, :height, :width], self.detect(tokens.mean(dim=(2, 3))).squeeze(1)


def spread(blocks: int, count: int) -> list[int]:
    """Return the indices of `count` blocks, evenly spread, the last among them: 4 of 12 are 2, 5, 8 and 11."""
    return [blocks * (i + 1) // count - 1 for i in range(count)]


def _light(channels: int, hidden: int) -> nn.Sequential:
    """Return the decoder that doubles the side of the grid of patches twice."""
    layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
    for before, after in ((hidden, hidden // 2), (hidden // 2, hidden // 4)):
        layers += [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(before, after, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(hidden // 4, 1, 1))
