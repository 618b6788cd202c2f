"""A run that is killed at any moment, then run again, leaves the bits of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ledger import Observed

from flbench.data.dataset import Dataset
from flbench.study import SCORES, Study

PLUGIN = '''
import time
import torch
from torch import nn
from flbench.locator import NeuralLocator, Prediction, Recipe

class Small(NeuralLocator):
    """A network small enough to be fitted while a test waits."""

    title = "Small"

    def __init__(self, *, steps: int = 40, slow: float = 0.05):
        super().__init__(recipe=Recipe(steps=steps, batch=4, checks=8))
        self.slow = slow

    def build(self, *, pretrained):
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def loss(self, module, batch):
        time.sleep(self.slow)
        return (module(batch.images)[:, 0].sigmoid() - batch.fakeness).abs().mean()

    def forward(self, module, images):
        time.sleep(4 * self.slow)
        return Prediction(module(images)[:, 0].sigmoid())
'''


ASKED = (signal.SIGINT, signal.SIGTERM)
BOTH = pytest.mark.fault(52, "kill -9 of a run and its work unit, while it fits and while it tests", kind="kill")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small_plugin.py").write_text(PLUGIN)
    info = folder / "small-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flbench.methods]\nsmall = small_plugin:Small\n")
    return folder


def start(plugin: Path, data: Path, study: Path) -> subprocess.Popen[str]:
    words = ["run", "--method", "small", "--protocol", "cross_attribute", "--data", str(data), "--study", str(study)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "flbench", *words, "--threads", "1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(plugin)},
    )


def finished(plugin: Path, data: Path, study: Path) -> dict[str, str]:
    """Run to the end, and return the digest of every record."""
    process = start(plugin, data, study)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)
    return {record.cell: record.digest for record in Study(study).records()}


def wait_for(study: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(study.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} never appeared"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(plugin: Path, boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    study = tmp_path_factory.mktemp("undisturbed")
    return study, finished(plugin, boxes.folder, study)


@pytest.mark.parametrize(
    ("moment", "number", "whom"),
    [
        pytest.param(
            "fits/small*/checkpoint.safetensors",
            signal.SIGKILL,
            "all",
            id="52-kill-9-while-fitting",
            marks=BOTH,
        ),
        pytest.param(
            "cells/small*/partial/black_hair--clean.npz",
            signal.SIGKILL,
            "all",
            id="52-kill-9-while-testing",
            marks=BOTH,
        ),
        pytest.param(
            "fits/small*/checkpoint.safetensors",
            signal.SIGTERM,
            "driver",
            id="56-sigterm-while-fitting",
            marks=pytest.mark.fault(56, "SIGTERM, as a scheduler sends it; then the same command again", kind="kill"),
        ),
        pytest.param(
            "cells/small*/partial/blond_hair--clean.npz",
            signal.SIGKILL,
            "driver",
            id="53-kill-9-of-the-driver",
            marks=pytest.mark.fault(53, "kill -9 of the command alone, not of its work unit", kind="kill"),
        ),
        pytest.param(
            "fits/small*/checkpoint.safetensors",
            signal.SIGINT,
            "driver",
            id="55-ctrl-c-while-fitting",
            marks=pytest.mark.fault(55, "Ctrl+C once, and twice; then the same command again", kind="kill"),
        ),
        pytest.param(
            "cells/small*/partial/black_hair--clean.npz",
            signal.SIGINT,
            "driver, twice",
            id="55-ctrl-c-twice-while-testing",
            marks=pytest.mark.fault(55, "Ctrl+C once, and twice; then the same command again", kind="kill"),
        ),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    plugin: Path,
    boxes: Dataset,
    undisturbed: tuple[Path, dict[str, str]],
    tmp_path: Path,
    moment: str,
    number: int,
    whom: str,
    observed: Observed,
) -> None:
    process = start(plugin, boxes.folder, tmp_path)
    wait_for(tmp_path, moment)
    victims = _family(process.pid) if whom == "all" else [process.pid]
    for victim in victims:
        os.kill(victim, number)
    if "twice" in whom:
        os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number in ASKED else -number)
    assert "Traceback" not in err
    assert not list(tmp_path.glob("cells/small*/run.json"))
    said = err.strip().splitlines()[-1] if number in ASKED else "Killed"
    observed(f"{said}; the same command again goes on to the bits of an undisturbed run", process.returncode)
    study, digests = undisturbed
    assert finished(plugin, boxes.folder, tmp_path) == digests
    for cell in digests:
        here, there = (root / "cells" / cell / SCORES for root in (tmp_path, study))
        assert here.read_bytes() == there.read_bytes()
    assert not list(tmp_path.glob("**/*.tmp"))


def _family(pid: int) -> list[int]:
    """Return a process and its children, children first."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = [int(one) for one, parent in (line.split() for line in listed.splitlines()) if int(parent) == pid]
    return [*children, pid]


@pytest.mark.fault(51, "kill -9 of the work unit alone, once, as the system does when memory is short", kind="kill")
def test_51_a_killed_work_unit_is_told_and_tried_again(
    plugin: Path, boxes: Dataset, undisturbed: tuple[Path, dict[str, str]], tmp_path: Path, observed: Observed
) -> None:
    process = start(plugin, boxes.folder, tmp_path)
    wait_for(tmp_path, "fits/small*/checkpoint.safetensors")
    child = next(pid for pid in _family(process.pid) if pid != process.pid)
    os.kill(child, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    (told,) = (line for line in err.splitlines() if "killed" in line)
    observed(told, process.returncode)
    assert told == "warning: the process for small was killed by signal 9 (out of memory?); it is tried again"
    assert "Traceback" not in err
    assert {record["cell"] for record in json.loads(out)} == set(undisturbed[1])
    assert {record.cell: record.digest for record in Study(tmp_path).records()} == undisturbed[1]
