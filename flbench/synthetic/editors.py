"""Encoder-decoder families: STGAN, AttGAN, StarGAN and IcGAN; all of them enlarge by transposed convolutions.

Images are float32 (B, 3, H, W) in [-1, 1] with H and W divisible by 16; differences of attribute vectors are float32
(B, 10) in {-1, 0, 1}.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flbench.synthetic.identity import ATTRIBUTES
from flbench.synthetic.layers import Residual, SelectiveTransferUnit, UpConv, batch_norm, conv, halve, tile, up_block

CONDITIONS = len(ATTRIBUTES)


def _encoder(channels: list[int], *, kernel: int = 4) -> nn.ModuleList:
    """Return one halving layer per entry of `channels`."""
    inputs = [3, *channels[:-1]]
    return nn.ModuleList(halve(i, o, norm=True, kernel=kernel) for i, o in zip(inputs, channels, strict=True))


class STGAN(nn.Module):
    """Encoder-decoder with transposed convolutions and selective transfer units; difference attributes; tanh.

    Source: Liu et al., CVPR 2019, and csmliu/STGAN `models.py`: 4x4 stride-2 convolutions with batch normalisation and
    leaky ReLU down, 4x4 stride-2 transposed convolutions with batch normalisation and ReLU up, the attribute
    difference joined to every decoder layer and every unit. Reduced to four scales and `width` channels.
    """

    def __init__(self, width: int = 16, scales: int = 4) -> None:
        super().__init__()
        channels = [width * 2**scale for scale in range(scales)]
        self.encoder = _encoder(channels)
        self.units = nn.ModuleList()
        self.decoder = nn.ModuleList()
        state = inputs = channels[-1] + CONDITIONS
        for scale in reversed(range(scales - 1)):
            self.units.append(SelectiveTransferUnit(channels[scale], state))
            state = channels[scale] + CONDITIONS
            outputs = channels[scale + 1]
            self.decoder.append(up_block(inputs, outputs))
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


class AttGAN(nn.Module):
    """Encoder-decoder with transposed convolutions and one shortcut; attributes joined to the bottleneck only; tanh.

    Source: He et al., "AttGAN: Facial Attribute Editing by Only Changing What You Want", TIP 2019, and
    elvisyjlin/AttGAN-PyTorch `attgan.py` (one shortcut layer, no injection above the bottleneck, both the defaults).
    Reduced to three scales, since a code of 8x8 pixels of so few channels would lose the face; two residual blocks see
    as far as the two missing scales would. Told the difference of the attributes where the original is told the wanted
    ones.
    """

    def __init__(self, width: int = 24, scales: int = 3) -> None:
        super().__init__()
        channels = [width * 2**scale for scale in range(scales)]
        self.encoder = _encoder(channels)
        self.bottleneck = nn.Sequential(
            conv(channels[-1] + CONDITIONS, channels[-1], bias=False),
            batch_norm(channels[-1]),
            nn.ReLU(),
            *(Residual(channels[-1]) for _ in range(2)),
        )
        self.entry = up_block(channels[-1], channels[-1])
        self.decoder = nn.ModuleList()
        inputs = channels[-1] + channels[-2]
        for outputs in reversed(channels[1:-1]):
            self.decoder.append(up_block(inputs, outputs))
            inputs = outputs
        self.out = UpConv(inputs, 3)

    def forward(self, image: Tensor, difference: Tensor) -> Tensor:
        """Edit images; shapes and ranges as stated at the top of the module."""
        shortcut = x = image
        for layer in self.encoder:
            shortcut, x = x, layer(x)
        x = self.bottleneck(torch.cat([x, tile(difference, x)], 1))
        x = torch.cat([self.entry(x), shortcut], 1)
        for layer in self.decoder:
            x = layer(x)
        return torch.tanh(self.out(x))


class StarGAN(nn.Module):
    """Attributes joined to the pixels, two halvings, residual blocks, two transposed convolutions, 7x7 at both ends.

    Source: Choi et al., "StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image
    Translation", CVPR 2018, and yunjey/stargan `model.py`. Reduced to `width` channels; batch normalisation
    stands for instance normalisation, which in so small a network loses the photo's brightness; told the difference of
    the attributes where the original is told the wanted ones.
    """

    def __init__(self, width: int = 16, blocks: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3 + CONDITIONS, width, 7, bias=False),
            batch_norm(width),
            nn.ReLU(),
            halve(width, 2 * width, norm=True),
            halve(2 * width, 4 * width, norm=True),
            *(Residual(4 * width) for _ in range(blocks)),
            up_block(4 * width, 2 * width),
            up_block(2 * width, width),
            conv(width, 3, 7),
        )

    def forward(self, image: Tensor, difference: Tensor) -> Tensor:
        """Edit images; shapes and ranges as stated at the top of the module."""
        return torch.tanh(self.layers(torch.cat([image, tile(difference, image)], 1)))


class IcGAN(nn.Module):
    """An encoder to a code and a decoder from code and attributes, without a shortcut: the whole face is made anew.

    Source: Perarnau et al., "Invertible Conditional GANs for Image Editing", NIPS workshop 2016, and Guim3/IcGAN
    `trainEncoder.lua` (5x5 stride-2 convolutions) and `trainGAN.lua` (4x4 stride-2 `SpatialFullConvolution`, which is a
    transposed convolution; the paper of FakeLocator counts IcGAN as interpolating, its code says otherwise). The code
    is a map of a quarter of the side where the original has a vector of 100 numbers: with a vector the face would be
    another person's.
    """

    def __init__(self, width: int = 20, code: int = 28) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            halve(3, width, norm=True, kernel=5),
            halve(width, 3 * width, norm=True, kernel=5),
            conv(3 * width, code),
        )
        self.decoder = nn.Sequential(
            conv(code + CONDITIONS, 3 * width, bias=False),
            batch_norm(3 * width),
            nn.ReLU(),
            *(Residual(3 * width, dilation=dilation) for dilation in (2, 4, 8)),
            up_block(3 * width, 2 * width),
            UpConv(2 * width, 3),
        )

    def forward(self, image: Tensor, difference: Tensor) -> Tensor:
        """Edit images; shapes and ranges as stated at the top of the module."""
        code = self.encoder(image)
        return torch.tanh(self.decoder(torch.cat([code, tile(difference, code)], 1)))
