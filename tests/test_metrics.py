"""Metrics against scikit-image and scikit-learn, by hand on the corners, and by property."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from flbench.scoring import metrics
from flbench.scoring.metrics import (
    auroc,
    collapse,
    coss,
    false_alarm,
    mae,
    map_metrics,
    psnr,
    ssim,
    ssim_map,
    top_score,
)

MAP_METRICS = (coss, psnr, ssim, mae)
unit = st.floats(0, 1, width=32)
pairs = st.tuples(st.integers(7, 12), st.integers(7, 12)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, (2, *shape), elements=unit), arrays(np.float32, (2, *shape), elements=unit)
    )
)


def some_maps(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.random(shape), (0, 2, 2))
    truth = np.clip((truth - 0.5) * 4, 0, 1).astype(np.float32)
    prediction = np.clip(truth + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)
    return truth, prediction


@pytest.mark.parametrize("shape", [(3, 7, 7), (3, 8, 31), (5, 64, 64), (2, 300, 250)])
def test_agrees_with_scikit(shape: tuple[int, int, int]) -> None:
    truth, prediction = some_maps(0, shape)
    got = map_metrics(truth, prediction)
    for i, (t, p) in enumerate(zip(truth.astype(np.float64), prediction.astype(np.float64), strict=True)):
        mean, full = structural_similarity(t, p, data_range=1.0, full=True)
        assert got["ssim"][i] == pytest.approx(mean, abs=1e-6)
        np.testing.assert_allclose(ssim_map(truth, prediction)[i], full, atol=1e-6)
        assert got["psnr"][i] == pytest.approx(peak_signal_noise_ratio(t, p, data_range=1.0), abs=1e-6)
        assert got["coss"][i] == pytest.approx(cosine_similarity([t.ravel()], [p.ravel()])[0, 0], abs=1e-6)
        assert got["mae"][i] == pytest.approx(np.abs(t - p).mean(), abs=1e-6)


def test_ssim_of_flat_maps_keeps_its_precision() -> None:
    truth = np.full((1, 32, 32), 0.7, np.float32)
    prediction = truth + np.random.default_rng(0).normal(0, 1e-4, truth.shape).astype(np.float32)
    t, p = truth[0].astype(np.float64), prediction[0].astype(np.float64)
    assert ssim(truth, prediction)[0] == pytest.approx(structural_similarity(t, p, data_range=1.0), abs=1e-9)


def test_in_region_agrees_with_scikit_over_the_pixels() -> None:
    truth, prediction = some_maps(1, (4, 40, 50))
    rng = np.random.default_rng(2)
    region = np.zeros(truth.shape, dtype=bool)
    for i in range(len(region)):
        y, x = rng.integers(0, 20, 2)
        region[i, y : y + 15, x : x + 25] = True
    got = map_metrics(truth, prediction, region)
    for i in range(len(truth)):
        t, p = truth[i].astype(np.float64), prediction[i].astype(np.float64)
        inside, full = region[i], structural_similarity(t, p, data_range=1.0, full=True)[1]
        border = np.zeros_like(inside)
        border[3:-3, 3:-3] = True
        assert got["coss"][i] == pytest.approx(cosine_similarity([t[inside]], [p[inside]])[0, 0], abs=1e-6)
        assert got["psnr"][i] == pytest.approx(peak_signal_noise_ratio(t[inside], p[inside], data_range=1.0), abs=1e-6)
        assert got["mae"][i] == pytest.approx(np.abs(t - p)[inside].mean(), abs=1e-6)
        assert got["ssim"][i] == pytest.approx(full[inside & border].mean(), abs=1e-6)


def test_corners_by_hand() -> None:
    zeros, ones = np.zeros((9, 9), np.float32), np.ones((9, 9), np.float32)
    half = np.zeros((9, 9), np.float32)
    half[:, :4] = 1.0
    truth = np.stack([zeros, zeros, ones, half, half, ones])
    prediction = np.stack([zeros, ones, zeros, half, 1 - half, half])
    got = map_metrics(truth, prediction)
    np.testing.assert_allclose(got["coss"], [1, 0, 0, 1, 0, np.sqrt(36 / 81)], atol=1e-12)
    np.testing.assert_allclose(got["psnr"], [100, 0, 0, 100, 0, 10 * np.log10(81 / 45)], atol=1e-12)
    np.testing.assert_allclose(got["mae"], [0, 1, 1, 0, 1, 45 / 81], atol=1e-12)
    # Flat windows: (2 t p + C1) / (t² + p² + C1) times C2 / C2.
    c1, c2 = 1e-4, 9e-4
    np.testing.assert_allclose(got["ssim"][:4], [1, c1 / (1 + c1), c1 / (1 + c1), 1], atol=1e-12)
    # Inverted: p = 1 - t, so the covariance is minus the variance. Windows hold 28, 21 or 14 bright pixels of 49.
    windows = []
    for bright in (28, 21, 14):
        mean = bright / 49
        variance = mean * (1 - mean) * 49 / 48
        luminance = (2 * mean * (1 - mean) + c1) / (mean**2 + (1 - mean) ** 2 + c1)
        windows.append(luminance * (c2 - 2 * variance) / (c2 + 2 * variance))
    assert got["ssim"][4] == pytest.approx(np.mean(windows), abs=1e-12)
    assert not np.signbit(got["psnr"]).any()


def test_psnr_is_capped_where_the_error_is_hardly_one() -> None:
    truth = np.zeros((3, 10, 10), np.float64)
    prediction = truth + np.array([1e-6, 1e-5, 1e-4])[:, None, None]
    np.testing.assert_allclose(psnr(truth, prediction), [100, 100, 80], atol=1e-9)


def test_empty_region_is_undefined_and_nothing_else_is() -> None:
    truth, prediction = some_maps(3, (3, 20, 20))
    region = np.ones(truth.shape, dtype=bool)
    region[1] = False
    got = map_metrics(truth, prediction, region)
    whole = map_metrics(truth, prediction)
    for name, values in got.items():
        assert np.isnan(values).tolist() == [False, True, False], name
        np.testing.assert_allclose(values[[0, 2]], whole[name][[0, 2]], rtol=1e-12)


def test_region_on_the_border_has_no_ssim_but_the_rest() -> None:
    truth, prediction = some_maps(4, (1, 20, 20))
    region = np.zeros(truth.shape, dtype=bool)
    region[:, :3] = True
    got = map_metrics(truth, prediction, region)
    assert {name for name, values in got.items() if np.isnan(values[0])} == {"ssim"}


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 6, 6), (2, 1, 200), (2, 6, 40)])
def test_image_smaller_than_the_window_has_no_ssim_but_the_rest(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(5)
    truth, prediction = rng.random(shape, np.float32), rng.random(shape, np.float32)
    got = map_metrics(truth, prediction)
    assert np.isnan(got["ssim"]).all()
    assert np.isnan(ssim_map(truth, prediction)).all()
    assert all(np.isfinite(got[name]).all() for name in ("coss", "psnr", "mae"))


def test_dtype_does_not_matter_and_no_image_is_fine() -> None:
    truth, prediction = some_maps(6, (2, 16, 16))
    for name, values in map_metrics(truth.astype(np.float64), prediction.astype(np.float64)).items():
        np.testing.assert_array_equal(values, map_metrics(truth, prediction)[name])
    assert all(values.shape == (0,) for values in map_metrics(truth[:0], prediction[:0]).values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_what_would_pass_for_undefined(value: float) -> None:
    truth, prediction = some_maps(7, (2, 16, 16))
    prediction[1, 3, 3] = value
    with pytest.raises(ValueError, match="prediction has NaN or infinity"):
        map_metrics(truth, prediction)


def test_refuses_other_shapes() -> None:
    maps = np.zeros((2, 8, 8), np.float32)
    with pytest.raises(ValueError, match="two maps"):
        map_metrics(maps, maps[:, :7])
    with pytest.raises(ValueError, match="bool region"):
        map_metrics(maps, maps, maps)
    with pytest.raises(ValueError, match="without pixels"):
        map_metrics(maps[:, :, :0], maps[:, :, :0])


@settings(max_examples=60)
@given(pairs)
def test_bounds_and_symmetry(maps: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = maps
    got = map_metrics(truth, prediction)
    for name, (low, high) in {"coss": (0, 1), "psnr": (0, 100), "ssim": (-1, 1), "mae": (0, 1)}.items():
        assert ((got[name] >= low - 1e-12) & (got[name] <= high + 1e-12)).all(), name
    swapped = map_metrics(prediction, truth)
    for name in ("coss", "ssim", "mae", "psnr"):
        np.testing.assert_array_equal(got[name], swapped[name])
    same = map_metrics(truth, truth)
    np.testing.assert_allclose(
        [same[name] for name in ("coss", "psnr", "ssim", "mae")], [[1] * 2, [100] * 2, [1] * 2, [0] * 2]
    )


@settings(max_examples=40)
@given(pairs, st.randoms(use_true_random=False))
def test_joint_permutation_of_pixels_changes_nothing_but_ssim(maps: tuple[np.ndarray, np.ndarray], random) -> None:
    truth, prediction = maps
    order = list(range(truth[0].size))
    random.shuffle(order)
    moved = [m.reshape(2, -1)[:, order].reshape(m.shape) for m in maps]
    for metric in (coss, psnr, mae):
        np.testing.assert_allclose(metric(*moved), metric(truth, prediction), atol=1e-9)


@pytest.mark.parametrize("shape", [(40, 64, 64), (7, 11, 13), (5, 128, 128), (3, 300, 300)])
@pytest.mark.parametrize("regional", [False, True])
def test_value_does_not_depend_on_the_batch_to_the_bit(shape: tuple[int, int, int], regional: bool) -> None:
    truth, prediction = some_maps(8, shape)
    region = truth > 0.2 if regional else None
    whole = map_metrics(truth, prediction, region)
    for i in range(0, len(truth), 3):
        alone = map_metrics(truth[i : i + 1], prediction[i : i + 1], None if region is None else region[i : i + 1])
        for name in whole:
            np.testing.assert_array_equal(whole[name][i], alone[name][0])
    for metric in MAP_METRICS:
        np.testing.assert_array_equal(metric(truth, prediction, region), whole[metric.__name__])
    np.testing.assert_array_equal(top_score(prediction)[-1], top_score(prediction[-1:])[0])


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_auroc_agrees_with_scikit_learn_with_ties(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 7 for score, _ in rows])
    fake = np.array([label for _, label in rows])
    if fake.all() or not fake.any():
        assert np.isnan(auroc(scores, fake))
    else:
        assert auroc(scores, fake) == pytest.approx(roc_auc_score(fake, scores), abs=1e-12)


def test_auroc_by_hand() -> None:
    fake = np.array([False, False, True, True])
    assert auroc(np.array([0.1, 0.2, 0.3, 0.4]), fake) == 1.0
    assert auroc(np.array([0.4, 0.3, 0.2, 0.1]), fake) == 0.0
    assert auroc(np.full(4, 0.5), fake) == 0.5
    assert auroc(np.array([0.1, 0.3, 0.3, 0.4]), fake) == 3.5 / 4
    assert auroc(np.array([0.1, np.inf, -np.inf, 0.4]), fake) == 0.25
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([0.1, np.nan, 0.2, 0.3]), fake)


def test_top_score_is_the_mean_of_the_highest_twentieth() -> None:
    rng = np.random.default_rng(9)
    maps = rng.random((70, 33, 31), np.float32)
    expected = [np.sort(m.ravel().astype(np.float64))[-52:].mean() for m in maps]  # ceil(0.05 * 1023) = 52
    np.testing.assert_allclose(top_score(maps), expected, atol=1e-12)
    assert top_score(np.full((1, 1, 1), 0.3, np.float32))[0] == pytest.approx(0.3)
    assert top_score(maps, share=1.0)[0] == pytest.approx(maps[0].mean(), abs=1e-6)
    with_one_hot_pixel = np.zeros((1, 10, 10), np.float32)
    with_one_hot_pixel[0, 2, 2] = 1.0
    assert top_score(with_one_hot_pixel)[0] == pytest.approx(1 / 5)


@given(
    st.sampled_from([5, 16, 97, 400]).flatmap(
        lambda size: arrays(np.float32, size, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]) | unit)
    ),
    st.sampled_from([0.01, 0.05, 0.5, 1.0]),
    st.sampled_from([1, 2, 32]),
)
def test_top_score_is_that_of_a_whole_sort(values: np.ndarray, share: float, high: int) -> None:
    for map_ in (values, np.where(np.arange(len(values)) % high == 0, values, values / 4).astype(np.float32)):
        keep = max(1, math.ceil(share * len(map_)))
        expected = math.fsum(np.sort(map_)[-keep:].astype(np.float64)) / keep
        assert top_score(map_[None, None], share)[0] == pytest.approx(expected, rel=1e-14, abs=0)


def test_only_what_is_asked_is_measured() -> None:
    truth, prediction = some_maps(3, (2, 16, 16))
    every = map_metrics(truth, prediction)
    some = map_metrics(truth, prediction, asked=("ssim", "coss", "f1"))
    assert list(some) == ["coss", "ssim"]
    assert all((values == every[name]).all() for name, values in some.items())
    assert map_metrics(truth, prediction, asked=()) == {}


def test_false_alarm_counts_one_half() -> None:
    maps = np.array([[[0.0, 0.5], [0.49, 1.0]], [[0, 0], [0, 0]]], np.float32)
    assert false_alarm(maps).tolist() == [0.5, 0.0]


FAKE = np.arange(40) % 2 == 0


def edits(amplitude: float, side: int, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Maps of a good locator: a small square at another place in every fake, silence on real images."""
    rng = np.random.default_rng(seed)
    maps = np.abs(rng.normal(0, noise, (len(FAKE), 64, 64))) if noise else np.zeros((len(FAKE), 64, 64))
    for i in np.flatnonzero(FAKE):
        y, x = rng.integers(0, 64 - side, 2)
        maps[i, y : y + side, x : x + side] += amplitude
    return np.clip(maps, 0, 1).astype(np.float32)


@pytest.mark.parametrize("level", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.0, 5e-4])
def test_collapse_to_one_number_is_told(level: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    maps = np.clip(level + rng.normal(0, noise, (40, 64, 64)), 0, 1).astype(np.float32)
    sentence = collapse(maps, FAKE)
    assert sentence is not None
    assert "one number" in sentence
    assert f"{np.mean(maps):.2f}" in sentence


def test_collapse_is_not_hidden_by_a_few_hot_pixels() -> None:
    maps = np.zeros((40, 64, 64), np.float32)
    maps[:, 0, :3] = 1.0
    assert "one number" in str(collapse(maps, FAKE))


def test_collapse_to_one_map_is_told() -> None:
    rng = np.random.default_rng(1)
    mean = gaussian_filter(rng.random((64, 64)), 6)
    mean = (mean - mean.min()) / np.ptp(mean)
    maps = np.clip(mean + rng.normal(0, 0.02, (40, 64, 64)), 0, 1).astype(np.float32)
    assert "same for every image" in str(collapse(maps, FAKE))


@pytest.mark.parametrize(("amplitude", "side"), [(0.015, 7), (0.03, 6), (0.2, 4), (1.0, 30)])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_good_locator_of_subtle_edits_is_not_collapsed(amplitude: float, side: int, noise: float) -> None:
    maps = edits(amplitude, side, noise=noise)
    assert collapse(maps, FAKE) is None
    assert collapse(maps[FAKE]) is None


def test_good_locator_of_whole_synthesis_is_not_collapsed() -> None:
    maps = np.zeros((40, 16, 16), np.float32)
    maps[FAKE] = 1.0
    assert collapse(maps, FAKE) is None
    assert collapse(maps[FAKE]) is None  # without real images a right answer and a collapse are one
    assert collapse(maps[~FAKE], FAKE[~FAKE]) is None  # nothing to find


def test_image_score_as_a_flat_map_is_not_collapsed() -> None:
    levels = np.random.default_rng(2).random(40).astype(np.float32)
    assert collapse(np.broadcast_to(levels[:, None, None], (40, 16, 16)), FAKE) is None


def test_ground_truth_of_one_image_is_not_collapsed() -> None:
    assert collapse(edits(0.3, 10)[:1]) is None


def test_worst_values_are_the_bounds() -> None:
    shares = dict.fromkeys(("f1", "iou", "pixel_auroc", "pixel_ap"), 0.0)
    assert dict(metrics.WORST) == {"coss": 0.0, "psnr": 0.0, "ssim": -1.0, "mae": 1.0, **shares}
