"""Test slices under conditions: predict every image and score it."""

from __future__ import annotations

import math
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flbench.condition import Condition, parse_condition
from flbench.data.batches import Example, Frames
from flbench.data.dataset import Selection, select_fit
from flbench.engine.ahead import Threads, one_ahead
from flbench.engine.gallery import CASES, Chooser, Shown
from flbench.engine.predictions import Outcome, Recall, Timer
from flbench.engine.runtime import Events
from flbench.engine.shards import Shard
from flbench.errors import DataError
from flbench.protocol import LOWER_IS_BETTER, Protocol, TestSlice
from flbench.scoring.conventions import Tally, choose_thresholds
from flbench.scoring.metrics import WORST, false_alarm, map_metrics, top_score
from flbench.scoring.pixels import pixel_metrics

_SAMPLE = ["sample_id", "identity", "label"]
_PLACE = "place"
FLAT = "a map of one value"
"""Note on a fake whose map says the same of every pixel."""

THRESHOLD_FAKES = 64
"""Fakes of the valid split on which a threshold is chosen, at most."""

Row = dict[str, Any]
"""What scoring asks of a sample, and its place among the samples."""

Failure = dict[str, str]
"""Status and reason of a sample that cannot be read."""


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


class _Part(NamedTuple):
    """Some samples of a task on their way: prepared, then predicted.

    Attributes:
        task: What is done with them.
        samples: Rows with their place, and examples; for what cannot be read, its failure.
        outcomes: What is said of each; "" for what cannot be read.
        thresholds: Those that the task's conventions ask for, chosen on the valid slice.
    """

    task: Task
    samples: list[tuple[Row, Example | Failure]]
    outcomes: Sequence[Outcome] = ()
    thresholds: dict[float, float] | None = None


def evaluate_slices(
    tasks: Iterable[Task], predict: Recall, frames: Frames, timer: Timer, events: Events, *, threads: int = 1
) -> Iterator[tuple[Task, Shard]]:
    """Predict and score test slices under conditions, one after the other.

    The next images are prepared while the network looks at these, over the borders of tasks too, and beside a GPU
    these are scored while it looks at the next.

    Args:
        tasks: What to do.
        predict: The locator at work.
        frames: Decoded samples, with their source of regions.
        timer: Counts what scoring costs.
        events: Where progress goes.
        threads: Threads that prepare and score; with one, what is scored waits for the network, whose cores it takes.

    Raises:
        MethodError: The method breaks the contract.
        Interrupted: The process was asked to stop.
    """
    with Threads(threads) as shared:
        prepared = one_ahead(_prepared(tasks, frames, shared))
        predicted = _predicted(prepared, predict, frames, events, ahead=int(threads > 1))
        parts = one_ahead(predicted) if threads > 1 else predicted
        for first in parts:
            events.check()
            yield first.task, _scored(first, parts, frames, timer, events, shared)


def _prepared(tasks: Iterable[Task], frames: Frames, threads: Threads) -> Iterator[_Part]:
    """Yield the samples of tasks, a batch at a time; of a task without any, an empty one."""
    for task in tasks:
        condition = parse_condition(task.condition)
        recomputed = task.protocol.scoring.ground_truth == "degraded"
        columns = {str(name): column.array for name, column in task.samples.items()}
        read = partial(_read, frames, condition, recomputed)
        for start in range(0, max(1, len(task.samples)), task.batch):
            texts = [column[start : start + task.batch].tolist() for column in columns.values()]
            values = enumerate(zip(*texts, strict=True), start)
            rows = [dict(zip(columns, row, strict=True)) | {_PLACE: place} for place, row in values]
            yield _Part(task, list(zip(rows, threads.map(read, rows), strict=True)))


def _read(frames: Frames, condition: Condition, recomputed: bool, row: Row) -> Example | Failure:
    try:
        return frames.example(row["sample_id"], condition, recomputed=recomputed)
    except DataError as error:
        status = next((kind for kind in ("mask_mismatch", "too_large") if kind in error.message), "unreadable")
        return {"status": status, "reason": error.message}


def _predicted(
    parts: Iterable[_Part], predict: Recall, frames: Frames, events: Events, *, ahead: int
) -> Iterator[_Part]:
    """Yield parts with their outcomes, and with the thresholds of their task if it has conventions.

    Args:
        parts: Prepared.
        predict: The locator at work.
        frames: Decoded samples.
        events: Where progress goes.
        ahead: How many are given to a GPU before those before them are waited for.
    """
    task, thresholds = None, None
    given: deque[tuple[_Part, Callable[[], list[Outcome]]]] = deque()
    for part in parts:
        if part.task is not task:
            task = part.task
            thresholds = valid_thresholds(task, predict, frames, events) if _tallied(task) else None
        ready = [(row["sample_id"], made) for row, made in part.samples if isinstance(made, Example)]
        condition = parse_condition(task.condition)
        finish = predict.begun(condition, [name for name, _ in ready], [example for _, example in ready])
        given.append((part._replace(thresholds=thresholds), finish))
        if len(given) > ahead:
            yield _finished(*given.popleft())
    while given:
        yield _finished(*given.popleft())


def _finished(part: _Part, finish: Callable[[], list[Outcome]]) -> _Part:
    said = iter(finish())
    return part._replace(outcomes=[next(said) if isinstance(made, Example) else "" for _, made in part.samples])


def _tallied(task: Task) -> bool:
    clean = not parse_condition(task.condition).steps
    return task.protocol.scoring.conventions and clean and _has_fakes(task)


def _has_fakes(task: Task) -> bool:
    return bool((task.samples["label"] == "fake").any())


def _scored(
    first: _Part, others: Iterable[_Part], frames: Frames, timer: Timer, events: Events, threads: Threads
) -> Shard:
    """Score a task, from its first part to its last."""
    task = first.task
    scoring, condition = task.protocol.scoring, parse_condition(task.condition)
    metrics = tuple(name for name in WORST if name in scoring.metrics)
    showing = not condition.steps and task.shown and scoring.primary in (*WORST, "false_alarm")
    chooser = Chooser(task.shown, CASES if showing else 0, lower_is_better=scoring.primary in LOWER_IS_BETTER)
    shown_label = "fake" if _has_fakes(task) else "real"
    table, tally = _Table(task.samples, metrics), Tally(first.thresholds) if _tallied(task) else None
    what = task.test.name if not condition.steps else f"{task.test.name}, {condition.name}"
    total, done = len(task.samples), 0

    def score(one: tuple[tuple[Row, Example | Failure], Outcome]) -> dict[str, Any]:
        (row, example), outcome = one
        return example if isinstance(example, dict) else score_image(row["label"], example, outcome, metrics)

    for part in chain([first], others):
        started = time.perf_counter()
        said = list(zip(part.samples, part.outcomes, strict=True))
        for ((row, example), outcome), scored in zip(said, threads.map(score, said), strict=True):
            table.add(row[_PLACE], scored)
            if isinstance(example, dict) or isinstance(outcome, str) or scored["status"] != "ok":
                continue
            if tally is not None:
                tally.add(example.truth, np.clip(outcome[0], 0, 1), row["label"] == "fake", example.region)
            if row["label"] == shown_label and task.shown:
                photo = frames.image(row["source"]) if row["source"] else _photo(row["label"], example)
                shown = Shown(row["sample_id"], photo, example, outcome[0])
                chooser.offer(shown, scored.get(scoring.primary, float("nan")))
        timer.score_s += time.perf_counter() - started
        done += len(part.samples)
        if total:
            events.progress(f"test {what}", done, total)
        if done == total:
            break
        events.check()
    gallery = chooser.arrays(task.test.name, task.condition)
    return Shard(table.frame(task.test.name, task.condition), gallery, {} if tally is None else tally.results())


def _photo(label: str, example: Example) -> np.ndarray:
    return example.image if label == "real" else np.zeros_like(example.image)


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
    low, high = float(fakeness.min()), float(fakeness.max())  # NaN is both where there is any
    if not all(map(math.isfinite, (low, high, 0.0 if score is None else score))):
        return {"status": "bad_output", "reason": "NaN or infinity"}
    fakeness = (fakeness if low >= 0 and high <= 1 else np.clip(fakeness, 0, 1))[None]
    values: dict[str, Any] = {"status": "ok", "reason": note}
    values["score"] = float(top_score(fakeness)[0]) if score is None else score
    if label == "real":
        return values | {"false_alarm": float(false_alarm(fakeness)[0])}
    if low == high:
        values["reason"] = values["reason"] or FLAT
    region = None if example.region is None else example.region[None]
    pair = example.truth[None], fakeness, region
    found = map_metrics(*pair, asked=metrics) | pixel_metrics(*pair, asked=metrics)
    return values | {name: float(value[0]) for name, value in found.items()}


def valid_thresholds(task: Task, predict: Recall, frames: Frames, events: Events) -> dict[float, float] | None:
    """Return thresholds chosen on fakes of the valid split of what a fit learnt from; None if there are none.

    Args:
        task: Whose fit slice it is.
        predict: The locator at work.
        frames: Decoded samples.
        events: Where progress goes.
    """
    fit, batch = task.protocol.slice(task.test.fit), task.batch
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
