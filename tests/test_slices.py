"""Cells under conditions and with conventions, and what the cells of a work unit share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import make_dataset
from skimage.metrics import structural_similarity
from sklearn.metrics import f1_score
from torch import Tensor

from flbench.condition import parse_condition
from flbench.data.batches import Example, Frames
from flbench.data.dataset import Dataset
from flbench.data.degradations import degrade
from flbench.data.fakeness import fakeness_map
from flbench.engine import evaluate
from flbench.engine.evaluate import run_cell, shared_locators
from flbench.engine.plan import Cell, Request, make_plan
from flbench.engine.predictions import Answer, Predictions, Timer
from flbench.engine.predictor import Predictor
from flbench.engine.runtime import Events, Runtime
from flbench.errors import Interrupted
from flbench.locator import Locator, Prediction
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.registry import choose_method, find_protocol
from flbench.study import GALLERY, RECORD, Study

RUNTIME = Runtime(torch.device("cpu"), 1)
QUIET = Events(lambda event: None)


class Brightness(Locator):
    """Say that what is bright is fake; count the images looked at."""

    title = "Brightness"
    seen = 0

    def predict(self, images: Tensor) -> Prediction:
        Brightness.seen += len(images)
        return Prediction(images.mean(dim=1))


@pytest.fixture(autouse=True)
def _brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    Brightness.seen = 0
    monkeypatch.setattr(evaluate, "load_method", lambda choice: Brightness())


def cell_of(dataset: Dataset, protocol: Protocol | str, *conditions: str) -> Cell:
    found = find_protocol(protocol) if isinstance(protocol, str) else protocol
    zeros = choose_method("zeros")
    method = replace(zeros, entry=replace(zeros.entry, name="brightness", reference=False))
    return make_plan(dataset, [(found, [method])], [0], Request(conditions=conditions)).cells[0]


def run(
    dataset: Dataset, folder: Path, cell: Cell, *, memory: Predictions | None = None, events: Events = QUIET
) -> Record:
    frames = Frames(dataset, size=int(cell.protocol.size), region=cell.region)
    return run_cell(cell, frames, Study(folder), RUNTIME, events, memory=memory)


def test_scores_under_a_condition_are_those_of_the_degraded_pair(boxes: Dataset, tmp_path: Path) -> None:
    record = run(boxes, tmp_path, cell_of(boxes, "jpeg"))
    scores = Study(tmp_path).scores(record.cell)
    frames = Frames(boxes, size=32)
    worst = scores[(scores["condition"] == "jpeg-10") & (scores["label"] == "fake")]
    assert len(worst) == record.results[0].fakes > 0
    for row in worst.itertuples():
        image, photo = frames.image(row.sample_id), frames.image(row.sample_id.partition("-")[0])
        made = degrade(parse_condition("jpeg-10"), image, truth=frames.truth(row.sample_id), key=row.sample_id)
        truth, fakeness = fakeness_map(photo, made.image), (made.image.astype(np.float32) / 255).mean(-1)
        assert row.mae == pytest.approx(np.abs(truth - fakeness).mean(), abs=1e-6)
        assert row.ssim == pytest.approx(structural_similarity(truth, fakeness, data_range=1), abs=1e-5)
    conditions = find_protocol("jpeg").conditions
    assert [result.condition for result in record.results] == list(conditions)
    assert set(scores["condition"]) == set(conditions)


def test_the_clean_truth_stays_where_the_protocol_says_so(boxes: Dataset, tmp_path: Path) -> None:
    jpeg = find_protocol("jpeg")
    kept = jpeg.model_copy(update={"scoring": jpeg.scoring.model_copy(update={"ground_truth": "clean"})})
    record = run(boxes, tmp_path, cell_of(boxes, kept))
    scores = Study(tmp_path).scores(record.cell)
    frames = Frames(boxes, size=32)
    row = scores[(scores["condition"] == "jpeg-10") & (scores["label"] == "fake")].iloc[0]
    truth = frames.truth(row["sample_id"])
    image = degrade(parse_condition("jpeg-10"), frames.image(row["sample_id"]), truth=truth, key=row["sample_id"]).image
    assert row["mae"] == pytest.approx(np.abs(truth - (image.astype(np.float32) / 255).mean(-1)).mean(), abs=1e-6)


def test_gamma_is_exactly_100_where_nothing_is_changed_and_falls_where_something_is(
    boxes: Dataset, tmp_path: Path
) -> None:
    record = run(boxes, tmp_path, cell_of(boxes, "disorganization", "blur-1", "noise-0+lowres-1", "noise-0.2"))
    for condition in ("blur-1", "noise-0+lowres-1"):
        same = record.result("blond_hair", condition)
        assert same is not None
        assert set(same.gamma) == set(find_protocol("disorganization").scoring.metrics)
        assert {(value.value, value.low, value.high) for value in same.gamma.values()} == {(100.0, 100.0, 100.0)}
    noisy = record.result("blond_hair", "noise-0.2")
    assert noisy is not None
    assert noisy.gamma["coss"].value != 100
    assert record.protocol.added == ("blur-1", "noise-0+lowres-1", "noise-0.2")
    clean = record.result("blond_hair")
    assert clean is not None
    assert clean.gamma == {}


def test_a_pixelwise_method_does_not_notice_disorganization(boxes: Dataset, tmp_path: Path) -> None:
    """Brightness looks at each pixel alone: maps move with the image, so every metric but SSIM stays."""
    record = run(boxes, tmp_path, cell_of(boxes, "disorganization"))
    spliced = record.result("blond_hair", "disorganized")
    assert spliced is not None
    for metric in ("coss", "psnr", "mae", "acc", "auroc"):
        assert spliced.gamma[metric].value == pytest.approx(100, abs=1e-4)


def test_regions_move_with_the_image(boxes: Dataset, tmp_path: Path) -> None:
    record = run(boxes, tmp_path, cell_of(boxes, "cross_attribute", "disorganized"))
    for test in ("blond_hair", "smile"):
        spliced = record.result(test, "disorganized")
        assert spliced is not None
        assert spliced.gamma["coss"].value == pytest.approx(100, abs=1e-4)


def test_conventions_agree_with_scikit_learn_and_with_the_columns(boxes: Dataset, tmp_path: Path) -> None:
    record = run(boxes, tmp_path, cell_of(boxes, "in_gan"))
    frames = Frames(boxes, size=32)
    scores = Study(tmp_path).scores(record.cell)
    fakes = scores.loc[scores["label"] == "fake", "sample_id"]
    truths = [frames.truth(name) >= 0.1 for name in fakes]
    maps = [torch.from_numpy(frames.image(name)).permute(2, 0, 1).float().div(255).mean(0).numpy() for name in fakes]
    found = record.results[0].conventions
    expected = np.mean([f1_score(t.ravel(), p.ravel() >= 0.5) for t, p in zip(truths, maps, strict=True)])
    assert "f1" not in scores, "no column is measured that the protocol does not ask"
    own = [value.value for name, value in found.items() if name.startswith("f1/image/fakes/0.5/as-is/0.1")]
    assert own == pytest.approx([expected], abs=1e-9)
    pooled = f1_score(np.concatenate(truths).ravel(), np.concatenate(maps).ravel() >= 0.5)
    assert found["f1/pooled/fakes/0.5/as-is/0.1"].value == pytest.approx(pooled, abs=1e-9)


def test_cells_of_a_unit_predict_an_image_under_a_condition_once(boxes: Dataset, tmp_path: Path) -> None:
    memory = Predictions(shared_locators([cell_of(boxes, "jpeg"), cell_of(boxes, "jpeg", "blur-3")]))
    first = run(boxes, tmp_path, cell_of(boxes, "jpeg"), memory=memory)
    once = Brightness.seen
    assert once == sum(result.fakes + result.reals for result in first.results)
    second = run(boxes, tmp_path, cell_of(boxes, "jpeg", "blur-3"), memory=memory)
    images = first.results[0].fakes + first.results[0].reals
    assert Brightness.seen - once == images * (len(second.results) - len(first.results))
    for result in first.results:
        shared = second.result("blond_hair", result.condition)
        assert shared is not None
        assert shared.metrics == result.metrics
    alone = run(boxes, tmp_path / "alone", cell_of(boxes, "jpeg", "blur-3"))
    assert alone.results == second.results


def test_a_memory_that_is_full_predicts_again_and_says_the_same(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(boxes, tmp_path / "a", cell_of(boxes, "jpeg"))
    monkeypatch.setattr("flbench.engine.predictions.LIMIT", 32 * 32 * 4 * 3)
    memory = Predictions(shared_locators([cell_of(boxes, "jpeg")] * 2))
    small = run(boxes, tmp_path / "b", cell_of(boxes, "jpeg"), memory=memory)
    assert small.results == whole.results
    assert len(memory._kept) == 1


def test_what_no_other_cell_asks_is_not_kept(boxes: Dataset, tmp_path: Path) -> None:
    memory = Predictions(shared_locators([cell_of(boxes, "jpeg")]))
    run(boxes, tmp_path, cell_of(boxes, "jpeg"), memory=memory)
    assert len(memory._kept) == 0


def test_a_stopped_cell_goes_on_with_the_conditions_that_are_left(boxes: Dataset, tmp_path: Path) -> None:
    events = Events(lambda event: setattr(events, "stopping", "jpeg-70" in event.get("stage", "")))
    cell = cell_of(boxes, "jpeg")
    with pytest.raises(Interrupted):
        run(boxes, tmp_path, cell, events=events)
    assert not (Study(tmp_path).cell_folder(cell.id) / RECORD).exists()
    seen = Brightness.seen
    record = run(boxes, tmp_path, cell)
    assert record.digest == run(boxes, tmp_path / "whole", cell).digest
    per_condition = record.results[0].fakes + record.results[0].reals
    assert Brightness.seen - seen == per_condition * 3 + per_condition * 6  # three left here, then all six


def test_the_gallery_shows_first_best_and_worst(boxes: Dataset, tmp_path: Path) -> None:
    record = run(boxes, tmp_path, cell_of(boxes, "in_gan"))
    scores = Study(tmp_path).scores(record.cell).set_index("sample_id")
    with np.load(Study(tmp_path).cell_folder(record.cell) / GALLERY) as file:
        gallery = dict(file)
    values = scores.loc[gallery["sample_ids"], "coss"]
    fakes = scores.loc[scores["label"] == "fake", "coss"]
    for case, expected in (("best", fakes.nlargest(3)), ("worst", fakes.nsmallest(3))):
        assert sorted(values[gallery["cases"] == case]) == sorted(expected)
    assert set(gallery["conditions"]) == {"clean"}
    assert len(gallery["real"]) == len(gallery["prediction"]) == len(gallery["cases"])


def test_threads_beside_a_network_change_no_score(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = make_dataset(tmp_path / "data")
    (damaged.folder / damaged.manifest.set_index("sample_id")["image"]["p004-blond_hair"]).write_bytes(b"no image")
    alone = run(damaged, tmp_path / "alone", cell_of(damaged, "degradations"))
    monkeypatch.setattr(Runtime, "beside", 3)
    monkeypatch.setattr(Runtime, "batch_at", lambda self, size: 3)
    shared = run(damaged, tmp_path / "shared", cell_of(damaged, "degradations"))
    pd.testing.assert_frame_equal(
        Study(tmp_path / "shared").scores(shared.cell), Study(tmp_path / "alone").scores(alone.cell)
    )
    assert shared.results == alone.results
    assert (Study(tmp_path / "shared").scores(shared.cell)["status"] == "unreadable").any()


class Small(Locator):
    """Have memory for two images at a time."""

    title = "Small"

    def __init__(self) -> None:
        self.shown: list[int] = []

    def predict(self, images: Tensor) -> Prediction:
        self.shown.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Prediction(images.mean(dim=1))


def test_a_batch_that_was_given_too_early_is_shown_as_the_one_before_it_had_to_be(tmp_path: Path) -> None:
    """A GPU is given the next batch before it is known that this one does not fit; nothing is shown again as it was."""
    images = np.arange(8 * 4 * 4 * 3, dtype=np.uint8).reshape(8, 4, 4, 3)
    examples = [Example(image, np.zeros((4, 4), np.float32), None) for image in images]
    locator, names = Small(), [str(number) for number in range(8)]
    predictor = Predictor(locator, "small", RUNTIME, tmp_path / "log.txt", Timer())
    waiting = [predictor.begun(examples, names, "clean") for _ in range(2)]
    for finish in waiting:
        for image, outcome in zip(images, finish(), strict=True):
            assert isinstance(outcome, Answer)
            np.testing.assert_allclose(outcome.fakeness, image.mean(axis=2) / 255, atol=1e-6)
    assert locator.shown == [8, 8, 4, *[2] * 8]
    assert predictor.timer.batch == 2
