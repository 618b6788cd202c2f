"""Noise residual: where the noise of an image is not the image's own, by a small denoiser fitted on photos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe, Training

from ._filters import check_positive, check_window, local_mean, saturate

FLOOR = 1e-6
"""Added to the residual's energy before the logarithm: a standard deviation of a quarter of a gray level."""

GAIN = 25.0
"""What the denoiser sees of a deviation from the local mean: ten gray levels are one."""


class NoiseResidual(NeuralLocator):
    """Baseline fitted on real photos only: how far the local noise level is from the one typical of the image.

    A small denoiser learns to tell white noise that was added to a photo; what it finds in an image to which none was
    added is the residual r. With E the logarithm of the mean of r^2 over channels and a window, and m its median over
    the image, the deviation is d = |E - m| / D, where D is the mean of |E - m| on the training photos; the map is
    d / (d + half). Neither fakes nor ground truth are looked at while fitting.

    It looks for an image whose parts differ in noise, as after splicing. A generator that paints the whole image anew
    leaves it more even than a camera does, and then photos are marked more than fakes: on made faces the AUROC is
    below one half.

    Where it departs from the papers: Noiseprint trains its residual on pairs of patches from many cameras, so that it
    is alike within a camera and different between them; a data set of faces names no camera, so here the residual is a
    plain denoiser's, after Zhang et al., shallower, without batch normalisation, and fed with the deviation from the
    local mean of 5 x 5 pixels. Noiseprint separates two kinds of noise in an image by expectation-maximisation over
    their local statistics; here the distance from the image's median does it. Hence there is no `paper` variant; `deep`
    has the depth, width and batch of Zhang et al.

    Loss: mean square error of the noise, over the photos of the batch.

    Args:
        depth: Number of 3 x 3 convolutions.
        width: Channels between them.
        least_noise: Smallest standard deviation of the noise that is added while fitting, in gray levels of 255.
        most_noise: Largest one; each photo draws its own in between.
        window: Side in pixels of the square over which the residual's energy is averaged, odd.
        half: Deviation, as a multiple of the photos' mean, at which the map is 0.5.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "Noise residual"
    paper = "Cozzolino and Verdoliva, Noiseprint, arXiv 1808.08396; Zhang et al., DnCNN, arXiv 1608.03981"
    licence = "Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deep": {"depth": 17, "width": 64, "most_noise": 55.0, "steps": None, "epochs": 50.0, "batch": 128}
    }

    def __init__(
        self,
        *,
        depth: int = 5,
        width: int = 24,
        least_noise: float = 1.0,
        most_noise: float = 10.0,
        window: int = 9,
        half: float = 2.0,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        if depth < 2:
            raise UsageError(f"depth={depth} is no denoiser", hint="at least 2")
        if not 0 < least_noise <= most_noise:
            hint = "the noise that is added lies between the two, in gray levels"
            raise UsageError(f"least_noise={least_noise} and most_noise={most_noise} are no range", hint=hint)
        self.depth = depth
        self.width = int(check_positive("width", width))
        self.noise = (least_noise / 255, most_noise / 255)
        self.window = check_window(window)
        self.half = check_positive("half", half)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the denoiser, at random: there are no pretrained weights."""
        return _Denoiser(self.depth, self.width)

    def fit(self, training: Training) -> None:
        """Let the denoiser be optimised, then measure how much photos deviate from their own noise level.

        Raises:
            MethodError: The training slice has no photo.
        """
        super().fit(training)
        module = cast(_Denoiser, self.module)
        total, count = 0.0, 0
        with torch.inference_mode():
            for batch in training.batches():
                photos = batch.images[batch.labels < 0.5]
                if len(photos):
                    total += float(self._deviation(module, photos).double().mean(dim=(1, 2)).sum())
                    count += len(photos)
        if count == 0:
            hint = "look at the protocol's fit"
            raise MethodError("noise_residual cannot be fitted: the training slice has no photo", hint=hint)
        module.spread.fill_(max(total / count, FLOOR))

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the mean square error of the noise added to the batch's photos, in squared gray levels.

        While fitting the noise is drawn anew; a state that is judged (evaluation mode) gets the same noise each time.
        """
        photos = batch.images[batch.labels < 0.5]
        draws = None if module.training else torch.Generator().manual_seed(0)
        level = torch.rand(len(photos), 1, 1, 1, generator=draws).to(photos.device)
        field = torch.randn(photos.shape, generator=draws).to(photos.device)
        noise = field * (self.noise[0] + level * (self.noise[1] - self.noise[0]))
        error = (module(photos + noise) - noise) * 255
        # A sum over a count: a batch without a photo costs nothing, where a mean would not be a number.
        return error.square().sum() / max(1, error.numel())

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return the map of deviations; the image score is left to the protocol's rule."""
        spread = cast(_Denoiser, module).spread
        return Prediction(saturate(self._deviation(module, images) / spread, self.half))

    def _deviation(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return |log energy - its median|, (B, H, W), of the residual of images."""
        energy = local_mean(module(images).float().square().mean(dim=1, keepdim=True), self.window)[:, 0]
        level = (energy.clamp_min(0) + FLOOR).log()
        return (level - level.flatten(1).median(dim=1).values.view(-1, 1, 1)).abs()


class _Denoiser(nn.Module):
    """Convolutions that tell the noise (B, 3, H, W) in images of that shape.

    Batch normalisation would make what is learnt on photos depend on the batch, so there is none; instead a pixel's
    local mean is taken off and what is left is brought to about one, in which noise is as large as the rest. `spread`
    is the mean deviation of photos from their own noise level, measured after fitting.
    """

    spread: Tensor

    def __init__(self, depth: int, width: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Return the noise of images."""
        return self.layers((images - local_mean(images, 5)) * GAIN) / GAIN
