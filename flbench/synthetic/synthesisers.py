"""Families that synthesise from a code and a style: PGGAN, StyleGAN and StyleGAN2, each with its own scale.

The originals decode a latent vector. Here an encoder gives the code at a quarter of the resolution and a mapping
network the style, so that the photo to edit, or to make a wholly synthetic face like, can be asked for; every pixel
still comes out of the decoder. Images and differences as in `editors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.synthetic.identity import ATTRIBUTES
from flbench.synthetic.layers import (
    STYLE,
    AdaptiveStage,
    LowPass,
    ModulatedStage,
    NearestStage,
    conv,
    halve,
    tile,
)

CONDITIONS = len(ATTRIBUTES)


def _bilinear() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


class Filtered(nn.Module):
    """Double the side of an RGB image by zero insertion and the [1 3 3 1] filter: StyleGAN2's skip path."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = LowPass((1, 3, 3, 1), gain=4, shrink=True)

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, 2H, 2W)."""
        padded = F.pad(rgb, (1, 1, 1, 1), mode="replicate")
        spread = padded.new_zeros(*padded.shape[:2], 2 * padded.shape[2], 2 * padded.shape[3])
        spread[:, :, ::2, ::2] = padded
        return self.blur(spread[:, :, :-1, :-1])


class Synthesiser(nn.Module):
    """Encoder, mapping network, dilated blocks at a quarter of the resolution, two scales up, RGB joined at each.

    Args:
        stage: One scale of the family: `NearestStage`, `AdaptiveStage` or `ModulatedStage`.
        enlarge: What doubles the side of the RGB of the scale below, for either scale.
        code: Channels of the code.
        width: Channels of the last scale.
    """

    def __init__(
        self, stage: Callable[..., nn.Module], enlarge: Sequence[nn.Module], code: int = 56, width: int = 16
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(halve(3, width, norm=False), halve(width, code, norm=False))
        self.context = nn.Sequential(halve(code, code, norm=False), halve(code, code, norm=False))
        self.mapping = nn.Sequential(
            nn.Linear(code + CONDITIONS, STYLE), nn.LeakyReLU(0.2), nn.Linear(STYLE, STYLE), nn.LeakyReLU(0.2)
        )
        self.entry = conv(code + CONDITIONS + 3, code)
        self.middle = nn.ModuleList(conv(code, code, dilation=dilation) for dilation in (2, 4, 8))
        self.gains = nn.ModuleList(nn.Linear(STYLE, code) for _ in self.middle)
        channels = [code, 2 * width, width]
        self.stages = nn.ModuleList(stage(channels[i], channels[i + 1], seed=10 * i) for i in range(2))
        self.to_rgb = nn.ModuleList(nn.Conv2d(channel, 3, 1) for channel in channels)
        self.enlarge = nn.ModuleList(enlarge)

    def forward(self, image: Tensor, difference: Tensor) -> Tensor:
        """Edit images, or with a zero difference make them anew; the output is linear, as in the originals."""
        encoded = self.encoder(image)
        coarse = F.avg_pool2d(image, 4)
        style = self.mapping(torch.cat([self.context(encoded).mean((2, 3)), difference], 1))
        x = F.leaky_relu(self.entry(torch.cat([encoded, tile(difference, encoded), coarse], 1)), 0.2)
        for layer, gain in zip(self.middle, self.gains, strict=True):
            x = x + 0.7 * F.leaky_relu(layer(x * (1 + gain(style)[:, :, None, None])), 0.2)
        rgb = coarse + self.to_rgb[0](x)
        for stage, enlarge, to_rgb in zip(self.stages, self.enlarge, self.to_rgb[1:], strict=True):
            x = stage(x, style)
            rgb = enlarge(rgb) + to_rgb(x)
        return rgb


class PGGAN(Synthesiser):
    """Nearest-neighbour upsampling, 3x3 convolutions, pixel normalisation; linear RGB.

    Source: Karras et al., ICLR 2018, arXiv 1710.10196, and tkarras/progressive_growing_of_gans `networks.py`, the RGB
    of the lower resolution faded in from below; that path is bilinear here, since with so few scales nearest would
    leave tiles of 4x4 pixels.
    """

    def __init__(self) -> None:
        super().__init__(NearestStage, (_bilinear(), _bilinear()))


class StyleGAN(Synthesiser):
    """Nearest-neighbour upsampling with a blur, noise, instance normalisation and styles; linear RGB.

    Source: Karras et al., CVPR 2019, arXiv 1812.04948, and NVlabs/stylegan `training/networks_stylegan.py`.
    """

    def __init__(self) -> None:
        super().__init__(AdaptiveStage, (_bilinear(), _bilinear()))


class StyleGAN2(Synthesiser):
    """Modulated transposed convolutions with a low-pass filter, an RGB skip path filtered alike; linear RGB.

    Source: Karras et al., CVPR 2020, arXiv 1912.04958, and NVlabs/stylegan2 `training/networks_stylegan2.py`.
    """

    def __init__(self) -> None:
        super().__init__(ModulatedStage, (Filtered(), Filtered()))
