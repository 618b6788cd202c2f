"""What a plan takes: counts by hand, and times from what was measured before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flbench.data.dataset import Dataset
from flbench.engine import costs
from flbench.engine.plan import Plan, Request, make_plan
from flbench.files import write_json
from flbench.registry import choose_method, find_protocol
from flbench.reporting.plans import duration, plan_words
from flbench.study import FIT, Study

WHERE = costs.place("cpu", 1)


def plan_of(dataset: Dataset, *protocols: str) -> Plan:
    methods = [choose_method("fakelocator"), choose_method("zeros")]
    return make_plan(dataset, [(find_protocol(name), methods) for name in protocols], [0], Request())


def fitted(plan: Plan, study: Study, seconds: float) -> None:
    for fit in plan.fits:
        folder = study.fit_folder(fit.id)
        folder.mkdir(parents=True)
        provenance = {"device": "cpu, 1 thread", "threads": 1}
        write_json(folder / FIT, {"fit": fit.id, "timings": {"fit_s": seconds}, "provenance": provenance})


def test_nothing_is_guessed(boxes: Dataset, tmp_path: Path) -> None:
    plan = plan_of(boxes, "in_gan", "disorganization")
    found = costs.estimate(plan, Study(tmp_path / "s"), WHERE, tmp_path)
    assert (found.fits, found.fits_left, found.cells, found.cells_left) == (1, 1, 4, 4)
    assert found.images == 2 * (8 + 8) + 2 * 2 * (8 + 8)  # two methods, one and two conditions
    assert found.unknown == ("fakelocator",)
    assert found.seconds == costs.START_S * 2
    assert "what fakelocator takes, not measured here" in plan_words(found)


def test_what_was_measured_is_what_is_told(boxes: Dataset, tmp_path: Path) -> None:
    study = Study(tmp_path / "s")
    plan = plan_of(boxes, "in_gan")
    fitted(plan, study, 50.0)
    costs.remember(plan, study, tmp_path)
    other = plan_of(boxes, "in_gan", "cross_attribute")
    found = costs.estimate(other, Study(tmp_path / "new"), WHERE, tmp_path)
    assert found.seconds == pytest.approx(50 + costs.START_S * 2)  # both protocols need the same fit
    elsewhere = costs.estimate(other, Study(tmp_path / "new"), costs.place("cpu", 8), tmp_path)
    assert elsewhere.seconds == costs.START_S * 2
    done = costs.estimate(plan, study, WHERE, tmp_path)
    assert (done.fits, done.fits_left) == (1, 0)


def test_predictions_that_cells_share_are_paid_once(boxes: Dataset, tmp_path: Path) -> None:
    plan = plan_of(boxes, "jpeg", "degradations")
    choice = plan.fits[0].method
    key = costs._key("image", choice, 32, WHERE)
    tmp_path.joinpath(costs.FILE).write_text(json.dumps({key: 1.0}), encoding="utf-8")
    found = costs.estimate(plan, Study(tmp_path / "s"), WHERE, tmp_path)
    conditions = len(find_protocol("degradations").conditions)
    assert found.seconds == pytest.approx(16 * conditions + costs.START_S * 2)


@pytest.mark.parametrize("text", ["", "[", "[1, 2]", '{"a": "b"}'])
def test_damaged_memory_is_no_memory(boxes: Dataset, tmp_path: Path, text: str) -> None:
    (tmp_path / costs.FILE).write_text(text, encoding="utf-8")
    assert costs.estimate(plan_of(boxes, "in_gan"), Study(tmp_path / "s"), WHERE, tmp_path).unknown


def test_durations_are_in_the_unit_a_person_would_use() -> None:
    assert [duration(s) for s in (0, 99, 100, 5399, 5400, 36000)] == [
        "0 s",
        "99 s",
        "2 min",
        "90 min",
        "1.5 h",
        "10.0 h",
    ]
