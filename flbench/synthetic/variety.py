"""Make renders vary beyond what the renderer can: framing, shape, colours, light, backgrounds, occluders, cameras.

What learns from renders and must work on photographs may rely on nothing but the arrangement of a face, so everything
else is drawn at random, wider than photographs are.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from flbench.data.fakeness import CLASSES

_BACKGROUND, _HAIR = CLASSES.index("background"), CLASSES.index("hair")
_RECOLOURED = (
    tuple(map(CLASSES.index, ("skin", "nose", "left_ear", "right_ear", "neck"))),
    (_HAIR,),
    tuple(map(CLASSES.index, ("left_brow", "right_brow"))),
    tuple(map(CLASSES.index, ("upper_lip", "lower_lip"))),
    tuple(map(CLASSES.index, ("mouth",))),
    tuple(map(CLASSES.index, ("cloth", "hat", "necklace", "earring"))),
    (_BACKGROUND,),
)
"""Groups of classes that get one random tint each."""

_TEXTURES = 9301


@lru_cache(maxsize=2)
def textures(count: int, size: int, *, seed: int = 0) -> Tensor:
    """Return pictures of nothing: clouds, shapes, stripes; half of them blurred; float32 (count, 3, size, size).

    Overlapping shapes of many sizes ("dead leaves": Lee, Mumford and Huang, IJCV 2001) have the edges and the spectrum
    of natural scenes.
    """
    rng = np.random.Generator(np.random.PCG64([_TEXTURES, seed]))
    makers: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (_clouds, _leaves, _leaves, _stripes)
    made = [makers[number % len(makers)](rng, size) for number in range(count)]
    sharp = torch.from_numpy(np.stack(made).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    blurred = F.avg_pool2d(F.pad(sharp, (4, 4, 4, 4), mode="reflect"), 9, 1)
    return torch.where((torch.arange(count) % 8 < 4).view(-1, 1, 1, 1), sharp, blurred)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise whose amplitude falls with a random power of the frequency, between two colours."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    amplitude = 1 / np.maximum(frequency, 1) ** rng.uniform(0.8, 2.5)
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    field = np.fft.irfft2(spectrum, (size, size))
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-9)
    first, second = rng.random((2, 3))
    return field[..., None] * first + (1 - field[..., None]) * second


def _leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Overlapping ellipses and polygons of random grays and colours."""
    base = rng.random(3)
    spread = rng.uniform(0.05, 0.6)

    def colour() -> tuple[int, ...]:
        return tuple(int(value) for value in np.clip(base + rng.normal(0, spread, 3), 0, 1) * 255)

    picture = Image.new("RGB", (size, size), colour())
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(5, 120))):
        radius = size * min(0.6, 0.03 * rng.pareto(1.6) + 0.02)
        x, y = rng.random(2) * size
        width, height = radius * rng.uniform(0.4, 1.6, 2)
        if rng.random() < 0.5:
            pen.ellipse((x - width, y - height, x + width, y + height), colour())
        else:
            turns = np.sort(rng.random(int(rng.integers(3, 7)))) * 2 * np.pi
            pen.polygon([(x + width * np.cos(turn), y + height * np.sin(turn)) for turn in turns], colour())
    return np.asarray(picture, np.float64) / 255


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """A gradient, with stripes of a random direction and width over it."""
    across, down = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    turn = rng.uniform(0, 2 * np.pi)
    along = across * np.cos(turn) + down * np.sin(turn)
    wave = np.sin(along * rng.uniform(2, 60) + rng.uniform(0, 6)) * rng.uniform(0, 0.25)
    first, second = rng.random((2, 3))
    ramp = (along[..., None] + 1.5) / 3
    return np.clip(first * ramp + second * (1 - ramp) + wave[..., None], 0, 1)


class Variety:
    """Vary batches of renders; what comes out is a function of the renders, the seed and the step.

    Args:
        size: Side of the images.
        mirrored: Class that each class becomes when the image is mirrored.
        seed: Seed of the training.
        count: Number of textures.
    """

    def __init__(self, *, size: int, mirrored: tuple[int, ...], seed: int, count: int = 400) -> None:
        self.seed = seed
        self.textures = textures(count, size, seed=seed)
        self.mirrored = torch.tensor(mirrored)

    def __call__(self, images: Tensor, classes: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Return varied images and their maps.

        Args:
            images: uint8 (B, 3, S, S).
            classes: uint8 (B, S, S).
            step: Number of the step.

        Returns:
            float32 (B, 3, S, S) in [0, 1] and int64 (B, S, S).
        """
        draw = _Draw(self.seed, step, len(images))
        x, y = self._frame(images.float() / 255, classes.long(), draw)
        x = self._tint(x, y, draw)
        x = self._fill(x, _soft(y == _BACKGROUND), draw, 0.65)
        x = self._fill(x, _soft(y == CLASSES.index("cloth")), draw, 0.5)
        x = self._light(x, draw)
        x, y = self._occlude(x, y, draw)
        return _camera(x.clamp_(0, 1), draw), y

    def _frame(self, x: Tensor, y: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
        """Mirror, turn, zoom, shift and bend; what lies outside repeats the border."""
        turn = draw.normal(0.17)
        zoom = torch.exp(draw.uniform(-0.5, 0.08))
        aspect = torch.exp(draw.normal(0.06))
        side = torch.where(draw.uniform(0, 1) < 0.5, -1.0, 1.0)
        cos, sin = torch.cos(turn) * zoom, torch.sin(turn) * zoom
        rows = [cos * side * aspect, -sin, draw.normal(0.08), sin * side, cos / aspect, draw.normal(0.08) - 0.05]
        theta = torch.stack(rows, 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        bend = F.interpolate(draw.field(2, 5, 0.035), size=x.shape[-2:], mode="bicubic", align_corners=True)
        grid = grid + bend.permute(0, 2, 3, 1)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        classes = y[:, None].float()
        y = F.grid_sample(classes, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0].long()
        return x, torch.where(side[:, None, None] < 0, self.mirrored[y], y)

    def _tint(self, x: Tensor, y: Tensor, draw: _Draw) -> Tensor:
        """Give each group of classes a gain and an offset of its own, with edges of three pixels."""
        count = len(x)
        gains, shifts = torch.ones(count, len(CLASSES), 3), torch.zeros(count, len(CLASSES), 3)
        for group in _RECOLOURED:
            wide = 2.0 if group != _RECOLOURED[0] else 1.0
            cast = draw.normal(0.22 * wide)[:, None] + draw.normals(3, 0.08 * wide)
            lift = draw.normals(3, 0.03 * wide) + draw.normal(0.05 * wide)[:, None]
            gains[:, group], shifts[:, group] = torch.exp(cast)[:, None], lift[:, None]
        image = torch.arange(count)[:, None, None]
        gain, shift = gains[image, y].permute(0, 3, 1, 2), shifts[image, y].permute(0, 3, 1, 2)
        some = (draw.uniform(0, 1) < 0.8).float().view(-1, 1, 1, 1)
        gain, shift = (F.avg_pool2d(field, 3, 1, 1, count_include_pad=False) for field in (gain, shift))
        return torch.lerp(x, (x * gain + shift).clamp(0, 1), some)

    def _fill(self, x: Tensor, inside: Tensor, draw: _Draw, share: float) -> Tensor:
        """Replace a region (B, 1, S, S) by a random texture in a share of the images."""
        chosen = self.textures[draw.integers(len(self.textures))]
        chosen = torch.where(draw.uniform(0, 1).view(-1, 1, 1, 1) < 0.5, chosen.flip(-1), chosen)
        some = (draw.uniform(0, 1) < share).float().view(-1, 1, 1, 1)
        return torch.lerp(x, chosen, inside * some)

    def _light(self, x: Tensor, draw: _Draw) -> Tensor:
        """Multiply by a slowly varying field: shadows and side light."""
        field = F.interpolate(draw.field(1, 3, 0.35), size=x.shape[-2:], mode="bicubic", align_corners=True)
        return x * torch.exp(field)

    def _occlude(self, x: Tensor, y: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
        """Put an ellipse of texture, which is background, before a share of the faces."""
        size = x.shape[-1]
        line = torch.linspace(-1, 1, size)
        across = (line[None, None, :] - draw.uniform(-1.1, 1.1).view(-1, 1, 1)) / draw.uniform(0.08, 0.45).view(
            -1, 1, 1
        )
        down = (line[None, :, None] - draw.uniform(-1.1, 1.1).view(-1, 1, 1)) / draw.uniform(0.08, 0.45).view(-1, 1, 1)
        inside = (across.square() + down.square() < 1) & (draw.uniform(0, 1).view(-1, 1, 1) < 0.12)
        x = torch.lerp(x, self.textures[draw.integers(len(self.textures))], _soft(inside))
        return x, y.masked_fill(inside, _BACKGROUND)


class _Draw:
    """The random numbers of one step, one per image unless said otherwise."""

    def __init__(self, seed: int, step: int, count: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64([_TEXTURES, seed, step, 1]))
        self.count = count

    def uniform(self, low: float, high: float) -> Tensor:
        return torch.from_numpy(self.rng.uniform(low, high, self.count).astype(np.float32))

    def normal(self, deviation: float) -> Tensor:
        return torch.from_numpy(self.rng.normal(0, deviation, self.count).astype(np.float32))

    def normals(self, columns: int, deviation: float) -> Tensor:
        return torch.from_numpy(self.rng.normal(0, deviation, (self.count, columns)).astype(np.float32))

    def field(self, channels: int, side: int, deviation: float) -> Tensor:
        shape = (self.count, channels, side, side)
        return torch.from_numpy(self.rng.normal(0, deviation, shape).astype(np.float32))

    def integers(self, below: int) -> Tensor:
        return torch.from_numpy(self.rng.integers(0, below, self.count))


def _soft(inside: Tensor) -> Tensor:
    """Return a mask (B, S, S) as float (B, 1, S, S) with edges of three pixels."""
    return F.avg_pool2d(inside[:, None].float(), 3, 1, 1, count_include_pad=False)


def _camera(x: Tensor, draw: _Draw) -> Tensor:
    """Take the photo anew: tone, saturation, white balance, blur, noise and JPEG, each in a share of the images."""

    def per_image(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    x = x.clamp(1e-3, 1) ** per_image(torch.exp(draw.normal(0.3)))
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * per_image(torch.exp(draw.normal(0.25))) + mean + per_image(draw.normal(0.06))
    gray = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = draw.uniform(0.2, 1.8) * (draw.uniform(0, 1) > 0.08)
    x = gray + (x - gray) * per_image(saturation)
    x = x * torch.exp(draw.normals(3, 0.08)).view(-1, 3, 1, 1)
    factors = torch.where(draw.uniform(0, 1) < 0.5, draw.uniform(1.2, 3), torch.ones(draw.count))
    size = x.shape[-1]
    for number, factor in enumerate(factors.tolist()):
        if factor > 1:
            small = F.interpolate(x[number : number + 1], size=round(size / factor), mode="bilinear", antialias=True)
            x[number] = F.interpolate(small, size=size, mode="bilinear", align_corners=False)[0]
    noise = torch.from_numpy(draw.rng.standard_normal(tuple(x.shape), dtype=np.float32))
    x = x + noise * per_image(draw.uniform(0, 0.05) * (draw.uniform(0, 1) < 0.6))
    x = x.clamp_(0, 1)
    qualities = torch.where(draw.uniform(0, 1) < 0.4, draw.uniform(30, 95), torch.zeros(draw.count))
    for number, quality in enumerate(qualities.tolist()):
        if quality:
            x[number] = _jpeg(x[number], int(quality))
    return x


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress and decompress one image (3, S, S) in [0, 1]."""
    buffer = io.BytesIO()
    pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
