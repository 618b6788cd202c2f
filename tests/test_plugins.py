"""Methods from elsewhere: an entry point of another distribution, and a file dropped into `methods/`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flbench.data.dataset import Dataset

ROOT = Path(__file__).parent.parent
DROPPED = '''"""A method dropped into the folder."""

import torch

from flbench.locator import Locator, Prediction


class Half(Locator):
    """One half everywhere."""

    title = "Half"

    def predict(self, images: torch.Tensor) -> Prediction:
        print("a method may print without harm")
        return Prediction(torch.full_like(images[:, 0], 0.5))
'''


def flbench(*words: str, path: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-P", "-m", "flbench", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    return done


def names(path: Path | None = None) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(flbench("list", "methods", "--json", path=path).stdout)["methods"]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example distribution, built and installed into a folder."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "examples/flbench-residual", work / "source")
    target = work / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(work / "source")], check=True, capture_output=True)
    return target


def test_a_method_of_another_distribution_is_listed_and_runs(installed: Path, boxes: Dataset, tmp_path: Path) -> None:
    assert "residual" not in names()
    row = names(installed)["residual"]
    assert row["distribution"] == "flbench-residual 0.1.0"
    assert row["options"] == {"window": 15, "scale": 1e-4}
    (checked,) = json.loads(flbench("check", "residual", "--json", path=installed).stdout)
    assert {check["status"] for check in checked["checks"]} == {"ok", "skipped"}
    words = ["--method", "residual", "--set", "window=7", "--protocol", "in_gan", "--data", str(boxes.folder)]
    done = flbench("run", *words, "--study", str(tmp_path), "--json", path=installed)
    (record,) = (r for r in json.loads(done.stdout) if r["method"]["name"] == "residual")
    assert record["status"] == "ok"
    assert record["method"]["options"]["window"] == 7
    assert record["method"]["distribution"] == "flbench-residual 0.1.0"


def test_a_file_dropped_into_methods_is_listed_and_runs(boxes: Dataset, tmp_path: Path) -> None:
    path = ROOT / "methods" / "half_dropped_by_a_test.py"
    path.write_text(DROPPED)
    try:
        name = path.stem
        assert names()[name]["title"] == "Half"
        words = ["--method", name, "--protocol", "in_gan", "--data", str(boxes.folder), "--study", str(tmp_path)]
        records = json.loads(flbench("run", *words, "--json").stdout)
        (record,) = (r for r in records if r["method"]["name"] == name)
        assert record["results"][0]["metrics"]["mae"]["value"] > 0
    finally:
        path.unlink()


def test_a_broken_plugin_is_a_row_and_stops_nothing(tmp_path: Path, boxes: Dataset) -> None:
    (tmp_path / "broken_plugin.py").write_text("class Broken(:\n")
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[flbench.methods]\nbroken = broken_plugin:Broken\nabsent = no_such_module:X\nzeros = broken_plugin:Zeros\n"
    )
    rows = names(tmp_path)
    assert "line 1" in rows["broken"]["broken"]
    assert "not found" in rows["absent"]["broken"]
    assert "declared twice" in rows["zeros"]["broken"]
    assert not rows["fakelocator"]["broken"]
    words = ["--protocol", "in_gan", "--data", str(boxes.folder), "--study", str(tmp_path / "s")]
    done = flbench("run", "--method", "broken", *words, path=tmp_path, code=3)
    assert "broken" in done.stderr
    assert "Traceback" not in done.stderr
    flbench("run", "--method", "ones", *words, path=tmp_path)
