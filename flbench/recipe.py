"""How the harness optimises a network; a method takes these options by `**recipe` in its signature."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KEYWORD = "recipe"
"""Name of the `**` argument of a method's `__init__` that stands for all options of a recipe."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the harness optimises a module; every attribute is an option of a method that takes `**recipe`.

    Attributes:
        steps: Optimiser steps of a fit; None: `epochs` decides.
        epochs: Passes over the training slice, when `steps` is None.
        batch: Images per step, half real and half fake.
        lr: Peak learning rate.
        beta1: Adam's first coefficient.
        beta2: Adam's second coefficient.
        weight_decay: L2 penalty as in Adam (not decoupled).
        schedule: "constant", or "falling": warm-up, flat for half of the steps, then linear to 3 %.
        flip: Whether images are mirrored left to right with probability one half.
        checks: How often the valid slice is looked at during a fit; the best state is kept.
        patience: Looks without improvement after which the fit stops early; None: never.
    """

    steps: int | None = 300
    epochs: float = 10.0
    batch: int = 8
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    schedule: str = "falling"
    flip: bool = True
    checks: int = 10
    patience: int | None = 5

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's coefficients."""
        return self.beta1, self.beta2


def recipe_options() -> dict[str, Any]:
    """Return the options of a recipe with their defaults."""
    return asdict(Recipe())
