"""Carry out one work unit in a process of its own: `python -m flbench.engine.worker`, the unit as JSON on stdin.

Events go to the real standard output, one JSON document a line, `begin` first and `end` last. Whatever the method
itself prints goes to the log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from flbench.data.batches import Frames
from flbench.data.dataset import read_dataset
from flbench.engine.contained import Unheard, contained
from flbench.engine.evaluate import run_cell, shared_locators
from flbench.engine.fit import make_fit
from flbench.engine.plan import Cell, Fit, Unit, unit_from_json
from flbench.engine.predictions import Predictions
from flbench.engine.runtime import Events, Runtime
from flbench.errors import FlbenchError, MethodError
from flbench.files import is_full, make_folder, storage_error, storing
from flbench.registry import load_method
from flbench.study import LOG, Study


def run_unit(
    unit: Unit,
    dataset: Path,
    study: Study,
    runtime: Runtime,
    events: Events,
    *,
    wait: bool = False,
    given_up: Mapping[str, str] | None = None,
) -> None:
    """Make the cells of a unit, each as soon as its fits are made; what cannot be fitted fails its own cells only.

    Args:
        unit: What to do.
        dataset: Folder of the data set.
        study: Where results go.
        runtime: Device.
        events: Where progress goes.
        wait: Wait for another command that works on the same fit or cell.
        given_up: Cell to why it is not tried again: it ended this process before. It fails with this reason.

    Raises:
        Interrupted: The process was asked to stop.
        RunError: Another process works on the same fit, or the disk is full.
    """
    source = read_dataset(dataset)
    if not source.about.recipe:
        study.remember_data(source.about.name, dataset.resolve())
    frames: dict[int, Frames] = {}
    memory = Predictions(shared_locators(unit.cells))
    unfitted: dict[str, str] = {}
    given_up = given_up or {}
    tested = {name for cell in unit.cells for name in cell.fits.values()}
    fits = {fit.id: fit for fit in unit.fits}

    def decoded(size: int) -> Frames:
        return frames.setdefault(size, Frames(source, size=size, on_disk=True))

    def make(fit: Fit) -> None:
        events.what = fit.method.name
        with study.lock(fit.id, wait=wait, waiting=events.waits):
            try:
                with contained(fit.method.name):
                    done = make_fit(fit, decoded(int(fit.protocol.size)), study, runtime, events)
            except FlbenchError as error:
                if not isinstance(error, MethodError) or fit.id not in tested:
                    raise
                unfitted[fit.id] = f"not fitted: {error}"
                return
        if done["collapsed"]:
            events.warn(f"{fit.method.name} has collapsed: {done['collapsed']}")

    for fit in unit.fits:
        if fit.id not in tested:
            make(fit)
    for cell in unit.cells:
        idle = cell.id in given_up or _skipped(cell)
        wanted = [] if idle else [name for name in cell.fits.values() if name not in unfitted]
        for name in wanted:
            if name in fits:
                make(fits.pop(name))
        events.what = cell.method.name
        reasons = [unfitted[name] for name in cell.fits.values() if name in unfitted]
        reason = given_up.get(cell.id) or next(iter(reasons), "")
        with study.lock(cell.id, wait=wait, waiting=events.waits):
            seen = decoded(int(cell.protocol.size)).with_region(cell.region)
            run_cell(cell, seen, study, runtime, events, memory=memory, unfitted=reason)


def _skipped(cell: Cell) -> bool:
    """Return whether the method declines the protocol; one that cannot be loaded fails later, with its reason."""
    try:
        with contained(cell.method.name):
            return load_method(cell.method).skip(cell.protocol) is not None
    except MethodError:
        return False


def runtime_of(job: Mapping[str, Any]) -> Runtime:
    """Set this process up as a job asks.

    Raises:
        UsageError: Its device, engine or precision cannot be used here.
    """
    how = {name: job[name] for name in ("precision", "batch")}
    return Runtime.set_up(job["device"], job["threads"], job["inference"], **how)


def main() -> int:
    """Read a unit from stdin, carry it out, and return the exit code."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    job = json.load(sys.stdin)
    study = Study(Path(job["study"]))

    def send(event: Mapping[str, Any]) -> None:
        try:
            out.write(json.dumps(event) + "\n")
        except BrokenPipeError:  # nobody waits for this unit any more; no method may catch that
            raise Unheard(1) from None

    events = Events(send)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: setattr(events, "stopping", True))
    try:
        _log_to(study.folder / LOG)
        runtime = runtime_of(job)
        unit = unit_from_json(job["unit"])
        send({"event": "begin"})
        given_up = job.get("given_up")
        run_unit(unit, Path(job["dataset"]), study, runtime, events, wait=job["wait"], given_up=given_up)
        send({"event": "end"})
    except FlbenchError as error:
        send({"event": "error", "message": error.message, "hint": error.hint, "exit": error.exit_code})
        return error.exit_code
    except OSError as error:
        if not is_full(error):
            raise
        full = storage_error(error, Path(error.filename or study.folder))
        send({"event": "error", "message": full.message, "hint": full.hint, "exit": full.exit_code})
        return full.exit_code
    return 0


def _log_to(path: Path) -> None:
    """Let standard output and error of this process go to a file.

    Raises:
        RunError: It cannot be written.
    """
    make_folder(path.parent)
    with storing(path), path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _leave(code: int) -> NoReturn:
    """End the process at once, whatever threads a method has left running in it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _leave(main())
    except Unheard:
        _leave(1)
    except BaseException:
        traceback.print_exc()
        _leave(1)
