"""What all benchmarks share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether speed is measured; if not, a benchmark runs once, on as little as shows that it works."""
    return bool(request.config.getoption("benchmark_enable"))
