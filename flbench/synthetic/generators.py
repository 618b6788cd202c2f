"""Small generators with the upsampling designs of published GANs; every family is one entry of `FAMILIES`.

All of them map (image, difference of attribute vectors) to an edited image. Images are float32 (B, 3, H, W) in [-1, 1]
with H and W divisible by 16; differences are float32 (B, 10) in {-1, 0, 1}, in the order of `identity.ATTRIBUTES`.
A zero difference asks for a reconstruction: what an attribute-free generator would do to the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.synthetic.identity import ATTRIBUTES

CONDITIONS = len(ATTRIBUTES)


def tile(vector: Tensor, like: Tensor) -> Tensor:
    """Repeat a vector (B, C) over the pixels of a feature map."""
    return vector[:, :, None, None].expand(-1, -1, like.shape[2], like.shape[3])


class UpConv(nn.Module):
    """Transposed convolution 4x4, stride 2, that doubles the side.

    The input is padded by repeating its border: with the usual zero padding the border pixels would miss a part of
    the kernel, and the output would carry a bright frame that gives every fake away.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W)."""
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))


def conv3(inputs: int, outputs: int, *, dilation: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size and repeats the border."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, padding_mode="replicate")


def _halve(inputs: int, outputs: int, *, norm: bool) -> nn.Sequential:
    """Return a 4x4 convolution with stride 2, with or without batch normalisation, and a leaky ReLU."""
    conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not norm, padding_mode="replicate")
    layers: list[nn.Module] = [conv]
    if norm:
        layers.append(nn.BatchNorm2d(outputs, momentum=0.03))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


class SelectiveTransferUnit(nn.Module):
    """A gated recurrent unit over scales that decides which encoder features reach the decoder.

    Source: Liu et al., "STGAN: A Unified Selective Transfer Network for Arbitrary Image Attribute Editing", CVPR 2019,
    section 3.2; the state is upsampled by a transposed convolution as in csmliu/STGAN `models.py`.
    """

    def __init__(self, features: int, state: int) -> None:
        super().__init__()
        self.up = UpConv(state, features)
        self.gates = conv3(2 * features, 2 * features)
        self.candidate = conv3(2 * features, features)

    def forward(self, encoded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transferred features and the new state, both of the shape of `encoded`."""
        state = self.up(state)
        reset, update = torch.sigmoid(self.gates(torch.cat([encoded, state], 1))).chunk(2, 1)
        kept = reset * state
        candidate = torch.tanh(self.candidate(torch.cat([encoded, kept], 1)))
        return (1 - update) * state + update * candidate, kept


class STGAN(nn.Module):
    """Encoder-decoder with transposed convolutions and selective transfer units; difference attributes; tanh.

    Source: Liu et al., CVPR 2019, and csmliu/STGAN `models.py`: 4x4 stride-2 convolutions with batch normalisation and
    leaky ReLU down, 4x4 stride-2 transposed convolutions with batch normalisation and ReLU up, the attribute
    difference joined to every decoder layer and every unit. Reduced to four scales and `width` channels.
    """

    def __init__(self, width: int = 16, scales: int = 4) -> None:
        super().__init__()
        channels = [width * 2**scale for scale in range(scales)]
        self.encoder = nn.ModuleList(
            _halve(3 if scale == 0 else channels[scale - 1], channels[scale], norm=True) for scale in range(scales)
        )
        self.units = nn.ModuleList()
        self.decoder = nn.ModuleList()
        state = inputs = channels[-1] + CONDITIONS
        for scale in reversed(range(scales - 1)):
            self.units.append(SelectiveTransferUnit(channels[scale], state))
            state = channels[scale] + CONDITIONS
            outputs = channels[scale + 1]
            up = UpConv(inputs, outputs, bias=False)
            self.decoder.append(nn.Sequential(up, nn.BatchNorm2d(outputs, momentum=0.03), nn.ReLU()))
            inputs = outputs + channels[scale] + CONDITIONS
        self.out = UpConv(inputs, 3)

    def forward(self, image: Tensor, difference: Tensor) -> Tensor:
        """Edit images; shapes and ranges as stated at the top of the module."""
        features: list[Tensor] = []
        x = image
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        x = state = torch.cat([x, tile(difference, x)], 1)
        for unit, layer, encoded in zip(self.units, self.decoder, reversed(features[:-1]), strict=True):
            transferred, state = unit(encoded, state)
            condition = tile(difference, encoded)
            state = torch.cat([state, condition], 1)
            x = torch.cat([layer(x), transferred, condition], 1)
        return torch.tanh(self.out(x))


def pixel_norm(x: Tensor) -> Tensor:
    """Normalise the feature vector of every pixel to unit mean square (Karras et al. 2018, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class PGGAN(nn.Module):
    """Decoder with nearest-neighbour upsampling, 3x3 convolutions and pixel normalisation; linear RGB output.

    Source: Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation", ICLR 2018, and
    tkarras/progressive_growing_of_gans `networks.py`: `upscale2d` (nearest) then a 3x3 convolution, leaky ReLU,
    pixel normalisation, and the RGB of the lower resolution faded in from below. Conditional here: an encoder gives a
    code at a quarter of the resolution, and the RGB path starts from the image averaged over 4x4 pixels. That path is
    upsampled bilinearly; nearest would tile the output.
    """

    def __init__(self, code: int = 56, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_halve(3, width, norm=False), _halve(width, code, norm=False))
        self.context = nn.Sequential(_halve(code, code, norm=False), _halve(code, code, norm=False))
        self.style = nn.Linear(code + CONDITIONS, 64)
        self.entry = conv3(code + CONDITIONS + 3, code)
        self.middle = nn.ModuleList(conv3(code, code, dilation=dilation) for dilation in (2, 4, 8))
        self.gains = nn.ModuleList(nn.Linear(64, code) for _ in self.middle)
        channels = [code, 2 * width, width]
        self.up = nn.ModuleList(conv3(channels[i], channels[i + 1]) for i in range(2))
        self.refine = nn.ModuleList(conv3(channels[i + 1], channels[i + 1]) for i in range(2))
        self.to_rgb = nn.ModuleList(nn.Conv2d(channel, 3, 1) for channel in channels)

    def forward(self, image: Tensor, difference: Tensor) -> Tensor:
        """Edit images; shapes and ranges as stated at the top of the module."""
        encoded = self.encoder(image)
        coarse = F.avg_pool2d(image, 4)
        context = self.context(encoded).mean((2, 3))
        style = F.leaky_relu(self.style(torch.cat([context, difference], 1)), 0.2)
        x = F.leaky_relu(self.entry(torch.cat([encoded, tile(difference, encoded), coarse], 1)), 0.2)
        for conv, gain in zip(self.middle, self.gains, strict=True):
            x = x + 0.7 * F.leaky_relu(conv(x * (1 + gain(style)[:, :, None, None])), 0.2)
        rgb = coarse + self.to_rgb[0](x)
        for up, refine, to_rgb in zip(self.up, self.refine, self.to_rgb[1:], strict=True):
            x = pixel_norm(F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2))
            x = pixel_norm(F.leaky_relu(refine(x), 0.2))
            rgb = F.interpolate(rgb, scale_factor=2, mode="bilinear", align_corners=False) + to_rgb(x)
        return rgb


class PatchDiscriminator(nn.Module):
    """Judge patches of 22 pixels, least-squares targets 1 (photo) and 0 (fake); used in training only.

    Source: Isola et al. 2017 (patches) and Mao et al. 2017 (least squares).
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _halve(3, width, norm=False),
            _halve(width, 2 * width, norm=False),
            _halve(2 * width, 4 * width, norm=False),
            conv3(4 * width, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H / 8, W / 8)."""
        return self.layers(image)


class Family(NamedTuple):
    """One generator family: what it stands for, and how to build it."""

    title: str
    paper: str
    upsampling: str
    """The operator that enlarges features: `tconv` or `nearest`."""
    build: Callable[[], nn.Module]


FAMILIES: Mapping[str, Family] = {
    "stgan": Family("STGAN (small)", "Liu et al., CVPR 2019, arXiv 1904.09709", "tconv", STGAN),
    "pggan": Family("PGGAN (small, conditional)", "Karras et al., ICLR 2018, arXiv 1710.10196", "nearest", PGGAN),
}
