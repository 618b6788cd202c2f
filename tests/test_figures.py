from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from factories import make_gallery
from matplotlib import colormaps
from PIL import Image

from flbench.errors import DataError
from flbench.reporting.figures import overlay, panel, read_gallery, scale


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
