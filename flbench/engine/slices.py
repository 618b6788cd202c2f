"""One test slice under one condition: predict every image and score it."""

from __future__ import annotations

import math
import sys
import time
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flbench.condition import Condition, parse_condition
from flbench.data.batches import Example, Frames
from flbench.data.dataset import Selection, select_fit
from flbench.engine.ahead import one_ahead
from flbench.engine.gallery import CASES, Chooser, Shown
from flbench.engine.predictions import Outcome, Recall, Timer
from flbench.engine.runtime import Events
from flbench.engine.shards import Shard
from flbench.errors import DataError
from flbench.protocol import LOWER_IS_BETTER, FitSlice, Protocol, TestSlice
from flbench.scoring.conventions import Tally, choose_thresholds
from flbench.scoring.metrics import WORST, false_alarm, map_metrics, top_score
from flbench.scoring.pixels import pixel_metrics

_SAMPLE = ["sample_id", "identity", "label"]
_PLACE = "place"
FLAT = "a map of one value"
"""Note on a fake whose map says the same of every pixel."""

THRESHOLD_FAKES = 64
"""Fakes of the valid split on which a threshold is chosen, at most."""


@dataclass(frozen=True)
class Task:
    """What is predicted and how it is scored.

    Attributes:
        protocol: Whose scoring counts.
        test: The slice.
        condition: Name of the condition.
        samples: Its fakes and real photos, as `samples_of` returns them.
        shown: Samples that go to the gallery; 0: none, best and worst ones neither.
        batch: Images predicted together.
    """

    protocol: Protocol
    test: TestSlice
    condition: str
    samples: pd.DataFrame
    shown: int
    batch: int


class _Table:
    """Rows of per-image scores, as compact as the columns of the file that they become.

    Args:
        samples: Rows of the manifest, of which each is scored once.
        metrics: Names of the protocol's map metrics.
    """

    def __init__(self, samples: pd.DataFrame, metrics: tuple[str, ...]) -> None:
        self._samples = samples
        self._places = array("q")
        self._texts: dict[str, list[str]] = {name: [] for name in ("status", "reason")}
        self._numbers = {name: array("d") for name in ("score", *metrics, "false_alarm")}

    def add(self, place: int, scores: Mapping[str, Any]) -> None:
        """Add the scores of a sample, by its place among the samples; a number that they lack is NaN."""
        self._places.append(place)
        for name, texts in self._texts.items():
            texts.append(sys.intern(scores[name]))
        for name, numbers in self._numbers.items():
            numbers.append(scores.get(name, math.nan))

    def frame(self, test: str, condition: str) -> pd.DataFrame:
        """Return the rows as a table."""
        rows = self._samples.iloc[np.asarray(self._places)].reset_index(drop=True)[_SAMPLE]
        for name, text in (("condition", condition), ("test", test)):
            rows.insert(0, name, pd.Series([text], dtype=str).repeat(len(rows)).array)
        texts = {name: pd.array(values, dtype=str) for name, values in self._texts.items()}
        numbers = {name: np.asarray(values) for name, values in self._numbers.items()}
        return rows.assign(**texts, **numbers)


def samples_of(chosen: Selection) -> pd.DataFrame:
    """Return the fakes and then the real photos of a slice, with what scoring asks of them."""
    return pd.concat([rows[[*_SAMPLE, "source"]] for rows in chosen], ignore_index=True)


def evaluate_slice(task: Task, predict: Recall, frames: Frames, timer: Timer, events: Events) -> Shard:
    """Predict and score one test slice under one condition.

    Args:
        task: What to do.
        predict: The locator at work.
        frames: Decoded samples, with their source of regions.
        timer: Counts what scoring costs.
        events: Where progress goes.

    Raises:
        MethodError: The method breaks the contract.
        Interrupted: The process was asked to stop.
    """
    scoring, clean = task.protocol.scoring, not parse_condition(task.condition).steps
    tally = None
    has_fakes = bool((task.samples["label"] == "fake").any())
    if scoring.conventions and clean and has_fakes:
        tally = Tally(valid_thresholds(task.protocol.slice(task.test.fit), predict, frames, events, task.batch))
    metrics = tuple(name for name in WORST if name in scoring.metrics)
    cases = CASES if clean and task.shown and scoring.primary in (*WORST, "false_alarm") else 0
    chooser = Chooser(task.shown, cases, lower_is_better=scoring.primary in LOWER_IS_BETTER)
    shown_label = "fake" if has_fakes else "real"
    table = _Table(task.samples, metrics)
    for row, example, outcome in _outcomes(task, predict, frames, events):
        if isinstance(example, dict):
            table.add(row[_PLACE], example)
            continue
        started = time.perf_counter()
        scored = score_image(row["label"], example, outcome, metrics)
        table.add(row[_PLACE], scored)
        if scored["status"] == "ok" and not isinstance(outcome, str):
            if tally is not None:
                tally.add(example.truth, np.clip(outcome[0], 0, 1), row["label"] == "fake", example.region)
            if row["label"] == shown_label and task.shown:
                photo = frames.image(row["source"]) if row["source"] else _photo(row["label"], example)
                shown = Shown(row["sample_id"], photo, example, outcome[0])
                chooser.offer(shown, scored.get(scoring.primary, float("nan")))
        timer.score_s += time.perf_counter() - started
    gallery = chooser.arrays(task.test.name, task.condition)
    return Shard(table.frame(task.test.name, task.condition), gallery, {} if tally is None else tally.results())


def _photo(label: str, example: Example) -> np.ndarray:
    return example.image if label == "real" else np.zeros_like(example.image)


def _outcomes(
    task: Task, predict: Recall, frames: Frames, events: Events
) -> Iterator[tuple[dict[str, Any], Example | dict[str, str], Outcome]]:
    """Yield row, example and outcome of every sample; for one that cannot be read, its failure as the example."""
    condition = parse_condition(task.condition)
    what = task.test.name if not condition.steps else f"{task.test.name}, {condition.name}"
    total, done = len(task.samples), 0
    events.check()
    for batch in one_ahead(_batches(task, condition, frames)):
        ready = [(row, example) for row, example in batch if isinstance(example, Example)]
        for row, failure in batch:
            if not isinstance(failure, Example):
                yield row, failure, ""
        names = [row["sample_id"] for row, _ in ready]
        outcomes = predict(condition, names, [example for _, example in ready])
        for (row, example), outcome in zip(ready, outcomes, strict=True):
            yield row, example, outcome
        done += len(batch)
        events.progress(f"test {what}", done, total)
        if done < total:
            events.check()


def _batches(
    task: Task, condition: Condition, frames: Frames
) -> Iterator[list[tuple[dict[str, Any], Example | dict[str, str]]]]:
    """Yield rows, with their place, and their examples, a batch at a time; for what cannot be read, its failure."""
    recomputed = task.protocol.scoring.ground_truth == "degraded"
    columns = {str(name): column.array for name, column in task.samples.items()}
    for start in range(0, len(task.samples), task.batch):
        batch: list[tuple[dict[str, Any], Example | dict[str, str]]] = []
        texts = [column[start : start + task.batch].tolist() for column in columns.values()]
        for place, values in enumerate(zip(*texts, strict=True), start):
            row = dict(zip(columns, values, strict=True)) | {_PLACE: place}
            try:
                batch.append((row, frames.example(row["sample_id"], condition, recomputed=recomputed)))
            except DataError as error:
                status = next((kind for kind in ("mask_mismatch", "too_large") if kind in error.message), "unreadable")
                batch.append((row, {"status": status, "reason": error.message}))
        yield batch


def score_image(
    label: str, example: Example, outcome: Outcome, metrics: Collection[str] = tuple(WORST)
) -> dict[str, Any]:
    """Return the scores of one image, or its failure.

    Args:
        label: "fake" or "real".
        example: Image, ground truth and region.
        outcome: Map and score, or why there is none.
        metrics: Metrics of a fake's map that are asked.

    Returns:
        `status` and `reason`, a note where all is well; if `status` is "ok", `score`, and for a fake the metrics of
        its map, for a real photo `false_alarm`.
    """
    if isinstance(outcome, str):
        status, _, reason = outcome.partition(": ")
        return {"status": status, "reason": reason}
    fakeness, score, note = outcome
    if not np.isfinite(fakeness).all() or (score is not None and not np.isfinite(score)):
        return {"status": "bad_output", "reason": "NaN or infinity"}
    fakeness = np.clip(fakeness, 0, 1)[None]
    values: dict[str, Any] = {"status": "ok", "reason": note}
    values["score"] = float(top_score(fakeness)[0]) if score is None else score
    if label == "real":
        return values | {"false_alarm": float(false_alarm(fakeness)[0])}
    if fakeness.min() == fakeness.max():
        values["reason"] = values["reason"] or FLAT
    region = None if example.region is None else example.region[None]
    pair = example.truth[None], fakeness, region
    found = map_metrics(*pair, asked=metrics) | pixel_metrics(*pair, asked=metrics)
    return values | {name: float(value[0]) for name, value in found.items()}


def valid_thresholds(
    fit: FitSlice, predict: Recall, frames: Frames, events: Events, batch: int
) -> dict[float, float] | None:
    """Return thresholds chosen on fakes of the valid split of what a fit learnt from; None if there are none.

    Args:
        fit: The fit slice.
        predict: The locator at work.
        frames: Decoded samples.
        events: Where progress goes.
        batch: Images predicted together.
    """
    fakes = select_fit(frames.dataset, fit, "valid").fakes["sample_id"].tolist()[:THRESHOLD_FAKES]
    truths, maps, regions = [], [], []
    condition = parse_condition("clean")
    for start in range(0, len(fakes), batch):
        events.check()
        examples = {}
        for sample in fakes[start : start + batch]:
            try:
                examples[sample] = frames.example(sample)
            except DataError:
                continue  # a threshold is as good without it
        outcomes = predict(condition, list(examples), list(examples.values()))
        for example, outcome in zip(examples.values(), outcomes, strict=True):
            if not isinstance(outcome, str) and np.isfinite(outcome[0]).all():
                truths.append(example.truth)
                maps.append(np.clip(outcome[0], 0, 1))
                regions.append(np.ones(example.truth.shape, bool) if example.region is None else example.region)
        events.progress("threshold", min(start + batch, len(fakes)), len(fakes))
    return choose_thresholds(np.stack(truths), np.stack(maps), np.stack(regions)) if maps else None
