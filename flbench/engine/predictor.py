"""Run a locator over examples and hold it to the contract."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flbench.data.batches import Example, to_tensor
from flbench.engine.predictions import Outcome, Timer
from flbench.engine.runtime import Runtime
from flbench.errors import FlbenchError, MethodError
from flbench.files import raise_if_full, storing
from flbench.locator import Locator, Prediction, Reference, Replay, Unanswered

FAILURES_IN_A_ROW = 5
"""A method that fails on this many images before it succeeds on one is stopped."""


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
        """Return map and score of every example, or the reason why there is none.

        A batch that raises is tried again image by image, so that one bad image costs one row.

        Args:
            examples: Images with their ground truth, which only a reference row is shown.
            samples: Their names, which only a `Replay` is told.
            condition: Name of the condition they are under.

        Raises:
            MethodError: The output breaks the contract, or the first images all fail.
        """
        started = time.perf_counter()
        try:
            outcome = self._batch(examples, samples, condition)
        except FlbenchError:
            raise
        except Exception:
            outcome = [self._single(example, name, condition) for example, name in zip(examples, samples, strict=True)]
        self.timer.predict_s += time.perf_counter() - started
        self.timer.images += len(examples)
        return outcome

    def _batch(self, examples: Sequence[Example], samples: Sequence[str], condition: str) -> list[Outcome]:
        images = to_tensor(np.stack([example.image for example in examples]), self.runtime.device)
        reasons: Mapping[int, str] = {}
        with torch.inference_mode(), self.runtime.autocast():
            try:
                if isinstance(self.locator, Reference):
                    truth = torch.from_numpy(np.stack([example.truth for example in examples])).to(self.runtime.device)
                    prediction = self.locator.predict_knowing(images, truth)
                elif isinstance(self.locator, Replay):
                    prediction = self.locator.predict_named(images, samples, condition)
                else:
                    prediction = self.locator.predict(images)
            except Unanswered as some:
                prediction, reasons = some.prediction, some.reasons
        maps, scores = self._checked(prediction, images)
        self._failures, self._succeeded = 0, True
        answers = enumerate(zip(maps, scores, strict=True))
        return [f"error: {reasons[place]}" if place in reasons else answer for place, answer in answers]

    def _single(self, example: Example, sample: str, condition: str) -> Outcome:
        try:
            return self._batch([example], [sample], condition)[0]
        except FlbenchError:
            raise
        except Exception as error:
            raise_if_full(error, self.log)
            with storing(self.log), self.log.open("a", encoding="utf-8") as file:
                file.write(traceback.format_exc() + "\n")
            self._failures += 1
            if not self._succeeded and self._failures >= FAILURES_IN_A_ROW:
                raise MethodError(
                    f"method {self.name} fails on the first {self._failures} images: {type(error).__name__}: {error}",
                    hint=f"the traceback is in {self.log}",
                ) from error
            return f"error: {type(error).__name__}: {error}"

    def _checked(self, prediction: Any, images: torch.Tensor) -> tuple[np.ndarray, list[float | None]]:
        """Return maps and scores as numpy, after holding them to the contract."""

        def broken(what: str) -> MethodError:
            return MethodError(f"method {self.name} breaks the contract: {what}", hint="see flbench/locator.py")

        if not isinstance(prediction, Prediction):
            raise broken(f"predict returned {type(prediction).__name__}, expected Prediction")
        fakeness, score = prediction
        count, _, height, width = images.shape
        if not isinstance(fakeness, torch.Tensor):
            raise broken(f"fakeness is {type(fakeness).__name__}, expected a tensor")
        if tuple(fakeness.shape) != (count, height, width):
            raise broken(f"fakeness has shape {tuple(fakeness.shape)}, expected {(count, height, width)}")
        if not fakeness.is_floating_point():
            raise broken(f"fakeness is {fakeness.dtype}, expected float32")
        maps = fakeness.detach().to("cpu", torch.float32).numpy()
        finite = maps[np.isfinite(maps)]
        if finite.size and (finite.min() < -1e-6 or finite.max() > 1 + 1e-6):
            raise broken(f"fakeness is in {finite.min():.3g}..{finite.max():.3g}, expected 0..1")
        if score is None:
            return maps, [None] * count
        if not isinstance(score, torch.Tensor) or tuple(score.shape) != (count,):
            shape = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise broken(f"score is {shape}, expected a tensor of shape {(count,)}")
        return maps, [float(value) for value in score.detach().cpu().to(torch.float64)]
