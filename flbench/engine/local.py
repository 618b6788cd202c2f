"""The engine for one machine: each work unit in a fresh process, one after the other.

This side imports no torch, so a command whose work is done answers at once. A unit whose process dies is started again
without the cells that have a record by then; what is at fault is the cell that was being worked on.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from flbench.engine.plan import Plan, Unit, is_done, unit_to_json
from flbench.engine.process import Died, converse
from flbench.errors import FlbenchError, Interrupted, RunError
from flbench.study import LOG, Study

Watch = Callable[[Mapping[str, Any]], None]

RETRIES = 2
"""How often a process that was killed is started again for one cell: memory may have been short for a moment."""


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


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a plan runs.

    Attributes:
        device: "auto", "cpu", "cuda"...
        threads: CPU threads of each work unit; None: every usable core.
        inference: Engine that fitted networks predict with: "torch", "onnxruntime", "openvino" or "compile".
        precision: In which networks predict: "float32", on GPUs also "tf32", "bfloat16" or "float16".
        batch: Images predicted together; None: found from the device and their size.
        wait: Wait for another command that works on the same fit or cell.
        timeout: Seconds without progress after which what is being done is given up; None: never.
    """

    device: str = "auto"
    threads: int | None = None
    inference: str = "torch"
    precision: str = "float32"
    batch: int | None = None
    wait: bool = False
    timeout: float | None = None

    @property
    def cores(self) -> int:
        """CPU threads of each work unit."""
        return self.threads or usable_cores()


def run_plan(plan: Plan, study: Study, machine: Machine, watch: Watch) -> None:
    """Carry out what is left of a plan; what is done already is not touched.

    Args:
        plan: What must run.
        study: Where results go.
        machine: Where and how.
        watch: Called with every event of the units.

    Raises:
        WorkError: A unit could not be carried out.
        RunError: A unit's process died, and there is no cell to blame.
        Interrupted: Ctrl+C or SIGTERM.
    """
    for unit in plan.open(study):
        job = {
            "dataset": str(plan.dataset.folder.resolve()),
            "study": str(study.folder.resolve()),
            **asdict(machine),
            "threads": machine.cores,
        }
        _settle(job, unit, study, watch)


def _settle(job: Mapping[str, Any], unit: Unit, study: Study, watch: Watch) -> None:
    """Run a unit until each of its cells has a record; one that its process dies of is given up and gets a failed one.

    Raises:
        RunError: The process died, and there is no cell to blame.
    """
    settled: set[str] = set()
    given_up: dict[str, str] = {}
    deaths: Counter[str] = Counter()

    def heard(event: Mapping[str, Any]) -> None:
        if event["event"] == "cell":
            settled.add(event["cell"])
        watch(event)

    left = unit
    while left.cells or left.fits:
        try:
            _run({**job, "unit": unit_to_json(left), "given_up": given_up}, left, heard)
            return
        except Died as death:
            left = _left(left, settled, study)
            cell = next((cell.id for cell in left.cells if cell.id not in given_up), "")
            deaths[cell] += 1
            if death.passing and deaths[cell] <= RETRIES:
                watch({"event": "warning", "text": f"the process for {_methods(unit)} {death}; it is tried again"})
            elif cell:
                given_up[cell] = f"the process {death}"
            elif left.cells or not unit.cells:
                raise RunError(f"the process for {_methods(unit)} {death}", hint=f"see {job['study']}/{LOG}") from death


def _left(unit: Unit, settled: Container[str], study: Study) -> Unit:
    """Return a unit without the cells that have their record, and without the fits that only these need."""
    cells = tuple(c for c in unit.cells if c.id not in settled and not is_done(study.record(c.id)))
    needed = {fit for cell in cells for fit in cell.fits.values()}
    return replace(unit, cells=cells, fits=tuple(f for f in unit.fits if f.id in needed or not unit.cells))


def _methods(unit: Unit) -> str:
    return ", ".join(sorted({fit.method.name for fit in unit.fits} | {cell.method.name for cell in unit.cells}))


def _run(job: Mapping[str, Any], unit: Unit, watch: Watch) -> None:
    """Start a unit's process, pass its events on, and explain how it ended."""
    failure = converse(job, watch)
    if failure and failure["exit"] == Interrupted.exit_code:
        raise Interrupted(failure["message"], hint=failure["hint"])
    if failure:
        raise WorkError(failure["message"], hint=failure["hint"], exit_code=failure["exit"])
