"""The same question gives the same bits, whatever else is asked, in which order, and in which surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import flbench, run_units_here

from flbench.data.dataset import Dataset
from flbench.record import Record
from flbench.reporting.reproduction import hold_against
from flbench.study import SCORES, Study

METHODS = ("-m", "noise_residual,highpass", "--set", "window=9", "--max-steps", "3", "--threads", "1")
BOTH = ("in_gan", "cross_attribute")


def asked(data: Dataset, study: Path, *protocols: str) -> list[str]:
    return ["run", *METHODS, "-p", ",".join(protocols), "--data", str(data.folder), "--study", str(study), "--json"]


def bits(study: Path) -> dict[str, tuple[str, bytes]]:
    """Return the digest and the per-image scores of every cell."""
    folder = Study(study)
    return {r.cell: (r.digest, (folder.cell_folder(r.cell) / SCORES).read_bytes()) for r in folder.records()}


@pytest.fixture(scope="module")
def plain(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both protocols in one command."""
    study = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        run_units_here(patch)
        flbench(*asked(boxes, study, *BOTH))
    return study


@pytest.mark.parametrize("orders", [[("cross_attribute", "in_gan")], [("cross_attribute",), ("in_gan",)]])
def test_the_order_of_protocols_changes_no_bit(
    plain: Path, boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: list[tuple[str, ...]]
) -> None:
    run_units_here(monkeypatch)
    for protocols in orders:
        flbench(*asked(boxes, tmp_path, *protocols))
    assert bits(tmp_path) == bits(plain)
    assert len(bits(plain)) == 2 * (2 + 4)


def test_surroundings_change_no_bit(plain: Path, boxes: Dataset, tmp_path: Path) -> None:
    """Hash seed, locale, time zone, the folder and a process of its own: all others than those of this process."""
    seed = "4242" if os.environ.get("PYTHONHASHSEED") != "4242" else "1"
    surroundings = {"PYTHONHASHSEED": seed, "LC_ALL": "C", "LANG": "C", "TZ": "XYZ-14"}
    study = tmp_path / "a folder, élsewhere"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flbench", *asked(boxes, study, *BOTH)],
        capture_output=True,
        check=False,
        env=os.environ | surroundings,
    )
    assert done.returncode == 0, done.stderr
    assert bits(study) == bits(plain)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_size_of_batches_moves_values_by_a_millionth_at_most(
    plain: Path, boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    run_units_here(monkeypatch)
    flbench(*asked(boxes, tmp_path, *BOTH), "--batch", batch)
    before, after = ({r.cell: r for r in Study(study).records()} for study in (plain, tmp_path))
    assert before.keys() == after.keys()
    for cell, record in before.items():
        assert (record.provenance["batch"], after[cell].provenance["batch"]) == (16, batch)
        hold_close(record, after[cell], plain, tmp_path)


def hold_close(record: Record, again: Record, there: Path, here: Path) -> None:
    """Hold that the values of metrics are within a millionth, and every image's within ten.

    Of a single image those count that follow its map steadily: what is above a threshold goes in steps.
    """
    scores = (Study(study).scores(record.cell).drop(columns="false_alarm") for study in (there, here))
    found = hold_against(record, again, tolerance=1e-6)
    assert found.reproduced, found.summary
    found = hold_against(record, again, *scores, tolerance=1e-5)
    (each,) = (line for line in found.lines if line.what == "scores of each image")
    assert each.verdict in ("equal", "within"), each
