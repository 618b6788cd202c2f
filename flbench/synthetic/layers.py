"""Building blocks of the small generators: the upsampling operators, normalisations and units of published GANs.

Feature maps are float32 (B, C, H, W). Every convolution that keeps or halves the size repeats the border: zero padding
would leave a frame that gives a fake away.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLE = 64
"""Length of a style vector."""


def tile(vector: Tensor, like: Tensor) -> Tensor:
    """Repeat a vector (B, C) over the pixels of a feature map."""
    return vector[:, :, None, None].expand(-1, -1, like.shape[2], like.shape[3])


def conv(inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution with an odd kernel that keeps the size."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, padding_mode="replicate", bias=bias)


def halve(inputs: int, outputs: int, *, norm: bool, kernel: int = 4) -> nn.Sequential:
    """Return a convolution with stride 2, with or without batch normalisation, and a leaky ReLU."""
    padding = (kernel - 1) // 2
    layer = nn.Conv2d(inputs, outputs, kernel, 2, padding, bias=not norm, padding_mode="replicate")
    return nn.Sequential(layer, *([batch_norm(outputs)] if norm else []), nn.LeakyReLU(0.2))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch normalisation whose running statistics follow slowly, as small batches ask for."""
    return nn.BatchNorm2d(channels, momentum=0.03)


def pixel_norm(x: Tensor) -> Tensor:
    """Normalise the feature vector of every pixel to unit mean square (Karras et al. 2018, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class UpConv(nn.Module):
    """Transposed convolution 4x4, stride 2, that doubles the side.

    The input is padded by repeating its border: with the usual zero padding the border pixels would miss a part of
    the kernel, and the output would carry a bright frame.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W)."""
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))


def up_block(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed convolution with batch normalisation and ReLU: the decoder layer of STGAN and AttGAN."""
    return nn.Sequential(UpConv(inputs, outputs, bias=False), batch_norm(outputs), nn.ReLU())


class LowPass(nn.Module):
    """Blur every channel by a separable binomial kernel, repeating the border.

    Args:
        taps: The kernel in one direction: (1, 2, 1) in StyleGAN's `blur2d`; (1, 3, 3, 1) in StyleGAN2's `upfirdn_2d`.
        gain: What the blur multiplies the mean by.
        shrink: Do not pad: the output is smaller by the kernel's length less one.
    """

    kernel: Tensor

    def __init__(self, taps: tuple[int, ...], *, gain: float = 1.0, shrink: bool = False) -> None:
        super().__init__()
        row = torch.tensor(taps, dtype=torch.float32)
        row = row / row.sum()
        self.register_buffer("kernel", gain * (row[:, None] * row[None, :])[None, None], persistent=False)
        self.padding = 0 if shrink else len(taps) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, blurred."""
        if self.padding:
            x = F.pad(x, (self.padding,) * 4, mode="replicate")
        return F.conv2d(x, self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


class SelectiveTransferUnit(nn.Module):
    """A gated recurrent unit over scales that decides which encoder features reach the decoder.

    Source: Liu et al., "STGAN: A Unified Selective Transfer Network for Arbitrary Image Attribute Editing", CVPR 2019,
    section 3.2; the state is upsampled by a transposed convolution as in csmliu/STGAN `models.py`.
    """

    def __init__(self, features: int, state: int) -> None:
        super().__init__()
        self.up = UpConv(state, features)
        self.gates = conv(2 * features, 2 * features)
        self.candidate = conv(2 * features, features)

    def forward(self, encoded: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transferred features and the new state, both of the shape of `encoded`."""
        state = self.up(state)
        reset, update = torch.sigmoid(self.gates(torch.cat([encoded, state], 1))).chunk(2, 1)
        kept = reset * state
        candidate = torch.tanh(self.candidate(torch.cat([encoded, kept], 1)))
        return (1 - update) * state + update * candidate, kept


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut: StarGAN's bottleneck block.

    Args:
        channels: Channels in and out.
        dilation: Of the first convolution: how far a block sees in a network with few of them.
    """

    def __init__(self, channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(channels, channels, dilation=dilation, bias=False),
            batch_norm(channels),
            nn.ReLU(),
            conv(channels, channels, bias=False),
            batch_norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what the layers make of it."""
        return x + self.layers(x)


class Noise(nn.Module):
    """Add one field of Gaussian noise, scaled per channel (StyleGAN) or by one number (StyleGAN2).

    The field is fixed: drawn once from a seed, as the official code does when `randomize_noise` is off, since an editor
    has to give the same picture twice. It is larger than any picture made here; a field that repeats would leave lines
    in the spectrum.
    """

    field: Tensor
    _SIDE = 512

    def __init__(self, channels: int, *, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(1, 1, self._SIDE, self._SIDE, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("field", drawn, persistent=False)
        self.strength = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with noise."""
        rows, columns = (-(-side // self._SIDE) for side in x.shape[2:])
        field = self.field.repeat(1, 1, rows, columns)[:, :, : x.shape[2], : x.shape[3]]
        return x + self.strength * field


class NearestStage(nn.Module):
    """PGGAN's scale: nearest-neighbour upsampling, then twice a 3x3 convolution, leaky ReLU and pixel normalisation.

    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018; tkarras/progressive_growing_of_gans `networks.py`
    (`upscale2d`, which `upscale2d_conv2d` only fuses with the convolution).
    """

    def __init__(self, inputs: int, outputs: int, *, seed: int) -> None:
        super().__init__()
        del seed
        self.up, self.refine = conv(inputs, outputs), conv(outputs, outputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W); the style is not used."""
        x = pixel_norm(F.leaky_relu(self.up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2))
        return pixel_norm(F.leaky_relu(self.refine(x), 0.2))


class AdaptiveNorm(nn.Module):
    """Instance normalisation, then scale and shift from the style: AdaIN (Huang and Belongie, ICCV 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(STYLE, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Return x with the style's mean and deviation in every channel."""
        scale, shift = self.affine(style)[:, :, None, None].chunk(2, 1)
        return F.instance_norm(x) * (1 + scale) + shift


class AdaptiveStage(nn.Module):
    """StyleGAN's scale: nearest upsampling, 3x3 convolution, [1 2 1] blur; noise, leaky ReLU and AdaIN after each.

    Source: Karras et al., "A Style-Based Generator Architecture", CVPR 2019; NVlabs/stylegan
    `training/networks_stylegan.py` (`upscale2d`, `blur2d`, `layer_epilogue`).
    """

    def __init__(self, inputs: int, outputs: int, *, seed: int) -> None:
        super().__init__()
        self.up, self.refine = conv(inputs, outputs), conv(outputs, outputs)
        self.blur = LowPass((1, 2, 1))
        self.noise = nn.ModuleList(Noise(outputs, seed=seed + layer) for layer in range(2))
        self.norms = nn.ModuleList(AdaptiveNorm(outputs) for _ in range(2))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W)."""
        x = self.blur(self.up(F.interpolate(x, scale_factor=2, mode="nearest")))
        x = self.norms[0](F.leaky_relu(self.noise[0](x), 0.2), style)
        return self.norms[1](F.leaky_relu(self.noise[1](self.refine(x)), 0.2), style)


class ModulatedConv(nn.Module):
    """3x3 convolution whose weights are scaled by the style and normalised again; with `up`, it doubles the side.

    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 2.2;
    NVlabs/stylegan2 `training/networks_stylegan2.py` (`modulated_conv2d_layer`, and the upsampling as a stride-2
    transposed convolution followed by the [1 3 3 1] filter). Scaling the input and the output instead of the weights
    is the same and needs one convolution per batch.
    """

    def __init__(self, inputs: int, outputs: int, *, up: bool, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / (3 * inputs**0.5))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.modulate = nn.Linear(STYLE, inputs)
        nn.init.ones_(self.modulate.bias)
        self.noise = Noise(1, seed=seed)
        self.blur = LowPass((1, 3, 3, 1), gain=4, shrink=True) if up else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W) or (B, C', 2H, 2W)."""
        scale = self.modulate(style)
        norm = torch.rsqrt(scale.float().square() @ self.weight.square().sum((2, 3)).T + 1e-8)
        x = F.pad(x * scale[:, :, None, None], (1, 1, 1, 1), mode="replicate")
        if self.blur is None:
            x = F.conv2d(x, self.weight)
        else:
            # 2H + 5, less the border that the repeated pixels do not fully cover: 2H + 3, and 2H after the blur.
            x = self.blur(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)[:, :, 1:-1, 1:-1])
        x = self.noise(x * norm[:, :, None, None]) + self.bias
        return F.leaky_relu(x, 0.2) * 1.4


class ModulatedStage(nn.Module):
    """StyleGAN2's scale: an upsampling and a plain modulated convolution."""

    def __init__(self, inputs: int, outputs: int, *, seed: int) -> None:
        super().__init__()
        self.up = ModulatedConv(inputs, outputs, up=True, seed=seed)
        self.refine = ModulatedConv(outputs, outputs, up=False, seed=seed + 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W)."""
        return self.refine(self.up(x, style), style)
