"""Decoded pictures on disk: what counts as kept, and that nothing which happens to the files changes an answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import make_dataset

from flbench import store
from flbench.data.batches import Frames
from flbench.data.dataset import Dataset
from flbench.errors import DataError
from flbench.store import PixelStore, limit, size_of, stores


class Source:
    """Files and what is made of them; counts how often."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.files = [folder / f"{number}.bin" for number in range(count)]
        for number, path in enumerate(self.files):
            path.write_bytes(bytes([number]) * 12)
        self.made = 0

    def item(self, number: int) -> np.ndarray:
        self.made += 1
        return np.frombuffer(self.files[number].read_bytes(), np.uint8).reshape(2, 6)

    def get(self, kept: PixelStore, number: int) -> np.ndarray:
        return kept.get(number, [self.files[number]], lambda: self.item(number))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def opened(folder: Path, count: int = 4, name: str = "a") -> PixelStore:
    return PixelStore({"name": name}, count, (2, 6), folder=folder / "kept")


def test_an_item_is_made_once_for_all_processes(source: Source, tmp_path: Path) -> None:
    for kept in (opened(tmp_path), opened(tmp_path)):  # the second opens the files anew, as another process would
        for number in (2, 0, 2):
            np.testing.assert_array_equal(source.get(kept, number), np.full((2, 6), number, np.uint8))
    assert source.made == 2
    with pytest.raises(ValueError, match="read-only"):
        source.get(opened(tmp_path), 0)[:] = 1


def test_a_file_that_changed_is_read_again(source: Source, tmp_path: Path) -> None:
    kept = opened(tmp_path)
    source.get(kept, 1)
    source.files[1].write_bytes(b"x" * 12)
    assert (source.get(kept, 1) == ord("x")).all()
    os.utime(source.files[1], ns=(0, 1))
    assert (source.get(opened(tmp_path), 1) == ord("x")).all()
    assert source.made == 3


def test_stores_of_other_things_are_others(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.get(opened(tmp_path), 1)
    for other in (opened(tmp_path, name="b"), opened(tmp_path, count=5)):
        source.get(other, 1)
    monkeypatch.setattr(store, "RULES", store.RULES + 1)
    source.get(opened(tmp_path), 1)
    assert source.made == 4
    assert len(stores(tmp_path / "kept")) == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "marks", "gone"])
def test_damage_is_noticed_and_mended(source: Source, tmp_path: Path, damage: str) -> None:
    kept = opened(tmp_path)
    source.get(kept, 3)
    pixels, marks = kept.folder / "pixels", kept.folder / "marks"
    data = bytearray(pixels.read_bytes())
    if damage == "flip":
        data[3 * 12 + 5] ^= 1
        pixels.write_bytes(data)
    elif damage == "cut":
        pixels.write_bytes(data[: 3 * 12 + 5])
    elif damage == "marks":
        marks.write_bytes(b"\0" * 3)
    else:
        shutil.rmtree(kept.folder)
    for _ in range(2):
        assert (source.get(opened(tmp_path), 3) == 3).all()
    assert source.made == 2


def test_what_cannot_be_made_is_raised_and_not_kept(source: Source, tmp_path: Path) -> None:
    kept = opened(tmp_path)

    def broken() -> np.ndarray:
        raise DataError("damaged")

    with pytest.raises(DataError):
        kept.get(0, [source.files[0]], broken)
    assert (source.get(kept, 0) == 0).all()
    source.files[2].unlink()
    with pytest.raises(FileNotFoundError):
        source.get(kept, 2)


def test_another_shape_is_returned_and_not_kept(source: Source, tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for _ in range(2):
        assert kept.get(0, [source.files[0]], lambda: np.zeros((3, 3), np.uint8)).shape == (3, 3)
    assert (source.get(kept, 0) == 0).all()


def test_a_store_that_others_filled_and_that_cannot_be_written_is_read(source: Source, tmp_path: Path) -> None:
    source.get(opened(tmp_path), 1)
    kept = opened(tmp_path)
    kept._writable = False
    source.get(kept, 1)
    assert source.made == 1
    for _ in range(2):
        source.get(kept, 2)
    assert source.made == 3


def test_a_full_disk_costs_speed_only(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = opened(tmp_path)
    source.get(kept, 0)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert (source.get(kept, 1) == 1).all()
    assert (source.get(kept, 0) == 0).all()
    assert source.made == 3


@pytest.mark.parametrize("reason", ["no room allowed", "no space", "no folder"])
def test_without_a_store_everything_is_as_it_was(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "no room allowed":
        monkeypatch.setenv("FLBENCH_PIXELS", "0")
    elif reason == "no space":
        monkeypatch.setattr(store, "LEAST_FREE", 1 << 60)
    else:
        (tmp_path / "kept").write_text("a file")
    kept = opened(tmp_path)
    for _ in range(2):
        assert (source.get(kept, 1) == 1).all()
    assert source.made == 2


def test_the_store_longest_unused_makes_room(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate("ab"):
        kept = opened(tmp_path, name=name)
        source.get(kept, 0)
        os.utime(kept.folder, (age, age))
    taken = size_of(kept.folder)
    monkeypatch.setenv("FLBENCH_PIXELS", str((taken + 4 * 12) / (1 << 30)))
    newest = opened(tmp_path, name="c")
    source.get(newest, 0)
    assert set(stores(tmp_path / "kept")) == {kept.folder, newest.folder}


@pytest.mark.parametrize(
    ("said", "gigabytes"), [("", 32), ("0", 0), ("1.5", 1.5), ("-1", 0), ("many", 32), ("inf", 32)]
)
def test_the_limit_is_the_users(monkeypatch: pytest.MonkeyPatch, said: str, gigabytes: float) -> None:
    monkeypatch.setenv("FLBENCH_PIXELS", said)
    assert limit() == gigabytes * (1 << 30)


def test_processes_that_fill_one_store_at_once_agree(tmp_path: Path) -> None:
    script = f"""
import numpy as np, pathlib, sys
from flbench.store import PixelStore
root = pathlib.Path({str(tmp_path)!r})
kept = PixelStore({{}}, 300, (64, 64), folder=root / "kept")
file = root / "file"
for number in np.random.default_rng(int(sys.argv[1])).permutation(300):
    found = kept.get(int(number), [file], lambda: np.full((64, 64), number % 251, np.uint8))
    assert (found == number % 251).all(), number
"""
    (tmp_path / "file").write_text("x")
    running = [subprocess.Popen([sys.executable, "-c", script, str(seed)]) for seed in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    made: list[int] = []
    kept = PixelStore({}, 300, (64, 64), folder=tmp_path / "kept")
    for number in range(300):
        kept.get(number, [tmp_path / "file"], lambda n=number: made.append(n) or np.zeros((64, 64), np.uint8))  # type: ignore[misc]
    assert not made


def test_frames_say_the_same_with_a_store_and_decode_nothing_again(
    boxes: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLBENCH_HOME", str(tmp_path))
    plain = Frames(boxes, size=24, region="parsing")
    samples = boxes.manifest["sample_id"].tolist()
    for turn in range(2):
        kept = Frames(boxes, size=24, region="parsing", on_disk=True)
        if turn:
            for name in ("read_image", "read_parsing"):
                monkeypatch.setattr(f"flbench.data.batches.{name}", None)
        for sample in samples:
            for one, two in zip(kept.example(sample), plain.example(sample), strict=True):
                np.testing.assert_array_equal(one, two)  # type: ignore[arg-type]
        assert len(kept._decoded) == 0
        if not turn:
            plain = Frames(boxes, size=24, region="parsing")
            for sample in samples:
                plain.example(sample)


def test_masks_are_kept_as_they_are_and_turned_by_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLBENCH_HOME", str(tmp_path / "home"))
    dataset = make_dataset(tmp_path / "d")
    rows = dataset.manifest.copy()
    fake = rows.index[rows["label"] == "fake"][0]
    name = rows.loc[fake, "sample_id"]
    from PIL import Image

    mask = (np.random.default_rng(0).random((32, 32)) * 255).astype(np.uint8)
    Image.fromarray(mask).save(dataset.folder / "mask.png")
    rows.loc[fake, "mask"] = "mask.png"
    for polarity in ("fake_is_white", "fake_is_black"):
        about = dataset.about.model_copy(update={"mask_polarity": polarity})
        with_mask = Dataset(dataset.folder, about, rows)
        expected = Frames(with_mask, size=20).truth(name)
        for _ in range(2):
            np.testing.assert_array_equal(Frames(with_mask, size=20, on_disk=True).truth(name), expected)
