"""Whole jobs beside what they cannot do without: the forward passes of a test, the steps of a fit, two files a map."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import make_dataset, settle
from conftest import cpu_of_all
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import gaussian_filter
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, roc_auc_score
from torch import Tensor

import flbench
from flbench.condition import parse_condition
from flbench.data.batches import Frames, on_device, to_tensor
from flbench.data.dataset import About, Dataset, select_test, write_dataset
from flbench.data.manifest import COLUMNS
from flbench.engine.fit import SliceTraining
from flbench.engine.inference import Inference, check_engine
from flbench.engine.local import usable_cores
from flbench.engine.plan import Request, make_plan
from flbench.engine.runtime import Events, Runtime
from flbench.engine.worker import run_unit
from flbench.errors import UsageError
from flbench.locator import Batch, NeuralLocator
from flbench.methods.fakelocator import FakeLocator
from flbench.registry import choose_method, find_protocol, load_method
from flbench.study import Study

QUIET = Events(lambda event: None)
ONE = {"size": 224, "people": 23, "attributes": ("blond_hair",)}
"""Seven fakes and seven photos to test on, under each condition: what an evaluation costs once weighs little then."""

# --- Stored predictions -----------------------------------------------------------------------------------------------

STORED = """
name = "stored"
version = 1
title = "Stored"
question = "How well do stored maps match stored masks?"
paper = "None"
size = "dataset"
conditions = ["clean"]

[[fit]]
name = "masks"
categories = ["other/smile"]
people = "disjoint"

[[test]]
name = "masks"
fit = "masks"
categories = ["other/smile"]

[scoring]
over = "whole"
metrics = ["f1", "iou", "pixel_auroc", "acc"]
primary = "f1"
reals = "all"
"""


class Stored:
    """Fakes with masks, and a folder of maps, as PNG files of 224 pixels a side."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.maps = folder / "data", folder / "maps"
        self.protocol = folder / "stored.toml"
        self.protocol.write_text(STORED)
        self.maps.mkdir()
        self.folder.mkdir()
        self.names: list[str] = []
        rng, rows = np.random.default_rng(0), []
        for number in range(count + 2):
            split = "train" if number >= count else "test"
            mask = np.zeros((224, 224), bool)
            top, left = rng.integers(0, 120, 2)
            mask[top : top + 90, left : left + 70] = True
            said = gaussian_filter(mask + rng.normal(0, 0.4, mask.shape), 3)
            name = f"f{number:03d}"
            self._save(self.folder / f"{name}-mask.png", mask)
            self._save(self.folder / f"{name}.png", gaussian_filter(rng.random((224, 224, 3)), (4, 4, 0)) * 1.5)
            self._save(self.maps / f"{name}.png", (said - said.min()) / np.ptp(said))
            base = dict.fromkeys(COLUMNS, "") | {"split": split, "identity": name, "image": f"{name}.png"}
            fake = {"label": "fake", "generator": "other", "attribute": "smile", "mask": f"{name}-mask.png"}
            rows.append(base | fake | {"sample_id": name})
            if split == "train":
                rows.append(base | {"label": "real", "sample_id": f"r{number}", "identity": f"r{number}"})
            else:
                self.names.append(name)
        about = About(name="stored", version="1", size=224, title="Stored", licence="CC0-1.0")
        self.dataset = write_dataset(self.folder, about, pd.DataFrame(rows))

    def _save(self, path: Path, values: np.ndarray) -> None:
        Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8)).save(path)

    def by_flbench(self, study: Path) -> np.ndarray:
        """Run from the data set's folder to the record."""
        method = choose_method(f"maps:{self.maps}")
        plan = make_plan(self.dataset, [(find_protocol(str(self.protocol)), [method])], [0], Request())
        run_unit(plan.units[0], self.folder, Study(study), Runtime.set_up("cpu", 1), QUIET)
        scores = Study(study).scores(plan.cells[0].id).set_index("sample_id").loc[self.names]
        return scores[["f1", "iou", "pixel_auroc", "score"]].to_numpy()

    def by_hand(self) -> np.ndarray:
        found = []
        for name in self.names:
            with Image.open(self.folder / f"{name}-mask.png") as file:
                mask = (np.asarray(file) >= 128).ravel()
            with Image.open(self.maps / f"{name}.png") as file:
                said = np.asarray(file).ravel() / 255
            called = said >= 0.5
            accuracy_score(mask, called)
            found.append((f1_score(mask, called), jaccard_score(mask, called), roc_auc_score(mask, said)))
        return np.array(found)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"), 200 if full else 4)


PREDICTIONS = "200 stored maps to a record: F1, IoU, pixel AUROC, ACC, 224 px"


@pytest.mark.benchmark(group=PREDICTIONS, timer=cpu_of_all)
@pytest.mark.parametrize(("turn", "limit"), [("first time", 6.0), ("again", 1.5)], ids=["first time", "again"])
def test_stored_predictions(
    benchmark: BenchmarkFixture,
    stored: Stored,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    turn: str,
    limit: float,
) -> None:
    """The first time masks, maps and images are decoded; again they are read from the cache folder."""
    benchmark.extra_info |= {"what": f"flbench, {turn}", "images": len(stored.names), "limit_ms": limit}
    studies = (tmp_path / str(number) for number in itertools.count())
    monkeypatch.setenv("FLBENCH_HOME", str(tmp_path / "home"))
    stored.by_flbench(next(studies))  # decoders are running, modules imported

    def fresh() -> tuple[tuple[Path], dict[str, object]]:
        if turn == "first time":
            shutil.rmtree(tmp_path / "home")
        return (next(studies),), {}

    found = benchmark.pedantic(stored.by_flbench, setup=fresh, rounds=3)
    np.testing.assert_allclose(found[:, :3], stored.by_hand(), atol=1e-6)


@pytest.mark.benchmark(group=PREDICTIONS, timer=cpu_of_all)
def test_stored_predictions_by_hand(benchmark: BenchmarkFixture, stored: Stored) -> None:
    benchmark.extra_info |= {"reference": "PIL, scikit-learn; no record", "images": len(stored.names)}
    assert len(benchmark.pedantic(stored.by_hand, rounds=3)) == len(stored.names)


# --- The degradations protocol ----------------------------------------------------------------------------------------


def large(full: bool) -> FakeLocator:
    """Return DeepLabV3-ResNet101 with norms as after a fit; a small one where speed is not measured."""
    torch.manual_seed(0)
    encoder = "resnet101" if full else "resnet18"
    locator = FakeLocator(architecture="DeepLabV3", encoder=encoder, weights="random")
    locator.module = locator.build(pretrained=False)
    settle(locator.module, 128)
    return locator


def degraded(dataset: Dataset, conditions: tuple[str, ...]) -> list[Tensor]:
    """Return the images of the protocol's test, a batch for each condition."""
    protocol = find_protocol("degradations")
    chosen = select_test(dataset, protocol.test[0], "balanced")
    samples = [*chosen.fakes["sample_id"], *chosen.reals["sample_id"]]
    frames = Frames(dataset, size=dataset.about.size)
    return [
        to_tensor(on_device([frames.example(s, parse_condition(text)).image for s in samples], torch.device("cpu")))
        for text in conditions
    ]


PROTOCOL = "the degradations protocol with DeepLabV3-ResNet101, 224 px, one thread"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("faces"), **ONE | ({} if full else {"size": 64, "people": 6}))  # type: ignore[arg-type]


@pytest.mark.benchmark(group=PROTOCOL, timer=cpu_of_all)
@pytest.mark.parametrize(("engine", "limit"), [("torch", 1.03), ("onnxruntime", 0.85), ("openvino", 0.85)])
def test_degradations(
    benchmark: BenchmarkFixture, faces: Dataset, tmp_path: Path, full: bool, engine: str, limit: float
) -> None:
    """From files to the record; another engine is ready before, since it is made once and not for each image.

    The processor's time is compared: what else the machine does moves a wall clock by more than what is looked for.
    """
    try:
        check_engine(engine, torch.device("cpu"))
    except UsageError as error:
        pytest.skip(str(error))
    if engine != "torch" and not full:
        pytest.skip("the tests of engines hold what they say")
    Runtime.set_up("cpu", 1)
    locator = large(full)
    ready = locator if engine == "torch" else Inference(locator, "large", engine, size=faces.about.size, threads=1)
    images = sum(map(len, degraded(faces, find_protocol("degradations").conditions)))
    benchmark.extra_info |= {"what": f"flbench, {engine}", "images": images, "limit": limit}

    def run() -> flbench.Record:
        return flbench.evaluate(ready, "degradations", faces, study=tmp_path, threads=1, device="cpu")

    record = benchmark.pedantic(run, rounds=1)
    assert record.status == "ok"
    assert sum(result.fakes + result.reals for result in record.results) == images
    if isinstance(ready, Inference):
        assert ready.deviation is not None
        assert ready.deviation <= 1e-4


@pytest.mark.benchmark(group=PROTOCOL, timer=cpu_of_all)
def test_degradations_forward_alone(benchmark: BenchmarkFixture, faces: Dataset, full: bool) -> None:
    most = Runtime.set_up("cpu", 1).batch_at(faces.about.size)  # what is fastest here too
    module = large(full).module
    assert module is not None
    conditions = degraded(faces, find_protocol("degradations").conditions)
    batches = [batch for images in conditions for batch in images.split(most)]
    images = sum(map(len, batches))
    benchmark.extra_info |= {"reference": "the eager forward pass alone, images in memory", "images": images}

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                module(batch)

    benchmark.pedantic(run, rounds=1)


# --- A fit ------------------------------------------------------------------------------------------------------------

STEPS = 24
FIT = f"{STEPS} steps of fakelocator, batches of 16, 128 px"


class Fitting:
    """A fit of fakelocator, by flbench and as a bare loop over the same batches in memory."""

    def __init__(
        self, folder: Path, dataset: Dataset, steps: int, *, method: str = "fakelocator", device: str = "cpu"
    ) -> None:
        self.steps = steps
        cells = make_plan(dataset, [(find_protocol("in_gan"), [choose_method("fakelocator")])], [0], Request()).cells
        plan = make_plan(dataset, [(cells[0].protocol, [cells[0].method])], [0], Request())
        self.fit = next(unit for unit in plan.units if unit.fits).fits[0]
        self.locator = load_method(choose_method(method, {"weights": "none", "steps": steps, "checks": 1, "batch": 16}))
        assert isinstance(self.locator, NeuralLocator)
        self.runtime = Runtime.set_up(device, 1 if device == "cpu" else usable_cores())
        self.folder, self.dataset = folder, dataset

    def ready(self) -> SliceTraining:
        frames = Frames(self.dataset, size=self.dataset.about.size, on_disk=self.runtime.device.type == "cuda")
        training = SliceTraining(frames, self.fit, self.runtime, self.folder, QUIET)
        training.valid = training.valid._replace(fakes=training.valid.fakes[:0])  # a loop by hand looks at nothing
        torch.manual_seed(0)
        self.locator.module = self.locator.build(pretrained=False).to(self.runtime.device)
        if self.runtime.device.type == "cuda":
            self.locator.module.to(memory_format=torch.contiguous_format)
        return training

    def in_memory(self) -> tuple[tuple[list[Batch]], dict[str, object]]:
        """Return the batches of a fit, ready for a loop by hand."""
        training = self.ready()
        sampler = flbench.data.batches.Sampler(training.slice, batch=16, seed=0)
        return ([training.batch(sampler.samples(step)) for step in range(self.steps)],), {}

    def by_flbench(self, training: SliceTraining) -> None:
        assert self.locator.module is not None
        with self.runtime.fitting():
            training.optimise(self.locator.module, self.locator.loss, self.locator.recipe)

    def by_hand(self, batches: list[Batch]) -> None:
        module = self.locator.module
        assert module is not None
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
        module.train()
        with self.runtime.fitting():
            for batch in batches:
                optimiser.zero_grad(set_to_none=True)
                self.locator.loss(module, batch).backward()
                optimiser.step()


@pytest.fixture(scope="module")
def fitting(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Callable[[], Fitting]:
    folder = tmp_path_factory.mktemp("fitting")
    dataset = make_dataset(folder / "data", people=48 if full else 6, size=128 if full else 32)
    return lambda: Fitting(folder, dataset, STEPS if full else 1)


@pytest.mark.benchmark(group=FIT, timer=time.perf_counter)
def test_a_fit(benchmark: BenchmarkFixture, fitting: Callable[[], Fitting]) -> None:
    made = fitting()
    benchmark.extra_info |= {"what": "flbench", "limit": 1.05}
    benchmark.pedantic(made.by_flbench, setup=lambda: ((made.ready(),), {}), rounds=2)


@pytest.mark.benchmark(group=FIT, timer=time.perf_counter)
def test_a_fit_by_hand(benchmark: BenchmarkFixture, fitting: Callable[[], Fitting]) -> None:
    made = fitting()
    benchmark.extra_info["reference"] = "forward, backward and step alone, batches in memory"
    benchmark.pedantic(made.by_hand, setup=made.in_memory, rounds=2)
