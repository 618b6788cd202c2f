"""Predictions of a work unit, kept so that protocols that share a fit and a test slice predict it once.

A whole batch is kept, under the names of all its images: a network's last bits depend on what shares a batch, so that
what is said of an image must not depend on which images were seen before, or a stopped run would go on to other bits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flbench.condition import Condition
from flbench.data.batches import Example
from flbench.engine.inference import Inference

LIMIT = 1 << 29
"""Bytes of maps kept in memory, at most; beyond it the longest unused is predicted again."""


class Answer(NamedTuple):
    """What a locator says of an image.

    Attributes:
        fakeness: float32 (S, S).
        score: Probability that the image is fake; None: it follows from the map.
        note: What a reader must know of how it came about, else "".
    """

    fakeness: np.ndarray
    score: float | None
    note: str = ""


Outcome = Answer | str
"""Map and score of an image, or why there is none, after its kind: "error: ", "oom: "."""

Begin = Callable[[Sequence[Example], Sequence[str], str], Callable[[], list[Outcome]]]
"""Examples, their names and that of their condition to what waits for their outcomes."""


@dataclass
class Timer:
    """Seconds spent, images seen, and the largest batch that fits in memory, if one did not."""

    predict_s: float = 0.0
    score_s: float = 0.0
    images: int = 0
    batch: int | None = None


Key = tuple[str, int, str, tuple[str, ...]]


class Predictions:
    """What locators said of batches; a key is locator, size, condition and the samples in order.

    Args:
        shared: Locators that more than one cell asks; of others nothing is kept, since nobody asks them twice.

    Attributes:
        timers: By locator: what predicting has cost since the unit began.
        engines: By locator that another engine than eager torch runs: it.
        channels_last: Locators whose weights lie in memory as convolutions are fastest.
    """

    def __init__(self, shared: Collection[str] = ()) -> None:
        self.shared = shared
        self.timers: dict[str, Timer] = {}
        self.engines: dict[str, Inference] = {}
        self.channels_last: set[str] = set()
        self._kept: OrderedDict[Key, list[Outcome]] = OrderedDict()
        self._held = 0

    def timer(self, locator: str) -> Timer:
        """Return the timer of a locator."""
        return self.timers.setdefault(locator, Timer())

    def get(self, key: Key) -> list[Outcome] | None:
        """Return what was said, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Key, outcomes: list[Outcome]) -> None:
        """Keep what was said, if it may be asked again."""
        if key[0] not in self.shared:
            return
        if key not in self._kept:
            self._held += _bytes(outcomes)
        self._kept[key] = outcomes
        while self._held > LIMIT and len(self._kept) > 1:
            self._held -= _bytes(self._kept.popitem(last=False)[1])


class Recall:
    """A predictor that asks its locator only for batches of which it has not spoken yet.

    Args:
        open_predictor: Returns what begins to predict; called when it is first needed: loading takes time.
        locator: What tells one locator from another: a fit, or method and options.
        size: Height and width of the images.
        memory: Where predictions are kept; None for a locator that is shown the ground truth, which may differ.
    """

    def __init__(
        self, open_predictor: Callable[[], Begin], locator: str, size: int, memory: Predictions | None
    ) -> None:
        self._open = open_predictor
        self._begin: Begin | None = None
        self._locator = locator
        self._size = size
        self._memory = memory

    def __call__(self, condition: Condition, samples: Sequence[str], examples: Sequence[Example]) -> list[Outcome]:
        """Return map and score of every example under a condition, or the reason why there is none; see `begun`."""
        return self.begun(condition, samples, examples)()

    def begun(
        self, condition: Condition, samples: Sequence[str], examples: Sequence[Example]
    ) -> Callable[[], list[Outcome]]:
        """Give examples to the locator and return what waits for its answers; they must be waited for in order.

        Raises:
            MethodError: The locator cannot be loaded, or its output breaks the contract.
        """
        key = (self._locator, self._size, condition.name, tuple(samples))
        known = None if self._memory is None else self._memory.get(key)
        if known is not None or not examples:
            return lambda: known or []
        self._begin = self._begin or self._open()
        finish = self._begin(examples, samples, condition.name)

        def outcomes() -> list[Outcome]:
            found = finish()
            if self._memory is not None:
                self._memory.put(key, found)
            return found

        return outcomes


def _bytes(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome[0].nbytes for outcome in outcomes if not isinstance(outcome, str))
