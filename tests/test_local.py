"""Which cell is blamed when a work unit's process dies, and what is done then; real processes are in `tests/faults`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flbench.data.dataset import Dataset
from flbench.engine import local
from flbench.engine.local import Machine, run_plan
from flbench.engine.plan import Plan, Request, Unit, make_plan
from flbench.engine.process import Died
from flbench.errors import RunError
from flbench.registry import choose_method, find_protocol
from flbench.study import Study

KILLED = Died("was killed by signal 9", passing=True)
SILENT = Died("gave no answer for 5 s (timeout)")
Job = Mapping[str, Any]
Watch = Callable[[Mapping[str, Any]], None]


def planned(boxes: Dataset, method: str = "fakelocator") -> Plan:
    """Plan one unit of two cells that share a fit."""
    asked = [(find_protocol(name), [choose_method(method)]) for name in ("in_gan", "cross_attribute")]
    made = make_plan(boxes, asked, [0], Request())
    assert [len(unit.cells) for unit in made.units] == [2]
    return made


def carried_out(plan: Plan, study: Path, monkeypatch: pytest.MonkeyPatch, *ends: object) -> tuple[list[Job], list[Any]]:
    """Run a plan with processes that end as told: a death, or a number of cells to finish first and then a death."""
    jobs: list[Job] = []
    events: list[Any] = []

    def run(job: Job, unit: Unit, watch: Watch) -> None:
        jobs.append(job)
        end = ends[len(jobs) - 1]
        done, death = end if isinstance(end, tuple) else (0, end)
        if death is None:
            done = len(unit.cells)
        for cell in unit.cells[:done]:
            watch({"event": "cell", "cell": cell.id, "status": "failed", "reason": ""})
        if isinstance(death, Died):
            raise death

    monkeypatch.setattr(local, "_run", run)
    run_plan(plan, Study(study), Machine(device="cpu", threads=1), events.append)
    assert len(jobs) == len(ends)
    return jobs, events


def cells_of(job: Job) -> list[str]:
    return [cell["id"] for cell in job["unit"]["cells"]]


def test_a_killed_process_is_started_again_twice_for_each_cell(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(boxes)
    first, second = [cell.id for cell in plan.cells]
    # Three deaths of the first cell; it is given up and fails, then the second is killed once and is done.
    jobs, events = carried_out(plan, tmp_path, monkeypatch, KILLED, KILLED, KILLED, (1, KILLED), None)
    assert [job["given_up"] for job in jobs][-1] == {first: "the process was killed by signal 9"}
    assert [cells_of(job) for job in jobs] == [[first, second]] * 4 + [[second]]
    told = [event["text"] for event in events if event["event"] == "warning"]
    assert told == ["the process for fakelocator was killed by signal 9; it is tried again"] * 3


def test_a_silent_process_is_not_waited_for_again(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(boxes)
    second = plan.cells[1].id
    jobs, events = carried_out(plan, tmp_path, monkeypatch, (1, SILENT), None)
    assert jobs[1]["given_up"] == {second: "the process gave no answer for 5 s (timeout)"}
    assert cells_of(jobs[1]) == [second], "what has its record is not done again, failed or not"
    assert not [event for event in events if event["event"] == "warning"]


def test_a_death_after_the_last_cell_changes_nothing(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(carried_out(planned(boxes), tmp_path, monkeypatch, (2, SILENT))[0]) == 1


def test_where_no_cell_is_to_blame_the_command_fails(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(boxes)
    with pytest.raises(RunError, match="the process for fakelocator gave no answer"):
        carried_out(plan, tmp_path, monkeypatch, SILENT, SILENT, SILENT)  # a process that is to try nothing dies too
    fits = replace(plan, units=tuple(replace(unit, cells=()) for unit in plan.units))
    with pytest.raises(RunError, match="the process for fakelocator was killed by signal 9") as caught:
        carried_out(fits, tmp_path, monkeypatch, KILLED, KILLED, KILLED)
    assert "log.txt" in caught.value.hint
