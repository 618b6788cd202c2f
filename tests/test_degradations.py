"""Degradations against numpy, scipy and Pillow by other ways; noise by its statistics; quadrants by property."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from scipy import ndimage, stats

from flbench.condition import KINDS, parse_condition
from flbench.data.degradations import Degraded, blur, degrade, disorganize, low_resolution, noise
from flbench.data.fakeness import fakeness_map

EVERY = ("jpeg-35", "blur-5", "noise-0.01", "lowres-3", "disorganized")
SHAPES = [(1, 1), (1, 6), (5, 1), (2, 2), (3, 3), (7, 4), (16, 16), (33, 20)]
sizes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
images = sizes.flatmap(lambda size: arrays(np.uint8, (*size, 3)))
keys = st.text(min_size=1, max_size=8)


def some_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, height, width])
    smooth = ndimage.gaussian_filter(rng.normal(0, 400, (height, width, 3)), (3, 3, 0)) + 120
    return np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)


def apply(name: str, image: np.ndarray, key: str = "a", **others: np.ndarray | None) -> Degraded:
    others.setdefault("truth", np.zeros(image.shape[:2], np.float32))
    return degrade(parse_condition(name), image, key=key, **others)


def pixels(name: str, image: np.ndarray, key: str = "a") -> np.ndarray:
    return apply(name, image, key).image


def gaussian(size: int) -> np.ndarray:
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    places = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def within_rounding(got: np.ndarray, exact: np.ndarray) -> None:
    assert np.abs(got.astype(np.float64) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 95, 100])
@pytest.mark.parametrize("shape", [(64, 64), (33, 20), (1, 1)])
def test_jpeg_agrees_with_explicit_tables(quality: int, shape: tuple[int, int]) -> None:
    """The tables are those of the standard's annex K, scaled as the IJG does it, given to the encoder as numbers."""
    image = some_image(*shape)
    probe = io.BytesIO()
    Image.new("RGB", (8, 8)).save(probe, "JPEG", quality=50)  # the tables as they are printed there
    tables = Image.open(probe).quantization
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    scaled = {n: [min(255, max(1, (q * scale + 50) // 100)) for q in table] for n, table in tables.items()}
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", qtables=scaled, subsampling=2)
    np.testing.assert_array_equal(pixels(f"jpeg-{quality}", image), np.asarray(Image.open(file).convert("RGB")))


def test_jpeg_halves_the_colour_and_keeps_the_brightness_finer() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:, ::2] = (255, 0, 0)
    image[:, 1::2] = (0, 130, 0)  # of nearly the same brightness
    got = pixels("jpeg-100", image).astype(int)
    assert np.abs(got[:, ::2] - got[:, 1::2])[8:-8].max() < 40, "4:2:0 averages the colours of neighbours"
    gray = np.zeros((64, 64, 3), np.uint8)
    gray[:, ::2] = 255
    assert np.abs(pixels("jpeg-100", gray).astype(int) - gray).max() < 10


def test_jpeg_is_harsher_at_lower_quality() -> None:
    image = some_image(64, 64)
    errors = [np.square(pixels(f"jpeg-{q}", image).astype(float) - image).mean() for q in (95, 70, 40, 10)]
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1]


@pytest.mark.parametrize("size", [3, 5, 9, 15])
@pytest.mark.parametrize("shape", [(24, 31), (16, 16), (20, 20)])
def test_blur_agrees_with_a_direct_convolution(size: int, shape: tuple[int, int]) -> None:
    image = some_image(*shape)
    half = size // 2
    padded = np.pad(image.astype(np.float64), ((half, half), (half, half), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    within_rounding(pixels(f"blur-{size}", image), np.einsum("hwcij,ij->hwc", windows, gaussian(size)))


@pytest.mark.parametrize("size", [3, 21, 255])
@pytest.mark.parametrize("shape", SHAPES)
def test_blur_agrees_with_scipy_where_the_kernel_is_larger_than_the_image(size: int, shape: tuple[int, int]) -> None:
    image = some_image(*shape)
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    exact = ndimage.gaussian_filter(image.astype(np.float64), sigma, radius=size // 2, mode="mirror", axes=(0, 1))
    within_rounding(pixels(f"blur-{size}", image), exact)


def test_blur_of_a_point_is_the_kernel() -> None:
    image = np.zeros((15, 15, 3), np.uint8)
    image[7, 7] = (255, 128, 0)
    exact = np.zeros(image.shape)
    exact[5:10, 5:10] = gaussian(5)[:, :, None] * image[7, 7]
    within_rounding(pixels("blur-5", image), exact)


@pytest.mark.parametrize("variance", [0.0005, 0.001, 0.002])
def test_noise_has_its_variance(variance: float) -> None:
    got = pixels(f"noise-{variance}", np.full((768, 768, 3), 128, np.uint8)).astype(float) - 128
    sigma = 255 * np.sqrt(variance)
    count = got.size
    assert abs(got.mean()) < 4 * sigma / np.sqrt(count)
    # Rounding adds 1/12; the estimate of a variance has a relative error of sqrt(2 / n).
    assert got.var() == pytest.approx(sigma**2 + 1 / 12, rel=4 * np.sqrt(2 / count))
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert np.quantile(got, share) == pytest.approx(sigma * stats.norm.ppf(share), abs=1.0)


def test_noise_is_clipped_and_does_not_wrap() -> None:
    sigma = 255 * np.sqrt(0.1)
    for level in (0, 128, 255):
        got = pixels("noise-0.1", np.full((128, 128, 3), level, np.uint8))
        black, white = (got == 0).mean(), (got == 255).mean()
        assert black == pytest.approx(stats.norm.cdf((0.5 - level) / sigma), abs=0.01)
        assert white == pytest.approx(stats.norm.sf((254.5 - level) / sigma), abs=0.01)


def noise_of(key: str, side: int = 128) -> np.ndarray:
    return pixels("noise-0.001", np.full((side, side, 3), 128, np.uint8), key).astype(float) - 128


def test_noise_is_independent_between_keys_channels_and_pixels() -> None:
    one, other = noise_of("one"), noise_of("other")
    together = [
        (one, other),
        *((one[..., c], one[..., d]) for c, d in ((0, 1), (0, 2), (1, 2))),
        (one[1:], one[:-1]),
        (one[:, 1:], one[:, :-1]),
        (one, one[::-1]),
        (one, other[:, ::-1]),
    ]
    for left, right in together:
        bound = 4.5 / np.sqrt(left.size)
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < bound


def test_noise_of_one_sample_is_one_field_at_every_variance() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    weak, strong = (pixels(f"noise-{v}", gray).astype(float) - 128 for v in (0.0009, 0.0036))
    assert np.abs(strong - 2 * weak).max() <= 1.5  # rounding: 0.5 and twice 0.5


def test_noise_twice_in_a_chain_draws_twice() -> None:
    gray = np.full((256, 256, 3), 128, np.uint8)
    got = pixels("noise-0.001+noise-0.001", gray).astype(float)
    # Independent variances add up; one field twice would give four times the variance instead of twice.
    assert got.var() == pytest.approx(2 * (255**2 * 0.001 + 1 / 12), rel=0.02)


def antialiased_weights(old: int, new: int) -> np.ndarray:
    """Rows of weights of a triangle filter as wide as the reduction, normalised at the border."""
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = antialiased_weights(image.shape[0], height), antialiased_weights(image.shape[1], width)
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)


@pytest.mark.parametrize("ratio", [2, 3, 4, 7, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_low_resolution_agrees_with_a_triangle_filter(ratio: int, shape: tuple[int, int]) -> None:
    image = some_image(*shape)
    small = [max(1, round(side / ratio)) for side in shape]
    exact = resized(resized(image, *small), *shape)
    # Pillow works with 8-bit intermediates: each of four passes rounds to half a level, and weights add up to one.
    assert np.abs(pixels(f"lowres-{ratio}", image) - exact).max() <= 2.1


def test_low_resolution_does_not_alias() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::4] = 255  # a quarter of the columns: without antialiasing every fourth column is all or none
    got = pixels("lowres-4", image)[:, 8:-8]
    assert got.min() >= 60
    assert got.max() <= 68


def places(height: int, width: int) -> np.ndarray:
    return np.arange(height * width, dtype=np.float32).reshape(height, width)


@settings(max_examples=150)
@given(size=sizes, key=keys)
def test_disorganization_permutes_pixels_and_is_never_the_identity(size: tuple[int, int], key: str) -> None:
    before = places(*size)
    after = apply("disorganized", np.zeros((*size, 3), np.uint8), key, truth=before).truth
    np.testing.assert_array_equal(np.sort(after, axis=None), before.ravel())
    assert np.array_equal(before, after) is (min(size) < 2)
    height, width = (side // 2 * 2 for side in size)
    np.testing.assert_array_equal(after[height:], before[height:])
    np.testing.assert_array_equal(after[:, width:], before[:, width:])


@settings(max_examples=100)
@given(size=sizes, key=keys)
def test_disorganization_is_one_permutation_of_image_photo_truth_and_region(size: tuple[int, int], key: str) -> None:
    before = places(*size)
    low = before.astype(np.uint8)  # at most 144 pixels: each has a colour of its own
    image, photo = np.stack([low, low, low], axis=2), np.stack([255 - low, low, 255 - low], axis=2)
    after = apply("disorganized", image, key, photo=photo, truth=before, region=before % 3 == 0)
    assert after.photo is not None
    assert after.region is not None
    for channel in range(3):
        np.testing.assert_array_equal(after.image[..., channel], after.truth.astype(np.uint8))
    np.testing.assert_array_equal(after.photo[..., 0], 255 - after.truth.astype(np.uint8))
    np.testing.assert_array_equal(after.photo[..., 1], after.truth.astype(np.uint8))
    np.testing.assert_array_equal(after.region, after.truth % 3 == 0)


def quadrants_after(key: str, size: int = 2) -> tuple[int, ...]:
    """Which quadrant is at each place, told by the corners of an index map."""
    index = np.kron(places(2, 2), np.ones((size // 2, size // 2), np.float32))
    after = apply("disorganized", np.zeros((size, size, 3), np.uint8), key, truth=index).truth
    assert np.array_equal(after, np.kron(after[:: size // 2, :: size // 2], np.ones((size // 2, size // 2))))
    return tuple(int(value) for value in after[:: size // 2, :: size // 2].ravel())


def test_every_permutation_but_the_identity_occurs_about_equally_often() -> None:
    found = [quadrants_after(f"sample-{number}") for number in range(2300)]
    counts = {order: found.count(order) for order in permutations(range(4))}
    assert counts.pop((0, 1, 2, 3)) == 0
    assert min(counts.values()) > 0
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@settings(max_examples=30)
@given(key=keys, half=st.integers(1, 9))
def test_the_permutation_depends_on_the_key_alone(key: str, half: int) -> None:
    assert quadrants_after(key, 2 * half) == quadrants_after(key)


@settings(max_examples=50)
@given(image=images, key=keys)
def test_equation_4_follows_the_disorganized_pair(image: np.ndarray, key: str) -> None:
    photo = image[::-1].copy()
    after = apply("disorganized", image, key, photo=photo, truth=fakeness_map(photo, image))
    assert after.photo is not None
    np.testing.assert_array_equal(fakeness_map(after.photo, after.image), after.truth)


def test_disorganize_by_hand() -> None:
    array = np.array([[1, 1, 2, 2, 9], [3, 3, 4, 4, 9], [8, 8, 8, 8, 8]])
    expected = np.array([[4, 4, 3, 3, 9], [1, 1, 2, 2, 9], [8, 8, 8, 8, 8]])
    np.testing.assert_array_equal(disorganize(array, (3, 2, 0, 1)), expected)


@settings(max_examples=50)
@given(image=images, key=keys, name=st.sampled_from(["clean", "blur-1", "noise-0", "lowres-1", "noise-0+blur-1"]))
def test_identity_severities_change_nothing(image: np.ndarray, key: str, name: str) -> None:
    assert parse_condition(name).is_identity
    np.testing.assert_array_equal(pixels(name, image, key), image)


@pytest.mark.parametrize("step", ["blur-1", "noise-0", "lowres-1"])
def test_identity_severities_change_nothing_by_computation_either(step: str) -> None:
    """Skipping the identity is a saving, not a special case."""
    image = some_image(17, 12)
    by_kind = {
        "blur-1": lambda: blur(image, 1),
        "noise-0": lambda: noise(image, 0.0, 5),
        "lowres-1": lambda: low_resolution(image, 1),
    }
    np.testing.assert_array_equal(by_kind[step](), image)


@settings(max_examples=60)
@given(image=images, key=keys, order=st.permutations(EVERY), length=st.integers(1, 5))
def test_a_chain_is_its_steps_one_by_one(image: np.ndarray, key: str, order: list[str], length: int) -> None:
    rng = np.random.default_rng(len(image))
    truth, region = rng.random(image.shape[:2], np.float32), rng.random(image.shape[:2]) < 0.5
    step_by_step = Degraded(image, image[::-1], truth, region)
    for name in order[:length]:
        step_by_step = degrade(parse_condition(name), key=key, **step_by_step._asdict())
    chain = apply("+".join(order[:length]), image, key, photo=image[::-1], truth=truth, region=region)
    for got, expected in zip(chain, step_by_step, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("one", "other"), [("lowres-2", "jpeg-30"), ("blur-5", "noise-0.01"), ("jpeg-30", "blur-5")])
def test_the_order_of_a_chain_matters(one: str, other: str) -> None:
    image = some_image(32, 32)
    assert not np.array_equal(pixels(f"{one}+{other}", image), pixels(f"{other}+{one}", image))


@settings(max_examples=60)
@given(image=images, key=keys, name=st.sampled_from([*EVERY, "+".join(EVERY), "clean"]), fake=st.booleans())
def test_shapes_and_types_are_kept_and_nothing_given_is_written_to(
    image: np.ndarray, key: str, name: str, fake: bool
) -> None:
    given_ = {
        "image": image,
        "photo": image[:, ::-1].copy() if fake else None,
        "truth": (image[..., 0] / 255).astype(np.float32),
        "region": image[..., 1] > 99 if fake else None,
    }
    kept = {word: None if array is None else array.copy() for word, array in given_.items()}
    for array in given_.values():
        if array is not None:
            array.flags.writeable = False
    after = degrade(parse_condition(name), **given_, key=key)
    for word, array in after._asdict().items():
        before = kept[word]
        if before is None:
            assert array is None
            continue
        assert (array.shape, array.dtype) == (before.shape, before.dtype)
        np.testing.assert_array_equal(given_[word], before)
    if "disorganized" not in name:
        assert after.photo is given_["photo"]
        assert after.truth is given_["truth"]
        assert after.region is given_["region"]


def test_every_kind_does_something_on_every_shape() -> None:
    assert {name.partition("-")[0] for name in EVERY} == set(KINDS)
    for name in EVERY:
        for shape in SHAPES:
            assert pixels(name, some_image(*shape)).shape == (*shape, 3)
        assert not np.array_equal(pixels(name, some_image(32, 32)), some_image(32, 32)), name


def test_a_result_depends_on_image_condition_and_key_only() -> None:
    first, second = some_image(32, 32, 1), some_image(32, 32, 2)
    name = "+".join(EVERY)
    alone = pixels(name, second, "b")
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    pixels(name, first, "a")
    np.testing.assert_array_equal(pixels(name, second, "b"), alone)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert not np.array_equal(pixels(name, second, "a"), alone)


def test_another_process_draws_the_same() -> None:
    """Pinned: published records would no longer be comparable if these changed."""
    code = (
        "import numpy as np; from flbench.condition import parse_condition as p; "
        "from flbench.data.degradations import degrade; gray = np.full((2, 2, 3), 128, np.uint8); "
        "truth = np.arange(4, dtype=np.float32).reshape(2, 2); "
        "r = degrade(p('noise-0.01'), gray, truth=truth, key='face-7').image.ravel().tolist(); "
        "print(r, degrade(p('disorganized'), gray, truth=truth, key='face-7').truth.ravel().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
        env={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "[140, 78, 120, 133, 163, 156, 120, 151, 168, 92, 100, 148] [1.0, 2.0, 3.0, 0.0]\n"


def test_what_does_not_fit_together_is_refused() -> None:
    image = some_image(8, 8)
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        apply("jpeg-50", image.astype(np.float32))
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        apply("jpeg-50", image[..., 0])
    for wrong in ({"photo": image[:4]}, {"truth": np.zeros((4, 8), np.float32)}, {"region": np.ones((8, 4), bool)}):
        with pytest.raises(ValueError, match="differs in size"):
            apply("disorganized", image, **wrong)
