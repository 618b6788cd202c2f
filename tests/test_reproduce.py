"""`flbench reproduce`: the same bits come out, what differs is told, and what cannot be the same is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from builders import flbench, make_dataset, run_units_here
from factories import make_record, make_scores

from flbench import reproduce
from flbench.data.dataset import Dataset
from flbench.errors import UsageError
from flbench.record import Record, read_record
from flbench.registry import find_protocol
from flbench.study import RECORD, SCORES, Study

SMALL = ("--set", "depth=2", "--set", "width=4", "--max-steps", "3", "--threads", "1", "--seed", "5")
ASKED = ("-m", "noise_residual", "-p", "cross_attribute", "--condition", "jpeg-50", "--region", "difference")
SWAP = ("--map", "stgan/smile=stgan/brown_hair")


@pytest.fixture(scope="module")
def made(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a fit and two cells that were asked for in every way a record keeps."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        run_units_here(patch)
        flbench("run", *ASKED, *SWAP, *SMALL, "--data", boxes.folder, "--study", folder)
    return folder


@pytest.fixture
def cell(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fitted method's cell, of which nothing but the record and the scores is left."""
    run_units_here(monkeypatch)
    (found,) = made.glob("cells/noise_residual*")
    folder = tmp_path / "published"
    folder.mkdir()
    for name in (RECORD, SCORES):
        (folder / name).write_bytes((found / name).read_bytes())
    return folder


def changed(folder: Path, **fields: object) -> Record:
    """Change fields of a record where it stands."""
    record = read_record(folder / RECORD).model_copy(update=fields)
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")
    return record


def test_a_fit_with_all_that_was_asked_comes_out_to_the_same_bits(cell: Path, boxes: Dataset, tmp_path: Path) -> None:
    into = tmp_path / "again"
    done = flbench("reproduce", cell / RECORD, "--data", boxes.folder, "--into", into, "--json")
    document = json.loads(done.stdout)
    assert document["reproduced"] is True
    assert document["tolerance"] == 0
    assert {line["verdict"] for line in document["lines"]} == {"equal"}
    assert {"coss", "γ", "digest of the weights", "scores of each image"} <= {
        line["what"] for line in document["lines"]
    }
    (again,) = Study(into).records()
    asked = read_record(cell / RECORD)
    assert again.digest == asked.digest
    assert asked.protocol.mapping
    assert asked.protocol.added == ("jpeg-50",)
    assert asked.protocol.region == "difference"
    assert asked.seed == 5
    assert any(flag.startswith("trial: at most 3 steps") for flag in asked.flags)
    # the same command again finds it done; another record is refused there
    assert flbench("reproduce", cell, "--data", boxes.folder, "--into", into)
    changed(cell, seed=6)
    assert "is not empty" in flbench("reproduce", cell, "--data", boxes.folder, "--into", into, code=2).stderr


def test_a_cell_is_found_by_its_name_and_by_a_part_of_it(
    made: Path, boxes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_units_here(monkeypatch)
    (name,) = (path.name for path in made.glob("cells/meanmap*"))
    before = sorted(made.rglob("*"))
    for text in (name, "meanmap"):
        done = flbench("reproduce", text, "--study", made, "--data", boxes.folder)
        assert "the same bits" in done.stdout
        assert "differs" not in done.stdout
    assert sorted(made.rglob("*")) == before, "the study itself is only read"
    assert "neither a run.json nor a cell" in flbench("reproduce", "nothing", "--study", made, code=2).stderr
    assert "that cross_attribute may mean" in flbench("reproduce", "cross_attribute", "--study", made, code=2).stderr


def test_a_number_that_does_not_come_out_again_is_told(cell: Path, boxes: Dataset) -> None:
    record = read_record(cell / RECORD)
    first = record.results[0]
    worse = first.metrics["coss"].model_copy(update={"value": 0.999})
    changed(cell, results=(first.model_copy(update={"metrics": {**first.metrics, "coss": worse}}), *record.results[1:]))
    done = flbench("reproduce", cell, "--data", boxes.folder, code=1)
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("coss ")] == ["differs"]
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("psnr ")] == ["equal"]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: not reproduced: 2 of")
    assert "such as coss by" in last


def test_scores_of_an_image_that_do_not_come_out_again_are_told(cell: Path, boxes: Dataset) -> None:
    scores = pd.read_parquet(cell / SCORES)
    scores.loc[0, "score"] += 1e-6
    scores.to_parquet(cell / SCORES, index=False)
    done = flbench("reproduce", cell, "--data", boxes.folder, "--json", code=1)
    document = json.loads(done.stdout)
    assert [line["what"] for line in document["lines"] if line["verdict"] == "differs"] == ["scores of each image"]
    (cell / SCORES).write_bytes(b"half")
    assert "cannot be read" in flbench("reproduce", cell, "--data", boxes.folder, code=3).stderr
    (cell / SCORES).unlink()
    assert "no per-image scores" in flbench("reproduce", cell, "--data", boxes.folder).stderr


def test_another_machine_is_held_to_a_tolerance(cell: Path, boxes: Dataset) -> None:
    record = read_record(cell / RECORD)
    changed(cell, provenance=record.provenance | {"instructions": "other", "packages": {"torch": "1.0"}})
    done = flbench("reproduce", cell, "--data", boxes.folder)
    assert "values of metrics within 1e-06" in done.stdout
    assert "another kind of machine: instructions other" in done.stderr
    assert "torch 1.0, here" in done.stderr


def test_another_protocol_is_refused(cell: Path, boxes: Dataset, tmp_path: Path) -> None:
    record = read_record(cell / RECORD)
    changed(cell, protocol=record.protocol.model_copy(update={"fingerprint": "f" * 64}))
    said = flbench("reproduce", cell, "--data", boxes.folder, code=2).stderr
    assert "protocol cross_attribute v1 here has the fingerprint" in said
    assert "ffffffffffff" in said
    changed(cell, protocol=record.protocol.model_copy(update={"name": "ours"}))
    assert "unknown protocol 'ours'" in flbench("reproduce", cell, "--data", boxes.folder, code=2).stderr


def test_another_data_set_is_refused(cell: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", people=12)
    said = flbench("reproduce", cell, "--data", other.folder, code=2).stderr
    assert "another data set: fingerprint" in said
    assert other.fingerprint[:12] in said
    assert "measured on boxes v1 (say where it is: --data FOLDER)" in flbench("reproduce", cell, code=2).stderr


def test_a_recipe_that_has_changed_is_refused_before_anything_is_made(cell: Path) -> None:
    record = read_record(cell / RECORD)
    for profile in ("tiny", "none"):
        about = record.dataset.model_copy(update={"name": f"synthfaces-{profile}", "version": "0"})
        changed(cell, dataset=about)
        said = flbench("reproduce", cell, code=2).stderr
        assert f"synthfaces-{profile} made here has the fingerprint" in said
        assert "measured on v0" in said


def test_a_data_set_made_by_code_is_known_by_its_name() -> None:
    from flbench.synthetic.profiles import recipe

    record = make_record(scores=make_scores(0.5), dataset="synthfaces-mini-finished")
    about = record.dataset.model_copy(update={"fingerprint": recipe("mini-finished")})
    assert reproduce.data_of(record.model_copy(update={"dataset": about})) == (
        "synthfaces-mini-finished",
        "mini-finished",
    )
    assert reproduce.data_of(record, "folder") == ("folder", "mini-finished")


def test_a_method_with_other_options_is_refused(cell: Path, boxes: Dataset) -> None:
    record = read_record(cell / RECORD)
    options = record.method.options | {"window": 99, "gone": 1}
    changed(cell, method=record.method.model_copy(update={"options": options}))
    said = flbench("reproduce", cell, "--data", boxes.folder, code=2).stderr
    assert "gone is unknown here and 1 in the record; window is" in said


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("python:Net", "method 'python' is not here"),
        ("maps:folder@01234567", "works with a folder, which no record holds"),
    ],
)
def test_a_method_that_is_not_at_hand_is_refused(method: str, words: str) -> None:
    protocol = find_protocol("in_gan")
    record = make_record(method, make_scores(0.5), protocol=protocol)
    with pytest.raises(UsageError, match=words):
        reproduce.set_up(record)


def test_a_target_is_held_to_its_content(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.png").write_bytes(b"map")
    record = make_record("maps:maps@01234567", make_scores(0.5), protocol=find_protocol("in_gan"))
    with pytest.raises(UsageError, match="target is sha256:"):
        reproduce.set_up(record, method=f"maps:{tmp_path / 'maps'}")


@pytest.mark.parametrize(
    ("provenance", "device", "threads"),
    [
        ({"device": "cpu, 3 threads", "threads": 3, "batch": 5}, "cpu", 3),
        ({"device": "NVIDIA H100 80GB HBM3", "threads": 2}, "cuda", 2),
        ({"device": "mps, 8 threads", "threads": 8}, "mps", 8),
    ],
)
def test_device_and_threads_are_the_records(provenance: dict[str, object], device: str, threads: int) -> None:
    record = make_record("zeros", make_scores(0.5), protocol=find_protocol("in_gan"))
    options = record.method.model_copy(update={"options": {}, "given": {}})
    record = record.model_copy(update={"provenance": provenance, "method": options})
    machine = reproduce.set_up(record).machine
    assert (machine.device, machine.threads, machine.inference) == (device, threads, "torch")
    assert (machine.batch, machine.precision) == (provenance.get("batch"), "float32")
    other = reproduce.set_up(record, device="cpu", threads=1).machine
    assert (other.device, other.threads) == ("cpu", 1)


def test_what_was_not_measured_cannot_be_reproduced(tmp_path: Path) -> None:
    record = make_record(status="failed", reason="no memory")
    (tmp_path / RECORD).write_text(record.to_json())
    assert "is failed: no memory" in flbench("reproduce", tmp_path, code=2).stderr
    (tmp_path / RECORD).write_text("{")
    assert "is damaged" in flbench("reproduce", tmp_path, code=3).stderr
