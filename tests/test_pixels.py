"""F1, IoU, AUROC and AP of pixels against scikit-learn, by hand on the corners, and by property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from flbench.scoring.pixels import Ranking, pixel_metrics, pixels_of, rank
from flbench.scoring.pool import LEVELS, Pool, level_edges, level_of

unit = st.floats(0, 1, width=32)
pairs = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, (2, *shape), elements=unit), arrays(np.float32, (2, *shape), elements=unit)
    )
)


def some_maps(seed: int, kind: str, shape: tuple[int, int, int] = (4, 48, 40)) -> tuple[np.ndarray, np.ndarray]:
    """Blobs as ground truth and a noisy guess: as they are, with ties, or as a saturated sigmoid gives them."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.random(shape), (0, 3, 3))
    truth = np.clip((truth - truth.mean()) * 6, 0, 1).astype(np.float32)
    guess = truth + rng.normal(0, 0.2, shape)
    made = {
        "smooth": np.clip(guess, 1e-9, 1),
        "ties": np.round(np.clip(guess, 0, 1) * 8) / 8,
        "bytes": np.round(np.clip(guess, 0, 1) * 255) / 255,
        "two": np.clip(guess, 0, 1) > 0.3,
        "saturated": 1 / (1 + np.exp(-40 * (guess - 0.6))),
    }
    return truth, made[kind].astype(np.float32)


def by_scikit(fake: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    called = prediction >= 0.5
    return {
        "f1": f1_score(fake, called),
        "iou": jaccard_score(fake, called),
        "pixel_auroc": roc_auc_score(fake, prediction),
        "pixel_ap": average_precision_score(fake, prediction),
    }


@pytest.mark.parametrize("kind", ["smooth", "ties", "bytes", "two", "saturated"])
@pytest.mark.parametrize("binarised", [0.05, 0.1, 0.2])
def test_agrees_with_scikit(kind: str, binarised: float) -> None:
    truth, prediction = some_maps(0, kind)
    got = pixel_metrics(truth, prediction, binarised=binarised)
    for i in range(len(truth)):
        expected = by_scikit(truth[i].ravel() >= binarised, prediction[i].ravel())
        for name, value in expected.items():
            assert got[name][i] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("kind", ["smooth", "ties", "bytes", "two", "saturated"])
def test_metrics_are_those_of_the_ranking_to_the_bit(kind: str) -> None:
    truth, prediction = some_maps(5, kind)
    got = pixel_metrics(truth, prediction)
    for i in range(len(truth)):
        (ranking,) = rank(pixels_of(truth[i], prediction[i], None, (0.1,)), 1)
        column = ranking.column(0.5)
        expected = ranking.f1_at(column), ranking.iou_at(column), ranking.auroc(), ranking.average_precision()
        assert tuple(values[i] for values in got.values()) == expected


def test_values_that_differ_in_the_last_bit_are_told_apart() -> None:
    low = np.float32(0.3)
    prediction = np.array([[[low, np.nextafter(low, np.float32(1)), np.float32(1e-30), 0]]], np.float32)
    truth = np.array([[[0, 1, 1, 0]]], np.float32)
    got = pixel_metrics(truth, prediction)
    assert got["pixel_auroc"][0] == pytest.approx(3 / 4)
    assert got["pixel_ap"][0] == pytest.approx((1 + 2 / 3) / 2)


@settings(max_examples=50)
@given(arrays(np.uint8, st.integers(1, 40)), st.integers(0, 2**32 - 1), st.booleans())
def test_maps_stored_in_bytes_rank_as_sorting_ranks_them(levels: np.ndarray, seed: int, moved: bool) -> None:
    """They are counted, unless a pixel is the next float beside a gray level."""
    truth, prediction = np.random.default_rng(seed).random(len(levels)), levels / np.float32(255)
    if moved:
        prediction[-1] = np.nextafter(prediction[-1], np.float32(0.4))
    found = rank(pixels_of(truth[None], prediction[None], None, (0.1, 0.5)), 2)
    values = np.unique(prediction)[::-1]
    for level, ranking in zip((0.1, 0.5), found, strict=True):
        np.testing.assert_array_equal(ranking.values, values)
        reaching = prediction >= values[:, None]
        np.testing.assert_array_equal(ranking.tp, [0, *(reaching & (truth >= level)).sum(axis=1)])
        np.testing.assert_array_equal(ranking.fp, [0, *(reaching & (truth < level)).sum(axis=1)])


def test_in_region_agrees_with_scikit_over_the_pixels() -> None:
    truth, prediction = some_maps(1, "bytes")
    region = np.random.default_rng(2).random(truth.shape) < 0.3
    got = pixel_metrics(truth, prediction, region)
    for i in range(len(truth)):
        expected = by_scikit(truth[i][region[i]] >= 0.1, prediction[i][region[i]])
        for name, value in expected.items():
            assert got[name][i] == pytest.approx(value, abs=1e-9), name


def test_corners_by_hand() -> None:
    zeros, ones, half = np.zeros((4, 4)), np.ones((4, 4)), np.zeros((4, 4))
    half[:, :2] = 1
    cases = [  # truth, prediction, f1, iou, auroc, ap
        (half, half, 1, 1, 1, 1),
        (half, 1 - half, 0, 0, 0, 0.5),
        (half, zeros, 0, 0, 0.5, 0.5),
        (half, ones, 2 / 3, 0.5, 0.5, 0.5),
        (ones, ones, 1, 1, np.nan, 1),
        (ones, half, 2 / 3, 0.5, np.nan, 1),
        (zeros, zeros, np.nan, np.nan, np.nan, np.nan),
        (zeros, ones, np.nan, np.nan, np.nan, np.nan),
    ]
    truth, prediction = (np.stack([case[i] for case in cases]).astype(np.float32) for i in range(2))
    got = pixel_metrics(truth, prediction)
    for name, column in zip(("f1", "iou", "pixel_auroc", "pixel_ap"), range(2, 6), strict=True):
        np.testing.assert_allclose(got[name], [case[column] for case in cases], atol=1e-12, err_msg=name)


def test_one_half_is_fake_and_the_binarisation_level_is_too() -> None:
    truth = np.array([[[0.1, 0.0999, 0.5]]], np.float32)
    prediction = np.array([[[0.5, 0.4999, 0.5]]], np.float32)
    assert pixel_metrics(truth, prediction)["f1"][0] == 1
    assert pixel_metrics(truth, prediction, binarised=0.2)["f1"][0] == pytest.approx(2 / 3)


def test_minus_zero_is_zero() -> None:
    truth = np.array([[[1, 0, 1, 0]]], np.float32)
    prediction = np.array([[[-0.0, 0.0, 0.7, -0.0]]], np.float32)
    assert pixel_metrics(truth, prediction)["pixel_auroc"][0] == pytest.approx(3 / 4)


def test_empty_region_is_undefined_and_nothing_else_is() -> None:
    truth, prediction = some_maps(3, "smooth", (3, 20, 20))
    region = np.ones(truth.shape, dtype=bool)
    region[1] = False
    whole = pixel_metrics(truth, prediction)
    for name, values in pixel_metrics(truth, prediction, region).items():
        assert np.isnan(values).tolist() == [False, True, False], name
        assert values[[0, 2]].tolist() == whole[name][[0, 2]].tolist(), name


def test_no_images_give_no_values() -> None:
    empty = np.zeros((0, 8, 8), np.float32)
    assert {name: values.shape for name, values in pixel_metrics(empty, empty).items()} == {
        "f1": (0,),
        "iou": (0,),
        "pixel_auroc": (0,),
        "pixel_ap": (0,),
    }


@settings(max_examples=50)
@given(pairs)
def test_bounds_and_what_is_undefined(maps: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = maps
    fake = (truth >= 0.1).any(axis=(1, 2))
    both = fake & (truth < 0.1).any(axis=(1, 2))
    for name, values in pixel_metrics(truth, prediction).items():
        assert np.isnan(values).tolist() == (~(both if name == "pixel_auroc" else fake)).tolist(), name
        defined = values[~np.isnan(values)]
        assert ((defined >= 0) & (defined <= 1)).all(), name


@settings(max_examples=50)
@given(pairs)
def test_iou_is_a_function_of_f1(maps: tuple[np.ndarray, np.ndarray]) -> None:
    got = pixel_metrics(*maps)
    np.testing.assert_allclose(got["iou"], got["f1"] / (2 - got["f1"]), atol=1e-12)


@settings(max_examples=50)
@given(pairs, st.randoms(use_true_random=False))
def test_where_pixels_stand_does_not_matter(maps: tuple[np.ndarray, np.ndarray], random: object) -> None:
    truth, prediction = maps
    order = np.arange(truth[0].size)
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = [a.reshape(2, -1)[:, order].reshape(a.shape) for a in maps]
    got, again = pixel_metrics(truth, prediction), pixel_metrics(*moved)
    for name in got:
        np.testing.assert_array_equal(got[name], again[name])


@settings(max_examples=50)
@given(pairs)
def test_columns_of_a_ranking_are_counts_at_thresholds(maps: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = maps[0][0], maps[1][0]
    levels = (0.05, 0.1, 0.2)
    rankings = rank(pixels_of(truth, prediction, None, levels), len(levels))
    for level, ranking in zip(levels, rankings, strict=True):
        fake = truth >= level
        for threshold in (0.0, 0.25, 0.5, float(prediction.flat[0]), 1.0):
            column = ranking.column(threshold)
            called = prediction >= np.float32(threshold)
            assert (ranking.tp[column], ranking.fp[column]) == ((called & fake).sum(), (called & ~fake).sum())
            inverse = ranking.inverse()
            left = (inverse.tp[-1 - column], inverse.fp[-1 - column])
            assert left == ((~called & fake).sum(), (~called & ~fake).sum())


def test_levels_hold_their_edge_and_stop_before_the_next() -> None:
    edges = level_edges()
    assert edges.shape == (LEVELS,)
    assert (np.diff(edges) >= 0).all()
    assert {0.0, 0.25, 0.5, 0.75, 1.0} <= set(edges.tolist())
    near = np.float32(2.0) ** -np.arange(1, 40, dtype=np.float32)
    values = np.concatenate([near, 1 - near, np.random.default_rng(0).random(20000, np.float32), edges])
    values = np.concatenate([values, np.nextafter(values, np.float32(0)), np.nextafter(values, np.float32(1))])
    level = level_of(values)
    assert (edges[level] <= values).all()
    assert (values[level < LEVELS - 1] < edges[level[level < LEVELS - 1] + 1]).all()


@settings(max_examples=50)
@given(unit, unit)
def test_levels_keep_order_and_tell_apart_what_differs_by_a_thousandth(a: float, b: float) -> None:
    low, high = level_of(np.sort(np.array([a, b], np.float32)))
    assert low <= high
    for far in (abs(a - b) > max(min(a, b) * 1e-3, 2**-32), abs(a - b) > max(1 - max(a, b), 2**-32) * 1e-3):
        assert low < high or not far or abs(a - b) <= 1e-3 * min(max(a, b), 1 - min(a, b))


def test_pool_of_images_is_the_ranking_of_their_pixels() -> None:
    truth, prediction = some_maps(4, "bytes")
    levels = (0.05, 0.1, 0.2)
    pools = [Pool(), Pool()]
    for i in range(len(truth)):
        pools[i % 2].add(pixels_of(truth[i], prediction[i], None, levels))
    pools[0].add(pixels_of(truth[0], prediction[0], np.zeros(truth[0].shape, bool), levels))
    pool = pools[0].joined(pools[1])
    assert (pool.images, pool.empty) == (len(truth), 1)
    flat = pixels_of(truth.reshape(-1, 1), prediction.reshape(-1, 1), None, levels)
    for level, ranking in enumerate(rank(flat, len(levels))):
        pooled = pool.ranking(level)
        np.testing.assert_array_equal(pooled.tp, ranking.tp)
        np.testing.assert_array_equal(pooled.fp, ranking.fp)
        np.testing.assert_allclose(pooled.values, ranking.values, rtol=1e-3)
        assert pooled.column(0.5) == ranking.column(0.5)


def test_what_would_give_a_wrong_number_is_refused() -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    bad = maps.copy()
    bad[0, 0, 0] = np.nan
    for wrong, message in (
        ((maps, maps[:1]), "two maps"),
        ((maps[0], maps[0]), "two maps"),
        ((maps, maps + 1.5), "leaves"),
        ((maps, bad), "NaN"),
        ((bad, maps), "NaN"),
        ((maps, maps, np.ones((2, 4, 5), bool)), "region"),
        ((maps, maps, np.ones((2, 4, 4))), "region"),
    ):
        with pytest.raises(ValueError, match=message):
            pixel_metrics(*wrong)
    for levels in ((0.2, 0.1), (0.1, 0.1), (0.1, 0.2, 0.3, 0.4)):
        with pytest.raises(ValueError, match="ascending"):
            pixels_of(maps[0], maps[0], None, levels)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_only_what_is_asked_is_measured_and_counting_gives_what_ranking_gives(
    seed: int, inside: bool, level: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((2, 6, 6)) * rng.integers(0, 2)
    prediction = np.where(rng.random((2, 6, 6)) < 0.5, level, rng.random((2, 6, 6))).astype(np.float32)
    region = rng.random((2, 6, 6)) < 0.5 if inside else None
    every = pixel_metrics(truth, prediction, region)
    for asked in (("f1",), ("iou", "f1", "coss"), ("pixel_ap",), ()):
        some = pixel_metrics(truth, prediction, region, asked=asked)
        assert set(some) == set(asked) & set(every)
        for name, values in some.items():
            np.testing.assert_array_equal(values, every[name])


def test_auroc_of_more_pixels_than_pairs_can_be_counted() -> None:
    """Ten billion pixels: twice their pairs are more than an int64 holds."""
    many = 5 * 10**9
    tp, fp = np.array([0, many // 2, many, many]), np.array([0, 0, many // 2, many])
    values = np.array([0.9, 0.6, 0.2], np.float32)
    assert Ranking(values, tp, fp).auroc() == pytest.approx(7 / 8, rel=1e-12)
    few = Ranking(values, tp // many * 2 + tp // (many // 2) % 2, fp // many * 2 + fp // (many // 2) % 2)
    assert few.auroc() == 7 / 8
