"""One cell: predict every test image, score it, and write the record last."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flbench.data.batches import Example, Frames
from flbench.data.dataset import Dataset, Selection, select_test
from flbench.engine.fit import weights_digest
from flbench.engine.plan import Cell
from flbench.engine.predictor import Predictor, Timer
from flbench.engine.runtime import Events, Runtime
from flbench.errors import DataError, MethodError
from flbench.files import atomic_write, write_text
from flbench.locator import Locator
from flbench.protocol import Protocol, TestSlice, fingerprint
from flbench.record import DatasetInfo, MethodInfo, ProtocolInfo, Record, Result, Status
from flbench.registry import load_method
from flbench.scoring.metrics import false_alarm, map_metrics, top_score
from flbench.scoring.statistics import summarise
from flbench.study import GALLERY, LOG, RECORD, SCORES, Study

BATCH = 16
GALLERY_ROWS = 6
MAPS = ("coss", "psnr", "ssim", "mae")
COLUMNS = ("test", "condition", "sample_id", "identity", "label", "status", "reason", "score", *MAPS, "false_alarm")


@dataclass
class Shard:
    """The outcome of one test slice under one condition.

    Attributes:
        scores: One row per image, columns `COLUMNS`.
        gallery: Arrays of a few fakes, for the panel.
    """

    scores: pd.DataFrame
    gallery: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate_slice(
    predict: Predictor, frames: Frames, test: TestSlice, condition: str, chosen: Selection, rows: int, events: Events
) -> Shard:
    """Predict and score one test slice under one condition.

    Args:
        predict: The locator at work.
        frames: Decoded samples.
        test: The slice.
        condition: "clean".
        chosen: Its fakes and real photos.
        rows: How many fakes go to the gallery.
        events: Where progress goes.

    Raises:
        MethodError: The method breaks the contract.
        Interrupted: The process was asked to stop.
    """
    samples = pd.concat([chosen.fakes, chosen.reals])
    table: list[dict[str, Any]] = []
    shown: list[tuple[str, str, Example, np.ndarray]] = []
    for start in range(0, len(samples), BATCH):
        events.check()
        part = samples.iloc[start : start + BATCH].to_dict("records")
        ready: list[tuple[dict[str, Any], Example]] = []
        for row in part:
            base = {"test": test.name, "condition": condition} | {k: row[k] for k in ("sample_id", "identity", "label")}
            try:
                ready.append((base, frames.example(row["sample_id"])))
            except DataError as error:
                status = "mask_mismatch" if error.message.startswith("mask_mismatch") else "unreadable"
                table.append({**base, "status": status, "reason": error.message})
        outcomes = predict([example for _, example in ready]) if ready else []
        for (base, example), outcome in zip(ready, outcomes, strict=True):
            scored = _row(base["label"], example, outcome, predict.timer)
            table.append({**base, **scored})
            if base["label"] == "fake" and len(shown) < rows and scored["status"] == "ok":
                source = next(row["source"] for row in part if row["sample_id"] == base["sample_id"])
                shown.append((base["sample_id"], source, example, outcome[0]))  # type: ignore[arg-type]  # it is ok
        events.progress(f"test {test.name}", min(start + BATCH, len(samples)), len(samples))
    scores = pd.DataFrame(table, columns=list(COLUMNS))
    scores[["status", "reason"]] = scores[["status", "reason"]].fillna("")
    return Shard(scores, _gallery(shown, frames, test.name))


def _row(label: str, example: Example, outcome: tuple[np.ndarray, float | None] | str, timer: Timer) -> dict[str, Any]:
    """Return the scores of one image, or its failure."""
    if isinstance(outcome, str):
        return {"status": "error", "reason": outcome.removeprefix("error: ")}
    fakeness, score = outcome
    if not np.isfinite(fakeness).all() or (score is not None and not np.isfinite(score)):
        return {"status": "bad_output", "reason": "NaN or infinity"}
    started = time.perf_counter()
    fakeness = np.clip(fakeness, 0, 1)
    values: dict[str, Any] = {"status": "ok", "reason": ""}
    values["score"] = float(top_score(fakeness[None])[0]) if score is None else score
    if label == "fake":
        region = None if example.region is None else example.region[None]
        metrics = map_metrics(example.truth[None], fakeness[None], region)
        values |= {name: float(metrics[name][0]) for name in MAPS}
    else:
        values["false_alarm"] = float(false_alarm(fakeness[None])[0])
    timer.score_s += time.perf_counter() - started
    return values


def _gallery(shown: Sequence[tuple[str, str, Example, np.ndarray]], frames: Frames, test: str) -> dict[str, np.ndarray]:
    """Return a few fakes with truth, prediction and region, ready to be drawn."""
    if not shown:
        return {}
    size = frames.size
    regions = [np.zeros((size, size), bool) if e.region is None else e.region for _, _, e, _ in shown]
    sources = [frames.image(source) if source else np.zeros((size, size, 3), np.uint8) for _, source, _, _ in shown]
    return {
        "sample_ids": np.array([sample for sample, *_ in shown]),
        "tests": np.array([test] * len(shown)),
        "real": np.stack(sources),
        "fake": np.stack([example.image for _, _, example, _ in shown]),
        "truth": np.stack([_byte(example.truth) for _, _, example, _ in shown]),
        "prediction": np.stack([_byte(fakeness) for *_, fakeness in shown]),
        "region": np.stack(regions),
    }


def _byte(fakeness: np.ndarray) -> np.ndarray:
    return np.round(np.clip(fakeness, 0, 1) * 255).astype(np.uint8)


class Shards:
    """The finished slices of a cell, kept on disk until its record is written.

    Args:
        folder: Folder of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "partial"

    def read(self, test: str, condition: str) -> Shard | None:
        """Return a finished slice, or None."""
        table, arrays = self._paths(test, condition)
        try:
            with np.load(arrays, allow_pickle=False) as file:
                return Shard(pd.read_parquet(table), dict(file))
        except (OSError, ValueError, EOFError):
            return None

    def write(self, test: str, condition: str, shard: Shard) -> None:
        """Keep a finished slice; the gallery comes last and makes it count."""
        table, arrays = self._paths(test, condition)
        atomic_write(table, lambda path: shard.scores.to_parquet(path, index=False))
        write_arrays(arrays, shard.gallery)

    def clear(self) -> None:
        """Drop what the record has made superfluous."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self, test: str, condition: str) -> tuple[Path, Path]:
        return self.folder / f"{test}--{condition}.parquet", self.folder / f"{test}--{condition}.npz"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as .npz, atomically and without pickle."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    atomic_write(path, write)


def run_cell(
    cell: Cell, frames: Frames, study: Study, runtime: Runtime, events: Events, *, unfitted: str = ""
) -> Record:
    """Carry out a cell, or find it done; a failure of the method or the data becomes a failed record.

    Args:
        cell: What to do.
        frames: Decoded samples at the cell's size, with its source of regions.
        study: Where the record goes.
        runtime: Device.
        events: Where progress goes.
        unfitted: Why a fit that the cell needs could not be made; the cell fails with this reason.

    Raises:
        Interrupted: The process was asked to stop; finished slices are kept.
        RunError: The record cannot be written.
    """
    done = study.record(cell.id)
    if done is not None and done.status != "failed":
        return done
    folder = study.cell_folder(cell.id)
    try:
        if unfitted:
            raise MethodError(unfitted)
        record = _evaluate(cell, frames, study, runtime, events)
    except (DataError, MethodError) as error:
        record = draft(cell, frames.dataset, runtime, status="failed", reason=str(error))
    write_text(folder / RECORD, record.to_json())
    Shards(folder).clear()
    events.cell(cell.id, record.status, record.reason)
    return record


def _evaluate(cell: Cell, frames: Frames, study: Study, runtime: Runtime, events: Events) -> Record:
    folder = study.cell_folder(cell.id)
    folder.mkdir(parents=True, exist_ok=True)
    reason = load_method(cell.method).skip(cell.protocol)
    if reason:
        return draft(cell, frames.dataset, runtime, status="skipped", reason=reason)
    fits = {name: study.fit(identifier) or {} for name, identifier in cell.fits.items()}
    predictors = {
        test.fit: Predictor(_ready(cell, fits.get(test.fit), study, runtime), cell.method.name, runtime, folder / LOG)
        for test in cell.protocol.test
    }
    shards = Shards(folder)
    per_slice = max(1, GALLERY_ROWS // len(cell.protocol.test))
    finished: list[Shard] = []
    results: list[Result] = []
    for test in cell.protocol.test:
        chosen = select_test(frames.dataset, test, cell.protocol.scoring.reals)
        for condition in cell.protocol.conditions:
            shard = shards.read(test.name, condition)
            if shard is None:
                shard = evaluate_slice(predictors[test.fit], frames, test, condition, chosen, per_slice, events)
                shards.write(test.name, condition, shard)
            finished.append(shard)
            results.append(_result(test, condition, shard.scores, cell.protocol))
    scores = pd.concat([shard.scores for shard in finished], ignore_index=True)
    atomic_write(folder / SCORES, lambda path: scores.to_parquet(path, index=False))
    write_arrays(folder / GALLERY, _joined([shard.gallery for shard in finished if shard.gallery]))
    status, reason = _status(scores, cell)
    return draft(
        cell,
        frames.dataset,
        runtime,
        status=status,
        reason=reason,
        parameters=max(predictor.locator.parameters for predictor in predictors.values()),
        fits=fits,
        results=tuple(results),
        timings=_timings(list(predictors.values()), fits),
    )


def _ready(cell: Cell, fit: Mapping[str, Any] | None, study: Study, runtime: Runtime) -> Locator:
    """Return a locator with what its fit learnt, on the device.

    Raises:
        MethodError: The weights are not those that the fit wrote.
    """
    locator = load_method(cell.method)
    if fit is not None:
        folder = study.fit_folder(fit["fit"])
        if weights_digest(folder) != fit["weights"]:
            raise MethodError(f"the weights of fit {fit['fit']} have changed", hint=f"delete {folder} and run again")
        locator.load(folder)
    locator.to(runtime.device)
    return locator


def _joined(galleries: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return (
        {name: np.concatenate([gallery[name] for gallery in galleries]) for name in galleries[0]} if galleries else {}
    )


def _timings(predictors: Sequence[Predictor], fits: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the timings of a record; slices found finished do not count."""
    images = sum(predictor.timer.images for predictor in predictors)
    timings: dict[str, float] = {}
    if fits:
        timings["fit_s"] = sum(float(fit["timings"]["fit_s"]) for fit in fits.values())
    if images:
        timings["predict_s"] = sum(predictor.timer.predict_s for predictor in predictors)
        timings["score_s"] = sum(predictor.timer.score_s for predictor in predictors)
        timings["s_per_image"] = timings["predict_s"] / images
    return timings


def _result(test: TestSlice, condition: str, scores: pd.DataFrame, protocol: Protocol) -> Result:
    return Result(
        test=test.name,
        condition=condition,
        categories=test.categories,
        fakes=int((scores["label"] == "fake").sum()),
        reals=int((scores["label"] == "real").sum()),
        metrics=summarise(scores, protocol.scoring.metrics),
    )


def _status(scores: pd.DataFrame, cell: Cell) -> tuple[Status, str]:
    """Return "partial" and why, if slices are missing or too many images failed."""
    bad = scores[scores["status"] != "ok"]
    reasons = []
    if cell.missing:
        reasons.append(f"not in the data set: {', '.join(cell.missing)}")
    if len(bad) > cell.protocol.scoring.max_failed * len(scores):
        kinds = ", ".join(f"{count} {kind}" for kind, count in bad["status"].value_counts().items())
        reasons.append(f"{len(bad)} of {len(scores)} images failed ({kinds})")
    return ("partial", "; ".join(reasons)) if reasons else ("ok", "")


def draft(
    cell: Cell,
    dataset: Dataset,
    runtime: Runtime,
    *,
    status: Status,
    reason: str,
    parameters: int = 0,
    fits: Mapping[str, Mapping[str, Any]] | None = None,
    results: tuple[Result, ...] = (),
    timings: Mapping[str, float] | None = None,
) -> Record:
    """Return the record of a cell."""
    entry = cell.method.entry
    fits = fits or {}
    scoring = cell.protocol.scoring
    digests = {name: fit["weights"] for name, fit in fits.items() if fit["weights"]}
    flags = [f"trial: at most {fit['cap']} steps on {name}" for name, fit in fits.items() if fit["cap"]]
    flags += [f"collapsed on {name}: {fit['collapsed']}" for name, fit in fits.items() if fit["collapsed"]]
    return Record(
        cell=cell.id,
        status=status,
        reason=reason,
        flags=tuple(flags),
        method=MethodInfo(
            name=cell.method.name,
            title=entry.title,
            paper=entry.paper,
            licence=entry.licence,
            reference=entry.reference,
            options=cell.method.options,
            given=dict(cell.method.given),
            distribution=entry.distribution,
            parameters=parameters,
            weights=fingerprint(digests) if digests else None,
            fits=dict(cell.fits),
        ),
        protocol=ProtocolInfo(
            name=cell.protocol.name,
            version=cell.protocol.version,
            title=cell.protocol.title,
            fingerprint=cell.origin,
            mapping=dict(cell.mapping),
            missing=cell.missing,
            region=cell.region,
            over=scoring.over,
            metrics=scoring.metrics,
            primary=scoring.primary,
        ),
        dataset=DatasetInfo(
            name=dataset.about.name,
            version=dataset.about.version,
            title=dataset.about.title,
            fingerprint=dataset.fingerprint,
            size=int(cell.protocol.size),
            licence=dataset.about.licence,
            publishable=dataset.about.publishable,
            note=dataset.about.note,
        ),
        seed=cell.seed,
        results=results,
        timings=dict(timings or {}),
        provenance=runtime.provenance(),
    )
