"""The camera: linear light becomes an 8-bit photo with the traces of optics, sensor, demosaicing and resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLING = 1.25
"""Sensor pixels per output pixel: at 1.0 the colour filter array would leave peaks where GAN checkerboards live."""

_CAMERA_STREAM = 9104


def _kernel(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None] / 8


# Malvar, He and Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color images", 2004.
_GREEN = _kernel([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]])
_ROW = _kernel([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]])
_COLUMN = _ROW.transpose(2, 3).contiguous()
_DIAGONAL = _kernel([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]])
_MALVAR = torch.cat([_GREEN, _ROW, _COLUMN, _DIAGONAL])


def sensor_size(size: int) -> int:
    """Return the side of the render for a photo of `size` pixels: `OVERSAMPLING` times as large, and even."""
    return 2 * round(size * OVERSAMPLING / 2)


def mosaic(rgb: Tensor) -> Tensor:
    """Keep one colour per pixel in the RGGB order: (B, 3, S, S) -> (B, 1, S, S), S even."""
    plane = rgb[:, 1:2].clone()
    plane[:, 0, 0::2, 0::2] = rgb[:, 0, 0::2, 0::2]
    plane[:, 0, 1::2, 1::2] = rgb[:, 2, 1::2, 1::2]
    return plane


def demosaic(plane: Tensor) -> Tensor:
    """Interpolate the missing colours of an RGGB plane (B, 1, S, S) -> (B, 3, S, S) after Malvar, He and Cutler."""
    estimates = F.conv2d(F.pad(plane, (2, 2, 2, 2), mode="reflect"), _MALVAR)
    green, row, column, diagonal = estimates.unbind(1)
    red_out, green_out, blue_out = plane[:, 0].clone(), plane[:, 0].clone(), plane[:, 0].clone()
    for out, own, other in ((red_out, row, column), (blue_out, column, row)):
        out[:, 0::2, 1::2] = own[:, 0::2, 1::2]
        out[:, 1::2, 0::2] = other[:, 1::2, 0::2]
    red_out[:, 1::2, 1::2] = diagonal[:, 1::2, 1::2]
    blue_out[:, 0::2, 0::2] = diagonal[:, 0::2, 0::2]
    green_out[:, 0::2, 0::2] = green[:, 0::2, 0::2]
    green_out[:, 1::2, 1::2] = green[:, 1::2, 1::2]
    return torch.stack([red_out, green_out, blue_out], 1)


def encode_srgb(linear: Tensor) -> Tensor:
    """Apply the sRGB transfer curve to linear light in [0, 1]."""
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-6).pow(1 / 2.4) - 0.055)


@torch.no_grad()
def photograph(linear: Tensor, seeds: Sequence[int], size: int) -> Tensor:
    """Take photos: blur, RGGB mosaic, shot and read noise, demosaicing, sRGB with a mild S-curve, resize, 8 bit.

    Args:
        linear: Linear-light RGB, float32 (B, 3, S, S); S = `sensor_size(size)` for photos without mosaic peaks.
        seeds: One per photo; decides exposure, sensitivity and the noise.
        size: Side of the photo.

    Returns:
        uint8 (B, 3, size, size), sRGB.
    """
    side = linear.shape[-1]
    streams = [np.random.Generator(np.random.PCG64([_CAMERA_STREAM, seed])) for seed in seeds]
    exposure = _per_photo([stream.uniform(0.74, 0.98) for stream in streams])
    sensitivity = _per_photo([stream.uniform(0.3, 1.0) for stream in streams])
    noise = torch.from_numpy(
        np.stack([stream.standard_normal((1, side, side), dtype=np.float32) for stream in streams])
    )
    plane = mosaic(_blur(linear * exposure).clamp_(0, 1))
    plane += noise * torch.sqrt(plane * 9e-4 + 1.2e-5) * sensitivity
    encoded = encode_srgb(demosaic(plane.clamp_(0, 1)).clamp_(0, 1))
    encoded += 0.10 * (encoded - 0.5) * (1 - (2 * encoded - 1).abs())
    if side != size:
        encoded = F.interpolate(encoded, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return encoded.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def resize_classes(classes: Tensor, size: int) -> Tensor:
    """Bring parsing maps uint8 (B, S, S) to (B, size, size) by the nearest class; no class is mixed."""
    if classes.shape[-1] == size:
        return classes
    return F.interpolate(classes[:, None].float(), size=(size, size), mode="nearest-exact")[:, 0].to(torch.uint8)


def _per_photo(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def _blur(rgb: Tensor) -> Tensor:
    """Blur with the separable kernel [.12, .76, .12]: the optics."""
    padded = F.pad(rgb, (1, 1, 1, 1), mode="reflect")
    rows = 0.12 * (padded[..., :-2, :] + padded[..., 2:, :]) + 0.76 * padded[..., 1:-1, :]
    return 0.12 * (rows[..., :-2] + rows[..., 2:]) + 0.76 * rows[..., 1:-1]
