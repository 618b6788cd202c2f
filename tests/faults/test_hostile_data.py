"""A data set that a stranger made to do harm, through the command: told in one line or as rows, in bounded memory."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from builders import flbench, run_units_here
from ledger import Observed, error_of
from PIL import Image

from flbench.data.dataset import Dataset
from flbench.record import Record
from flbench.reporting import figures
from flbench.study import Study

MIB = 1 << 10
"""In the unit of `ru_maxrss` on Linux."""


def bomb(side: int) -> bytes:
    """Return a PNG of a few bytes that says it is a square of so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.fault("a data set of decompression bombs", "fakes are PNGs of 50,000 x 50,000, photos of 6,300 x 6,300")
def test_bombs_are_rows_in_bounded_memory(
    boxes: Dataset, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(boxes.folder, tmp_path / "bombs"))
    tested = boxes.manifest[
        (boxes.manifest["split"] == "test") & (boxes.manifest["attribute"].isin(["", "blond_hair"]))
    ]
    whole = tmp_path / "whole.png"
    Image.new("RGB", (6300, 6300)).save(whole)  # just below the limit: it is decoded, and black
    for row in tested.itertuples():
        if row.label == "fake":
            (folder / row.image).write_bytes(bomb(50_000))
    for path in tested.loc[tested["label"] == "real", "image"].iloc[:3]:
        shutil.copy(whole, folder / path)
    run_units_here(monkeypatch)
    monkeypatch.setattr(figures, "draw_cell_figures", lambda gallery, folder, title: None)
    words = [
        "run",
        "-m",
        "highpass",
        "-p",
        "in_gan",
        "--data",
        folder,
        "--study",
        tmp_path / "s",
        "--threads",
        1,
        "--json",
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = flbench(*words, code=4)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    records = [Record.model_validate(record) for record in json.loads(done.stdout)]
    (record,) = (record for record in records if not record.method.reference)
    observed(record.reason, 4, cases=len(tested))
    assert record.status == "partial"
    scores = Study(tmp_path / "s").scores(record.cell)
    bad = scores[scores["status"] != "ok"]
    assert set(bad["label"]) == {"fake"}
    assert bad["reason"].str.contains("too_large").all()
    assert len(bad) == (tested["label"] == "fake").sum()
    assert grown < 1024 * MIB, "several images of 40 million pixels are not held at once"


DEEP = "[" * 100_000
LONG = "".join(f'key{number} = "{number}"\n' for number in range(50_000))


@pytest.mark.fault(
    "a TOML file made to do harm", "brackets in brackets, 50,000 keys, a number of 10,000 digits, a bomb"
)
@pytest.mark.parametrize("text", [f"x = {DEEP}", LONG, "size = " + "7" * 10_000, "a" * 1_000_000, "\x00"])
@pytest.mark.parametrize("what", ["data set", "protocol"])
def test_a_toml_file_is_refused_in_one_line(
    boxes: Dataset, tmp_path: Path, observed: Observed, what: str, text: str
) -> None:
    folder = Path(shutil.copytree(boxes.folder, tmp_path / "data", ignore=lambda folder, names: {"images", "parsing"}))
    protocol = tmp_path / "p.toml"
    protocol.write_text((Path(__file__).parents[2] / "protocols" / "in_gan.toml").read_text())
    (folder / "dataset.toml" if what == "data set" else protocol).write_text(text)
    words = ["run", "-m", "highpass", "-p", protocol, "--data", folder, "--study", tmp_path / "s"]
    done = flbench(*words, code=3 if what == "data set" else 2)
    observed(done)
    assert len(error_of(done.stderr)) < 2500
    assert "dataset.toml" in done.stderr or "p.toml" in done.stderr
