"""Records of a data set that has changed since are told as such, with the reason, wherever a study is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from builders import flbench, run_units_here
from factories import make_protocol, make_record, make_scores, write_cell

from flbench import stale
from flbench.data.dataset import Dataset, write_dataset
from flbench.registry import load_maker
from flbench.study import Study

COMMAND = ("-m", "highpass", "-p", "in_gan", "--threads", 1)


@pytest.fixture
def study(boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one method on a data set of its own."""
    run_units_here(monkeypatch)
    shutil.copytree(boxes.folder, tmp_path / "data")
    flbench("run", *COMMAND, "--data", tmp_path / "data", "--study", tmp_path / "study")
    return tmp_path / "study"


def change(boxes: Dataset, study: Path) -> tuple[str, str]:
    """Take an image out of the study's data set; return the words for the fingerprints before and after."""
    changed = write_dataset(study.parent / "data", boxes.about, boxes.manifest.iloc[:-1])
    return boxes.fingerprint[:12], changed.fingerprint[:12]


def statuses(study: Path, *words: object) -> dict[str, str]:
    said = json.loads(flbench("list", "cells", "--study", study, "--json", *words).stdout)
    return {cell["cell"]: f"{cell['status']} {cell['reason']}".strip() for cell in said["cells"]}


def test_a_cell_is_stale_once_its_data_set_has_changed(boxes: Dataset, study: Path) -> None:
    assert set(statuses(study).values()) == {"ok"}
    then, now = change(boxes, study)
    why = f"measured on another state of the data set: fingerprint {then} then, {now} now"
    before = statuses(study)
    assert set(before.values()) == {f"stale {why}"}
    table = flbench("list", "cells", "--study", study).stdout
    assert table.split().count("stale") == len(before) == 5
    card = flbench("show", next(iter(before)), "--study", study)
    assert why in " ".join(card.stdout.split())
    assert json.loads(flbench("show", next(iter(before)), "--study", study, "--json").stdout)["stale"] == why

    note = f"note: stale: 5 records measured on another state of boxes: fingerprint {then} then, {now} now"
    assert note in flbench("publish", "--study", study, "--into", study.parent / "boards").stderr
    again = flbench("run", *COMMAND, "--data", study.parent / "data", "--study", study, "--json")
    assert note in again.stderr
    assert [record["status"] for record in json.loads(again.stdout)] == ["ok"] * 5
    after = statuses(study)
    assert len(after) == 10
    assert {cell for cell, said in after.items() if said != "ok"} == set(before)


def test_nothing_is_stale_of_a_data_set_that_is_not_at_hand(boxes: Dataset, study: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    (study.parent / "data").rename(moved)
    assert set(statuses(study).values()) == {"ok"}
    assert set(statuses(study, "--data", moved).values()) == {"ok"}
    write_dataset(moved, boxes.about, boxes.manifest.iloc[:-1])
    assert set(statuses(study).values()) == {"ok"}, "where it is now is not known"
    assert {said.split()[0] for said in statuses(study, "--data", moved).values()} == {"stale"}
    shutil.copytree(moved, study.parent / "data")
    (study.parent / "data" / "manifest.parquet").write_bytes(b"")
    assert set(statuses(study).values()) == {"ok"}, "what is damaged says nothing of a record"
    write_dataset(moved, boxes.about.model_copy(update={"name": "other"}), boxes.manifest)
    said = flbench("list", "cells", "--study", study, "--data", moved, code=2)
    assert "is of a data set called other (they are of boxes)" in said.stderr


def test_of_a_data_set_made_by_code_the_recipe_counts(tmp_path: Path) -> None:
    recipe = load_maker("synthfaces").recipe("mini")
    scores = make_scores(0.5, people=4)
    for name, fingerprint in (("old", "0" * 64), ("new", recipe)):
        record = make_record("highpass", scores, protocol=make_protocol("asked"))
        data = record.dataset.model_copy(update={"name": "synthfaces-mini", "fingerprint": fingerprint})
        write_cell(tmp_path / "cells" / name, record.model_copy(update={"cell": name, "dataset": data}), scores)
    study = Study(tmp_path)
    said = {cell["cell"]: cell["status"] for cell in stale.cells(study.records(), stale.states(study, study.records()))}
    assert said == {"old": "stale", "new": "ok"}
