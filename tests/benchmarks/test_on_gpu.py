"""Whole jobs on a GPU beside what they cannot do without; left out where there is none.

A GPU works by itself: a clock is read only when it has done what it was given. All cores of the machine prepare and
score; what is decoded lies in the cache folder before, since a GPU is worth it for many images and many runs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_dataset
from pytest_benchmark.fixture import BenchmarkFixture
from test_end_to_end import Fitting, degraded, large
from torch import Tensor

import flbench
from flbench.data.dataset import Dataset, write_dataset
from flbench.engine.inference import PRECISIONS, in_channels_last
from flbench.engine.local import usable_cores
from flbench.engine.runtime import Runtime
from flbench.methods.fakelocator import FakeLocator
from flbench.protocol import Protocol
from flbench.registry import find_protocol

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

SIDE = 224
BATCH = 64


def by_now() -> float:
    """Return the time when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Dataset:
    """Photos and fakes to test on, 600 of each."""
    folder, people = tmp_path_factory.mktemp("faces"), 600 if full else 4
    made = make_dataset(folder, size=SIDE, people=people + 3, attributes=("blond_hair",))
    to_fit = made.manifest["identity"].isin(("p000", "p001", "p002"))
    return write_dataset(folder, made.about, made.manifest.assign(split=np.where(to_fit, "train", "test")))


@pytest.fixture(scope="module")
def locator(full: bool) -> FakeLocator:
    made = large(full)
    made.to(torch.device("cuda"))
    return made


def forward(locator: FakeLocator, batches: Sequence[Tensor], runtime: Runtime) -> None:
    assert locator.module is not None
    with torch.inference_mode(), runtime.computing():
        for batch in batches:
            locator.module(batch)


# --- The forward pass -------------------------------------------------------------------------------------------------

FORWARD = f"forward pass of DeepLabV3-ResNet101 on a GPU, {SIDE} px, batches of {BATCH}"


LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
PLAIN = ("float32", "channels first")


def forward_pass(benchmark: BenchmarkFixture, locator: FakeLocator, full: bool, precision: str, layout: str) -> None:
    runtime = Runtime.set_up("cuda", 1, precision=precision)
    assert locator.module is not None
    locator.module.to(memory_format=LAYOUTS[layout])
    images = torch.rand(BATCH if full else 2, 3, SIDE, SIDE, device="cuda")
    benchmark.extra_info["images"] = len(images)
    benchmark.pedantic(forward, (locator, [images], runtime), rounds=3 if full else 1, warmup_rounds=1)


@pytest.mark.benchmark(group=FORWARD, timer=by_now)
def test_forward_plain(benchmark: BenchmarkFixture, locator: FakeLocator, full: bool) -> None:
    benchmark.extra_info["reference"] = ", ".join(PLAIN)
    forward_pass(benchmark, locator, full, *PLAIN)


@pytest.mark.benchmark(group=FORWARD, timer=by_now)
@pytest.mark.parametrize(
    "how", [pair for pair in itertools.product(PRECISIONS, LAYOUTS) if pair != PLAIN], ids=", ".join
)
def test_forward(benchmark: BenchmarkFixture, locator: FakeLocator, full: bool, how: tuple[str, str]) -> None:
    forward_pass(benchmark, locator, full, *how)


# --- The degradations protocol ----------------------------------------------------------------------------------------

PROTOCOL = f"the degradations protocol with DeepLabV3-ResNet101, {SIDE} px, a GPU"
TESTED = ("float32", "tf32", "bfloat16")


@pytest.mark.benchmark(group=PROTOCOL, timer=by_now)
@pytest.mark.parametrize("precision", TESTED)
def test_degradations(
    benchmark: BenchmarkFixture, faces: Dataset, locator: FakeLocator, tmp_path: Path, precision: str
) -> None:
    """The first run is of one condition, and decodes the images."""
    protocol = find_protocol("degradations")
    images = len(protocol.conditions) * int((faces.manifest["split"] == "test").sum())
    benchmark.extra_info |= {"what": "flbench", "images": images, "limit": 1.03}

    def run(asked: Protocol) -> flbench.Record:
        how = {"device": "cuda", "threads": usable_cores(), "precision": precision}
        return flbench.evaluate(locator, asked, faces, study=tmp_path, **how)  # type: ignore[arg-type]

    run(protocol.model_copy(update={"conditions": ("clean",)}))
    record = benchmark.pedantic(run, (protocol,), rounds=1)
    assert record.status == "ok"
    assert sum(result.fakes + result.reals for result in record.results) == images


@pytest.mark.benchmark(group=PROTOCOL, timer=by_now)
@pytest.mark.parametrize("precision", TESTED)
def test_degradations_forward_alone(
    benchmark: BenchmarkFixture, faces: Dataset, locator: FakeLocator, precision: str
) -> None:
    """The clean images stand for those of every condition: a GPU takes as long for them."""
    runtime = Runtime.set_up("cuda", 1, precision=precision)
    in_channels_last(locator, SIDE, runtime.device, precision)
    (clean,) = degraded(faces, ("clean",))
    batches = clean.cuda().split(BATCH) * len(find_protocol("degradations").conditions)
    benchmark.extra_info |= {"reference": "the forward pass alone, images in the GPU", "images": sum(map(len, batches))}
    forward(locator, batches[:2], runtime)
    benchmark.pedantic(forward, (locator, batches, runtime), rounds=1)


# --- A fit ------------------------------------------------------------------------------------------------------------

FITS = {"fakelocator": 1000, "fakelocator:paper": 250}
"""Methods, and steps enough that what a fit costs once weighs little."""

STEPS = "steps of a fit on a GPU, batches of 16"


@pytest.fixture(scope="module")
def fitting(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Callable[[str], Fitting]:
    folder = tmp_path_factory.mktemp("fitting")
    dataset = make_dataset(folder / "data", people=96 if full else 6, size=128 if full else 32)

    def make(method: str) -> Fitting:
        made = Fitting(folder, dataset, FITS[method] if full else 2, method=method, device="cuda")
        ((batches,), _) = made.in_memory()
        made.by_hand(batches[:10])  # libraries are loaded, images decoded
        return made

    return make


@pytest.mark.benchmark(group=STEPS, timer=by_now)
@pytest.mark.parametrize("method", list(FITS))
def test_a_fit(benchmark: BenchmarkFixture, fitting: Callable[[str], Fitting], method: str) -> None:
    made = fitting(method)
    benchmark.extra_info |= {"what": "flbench", "limit": 1.05}
    benchmark.pedantic(made.by_flbench, setup=lambda: ((made.ready(),), {}), rounds=1)


@pytest.mark.benchmark(group=STEPS, timer=by_now)
@pytest.mark.parametrize("method", list(FITS))
def test_a_fit_by_hand(benchmark: BenchmarkFixture, fitting: Callable[[str], Fitting], method: str) -> None:
    made = fitting(method)
    benchmark.extra_info["reference"] = "forward, backward and step alone, batches in the GPU"
    benchmark.pedantic(made.by_hand, setup=made.in_memory, rounds=1)
