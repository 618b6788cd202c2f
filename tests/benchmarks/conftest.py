"""What all benchmarks share."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

TOLD = ("torch", "numpy", "scipy", "pillow", "pandas", "pyarrow", "scikit-image", "scikit-learn", "matplotlib")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Tell the versions that a time depends on."""
    machine_info["versions"] = {name: metadata.version(name) for name in TOLD}


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether speed is measured; if not, a benchmark runs once, on as little as shows that it works."""
    return bool(request.config.getoption("benchmark_enable"))
