"""The camera: linear light becomes an 8-bit photo with the traces of optics, sensor, demosaicing and resizing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

OVERSAMPLING = 1.25
"""Sensor pixels per output pixel: at 1.0 the colour filter array would leave peaks where GAN checkerboards live."""


@dataclass(frozen=True)
class Camera:
    """One camera: what its optics, sensor and processing do to the light."""

    stream: int
    """Of random numbers: two cameras share no noise."""
    exposure: tuple[float, float]
    """Factor on linear light, drawn per photo between these."""
    blur: float
    """Outer taps of the optics' kernel of three pixels."""
    shot_noise: float
    """Variance per linear light at the highest sensitivity."""
    read_noise: float
    """Variance in the dark at the highest sensitivity."""
    contrast: float
    """Strength of the S-curve on sRGB values."""
    balance: float
    """Largest error of the white balance, as a share of red and of blue."""
    saturation: float
    sharpening: float
    """Share of the unsharp mask that is added after demosaicing."""
    vignetting: float
    """Light lost in the corners."""
    jpeg: int = 0
    """Quality of the JPEG file it saves, with colours at half the resolution; 0: a file without loss."""


CAMERAS: Mapping[str, Camera] = {
    "compact": Camera(
        stream=9104,
        exposure=(0.86, 1.16),
        blur=0.12,
        shot_noise=9e-4,
        read_noise=1.2e-5,
        contrast=0.30,
        balance=0.03,
        saturation=1.05,
        sharpening=0.0,
        vignetting=0.0,
    ),
    "phone": Camera(
        stream=9107,
        exposure=(0.95, 1.30),
        blur=0.17,
        shot_noise=5e-4,
        read_noise=1.0e-5,
        contrast=0.50,
        balance=0.07,
        saturation=1.14,
        sharpening=0.5,
        vignetting=0.22,
    ),
    "webcam": Camera(
        stream=9108,
        exposure=(0.75, 1.10),
        blur=0.25,
        shot_noise=1e-3,
        read_noise=3e-5,
        contrast=-0.1,
        balance=0.12,
        saturation=0.8,
        sharpening=3.5,
        vignetting=0.10,
        jpeg=80,
    ),
}
"""Photos to learn from, to test on, and of guests are taken with three; the last is poorer than the other two.

Those who train a generator are photographed by the first two, so a new camera stands last.
"""


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
def photograph(linear: Tensor, seeds: Sequence[int], size: int, camera: str = "compact") -> Tensor:
    """Take photos: optics, RGGB mosaic, shot and read noise, demosaicing, colours, sharpening, resize, 8 bit, JPEG.

    Args:
        linear: Linear-light RGB, float32 (B, 3, S, S); S = `sensor_size(size)` for photos without mosaic peaks.
        seeds: One per photo; decides exposure, sensitivity, white balance and the noise.
        size: Side of the photo.
        camera: One of `CAMERAS`.

    Returns:
        uint8 (B, 3, size, size), sRGB.

    Raises:
        ValueError: If there is no such camera.
    """
    if camera not in CAMERAS:
        raise ValueError(f"no camera {camera!r}; known: {', '.join(CAMERAS)}")
    model, side = CAMERAS[camera], linear.shape[-1]
    streams = [np.random.Generator(np.random.PCG64([model.stream, seed])) for seed in seeds]
    exposure = _per_photo([stream.uniform(*model.exposure) for stream in streams])
    sensitivity = _per_photo([stream.uniform(0.3, 1.0) for stream in streams])
    balance = torch.tensor(np.stack([stream.uniform(-1, 1, 2) for stream in streams]), dtype=torch.float32)
    noise = torch.from_numpy(
        np.stack([stream.standard_normal((1, side, side), dtype=np.float32) for stream in streams])
    )
    light = _blur(linear * exposure, model.blur)
    if model.vignetting:
        light *= _vignette(side, model.vignetting)
    plane = mosaic(light.clamp_(0, 1))
    plane += noise * torch.sqrt(plane * model.shot_noise + model.read_noise) * sensitivity
    rgb = demosaic(plane.clamp_(0, 1))
    rgb[:, 0::2] *= 1 + model.balance * balance[:, :, None, None]
    if model.saturation != 1:
        grey = rgb.mean(1, keepdim=True)
        rgb = grey + (rgb - grey) * model.saturation
    encoded = encode_srgb(rgb.clamp_(0, 1))
    encoded += model.contrast * (encoded - 0.5) * (1 - (2 * encoded - 1).abs())
    if model.sharpening:
        encoded += model.sharpening * (encoded - _blur(encoded, 0.25))
    if side != size:
        encoded = F.interpolate(encoded, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    photos = encoded.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return _saved(photos, model.jpeg) if model.jpeg else photos


def resize_classes(classes: Tensor, size: int) -> Tensor:
    """Bring parsing maps uint8 (B, S, S) to (B, size, size) by the nearest class; no class is mixed."""
    if classes.shape[-1] == size:
        return classes
    return F.interpolate(classes[:, None].float(), size=(size, size), mode="nearest-exact")[:, 0].to(torch.uint8)


def _saved(photos: Tensor, quality: int) -> Tensor:
    """Take photos uint8 (B, 3, S, S) once through JPEG."""
    decoded = []
    for photo in photos.permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        decoded.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def _per_photo(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


@cache
def _vignette(side: int, strength: float) -> Tensor:
    """Return the falling light towards the corners (side, side): one in the middle, `1 - strength` in the corners."""
    axis = ((torch.arange(side, dtype=torch.float32) + 0.5) / side * 2 - 1).square_()
    return 1 - strength * (axis[:, None] + axis[None]) / 2


def _blur(rgb: Tensor, tap: float) -> Tensor:
    """Blur with the separable kernel [tap, 1 - 2 tap, tap]."""
    padded = F.pad(rgb, (1, 1, 1, 1), mode="reflect")
    rows = tap * (padded[..., :-2, :] + padded[..., 2:, :]) + (1 - 2 * tap) * padded[..., 1:-1, :]
    return tap * (rows[..., :-2] + rows[..., 2:]) + (1 - 2 * tap) * rows[..., 1:-1]
