"""What a method may say or do that it must not: told as a row or in one line, and no other method suffers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_run
from builders import flbench, run_units_here
from click.testing import Result
from ledger import Observed, error_of
from plugins import distribution, installed

from flbench.data.dataset import Dataset
from flbench.record import Record
from flbench.reporting import figures
from flbench.study import LOG, Study

ODD = '''
import os
import sys
import torch
from flbench.locator import Locator, Prediction


def limit():
    return [int(word) for word in os.environ.get("ODD_LIMIT", "99x99").split("x")]


class Odd(Locator):
    """Takes bright pixels for fake, and does what it is told to do wrong."""

    title = "Odd"

    def __init__(self, *, how: str = "", where: str = "predict"):
        self.how = how
        if where == "init":
            raise SystemExit(7)
        self.where = where

    def skip(self, protocol):
        return sys.exit("no reason") if self.where == "skip" else None

    def predict(self, images):
        maps = images.mean(dim=1)
        count, side = limit()
        if len(images) > count or images.shape[-1] > side:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return getattr(self, self.how or "right")(images, maps)

    def right(self, images, maps):
        return Prediction(maps)

    def scored(self, images, maps):
        return Prediction(maps, maps.amax((1, 2)))

    def nan(self, images, maps):
        maps[0, 3, 4] = float("nan")
        return Prediction(maps)

    def infinite(self, images, maps):
        maps[0, 3, 4] = float("-inf")
        return Prediction(maps)

    def nan_score(self, images, maps):
        scores = maps.mean((1, 2))
        scores[0] = float("nan")
        return Prediction(maps, scores)

    def small(self, images, maps):
        return Prediction(maps[:, ::2, ::2])

    def channel(self, images, maps):
        return Prediction(maps[:, None])

    def fewer(self, images, maps):
        return Prediction(maps[1:])

    def gray(self, images, maps):
        return Prediction(maps * 255)

    def logits(self, images, maps):
        return Prediction(maps.logit())

    def bytes(self, images, maps):
        return Prediction((maps * 255).byte())

    def nothing(self, images, maps):
        return None

    def listed(self, images, maps):
        return [maps, None]

    def bare(self, images, maps):
        return maps

    def array(self, images, maps):
        return Prediction(maps.numpy())

    def list_of_maps(self, images, maps):
        return Prediction(list(maps))

    def score_of_lists(self, images, maps):
        return Prediction(maps, [0.5] * len(maps))

    def elsewhere(self, images, maps):
        return Prediction(torch.empty_like(maps, device="meta"))

    def one_bad(self, images, maps):
        if (maps[:, 0, 0] == DARKEST).any():
            raise ValueError("this one is too dark for me")
        return Prediction(maps)

    def all_bad(self, images, maps):
        raise ValueError("never again")

    def flat(self, images, maps):
        return Prediction(torch.full_like(maps, 0.25))

    def leaves(self, images, maps):
        sys.exit(0)


DARKEST = None
'''

PROTOCOL = small_run.PROTOCOL.replace('"short"', '"tiny"').replace(
    '"coss", "mae"', '"coss", "mae", "pixel_auroc", "auroc"'
)

Run = Callable[..., tuple[Result, Record, pd.DataFrame]]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = distribution(tmp_path_factory.mktemp("odd"), "odd_method", ODD, {"odd": "Odd"})
    with installed(folder):
        yield


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which the reference rows are done once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def run(odd: None, protocol: Path, boxes: Dataset, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the odd method as a user does; return what came of the command, the method's record and its scores."""
    run_units_here(monkeypatch)
    monkeypatch.setattr(figures, "draw_cell_figures", lambda gallery, folder, title: None)

    def run(how: str = "", *, code: int, study: Path = shared, **options: Any) -> tuple[Result, Record, pd.DataFrame]:
        words = ["run", "-m", "odd", "-p", protocol, "--data", boxes.folder, "--study", study, "--json", "--threads", 1]
        for name, value in {"how": how, **options}.items():
            words += ["--set", f"{name}={value}"] if value else []
        done = flbench(*words, code=code)
        records = [Record.model_validate(record) for record in json.loads(done.stdout)]
        references = [record.status for record in records if record.method.reference]
        assert references == ["ok"] * 4, "the other cells of the grid are done"
        (mine,) = (record for record in records if not record.method.reference)
        return done, mine, Study(study).scores(mine.cell) if mine.results else pd.DataFrame()

    return run


@pytest.mark.fault(42, "NaN, infinity, or a score of NaN for one image of sixteen")
@pytest.mark.parametrize("how", ["nan", "infinite", "nan_score"])
def test_42_what_is_not_finite_is_a_row(run: Run, observed: Observed, how: str) -> None:
    done, record, scores = run(how, code=4)
    observed(record.reason, 4)
    assert record.status == "partial"
    assert record.reason == "2 of 32 images failed (2 bad_output)"
    assert "1 of 5 cells are not ok" in error_of(done.stderr)
    bad = scores[scores["status"] != "ok"]
    assert set(bad["status"]) == {"bad_output"}
    assert set(bad["reason"]) == {"NaN or infinity"}
    (result, _) = record.results
    assert result.metrics["coss"].failed == 1
    assert np.isfinite(scores.loc[scores["status"] == "ok", "score"]).all()


@pytest.mark.fault(43, "a map of half the size, with a channel, or for fewer images")
@pytest.mark.parametrize("how", ["small", "channel", "fewer"])
def test_43_another_shape_is_told_and_nothing_is_resized(run: Run, observed: Observed, how: str) -> None:
    done, record, _ = run(how, code=3)
    observed(done)
    assert record.status == "failed"
    assert "fakeness has shape" in error_of(done.stderr)
    assert "32, 32)" in error_of(done.stderr).split("expected")[1]


@pytest.mark.fault(44, "maps of 0..255, logits, or whole numbers")
@pytest.mark.parametrize(
    ("how", "said"), [("gray", "expected 0..1"), ("logits", "expected 0..1"), ("bytes", "expected float32")]
)
def test_44_another_range_or_type_is_told(run: Run, observed: Observed, how: str, said: str) -> None:
    done, record, _ = run(how, code=3)
    observed(done)
    assert record.status == "failed"
    assert said in error_of(done.stderr)


@pytest.mark.fault(45, "None, a list, a bare tensor, an array, lists of maps or scores, a tensor of another device")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nothing", "returned NoneType, expected Prediction"),
        ("listed", "returned list, expected Prediction"),
        ("bare", "returned Tensor, expected Prediction"),
        ("array", "fakeness is ndarray, expected a tensor"),
        ("list_of_maps", "fakeness is list, expected a tensor"),
        ("score_of_lists", "score is list, expected a tensor"),
        ("elsewhere", "fakeness is on meta"),
    ],
)
def test_45_what_is_no_prediction_is_told(run: Run, observed: Observed, how: str, said: str) -> None:
    done, record, _ = run(how, code=3)
    observed(done)
    assert record.status == "failed"
    assert said in error_of(done.stderr)


@pytest.mark.fault(46, "raises on one image")
def test_46_an_image_on_which_it_raises_is_a_row_with_its_traceback(
    run: Run, boxes: Dataset, shared: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import odd_method  # type: ignore[import-not-found]
    from PIL import Image

    photos = boxes.manifest[(boxes.manifest["split"] == "test") & (boxes.manifest["attribute"] == "blond_hair")]
    name, path = photos[["sample_id", "image"]].iloc[0]
    with Image.open(boxes.path(path)) as image:
        corner = np.asarray(image)[0, 0].astype(np.float32) / 255
    import torch

    monkeypatch.setattr(odd_method, "DARKEST", torch.from_numpy(corner).mean().item())
    done, record, scores = run("one_bad", code=4)
    observed(record.reason, 4)
    (bad,) = scores[scores["status"] != "ok"].to_dict("records")
    assert (bad["sample_id"], bad["status"], bad["condition"]) == (name, "error", "clean")
    assert bad["reason"] == "ValueError: this one is too dark for me"
    log = (Study(shared).cell_folder(record.cell) / LOG).read_text()
    assert log.count("Traceback") == 1
    assert "too dark" in log
    assert "1 of 5 cells are not ok" in error_of(done.stderr)


@pytest.mark.fault(46, "raises on the first five images in a row")
def test_46_one_that_raises_on_the_first_five_is_stopped(run: Run, observed: Observed) -> None:
    done, record, _ = run("all_bad", code=3)
    observed(done)
    assert "fails on the first 5 images: ValueError: never again" in error_of(done.stderr)
    assert LOG in error_of(done.stderr)
    assert record.status == "failed"


@pytest.mark.fault(48, "the same number in every pixel of every map")
def test_48_a_constant_map_has_an_auroc_of_one_half_and_a_flag(run: Run, observed: Observed) -> None:
    done, record, scores = run("flat", code=0)
    (flag,) = record.flags
    observed(f"warning: {flag}", 0)
    assert flag.startswith("flat: ")
    assert flag in " ".join(done.stderr.split())
    assert set(scores.loc[scores["label"] == "fake", "pixel_auroc"]) == {0.5}
    result = record.results[0]
    assert result.metrics["pixel_auroc"].value == 0.5
    assert result.metrics["auroc"].value == 0.5, "scores that are all equal tell nothing apart"
    assert run("", code=0)[1].flags == (), "a map that is not constant has no such flag"


@pytest.mark.fault(49, "calls sys.exit when it is made, asked whether it can run, or shown images")
@pytest.mark.parametrize(("where", "said"), [("init", "7"), ("skip", "'no reason'"), ("predict", "0")])
def test_49_one_that_ends_the_process_fails_and_nothing_else(
    run: Run, tmp_path: Path, observed: Observed, where: str, said: str
) -> None:
    done, record, _ = run("leaves", where=where, code=3, study=tmp_path)
    observed(done)
    assert record.status == "failed"
    assert f"method odd ends the process: sys.exit({said})" in error_of(done.stderr)


@pytest.mark.fault(50, "memory for four images at a time, where sixteen are shown")
def test_50_a_batch_that_does_not_fit_is_halved_and_no_number_depends_on_it(
    run: Run, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, scores = run("scored", code=0, study=tmp_path / "whole")
    monkeypatch.setenv("ODD_LIMIT", "4x99")
    _, record, again = run("scored", code=0, study=tmp_path / "halved")
    observed(f"ok, in batches of {record.provenance['batch']}, to the bits of whole batches", 0)
    assert record.provenance["batch"] == 4
    assert whole.provenance["batch"] == 16
    assert record.digest == whole.digest
    pd.testing.assert_frame_equal(scores, again, check_exact=True)


@pytest.mark.fault(50, "memory for a quarter of an image")
def test_50_an_image_that_does_not_fit_alone_is_shown_in_quarters_and_flagged(
    run: Run, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, scores = run("scored", code=0, study=tmp_path / "whole")
    monkeypatch.setenv("ODD_LIMIT", "99x16")
    _, record, again = run("scored", code=0, study=tmp_path / "quarters")
    observed(f"warning: {record.flags[0]}", 0)
    assert record.flags == ("32 of 32 images were shown in quarters, since the whole image did not fit in memory",)
    assert record.results == whole.results, "each pixel is judged by itself, and the parts are put together right"
    assert set(again["status"]) == {"ok"}
    np.testing.assert_array_equal(again["score"], scores["score"])


@pytest.mark.fault(50, "memory for no image at all")
def test_50_an_image_that_does_not_fit_even_so_is_a_row(
    run: Run, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_LIMIT", "0x0")
    _, record, scores = run(code=4, study=tmp_path)
    observed(record.reason, 4)
    assert record.reason == "32 of 32 images failed (32 oom)"
    assert set(scores["status"]) == {"oom"}
    assert record.results[0].metrics["coss"].value == 0
