"""Methods without training: what they measure against scipy, PIL and numpy, and what they must tell apart."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flbench.errors import UsageError
from flbench.locator import Locator
from flbench.methods import _filters as filters
from flbench.methods.ela import ErrorLevels
from flbench.methods.highpass import HighPass, laplacian3, median3
from flbench.methods.laplacian import NEIGHBOURS, PEAKS, LaplacianPeriodicity

METHODS: list[tuple[type[Locator], dict[str, Any]]] = [
    (HighPass, {}),
    (HighPass, {"residual": "laplacian", "sense": "smooth", "window": 1}),
    (ErrorLevels, {}),
    (ErrorLevels, {"quality": 50, "subsampling": "4:4:4", "window": 1}),
    (LaplacianPeriodicity, {}),
    (LaplacianPeriodicity, {"derivatives": "second", "sigma": 5.0}),
]
KERNELS = {
    "nearest": (1.0, 1.0),
    "bilinear": (0.5, 1.0, 0.5),
    "blurred": (0.25, 0.75, 0.75, 0.25),
    "transposed 3": (0.2, 1.0, 0.9),
    "transposed 4": (0.1, 0.8, 0.9, 0.35),
}


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return something like skin: float64 (H, W) around 0.5, fine and coarse structure and some noise."""
    draws = np.random.default_rng(seed)
    fine, coarse = (ndimage.gaussian_filter(draws.standard_normal((height, width)), s) for s in (1.0, 6.0))
    noise = draws.standard_normal((height, width))
    return 0.5 + 0.06 * fine / fine.std() + 0.1 * coarse / coarse.std() + 0.01 * noise


def enlarged(image: np.ndarray, kernel: tuple[float, ...]) -> np.ndarray:
    """Return the image at twice its size: zeros in between, then a filter, as a transposed convolution does it."""
    spread = np.zeros((2 * image.shape[0], 2 * image.shape[1]))
    spread[::2, ::2] = image
    return ndimage.convolve(spread, np.outer(kernel, kernel), mode="mirror")


def as_images(*planes: np.ndarray) -> Tensor:
    """Return gray planes (H, W) as float32 (B, 3, H, W) with the 256 levels of a PNG."""
    levels = np.rint(np.stack(planes).clip(0, 1) * 255) / 255
    return torch.from_numpy(levels).float().unsqueeze(1).repeat(1, 3, 1, 1)


def recompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)  # 2 is 4:2:0
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=str)
class TestContract:
    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (31, 57), (64, 64)], ids=str)
    def test_any_size(self, kind: type[Locator], options: dict[str, Any], size: tuple[int, int]) -> None:
        fakeness, score = kind(**options).predict(torch.rand(2, 3, *size))
        assert fakeness.shape == (2, *size)
        assert fakeness.dtype == torch.float32
        assert ((fakeness >= 0) & (fakeness <= 1)).all()
        assert score is None

    def test_flat_images_are_finite(self, kind: type[Locator], options: dict[str, Any]) -> None:
        images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 24, 24)
        fakeness = kind(**options).predict(images).fakeness
        # 0.5 is no gray level of 255: only rounding is left, the same everywhere.
        assert (fakeness.amax(dim=(1, 2)) - fakeness.amin(dim=(1, 2)) < 1e-3).all()

    def test_an_image_alone_or_among_others(self, kind: type[Locator], options: dict[str, Any]) -> None:
        locator = kind(**options)
        images = as_images(*(texture(48, 40, seed) for seed in range(3)))
        before = images.clone()
        together = locator.predict(images).fakeness
        assert torch.equal(together, locator.predict(images).fakeness)
        assert torch.equal(images, before), "the images are not the method's to change"
        for image, fakeness in zip(images, together, strict=True):
            torch.testing.assert_close(locator.predict(image[None]).fakeness[0], fakeness, rtol=1e-4, atol=1e-5)

    def test_nothing_to_fit(self, kind: type[Locator], options: dict[str, Any]) -> None:
        assert not kind.trains()
        assert kind(**options).parameters == 0


class TestFilters:
    @settings(max_examples=30)
    @given(
        height=st.integers(1, 20),
        width=st.integers(1, 20),
        window=st.sampled_from([1, 3, 9, 25]),
        seed=st.integers(0, 99),
    )
    def test_local_mean_and_median_are_scipys(self, height: int, width: int, window: int, seed: int) -> None:
        planes = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(seed))
        mean, median = filters.local_mean(planes, window)[0], median3(planes)[0]
        for index, plane in enumerate(planes[0].double().numpy()):
            expected = ndimage.uniform_filter(plane, window, mode="nearest")
            np.testing.assert_allclose(mean[index].numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(median[index].numpy(), ndimage.median_filter(plane, 3, mode="nearest"))

    def test_gray_is_pillows(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        expected = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)
        assert np.abs(filters.gray(images)[0, 0].numpy() - expected).max() <= 0.51

    def test_saturation_by_hand(self) -> None:
        assert filters.saturate(torch.tensor([0.0, 4.0, 12.0]), 4.0).tolist() == [0, 0.5, 0.75]

    @pytest.mark.parametrize(
        ("kind", "options", "said"),
        [
            (HighPass, {"window": 4}, r"window=4 has no middle.*odd"),
            (HighPass, {"half": 0.0}, "half=0.0 must be above 0"),
            (HighPass, {"residual": "medain"}, "did you mean median"),
            (HighPass, {"sense": "dark"}, "sense=dark"),
            (ErrorLevels, {"quality": 101}, "quality=101"),
            (ErrorLevels, {"subsampling": "4:1:1"}, "subsampling"),
            (LaplacianPeriodicity, {"sigma": -1.0}, "sigma=-1.0"),
            (LaplacianPeriodicity, {"derivatives": "third"}, "derivatives=third"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be(self, kind: type[Locator], options: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            kind(**options)


class TestHighPass:
    @pytest.mark.parametrize("residual", ["median", "laplacian"])
    def test_is_what_scipy_gives(self, residual: str) -> None:
        images = torch.rand(1, 3, 21, 34, generator=torch.Generator().manual_seed(0))
        planes = images[0].double().numpy()
        kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4
        energy = np.zeros(planes.shape[1:])
        for plane in planes:
            if residual == "median":
                left = plane - ndimage.median_filter(plane, 3, mode="nearest")
            else:
                left = ndimage.convolve(plane, kernel, mode="nearest")
            energy += left**2 / 3
        strength = np.sqrt(ndimage.uniform_filter(energy, 5, mode="nearest")) * 255
        fakeness = HighPass(residual=residual, window=5, half=10).predict(images).fakeness[0]
        np.testing.assert_allclose(fakeness.numpy(), strength / (strength + 10), rtol=1e-4)

    def test_noise_of_a_known_level(self) -> None:
        """White noise of s gray levels leaves s * sqrt(5) / 2 behind the Laplacian: 1 + 4 / 16 of its variance."""
        noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 8 / 255
        left = laplacian3(0.5 + noise)[..., 1:-1, 1:-1].square().mean().sqrt() * 255
        assert float(left) == pytest.approx(8 * 5**0.5 / 2, rel=0.01)

    def test_a_smoothed_half(self) -> None:
        plane = texture(64, 64)
        plane[:, :32] = ndimage.gaussian_filter(plane, 1.5)[:, :32]
        images = as_images(plane)
        rough = HighPass().predict(images).fakeness[0]
        smooth = HighPass(sense="smooth").predict(images).fakeness[0]
        assert rough[:, 37:].min() > rough[:, :27].max()
        torch.testing.assert_close(rough + smooth, torch.ones(64, 64))


class TestErrorLevels:
    @pytest.mark.parametrize("quality", [30, 90])
    def test_is_what_pillow_changes(self, quality: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
        change = np.abs(recompressed(pixels, quality).astype(float) - pixels).mean(axis=2)
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        fakeness = ErrorLevels(quality=quality, window=1, half=3).predict(images).fakeness[0]
        np.testing.assert_allclose(fakeness.numpy(), change / (change + 3), rtol=1e-5, atol=1e-6)

    def test_a_region_of_another_history(self) -> None:
        """All was JPEG once but for a square from the original: it alone still has something to lose."""
        fresh = np.rint(texture(96, 96).clip(0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        settled = recompressed(fresh, 90).copy()
        inside = np.zeros((96, 96), bool)
        inside[32:64, 40:72] = True
        settled[inside] = fresh[inside]
        images = torch.from_numpy(settled).permute(2, 0, 1)[None].float() / 255
        fakeness = ErrorLevels(quality=90).predict(images).fakeness[0].numpy()
        core, away = ndimage.binary_erosion(inside, iterations=5), ~ndimage.binary_dilation(inside, iterations=12)
        assert fakeness[core].min() > 2 * fakeness[away].max()


class TestLaplacianPeriodicity:
    @pytest.mark.parametrize("name", KERNELS)
    def test_marks_the_enlarged_half(self, name: str) -> None:
        plane = texture(96, 96)
        plane[:, :48] = enlarged(texture(48, 24, seed=1), KERNELS[name])
        fakeness = LaplacianPeriodicity().predict(as_images(plane)).fakeness[0]
        made, left = fakeness[:, :34], fakeness[:, 62:]
        assert made.mean() > 5 * left.mean()
        levels = torch.cat([made.flatten(), left.flatten()])
        assert roc_auc_score([1] * made.numel() + [0] * left.numel(), levels) > 0.95

    def test_second_derivative_is_blind_to_even_kernels(self) -> None:
        """What the docstring gives as the reason for the first derivative."""
        one, two = LaplacianPeriodicity(derivatives="second"), LaplacianPeriodicity()
        for name, seen in (("bilinear", True), ("transposed 3", True), ("nearest", False), ("blurred", False)):
            images = as_images(enlarged(texture(48, 48), KERNELS[name]))
            assert (one.predict(images).fakeness.mean() > 0.4) == seen, name
            assert two.predict(images).fakeness.mean() > 0.4, name

    def test_photos_noise_and_jpeg_are_no_peak(self) -> None:
        noise = np.random.default_rng(2).normal(0.5, 0.1, (96, 96))
        pixels = np.rint(texture(96, 96).clip(0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        blocks = recompressed(pixels, 60)[..., 0] / 255
        fakeness = LaplacianPeriodicity().predict(as_images(texture(96, 96), noise, blocks)).fakeness
        assert (fakeness.mean(dim=(1, 2)) < 0.1).all()

    def test_strength_is_a_windowed_fourier_sum(self) -> None:
        """At one pixel, from numpy's complex exponential and scipy's derivative."""
        plane = np.rint(texture(64, 64).clip(0, 1) * 255)
        second = ndimage.laplace(plane)
        y, x = np.mgrid[:64, :64]
        window = np.exp(-((y - 30) ** 2 + (x - 33) ** 2) / (2 * 5.0**2)) / (2 * np.pi * 5.0**2)
        inside = (y > 0) & (y < 63) & (x > 0) & (x < 63)
        a = np.abs(second) * inside

        def strength(frequencies: tuple[tuple[int, int], ...]) -> float:
            sums = [(window * a * np.exp(2j * np.pi * (v * y + u * x) / 8)).sum() for v, u in frequencies]
            return float(np.mean(np.abs(sums) ** 2) / (window * a**2).sum())

        excess = max(0.0, strength(PEAKS) / strength(NEIGHBOURS) - 1)
        locator = LaplacianPeriodicity(derivatives="second", sigma=5.0, half=0.5)
        fakeness = locator.predict(torch.from_numpy(plane / 255).float().expand(1, 3, 64, 64)).fakeness[0]
        assert float(fakeness[30, 33]) == pytest.approx(excess / (excess + 0.5), abs=1e-4)

    def test_frequencies_are_the_checkerboards_and_an_eighth_beside(self) -> None:
        assert {(y / 8, x / 8) for y, x in PEAKS} == {(0.5, 0), (0, 0.5), (0.5, 0.5)}
        for y, x in NEIGHBOURS:
            assert sum(abs(y - v) + abs(x - u) == 1 for v, u in PEAKS) == 1

    def test_turns_and_shifts_with_the_image(self) -> None:
        plane = texture(80, 80)
        plane[:, :40] = enlarged(texture(40, 20, seed=1), KERNELS["bilinear"])
        locator = LaplacianPeriodicity(sigma=5.0)
        whole, cut = (locator.predict(as_images(p)).fakeness[0] for p in (plane, plane[3:, 1:]))
        torch.testing.assert_close(cut[22:-22, 22:-22], whole[3:, 1:][22:-22, 22:-22], rtol=0, atol=0.02)
        turned = locator.predict(as_images(plane.T)).fakeness[0]
        torch.testing.assert_close(turned, whole.T, rtol=0, atol=1e-3)
