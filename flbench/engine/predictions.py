"""Predictions of a work unit, kept so that protocols that share a fit predict an image under a condition once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flbench.condition import Condition
from flbench.data.batches import Example

LIMIT = 1 << 30
"""Bytes of maps kept in memory, at most; beyond it the longest unused is predicted again."""

Outcome = tuple[np.ndarray, float | None] | str
"""Map and score of an image, or why there is none."""

Predict = Callable[[Sequence[Example], Sequence[str], str], list[Outcome]]
"""Examples, their names and that of their condition to outcomes."""


@dataclass
class Timer:
    """Seconds spent, and images seen."""

    predict_s: float = 0.0
    score_s: float = 0.0
    images: int = 0


class Predictions:
    """What locators said of images; a key is locator, size, condition and sample.

    Attributes:
        timers: By locator: what predicting has cost since the unit began.
    """

    def __init__(self) -> None:
        self.timers: dict[str, Timer] = {}
        self._kept: OrderedDict[tuple[str, int, str, str], Outcome] = OrderedDict()
        self._held = 0

    def timer(self, locator: str) -> Timer:
        """Return the timer of a locator."""
        return self.timers.setdefault(locator, Timer())

    def get(self, key: tuple[str, int, str, str]) -> Outcome | None:
        """Return what was said, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: tuple[str, int, str, str], outcome: Outcome) -> None:
        """Keep what was said."""
        if key not in self._kept:
            self._held += _bytes(outcome)
        self._kept[key] = outcome
        while self._held > LIMIT and len(self._kept) > 1:
            self._held -= _bytes(self._kept.popitem(last=False)[1])


class Recall:
    """A predictor that asks its locator only for what it has not said yet.

    Args:
        open_predictor: Returns the predictor; called when it is first needed, since loading weights takes time.
        locator: What tells one locator from another: a fit, or method and options.
        size: Height and width of the images.
        memory: Where predictions are kept; None for a locator that is shown the ground truth, which may differ.
    """

    def __init__(
        self, open_predictor: Callable[[], Predict], locator: str, size: int, memory: Predictions | None
    ) -> None:
        self._open = open_predictor
        self._predict: Predict | None = None
        self._locator = locator
        self._size = size
        self._memory = memory

    def __call__(self, condition: Condition, samples: Sequence[str], examples: Sequence[Example]) -> list[Outcome]:
        """Return map and score of every example under a condition, or the reason why there is none.

        Raises:
            MethodError: The locator cannot be loaded, or its output breaks the contract.
        """
        keys = [(self._locator, self._size, condition.name, sample) for sample in samples]
        known = [None if self._memory is None else self._memory.get(key) for key in keys]
        asked = [place for place, outcome in enumerate(known) if outcome is None]
        if asked:
            self._predict = self._predict or self._open()
            chosen, names = [examples[place] for place in asked], [samples[place] for place in asked]
            for place, outcome in zip(asked, self._predict(chosen, names, condition.name), strict=True):
                known[place] = outcome
                if self._memory is not None:
                    self._memory.put(keys[place], outcome)
        return [outcome for outcome in known if outcome is not None]


def _bytes(outcome: Outcome) -> int:
    return 0 if isinstance(outcome, str) else outcome[0].nbytes
