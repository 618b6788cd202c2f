"""The examination of an installation: what is healthy, what is not, and what is told to others."""

import json
import os
import shutil
from pathlib import Path

import pytest
from builders import flbench

from flbench import doctor
from flbench.data.dataset import Dataset
from flbench.doctor import Row, examine, issue_block
from flbench.probing import Plugin, Seen, known_plugins
from flbench.registry import DATASET_GROUP, METHOD_GROUP

PATIENCE = 600.0
PLUGINS = {
    "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "leaves": "import os\nos._exit(0)\n",
    "exits": "import sys\nsys.exit('no licence')\n",
    "raises": "import no_such_library\n",
    "prints": "print('Welcome!')\n",
    "fine": "",
}
CLASS = '''
from flbench.locator import Locator, Prediction

class Plugin(Locator):
    """Marks nothing."""

    title = "Plugin"

    def predict(self, images):
        return Prediction(images[:, 0] * 0)
'''


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with a cache folder in it."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("FLBENCH_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process: a machine that is fine, and plugins that all load."""

    def fine(items, look, *, seconds, tell=None):  # type: ignore[no-untyped-def]
        devices = {"cpu x": "", "cuda:0 y": "RuntimeError: no kernel image"}
        machine = {"torch": "2.6", "threads": 1, "commit": "", "devices": devices}
        return [Seen(item, reply=machine if item == "torch" else None) for item in items]

    monkeypatch.setattr(doctor, "probe", fine)


def by_part(rows: list[Row]) -> dict[str, Row]:
    return {row.part: row for row in rows}


def test_the_command_examines_this_installation(boxes: Dataset, tmp_path: Path) -> None:
    words = ("doctor", "--data", boxes.folder, "--study", tmp_path / "study")
    done = json.loads(flbench(*words, "--seconds", PATIENCE, "--json").stdout)
    rows = {row["part"]: row for row in done["rows"]}
    assert {"python", "flbench", "packages", "cores", "torch", "device", "cache folder", "metrics"} <= set(rows)
    assert not [row for row in done["rows"] if row["status"] == "failed"]
    own = sum(plugin.own for plugin in known_plugins())
    assert rows["plugins"]["says"] == f"{own} of {own} of flbench's own load"
    assert rows[f"data set {boxes.folder.name}"]["says"].startswith(f"{boxes.label}: {len(boxes.manifest)} images")
    assert done["issue"].startswith("```text\n")


@pytest.mark.usefixtures("quick")
def test_what_fails_is_told_with_what_to_do_and_gives_exit_code_1(homes: Path) -> None:
    done = flbench("doctor", "--data", homes / "nowhere", "--study", homes / "study", code=1)
    assert "next: make or import one, or check the path" in done.stdout
    assert done.stdout.rstrip().endswith("```")
    assert "error: failed: data set nowhere (each line above says what to do next)" in done.stderr
    assert str(homes) not in done.stdout
    as_json = flbench("doctor", "--data", homes / "nowhere", "--study", homes / "study", "--json", code=1)
    assert json.loads(as_json.stdout)["rows"]


@pytest.mark.usefixtures("quick")
def test_a_warning_is_no_failure(homes: Path) -> None:
    rows = examine(study=homes / "study")
    (device,) = (row for row in rows if row.part == "device" and row.status == "warning")
    assert device.says == "cuda:0 y is there and cannot be used: RuntimeError: no kernel image"
    assert device.advice
    assert not [row for row in rows if row.status == "failed"]
    flbench("doctor", "--study", homes / "study")


def test_devices_are_named_in_the_order_of_auto_and_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "Made GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "_tried", lambda torch, device: "" if device == "cuda:0" else "no kernel")
    devices = doctor.look_at_machine("torch")["devices"]
    first, second, third = devices
    assert (first, third) == ("cuda:0 Made GPU", "mps")
    assert second.startswith("cpu ")
    assert list(devices.values()) == ["", "", "no kernel"]


def test_a_device_that_cannot_compute_says_why() -> None:
    import torch

    assert doctor._tried(torch, "cpu") == ""
    assert doctor._tried(torch, "no such device").startswith("RuntimeError")


def test_plugins_that_misbehave_are_told_as_such_and_disturb_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in PLUGINS.items():
        (tmp_path / f"plugin_{name}.py").write_text(text + CLASS)
        info = tmp_path / f"dist_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[flbench.methods]\n{name} = plugin_{name}:Plugin\n")
    maker = "[flbench.datasets]\nhalf = plugin_fine\n[flbench.methods]\nfine = plugin_fine:Plugin\n"
    (tmp_path / "dist_fine-1.0.dist-info" / "entry_points.txt").write_text(maker)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = [Plugin(METHOD_GROUP, name, f"dist-{name} 1.0") for name in PLUGINS]
    found.append(Plugin(DATASET_GROUP, "half", "dist-fine 1.0"))
    rows = by_part(list(doctor.plugins(found, PATIENCE)))
    said = {part: f"{row.status}: {row.says}" for part, row in rows.items()}
    assert said == {
        "method crashes": "failed: crashes the process: SIGSEGV (dist-crashes 1.0)",
        "method leaves": "failed: ends the process with code 0 (dist-leaves 1.0)",
        "method exits": "failed: calls sys.exit('no licence') (dist-exits 1.0)",
        "method raises": "failed: method raises cannot be loaded: ModuleNotFoundError: "
        "No module named 'no_such_library' (dist-raises 1.0)",
        "method prints": "warning: loads (dist-prints 1.0), and prints: Welcome!",
        "method fine": "ok: loads (dist-fine 1.0)",
        "data set half": "failed: has no PROFILES, recipe, estimate, make, datasheet (dist-fine 1.0)",
    }
    assert rows["method crashes"].advice == "mend it, or: pip uninstall dist-crashes"


def test_an_own_plugin_that_does_not_load_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe", lambda items, *_, **__: [Seen(items[0]), Seen(items[1], failure="broken")])
    found = [Plugin(METHOD_GROUP, name, "flbench 0.1.0") for name in ("one", "two")]
    rows = list(doctor.plugins(found, PATIENCE))
    assert [(row.part, row.status) for row in rows] == [("plugins", "ok"), ("method two", "failed")]
    assert rows[0].says == "1 of 2 of flbench's own load"


@pytest.mark.usefixtures("quick")
def test_the_data_sets_of_the_cache_folder_are_looked_at(homes: Path, boxes: Dataset) -> None:
    cached = homes / "cache" / "datasets"
    for name in ("whole", "lacking", "damaged"):
        shutil.copytree(boxes.folder, cached / name)
    gone = cached / "lacking" / boxes.manifest["image"][3]
    gone.unlink()
    (cached / "damaged" / "dataset.toml").write_text("name = ")
    (cached / "begun.partial").mkdir()
    (cached / ".hidden").mkdir()
    rows = by_part(examine(study=homes / "study"))
    found = {part.removeprefix("data set "): row for part, row in rows.items() if part.startswith("data set ")}
    assert {part: row.status for part, row in found.items()} == {
        "whole": "ok",
        "lacking": "failed",
        "damaged": "failed",
        "begun.partial": "warning",
    }
    assert found["lacking"].says.endswith(f"such as {boxes.manifest['image'][3]}")
    assert found["lacking"].advice.startswith("flbench data check --data ~/cache/datasets/lacking")
    assert "is not valid TOML" in found["damaged"].says


@pytest.mark.usefixtures("quick")
def test_folders_that_cannot_be_written_are_failures(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (homes / "file").write_text("in the way")
    monkeypatch.setenv("FLBENCH_HOME", str(homes / "file" / "cache"))
    rows = by_part(examine(study=homes / "file"))
    assert rows["cache folder"].status == rows["study"].status == "failed"
    assert rows["cache folder"].says.startswith("~/file/cache (FLBENCH_HOME) cannot be written")


@pytest.mark.usefixtures("quick")
def test_little_space_is_a_warning(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 62)
    assert by_part(examine(study=homes / "study"))["cache folder"].status == "warning"
    assert not (homes / "cache").exists(), "an examination changes nothing"


@pytest.mark.usefixtures("quick")
def test_damaged_records_are_told_and_stay_where_they_are(homes: Path) -> None:
    record = homes / "study" / "cells" / "a-cell" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    row = by_part(examine(study=homes / "study"))["study"]
    assert row.status == "warning"
    assert row.says.startswith("1 of 1 records in ~/study cannot be read, such as a-cell: ")
    assert record.read_text() == "{"


def test_without_torch_the_plugins_are_not_tried(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe", lambda items, *_, **__: [Seen(item, failure="hangs") for item in items])
    rows = by_part(examine(study=homes / "study"))
    assert rows["torch"].status == "failed"
    assert rows["plugins"].says == "not loaded: each needs torch"


def test_packages_that_are_missing_or_old_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=2.6", "no-such-package>=1.5", "click", 'onnx>=99; extra == "onnx"', 'ruff>=99; extra == "dev"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    rows = by_part(list(doctor.packages()))
    assert rows["packages"].status == "failed"
    assert rows["packages"].says == "no-such-package is missing, needed is 1.5"
    assert rows["packages"].advice == "pip install --upgrade 'no-such-package>=1.5'"
    assert "ruff" not in str(rows)
    if doctor._version("onnx"):
        assert rows["extra onnx"].status == "warning"


@pytest.mark.parametrize(
    ("version", "least", "below"),
    [
        ("", "1", True),
        ("2.6.0+cpu", "2.6", False),
        ("2.6", "2.6.0", False),
        ("2.10", "2.9", False),
        ("2.5.9", "2.6", True),
        ("3.0rc1", "3.0", False),
    ],
)
def test_versions_are_compared_by_number(version: str, least: str, below: bool) -> None:
    assert doctor._below(version, least) is below


@pytest.mark.usefixtures("homes")
def test_a_step_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    def broken() -> list[Row]:
        raise AttributeError("module 'numpy' has no attribute 'x'")

    monkeypatch.setattr(doctor, "self_test", broken)
    rows = by_part(examine())
    assert rows["metrics"].says == "AttributeError: module 'numpy' has no attribute 'x'"
    assert rows["cache folder"].status == "ok"
    assert "plugins" in rows


def test_a_wrong_metric_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flbench.selftest.wrong_answers", lambda: (["mae of x for y is 2, by hand 1"], 50))
    (row,) = doctor.self_test()
    assert (row.status, row.says) == ("failed", "1 of 50 known answers are wrong: mae of x for y is 2, by hand 1")


def test_the_block_names_no_home_and_cannot_be_broken_out_of(homes: Path) -> None:
    user = os.environ.get("USER", "nobody")
    evil = f"{homes}/x\n```\n# not a heading of /scratch/{user}/y /home/somebody/z"
    block = issue_block([Row(part="method evil", status="failed", says=evil)])
    first, line, last = block.split("\n")
    assert (first, last) == ("```text", "```")
    assert "`" not in line
    assert str(homes) not in line
    assert "somebody" not in line
    assert "USER" not in os.environ or f"/scratch/{user}" not in line
