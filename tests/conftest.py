"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; torch reads this when it is first imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from builders import make_dataset
from hypothesis import settings

from flbench.data.dataset import Dataset

settings.register_profile("flbench", deadline=None)  # the first example may wait for a compiler
settings.load_profile("flbench")


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache folder out of the tests; one folder for all workers, unless FLBENCH_HOME names one."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        if "FLBENCH_HOME" not in os.environ:
            patch.setenv("FLBENCH_HOME", str(shared / "home"))
        yield


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small data set of photos and fakes with a brightened box, with parsing maps."""
    return make_dataset(tmp_path_factory.mktemp("boxes"))
