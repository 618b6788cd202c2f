"""Time until the commands that show something answer, in processes of their own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


def cpu_of_children() -> float:
    """Return the processor seconds, user and system, of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.benchmark(group="start-up", timer=cpu_of_children)
@pytest.mark.parametrize(("word", "limit_ms"), [("--help", 300), ("list", 600)], ids=["help", "list"])
def test_startup(benchmark: BenchmarkFixture, word: str, limit_ms: int, full: bool) -> None:
    benchmark.extra_info["what"] = "flbench"
    benchmark.extra_info["limit_ms"] = limit_ms
    command = [sys.executable, "-P", "-m", "flbench", word]
    done = benchmark.pedantic(
        subprocess.run,
        (command,),
        {"capture_output": True, "check": True},
        rounds=15 if full else 1,
        warmup_rounds=int(full),
    )
    assert b"flbench" in done.stdout or b"methods" in done.stdout
