"""The finish: its noise is what it says, a pair shares it, and JPEG leaves its blocks."""

import io

import numpy as np
from PIL import Image

from flbench.synthetic.finish import CHROMA_SIGMA, LUMA_SIGMA, finish, noise


def test_noise_has_the_stated_variance_and_covariance():
    """Var = L² + C² in every channel, Cov = L² between channels; the mean of 65,536 is within 5 standard errors."""
    field = noise(7, 256, 256)
    assert field.shape == (256, 256, 3)
    assert field.dtype == np.float32
    flat = field.reshape(-1, 3).astype(float)
    assert np.abs(flat.mean(0)).max() < 5 * 2.5 / 256
    covariance = np.cov(flat.T)
    expected = np.full((3, 3), LUMA_SIGMA**2) + CHROMA_SIGMA**2 * np.eye(3)
    assert np.abs(covariance - expected).max() < 0.15
    assert abs(np.sqrt(np.diag(covariance)).mean() - 2.5) < 0.05


def test_noise_is_white():
    """Neighbours are uncorrelated: |r| below 5 / sqrt(n)."""
    field = noise(3, 256, 256)[:, :, 1].astype(float)
    for first, second in ((field[1:], field[:-1]), (field[:, 1:], field[:, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / 256


def test_noise_belongs_to_the_person():
    assert np.array_equal(noise(5, 32, 48), noise(5, 32, 48))
    assert np.abs(np.corrcoef(noise(5, 64, 64).ravel(), noise(6, 64, 64).ravel())[0, 1]) < 0.05


def test_the_difference_of_a_pair_stays_the_edit():
    """Two flat images 40 levels apart: after the finish the difference is 40 everywhere, up to rounding and JPEG."""
    low, high = np.full((64, 64, 3), 90, np.uint8), np.full((64, 64, 3), 130, np.uint8)
    difference = finish(high, 9).astype(int) - finish(low, 9)
    assert abs(difference.mean() - 40) < 0.1
    assert difference.std() < 0.5 * finish(low, 9).std()
    other = finish(high, 10).astype(int) - finish(low, 9)
    assert other.std() > finish(low, 9).std()


def test_the_result_is_one_jpeg_round_trip_of_the_noisy_image():
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    noisy = np.rint(image + noise(4, 40, 56)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90, subsampling=2)
    file.seek(0)
    assert np.array_equal(finish(image, 4), np.asarray(Image.open(file).convert("RGB")))
    assert np.array_equal(finish(image, 4), finish(image, 4))


def test_compression_leaves_blocks():
    """Between 8x8 blocks a smooth ramp jumps more than inside them, which noise alone would not do."""
    steps = np.zeros(8)
    for seed in range(24):
        ramp = np.linspace(40, 200, 128)[None, :] + np.linspace(0, 30, 128)[:, None]
        image = finish(np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8), seed).astype(float).mean(2)
        jump = np.abs(np.diff(image, n=2, axis=1)).mean(0)
        steps += [jump[place::8].mean() for place in range(8)]
    assert steps.max() > 1.04 * np.median(steps)
    assert {6, 7} & set(np.argsort(steps)[-2:].tolist())
