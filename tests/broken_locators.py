"""Locators that each break one rule of the contract, for the tests of the conformance checks.

The name of a class says which rule, and `BREAKS` which check has to find it. They are entry points of a distribution
that the tests make up, so that the registry finds them as it finds any plugin.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flbench.locator import Batch, Locator, NeuralLocator, Prediction, Recipe, Training

BREAKS: dict[str, tuple[str, str]] = {}
"""Name of a method: the check that it fails, and a part of what is said."""


def breaks(check: str, said: str) -> Any:
    """Note which check a class fails."""

    def note(kind: type) -> type:
        BREAKS[kind.__name__] = check, said
        return kind

    return note


class Good(Locator):
    """Takes bright pixels for fake, and keeps every rule.

    Args:
        power: Exponent of the brightness.
    """

    title = "Good"
    paper = "unpublished"
    licence = "Apache-2.0"
    variants = {"steep": {"power": 2.0}}  # noqa: RUF012

    def __init__(self, *, power: float = 1.0) -> None:
        self.power = power

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1) ** self.power)


class Fitted(Locator):
    """Takes bright pixels for fake, at a threshold that is the mean of the training images."""

    title = "Fitted"
    paper = "unpublished"
    licence = "Apache-2.0"

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def fit(self, training: Training) -> None:
        self.state = {"mean": torch.stack([batch.images.mean() for batch in training.batches()]).mean()}

    def predict(self, images: Tensor) -> Prediction:
        return Prediction((images.mean(dim=1) - self.state["mean"]).sigmoid(), torch.full((len(images),), 0.5))

    def save(self, folder: Path) -> None:
        save_file(self.state, folder / "weights.safetensors")

    def load(self, folder: Path) -> None:
        self.state = load_file(folder / "weights.safetensors")


class Net(NeuralLocator):
    """Takes for fake what one convolution does."""

    title = "Net"
    paper = "unpublished"
    licence = "Apache-2.0"

    def __init__(self) -> None:
        super().__init__(recipe=Recipe(steps=1))

    def build(self, *, pretrained: bool) -> nn.Module:
        return nn.Conv2d(3, 1, 3, padding=1)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return (self.forward(module, batch.images).fakeness - batch.fakeness).abs().mean()

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        return Prediction(module(images).squeeze(1).sigmoid())


@breaks("loads", "no CUDA here")
class RaisesWhenMade(Good):
    """Cannot be made."""

    title = "x"

    def __init__(self) -> None:
        raise RuntimeError("no CUDA here")


@breaks("loads", "does not derive from Locator")
class NoLocator:
    """Is something else."""

    title = "x"


@breaks("title", "states no title")
class BlankTitle(Good):
    """Has a blank title."""

    title = " "


@breaks("docstring", "has no docstring")
class NoDocstring(Good):
    title = "x"
    variants = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


@breaks("docstring", "not with a full stop")
class HeadlineDocstring(Good):
    """Bright Pixels"""

    title = "x"
    variants = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


@breaks("docstring", "at most 120")
class LongDocstring(Good):
    """Takes for fake whatever is bright, which is not what anybody would do, but somebody has to, and so it is done here, by this."""  # noqa: E501

    title = "x"
    variants = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


@breaks("paper", "states no paper")
class NoPaper(Locator):
    """Cites nothing."""

    title = "x"
    licence = "Apache-2.0"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1))


@breaks("licence", "states no licence")
class NoLicence(Locator):
    """Grants nothing."""

    title = "x"
    paper = "unpublished"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1))


@breaks("paper", "a listing reads ''")
class ComputedPaper(Locator):
    """Computes its paper."""

    title = "x"
    paper = "arXiv " + str(2001)
    licence = "Apache-2.0"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1))


@breaks("options", "not keyword-only: power")
class PositionalOption(Good):
    """Takes its option by place."""

    title = "x"
    variants = {}  # noqa: RUF012

    def __init__(self, power: float = 1.0) -> None:
        super().__init__(power=power)


@breaks("options", "does not describe gamma")
class UntoldOption(Good):
    """Does not tell its option."""

    title = "x"

    def __init__(self, *, power: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__(power=power * gamma)


@breaks("options", "JSON does not give back")
class SetOption(Good):
    """Has an option that JSON does not know.

    Args:
        power: Exponent of the brightness.
        channels: Which colours count.
    """

    title = "x"

    def __init__(self, *, power: float = 1.0, channels: tuple[int, ...] = (0, 1)) -> None:
        super().__init__(power=power)


@breaks("variants", "sets gamma, which is no option")
class UnknownVariant(Good):
    """Has a variant of an option that is not there.

    Args:
        power: Exponent of the brightness.
    """

    title = "x"
    variants = {"steep": {"gamma": 2.0}}  # noqa: RUF012

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__(power=power)


@breaks("variants", "steep cannot be made")
class RefusedVariant(Good):
    """Refuses its own variant.

    Args:
        power: Exponent of the brightness.
    """

    title = "x"

    def __init__(self, *, power: float = 1.0) -> None:
        if power > 1:
            raise ValueError("too steep")
        super().__init__(power=power)


@breaks("skip", "it gave False")
class FalseSkip(Good):
    """Says False where it means None."""

    title = "x"

    def skip(self, protocol: Any) -> Any:
        return False


@breaks("images alone", "predict takes images, labels")
class WantsLabels(Good):
    """Would like to know the labels."""

    title = "x"

    def predict(self, images: Tensor, labels: Tensor | None = None) -> Prediction:
        return Prediction(images.mean(dim=1))


@breaks("fit", "no parsing maps here")
class CannotFit(Fitted):
    """Cannot be fitted."""

    title = "x"

    def fit(self, training: Training) -> None:
        raise ValueError("no parsing maps here")


@breaks("fit", "the loss is nan")
class NanLoss(Net):
    """Has a loss that is not a number."""

    title = "x"

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return super().loss(module, batch) * float("nan")


@breaks("fit", "expected a finite scalar")
class LossPerImage(Net):
    """Has one loss per image."""

    title = "x"

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.forward(module, batch.images).fakeness.mean(dim=(1, 2))


@breaks("files", "it wrote weights.pkl")
class Pickles(Fitted):
    """Saves a pickle."""

    title = "x"

    def save(self, folder: Path) -> None:
        (folder / "weights.pkl").write_bytes(pickle.dumps(float(self.state["mean"])))

    def load(self, folder: Path) -> None:
        self.state = {"mean": torch.tensor(pickle.loads((folder / "weights.pkl").read_bytes()))}


@breaks("no training data", "16 give")
class Hoards(Fitted):
    """Keeps the images it was fitted on."""

    title = "x"

    def fit(self, training: Training) -> None:
        super().fit(training)
        self.state["images"] = torch.cat([batch.images for batch in training.batches()])


@breaks("prediction", "predict returned Tensor")
class ReturnsTensor(Good):
    """Returns a bare tensor."""

    title = "x"

    def predict(self, images: Tensor) -> Any:
        return images.mean(dim=1)


@breaks("prediction", "fakeness is ndarray")
class ReturnsArray(Good):
    """Returns an array of numpy."""

    title = "x"

    def predict(self, images: Tensor) -> Any:
        return Prediction(images.mean(dim=1).numpy())  # type: ignore[arg-type]


@breaks("shape", "give a map (3, 1, 64, 64), expected (3, 64, 64)")
class KeepsChannel(Good):
    """Keeps the channel."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1, keepdim=True))


@breaks("odd sizes", "expected (2, 61, 83)")
class MultiplesOf32(Good):
    """Cuts images to multiples of 32."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1)[:, : images.shape[2] // 32 * 32, : images.shape[3] // 32 * 32])


@breaks("odd sizes", "expected (2, 61, 83)")
class SwapsSides(Good):
    """Takes width for height."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1).transpose(1, 2) * 0)


@breaks("one image", "give a map (64, 64), expected (1, 64, 64)")
class BareSqueeze(Good):
    """Squeezes the batch away."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1, keepdim=True).squeeze())


@breaks("dtype", "fakeness is torch.float64")
class Doubles(Good):
    """Computes in double."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.double().mean(dim=1))


@breaks("range", "fakeness is in 0.814..2.54")
class SumsColours(Good):
    """Adds where it should average."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.sum(dim=1))


@breaks("finite", "fakeness has NaN or infinity for an image of one colour")
class DividesByZero(Good):
    """Divides by the deviation."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        gray = images.mean(dim=1)
        deviation = gray.std(dim=(1, 2), keepdim=True)
        return Prediction(((gray - gray.mean(dim=(1, 2), keepdim=True)) / deviation).sigmoid())


@breaks("score", "score is torch.float32 (3, 1)")
class ScoreColumn(Good):
    """Gives scores as a column."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1), images.mean(dim=(2, 3)).mean(dim=1, keepdim=True))


@breaks("score", "score is in 2..2")
class ScoreLogit(Good):
    """Gives a logit for a probability."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1), torch.full((len(images),), 2.0))


@breaks("batch", "image 1 of 3 alone and in the batch: fakeness differs")
class NormalisesBatch(Good):
    """Subtracts the mean of the batch."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction((images.mean(dim=1) - images.mean()).sigmoid())


@breaks("batch", "score differs")
class RanksScores(Good):
    """Scores an image by its place in the batch."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        return Prediction(images.mean(dim=1), torch.arange(len(images)) / 10)


@breaks("determinism", "fakeness differs")
class CountsCalls(Good):
    """Darkens with each call of one size."""

    title = "x"
    calls = 0

    def predict(self, images: Tensor) -> Prediction:
        self.calls += len(images) == 3
        return Prediction(images.mean(dim=1) * (1 - 1e-6 * self.calls))


@breaks("in place", "predict changed the images")
class ChangesInput(Good):
    """Centres the images that it was given."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        images -= images.mean(dim=(1, 2, 3), keepdim=True)
        return Prediction(images.mean(dim=1).sigmoid())


@breaks("manners", "it changed torch's random numbers")
class SeedsTorch(Good):
    """Seeds torch's generator for everybody."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        torch.manual_seed(0)
        return Prediction(torch.rand(1).clamp(0, 1) * images.mean(dim=1))


@breaks("manners", "it changed numpy's random numbers, Python's random numbers")
class SeedsOthers(Good):
    """Seeds the other generators for everybody."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        np.random.seed(0)
        random.seed(0)
        return Prediction(images.mean(dim=1))


@breaks("manners", "it changed torch's thread count, the working folder, torch's default dtype")
class SetsUpProcess(Fitted):
    """Sets the process up as it likes, while it is fitted."""

    title = "x"

    def fit(self, training: Training) -> None:
        super().fit(training)
        torch.set_num_threads(torch.get_num_threads() + 1)
        os.chdir(Path.cwd().parent)
        torch.set_default_dtype(torch.float64)


@breaks("manners", "it changed the gradient mode")
class StopsGradients(Good):
    """Turns gradients off for everybody."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        torch.set_grad_enabled(False)
        return Prediction(images.mean(dim=1))


@breaks("round trip", "fakeness differs")
class SavesRounded(Fitted):
    """Saves half of the digits."""

    title = "x"

    def save(self, folder: Path) -> None:
        save_file({"mean": self.state["mean"].half()}, folder / "weights.safetensors")


@breaks("round trip", "KeyError")
class ForgetsToLoad(Fitted):
    """Loads nothing."""

    title = "x"

    def load(self, folder: Path) -> None:
        pass


class HereOnly(Fitted):
    """Rests on what the first process has imported, once it is loaded; only a fresh one tells."""

    title = "x"

    def predict(self, images: Tensor) -> Prediction:
        if "pytest" not in sys.modules and self.state:
            raise RuntimeError("this is another process")
        return super().predict(images)
