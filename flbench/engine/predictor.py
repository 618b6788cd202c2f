"""Run a locator over examples and hold it to the contract."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flbench.data.batches import Example, on_device, to_tensor
from flbench.engine.ahead import making_way
from flbench.engine.contained import contained, out_of_memory
from flbench.engine.predictions import Answer, Outcome, Timer
from flbench.engine.runtime import Runtime
from flbench.errors import FlbenchError, MethodError
from flbench.files import raise_if_full, storing
from flbench.locator import Locator, Prediction, Reference, Replay, Unanswered

FAILURES_IN_A_ROW = 5
"""A method that fails on this many images before it succeeds on one is stopped."""

QUARTERED = "shown in quarters, since the whole image did not fit in memory"


class _Given(NamedTuple):
    """What a locator returned of a batch; a GPU may still be busy with it.

    Attributes:
        prediction: Whatever it is, out of a GPU's memory.
        reasons: Why some images have no answer, by their place.
        shape: That its maps must have.
        written: What to wait for before it is read.
    """

    prediction: Any
    reasons: Mapping[int, str]
    shape: tuple[int, int, int]
    written: Sequence[torch.cuda.Event]


class Predictor:
    """Run a locator over examples and hold it to the contract.

    Args:
        locator: Ready to predict.
        name: The method, for messages.
        runtime: Device.
        log: Where tracebacks of single images go.
        timer: Counts what predicting costs.
    """

    def __init__(self, locator: Locator, name: str, runtime: Runtime, log: Path, timer: Timer) -> None:
        self.locator = locator
        self.name = name
        self.runtime = runtime
        self.log = log
        self.timer = timer
        self._failures = 0
        self._succeeded = False

    def __call__(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> list[Outcome]:
        """Return map and score of every example, or the reason why there is none; see `begun`."""
        return self.begun(examples, samples, condition)()

    def begun(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> Callable[[], list[Outcome]]:
        """Give examples to the device, and return what waits for their maps and scores, or the reasons against them.

        A GPU may be given the next ones before; what begins first must be waited for first.

        A batch that raises is tried again image by image, so that one bad image costs one row. One that does not fit
        in memory is halved, and so are those after it; an image that does not fit alone is shown in quarters.

        Args:
            examples: Images with their ground truth, which only a reference row is shown.
            samples: Their names, which only a `Replay` is told.
            condition: Name of the condition they are under.

        Raises:
            MethodError: The output breaks the contract, the method ends the process, or the first images all fail.
        """
        started = time.perf_counter()
        first = slice(0, self.timer.batch)
        given = self._given(examples[first], samples[first], condition)
        self.timer.predict_s += time.perf_counter() - started
        self.timer.images += len(examples)

        def outcomes() -> list[Outcome]:
            started = time.perf_counter()
            found = self._piece(examples[first], samples[first], condition, given)
            found += self._in_pieces(examples[len(found) :], samples[len(found) :], condition)
            self.timer.predict_s += time.perf_counter() - started
            return found

        return outcomes

    def _given(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> _Given | Exception:
        """Give examples to the device, and return what is said or what was raised."""
        try:
            return self._asked(examples, samples, condition)
        except FlbenchError:
            raise
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # else it would keep what filled the memory
            return error

    def _in_pieces(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(examples):
            piece = slice(len(outcomes), len(outcomes) + (self.timer.batch or len(examples)))
            given = self._given(examples[piece], samples[piece], condition)
            outcomes += self._piece(examples[piece], samples[piece], condition, given)
        return outcomes

    def _piece(
        self, examples: Sequence[Example], samples: Sequence[str], condition: str, given: _Given | Exception
    ) -> list[Outcome]:
        try:
            if isinstance(given, Exception):
                raise given
            return self._answers(given)
        except FlbenchError:
            raise
        except Exception as error:
            full = out_of_memory(error)
            if len(examples) == 1 and not full:
                return [self._failed(error)]
        if not full:
            each = zip(examples, samples, strict=True)
            return [self._in_pieces([example], [name], condition)[0] for example, name in each]
        self._release()  # the error is gone by now, and with it what it held
        if len(examples) == 1:
            return [self._quartered(examples[0], samples[0], condition)]
        self.timer.batch = min(len(examples) // 2, self.timer.batch or len(examples))  # halved since it was given
        return self._in_pieces(examples, samples, condition)

    def _quartered(self, example: Example, sample: str, condition: str) -> Outcome:
        """Return the answers for four quarters put together; a method that is told more than pixels has none."""
        try:
            if isinstance(self.locator, Reference | Replay):
                raise MemoryError
            found: list[list[Any]] = [
                [
                    self._answers(self._asked([example._replace(image=part)], [sample], condition))[0]
                    for part in np.array_split(half, 2, 1)
                ]
                for half in np.array_split(example.image, 2)
            ]
            scores = [answer.score for row in found for answer in row if answer.score is not None]
            fakeness = np.block([[answer.fakeness for answer in row] for row in found])
            return Answer(fakeness, max(scores, default=None), QUARTERED)
        except Exception:  # whatever it was, a method that is shown the whole image would not have met it
            self._release()
            return "oom: the image does not fit in memory, whole or in quarters"

    def _release(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()

    def _asked(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> _Given:
        reasons: Mapping[int, str] = {}
        with contained(self.name), torch.inference_mode(), self.runtime.computing(), making_way():
            try:
                prediction = self._predicted(examples, samples, condition)
            except Unanswered as some:
                prediction, reasons = some.prediction, some.reasons
            prediction, written = _fetched(prediction)
        return _Given(prediction, reasons, (len(examples), *_size(examples)), written)

    def _predicted(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> Prediction:
        if isinstance(self.locator, Replay):
            return self.locator.predict_named(_size(examples), samples, condition)
        images = to_tensor(on_device([example.image for example in examples], self.runtime.device))
        if not isinstance(self.locator, Reference):
            return self.locator.predict(images)
        truth = on_device([example.truth for example in examples], self.runtime.device)
        return self.locator.predict_knowing(images, truth)

    def _answers(self, given: _Given) -> list[Outcome]:
        for event in given.written:
            event.synchronize()
        maps, scores = self._checked(given.prediction, given.shape)
        self._failures, self._succeeded = 0, True
        answers = enumerate(map(Answer, maps, scores))
        return [f"error: {given.reasons[place]}" if place in given.reasons else answer for place, answer in answers]

    def _failed(self, error: Exception) -> str:
        """Keep the traceback of an image that raised, and return the reason.

        Raises:
            MethodError: None of the first images has an answer.
        """
        raise_if_full(error, self.log)
        with storing(self.log), self.log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)) + "\n")
        self._failures += 1
        if not self._succeeded and self._failures >= FAILURES_IN_A_ROW:
            raise MethodError(
                f"method {self.name} fails on the first {self._failures} images: {type(error).__name__}: {error}",
                hint=f"the traceback is in {self.log}",
            ) from error
        return f"error: {type(error).__name__}: {error}"

    def _checked(self, prediction: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[float | None]]:
        """Return maps and scores as numpy, after holding them to the contract."""

        def broken(what: str) -> MethodError:
            return MethodError(f"method {self.name} breaks the contract: {what}", hint="see flbench/locator.py")

        if not isinstance(prediction, Prediction):
            raise broken(f"predict returned {type(prediction).__name__}, expected Prediction")
        fakeness, score = prediction
        if not isinstance(fakeness, torch.Tensor):
            raise broken(f"fakeness is {type(fakeness).__name__}, expected a tensor")
        if tuple(fakeness.shape) != shape:
            raise broken(f"fakeness has shape {tuple(fakeness.shape)}, expected {shape}")
        if not fakeness.is_floating_point():
            raise broken(f"fakeness is {fakeness.dtype}, expected float32")
        if fakeness.is_meta:
            raise broken("fakeness is on meta, which holds no numbers")
        said = fakeness.detach().float().cpu()
        low, high = _range(said)
        if low < -1e-6 or high > 1 + 1e-6:
            raise broken(f"fakeness is in {low:.3g}..{high:.3g}, expected 0..1")
        maps = said.numpy()
        if score is None:
            return maps, [None] * len(maps)
        if not isinstance(score, torch.Tensor) or tuple(score.shape) != shape[:1]:
            found = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise broken(f"score is {found}, expected a tensor of shape {shape[:1]}")
        return maps, [float(value) for value in score.detach().cpu().to(torch.float64)]


def _size(examples: Sequence[Example]) -> tuple[int, int]:
    height, width, _ = examples[0].image.shape
    return height, width


def _range(maps: torch.Tensor) -> tuple[float, float]:
    """Return the lowest and the highest number of maps; what is no number does not count."""
    low, high = maps.aminmax()
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = maps.nan_to_num(nan=0.5, posinf=0.5, neginf=0.5).aminmax()
    return float(low), float(high)


def _fetched(prediction: Any) -> tuple[Any, list[torch.cuda.Event]]:
    """Let a GPU write what is said into the host's memory, before it turns to what it is given next.

    Returns:
        The prediction there, and what tells when it is; what is nowhere on a GPU, or no prediction, as it is.
    """
    if not isinstance(prediction, Prediction):
        return prediction, []
    parts: list[Any] = list(prediction)
    written = []
    for place, part in enumerate(parts):
        if isinstance(part, torch.Tensor) and part.device.type == "cuda":
            there = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
            parts[place] = there.copy_(part.detach(), non_blocking=True)
            written.append(torch.cuda.current_stream(part.device).record_event())
    return Prediction(*parts), written
