"""The report on a data set: its numbers against hand-made images and others' formulas, its words, its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import binary_dilation
from sklearn.metrics import roc_auc_score

from flbench.cli import main
from flbench.data.dataset import COLUMNS, About, Dataset, write_dataset
from flbench.data.fakeness import fakeness_map
from flbench.errors import UsageError
from flbench.reporting.data_report import report_markdown, report_tables, verdicts
from flbench.synthetic import figures
from flbench.synthetic.classifier import load_classifier
from flbench.synthetic.faces import ATTRIBUTES
from flbench.synthetic.knowledge import Knowledge, knowledge_of
from flbench.synthetic.profiles import DATABASE, PROFILES, RECIPE_VERSION
from flbench.synthetic.report import Report, Strength, report_dataset
from flbench.synthetic.traces import (
    FINGERPRINTS,
    Bound,
    frame_level,
    mean_power,
    power_level,
    residual,
    separation,
)

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def made(boxes: Dataset) -> Report:
    return report_dataset(boxes)


def category(report: Report, name: str) -> dict:
    return next(row for row in report.document["categories"] if row["category"] == name)


def noise(seed: int, *shape: int, level: float = 6) -> np.ndarray:
    grains = np.random.default_rng(seed).normal(128, level, shape)
    return np.repeat(grains.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize("attribute", ["blond_hair", "smile"])
def test_means_ratios_and_shares_are_those_of_the_pixels(boxes: Dataset, made: Report, attribute: str) -> None:
    """Reference: Eq. 4 written out, the class numbers of hair and lips, and one mean over all pixels."""
    rows = boxes.manifest
    inside, outside, away, every = [], [], [], []
    for row in rows[rows["attribute"] == attribute].to_dict("records"):
        photo = np.asarray(Image.open(boxes.path(f"images/{row['source']}.png")), float)
        fake = np.asarray(Image.open(boxes.path(row["image"])), float)
        classes = np.asarray(Image.open(boxes.path(f"parsing/{row['source']}.png")))
        fakeness = np.abs(photo - fake) @ LUMA / 255
        region = np.isin(classes, [13] if attribute.endswith("hair") else [10, 11, 12])
        inside.append(fakeness[region])
        outside.append(fakeness[~region])
        away.append(fakeness[~binary_dilation(region, np.ones((5, 5), bool))])  # 32 / 16 pixels in each direction
        every.append(fakeness.ravel())
    found = category(made, f"stgan/{attribute}")
    means = [np.concatenate(values).mean() for values in (inside, outside, away)]
    assert [found["inside"], found["outside"], found["away"]] == pytest.approx(means, abs=1e-4)
    assert found["ratio"] == pytest.approx(means[0] / means[1], rel=1e-3)
    assert found["mean"] == pytest.approx(np.concatenate(every).mean(), abs=1e-4)
    assert found["above"] == pytest.approx((np.concatenate(every) > 0.1).mean(), abs=1e-4)
    assert found["present"] == pytest.approx((np.concatenate(every) > 0).mean(), abs=1e-4)
    assert found["n"] == found["measured"] == 24
    assert found["ratio_holds"]


def test_what_only_the_maker_knows_is_left_out_for_others(made: Report) -> None:
    assert made.document["generators"][0]["upsampling"] == "tconv"
    for row in made.document["categories"]:
        assert row["agreement"] is row["agreement_holds"] is row["ideal"] is row["sources"] is None
    titles = [table.title for table in report_tables(made.document)]
    assert "Where the difference is" in titles
    assert "Edits look like their name" not in titles


def test_fewer_images_are_the_same_people_in_every_category(boxes: Dataset) -> None:
    some = report_dataset(boxes, limit=3)
    assert [row["measured"] for row in some.document["categories"]] == [3, 3, 3, 3]
    assert [row["n"] for row in some.document["categories"]] == [24] * 4
    photos = [[sample.photo.tobytes() for sample in samples] for samples in some.samples.values()]
    assert len(photos[0]) == 3
    assert all(shown == photos[0] for shown in photos)


def test_photos_of_another_database_stand_beside_no_fake(boxes: Dataset, made: Report) -> None:
    elsewhere = boxes.manifest["sample_id"].eq(
        boxes.manifest.loc[boxes.manifest["label"] == "real", "sample_id"].iloc[0]
    )
    guest = boxes.manifest[elsewhere].assign(sample_id="guest", identity="guest", database="elsewhere")
    dataset = Dataset(boxes.folder, boxes.about, pd.concat([boxes.manifest, guest], ignore_index=True))
    assert report_dataset(dataset).document["photos"] == made.document["photos"]


def test_a_uniform_map_has_the_ratio_one() -> None:
    strength, region = Strength(), np.zeros((32, 32), bool)
    assert strength.means() == {"inside": None, "outside": None, "away": None, "ratio": None}
    region[:4] = True
    strength.add(np.full((32, 32), 0.25, np.float32), region)
    assert strength.means() == {"inside": 0.25, "outside": 0.25, "away": 0.25, "ratio": 1}
    strength.add(np.ones((32, 32), np.float32), np.ones((32, 32), bool))
    assert strength.means()["inside"] == pytest.approx((0.25 * 128 + 1024) / 1152)
    assert strength.means()["outside"] == 0.25


def test_a_data_set_without_fakes_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(noise(0, 32, 32)).save(tmp_path / "images" / "a.png")
    row = dict.fromkeys(COLUMNS, "") | {"sample_id": "a", "image": "images/a.png", "label": "real", "identity": "a"}
    about = About(name="photos", version="1", title="Photos", licence="CC0-1.0", size=32)
    dataset = write_dataset(tmp_path, about, pd.DataFrame([row | {"split": "test"}]))
    with pytest.raises(UsageError, match="no fakes"):
        report_dataset(dataset)


def test_lost_noise_shows_as_residual_power(tmp_path: Path) -> None:
    """Fakes that are photos without their noise, in a folder of one's own: one number tells them apart, and is told."""
    rows = []
    (tmp_path / "images").mkdir()
    for person in range(6):
        base = dict.fromkeys(COLUMNS, "") | {"identity": f"p{person}", "split": "test"}
        for name, image in ((f"p{person}", noise(person, 32, 32)), (f"p{person}f", noise(person, 32, 32, level=1))):
            Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
            rows.append(base | {"sample_id": name, "image": f"images/{name}.png", "label": "real"})
        rows[-1] |= {"label": "fake", "source": f"p{person}", "generator": "some", "attribute": "pale_skin"}
    about = About(name="own", version="1", title="Own", licence="CC0-1.0", size=32)
    found = report_dataset(write_dataset(tmp_path, about, pd.DataFrame(rows))).document
    told = found["generators"][0]["numbers"]["power"]
    assert told["auroc"] == 1
    assert not told["holds"]
    assert told["photos"] - told["fakes"] == pytest.approx(20 * np.log10(6), abs=1.5)
    assert found["generators"][0]["holds"] is None, "an unknown generator has no fingerprint to keep to"
    assert found["categories"][0]["inside"] is None, "there is no parsing map"
    word = next(verdict.word for verdict in verdicts(found) if verdict.text.startswith("single numbers"))
    assert word.startswith("does not hold, ")


def test_the_residual_is_what_a_median_removes() -> None:
    image = noise(1, 24, 24)
    luma = image.astype(float) @ LUMA
    middle = np.median([np.roll(luma, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=0)
    np.testing.assert_allclose(residual(image)[1:-1, 1:-1], (luma - middle)[1:-1, 1:-1], atol=1e-3)
    assert power_level(np.full((8, 8), 3.0)) == pytest.approx(20 * np.log10(3))
    assert power_level(np.zeros((8, 8))) == -30


def test_a_spectrum_keeps_the_power() -> None:
    """Parseval: the mean of the spectrum is the mean squared residual; a checkerboard is in the corner."""
    images = [noise(seed, 32, 32) for seed in range(3)]
    squares = [np.square(residual(image).astype(float)).mean() for image in images]
    assert mean_power(images).mean() == pytest.approx(np.mean(squares), rel=1e-5)
    board = np.full((32, 32, 3), 100, np.uint8) + (np.indices((32, 32)).sum(0) % 2 * 40).astype(np.uint8)[..., None]
    power = mean_power([board])
    assert np.unravel_index(power.argmax(), power.shape) == (0, 0)


def test_a_frame_is_compared_with_the_ring_inside_it() -> None:
    values = np.full((40, 30), 2.0)
    assert frame_level(values) == 0
    values[:2], values[-2:], values[:, :2], values[:, -2:] = 20, 20, 20, 20
    values[10:-10, 10:-10] = 1e6  # further inside than it looks
    assert frame_level(values) == pytest.approx(10)
    assert frame_level(np.zeros((40, 30))) == 0


@pytest.mark.parametrize("shift", [-1.0, 0.3, 2.0])
def test_a_single_number_is_judged_as_by_scikit_learn(shift: float) -> None:
    rng = np.random.default_rng(3)
    photos, fakes = rng.normal(0, 1, 60).round(1), rng.normal(shift, 1, 40).round(1)
    expected = roc_auc_score([0] * 60 + [1] * 40, [*photos, *fakes])
    told = separation(photos.tolist(), fakes.tolist())
    assert told.auroc == pytest.approx(max(expected, 1 - expected))
    assert told.photos == pytest.approx(photos.mean())
    assert told.fakes == pytest.approx(fakes.mean())


def test_nothing_to_compare_is_not_a_verdict() -> None:
    assert separation([], [1.0]) == (None, 1.0, None)
    assert separation([1.0, 1.0], [1.0]).auroc == 0.5


def test_a_bound_holds_from_its_level_on() -> None:
    assert Bound("1/2,0", least=5).holds({"1/2,0": 5.0})
    assert not Bound("1/2,0", least=5).holds({"1/2,0": 4.9})
    assert not Bound("1/2,0", most=3).holds({"1/2,0": 3.0})
    assert str(Bound("1/2,0", most=3)) == "< 3 dB at (1/2,0)"
    grid, axes = {"1/2,0": 14.0, "1/2,1/2": 14.0}, {"1/2,0": 8.0, "1/2,1/2": 1.0}
    keeps = {
        name: [all(b.holds(peaks) for b in bounds) for peaks in (grid, axes)] for name, bounds in FINGERPRINTS.items()
    }
    assert keeps == {
        "tconv": [True, False],
        "nearest": [False, True],
        "nearest+blur": [False, True],
    }


def test_only_a_data_set_of_this_recipe_is_known(boxes: Dataset, tmp_path: Path) -> None:
    assert knowledge_of(boxes) is None
    fields = {"name": f"{DATABASE}-tiny", "title": "", "licence": "CC0-1.0", "size": 64, "database": DATABASE}
    for version, known in ((str(RECIPE_VERSION), True), ("0", False)):
        dataset = Dataset(tmp_path, About(version=version, **fields), boxes.manifest)
        assert (knowledge_of(dataset) is not None) == known


def test_a_perfect_edit_changes_what_it_names() -> None:
    profile = PROFILES["tiny"]
    row = {"identity": f"{DATABASE}-{profile.seeds('test')[0]:06d}", "split": "test"}
    known = Knowledge(profile)
    look = known.person(row).attributes
    edit = "eyeglasses"
    perfect = known.perfect_edit(row, edit)
    assert perfect.look.eyeglasses != look.eyeglasses
    assert perfect.image.shape == (profile.native, profile.native, 3)
    assert perfect.region.shape == (profile.size, profile.size)
    assert 0.005 < perfect.region.mean() < 0.3
    vectors = known.vectors(pd.DataFrame([row]), edit) - known.vectors(pd.DataFrame([row]))
    assert np.flatnonzero(vectors[0]).tolist() == [ATTRIBUTES.index(edit)]


def test_perfect_fakes_agree_and_untouched_photos_do_not(tmp_path: Path) -> None:
    """Fakes are perfect edits by one generator, and photos with one gray level more by another."""
    profile, rows = PROFILES["tiny"], []
    known = Knowledge(profile)
    (tmp_path / "images").mkdir()

    def add(name: str, image: np.ndarray, **columns: str) -> None:
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        row = dict.fromkeys(COLUMNS, "") | {"sample_id": name, "image": f"images/{name}.png", "split": "test"}
        rows.append(row | {"identity": f"{DATABASE}-{name[:6]}"} | columns)

    for seed in profile.seeds("test")[:12]:
        row = {"identity": f"{DATABASE}-{seed:06d}", "split": "test"}
        photo, perfect = (known.perfect_edit(row, edit) for edit in ("", "eyeglasses"))
        assert not photo.region.any()
        add(f"{seed:06d}", photo.image, label="real")
        for generator, image in (("stgan", perfect.image), ("stargan", np.maximum(photo.image, 1) - 1)):
            names = {"source": f"{seed:06d}", "generator": generator, "attribute": "eyeglasses"}
            add(f"{seed:06d}-{generator}", image, label="fake", **names)
    about = About(
        name=f"{DATABASE}-tiny",
        version=str(RECIPE_VERSION),
        title="Tiny",
        licence="CC0-1.0",
        size=profile.size,
        database=DATABASE,
        recipe="r",
    )
    dataset = write_dataset(tmp_path, about, pd.DataFrame(rows))
    found = report_dataset(dataset, classifier=load_classifier(), ideal=8)
    good, bad = category(found, "stgan/eyeglasses"), category(found, "stargan/eyeglasses")
    assert good["agreement"] >= 0.9
    assert good["agreement_holds"]
    assert good["agreement_ideal"] >= 0.9
    assert bad["agreement"] <= 0.1
    assert bad["agreement_holds"] is False
    assert bad["agreement_photos"] <= 0.1
    assert good["ideal"]["ratio"] > 10
    assert bad["ideal"]["ratio"] == pytest.approx(1, abs=0.1)
    assert good["sources"]["auroc"] == 0.5, "the same people are on fakes and photos"
    assert 0.5 < good["sources"]["edit_auroc"] <= 1
    photos = found.document["photos"][0]
    assert (photos["scenery"], photos["camera"]) == profile.settings["test"]
    assert list(found.spectra) == [f"photos, {photos['camera']}", "stargan", "stgan"]
    shown = [table.title for table in report_tables(found.document)]
    assert {"Edits look like their name", "Where the difference should be", "Shortcuts: who is edited"} <= {*shown}


def test_markdown_is_a_function_of_the_numbers(made: Report) -> None:
    again = json.loads(json.dumps(made.document))
    text = report_markdown(made.document, ["spectra.png"])
    assert text == report_markdown(again, ["spectra.png"])
    assert "![spectra](spectra.png)" in text
    found = category(made, "stgan/smile")
    line = next(line for line in text.splitlines() if line.startswith("| stgan/smile"))
    assert line.split(" | ")[1] == f"{found['inside']:.3f}"
    assert line.endswith("| holds |")
    widths = {line.count("|") for table in report_tables(made.document) for line in [table.title]}
    assert widths == {0}


def test_every_row_of_a_table_is_as_wide_as_its_head(made: Report) -> None:
    known = json.loads(json.dumps(made.document))
    for row in known["categories"]:  # as for a data set whose maker tells what it knows
        row |= {"agreement": 0.95, "agreement_ideal": 1.0, "agreement_photos": 0.0, "agreement_holds": True}
        row |= {"ideal": {"inside": 0.2, "outside": 0.1, "away": 0.05, "ratio": 2.0}}
        row["sources"] = {"attribute": "male", "photos": 0.5, "fakes": 0.4, "auroc": 0.55, "holds": True}
    tables = report_tables(known)
    assert len(tables) == 7
    for table in tables:
        assert {len(row) for group in table.groups for row in group.rows} == {len(table.columns)}
    said = {verdict.text: verdict for verdict in verdicts(known)}
    assert said["fakes look like their edit's name, at least 90% of every category"][1:] == (4, 4)
    assert said["fakes look like their edit's name, at least 90% of every category"].word == "holds"


def test_the_command_prints_what_it_writes(boxes: Dataset, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["data", "report", str(boxes.folder), "--into", str(tmp_path)])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text == report_markdown(document, ["spectra.png", "stgan.jpg"])
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "spectra.png", "stgan.jpg"}
    for table in report_tables(document):
        assert table.title in done.output
    printed = CliRunner().invoke(main, ["data", "report", str(boxes.folder), "--json"])
    assert json.loads(printed.stdout) == document


def test_pictures_are_the_same_bytes_and_show_the_pixels(made: Report, tmp_path: Path) -> None:
    first = figures.draw_report(made, tmp_path / "a", sheets=True)
    second = figures.draw_report(made, tmp_path / "b", sheets=True)
    assert [path.name for path in first] == ["spectra.png", "stgan.jpg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.name for path in figures.draw_report(made, tmp_path / "c", sheets=False)] == ["spectra.png"]
    sheet = np.asarray(Image.open(first[1]).convert("RGB"), float)
    sample = made.samples["stgan/black_hair"][0]
    fits = [
        np.abs(sheet[top : top + 32, left : left + 32] - sample.photo).mean()
        for top in range(0, 60)
        for left in range(60, 120)
    ]
    assert min(fits) < 6, "the first photo of the first category stands in the upper left"


def test_m_of_a_sample_is_that_of_its_pair(made: Report) -> None:
    for samples in made.samples.values():
        for sample in samples:
            np.testing.assert_array_equal(sample.fakeness, fakeness_map(sample.photo, sample.fake))
