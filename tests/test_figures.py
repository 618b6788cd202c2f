from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from factories import make_gallery
from matplotlib import colormaps
from PIL import Image

from flbench.errors import DataError
from flbench.reporting import figures
from flbench.reporting.figures import cases, compare, draw_cell_figures, overlay, panel, read_gallery, scale
from flbench.reporting.galleries import MOST, MOST_CASES, case_rows, first_rows


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_gallery_gives_the_same_bytes(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = make_gallery(tmp_path / "g.npz")
    panel(gallery, tmp_path / f"a.{suffix}", "title")
    monkeypatch.setitem(mpl.rcParams, "font.size", 30.0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    panel(gallery, tmp_path / f"b.{suffix}", "title")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert mpl.rcParams["font.size"] == 30.0, "the user's settings are left as they were"
    if suffix == "png":
        assert Image.open(tmp_path / "a.png").info.keys() <= {"dpi"}


def test_a_sample_more_is_a_row_more(tmp_path: Path) -> None:
    heights = []
    for count in (1, 2, 4):
        out = tmp_path / f"{count}.png"
        panel(make_gallery(tmp_path / "g.npz", count=count), out, "title")
        heights.append(pixels(out).shape[0])
    assert heights[1] - heights[0] > 24
    assert heights[2] - heights[1] == 2 * (heights[1] - heights[0])


def test_small_images_keep_their_pixels(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g.npz", count=1, size=24)
    panel(gallery, tmp_path / "p.png", "title")
    photo = np.load(gallery)["real"][0].repeat(6, axis=0).repeat(6, axis=1)
    shown = pixels(tmp_path / "p.png")
    places = [
        (y, x)
        for y in range(40, 80)
        for x in range(150, 200)
        if np.array_equal(shown[y : y + len(photo), x : x + len(photo)], photo)
    ]
    assert len(places) == 1


def test_the_region_is_outlined_where_there_is_one(tmp_path: Path) -> None:
    drawn = {}
    empty = np.zeros((3, 24, 24), bool)
    for name, region in {"none": None, "empty": empty, "some": make_region(), "all": ~empty}.items():
        panel(make_gallery(tmp_path / "g.npz", region=region), tmp_path / "p.png", "title")
        drawn[name] = pixels(tmp_path / "p.png")[:, 480:]
    assert np.array_equal(drawn["none"], drawn["empty"])
    assert np.array_equal(drawn["none"], drawn["all"])
    assert not np.array_equal(drawn["none"], drawn["some"])


def make_region() -> np.ndarray:
    region = np.zeros((3, 24, 24), bool)
    region[:, :10] = True
    return region


def test_titles_are_never_formulas(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g.npz", count=1, sample_ids=np.array(["a$b_$^{" + "x" * 80]))
    panel(gallery, tmp_path / "p.png", "$\\frac{ \n\x1b[31m 漢 <b>")
    assert pixels(tmp_path / "p.png").size


def test_the_scale_follows_from_the_truth_alone() -> None:
    assert scale(np.zeros((2, 4, 4), np.uint8)) == 0.1
    assert scale(np.full((2, 4, 4), 255, np.uint8)) == 1.0
    assert scale(np.full((2, 4, 4), 60, np.uint8)) == 0.3


def test_an_overlay_is_lighter_where_more_is_fake() -> None:
    fake = np.full((1, 5, 3), 120, np.uint8)
    shades = np.linspace(0, 1, 5)[None]
    laid = overlay(fake, shades, colormaps["magma"])
    lightness = laid @ np.array([0.299, 0.587, 0.114])
    assert 0 <= laid.min() <= laid.max() <= 1
    assert lightness[0, -1] > 2 * lightness[0, 0]
    assert np.allclose(laid[0, 0], 0.7 * 120 / 255), "untouched where nothing is fake"


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"truth": None}, "no truth"),
        ({"real": np.zeros((3, 5, 5, 3), np.uint8)}, "do not fit: real"),
        ({"sample_ids": np.array(["one"])}, "do not fit: sample_ids"),
        ({"tests": np.array([{"a": 1}] * 3, dtype=object)}, "cannot be read"),
    ],
)
def test_a_gallery_that_does_not_fit_is_refused(tmp_path: Path, replaced: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_gallery(make_gallery(tmp_path / "g.npz", **replaced))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_a_damaged_gallery_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        panel(path, tmp_path / "p.png", "title")
    with pytest.raises(DataError):
        read_gallery(tmp_path / "none.npz")
    assert not (tmp_path / "p.png").exists()


def make_conditions(path: Path, **replaced: object) -> Path:
    """Two first samples under three conditions, as an engine writes them, then best and worst ones."""
    told = {
        "count": 10,
        "sample_ids": np.array(["a", "b"] * 3 + ["c", "d", "e", "f"]),
        "tests": np.array(["hair"] * 10),
        "conditions": np.array(
            [name for name in ("clean", "jpeg-10", "disorganized") for _ in range(2)] + ["clean"] * 4
        ),
        "cases": np.array(["first"] * 6 + ["best", "best", "worst", "worst"]),
    }
    return make_gallery(path, **(told | replaced))


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is written on each figure, which is not saved."""
    found: list[list[str]] = []
    monkeypatch.setattr(figures, "save", lambda draw, files, **how: found.append([t.get_text() for t in draw().texts]))
    return found


def test_a_sample_stands_under_its_conditions_side_by_side(tmp_path: Path, texts: list[list[str]]) -> None:
    panel(make_conditions(tmp_path / "g.npz"), tmp_path / "p.png", "title")
    rows = [text.split("\n")[:3] for text in texts[0] if "COSS" in text]
    assert rows == [
        [sample, "hair", condition]
        for sample in ("a", "b")
        for condition in ("clean", "JPEG, quality 10", "Disorganized")
    ]


def test_old_galleries_are_clean_and_first(tmp_path: Path, texts: list[list[str]]) -> None:
    arrays = read_gallery(make_gallery(tmp_path / "g.npz"))
    assert (set(arrays["conditions"]), set(arrays["cases"])) == ({"clean"}, {"first"})
    panel(tmp_path / "g.npz", tmp_path / "p.png", "title")
    assert not any("clean" in text for text in texts[0]), "where all is clean, nothing need be said"
    assert cases(tmp_path / "g.npz", tmp_path / "c.png", "title") is False


def test_best_and_worst_are_drawn_with_their_value(tmp_path: Path, texts: list[list[str]]) -> None:
    assert cases(make_conditions(tmp_path / "g.npz"), tmp_path / "c.png", "title") is True
    rows = [text.split("\n") for text in texts[0] if "COSS" in text]
    assert [row[:2] for row in rows] == [["BEST", "c"], ["BEST", "d"], ["WORST", "e"], ["WORST", "f"]]
    arrays = read_gallery(tmp_path / "g.npz")
    truth, prediction = (arrays[name][6][arrays["region"][6]].astype(float) for name in ("truth", "prediction"))
    value = truth @ prediction / np.sqrt((truth @ truth) * (prediction @ prediction))
    assert rows[0][-1] == f"COSS {value:.2f} in region"


def test_cases_take_turns_between_slices() -> None:
    slices = ["x"] * 5 + ["y"] * 5
    arrays = {
        "cases": np.array(["best"] * 10 + ["worst"] * 10),
        "tests": np.array(slices * 2),
        "conditions": np.array(["clean"] * 20),
    }
    assert case_rows(arrays) == [0, 5, 1, 6, 2, 7, 10, 15, 11, 16, 12, 17]
    assert len(case_rows(arrays)) == 2 * MOST_CASES


def test_a_panel_of_many_conditions_keeps_what_tells_most() -> None:
    names = ["clean", *(f"jpeg-{quality}" for quality in range(90, 0, -10)), *(f"blur-{k}" for k in range(3, 23, 2))]
    arrays = {
        "tests": np.array(["hair"] * 2 * len(names)),
        "sample_ids": np.array(["a", "b"] * len(names)),
        "conditions": np.repeat(names, 2),
        "cases": np.array(["first"] * 2 * len(names)),
    }
    rows = first_rows(arrays)
    assert [(arrays["sample_ids"][row], arrays["conditions"][row]) for row in rows] == [
        (sample, condition) for sample in "ab" for condition in ("clean", "jpeg-10", "blur-21")
    ]
    many = {name: np.array([str(i) for i in range(40)]) for name in ("tests", "sample_ids")}
    many |= {"conditions": np.array(["clean"] * 40), "cases": np.array(["first"] * 40)}
    assert first_rows(many) == list(range(MOST))


def test_a_cell_has_its_figures(tmp_path: Path) -> None:
    assert [path.name for path in draw_cell_figures(make_conditions(tmp_path / "g.npz"), tmp_path, "title")] == [
        "panel.png",
        "cases.png",
    ]
    assert pixels(tmp_path / "panel.png").shape[0] > pixels(tmp_path / "cases.png").shape[0], "six rows and four"
    draw_cell_figures(make_gallery(tmp_path / "old.npz"), tmp_path, "title")
    assert not (tmp_path / "cases.png").exists()
    np.savez(tmp_path / "none.npz")
    assert draw_cell_figures(tmp_path / "none.npz", tmp_path, "title") == []
    assert not (tmp_path / "panel.png").exists()


def test_methods_stand_beside_each_other_on_the_same_samples(tmp_path: Path, texts: list[list[str]]) -> None:
    galleries = {"one": make_conditions(tmp_path / "a.npz")}
    arrays = dict(np.load(galleries["one"]))
    order = [3, 1, 2, 0]  # another order, fewer samples, another prediction
    galleries["two"] = tmp_path / "b.npz"
    np.savez(galleries["two"], **{name: a[order] for name, a in (arrays | {"prediction": arrays["truth"]}).items()})
    compare(galleries, tmp_path / "c.png", "title")
    assert [text for text in texts[0] if text in ("real", "fake", "ground truth", "one", "two")] == [
        "real",
        "fake",
        "ground truth",
        "one",
        "two",
    ]
    assert [text for text in texts[0] if text.startswith(("a\n", "b\n"))] == [
        "a\nhair\nclean",
        "a\nhair\nJPEG, quality 10",
        "b\nhair\nclean",
        "b\nhair\nJPEG, quality 10",
    ]
    assert texts[0].count("COSS 1.00 in region") >= 4, "the second method is right everywhere"


def test_methods_on_other_samples_are_not_compared(tmp_path: Path) -> None:
    first = make_gallery(tmp_path / "a.npz")
    other = make_gallery(tmp_path / "b.npz", sample_ids=np.array(["x", "y", "z"]))
    with pytest.raises(DataError, match="share no sample"):
        compare({"one": first, "two": other}, tmp_path / "c.png", "title")
    changed = make_gallery(tmp_path / "c.npz", truth=np.zeros((3, 24, 24), np.uint8))
    with pytest.raises(DataError, match="differ in the truth of p0-stgan-hair"):
        compare({"one": first, "two": changed}, tmp_path / "c.png", "title")
    with pytest.raises(DataError, match="no method"):
        compare({}, tmp_path / "c.png", "title")


def test_a_comparison_has_the_same_bytes(tmp_path: Path) -> None:
    galleries = {"one": make_gallery(tmp_path / "a.npz", count=1), "$two_^{": make_gallery(tmp_path / "b.npz", count=1)}
    for name in ("x.png", "y.png", "x.svg", "y.svg"):
        compare(galleries, tmp_path / name, "title")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()
