"""The engine for one machine: each work unit in a fresh process, one after the other.

This side imports no torch, so a command whose work is done answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from flbench.engine.plan import Plan, Unit, unit_to_json
from flbench.errors import FlbenchError, Interrupted, RunError
from flbench.study import Study

Watch = Callable[[Mapping[str, Any]], None]


class WorkError(FlbenchError):
    """An error that a work unit reported, with its own exit code."""

    def __init__(self, message: str, *, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_plan(plan: Plan, study: Study, *, device: str, threads: int, inference: str, wait: bool, watch: Watch) -> None:
    """Carry out what is left of a plan; what is done already is not touched.

    Args:
        plan: What must run.
        study: Where results go.
        device: "auto", "cpu", "cuda"...
        threads: CPU threads of each work unit.
        inference: Engine that fitted networks predict with.
        wait: Wait for another command that works on the same fit or cell.
        watch: Called with every event of the units.

    Raises:
        WorkError: A unit could not be carried out.
        RunError: A unit was killed.
        Interrupted: Ctrl+C or SIGTERM.
    """
    for unit in plan.open(study):
        job = {
            "unit": unit_to_json(unit),
            "dataset": str(plan.dataset.folder.resolve()),
            "study": str(study.folder.resolve()),
            "device": device,
            "threads": threads,
            "inference": inference,
            "wait": wait,
        }
        _run(job, unit, watch)


def _run(job: Mapping[str, Any], unit: Unit, watch: Watch) -> None:
    """Start a unit's process, pass its events on, and explain how it ended."""
    command = [sys.executable, "-P", "-m", "flbench.engine.worker"]
    failure: dict[str, Any] = {}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl+C reaches this side only, which asks the unit to stop
    )
    with process, _stops(process):
        stdin, stdout, stderr = (cast(IO[str], f) for f in (process.stdin, process.stdout, process.stderr))
        with suppress(BrokenPipeError):  # it ended at once; its exit code and last words tell why
            stdin.write(json.dumps(job))
            stdin.close()
        for line in stdout:
            event = json.loads(line)
            if event["event"] == "error":
                failure = event
            else:
                watch(event)
        words = stderr.read().strip().splitlines()
        code = process.wait()
    if failure:
        if failure["exit"] == Interrupted.exit_code:
            raise Interrupted(failure["message"], hint=failure["hint"])
        raise WorkError(failure["message"], hint=failure["hint"], exit_code=failure["exit"])
    if code < 0:
        names = {fit.method.name for fit in unit.fits} | {cell.method.name for cell in unit.cells}
        what = ", ".join(sorted(names))
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        raise RunError(
            f"the process for {what} was killed by signal {-code}{memory}",
            hint="nothing finished was lost; run the same command again",
        )
    if code:
        raise RunError(
            f"a work unit ended with code {code}{': ' + words[-1] if words else ''}",
            hint=f"see {job['study']}/log.txt",
        )


@contextmanager
def _stops(process: subprocess.Popen[str]) -> Iterator[None]:
    """Turn Ctrl+C and SIGTERM into a clean stop of the process; a second one ends it at once."""
    asked = 0

    def stop(*_: object) -> None:
        nonlocal asked
        asked += 1
        if process.poll() is None:
            if asked == 1:
                process.terminate()
            else:
                process.kill()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked and process.returncode is not None and process.returncode <= 0:
            raise Interrupted("stopped; what is finished is kept", hint="run the same command again to go on")
