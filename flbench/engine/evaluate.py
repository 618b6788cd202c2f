"""One cell: predict every test image, score it, and write the record last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby, product
from typing import Any

import pandas as pd
import pyarrow as pa

from flbench.condition import CLEAN
from flbench.data.batches import Frames
from flbench.data.dataset import Dataset, select_test
from flbench.engine.contained import contained
from flbench.engine.fit import weights_digest
from flbench.engine.gallery import ROWS, SLICES, joined, write_arrays
from flbench.engine.inference import Inference, in_channels_last, version_of, with_engine
from flbench.engine.plan import Cell, is_done
from flbench.engine.predictions import Begin, Predictions, Recall, Timer
from flbench.engine.predictor import Predictor
from flbench.engine.runtime import Events, Runtime
from flbench.engine.shards import Shard, Shards
from flbench.engine.slices import FLAT, Task, evaluate_slices, samples_of
from flbench.errors import DataError, MethodError
from flbench.files import make_folder, write_text
from flbench.locator import Locator
from flbench.protocol import Protocol, TestSlice, fingerprint
from flbench.record import DatasetInfo, MethodInfo, ProtocolInfo, Record, Result, Status
from flbench.registry import MethodChoice, load_method
from flbench.scoring.comparison import gammas
from flbench.scoring.statistics import summarise
from flbench.study import GALLERY, LOG, RECORD, SCORES, Study, write_scores


def run_cell(
    cell: Cell,
    frames: Frames,
    study: Study,
    runtime: Runtime,
    events: Events,
    *,
    memory: Predictions | None = None,
    unfitted: str = "",
) -> Record:
    """Carry out a cell, or find it done; a failure of the method or the data becomes a failed record.

    Args:
        cell: What to do.
        frames: Decoded samples at the cell's size, with its source of regions.
        study: Where the record goes.
        runtime: Device.
        events: Where progress goes.
        memory: What locators said already; shared by the cells of a work unit.
        unfitted: Why a fit that the cell needs could not be made; the cell fails with this reason.

    Raises:
        Interrupted: The process was asked to stop; finished slices are kept.
        RunError: The record cannot be written.
    """
    done = study.record(cell.id)
    if is_done(done):
        return done
    folder = study.cell_folder(cell.id)
    try:
        if unfitted:
            raise MethodError(unfitted)
        with contained(cell.method.name):
            record = _evaluate(cell, frames, study, runtime, events, memory or Predictions())
    except (DataError, MethodError) as error:
        record = draft(cell, frames.dataset, runtime, status="failed", reason=str(error))
    write_text(folder / RECORD, record.to_json())
    Shards(folder).clear()
    events.cell(cell.id, record.status, record.reason)
    return record


def _evaluate(
    cell: Cell, frames: Frames, study: Study, runtime: Runtime, events: Events, memory: Predictions
) -> Record:
    folder = study.cell_folder(cell.id)
    make_folder(folder)
    reason = load_method(cell.method).skip(cell.protocol)
    if reason:
        return draft(cell, frames.dataset, runtime, status="skipped", reason=reason)
    fits = {name: study.fit(identifier) or {} for name, identifier in cell.fits.items()}
    timer = Timer()
    before = {name: replace(known) for name, known in memory.timers.items()}
    shards = Shards(folder)
    tests = {test.name: test for test in cell.protocol.test}
    finished: dict[tuple[str, str], Shard] = {}

    @cache
    def result(test: str, condition: str) -> Result:
        return _result(tests[test], condition, finished[test, condition], finished[test, CLEAN], cell.protocol)

    left: list[tuple[int, TestSlice, str]] = []
    for place, (test, condition) in enumerate(_in_order(cell.protocol)):
        shard = shards.read(test.name, condition)
        if shard is None:
            left.append((place, test, condition))
        else:
            finished[test.name, condition] = shard
    for fit, parts in groupby(left, key=lambda part: part[1].fit):
        predict = _recall(cell, fit, fits.get(fit), study, runtime, memory)
        tasks = _tasks(cell, list(parts), frames, runtime)
        for task, shard in evaluate_slices(tasks, predict, frames, timer, events, threads=runtime.beside):
            shards.write(task.test.name, task.condition, shard)
            finished[task.test.name, task.condition] = shard
            if (task.test.name, CLEAN) in finished:
                result(task.test.name, task.condition)  # now, while a GPU is busy with what comes next
    results = tuple(result(test, condition) for test, condition in product(tests, cell.protocol.conditions))
    ordered = [finished[made.test, made.condition] for made in results]
    scores = pd.concat([shard.scores for shard in ordered], ignore_index=True)
    write_scores(folder / SCORES, scores)
    write_arrays(folder / GALLERY, joined([shard.gallery for shard in ordered]))
    status, reason = _status(scores, cell)
    return draft(
        cell,
        frames.dataset,
        runtime,
        status=status,
        reason=reason,
        parameters=_parameters(cell, fits),
        fits=fits,
        results=results,
        flags=_flags(scores, cell),
        timings=_timings(cell, fits, timer, before, memory),
        circumstances=_inference(cell, runtime, memory),
    )


def _tasks(cell: Cell, left: Sequence[tuple[int, TestSlice, str]], frames: Frames, runtime: Runtime) -> Iterator[Task]:
    """Yield what is left of a cell: test slices under conditions, with their place among all."""
    protocol, batch = cell.protocol, runtime.batch_at(frames.size)
    for _, parts in groupby(left, key=lambda part: part[1].name):
        tests = list(parts)
        test = tests[0][1]
        samples = samples_of(select_test(frames.dataset, test, protocol.scoring.reals, protocol.slice(test.fit)))
        pa.default_memory_pool().release_unused()  # of many images, choosing them takes more than measuring them
        for place, _, condition in tests:
            yield Task(protocol, test, condition, samples, _rows(protocol, place), batch)


def _flags(scores: pd.DataFrame, cell: Cell) -> tuple[str, ...]:
    """Return what a reader must know of the maps: made in another way than asked, or of one value each."""
    fine = scores[scores["status"] == "ok"]
    notes = fine.loc[~fine["reason"].isin(["", FLAT]), "reason"].value_counts().sort_index()
    flags = tuple(f"{count} of {len(scores)} images were {note}" for note, count in notes.items())
    fakes = fine[fine["label"] == "fake"]
    if not cell.method.entry.reference and len(fakes) and (fakes["reason"] == FLAT).all():
        flags += ("flat: the map of every fake is one value",)
    return flags


def _inference(cell: Cell, runtime: Runtime, memory: Predictions) -> dict[str, Any]:
    """Return what a record says of how its networks were run; what is no network is always run by eager torch."""
    keys = {_locator_key(cell, test.fit) for test in cell.protocol.test}
    fitted = [memory.timers[key].batch for key in keys & set(memory.timers)]  # batches that did not fit in memory
    said: dict[str, Any] = {"batch": min([runtime.batch_at(int(cell.protocol.size)), *filter(None, fitted)])}
    if keys & memory.channels_last:
        said["layout"] = "channels last"
    engines = [memory.engines[key] for key in sorted(keys & set(memory.engines))]
    if engines:
        furthest = max((engine.deviation for engine in engines if engine.deviation is not None), default=None)
        name = engines[0].engine
        said["inference"] = {"engine": name, "version": version_of(name), "deviation": furthest}
    return said


def _in_order(protocol: Protocol) -> list[tuple[TestSlice, str]]:
    """Return test slices under conditions, those of one fit together, so that one locator at a time is in memory."""
    fits = list(dict.fromkeys(test.fit for test in protocol.test))
    return list(product(sorted(protocol.test, key=lambda test: fits.index(test.fit)), protocol.conditions))


def _rows(protocol: Protocol, slices_before: int) -> int:
    """Return how many samples of the next slice go to the gallery."""
    if slices_before >= SLICES:
        return 0
    return max(1, ROWS // (len(protocol.test) * len(protocol.conditions)))


def _recall(
    cell: Cell, fit: str, document: Mapping[str, Any] | None, study: Study, runtime: Runtime, memory: Predictions
) -> Recall:
    """Return the locator of a fit slice, loaded when it is first asked."""
    key = _locator_key(cell, fit)
    log = study.cell_folder(cell.id) / LOG
    size = int(cell.protocol.size)

    def ready() -> Begin:
        locator = ready_locator(cell.method, document, study, runtime)
        locator = with_engine(locator, cell.method.name, runtime.inference, size=size, threads=runtime.threads)
        if isinstance(locator, Inference):
            memory.engines[key] = locator
        elif in_channels_last(locator, size, runtime.device, runtime.precision):
            memory.channels_last.add(key)
        return Predictor(locator, cell.method.name, runtime, log, memory.timer(key)).begun

    return Recall(ready, key, size, None if cell.method.entry.reference else memory)


def shared_locators(cells: Sequence[Cell]) -> frozenset[str]:
    """Return the keys of locators that more than one of some cells ask."""
    asked = Counter(key for cell in cells for key in {_locator_key(cell, test.fit) for test in cell.protocol.test})
    return frozenset(key for key, times in asked.items() if times > 1)


def _locator_key(cell: Cell, fit: str) -> str:
    return cell.fits.get(fit) or f"{cell.method.entry.name} {fingerprint(cell.method.options)}"


def _parameters(cell: Cell, fits: Mapping[str, Mapping[str, Any]]) -> int:
    if fits:
        return max(int(fit.get("parameters", 0)) for fit in fits.values())
    return load_method(cell.method).parameters


def ready_locator(method: MethodChoice, fit: Mapping[str, Any] | None, study: Study, runtime: Runtime) -> Locator:
    """Return a locator with what its fit learnt, on the device.

    Args:
        method: The method with its options.
        fit: What its `fit.json` says; None for a method that learns nothing.
        study: Where the fit is.
        runtime: Device.

    Raises:
        MethodError: The method cannot be loaded, or the weights are not those that the fit wrote.
    """
    locator = load_method(method)
    if fit is not None:
        folder = study.fit_folder(fit["fit"])
        if weights_digest(folder) != fit["weights"]:
            raise MethodError(f"the weights of fit {fit['fit']} have changed", hint=f"delete {folder} and run again")
        locator.load(folder)
    locator.to(runtime.device)
    return locator


def _timings(
    cell: Cell,
    fits: Mapping[str, Mapping[str, Any]],
    timer: Timer,
    before: Mapping[str, Timer],
    memory: Predictions,
) -> dict[str, float]:
    """Return the timings of a record; slices and predictions found finished do not count, but for the mean."""
    timings: dict[str, float] = {}
    if fits:
        timings["fit_s"] = sum(float(fit["timings"]["fit_s"]) for fit in fits.values())
    keys = {_locator_key(cell, test.fit) for test in cell.protocol.test}
    spent = [memory.timers[key] for key in sorted(keys) if key in memory.timers]
    images = sum(known.images for known in spent)
    if images:
        earlier = sum(before[key].predict_s for key in keys if key in before)
        timings["predict_s"] = sum(known.predict_s for known in spent) - earlier
        timings["s_per_image"] = sum(known.predict_s for known in spent) / images
    if timer.score_s:
        timings["score_s"] = timer.score_s
    return timings


def _result(test: TestSlice, condition: str, shard: Shard, clean: Shard, protocol: Protocol) -> Result:
    scores, metrics = shard.scores, protocol.scoring.metrics
    degraded = condition != CLEAN
    return Result(
        test=test.name,
        condition=condition,
        categories=test.categories,
        fakes=int((scores["label"] == "fake").sum()),
        reals=int((scores["label"] == "real").sum()),
        metrics=summarise(scores, metrics),
        gamma=gammas(scores, clean.scores, metrics) if degraded else {},
        conventions=dict(shard.conventions),
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


def _overlap(dataset: Dataset) -> list[str]:
    """Return that people or images stand in more than one split, with the first example, if some do."""
    found = dataset.leaks
    return [f"{len(found)} leak{'s' * (len(found) > 1)} between splits, such as: {found[0]}"] if found else []


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
    flags: tuple[str, ...] = (),
    timings: Mapping[str, float] | None = None,
    circumstances: Mapping[str, Any] | None = None,
) -> Record:
    """Return the record of a cell."""
    entry = cell.method.entry
    fits = fits or {}
    scoring = cell.protocol.scoring
    digests = {name: fit["weights"] for name, fit in fits.items() if fit["weights"]}
    told = [f"trial: at most {fit['cap']} steps on {name}" for name, fit in fits.items() if fit["cap"]]
    if cell.method.weights is not None and fits:
        told.append("weights were given: not fitted by this protocol")
    told += _overlap(dataset) if fits else []
    told += [f"collapsed on {name}: {fit['collapsed']}" for name, fit in fits.items() if fit["collapsed"]]
    return Record(
        cell=cell.id,
        status=status,
        reason=reason,
        flags=(*told, *flags),
        method=MethodInfo(
            name=cell.method.name,
            title=entry.title,
            paper=entry.paper,
            licence=entry.licence,
            reference=entry.reference,
            options=cell.method.options,
            given={**cell.method.given, **cell.method.brought},
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
            added=cell.added,
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
        provenance={**runtime.provenance(), **(circumstances or {})},
    )
