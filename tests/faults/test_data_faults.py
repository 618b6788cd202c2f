"""Data sets that do not hold together: told with the line or as a row, never scored as if all were well."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import flbench
from click.testing import Result
from ledger import Observed, error_of
from PIL import Image
from small_run import short_run

from flbench.data.dataset import Dataset, read_dataset, write_dataset
from flbench.files import file_digest
from flbench.protocol import METRICS
from flbench.record import Record
from flbench.study import SCORES, Study

pytestmark = pytest.mark.usefixtures("here")
SIDE = 32


def run(data: Dataset, study: Path, code: int = 0, method: str = "highpass", *more: object) -> tuple[Result, Record]:
    """Run a training-free method, and return its record."""
    words = short_run(data, study.parent)[3:7]
    done = flbench("run", "-m", method, *words, "--threads", 1, "--study", study, *more, code=code)
    return done, Study(study).records()[-1]


def rows_of(study: Path, record: Record) -> pd.DataFrame:
    table = pd.read_parquet(study / "cells" / record.cell / SCORES)
    return table[table["condition"] == "clean"].set_index("sample_id")


def masked(data: Dataset, mask: Image.Image, name: str = "mask.png", **options: object) -> Dataset:
    """Give every fake of the data set the same mask."""
    (data.folder / "masks").mkdir(exist_ok=True)
    mask.save(data.folder / "masks" / name, **options)
    fakes = data.manifest["label"] == "fake"
    rows = data.manifest.assign(mask=data.manifest["mask"].where(~fakes, f"masks/{name}"))
    return write_dataset(data.folder, data.about.model_copy(update={"mask_polarity": "fake_is_white"}), rows)


@pytest.mark.fault(30, "an image, its photo, or its mask is missing")
@pytest.mark.parametrize("what", ["image", "photo", "mask"])
def test_30_a_missing_file(data: Dataset, victim: Path, tmp_path: Path, what: str, observed: Observed) -> None:
    if what == "mask":
        data = masked(data, Image.new("L", (SIDE, SIDE), 255))
        (data.folder / "masks" / "mask.png").unlink()
    else:
        (victim if what == "image" else victim.with_name(victim.name.split("-")[0] + ".png")).unlink()
    done, record = run(data, tmp_path / "s", 4)
    rows = rows_of(tmp_path / "s", record)
    missing = rows[rows["status"] != "ok"]
    assert set(missing["status"]) == {"unreadable"}
    assert missing["reason"].str.endswith(": missing").all()
    assert len(missing) == {"image": 1, "photo": 2, "mask": 4}[what], "a photo counts itself and for its fake"
    observed(f"unreadable: {missing['reason'].iloc[0]}; {record.reason}; not ranked", done.exit_code)
    assert record.status == "partial"
    assert f"{2 * len(missing)} of 16 images failed" in record.reason
    assert "partial highpass: " in done.stdout, "below the table, where nobody takes it for ranked"
    assert not [line for line in done.stdout.splitlines() if line.strip().startswith("1 ")]
    assert "does not exist" in flbench("data", "check", "--data", data.folder, "--json", code=3).stdout


@pytest.mark.fault(31, "a mask of another size than its image")
def test_31_a_mask_of_another_size(data: Dataset, tmp_path: Path, observed: Observed) -> None:
    data = masked(data, Image.new("L", (SIDE, SIDE - 1), 255))
    done, record = run(data, tmp_path / "s", 4)
    rows = rows_of(tmp_path / "s", record)
    bad = rows[rows["status"] != "ok"]
    observed(f"{bad['reason'].iloc[0]}; {record.reason}", done.exit_code)
    assert set(bad["status"]) == {"mask_mismatch"}
    assert set(bad["label"]) == {"fake"}
    assert set(bad["reason"]) == {"mask_mismatch: mask 32x31, image 32x32"}
    assert rows[rows["label"] == "real"]["status"].eq("ok").all()


@pytest.mark.fault(32, "masks that are not black and white: JPEG, gray, and 0 and 1 where 255 is white")
@pytest.mark.parametrize("form", ["jpeg", "gray", "ones"])
def test_32_masks_that_are_not_binary(data: Dataset, tmp_path: Path, form: str, observed: Observed) -> None:
    half = np.zeros((SIDE, SIDE), np.uint8)
    half[np.indices((SIDE, SIDE)).sum(0) % 5 < 2] = 255
    pixels = {"jpeg": half, "gray": np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE), "ones": half // 255}[form]
    mask = Image.fromarray(pixels.astype(np.uint8))
    data = masked(
        data, mask, "mask.jpg" if form == "jpeg" else "mask.png", **({"quality": 30} if form == "jpeg" else {})
    )
    done = flbench("data", "check", "--data", data.folder, "--json", code=3)
    if form == "ones":
        found = {one["message"] for one in json.loads(done.stdout) if one["kind"] == "mask values"}
        assert found == {"masks/mask.png has no value above 1, where 255 is white"}
        observed(found.pop(), done.exit_code)
    else:
        (note,) = (line for line in done.stderr.splitlines() if line.startswith("note:"))
        observed(note, done.exit_code)
        assert note.startswith("note: 12 of 12 masks are not black and white, ")
        assert "for F1, IoU and AUROC as fake from 0.1" in note
    _, record = run(data, tmp_path / "s")
    assert rows_of(tmp_path / "s", record)["status"].eq("ok").all()


@pytest.mark.fault(33, "masks without a white pixel: what asks for one has no value, neither 0 nor 1")
def test_33_empty_masks(data: Dataset, tmp_path: Path, observed: Observed) -> None:
    data = masked(data, Image.new("L", (SIDE, SIDE), 0))
    done, record = run(data, tmp_path / "s")
    metrics = record.results[0].metrics
    assert metrics["coss"].undefined == 0
    protocol = tmp_path / "short.toml"
    text = protocol.read_text().replace('["coss", "mae"]', json.dumps(["coss", "mae", "pixel_auroc", "pixel_ap"]))
    protocol.write_text(text.replace("version = 1", "version = 2"))
    done = flbench(
        "run", "-m", "highpass", "-p", protocol, "--data", data.folder, "--threads", 1, "--study", tmp_path / "t"
    )
    (record,) = Study(tmp_path / "t").records()
    for name in ("pixel_auroc", "pixel_ap"):
        value = record.results[0].metrics[name]
        assert (value.value, value.undefined, value.failed) == (None, 4, 0), name
        assert METRICS[name]
    line = next(line for line in done.stdout.splitlines() if "highpass" in line and "–" in line)
    observed(f"– for Pixel AUROC and Pixel AP: {value.undefined} images without a value", done.exit_code)
    assert line.count("–") >= 2


Change = Callable[[str], str | bytes]
HEAD = 1
"""Lines before the first row of a manifest."""


def as_csv(data: Dataset, change: Change) -> Path:
    """Turn the manifest into a CSV file, changed."""
    (data.folder / "manifest.parquet").unlink()
    text = data.manifest.to_csv(index=False, lineterminator="\n")
    changed = change(text)
    path = data.folder / "manifest.csv"
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    return path


def line(text: str, number: int, change: Callable[[list[str]], list[str]]) -> str:
    """Change the fields of one line."""
    lines = text.split("\n")
    lines[number - 1] = ",".join(change(lines[number - 1].split(",")))
    return "\n".join(lines)


def put(column: int, value: str) -> Callable[[list[str]], list[str]]:
    return lambda fields: [*fields[:column], value, *fields[column + 1 :]]


def refused(data: Dataset, tmp_path: Path, code: int = 2) -> Result:
    """Hold that no command takes the data set, and that nothing is begun."""
    done = flbench("data", "show", "--data", data.folder, code=code)
    words = short_run(data, tmp_path)[3:7]
    said = flbench("run", "-m", "highpass", *words, "--study", tmp_path / "s", code=code)
    assert error_of(said.stderr) == error_of(done.stderr)
    assert not (tmp_path / "s").exists()
    return done


@pytest.mark.fault(34, "an identifier given twice")
def test_34_an_identifier_given_twice(data: Dataset, tmp_path: Path, observed: Observed) -> None:
    as_csv(data, lambda text: line(text, 7, put(0, text.split("\n")[3].split(",")[0])))
    done = refused(data, tmp_path)
    observed(done)
    assert "sample_id 'p001' is given twice: manifest.csv, line 4 and manifest.csv, line 7" in done.stderr


@pytest.mark.fault(35, "paths that lead outside of the data set: .., absolute, a drive, backslashes, a link, NUL")
@pytest.mark.parametrize(
    "path",
    ["../../x.png", "/etc/passwd", "a/../../x.png", "C:/x.png", "..\\x.png", "a\0.png", "link"],
    ids=["up", "absolute", "dots", "drive", "backslash", "nul", "link"],
)
@pytest.mark.parametrize("column", [1, 9, 10], ids=["image", "parsing", "mask"])
def test_35_a_path_that_leads_outside_the_folder(
    data: Dataset, tmp_path: Path, path: str, column: int, observed: Observed
) -> None:
    if path == "link":
        (tmp_path / "outside.png").write_bytes(b"x")
        (data.folder / "inside.png").symlink_to(tmp_path / "outside.png")
        path = "inside.png"
    as_csv(data, lambda text: line(text, 5, put(column, path)))
    done = refused(data, tmp_path)
    observed(done)
    assert "manifest.csv, line 5: " in done.stderr


@pytest.mark.fault(36, "names that differ by case, emoji, other scripts: they work; text that is not UTF-8: the line")
@pytest.mark.parametrize("names", ["case", "scripts", "latin-1"])
def test_36_odd_names(data: Dataset, victim: Path, tmp_path: Path, names: str, observed: Observed) -> None:
    if names == "latin-1":
        as_csv(data, lambda text: text.replace("p003", "pü003").encode("latin-1"))
        done = refused(data, tmp_path)
        observed(done)
        assert "(not UTF-8)" in done.stderr
        assert "manifest.csv, line 8" in done.stderr
        return
    stem = "P004-BLOND_HAIR" if names == "case" else "😀字Ä"
    other = victim.with_name(f"{stem}.png")
    shutil.copy(victim, other)
    as_csv(data, lambda text: text.replace("p010-blond_hair", stem))
    renamed = victim.with_name("p010-blond_hair.png")
    if renamed.exists():
        renamed.unlink()
    done, record = run(data, tmp_path / "s")
    rows = rows_of(tmp_path / "s", record)
    assert stem in rows.index
    assert rows["status"].eq("ok").all()
    said = flbench("data", "check", "--data", data.folder, "--json", code=3).stdout
    if names == "case":
        assert "images/P004-BLOND_HAIR.png and images/p004-blond_hair.png differ by case only" in said
    observed(f"{stem} is a name like any other", done.exit_code)


@pytest.mark.fault(37, "a data set of no image: an empty manifest, and an empty file")
@pytest.mark.parametrize("form", ["rows", "file"])
def test_37_an_empty_data_set(data: Dataset, tmp_path: Path, form: str, observed: Observed) -> None:
    as_csv(data, lambda text: text.split("\n")[0] + "\n" if form == "rows" else "")
    done = refused(data, tmp_path)
    observed(done)
    assert ("the data set has 0 images" if form == "rows" else "manifest.csv: Empty CSV file") in done.stderr
    assert "100" not in done.output


@pytest.mark.fault(38, "the same image in the training and in the test split")
def test_38_train_and_test_overlap(data: Dataset, victim: Path, tmp_path: Path, observed: Observed) -> None:
    train = data.path(data.manifest.query("split == 'train' and label == 'fake'")["image"].iloc[0])
    shutil.copy(train, victim)
    digest = file_digest(victim)
    rows = data.manifest.assign(
        sha256=data.manifest["sha256"].where(data.manifest["image"] != f"images/{victim.name}", digest)
    )
    data = write_dataset(data.folder, data.about, rows)
    study = tmp_path / "s"
    done = flbench(*short_run(data, tmp_path), "--study", study)
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("warning: ") and "leak" in line)
    observed(warning, done.exit_code)
    assert f"the same image content (sha256 {digest[:12]}) is in train and test" in warning
    flbench("publish", "--study", study, "--into", tmp_path / "boards")
    (board,) = (tmp_path / "boards").glob("*/short.md")
    assert "is in train and test" in board.read_text()
    found = json.loads(flbench("data", "check", "--data", data.folder, "--json", code=3).stdout)
    assert "duplicate content" in {one["kind"] for one in found}


@pytest.mark.fault(39, "a byte order mark and CRLF: they work; a line with a field too many or too few, JSON: the line")
@pytest.mark.parametrize("form", ["bom", "many", "few", "json", "quote"])
def test_39_lines_that_are_not_right(data: Dataset, tmp_path: Path, form: str, observed: Observed) -> None:
    changes: dict[str, Change] = {
        "bom": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        "many": lambda text: line(text, 6, lambda fields: [*fields, "x"]),
        "few": lambda text: line(text, 6, lambda fields: fields[:-1]),
        "json": lambda text: line(text, 6, lambda fields: ['{"sample_id": 1}']),
        "quote": lambda text: line(text, 6, put(2, '"real')),
    }
    as_csv(data, changes[form])
    if form == "bom":
        assert read_dataset(data.folder).fingerprint == data.fingerprint
        done = flbench("data", "show", "--data", data.folder)
        observed("nothing: it is the same data set", done.exit_code)
        return
    done = refused(data, tmp_path)
    observed(done)
    assert "manifest.csv, line " in done.stderr
    if form != "quote":
        assert "manifest.csv, line 6: " in done.stderr


@pytest.mark.fault(40, "the manifest, or an image, changes after the run")
@pytest.mark.parametrize("what", ["manifest", "image"])
def test_40_a_data_set_that_changed_since_the_run(
    data: Dataset, victim: Path, tmp_path: Path, what: str, observed: Observed
) -> None:
    study = tmp_path / "s"
    _, before = run(data, study)
    if what == "image":
        Image.new("RGB", (SIDE, SIDE), "gray").save(victim)
        done = flbench("data", "check", "--data", data.folder, "--json", code=3)
        observed(next(f["message"] for f in json.loads(done.stdout) if f["kind"] == "changed file"), done.exit_code)
        assert f"images/{victim.name} is not what was imported" in done.stdout
        return
    changed = write_dataset(data.folder, data.about, data.manifest.iloc[:-1])
    (cell,) = json.loads(flbench("list", "cells", "--study", study, "--json").stdout)["cells"]
    observed(f"{cell['status']}: {cell['reason']}")
    assert cell["cell"] == before.cell
    assert cell["status"] == "stale"
    assert f"fingerprint {data.fingerprint[:12]} then, {changed.fingerprint[:12]} now" in cell["reason"]
    done, _ = run(changed, study)
    assert "note: stale: 1 record measured on another state of boxes: " in done.stderr
    records = Study(study).records()
    assert len({record.cell for record in records}) == len(records) == 2, "it is run anew, and the old one is kept"
    assert before in records
    said = flbench(
        "reproduce", before.cell, "--study", study, "--data", data.folder, "-p", tmp_path / "short.toml", code=2
    )
    assert "the record was measured on another data set: fingerprint " in said.stderr
    published = flbench("publish", "--study", study, "--into", tmp_path / "boards")
    assert "note: stale: 1 record measured on another state of boxes: " in published.stderr
    text = "".join(board.read_text() for board in sorted((tmp_path / "boards").glob("**/*.md")))
    for fingerprint in (data.fingerprint, changed.fingerprint):
        assert fingerprint[:8] in text, "boards tell the two apart"


MOST = 2 * 2**30
"""Bytes that a command may need for a million rows: about 700 MB were measured."""


@pytest.mark.fault(41, "a manifest of a million rows, within 2 GiB of memory")
def test_41_a_million_rows(data: Dataset, tmp_path: Path, observed: Observed) -> None:
    def rows() -> object:
        yield ",".join(data.manifest.columns) + "\n"
        for i in range(500_000):
            split = ("train", "valid", "test")[i % 3]
            yield f"r{i},images/r{i}.png,real,,,,db,p{i},{split},,,\n"
            yield f"f{i},images/f{i}.png,fake,r{i},stgan,blond_hair,db,p{i},{split},,,\n"

    (data.folder / "manifest.parquet").unlink()
    with (data.folder / "manifest.csv").open("w") as file:
        file.writelines(rows())  # type: ignore[arg-type]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MOST, MOST))

    done = subprocess.run(
        [sys.executable, "-P", "-m", "flbench", "data", "show", "--data", str(data.folder)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    observed("stgan/blond_hair 166667 166667 166666", done.returncode)
    counted = next(one.split() for one in done.stdout.splitlines() if one.startswith("stgan/blond_hair"))
    assert [int(number) for number in counted[1:]] == [166_667, 166_667, 166_666]
