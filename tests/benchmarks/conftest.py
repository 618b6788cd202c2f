"""What all benchmarks share."""

from __future__ import annotations

import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

TOLD = ("torch", "numba", "numpy", "scipy", "pillow", "pandas", "pyarrow", "scikit-image", "scikit-learn", "matplotlib")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Tell the versions that a time depends on, and the GPU if there is one."""
    machine_info["versions"] = {name: metadata.version(name) for name in TOLD}
    if torch.cuda.is_available():
        machine_info["gpu"] = torch.cuda.get_device_name()


def cpu_of_all() -> float:
    """Return the CPU seconds of this process and of those it has started: images are decoded by such."""
    times = os.times()
    ended = times.children_user + times.children_system
    return time.process_time() + ended + (_of_living() if sys.platform == "linux" else 0.0)


def _of_living() -> float:
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether speed is measured; if not, a benchmark runs once, on as little as shows that it works."""
    return bool(request.config.getoption("benchmark_enable"))
