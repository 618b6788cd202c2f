"""Ground truth against float64 by hand; regions against drawn parsing maps; the attention map's promises."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flbench.data.fakeness import (
    ATTENTION_SIGMA,
    CLASSES,
    REGIONS,
    difference_region,
    face_attention,
    fakeness_map,
    region_of,
)
from flbench.data.images import read_image, read_parsing
from flbench.errors import DataError

images = arrays(np.uint8, (5, 4, 3))
regions = arrays(np.bool_, (24, 20))


@settings(max_examples=60)
@given(real=images, fake=images)
def test_fakeness_is_equation_4(real: np.ndarray, fake: np.ndarray) -> None:
    red, green, blue = np.moveaxis(np.abs(real.astype(np.float64) - fake.astype(np.float64)), 2, 0)
    expected = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    found = fakeness_map(real, fake)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=0)


@settings(max_examples=60)
@given(real=images, fake=images)
def test_fakeness_is_symmetric_bounded_and_zero_only_where_pixels_are_equal(real: np.ndarray, fake: np.ndarray) -> None:
    found = fakeness_map(real, fake)
    np.testing.assert_array_equal(found, fakeness_map(fake, real))
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(found == 0, (real == fake).all(axis=2))


def test_fakeness_at_its_corners() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert (fakeness_map(black, white) == 1).all()
    assert not fakeness_map(white, white).any()
    blue = black.copy()
    blue[0, 0, 2] = 1
    assert fakeness_map(black, blue)[0, 0] == np.float32(0.114 / 255)


def test_fakeness_of_different_sizes_names_both() -> None:
    with pytest.raises(DataError, match="the photo is 4x2, its fake 2x4"):
        fakeness_map(np.zeros((2, 4, 3), np.uint8), np.zeros((4, 2, 3), np.uint8))


EVERY_CLASS = np.arange(19, dtype=np.uint8).reshape(1, 19)


@pytest.mark.parametrize(
    ("attribute", "names"),
    [
        ("black_hair", {"hair"}),
        ("blond_hair", {"hair"}),
        ("brown_hair", {"hair"}),
        ("bald", {"hair"}),
        ("bangs", {"hair"}),
        ("eyeglasses", {"eyeglasses", "left_eye", "right_eye", "left_brow", "right_brow"}),
        ("smile", {"mouth", "upper_lip", "lower_lip"}),
        ("entire", set(CLASSES)),
        *(
            (name, set(CLASSES) - {"background", "hat", "earring", "necklace", "neck", "cloth"})
            for name in ("male", "gender", "age", "young")
        ),
    ],
)
def test_the_classes_of_an_attribute(attribute: str, names: set[str]) -> None:
    assert {CLASSES[i] for i in np.flatnonzero(region_of(attribute, EVERY_CLASS)[0])} == names
    np.testing.assert_array_equal(region_of(attribute.upper(), EVERY_CLASS), region_of(attribute, EVERY_CLASS))


@settings(max_examples=30)
@given(
    photo=arrays(np.uint8, (6, 7), elements=st.integers(0, 18)),
    fake=arrays(np.uint8, (6, 7), elements=st.integers(0, 18)),
    attribute=st.sampled_from(sorted(REGIONS)),
)
def test_a_region_is_the_union_over_photo_and_fake(photo: np.ndarray, fake: np.ndarray, attribute: str) -> None:
    found = region_of(attribute, photo, fake)
    np.testing.assert_array_equal(found, region_of(attribute, photo) | region_of(attribute, fake))
    if attribute != "mustache":
        np.testing.assert_array_equal(found, np.isin(photo, REGIONS[attribute]) | np.isin(fake, REGIONS[attribute]))


def test_mustache_is_the_upper_lip_and_the_skin_above_it() -> None:
    drawing = [
        "sssssssssnssssssssss",
        "ssssssssnnnsssssssss",  # the nose ends here
        "ssssssssssssssssssss",
        "ssssssuuuuuuuuusssss",
        "sssssuummmmmmuussbbb",  # the upper lip ends here
        "ssssssllllllllssssss",
        "ssssssssssssssssssss",
    ]
    expected = [
        "....................",
        "....xxxx...xxxxx....",
        "....xxxxxxxxxxxx....",
        "....xxxxxxxxxxxx....",
        "....xxx......xxx....",
        "....................",
        "....................",
    ]
    codes = {"s": 1, "n": 2, "m": 10, "u": 11, "l": 12, "b": 0}
    parsing = np.array([[codes[c] for c in line] for line in drawing], np.uint8)
    # Mouth and lips span columns 5 to 14, ten of them: the margin is one column.
    wanted = np.array([[c == "x" for c in line] for line in expected])
    np.testing.assert_array_equal(region_of("mustache", parsing), wanted)
    bare = np.where(parsing == 2, 1, parsing).astype(np.uint8)
    np.testing.assert_array_equal(region_of("mustache", bare), parsing == 11)
    assert not region_of("mustache", np.ones((4, 4), np.uint8)).any()


def test_regions_that_cannot_be_are_data_errors() -> None:
    with pytest.raises(DataError, match="no region is defined for attribute 'hat'"):
        region_of("hat", EVERY_CLASS)
    with pytest.raises(DataError, match="did you mean smile"):
        region_of("smil", EVERY_CLASS)
    with pytest.raises(DataError, match="needs a parsing map"):
        region_of("smile")
    with pytest.raises(DataError, match="differ in size"):
        region_of("smile", EVERY_CLASS, EVERY_CLASS[:, :5])


def test_unknown_classes_are_no_region() -> None:
    assert not region_of("smile", np.full((3, 3), 255, np.uint8)).any()


@settings(max_examples=30)
@given(
    fakeness=arrays(np.float32, (9, 8), elements=st.sampled_from([0, 0.05, 0.0999, 0.1, 0.2, 1])),
    grow=st.integers(0, 3),
)
def test_the_difference_region_by_a_loop(fakeness: np.ndarray, grow: int) -> None:
    expected = np.zeros(fakeness.shape, bool)
    for y, x in np.argwhere(fakeness >= np.float32(0.1)):
        expected[max(0, y - grow) : y + grow + 1, max(0, x - grow) : x + grow + 1] = True
    np.testing.assert_array_equal(difference_region(fakeness, dilate=grow), expected)


@settings(max_examples=40)
@given(region=regions, other=regions)
def test_attention_is_one_inside_bounded_and_grows_with_the_region(region: np.ndarray, other: np.ndarray) -> None:
    attention = face_attention(region)
    assert attention.dtype == np.float32
    assert (attention[region] == 1).all()
    assert attention.min() >= 0
    assert attention.max() <= 1
    assert (face_attention(region | other) >= attention - 1e-6).all()
    np.testing.assert_allclose(face_attention(region[:, ::-1]), attention[:, ::-1], atol=1e-6)


def test_attention_of_nothing_and_of_everything() -> None:
    assert not face_attention(np.zeros((8, 8), bool)).any()
    assert (face_attention(np.ones((8, 8), bool)) == 1).all()


@pytest.mark.parametrize("width", [128, 2])
def test_attention_expands_by_the_stated_share_of_the_size(width: int) -> None:
    size = 256
    sigma = ATTENTION_SIGMA * size
    region = np.zeros((size, size), bool)
    region[:, 60 : 60 + width] = True
    line = face_attention(region)[size // 2]
    edge = 60 + width - 1
    assert (np.diff(line[edge:]) <= 1e-6).all()
    assert line[edge + 1] > 0.9
    assert abs((line[edge + int(2 * sigma)] + line[edge + int(2 * sigma) + 1]) / 2 - 0.5) < 0.01
    assert not line[edge + int(5 * sigma) + 1 :].any()


def test_regions_and_attention_on_real_faces() -> None:
    root = os.environ.get("FLBENCH_REAL_DATA")
    if not root:
        pytest.skip("FLBENCH_REAL_DATA is not set: no real faces to look at")
    masks = sorted((Path(root) / "celebamask_hq_mini" / "masks").glob("*.png"))[:12]
    parsings = [read_parsing(path) for path in masks]
    assert len(parsings) == 12
    for parsing in parsings:
        assert parsing.max() < len(CLASSES)
        head, hair, smile, lip = (region_of(name, parsing) for name in ("male", "bald", "smile", "mustache"))
        assert (head >= (hair | smile | lip)).all()
        assert hair.sum() + smile.sum() < head.sum()
        assert lip.mean() < 0.05
        assert face_attention(smile).mean() > smile.mean()
    # Mouths lie below the middle of an aligned face, and lips are redder than the rest of the face.
    rows = [np.flatnonzero(region_of("smile", p).any(axis=1)).mean() / len(p) for p in parsings if (p == 11).any()]
    assert 0.5 < np.mean(rows) < 0.9
    photo = read_image(masks[0].parents[1] / "images" / f"{masks[0].stem}.jpg").astype(float)
    redness = photo[:, :, 0] - photo[:, :, 1]
    lips = np.isin(parsings[0], (11, 12))
    assert redness[lips].mean() > redness[parsings[0] == 1].mean()


def test_a_real_edit_of_hair_changes_more_than_its_surroundings() -> None:
    root = os.environ.get("FLBENCH_REAL_DATA")
    if not root:
        pytest.skip("FLBENCH_REAL_DATA is not set: no real edits to look at")
    folder = Path(root) / "stargan128"
    names = [path.name for path in sorted((folder / "real").glob("*.png"))[:40]]
    maps = [fakeness_map(*(read_image(folder / kind / name) for kind in ("real", "black_hair"))) for name in names]
    mean = np.mean(maps, axis=0)
    assert 0.01 < mean.mean() < 0.2
    assert mean[:40, 40:88].mean() > 1.5 * mean[70:100, 50:78].mean()
