"""Conventions of F1, IoU, AUROC and AP: scikit-learn and brute force, corners by hand, and properties."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from flbench.protocol import METRICS
from flbench.record import Convention
from flbench.scoring.conventions import AXES, COLUMNS, CONVENTIONS, GROUND_TRUTHS, Tally, choose_thresholds
from flbench.scoring.pixels import pixel_metrics

SCIKIT = {"f1": f1_score, "iou": jaccard_score, "pixel_auroc": roc_auc_score, "pixel_ap": average_precision_score}
VALID = {0.05: 0.25, 0.1: 0.375, 0.2: 0.625}
THRESHOLDED = ("f1", "iou")


class Image(NamedTuple):
    truth: np.ndarray
    prediction: np.ndarray
    fake: bool
    region: np.ndarray | None = None


def some_images(seed: int, levels: int | None, *, regions: bool = False) -> list[Image]:
    """Fakes of several shapes, one inverted, one hardly edited, and a loud and a silent photo; on a grid or free."""
    rng = np.random.default_rng(seed)
    images = []
    for kind in ("plain", "inverted", "faint", "plain", "loud", "silent"):
        fake = kind not in ("loud", "silent")
        shape = (5 + len(images) % 3, 6)
        truth = np.clip(rng.random(shape) - 0.5, 0, 1) * fake * (0.15 if kind == "faint" else 1)
        prediction = np.clip(truth + rng.normal(0.2, 0.2, shape), 0, 1)
        prediction = {"inverted": 1 - prediction, "silent": prediction * 0.2}.get(kind, prediction)
        if levels:  # never one half: there 1 - map and what the map leaves differ
            prediction = (np.floor(prediction * (levels - 1)) + 0.25) / levels
        region = rng.random(shape) < 0.6 if regions else None
        images.append(Image(truth.astype(np.float32), prediction.astype(np.float32), fake, region))
    return images


def tally(images: Iterable[Image], valid: dict[float, float] | None = VALID) -> dict[str, Convention]:
    made = Tally(valid)
    for image in images:
        made.add(*image)
    return made.results()


class Flat(NamedTuple):
    """Pixels as scikit-learn takes them."""

    fake: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Image], level: float) -> Flat:
        inside = [image.region if image.region is not None else np.ones(image.truth.shape, bool) for image in images]
        return cls(
            np.concatenate([image.truth[part] >= level for image, part in zip(images, inside, strict=True)]),
            np.concatenate([image.prediction[part] for image, part in zip(images, inside, strict=True)]),
        )


def directly(metric: str, how: str, flat: Flat, level: float) -> float:
    """One value of some pixels: by scikit-learn, the oracle's threshold by trying all, the inverse as 1 - p."""
    if not flat.fake.any() or (metric == "pixel_auroc" and flat.fake.all()):
        return math.nan
    value = flat.value.astype(np.float64)
    maps = [value, 1 - value] if how.endswith("or-inverse") else [value]
    if metric not in THRESHOLDED:
        return max(SCIKIT[metric](flat.fake, p) for p in maps)
    kind = how.split("/")[0]
    fixed = {"0.5": 0.5, "valid": VALID[level]}.get(kind)
    cuts = [p >= (best_threshold(flat.fake, p) if fixed is None else fixed) for p in maps]
    return max(SCIKIT[metric](flat.fake, called) for called in cuts)


def best_threshold(fake: np.ndarray, p: np.ndarray) -> float:
    """The value of p at which hits are most numerous among all that is called or fake, the highest of equals."""
    found = {t: (fake & (p >= t)).sum() / (fake | (p >= t)).sum() for t in sorted(set(p.tolist()), reverse=True)}
    return max(found, key=lambda t: found[t])


def expected(name: str, images: Sequence[Image]) -> float:
    metric, averaging, which, *hows, truth = name.split("/")
    how, level = "/".join(hows), float(truth)
    chosen = [image for image in images if image.fake or which != "fakes"]
    if averaging == "pooled":
        return directly(metric, how, Flat.of(chosen, level), level)
    values = []
    for image in chosen:
        flat = Flat.of([image], level)
        if flat.fake.any() or which == "fakes":
            values.append(directly(metric, how, flat, level))
        elif which == "all-zero":
            values.append(0.0)
        else:
            values.append(float(not (flat.value >= (0.5 if how.startswith("0.5") else VALID[level])).any()))
    return float(np.nanmean(values))


@pytest.fixture(scope="module", params=[(16, False), (256, True), (None, False), (None, True)], ids=str)
def measured(request: pytest.FixtureRequest) -> tuple[list[Image], dict[str, Convention]]:
    images = some_images(7, request.param[0], regions=request.param[1])
    return images, tally(images)


@pytest.mark.parametrize("how", sorted({name.rpartition("/")[0] for name in CONVENTIONS}))
def test_convention_agrees_with_scikit(how: str, measured: tuple[list[Image], dict[str, Convention]]) -> None:
    images, results = measured
    for level in GROUND_TRUTHS:
        name = f"{how}/{level:g}"
        assert results[name].value == pytest.approx(expected(name, images), abs=1e-9), name


@pytest.mark.parametrize("sharpness", [1, 8, 14])
def test_pooled_values_of_saturated_maps_are_close(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((128, 128), np.float32)
    prediction = 1 / (1 + np.exp(-sharpness * (truth - 0.4 + rng.normal(0, 0.5, truth.shape))))
    images = [Image(truth, prediction.astype(np.float32), True)]
    results = tally(images)
    for how, off in (("pixel_auroc/{}/as-is/0.2", 1e-5), ("pixel_ap/{}/as-is/0.2", 1e-4), ("f1/{}/0.5/as-is/0.2", 0)):
        exact, level = (results[how.format(over)].value for over in ("image/fakes", "pooled/all"))
        assert level == pytest.approx(exact, abs=off, rel=1e-15), how
    for how in ("f1/{}/oracle/as-is/0.2", "iou/{}/oracle/or-inverse/0.2"):
        exact, level = (results[how.format(over)].value for over in ("image/fakes", "pooled/fakes"))
        assert exact - 1e-4 < level <= exact, how


def test_columns_are_the_protocols_metrics() -> None:
    images = some_images(1, None)
    results = tally(images)
    assert set(COLUMNS) <= set(METRICS)
    for metric, name in COLUMNS.items():
        values = [pixel_metrics(i.truth[None], i.prediction[None])[metric][0] for i in images if i.fake]
        assert results[name].value == pytest.approx(np.nanmean(values), abs=1e-12)
        assert (results[name].n, results[name].undefined) == (
            np.isfinite(values).sum(),
            np.isnan(values).sum(),
        )


def corner(truth: float, prediction: float, fake: bool) -> Image:
    return Image(np.full((4, 4), truth, np.float32), np.full((4, 4), prediction, np.float32), fake)


HALF = np.repeat(np.array([[1, 1, 0, 0]], np.float32), 4, axis=0)
FOUND, NOTHING_SAID = Image(HALF, HALF, True), Image(HALF, 0 * HALF, True)


def counts(results: dict[str, Convention], name: str) -> tuple[float | None, int, int]:
    return results[name].value, results[name].n, results[name].undefined


def test_real_images_count_as_the_convention_says() -> None:
    results = tally([FOUND, corner(0, 0, False), corner(0, 0.4, False), corner(0, 0.9, False)])
    assert counts(results, "f1/image/fakes/0.5/as-is/0.1") == (1, 1, 0)
    assert counts(results, "f1/image/all-zero/0.5/as-is/0.1") == (1 / 4, 4, 0)
    assert counts(results, "f1/image/all-one/0.5/as-is/0.1") == (3 / 4, 4, 0)
    assert counts(results, "f1/image/all-one/valid/as-is/0.1") == (2 / 4, 4, 0)  # 0.4 is called at 0.375
    assert counts(results, "iou/image/all-one/0.5/as-is/0.1") == (3 / 4, 4, 0)
    assert counts(results, "f1/image/all-zero/0.5/or-inverse/0.1") == (1 / 4, 4, 0)
    assert counts(results, "pixel_auroc/image/all-zero/as-is/0.1") == (1 / 4, 4, 0)
    assert counts(results, "pixel_ap/image/fakes/as-is/0.1") == (1, 1, 0)
    assert counts(results, "f1/pooled/fakes/0.5/as-is/0.1") == (1, 1, 0)
    # 8 found, 16 called in the last real image.
    assert counts(results, "f1/pooled/all/0.5/as-is/0.1") == (pytest.approx(16 / 32), 4, 0)
    assert counts(results, "iou/pooled/all/0.5/as-is/0.1") == (pytest.approx(8 / 24), 4, 0)
    assert counts(results, "f1/pooled/all/oracle/as-is/0.1") == (1, 4, 0)


def test_fakes_without_a_fake_pixel_are_left_out_or_counted_by_name() -> None:
    results = tally([FOUND, corner(0.07, 0, True)])
    assert counts(results, "f1/image/fakes/0.5/as-is/0.05") == (1 / 2, 2, 0)
    assert counts(results, "f1/image/fakes/0.5/as-is/0.1") == (1, 1, 1)
    assert counts(results, "f1/image/all-zero/0.5/as-is/0.1") == (1 / 2, 2, 0)
    assert counts(results, "f1/image/all-one/0.5/as-is/0.1") == (1, 2, 0)


def test_all_fake_has_no_auroc_but_the_rest() -> None:
    results = tally([corner(1, 1, True)])
    for name, found in results.items():
        if name.startswith("pixel_auroc"):
            assert (found.value, found.n, found.undefined) == (None, 0, 1), name
        else:
            assert (found.value, found.n, found.undefined) == (1, 1, 0), name


def test_map_of_zeros_and_of_ones_and_inverted() -> None:
    zeros = tally([NOTHING_SAID])
    assert zeros["f1/image/fakes/0.5/as-is/0.1"].value == 0
    assert zeros["f1/image/fakes/0.5/or-inverse/0.1"].value == pytest.approx(2 / 3)
    assert zeros["f1/pooled/all/oracle/as-is/0.1"].value == pytest.approx(2 / 3)  # everything called
    assert zeros["pixel_auroc/pooled/all/or-inverse/0.1"].value == 0.5
    ones = tally([Image(HALF, np.ones_like(HALF), True)])
    assert ones["iou/image/fakes/0.5/as-is/0.1"].value == 0.5
    assert ones["pixel_ap/pooled/fakes/as-is/0.1"].value == 0.5
    inverted = tally([Image(HALF, 1 - HALF, True)])
    for name, found in inverted.items():
        assert "or-inverse" not in name or found.value == 1, name
    assert inverted["f1/pooled/fakes/0.5/as-is/0.1"].value == 0
    assert inverted["pixel_auroc/image/fakes/as-is/0.1"].value == 0


def test_inverse_is_chosen_for_each_image_or_once() -> None:
    results = tally([FOUND, Image(HALF, 1 - HALF, True)])
    assert results["f1/image/fakes/0.5/or-inverse/0.1"].value == 1
    assert results["f1/pooled/fakes/0.5/or-inverse/0.1"].value == 0.5
    assert results["pixel_auroc/pooled/fakes/or-inverse/0.1"].value == 0.5


def test_oracle_is_one_threshold_for_each_image_or_for_all() -> None:
    faint = Image(HALF, 0.2 + 0.1 * HALF, True)
    loud = Image(HALF, 0.6 + 0.3 * HALF, True)
    results = tally([faint, loud])
    assert results["f1/image/fakes/oracle/as-is/0.1"].value == 1
    # One cut: at 0.9 half of the fakes are found; at 0.6 these and half of the real; at 0.3 all and half of the real.
    assert results["f1/pooled/fakes/oracle/as-is/0.1"].value == pytest.approx(4 / 5)


def test_without_a_fake_nothing_but_the_named_substitutes_has_a_value() -> None:
    for name, found in tally([corner(0, 0.1, False), corner(0, 0.8, False)]).items():
        if "/all-zero/" in name:
            assert (found.value, found.n, found.undefined) == (0, 2, 0), name
        elif "/all-one/" in name:
            assert (found.value, found.n, found.undefined) == (0.5, 2, 0), name
        else:
            assert found.value is None, name
            assert (found.n, found.undefined) == (0, 2 if "/pooled/all/" in name else 0), name


def test_an_image_without_pixels_is_undefined_everywhere() -> None:
    nowhere = Image(HALF, HALF, True, np.zeros(HALF.shape, bool))
    for name, found in tally([nowhere, FOUND]).items():
        assert (found.value, found.n, found.undefined) == (1, 1, 1), name


def test_nothing_added_is_no_number() -> None:
    assert {(c.value, c.n, c.undefined) for c in tally([]).values()} == {(None, 0, 0)}


def test_names_say_what_they_are() -> None:
    assert len(CONVENTIONS) == len(set(CONVENTIONS.values())) == 180
    assert COLUMNS["f1"] == "f1/image/fakes/0.5/as-is/0.1"
    assert set(COLUMNS.values()) <= set(CONVENTIONS)
    assert len(AXES) == 6
    for name in CONVENTIONS:
        metric, averaging, images, *rest = name.split("/")
        assert len(rest) == (3 if metric in THRESHOLDED else 2), name
        for axis, part in zip(("metric", "averaging", "images"), (metric, averaging, images), strict=True):
            assert part in AXES[axis], name
        assert rest[-1] in AXES["ground truth"]
        assert rest[-2] in AXES["map"]
        assert metric not in THRESHOLDED or rest[0] in AXES["threshold"]
    words = CONVENTIONS["f1/image/all-zero/oracle/or-inverse/0.05"]
    for part in ("F1", "0 for one without a fake pixel", "best threshold for each image", "better of the map", "0.05"):
        assert part in words


def test_conventions_without_a_threshold_of_valid_are_left_out() -> None:
    with_all, without, some = tally([FOUND]), tally([FOUND], None), tally([FOUND], {0.1: 0.5})
    assert list(with_all) == list(CONVENTIONS)
    assert list(without) == [name for name in CONVENTIONS if "/valid/" not in name]
    assert set(some) - set(without) == {n for n in CONVENTIONS if "/valid/" in n and n.endswith("/0.1")}


def test_thresholds_are_the_best_by_trying_all() -> None:
    images = some_images(3, 256)
    chosen = choose_thresholds([i.truth for i in images], [i.prediction for i in images])
    assert list(chosen) == list(GROUND_TRUTHS)
    for level, threshold in chosen.items():
        flat = Flat.of(images, level)
        best = best_threshold(flat.fake, flat.value)
        assert f1_score(flat.fake, flat.value >= threshold) == f1_score(flat.fake, flat.value >= best)


def test_thresholds_are_the_highest_of_equals_and_inside_the_region() -> None:
    truth, prediction = np.float32([[1, 1, 0, 0]]), np.float32([[0.75, 0.5, 0.25, 0.9]])
    assert choose_thresholds([truth], [prediction])[0.1] == 0.5
    inside = np.array([[True, True, True, False]])
    assert choose_thresholds([truth], [prediction], [inside])[0.1] == 0.5
    inside = np.array([[True, False, False, True]])
    assert choose_thresholds([truth], [prediction], [inside])[0.1] == 0.75
    assert choose_thresholds([np.float32([[1, 0]])], [np.float32([[1, 0]])])[0.1] == 1


def test_thresholds_for_levels_that_no_truth_reaches_are_missing() -> None:
    maps = [np.full((3, 3), 0.07, np.float32)]
    assert list(choose_thresholds(maps, maps)) == [0.05]
    assert choose_thresholds([], []) == {}


def test_a_chosen_threshold_gives_on_valid_the_oracles_value() -> None:
    images = some_images(5, None)
    chosen = choose_thresholds((i.truth for i in images), (i.prediction for i in images))
    results = tally(images, chosen)
    for level in GROUND_TRUTHS:
        same = [results[f"f1/pooled/all/{kind}/as-is/{level:g}"].value for kind in ("valid", "oracle")]
        assert same[0] == same[1]


def test_what_cannot_be_right_is_refused() -> None:
    for valid in ({0.3: 0.5}, {0.1: 1.5}, {0.1: math.nan}):
        with pytest.raises(ValueError, match="no threshold"):
            Tally(valid)
    with pytest.raises(ValueError, match="real image"):
        Tally().add(HALF, HALF, False)
    with pytest.raises(ValueError, match="one shape"):
        Tally().add(HALF, HALF[:2], True)
    with pytest.raises(ValueError, match="zip"):
        choose_thresholds([HALF, HALF], [HALF])
    with pytest.raises(ValueError, match="zip"):
        choose_thresholds([HALF], [HALF], [None, None])


grid = st.integers(0, 16).map(lambda k: k / 16)
fakes = st.tuples(arrays(np.float32, (3, 4), elements=grid), arrays(np.float32, (3, 4), elements=grid)).map(
    lambda maps: Image(*maps, True)
)
reals = arrays(np.float32, (3, 4), elements=grid).map(lambda p: Image(np.zeros((3, 4), np.float32), p, False))
slices = st.lists(fakes | reals, min_size=1, max_size=5)


@settings(max_examples=25)
@given(slices)
def test_bounds_and_what_can_only_be_better(images: list[Image]) -> None:
    results = tally(images)
    for name, found in results.items():
        assert found.value is None or 0 <= found.value <= 1, name
        better = [name.replace("as-is", "or-inverse")]
        better += [name.replace(f"/{kind}/", "/oracle/") for kind in ("0.5", "valid")]
        for other in better:
            if other in results and found.value is not None:
                assert results[other].value >= found.value, (name, other)
                assert (results[other].n, results[other].undefined) == (found.n, found.undefined)


@settings(max_examples=25)
@given(slices, st.randoms(use_true_random=False))
def test_order_does_not_matter_to_the_bit(images: list[Image], random: object) -> None:
    images = [image._replace(prediction=image.prediction / 3) for image in images]
    shuffled = list(images)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert tally(images) == tally(shuffled)


@settings(max_examples=25)
@given(slices)
def test_ranks_are_all_that_auroc_ap_and_the_oracle_need(images: list[Image]) -> None:
    curved = [image._replace(prediction=np.sqrt(image.prediction) * 0.7) for image in images]
    before, after = tally(images), tally(curved)
    for name, found in before.items():
        if name.startswith("pixel_") or "/oracle/" in name:
            assert after[name] == found, name


@settings(max_examples=25)
@given(slices)
def test_one_image_pooled_is_that_image(images: list[Image]) -> None:
    image = next((image for image in images if image.fake), None)
    results = tally([image] if image else [])
    for name, found in results.items():
        if "/image/fakes/" in name:
            pooled = results[name.replace("/image/", "/pooled/")].value
            assert pooled is None if found.value is None else pooled == pytest.approx(found.value, abs=1e-12)
