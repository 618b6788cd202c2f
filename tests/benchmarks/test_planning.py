"""Time to plan ten thousand cells: the whole grid of methods, protocols and seeds on one data set."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flbench.data.dataset import COLUMNS, About, Dataset, write_dataset
from flbench.engine.plan import Plan, Request
from flbench.jobs import Machine, estimate_run, plan_run
from flbench.registry import choose_method, find_protocol, methods, protocols
from flbench.study import Study

SPLITS = ("train", "train", "valid", "test")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A manifest with every category that a protocol names; planning opens no image."""
    asked = [find_protocol(name) for name in protocols()]
    slices = [part for protocol in asked for part in (*protocol.fit, *protocol.test)]
    categories = sorted({category for part in slices for category in part.categories})
    rows = []
    for person in range(120):
        home = "celeba" if person < 100 else "ffhq"
        base = {"database": home, "identity": f"p{person}", "split": SPLITS[person % 4]}
        parsing = f"parsing/p{person}.png"
        rows.append(base | {"sample_id": f"p{person}", "image": f"p{person}.png", "label": "real", "parsing": parsing})
        for category in categories if person < 100 else ():
            generator, attribute = category.split("/")
            name = f"p{person}-{generator}-{attribute}"
            made = {"generator": generator, "attribute": attribute, "source": f"p{person}"}
            rows.append(base | {"sample_id": name, "image": f"{name}.png", "label": "fake"} | made)
    about = About(name="wide", version="1", title="Wide", licence="CC0-1.0", size=128)
    manifest = pd.DataFrame([dict.fromkeys(COLUMNS, "") | row for row in rows])
    return write_dataset(tmp_path_factory.mktemp("wide"), about, manifest)


def planned(dataset: Dataset, seeds: int, study: Path) -> Plan:
    """Plan every method with every variant on every protocol, and say how much of it is left to do."""
    entries = [entry for entry in methods().values() if not (entry.reference or entry.broken or entry.target)]
    names = [name for entry in entries for name in (entry.name, *(f"{entry.name}:{v}" for v in entry.variants))]
    asked = [find_protocol(name) for name in protocols()]
    plan = plan_run(dataset, asked, [choose_method(name) for name in names], range(seeds), Request())
    estimate_run(plan, Study(study), Machine(device="cpu", threads=1))
    return plan


@pytest.mark.benchmark(group="plan ten thousand cells")
def test_planning(benchmark: BenchmarkFixture, wide: Dataset, tmp_path: Path, full: bool) -> None:
    benchmark.extra_info["what"] = "every method and variant, on every protocol, under 17 seeds"
    benchmark.extra_info["limit_ms"] = 5000
    plan = benchmark.pedantic(planned, (wide, 17 if full else 1, tmp_path), rounds=3)
    assert len(plan.cells) >= (10_000 if full else 600)
