"""Time to publish a study of a million per-image scores: read, copy, bootstrap, rank, draw and render."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from factories import make_protocol, make_record, make_scores, write_cell
from pytest_benchmark.fixture import BenchmarkFixture

from flbench.protocol import Protocol
from flbench.record import read_record
from flbench.reporting.publish import publish

PROTOCOLS = {
    "cross": make_protocol("cross", tests=("hair", "smile", "beard", "age"), reference="hair"),
    "degraded": make_protocol("degraded", conditions=("clean", "jpeg-90", "jpeg-50", "blur-3", "blur-9")),
}
METHODS, SEEDS = 5, 5


def make_study(folder: Path, protocols: dict[str, Protocol], rows: int) -> int:
    """Write five methods under five seeds on each protocol, so many rows per cell; return the rows of all cells."""
    written = 0
    for name, protocol in protocols.items():
        tests = [test.name for test in protocol.test]
        people = rows // (2 * len(tests) * len(protocol.conditions))
        for method in range(METHODS):
            scores = make_scores(0.5 + 0.01 * method, tests=tests, conditions=protocol.conditions, people=people)
            first = make_record(f"method{method}", scores, protocol=protocol, reference=method == 0)
            for seed in range(SEEDS):
                record = first.model_copy(update={"seed": seed, "cell": f"{name}-{method}-{seed}"})
                noise = np.random.default_rng([method, seed]).normal(0, 0.02, len(scores))
                write_cell(folder / record.cell, record, scores.assign(coss=(scores["coss"] + noise).clip(0, 1)))
                written += len(scores)
    return written


def publish_study(folder: Path, into: Path, protocols: dict[str, Protocol]) -> list[Path]:
    return publish([(read_record(path), path.parent) for path in folder.glob("*/run.json")], protocols, into)


@pytest.mark.benchmark(group="publish a million rows of 50 cells")
def test_publishing(benchmark: BenchmarkFixture, tmp_path: Path, full: bool) -> None:
    benchmark.extra_info["what"] = "two boards with five figures"
    benchmark.extra_info["limit_ms"] = 10_000
    study, asked = tmp_path / "study", PROTOCOLS if full else {"cross": PROTOCOLS["cross"]}
    assert make_study(study, asked, 20_000 if full else 40) == (1_000_000 if full else 1000)
    folders = (tmp_path / f"boards{number}" for number in itertools.count())
    written = benchmark.pedantic(publish_study, setup=lambda: ((study, next(folders), asked), {}), rounds=3)
    assert {"README.md", *(f"{name}.md" for name in asked)} <= {path.name for path in written}
