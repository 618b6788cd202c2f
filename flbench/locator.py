"""The plugin contract: a locator maps images to fakeness maps.

A method is one file with one class that derives from `Locator`, or from `NeuralLocator` when it is a network to be
fitted. Everything a method may know is on this page: it never sees file names, labels or ground truth while predicting.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flbench.checkpoints import read_checkpoint
from flbench.errors import MethodError
from flbench.recipe import KEYWORD, Recipe, recipe_options

if TYPE_CHECKING:
    from flbench.protocol import Protocol

WEIGHTS = "weights.safetensors"


class Prediction(NamedTuple):
    """What a locator says about a batch of images.

    Attributes:
        fakeness: float32 (B, H, W) in [0, 1], the same H, W as the images; 0 real, 1 fake.
        score: float32 (B,) in [0, 1], probability that the image is fake; None: the protocol's rule derives it.
    """

    fakeness: Tensor
    score: Tensor | None = None


class Unanswered(Exception):
    """Raised by `predict` where some images of a batch have no map; the others are scored all the same.

    Args:
        prediction: Of the whole batch; the maps of unanswered images are not looked at.
        reasons: Place in the batch to why there is no map.
    """

    def __init__(self, prediction: Prediction, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values()), ""))
        self.prediction = prediction
        self.reasons = reasons


class Batch(NamedTuple):
    """What a locator is fitted on, all on one device.

    Attributes:
        images: float32 (B, 3, H, W) in [0, 1].
        fakeness: float32 (B, H, W) in [0, 1], ground truth; zeros for a real image.
        labels: float32 (B,), 1 fake, 0 real.
        attention: float32 (B, H, W) in [0, 1], face attention map; ones where the data set has no parsing map, and
            for real images.
    """

    images: Tensor
    fakeness: Tensor
    labels: Tensor
    attention: Tensor


Loss = Callable[[nn.Module, Batch], Tensor]


class Training(ABC):
    """What the harness hands to `Locator.fit`: the training slice and the loop that optimises a module on it.

    Attributes:
        seed: The seed of this fit; torch's generators are already seeded with it.
        size: Height and width of the images in pixels.
        device: Where batches are and where the module is optimised.
        attention: Whether the training slice has parsing maps, so that face attention maps are not all white.
    """

    seed: int
    size: int
    device: torch.device
    attention: bool

    @abstractmethod
    def batches(self, *, batch: int = 32) -> Iterator[Batch]:
        """Yield the training slice once, in a fixed order, without augmentation."""

    @abstractmethod
    def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
        """Fit `module` in place: steps, precision, checkpoints, resuming and early stop are the harness's."""


class Locator(ABC):
    """A method that says, pixel by pixel, where a GAN manipulated a face image.

    Class attributes are read without importing the file, so they are plain literals. Options are the keyword-only
    arguments of `__init__`, with literal defaults.

    Attributes:
        title: Name to print.
        paper: Citation or link.
        licence: Licence of the method's code, and of weights it may load.
        variants: Named sets of options, addressed as `method:variant`.
        reference: A row that stands in every table and is never ranked.
        target: For a method that works with something of the user's, addressed as `method:target`: "file", "folder"
            or "command line". Its `__init__` then has the option `target`, an absolute path or the line as typed.
    """

    title: ClassVar[str]
    paper: ClassVar[str] = ""
    licence: ClassVar[str] = "Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    reference: ClassVar[bool] = False
    target: ClassVar[str] = ""

    def skip(self, protocol: Protocol) -> str | None:
        """Return why this method cannot run `protocol`, or None."""
        return None

    def fit(self, training: Training) -> None:
        """Learn from the training slice. The default is a training-free method: nothing is learnt.

        Raises:
            MethodError: The method cannot be fitted as asked.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """Return fakeness maps of float32 (B, 3, H, W) images in [0, 1]."""

    def to(self, device: torch.device) -> None:
        """Move what the method computes with to `device`. The default has nothing to move."""

    def save(self, folder: Path) -> None:
        """Write what was learnt into `folder`, as safetensors and JSON only. The default has nothing to write."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote.

        Raises:
            MethodError: The files are damaged or do not fit this method and its options.
        """

    @property
    def parameters(self) -> int:
        """Number of learnt values."""
        return 0

    @classmethod
    def trains(cls) -> bool:
        """Return whether the method has anything to fit."""
        return cls.fit is not Locator.fit


class Reference(Locator):
    """A locator for reference rows: it stands in every table, is never ranked, and may be shown the ground truth."""

    reference: ClassVar[bool] = True

    def predict_knowing(self, images: Tensor, truth: Tensor) -> Prediction:
        """Return fakeness maps given the ground truth, float32 (B, H, W). The default does not look at it."""
        return self.predict(images)


class Replay(Locator):
    """A locator that repeats what another program has said of images, by their names; the one kind that is told them.

    It is shown no image of a test, and predicts nothing: what it repeats was written before, by a program that must not
    have seen labels or ground truth either.
    """

    @abstractmethod
    def predict_named(self, size: tuple[int, int], samples: Sequence[str], condition: str) -> Prediction:
        """Return the fakeness maps of samples under a condition.

        Args:
            size: Height and width in pixels that the maps must have.
            samples: `sample_id`s.
            condition: "clean", or the name of a degradation.

        Raises:
            Unanswered: Some samples have no map.
        """

    def predict(self, images: Tensor) -> Prediction:
        """Refuse: an image alone does not say which map is its own.

        Raises:
            MethodError: Always.
        """
        raise MethodError(f"{type(self).__name__} goes by names, not by pixels", hint="use it on a data set's samples")


class NeuralLocator(Locator):
    """A network to be fitted: a subclass gives `build`, `loss` and `forward`; the harness does the rest.

    `build` may download or copy pretrained weights; it is called at the start of a fit and never when a fit is loaded,
    where `build(pretrained=False)` makes the empty module.

    Args:
        recipe: How to optimise the module. A subclass that takes `**recipe` and passes `Recipe(**recipe)` on has every
            field of a recipe as an option; those with other defaults it names in its signature.
    """

    def __init__(self, *, recipe: Recipe) -> None:
        self.recipe = recipe
        self.module: nn.Module | None = None

    @abstractmethod
    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the module, with pretrained weights if the options ask for them and `pretrained` is true.

        Raises:
            MethodError: Unknown architecture, or weights that cannot be had; never silently random.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the scalar loss of a batch, with gradient."""

    @abstractmethod
    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return the prediction of the module in evaluation mode."""

    def fit(self, training: Training) -> None:
        """Build the module and let the harness optimise it."""
        self.module = self.build(pretrained=True).to(training.device)
        training.optimise(self.module, self.loss, self.recipe)

    def predict(self, images: Tensor) -> Prediction:
        """Run the module over the images without recording gradients."""
        if self.module is None:
            raise MethodError(f"{type(self).__name__} predicts before it was fitted", hint="call fit or load first")
        self.module.eval()
        with torch.inference_mode():
            return self.forward(self.module, images)

    def to(self, device: torch.device) -> None:
        """Move the module to `device`."""
        if self.module is not None:
            self.module.to(device)

    def save(self, folder: Path) -> None:
        """Write the module's state as safetensors."""
        from safetensors.torch import save_file

        if self.module is None:
            raise MethodError(f"{type(self).__name__} has nothing to save", hint="fit it first")
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module.state_dict().items()}
        save_file(state, folder / WEIGHTS)

    def load(self, folder: Path) -> None:
        """Build the empty module and fill it strictly from the saved state.

        Raises:
            MethodError: A file that is missing or damaged, or whose keys, shapes or values do not fit.
        """
        self.load_weights(folder / WEIGHTS)

    def load_weights(self, path: Path, *, sha256: str = "") -> list[str]:
        """Build the empty module and fill it strictly from a file that anybody may have written.

        Args:
            path: Safetensors, or what `torch.save` wrote of a `state_dict`.
            sha256: What the file's must be; "" for any.

        Returns:
            What was done to make the weights fit, a sentence each.

        Raises:
            MethodError: As `flbench.checkpoints.read_checkpoint`.
        """
        module = self.build(pretrained=False)
        state, notes = read_checkpoint(path, expected=module.state_dict(), sha256=sha256)
        module.load_state_dict(state)
        self.module = module
        return notes

    @property
    def parameters(self) -> int:
        """Number of the module's parameters."""
        return 0 if self.module is None else sum(p.numel() for p in self.module.parameters())


def options_of(kind: type[Locator]) -> dict[str, Any]:
    """Return the options of a method with their defaults, read from its signature; `**recipe` stands for a recipe's."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    shared = any(p.name == KEYWORD and p.kind is p.VAR_KEYWORD for p in parameters)
    return {**own, **{name: value for name, value in recipe_options().items() if shared and name not in own}}
