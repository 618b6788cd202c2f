"""The mean ground truth of the training slice, whatever the image."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from flbench.errors import MethodError
from flbench.locator import WEIGHTS, Prediction, Reference, Training

from ._networks import resize, size_of


class MeanMap(Reference):
    """Reference row: the mean fakeness map of the training fakes, whatever the image; strong on aligned faces."""

    title = "Mean map"
    licence = "Apache-2.0"
    reference = True

    def __init__(self) -> None:
        self.mean: Tensor | None = None

    def fit(self, training: Training) -> None:
        """Average the ground truth over the fakes of the training slice.

        Raises:
            MethodError: The training slice has no fake.
        """
        total: Tensor | None = None
        count = 0
        for batch in training.batches():
            fakes = batch.fakeness[batch.labels > 0.5].double()
            part = fakes.sum(dim=0)
            total = part if total is None else total + part
            count += len(fakes)
        if total is None or count == 0:
            raise MethodError(
                "meanmap cannot average: the training slice has no fake", hint="look at the protocol's fit"
            )
        self.mean = (total / count).float().clamp(0, 1)

    def predict(self, images: Tensor) -> Prediction:
        """Return the mean map for every image, resized (antialiased bilinear) where its size is another.

        Raises:
            MethodError: Neither fitted nor loaded.
        """
        if self.mean is None:
            raise MethodError("MeanMap predicts before it was fitted", hint="call fit or load first")
        mean = resize(self.mean.to(images.device)[None], size_of(images)).clamp(0, 1)
        return Prediction(mean.repeat(len(images), 1, 1))

    def save(self, folder: Path) -> None:
        """Write the mean map as safetensors.

        Raises:
            MethodError: Nothing was fitted.
        """
        from safetensors.torch import save_file

        if self.mean is None:
            raise MethodError("MeanMap has nothing to save", hint="fit it first")
        save_file({"mean": self.mean.cpu().contiguous()}, folder / WEIGHTS)

    def load(self, folder: Path) -> None:
        """Read the mean map back.

        Raises:
            MethodError: The file is missing or damaged, or holds something else than one finite map in [0, 1].
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / WEIGHTS
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise MethodError(f"{path.name} of {folder.name} cannot be read: {error}", hint="fit again") from error
        mean = state.get("mean")
        if len(state) != 1 or mean is None or mean.ndim != 2 or not bool(((mean >= 0) & (mean <= 1)).all()):
            raise MethodError(f"{path.name} of {folder.name} does not hold one map in [0, 1]", hint="fit again")
        self.mean = mean.float()

    @property
    def parameters(self) -> int:
        """Number of pixels of the mean map."""
        return 0 if self.mean is None else self.mean.numel()
