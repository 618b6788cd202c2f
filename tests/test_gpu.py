"""What holds on a GPU; left out where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import make_dataset, settle
from torch import Tensor, nn

import flbench
from flbench.data.batches import Frames
from flbench.data.dataset import Dataset
from flbench.engine.fit import make_fit
from flbench.engine.plan import Request, make_plan
from flbench.engine.runtime import Events, Runtime
from flbench.engine.worker import run_unit
from flbench.errors import Interrupted
from flbench.locator import Locator, Prediction
from flbench.methods.fakelocator import FakeLocator
from flbench.registry import choose_method, find_protocol
from flbench.study import CHECKPOINT, Study

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

QUIET = Events(lambda event: None)
SMALL = {"encoder": "resnet18", "weights": "none", "steps": 6, "checks": 2, "batch": 4}
"""Options of a fit that takes a second."""

AT_LEAST = {"psnr": 1e-4, "false_alarm": 1e-3}
"""Decibels are large numbers, and a share of pixels jumps where one of them crosses a half."""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("faces"), people=24, size=64)


@pytest.fixture
def locator() -> FakeLocator:
    torch.manual_seed(0)
    made = FakeLocator(encoder="resnet18", weights="none")
    made.module = made.build(pretrained=False)
    settle(made.module, 64)
    return made


def scores(locator: Locator | nn.Module, faces: Dataset, study: Path, **given: object) -> pd.DataFrame:
    record = flbench.evaluate(locator, "degradations", faces, study=study, **given)  # type: ignore[arg-type]
    assert record.status == "ok"
    return Study(study).scores(record.cell).drop(columns=["reason"])


def agree(one: pd.DataFrame, other: pd.DataFrame, within: float) -> None:
    for name in one.select_dtypes("number"):
        atol = max(within, AT_LEAST.get(str(name), 0))
        np.testing.assert_allclose(one[name], other[name], atol=atol, rtol=0, err_msg=name)


def test_scores_are_those_of_the_cpu(locator: FakeLocator, faces: Dataset, tmp_path: Path) -> None:
    on_cpu = scores(locator, faces, tmp_path, device="cpu")
    on_gpu = scores(locator, faces, tmp_path, device="cuda")
    assert on_gpu.sample_id.tolist() == on_cpu.sample_id.tolist()
    agree(on_gpu, on_cpu, 1e-4)


def test_scores_agree_whatever_the_batch(locator: FakeLocator, faces: Dataset, tmp_path: Path) -> None:
    one, seven = (scores(locator, faces, tmp_path, device="cuda", batch=count) for count in (1, 7))
    agree(seven, one, 1e-6)


@pytest.mark.parametrize(("precision", "within"), [("tf32", 5e-3), ("bfloat16", 5e-2), ("float16", 1e-2)])
def test_a_precision_says_nearly_the_same_and_stands_in_the_record(
    locator: FakeLocator, faces: Dataset, precision: str, within: float
) -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).cuda()
    locator.to(torch.device("cuda"))
    runtime = Runtime.set_up("cuda", 1, precision=precision)
    exact = locator.predict(images).fakeness
    with runtime.computing():
        said = locator.predict(images).fakeness
    assert 0 < float((said.float() - exact).abs().max()) < within
    torch.testing.assert_close(locator.predict(images).fakeness, exact, atol=1e-6, rtol=0)
    record = flbench.evaluate(locator, "in_gan", faces, device="cuda", precision=precision)
    assert record.provenance["precision"] == precision
    assert record.provenance["device"] == torch.cuda.get_device_name()


def test_the_compiler_says_the_same(locator: FakeLocator) -> None:
    from flbench.engine.inference import with_engine

    device = torch.device("cuda")
    Runtime.set_up("cuda", 1, "compile")
    locator.to(device)
    compiled = with_engine(locator, "small", "compile", size=64, threads=1)
    compiled.predict(torch.rand(2, 3, 64, 64).to(device))
    assert compiled.deviation <= 1e-4  # type: ignore[attr-defined]


class Hungry(Locator):
    """Take two fifths of the free memory for each image."""

    title = "Hungry"
    licence = "none"

    def __init__(self) -> None:
        self.share = int(0.4 * torch.cuda.mem_get_info()[0])

    def predict(self, images: Tensor) -> Prediction:
        torch.empty(len(images) * self.share, dtype=torch.uint8, device=images.device)
        return Prediction(images.mean(dim=1))


def test_a_batch_that_does_not_fit_in_memory_is_halved(faces: Dataset, tmp_path: Path) -> None:
    record = flbench.evaluate(Hungry(), "in_gan", faces, study=tmp_path, device="cuda", batch=8)
    assert record.status == "ok"
    assert record.provenance["batch"] in (1, 2)


def stopping_at(step: int) -> Events:
    """Return events of a process that is asked to stop after a step."""
    events = Events(lambda event: setattr(events, "stopping", event.get("done", 0) >= step))
    return events


def test_a_fit_is_made_tested_and_goes_on_where_it_was_stopped(faces: Dataset, tmp_path: Path) -> None:
    method = choose_method("fakelocator", SMALL)
    plan = make_plan(faces, [(find_protocol("in_gan"), [method])], [0], Request())
    runtime = Runtime.set_up("cuda", 4)
    for folder in ("whole", "stopped"):
        study = Study(tmp_path / folder)
        (fit,) = plan.units[0].fits
        if folder == "stopped":
            with pytest.raises(Interrupted):
                make_fit(fit, Frames(faces, size=64), study, runtime, stopping_at(3))
            assert (study.fit_folder(fit.id) / CHECKPOINT).exists()
        run_unit(plan.units[0], faces.folder, study, runtime, QUIET)
    whole, stopped = (Study(tmp_path / folder) for folder in ("whole", "stopped"))
    assert [study.record(plan.cells[0].id).status for study in (whole, stopped)] == ["ok", "ok"]  # type: ignore[union-attr]
    losses = [study.fit(fit.id)["losses"] for study in (whole, stopped)]  # type: ignore[index]
    for one, other in zip(*losses, strict=True):
        assert other == pytest.approx(one, rel=0.02)
