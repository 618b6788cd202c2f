import json
import multiprocessing
from pathlib import Path

import pytest
from factories import make_record

from flbench.errors import DataError, RunError
from flbench.files import write_text
from flbench.record import SCHEMA, Record, read_record
from flbench.study import RECORD, Study


def put(study: Study, record: Record) -> Path:
    path = study.cell_folder(record.cell) / RECORD
    write_text(path, record.to_json())
    return path


def test_a_record_survives_the_round_trip(tmp_path: Path) -> None:
    study = Study(tmp_path)
    record = make_record()
    path = put(study, record)
    assert study.record(record.cell) == record
    assert study.records() == [record]
    assert json.loads(path.read_text())["schema"] == SCHEMA


def test_the_digest_leaves_out_what_differs_between_two_equal_runs() -> None:
    record = make_record()
    later = record.model_copy(update={"timings": {"fit_s": 1.0}, "provenance": {"finished": "later"}})
    other = record.model_copy(update={"seed": record.seed + 1})
    assert record.digest == later.digest
    assert record.digest != other.digest


@pytest.mark.parametrize("keep", [0, 1, 40, -3])
def test_a_truncated_record_counts_as_not_done_and_is_set_aside(tmp_path: Path, keep: int) -> None:
    study = Study(tmp_path)
    record = make_record()
    path = put(study, record)
    path.write_text(path.read_text()[:keep])
    assert study.record(record.cell) is None
    assert [p.name for p in path.parent.iterdir()] == [RECORD + ".bad"]
    assert study.records() == []


def test_a_newer_schema_asks_for_an_upgrade_and_is_left_alone(tmp_path: Path) -> None:
    study = Study(tmp_path)
    record = make_record()
    path = put(study, record)
    path.write_text(path.read_text().replace(SCHEMA, "flbench.run/9"))
    with pytest.raises(DataError, match="upgrade"):
        study.record(record.cell)
    assert path.exists()
    with pytest.raises(DataError, match="upgrade"):
        read_record(path)


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flbench.study.GRACE_SECONDS", 0.1)
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, release))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(RunError, match=f"in use by pid {other.pid} on host"), Study(tmp_path).lock("fit"):
            pass
        with Study(tmp_path).lock("another"):
            pass
    finally:
        release.set()
        other.join(30)
    with Study(tmp_path).lock("fit"):
        pass


def _hold(folder: Path, ready, release) -> None:  # type: ignore[no-untyped-def]
    with Study(folder).lock("fit"):
        ready.set()
        release.wait(30)
