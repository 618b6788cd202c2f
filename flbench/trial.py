"""A method on trial: made images, a made training slice, one short fit, and predictions that leave no trace.

Nothing is downloaded and no data set is read, so a method can be held to the contract anywhere within seconds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError
from flbench.locator import Batch, Locator, Loss, Prediction, Recipe, Reference, Training

if TYPE_CHECKING:
    from flbench.registry import MethodChoice

SIDE = 64
"""Height and width in pixels of the images of the training slice."""

IMAGES = 8
"""Images of the training slice, half of them fakes."""

STEPS = 2
"""Optimiser steps of a trial's fit: enough to learn that the loss has a gradient and that the state is saved."""

_GRAY = (0.299, 0.587, 0.114)


class Shown(NamedTuple):
    """What a method on trial is shown.

    Attributes:
        images: float32 (B, 3, H, W) in [0, 1].
        truth: float32 (B, H, W) in [0, 1], which only reference rows see.
    """

    images: Tensor
    truth: Tensor

    def one(self, place: int) -> Shown:
        """Return one image as a batch of its own."""
        return Shown(self.images[place : place + 1], self.truth[place : place + 1])


def make_images(count: int, size: tuple[int, int] = (SIDE, SIDE), *, seed: int = 0) -> Shown:
    """Return `count` images, fakes first and then as many photos (one fewer if odd), the same for the same seed.

    Photos are smooth noise with fine grain; a fake has a brightened box with a checkerboard, and its truth is the gray
    difference.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 0.6 + 0.2
    photos = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    photos = photos + 0.02 * torch.rand(photos.shape, generator=generator)
    images, (height, width) = photos.clone(), size
    fakes = count - count // 2
    box = (slice(0, fakes), slice(None), slice(height // 4, height // 2), slice(width // 4, 3 * width // 4))
    checkers = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    images[box] += 0.1 + 0.05 * checkers[box[2:]]
    images = images.clamp(0, 1)
    truth = torch.einsum("bchw,c->bhw", (images - photos).abs(), torch.tensor(_GRAY)).clamp(0, 1)
    return Shown(images, truth)


SHOWN = make_images(3)
"""What every method is shown."""


class MadeTraining(Training):
    """A made training slice in memory, and a loop of a few steps over it.

    Args:
        images: Images of the slice, half of them fakes.
        seed: Seed of the images and of the fit.
    """

    def __init__(self, images: int = IMAGES, *, seed: int = 0) -> None:
        self.seed = seed
        self.size = SIDE
        self.device = torch.device("cpu")
        self.attention = True
        shown = make_images(images, seed=seed)
        labels = (shown.truth.flatten(1) > 0).any(dim=1).float()
        inside = (shown.truth > 0).float()
        attention = torch.where(labels.view(-1, 1, 1) > 0, inside, torch.ones_like(inside))
        self._slice = Batch(shown.images, shown.truth, labels, attention)

    def batches(self, *, batch: int = 32) -> Iterator[Batch]:
        """Yield the slice once, fakes first."""
        for start in range(0, len(self._slice.images), batch):
            yield self._of(torch.arange(start, min(start + batch, len(self._slice.images))))

    def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
        """Do `STEPS` steps on two fakes and two photos each, and look at the loss in evaluation mode once.

        Raises:
            MethodError: The loss is no finite scalar.
        """
        optimiser = torch.optim.Adam(
            module.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        half = len(self._slice.images) // 2
        for step in range(STEPS):
            places = (torch.arange(2) + 2 * step) % half
            module.train()
            optimiser.zero_grad(set_to_none=True)
            _finite(loss(module, self._of(torch.cat([places, places + half])))).backward()
            optimiser.step()
        module.eval()
        with torch.no_grad():
            _finite(loss(module, self._of(torch.tensor([0, half]))))

    def _of(self, places: Tensor) -> Batch:
        """Return copies, so that a method that changes its batch does not change the slice."""
        return Batch(*(part[places] for part in self._slice))


def _finite(value: Tensor) -> Tensor:
    """Return a loss that is a finite scalar."""
    if value.numel() != 1 or not bool(torch.isfinite(value).all()):
        shape = f"a tensor of shape {tuple(value.shape)}" if value.numel() != 1 else str(value.item())
        raise MethodError(f"the loss is {shape}, expected a finite scalar")
    return value


def _set_numpy(state: tuple[Any, ...]) -> None:
    name, keys, *rest = state
    np.random.set_state((name, np.array(keys, np.uint32), *rest))


def _get_numpy() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return name, np.asarray(keys).tolist(), *rest


RANDOM = "random numbers"
_GLOBALS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    f"torch's {RANDOM}": (
        lambda: torch.get_rng_state().tolist(),
        lambda state: torch.set_rng_state(torch.tensor(state, dtype=torch.uint8)),
    ),
    f"numpy's {RANDOM}": (_get_numpy, _set_numpy),
    f"Python's {RANDOM}": (random.getstate, random.setstate),
    "torch's thread count": (torch.get_num_threads, torch.set_num_threads),
    "the working folder": (Path.cwd, os.chdir),
    "the gradient mode": (torch.is_grad_enabled, lambda mode: torch.autograd.set_grad_enabled(mode)),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
}


def world() -> dict[str, Any]:
    """Return the state of the process that a method has no business with, by name."""
    return {name: get() for name, (get, _) in _GLOBALS.items()}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two states of the process, by name."""
    return [name for name in before if before[name] != after[name]]


@contextmanager
def untouched() -> Iterator[None]:
    """Give the process back the state that it had, whatever a method does to it."""
    before = world()
    try:
        yield
    finally:
        for name, (get, put) in _GLOBALS.items():
            if get() != before[name]:
                put(before[name])


class Trial:
    """One method with its options, fitted at most once.

    Args:
        choice: The method.
        load: Imports a method and makes a locator.
        folder: Empty folder to save into.

    Attributes:
        changed: What fits and loads have changed in the process so far, by name.
    """

    def __init__(self, choice: MethodChoice, load: Callable[[MethodChoice], Locator], folder: Path) -> None:
        self.choice = choice
        self.load = load
        self.folder = folder
        self.changed: list[str] = []

    @cached_property
    def kind(self) -> type[Locator]:
        """The method's class."""
        return type(self.fresh())

    @cached_property
    def locator(self) -> Locator:
        """The method, fitted on the made training slice."""
        return self.fit()

    @cached_property
    def saved(self) -> Path:
        """Folder that holds what the fitted method saved."""
        return self.save(self.locator, "fit")

    def fresh(self) -> Locator:
        """Return a new locator that has learnt nothing."""
        with untouched():
            return self.load(self.choice)

    def fit(self, images: int = IMAGES) -> Locator:
        """Return a locator fitted on so many made images."""
        with untouched():
            before = world()
            torch.manual_seed(0)
            locator = self.load(self.choice)
            locator.fit(MadeTraining(images))
            self._note(before)
        return locator

    def _note(self, before: Mapping[str, Any]) -> None:
        """Note what a fit or a load changed in the process; random numbers are theirs to draw."""
        self.changed += [name for name in changed(before, world()) if RANDOM not in name]

    def save(self, locator: Locator, name: str) -> Path:
        """Let a locator save itself into a new folder."""
        into = self.folder / name
        into.mkdir()
        with untouched():
            locator.save(into)
        return into

    @cached_property
    def loaded(self) -> Locator:
        """A new locator that loaded what the fitted one saved."""
        with untouched():
            before = world()
            locator = self.load(self.choice)
            if self.kind.trains():
                locator.load(self.saved)
            self._note(before)
        return locator

    @cached_property
    def prediction(self) -> Prediction:
        """What the fitted method says of `SHOWN`."""
        return self.predict(SHOWN)

    def predict(self, shown: Shown, locator: Locator | None = None) -> Prediction:
        """Return a prediction as the harness asks for it: without gradients, on a copy of the images."""
        with untouched(), torch.inference_mode():
            return ask(locator or self.locator, Shown(shown.images.clone(), shown.truth.clone()))


def ask(locator: Locator, shown: Shown) -> Prediction:
    """Return a locator's prediction; a reference row is shown the truth too."""
    if isinstance(locator, Reference):
        return locator.predict_knowing(shown.images, shown.truth)
    return locator.predict(shown.images)
