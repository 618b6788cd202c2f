"""The check finds each planted fault and nothing else; the contact sheet draws what there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flbench.data.dataset import COLUMNS, About, Dataset, read_dataset, write_dataset
from flbench.data.fakeness import fakeness_map
from flbench.data.images import read_image
from flbench.data.importers import import_pairs
from flbench.data.inspection import Finding, check_dataset, contact_sheet
from flbench.errors import UsageError
from flbench.files import file_digest

SIZE = 16
SPLITS = ("train", "train", "valid", "test", "test")


def save(path: Path, pixels: np.ndarray, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return file_digest(path)


@pytest.fixture
def clean(tmp_path: Path) -> Dataset:
    """Five photos and their fakes with parsing maps and masks, nothing wrong with them."""
    rows = []
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng(number)
        photo = rng.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
        fake = photo.copy()
        fake[:6] += 50
        base = dict.fromkeys(COLUMNS, "") | {"identity": f"p{number}", "split": split, "database": "d"}
        files = {kind: f"{kind}/{number}.png" for kind in ("real", "fake", "parsing", "mask")}
        digests = [save(tmp_path / files[kind], image) for kind, image in (("real", photo), ("fake", fake))]
        classes = np.full((SIZE, SIZE), 1, np.uint8)
        classes[:6] = 13
        save(tmp_path / files["parsing"], classes)
        save(tmp_path / files["mask"], (fakeness_map(photo, fake) * 255).round().astype(np.uint8))
        real = {"sample_id": f"r{number}", "image": files["real"], "label": "real", "sha256": digests[0]}
        rows.append(base | real | {"parsing": files["parsing"]})
        kind = {"generator": "stgan", "attribute": "bald", "source": f"r{number}", "mask": files["mask"]}
        rows.append(
            base | {"sample_id": f"f{number}", "image": files["fake"], "label": "fake", "sha256": digests[1]} | kind
        )
    about = About(name="tiny", version="1", title="Tiny", licence="CC0", size=SIZE, mask_polarity="fake_is_white")
    return write_dataset(tmp_path, about, pd.DataFrame(rows))


def changed(dataset: Dataset, sample: str, **values: str) -> Dataset:
    rows = dataset.manifest.copy()
    for column, value in values.items():
        rows.loc[rows["sample_id"] == sample, column] = value
    return Dataset(dataset.folder, dataset.about, rows)


def redrawn(dataset: Dataset, sample: str, pixels: np.ndarray, **options: Any) -> Dataset:
    path = dataset.path(dataset.manifest.set_index("sample_id").loc[sample, "image"])
    return changed(dataset, sample, sha256=save(path, pixels, **options))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_a_clean_data_set_has_no_findings_and_progress_reaches_the_end(clean: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    assert check_dataset(clean, progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]


def test_findings_do_not_depend_on_threads(clean: Dataset) -> None:
    for number in (0, 2, 4):
        clean.path(f"fake/{number}.png").write_bytes(b"")
    one, four = (check_dataset(clean, threads=threads) for threads in (1, 4))
    assert one == four
    assert [finding.where for finding in one] == ["f0", "f2", "f4"]


@pytest.mark.parametrize("file", ["real/1.png", "fake/1.png", "parsing/1.png", "mask/1.png"])
def test_fault_30_missing_files(clean: Dataset, file: str) -> None:
    clean.path(file).unlink()
    where = "r1" if file[0] in "rp" else "f1"
    assert only(check_dataset(clean)) == Finding("missing", where, f"{file} does not exist")


@pytest.mark.parametrize("file", ["real/1.png", "fake/1.png", "parsing/1.png", "mask/1.png"])
def test_faults_15_to_18_unreadable_files(clean: Dataset, file: str) -> None:
    clean.path(file).write_bytes(b"<svg/>")
    finding = only(check_dataset(clean))
    assert finding.kind == "unreadable"
    assert finding.message.startswith(f"{file}: not an image")


def test_fault_31_sizes_that_do_not_match(clean: Dataset) -> None:
    save(clean.path("mask/1.png"), np.full((8, 9), 200, np.uint8))
    save(clean.path("parsing/2.png"), np.ones((8, 9), np.uint8))
    first, second = check_dataset(clean)
    assert first == Finding("size mismatch", "f1", "mask mask/1.png is 9x8, its image fake/1.png is 16x16")
    assert second == Finding("size mismatch", "r2", "parsing parsing/2.png is 9x8, its image real/2.png is 16x16")


def test_a_fake_of_another_size_than_its_photo(clean: Dataset) -> None:
    odd = redrawn(changed(clean, "f3", mask=""), "f3", np.zeros((SIZE, 20, 3), np.uint8))
    message = "fake/3.png is 20x16, its photo real/3.png is 16x16"
    assert only(check_dataset(odd)) == Finding("size mismatch", "f3", message)


def test_fault_38_equal_contents_name_both_and_their_splits(clean: Dataset) -> None:
    shutil.copyfile(clean.path("real/0.png"), clean.path("real/4.png"))
    twin = changed(clean, "r4", sha256=file_digest(clean.path("real/4.png")))
    found = [finding for finding in check_dataset(twin) if finding.kind == "duplicate content"]
    message = "real/4.png (split test) has the content of real/0.png of r0 (split train)"
    assert only(found) == Finding("duplicate content", "r4", message)


def test_a_fake_that_is_its_photo(clean: Dataset) -> None:
    same = redrawn(changed(clean, "f0", mask=""), "f0", read_image(clean.path("real/0.png")))
    message = "fake/0.png has the pixels of its photo real/0.png"
    assert only(check_dataset(same)) == Finding("unchanged fake", "f0", message)


def test_an_identity_in_two_splits(clean: Dataset) -> None:
    leaking = changed(changed(clean, "r4", identity="p0"), "f4", identity="p0")
    finding = only(check_dataset(leaking))
    assert (finding.kind, finding.where) == ("identity leak", "f0")
    assert "identity 'p0' is in train (f0: fake/0.png) and in test (f4: fake/4.png)" in finding.message


def test_a_fake_that_shows_another_person_than_its_photo(clean: Dataset) -> None:
    finding = only(check_dataset(changed(clean, "f0", identity="p1")))
    assert finding.kind == "identity leak"
    assert finding.message == "fake/0.png shows 'p1', its photo real/0.png 'p0', in the same split"


@pytest.mark.parametrize("polarity", ["fake_is_white", "fake_is_black"])
def test_masks_against_the_declared_polarity(clean: Dataset, polarity: str) -> None:
    wrong = [1, 3] if polarity == "fake_is_white" else [0, 2, 4]
    for number in (1, 3):
        path = clean.path(f"mask/{number}.png")
        save(path, 255 - np.asarray(Image.open(path)))
    about = clean.about.model_copy(update={"mask_polarity": polarity})
    findings = check_dataset(Dataset(clean.folder, about, clean.manifest))
    assert [(finding.kind, finding.where) for finding in findings] == [("mask polarity", f"f{n}") for n in wrong]
    assert f"mask/{wrong[0]}.png" in findings[0].message


def test_masks_without_a_declared_polarity(clean: Dataset) -> None:
    about = clean.about.model_copy(update={"mask_polarity": ""})
    finding = only(check_dataset(Dataset(clean.folder, about, clean.manifest)))
    assert (finding.kind, finding.where) == ("mask polarity", "tiny")


@pytest.mark.parametrize(("value", "words"), [(0, "is all zero"), (1, "has no value above 1")])
def test_faults_32_and_33_masks_that_say_nothing(clean: Dataset, value: int, words: str) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:6] = value
    save(clean.path("mask/2.png"), mask)
    assert only(check_dataset(clean)) == Finding(
        "mask values", "f2", f"mask/2.png {words}{', where 255 is white' if value else ''}"
    )


def test_classes_that_no_one_knows(clean: Dataset) -> None:
    save(clean.path("parsing/1.png"), np.full((SIZE, SIZE), 19, np.uint8))
    message = "parsing/1.png has class 19; known are 0 to 18"
    assert only(check_dataset(clean)) == Finding("parsing classes", "r1", message)


def test_fault_40_an_image_that_changed_since_the_import(clean: Dataset) -> None:
    path = clean.path("real/2.png")
    save(path, read_image(path), optimize=False, compress_level=0)
    message = "real/2.png is not what was imported"
    assert only(check_dataset(clean)) == Finding("changed file", "r2", message)


def test_fault_26_an_exif_orientation_is_told(clean: Dataset) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = redrawn(clean, "r2", read_image(clean.path("real/2.png")), exif=exif)
    finding = only(check_dataset(turned))
    assert (finding.kind, finding.where) == ("orientation", "r2")
    assert "real/2.png has EXIF orientation 8" in finding.message


def test_empty_categories(clean: Dataset) -> None:
    about = clean.about.model_copy(update={"categories": ("stgan/bald", "attgan/smile")})
    rows = clean.manifest[clean.manifest["sample_id"] != "f2"].reset_index(drop=True)
    findings = check_dataset(Dataset(clean.folder, about, rows))
    assert findings == [
        Finding("empty category", "attgan/smile", "declared in dataset.toml, but has no fakes"),
        Finding("empty category", "stgan/bald", "no fakes in valid"),
    ]


def test_fault_36_names_that_differ_by_case(clean: Dataset) -> None:
    shutil.copytree(clean.path("real"), clean.path("REAL"))
    finding = only(check_dataset(changed(clean, "f0", image="REAL/0.png", sha256="", source="", mask="mask/0.png"))[:1])
    assert finding == Finding("case clash", "f0", "REAL/0.png and real/0.png differ by case only")


def test_the_sheet_is_a_png_of_every_category_and_always_the_same(clean: Dataset, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        contact_sheet(clean, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    contact_sheet(clean, tmp_path / "one.png", rows=1)
    two, one = (Image.open(tmp_path / name) for name in ("a.png", "one.png"))
    assert two.width == one.width == 1060
    assert two.height - one.height == 172
    assert len(np.unique(np.asarray(two.convert("L")))) > 50
    assert not list(tmp_path.glob(".*"))


def test_the_sheet_survives_what_cannot_be_read(clean: Dataset, tmp_path: Path) -> None:
    contact_sheet(clean, tmp_path / "whole.png")
    for number in range(5):
        clean.path(f"fake/{number}.png").write_bytes(b"")
    contact_sheet(clean, tmp_path / "broken.png")
    whole, broken = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("whole.png", "broken.png"))
    assert whole.shape == broken.shape
    assert (broken == 255).mean() > (whole == 255).mean() + 0.2


def test_a_sheet_of_nothing_is_refused(clean: Dataset, tmp_path: Path) -> None:
    reals = clean.manifest[clean.manifest["label"] == "real"].reset_index(drop=True)
    with pytest.raises(UsageError, match="no fakes to draw"):
        contact_sheet(Dataset(clean.folder, clean.about, reals), tmp_path / "x.png")


def test_signs_in_names_are_drawn_as_they_are(clean: Dataset, tmp_path: Path) -> None:
    about = clean.about.model_copy(update={"licence": "cost $x_{$ \\frac", "name": "tiny"})
    odd = changed(clean, "f3", sample_id="f$^3$$")
    contact_sheet(Dataset(odd.folder, about, odd.manifest), tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size[0] == 1060


def test_real_pairs_are_clean_and_drawn(tmp_path: Path) -> None:
    root = os.environ.get("FLBENCH_REAL_DATA")
    if not root:
        pytest.skip("FLBENCH_REAL_DATA is not set: no real pairs to check")
    stargan = Path(root) / "stargan128"
    for folder in ("real", "brown_hair"):
        (tmp_path / folder).mkdir()
        for path in sorted((stargan / folder).glob("*.png"))[:60]:
            (tmp_path / folder / path.name).symlink_to(path)
    import_pairs(
        real=tmp_path / "real",
        fake=tmp_path / "brown_hair",
        generator="stargan",
        attribute="brown_hair",
        database="celeba",
        into=tmp_path / "data",
    )
    dataset = read_dataset(tmp_path / "data")
    assert check_dataset(dataset) == []
    contact_sheet(dataset, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[0] == 1060
