"""Importing pairs: what is paired, split, refused and left out, and that a failure leaves the data set as it was."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flbench.data import importers
from flbench.data.dataset import SPLITS, leaks, read_dataset, write_dataset
from flbench.data.importers import Report, import_pairs, import_photos
from flbench.data.people import split_of
from flbench.errors import DataError, FlbenchError, RunError, UsageError
from flbench.files import file_digest


def draw(folder: Path, names: list[str], seed: int, shape: tuple[int, ...] = (8, 8, 3), suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng([seed, number]).integers(0, 19, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")
    return folder


NAMES = [f"{number:03d}" for number in range(20)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw(tmp_path / "real", NAMES, 0)
    draw(tmp_path / "bald", NAMES, 1)
    draw(tmp_path / "smile", NAMES[5:], 2)
    return tmp_path


def imported(source: Path, attribute: str = "bald", into: str = "data", **options: Any) -> Report:
    folders = {"real": source / "real", "fake": source / attribute} | options
    named = {"generator": "stargan", "attribute": attribute, "database": "celeba"} | folders
    return import_pairs(into=source / into, **named)


def test_pairs_become_rows_and_files(source: Path) -> None:
    report = imported(source, licence="CC0")
    assert report == Report(20, 20, [], [])
    dataset = read_dataset(source / "data")
    assert (dataset.about.name, dataset.about.version, dataset.about.size) == ("data", "1", 8)
    assert (dataset.about.licence, dataset.about.database, dataset.about.publishable) == ("CC0", "celeba", False)
    rows = dataset.manifest.set_index("sample_id")
    fake = rows.loc["stargan/bald/celeba/007"]
    assert (fake["source"], fake["generator"], fake["attribute"]) == ("celeba/007", "stargan", "bald")
    for sample, original in (("celeba/007", "real"), ("stargan/bald/celeba/007", "bald")):
        path = source / original / "007.png"
        assert dataset.path(rows.loc[sample, "image"]).read_bytes() == path.read_bytes()
        assert rows.loc[sample, "sha256"] == file_digest(path)
        assert not dataset.path(rows.loc[sample, "image"]).is_symlink()
    assert rows.loc["celeba/007", "identity"] == fake["identity"] == "celeba/007"
    assert (rows["split"] == [split_of(identity) for identity in rows["identity"]]).all()


def test_a_second_category_reuses_photos_and_splits(source: Path) -> None:
    imported(source)
    report = imported(source, "smile")
    assert (report.added_real, report.added_fake) == (0, 15)
    assert report.skipped == [(f"{name}.png", "no fake has its name") for name in NAMES[:5]]
    dataset = read_dataset(source / "data")
    assert dataset.about.version == "2"
    assert dataset.counts.sum(axis=1).to_dict() == {"stargan/bald": 20, "stargan/smile": 15, "real": 20}
    assert dataset.manifest.groupby("identity")["split"].nunique().max() == 1
    assert leaks(dataset.manifest) == []


def test_the_order_of_imports_does_not_matter(source: Path) -> None:
    for attribute in ("bald", "smile"):
        imported(source, attribute, "one")
    for attribute in ("smile", "bald"):
        imported(source, attribute, "two")
    one, two = (read_dataset(source / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.manifest, two.manifest)
    assert one.fingerprint == two.fingerprint


def test_a_known_identity_keeps_its_split_whatever_the_seed(source: Path) -> None:
    imported(source, "smile")
    before = read_dataset(source / "data").manifest.set_index("sample_id")["split"]
    imported(source, seed=99, fractions=(0.2, 0.2, 0.6))
    after = read_dataset(source / "data").manifest.set_index("sample_id")
    assert (after.loc[before.index, "split"] == before).all()
    assert after.groupby("identity")["split"].nunique().max() == 1


@settings(max_examples=50)
@given(identity=st.text(st.characters(codec="utf-8")), seed=st.integers())
def test_a_split_is_a_function_of_seed_and_identity(identity: str, seed: int) -> None:
    assert split_of(identity, seed=seed) == split_of(identity, seed=seed)
    for number, split in enumerate(SPLITS):
        fractions = tuple(float(number == place) for place in range(3))
        assert split_of(identity, seed=seed, fractions=fractions) == split


def test_splits_have_the_asked_shares() -> None:
    found = [split_of(f"p{number}", fractions=(0.5, 0.2, 0.3), seed=4) for number in range(4000)]
    shares = [found.count(split) / 4000 for split in SPLITS]
    np.testing.assert_allclose(shares, (0.5, 0.2, 0.3), atol=0.03)
    assert found != [split_of(f"p{number}", fractions=(0.5, 0.2, 0.3), seed=5) for number in range(4000)]


def test_a_category_that_is_there_is_refused_or_replaced(source: Path) -> None:
    imported(source)
    old = read_dataset(source / "data")
    with pytest.raises(UsageError, match=r"stargan/bald of celeba is in .* already \(20 fakes\) \(--replace"):
        imported(source)
    pd.testing.assert_frame_equal(read_dataset(source / "data").manifest, old.manifest)
    draw(source / "bald", NAMES, 7)
    report = imported(source, replace=True)
    assert (report.added_real, report.added_fake) == (0, 20)
    dataset = read_dataset(source / "data")
    fakes = dataset.manifest[dataset.manifest["label"] == "fake"]
    assert len(fakes) == 20
    assert all(file_digest(dataset.path(row.image)) == row.sha256 for row in fakes.itertuples())
    images = list((source / "data" / "images").rglob("*.png"))
    assert len(images) == 40  # the old fakes are gone
    # The category of another database is another one.
    assert imported(source, database="ffhq").added_fake == 20


def test_another_photo_of_the_same_name_is_left_out(source: Path) -> None:
    imported(source, "smile")
    draw(source / "real", NAMES[6:7], 50)
    report = imported(source)
    assert report.added_fake == 19
    assert report.skipped == [("006.png", "another photo is in the data set as celeba/006")]


def test_unreadable_images_are_left_out_with_the_reason(source: Path) -> None:
    (source / "real" / "000.png").write_bytes(b"")
    content = (source / "bald" / "001.png").read_bytes()
    (source / "bald" / "001.png").write_bytes(content[:40])
    report = imported(source)
    assert (report.added_real, report.added_fake) == (19, 18)
    reasons = dict(report.skipped)
    assert reasons["000.png"] == "0 bytes"
    assert reasons["001.png"]


def test_sizes_are_declared_by_the_majority_and_differences_are_told(source: Path) -> None:
    draw(source / "real", NAMES[:3], 3, (12, 16, 3))
    report = imported(source)
    assert report.added_fake == 20
    assert [name for name, _ in report.warnings] == ["000.png", "001.png", "002.png"]
    assert "the fake is 8x8, its photo 16x12" in report.warnings[0][1]
    assert read_dataset(source / "data").about.size == 8


def test_parsing_maps_come_along_also_later(source: Path) -> None:
    draw(source / "maps", NAMES[:10], 4, (8, 8))
    draw(source / "colours", NAMES, 4)
    draw(source / "large", NAMES, 4, (9, 8))
    first = imported(source, parsing=source / "colours", fake_parsing=source / "large")
    assert len(first.warnings) == 40
    assert "parsing map left out" in first.warnings[0][1]
    assert "the parsing map is 8x9, its image 8x8" in first.warnings[-1][1]
    dataset = read_dataset(source / "data")
    assert (dataset.manifest.loc[dataset.manifest["label"] == "real", "parsing"] == "").all()
    imported(source, "smile", parsing=source / "maps")
    rows = read_dataset(source / "data").manifest.set_index("sample_id")
    assert rows.loc["celeba/006", "parsing"] == "parsing/celeba/real/006.png"
    assert (source / "data" / rows.loc["celeba/006", "parsing"]).read_bytes() == (source / "maps/006.png").read_bytes()
    assert rows.loc["celeba/012", "parsing"] == ""
    assert rows.loc["stargan/bald/celeba/006", "parsing"] == "parsing/celeba/stargan/bald/006.png"


def test_identities_from_a_table(source: Path) -> None:
    lines = ["\ufeffimage,identity"] + [f"{name}.png,person {int(name) // 4}" for name in NAMES[:-1]]
    (source / "people.csv").write_text("\r\n".join(lines))
    report = imported(source, identities=source / "people.csv")
    assert report.skipped == [("019.png", "the table of identities does not name it")]
    rows = read_dataset(source / "data").manifest
    assert rows["identity"].nunique() == 5
    assert rows.groupby("identity")["split"].nunique().max() == 1
    assert rows.set_index("sample_id").loc["celeba/007", "identity"] == "celeba/person 1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image;identity\n", "needs the columns image and identity"),
        ("image,identity\n1.png,a\n1.jpg,b\n", "line 3: '1.jpg' has two identities"),
        ("image,identity\n1.png,\n", "line 2: image or identity is empty"),
        ("image,identity\n1.png\n", "line 2: image or identity is empty"),
    ],
)
def test_tables_of_identities_that_cannot_be(source: Path, text: str, words: str) -> None:
    (source / "people.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        imported(source, identities=source / "people.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        imported(source, identities=source / "none.csv")


def test_entire_fakes_have_no_photo(source: Path) -> None:
    draw(source / "entire", ["a", "b", "c"], 8)
    report = imported(source, "entire")
    assert (report.added_real, report.added_fake) == (20, 3)
    rows = read_dataset(source / "data").manifest.set_index("sample_id")
    fake = rows.loc["stargan/entire/celeba/a"]
    assert fake["source"] == ""
    assert fake["identity"] not in set(rows.loc[rows["label"] == "real", "identity"])


def test_photos_alone(source: Path) -> None:
    assert import_photos(real=source / "real", database="celeba", into=source / "data") == Report(20, 0, [], [])
    assert read_dataset(source / "data").categories() == []
    assert imported(source)[:2] == (0, 20)
    (source / "empty").mkdir()
    with pytest.raises(UsageError, match="has no images"):
        import_photos(real=source / "empty", database="celeba", into=source / "data")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fake": "nowhere"}, "the folder of fake images .*nowhere does not exist"),
        ({"real": "nowhere"}, "the folder of real images .*nowhere does not exist"),
        ({"parsing": "nowhere"}, "the folder of parsing images .*nowhere does not exist"),
        ({"fake": "others"}, "no image of .*others has the name of one of .*real"),
        ({"generator": "a/b"}, "generator cannot be called 'a/b'"),
        ({"generator": "real"}, "generator cannot be called 'real'"),
        ({"database": ""}, "database cannot be called ''"),
        ({"fractions": (0.5, 0.2, 0.2)}, "must add up to 1"),
        ({"fractions": (1.5, -0.5, 0.0)}, "must add up to 1"),
    ],
)
def test_usage_errors_say_what_is_wrong_and_make_nothing(source: Path, options: dict[str, Any], words: str) -> None:
    draw(source / "others", ["x"], 3)
    folders = {key: source / value for key, value in options.items() if key in ("real", "fake", "parsing")}
    with pytest.raises(UsageError, match=words):
        imported(source, **(options | folders))
    assert not (source / "data").exists()


def test_nothing_readable_is_a_data_error(source: Path) -> None:
    for path in (source / "bald").iterdir():
        path.write_bytes(b"text")
    with pytest.raises(DataError, match=r"nothing of .*bald could be imported: 000\.png: not an image"):
        imported(source)


def test_importing_from_the_data_set_itself_is_refused(source: Path) -> None:
    imported(source)
    with pytest.raises(UsageError, match="inside the data set"):
        imported(source, "smile", real=source / "data" / "images" / "celeba" / "real")


def test_a_data_set_made_by_a_recipe_takes_no_imports(source: Path) -> None:
    imported(source)
    dataset = read_dataset(source / "data")
    write_dataset(dataset.folder, dataset.about.model_copy(update={"recipe": "abc"}), dataset.manifest)
    with pytest.raises(UsageError, match="made by a recipe"):
        imported(source, "smile")


def test_fault_36_names_in_any_script_are_paired_and_bad_bytes_left_out(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "Zoë 😀")
    draw(tmp_path / "real", [composed, "A", "a"], 0)
    draw(tmp_path / "bald", [unicodedata.normalize("NFD", composed), "A", "a"], 1)
    for folder in ("real", "bald"):
        bad = os.fsencode(tmp_path / folder) + b"/\xff.png"
        shutil.copyfile(tmp_path / folder / "A.png", bad)
        shutil.copyfile(tmp_path / folder / "A.png", tmp_path / folder / "b\x1b[31m.png")
    report = imported(tmp_path)
    assert report.added_fake == 3
    assert len(report.skipped) == 4
    assert all("not UTF-8" in reason for _, reason in report.skipped)
    assert all(name.encode("utf-8") for name, _ in report.skipped)
    samples = set(read_dataset(tmp_path / "data").manifest["sample_id"])
    assert samples >= {f"celeba/{composed}", "celeba/A", "celeba/a"}


def test_two_files_of_one_name_are_ambiguous(source: Path) -> None:
    draw(source / "real", ["003"], 0, suffix=".jpg")
    with pytest.raises(UsageError, match=r"both 003\.jpg and 003\.png"):
        imported(source)


def test_other_files_and_links_are_no_trouble(source: Path) -> None:
    (source / "real" / "readme.txt").write_text("hello")
    (source / "real" / ".hidden.png").write_bytes(b"x")
    (source / "real" / "folder.png").mkdir()
    (source / "bald" / "000.png").rename(source / "elsewhere.png")
    (source / "bald" / "000.png").symlink_to(source / "elsewhere.png")
    assert imported(source) == Report(20, 20, [], [])
    assert not (source / "data/images/celeba/stargan/bald/000.png").is_symlink()
    read_dataset(source / "data")


def test_hard_links_share_bytes_and_are_never_written_through(source: Path) -> None:
    imported(source, link="hard")
    inside = source / "data/images/celeba/stargan/bald/000.png"
    assert inside.samefile(source / "bald" / "000.png")
    before = inside.read_bytes()
    (source / "data" / "manifest.parquet").unlink()  # as if the import had been killed before its end
    (source / "data" / "dataset.toml").unlink()
    draw(source / "new", NAMES, 9)
    imported(source, fake=source / "new")
    assert (source / "bald" / "000.png").read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("copies", [0, 7])
def test_a_kill_in_the_middle_leaves_the_old_data_set(
    source: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, replace: bool, copies: int
) -> None:
    imported(source)
    old = read_dataset(source / "data")
    draw(source / "bald", NAMES, 7)
    copy: Callable[..., Any] = shutil.copyfile
    done = []

    def failing(*paths: Path) -> None:
        if len(done) == copies:
            raise error
        done.append(copy(*paths))

    monkeypatch.setattr(importers.shutil, "copyfile", failing)
    attribute = "bald" if replace else "smile"
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else RunError):
        imported(source, attribute, replace=replace)
    monkeypatch.undo()
    now = read_dataset(source / "data")
    pd.testing.assert_frame_equal(now.manifest, old.manifest)
    assert now.about == old.about
    assert all(file_digest(now.path(row.image)) == row.sha256 for row in now.manifest.itertuples())
    assert imported(source, attribute, replace=replace).added_fake == (20 if replace else 15)
    again = read_dataset(source / "data")
    assert all(file_digest(again.path(row.image)) == row.sha256 for row in again.manifest.itertuples())


def test_a_full_disk_is_told_in_one_line(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(paths[1]))

    monkeypatch.setattr(importers.shutil, "copyfile", full)
    with pytest.raises(RunError, match="disk full"):
        imported(source)


def test_two_imports_at_once_are_refused(source: Path) -> None:
    imported(source)
    with (
        FileLock(source / "data" / ".import.lock"),
        pytest.raises(RunError, match=r"another import into .* is running"),
    ):
        imported(source, "smile")
    assert imported(source, "smile").added_fake == 15


def test_progress_counts_every_image(source: Path) -> None:
    seen: list[tuple[int, int]] = []
    imported(source, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 40) for number in range(1, 41)]


def test_an_attribute_without_region_is_told(source: Path) -> None:
    (source / "bald").rename(source / "halo")
    assert imported(source, "halo").warnings == [("halo", "no region is defined for this attribute")]


def test_real_stargan_pairs(tmp_path: Path) -> None:
    root = os.environ.get("FLBENCH_REAL_DATA")
    if not root:
        pytest.skip("FLBENCH_REAL_DATA is not set: no real pairs to import")
    stargan = Path(root) / "stargan128"
    for folder in ("real", "blond_hair", "young"):
        (tmp_path / folder).mkdir()
        for path in sorted((stargan / folder).glob("*.png"))[:40]:
            (tmp_path / folder / path.name).symlink_to(path)
    try:
        for folder, attribute in (("blond_hair", "blond_hair"), ("young", "age")):
            report = imported(tmp_path, attribute, fake=tmp_path / folder)
            assert (report.added_fake, report.skipped, report.warnings) == (40, [], [])
    except FlbenchError as error:
        pytest.fail(str(error))
    dataset = read_dataset(tmp_path / "data")
    assert dataset.about.size == 128
    assert leaks(dataset.manifest) == []
    assert dataset.counts.loc["real"].sum() == 40
