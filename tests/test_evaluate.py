from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_dataset
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from flbench.data.batches import Frames
from flbench.data.dataset import Dataset
from flbench.engine import evaluate
from flbench.engine.evaluate import run_cell
from flbench.engine.plan import Cell, Request, make_plan
from flbench.engine.runtime import Events, Runtime
from flbench.errors import Interrupted
from flbench.locator import Locator, Prediction
from flbench.record import Record
from flbench.registry import choose_method, find_protocol
from flbench.study import GALLERY, RECORD, SCORES, Study

RUNTIME = Runtime(torch.device("cpu"), 1)
QUIET = Events(lambda event: None)


def planned(dataset: Dataset, protocol: str = "in_gan", method: str = "zeros", **request) -> Cell:  # type: ignore[no-untyped-def]
    asked = [(find_protocol(protocol), [choose_method(method)])]
    return make_plan(dataset, asked, [0], Request(**request)).cells[0]


def evaluated(
    dataset: Dataset, study: Study, cell: Cell, events: Events = QUIET, *, batch: int | None = None
) -> Record:
    frames = Frames(dataset, size=int(cell.protocol.size), region=cell.region)
    return run_cell(cell, frames, study, replace(RUNTIME, batch=batch), events)


class Scripted(Locator):
    """A locator whose prediction is whatever the test says."""

    title = "Scripted"

    def __init__(self, predict: Callable[[Tensor], Prediction]) -> None:
        self._predict = predict

    def predict(self, images: Tensor) -> Prediction:
        return self._predict(images)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], object]], None]:
    def use(predict: Callable[[Tensor], object]) -> None:
        monkeypatch.setattr(evaluate, "load_method", lambda choice: Scripted(predict))  # type: ignore[arg-type]

    return use


def brightness(images: Tensor) -> Prediction:
    return Prediction(images.mean(dim=1), images.mean(dim=(1, 2, 3)))


def test_scores_are_those_of_scikit_image_on_the_same_maps(boxes: Dataset, tmp_path: Path, scripted) -> None:  # type: ignore[no-untyped-def]
    scripted(brightness)
    study = Study(tmp_path)
    cell = planned(boxes)
    record = evaluated(boxes, study, cell)
    scores = study.scores(cell.id)
    frames = Frames(boxes, size=32)
    fakes = scores[scores["label"] == "fake"]
    for row in fakes.itertuples():
        truth = frames.truth(row.sample_id)
        fakeness = (frames.image(row.sample_id).astype(np.float32) / 255).mean(-1)
        assert row.psnr == pytest.approx(peak_signal_noise_ratio(truth, fakeness, data_range=1), abs=1e-4)
        assert row.ssim == pytest.approx(structural_similarity(truth, fakeness, data_range=1), abs=1e-5)
        assert row.mae == pytest.approx(np.abs(truth - fakeness).mean(), abs=1e-6)
    result = record.result("blond_hair")
    assert result is not None
    assert result.metrics["coss"].value == pytest.approx(fakes["coss"].mean())
    right = (scores["score"] >= 0.5) == (scores["label"] == "fake")
    assert result.metrics["acc"].value == pytest.approx(right.mean())
    assert record.status == "ok"
    assert (result.fakes, result.reals) == (len(fakes), len(scores) - len(fakes))


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        (lambda images: images, "returned Tensor, expected Prediction"),
        (lambda images: Prediction(images), "expected (2, 32, 32)"),
        (lambda images: Prediction(images[:, 0].numpy()), "expected a tensor"),
        (lambda images: Prediction(images[:, 0] * 255), "expected 0..1"),
        (lambda images: Prediction(images[:, 0].int()), "expected float32"),
        (lambda images: Prediction(images[:, 0], images[:, 0]), "expected a tensor of shape (2,)"),
        (lambda images: 1 / 0, "fails on the first 5 images: ZeroDivisionError"),
    ],
)
def test_a_method_that_breaks_the_contract_fails_its_cell_in_words(
    boxes: Dataset,
    tmp_path: Path,
    scripted,  # type: ignore[no-untyped-def]
    predict,  # type: ignore[no-untyped-def]
    words: str,
) -> None:
    scripted(predict)
    record = evaluated(boxes, Study(tmp_path), planned(boxes))
    assert record.status == "failed"
    assert words in record.reason
    assert not record.results


def test_nan_and_a_single_exception_cost_rows_and_are_counted_with_the_worst_value(
    boxes: Dataset,
    tmp_path: Path,
    scripted,  # type: ignore[no-untyped-def]
) -> None:
    calls = 0

    def moody(images: Tensor) -> Prediction:
        nonlocal calls
        maps = images.mean(dim=1)
        if len(images) == 2:  # the two valid fakes, on which thresholds are chosen
            return Prediction(maps)
        calls += 1
        if calls == 1 or (len(images) == 1 and calls == 4):
            raise RuntimeError("moody")
        if calls == 2:
            maps[0, 0, 0] = float("nan")
        return Prediction(maps)

    scripted(moody)
    study = Study(tmp_path)
    cell = planned(boxes)
    record = evaluated(boxes, study, cell)
    scores = study.scores(cell.id)
    assert sorted(scores["status"])[:2] == ["bad_output", "error"]
    assert (scores["status"] == "ok").sum() == len(scores) - 2
    assert record.status == "partial"
    assert "2 of 16 images failed" in record.reason
    result = record.result("blond_hair")
    assert result is not None
    assert result.metrics["coss"].failed == 2
    assert result.metrics["coss"].value == pytest.approx(scores["coss"].fillna(0)[scores["label"] == "fake"].mean())
    assert "RuntimeError: moody" in (study.cell_folder(cell.id) / "log.txt").read_text()


def test_an_unreadable_image_is_a_row_and_the_rest_is_scored(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d")
    cell = planned(dataset)
    name = dataset.manifest.query("split == 'test' and attribute == 'blond_hair'").iloc[0]
    (dataset.folder / name["image"]).write_bytes(b"")
    study = Study(tmp_path / "s")
    record = evaluated(dataset, study, cell)
    scores = study.scores(cell.id).set_index("sample_id")
    assert scores.loc[name["sample_id"], "status"] == "unreadable"
    assert "0 bytes" in scores.loc[name["sample_id"], "reason"]
    assert record.status == "partial"


def test_the_gallery_holds_what_was_predicted(boxes: Dataset, tmp_path: Path, scripted) -> None:  # type: ignore[no-untyped-def]
    scripted(brightness)
    study = Study(tmp_path)
    cell = planned(boxes, "cross_attribute")
    evaluated(boxes, study, cell)
    frames = Frames(boxes, size=32)
    with np.load(study.cell_folder(cell.id) / GALLERY, allow_pickle=False) as gallery:
        assert sorted(set(gallery["tests"])) == ["black_hair", "blond_hair", "brown_hair", "smile"]
        for index, sample in enumerate(gallery["sample_ids"]):
            np.testing.assert_array_equal(gallery["fake"][index], frames.image(sample))
            np.testing.assert_allclose(gallery["truth"][index] / 255, frames.truth(sample), atol=0.5 / 255 + 1e-6)


def test_a_stopped_cell_goes_on_to_the_same_record(boxes: Dataset, tmp_path: Path, scripted) -> None:  # type: ignore[no-untyped-def]
    scripted(brightness)
    cell = planned(boxes, "cross_attribute")
    whole = evaluated(boxes, Study(tmp_path / "whole"), cell)
    study = Study(tmp_path / "cut")

    def stopper(event: dict[str, object]) -> None:
        events.stopping = event.get("stage") == "test black_hair"

    events = Events(stopper)
    with pytest.raises(Interrupted):
        evaluated(boxes, study, cell, events)
    assert study.record(cell.id) is None
    assert (study.cell_folder(cell.id) / "partial").is_dir()
    resumed = evaluated(boxes, study, cell)
    assert resumed.digest == whole.digest
    files = [study.cell_folder(cell.id) / SCORES, Study(tmp_path / "whole").cell_folder(cell.id) / SCORES]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (study.cell_folder(cell.id) / "partial").exists()


def test_a_done_cell_is_found_and_a_failed_one_is_tried_again(boxes: Dataset, tmp_path: Path, scripted) -> None:  # type: ignore[no-untyped-def]
    study = Study(tmp_path)
    cell = planned(boxes)
    scripted(lambda images: None)
    assert evaluated(boxes, study, cell).status == "failed"
    scripted(brightness)
    done = evaluated(boxes, study, cell)
    assert done.status == "ok"
    path = study.cell_folder(cell.id) / RECORD
    before = path.stat().st_mtime_ns
    assert evaluated(boxes, study, cell) == done
    assert path.stat().st_mtime_ns == before


def test_a_missing_slice_marks_the_record(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", attributes=("blond_hair", "black_hair"))
    cell = planned(dataset, "cross_attribute", allow_missing=True)
    record = evaluated(dataset, Study(tmp_path / "s"), cell)
    assert record.status == "partial"
    assert record.protocol.missing == ("brown_hair", "smile")


def test_the_oracle_is_perfect_and_scores_do_not_depend_on_the_batch(boxes: Dataset, tmp_path: Path) -> None:
    record = evaluated(boxes, Study(tmp_path / "o"), planned(boxes, "cross_attribute", "oracle"))
    assert all(r.metrics["coss"].value == pytest.approx(1) for r in record.results)
    assert all(r.metrics["psnr"].value == 100 for r in record.results)
    tables = []
    for size in (1, 7, 64):
        study = Study(tmp_path / str(size))
        cell = planned(boxes, "in_gan", "ones")
        evaluated(boxes, study, cell, batch=size)
        tables.append(study.scores(cell.id))
    for table in tables[1:]:
        np.testing.assert_allclose(
            table[["coss", "psnr", "ssim", "mae"]].astype(float),
            tables[0][["coss", "psnr", "ssim", "mae"]].astype(float),
        )
