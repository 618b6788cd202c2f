"""Baselines that no map supervises: Grad-CAM, patch forensics, noise residual."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, Loss, NeuralLocator, Recipe, Training
from flbench.methods._networks import shipped_weights
from flbench.methods.gradcam import GradCam, activations
from flbench.methods.noise_residual import FLOOR, NoiseResidual
from flbench.methods.patch_forensics import BACKBONES, PatchForensics

SMALL = {"depth": 3, "width": 8}
LOCATORS: list[tuple[type[NeuralLocator], dict[str, Any]]] = [
    (GradCam, {"weights": "none"}),
    (GradCam, {"weights": "none", "layer": "blocks.2", "scale": "peak", "input_size": 48}),
    (PatchForensics, {"weights": "none"}),
    (PatchForensics, {"weights": "none", "backbone": "resnet18", "average": "logits", "input_size": 48}),
    (NoiseResidual, SMALL),
]


def made(kind: type[NeuralLocator], options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    locator = kind(**options)
    locator.module = locator.build(pretrained=True)
    return locator


def a_batch(size: int = 48, count: int = 4, seed: int = 1) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    labels = torch.tensor([1.0, 0.0]).repeat(count)[:count]
    truth = torch.rand(count, size, size, generator=draws) * labels.view(-1, 1, 1)
    return Batch(torch.rand(count, 3, size, size, generator=draws), truth, labels, torch.ones_like(truth))


class Slice(Training):
    """One batch, and an optimiser that takes a few plain steps."""

    def __init__(self, batch: Batch, *, steps: int = 1) -> None:
        self.batch = batch
        self.steps = steps
        self.seed = 0
        self.size = batch.images.shape[-1]
        self.device = torch.device("cpu")
        self.attention = False

    def batches(self, *, batch: int = 32) -> Iterator[Batch]:
        yield self.batch

    def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
        torch.manual_seed(self.seed)
        optimiser = torch.optim.Adam(module.parameters(), lr=recipe.lr)
        for _ in range(self.steps):
            module.train()
            optimiser.zero_grad()
            loss(module, self.batch).backward()
            optimiser.step()
        module.eval()


@pytest.mark.parametrize(("kind", "options"), LOCATORS, ids=str)
class TestContract:
    def test_any_size(self, kind: type[NeuralLocator], options: dict[str, Any]) -> None:
        locator = made(kind, options)
        for size in ((1, 1), (31, 57), (64, 64)):
            fakeness, score = locator.predict(torch.rand(2, 3, *size))
            assert fakeness.shape == (2, *size)
            assert fakeness.dtype == torch.float32
            assert not fakeness.requires_grad
            assert ((fakeness >= 0) & (fakeness <= 1)).all()
            if kind is NoiseResidual:
                assert score is None
            else:
                assert score.shape == (2,)
                assert ((score >= 0) & (score <= 1)).all()

    def test_an_image_alone_or_among_others(self, kind: type[NeuralLocator], options: dict[str, Any]) -> None:
        locator = made(kind, options)
        images = a_batch(count=3).images
        before = images.clone()
        together = locator.predict(images)
        again = locator.predict(images)
        assert torch.equal(together.fakeness, again.fakeness)
        assert torch.equal(images, before), "the images are not the method's to change"
        for index in range(3):
            alone = locator.predict(images[index : index + 1])
            torch.testing.assert_close(alone.fakeness[0], together.fakeness[index], rtol=1e-3, atol=1e-4)

    def test_fit_and_round_trip(self, kind: type[NeuralLocator], options: dict[str, Any], tmp_path: Path) -> None:
        torch.manual_seed(0)
        locator, other = kind(**options), kind(**options)
        locator.fit(Slice(a_batch()))
        locator.save(tmp_path)
        other.load(tmp_path)
        assert other.parameters == locator.parameters > 0
        images = a_batch(size=40, seed=2).images
        for one, two in zip(locator.predict(images), other.predict(images), strict=True):
            assert (one is None and two is None) or torch.equal(one, two)  # type: ignore[arg-type]
        assert all(parameter.grad is None for parameter in other.module.parameters())  # type: ignore[union-attr]

    def test_ground_truth_maps_are_not_looked_at(self, kind: type[NeuralLocator], options: dict[str, Any]) -> None:
        locator = made(kind, options)
        locator.module.eval()
        batch = a_batch()
        other = batch._replace(fakeness=1 - batch.fakeness, attention=batch.attention * 0)
        assert torch.equal(locator.loss(locator.module, batch), locator.loss(locator.module, other))

    def test_finite_gradients_everywhere(self, kind: type[NeuralLocator], options: dict[str, Any]) -> None:
        locator = made(kind, options)
        locator.module.train()
        locator.loss(locator.module, a_batch()).backward()
        for name, parameter in locator.module.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name

    def test_nothing_fitted_yet(self, kind: type[NeuralLocator], options: dict[str, Any]) -> None:
        with pytest.raises(MethodError, match=r"before it was fitted.*fit or load"):
            kind(**options).predict(torch.rand(1, 3, 32, 32))


class Squares(nn.Module):
    """A network whose gradients are known: features are the channels, y = sum_k w_k mean(A_k)^2."""

    weights = torch.tensor([1.0, -2.0, 0.5])

    @property
    def backbone(self) -> Squares:
        return self

    def features(self, images: Tensor) -> Tensor:
        return images

    def forward_head(self, features: Tensor) -> Tensor:
        return (self.weights * features.mean(dim=(2, 3)).square()).sum(dim=1, keepdim=True)


class Chain(nn.Module):
    """A convolution, then an activation in place, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 1)

    @property
    def backbone(self) -> Chain:
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.conv(images)).mean(dim=(2, 3))).squeeze(1)


class TestGradCam:
    def test_map_by_hand(self) -> None:
        images = a_batch(size=32, count=2).images
        locator = GradCam(weights="none", scale="peak")
        locator.module = Squares()
        planes = images.double().numpy()
        means = planes.mean(axis=(2, 3))
        # dy / dA_k is the same in all of the 32 x 32 places: 2 w_k mean(A_k) / 1024.
        weights = 2 * Squares.weights.numpy() * means / 1024
        maps = np.maximum(0, (weights[:, :, None, None] * planes).sum(axis=1))
        fakeness, score = locator.predict(images)
        np.testing.assert_allclose(fakeness.numpy(), maps / maps.max(axis=(1, 2), keepdims=True), atol=1e-5)
        logits = (Squares.weights.numpy() * means**2).sum(axis=1)
        assert score is not None
        np.testing.assert_allclose(score.numpy(), 1 / (1 + np.exp(-logits)), atol=1e-6)

    def test_gradient_of_a_layer_is_the_finite_difference(self) -> None:
        torch.manual_seed(0)
        chain = Chain().double()
        images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
        features, logits = activations(chain, images, "conv")
        (gradient,) = torch.autograd.grad(logits.sum(), features)
        torch.testing.assert_close(features, chain.conv(images)), "what the layer gave, not what the activation made"
        plain = features.detach()
        for index in np.ndindex(1, 4, 4, 4):
            moved = plain.clone()
            moved[index] += 1e-6
            apart = chain.head(moved.relu().mean(dim=(2, 3))) - chain.head(plain.relu().mean(dim=(2, 3)))
            assert float(gradient[index]) == pytest.approx(apart.item() / 1e-6, abs=1e-6)
        assert not chain.conv._forward_hooks, "nothing is left behind"

    def test_scales(self) -> None:
        images = a_batch(size=64).images
        score_scaled, peaked = (made(GradCam, {"weights": "none", "scale": s}) for s in ("score", "peak"))
        fakeness, score = score_scaled.predict(images)
        whole, _ = peaked.predict(images)
        torch.testing.assert_close(fakeness, whole * score.view(-1, 1, 1))
        highest = whole.amax(dim=(1, 2))
        assert ((highest == 0) | ((highest - 1).abs() < 1e-6)).all()
        assert highest.max() > 0

    def test_no_evidence_is_a_black_map(self) -> None:
        locator = GradCam(weights="none", scale="peak")
        locator.module = Squares()
        images = torch.rand(1, 3, 32, 32) * torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
        assert locator.predict(images).fakeness.abs().max() == 0

    def test_where_gradients_are_switched_off(self) -> None:
        locator = made(GradCam, {"weights": "none"})
        images = a_batch().images
        expected = locator.predict(images).fakeness
        with torch.inference_mode():
            inside = locator.predict(images + 0).fakeness
        with torch.no_grad():
            torch.testing.assert_close(locator.predict(images).fakeness, expected)
        torch.testing.assert_close(inside, expected)

    def test_paper_looks_at_the_last_convolution_of_vgg(self) -> None:
        with torch.device("meta"):  # shapes alone: the network has 134 million values
            locator = GradCam(**{**GradCam.variants["paper"], "weights": "none"})
            module: Any = locator.build(pretrained=False).eval()
            features, logits = activations(module, torch.rand(1, 3, 224, 224), locator.layer)
        assert features.shape == (1, 512, 14, 14)
        assert logits.shape == (1,)
        assert torch.autograd.grad(logits.sum(), features)[0].shape == features.shape

    def test_shipped_weights_are_loaded(self) -> None:
        saved = list(torch.load(shipped_weights(), weights_only=True).values())
        own = [v for k, v in GradCam().build(pretrained=True).state_dict().items() if "classifier" not in k]
        assert len(own) == 294
        assert all(torch.equal(one, two) for one, two in zip(own, saved, strict=False))

    def test_what_cannot_be(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(MethodError, match=r"imagenet of resnet18.*weights=none.*download=true"):
            GradCam(backbone="resnet18").build(pretrained=True)
        with pytest.raises(MethodError, match="resnet17 is not in timm"):
            GradCam(backbone="resnet17").build(pretrained=False)
        with pytest.raises(UsageError, match=r"layer=blocks\.9 is not in tf_efficientnet_lite0"):
            GradCam(layer="blocks.9").build(pretrained=False)
        with pytest.raises(UsageError, match="scale=none"):
            GradCam(scale="none")
        flat = Squares()
        flat.features = lambda images: images.flatten(1)  # type: ignore[method-assign]
        with pytest.raises(MethodError, match="no stack of feature maps"):
            activations(flat, torch.rand(1, 3, 4, 4), "")


class Fixed(nn.Module):
    """Always these logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


class TestPatchForensics:
    logits = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]])

    def test_loss_is_the_mean_over_patches(self) -> None:
        locator = PatchForensics(weights="none")
        batch = a_batch(count=1)
        expected = -torch.log(1 / (1 + torch.exp(-self.logits))).mean()
        torch.testing.assert_close(locator.loss(Fixed(self.logits), batch), expected)
        real = batch._replace(labels=torch.zeros(1))
        expected = -torch.log(1 - 1 / (1 + torch.exp(-self.logits))).mean()
        torch.testing.assert_close(locator.loss(Fixed(self.logits), real), expected)

    def test_score_and_map(self) -> None:
        images = torch.rand(1, 3, 64, 64)
        probabilities = 1 / (1 + np.exp(-self.logits.double().numpy()))
        for average, expected in (("probabilities", probabilities.mean()), ("logits", 1 / (1 + np.exp(-1.0)))):
            locator = PatchForensics(weights="none", average=average)
            locator.module = Fixed(self.logits)
            fakeness, score = locator.predict(images)
            assert float(score) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]
            corners = fakeness[0, [0, 0, -1, -1], [0, -1, 0, -1]].numpy()
            np.testing.assert_allclose(corners, probabilities.flatten(), atol=1e-6)
            expected_map = ndimage.zoom(probabilities[0], 32, order=1, grid_mode=True, mode="nearest")
            np.testing.assert_allclose(fakeness[0].numpy(), expected_map, atol=1e-5)

    def test_padding_is_cropped_not_squeezed(self) -> None:
        locator = PatchForensics(weights="none")
        locator.module = Fixed(torch.tensor([[[-9.0, 9.0], [-9.0, 9.0]]]))
        assert locator.predict(torch.rand(1, 3, 8, 8)).fakeness.max() < 0.01

    @pytest.mark.parametrize(
        ("options", "seen", "places"),
        [({}, 19, 32), (PatchForensics.variants["paper"], 43, 37)],
        ids=["light", "paper"],
    )
    def test_patches_have_the_size_that_is_told(self, options: dict[str, Any], seen: int, places: int) -> None:
        """The pixels that one logit depends on, by its gradient, over a few images."""
        locator = made(PatchForensics, {**options, "weights": "none"})
        locator.module.eval()
        side = locator.input_size or 128
        with torch.no_grad():
            assert locator.module(torch.zeros(1, 3, side, side)).shape == (1, places, places)
        images = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0), requires_grad=True)
        logits = locator.module(images)
        middle = logits.shape[-1] // 2
        (gradient,) = torch.autograd.grad(logits[:, middle, middle].sum(), images)
        rows, columns = gradient.abs().amax(dim=(0, 1)).nonzero(as_tuple=True)
        for pixels in (rows, columns):
            assert int(pixels.max() - pixels.min()) + 1 == seen

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_other_cuts(self, backbone: str) -> None:
        sizes = []
        for blocks in (1, 4):
            locator = made(PatchForensics, {"backbone": backbone, "blocks": blocks, "weights": "none"})
            assert locator.predict(torch.rand(1, 3, 33, 33)).fakeness.shape == (1, 33, 33)
            sizes.append(locator.parameters)
        assert len(set(sizes)) == 2
        for blocks in (0, BACKBONES[backbone] + 1):
            with pytest.raises(UsageError, match=rf"blocks={blocks} of {backbone}.*1 to {BACKBONES[backbone]}"):
                PatchForensics(backbone=backbone, blocks=blocks)

    def test_shipped_weights_are_loaded(self) -> None:
        saved = list(torch.load(shipped_weights(), weights_only=True).values())
        own = [v for k, v in PatchForensics().build(pretrained=True).state_dict().items() if k.startswith("first")]
        assert len(own) > 30
        assert all(torch.equal(one, two) for one, two in zip(own, saved, strict=False))

    def test_learns_a_texture_and_where_it_is(self) -> None:
        """Fakes have a checkered half: after a few steps the patches there are the suspicious ones."""
        torch.manual_seed(0)
        images = torch.rand(8, 3, 32, 32) * 0.2 + 0.4
        y, x = np.mgrid[:32, :32]
        checkers = torch.from_numpy((-1.0) ** (y + x) * (x < 16)).float() * 0.3
        labels = torch.tensor([1.0, 0.0]).repeat(4)
        images = (images + checkers * labels.view(-1, 1, 1, 1)).clamp(0, 1)
        locator = PatchForensics(weights="none", backbone="resnet18", blocks=1, lr=3e-3)
        locator.fit(Slice(Batch(images, checkers.abs().expand(8, 32, 32), labels, torch.ones(8, 32, 32)), steps=25))
        fakeness, score = locator.predict(images)
        assert score is not None
        assert score[labels > 0.5].min() > score[labels < 0.5].max()
        fakes = fakeness[labels > 0.5]
        assert fakes[:, :, :12].mean() > fakes[:, :, 20:].mean() + 0.2


class TestNoiseResidual:
    def test_fakes_are_not_looked_at(self, tmp_path: Path) -> None:
        batch = a_batch()
        fakes = batch.labels > 0.5
        images = batch.images.clone()
        images[fakes] = torch.rand(int(fakes.sum()), 3, 48, 48)
        states = []
        for given in (batch, batch._replace(images=images)):
            torch.manual_seed(3)
            locator = NoiseResidual(depth=3, width=8)
            locator.fit(Slice(given, steps=2))
            states.append(locator.module.state_dict())  # type: ignore[union-attr]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert states[0]["spread"] != 1, "it was measured"

    def test_map_by_hand(self) -> None:
        """The denoiser replaced by one that calls a tenth of the image noise."""
        images = a_batch(size=20, count=2).images

        class Tenth(nn.Module):
            spread = torch.tensor(0.25)

            def forward(self, images: Tensor) -> Tensor:
                return images / 10

        locator = NoiseResidual(window=3, half=1.5)
        locator.module = Tenth()
        fakeness = locator.predict(images).fakeness.numpy()
        for image, found in zip(images.double().numpy(), fakeness, strict=True):
            energy = ndimage.uniform_filter(((image / 10) ** 2).mean(axis=0), 3, mode="nearest")
            level = np.log(energy + FLOOR)
            apart = np.abs(level - np.sort(level, axis=None)[(level.size - 1) // 2]) / 0.25
            np.testing.assert_allclose(found, apart / (apart + 1.5), atol=1e-4)

    def test_spread_is_the_photos_mean_deviation(self) -> None:
        """With `half` 1, a photo whose deviations are all alike has a map of one half."""
        batch = a_batch()
        locator = NoiseResidual(depth=3, width=8, half=1.0)
        locator.fit(Slice(batch))
        fakeness = locator.predict(batch.images[batch.labels < 0.5]).fakeness
        assert float((fakeness / (1 - fakeness)).mean()) == pytest.approx(1, rel=1e-3)

    def test_learns_noise_and_marks_where_it_differs(self) -> None:
        draws = np.random.default_rng(0)

        def photo() -> Tensor:
            planes = ndimage.gaussian_filter(draws.standard_normal((3, 32, 32)), (0, 5, 5))
            noisy = 0.5 + 0.1 * planes / planes.std() + 4 / 255 * draws.standard_normal((3, 32, 32))
            return torch.from_numpy(noisy).float().clamp(0, 1)

        images = torch.stack([photo() for _ in range(8)])
        batch = Batch(images, torch.zeros(8, 32, 32), torch.zeros(8), torch.ones(8, 32, 32))
        torch.manual_seed(0)
        locator = NoiseResidual(depth=3, width=12, least_noise=4, lr=1e-2)
        locator.fit(Slice(batch, steps=80))
        assert locator.module is not None
        noise = torch.randn(8, 3, 32, 32) * 10 / 255
        told = locator.module(images + noise).detach()
        assert np.corrcoef(told.flatten(), noise.flatten())[0, 1] > 0.8
        inside = np.zeros((32, 32), bool)
        inside[8:20, 10:24] = True
        smooth = torch.stack([torch.from_numpy(ndimage.gaussian_filter(c.numpy(), 1.5)) for c in images[0]])
        image = torch.where(torch.from_numpy(inside), smooth, images[0])
        fakeness = locator.predict(image[None]).fakeness[0]
        assert roc_auc_score(inside.ravel(), fakeness.flatten()) > 0.85

    def test_judged_with_the_same_noise_each_time(self) -> None:
        locator, batch = made(NoiseResidual, SMALL), a_batch()
        locator.module.eval()
        assert locator.loss(locator.module, batch) == locator.loss(locator.module, batch)
        locator.module.train()
        assert locator.loss(locator.module, batch) != locator.loss(locator.module, batch)

    def test_without_a_photo(self) -> None:
        batch = a_batch()._replace(labels=torch.ones(4))
        locator = made(NoiseResidual, SMALL)
        assert locator.loss(locator.module, batch).item() == 0
        with pytest.raises(MethodError, match=r"noise_residual .* no photo"):
            NoiseResidual(depth=3, width=8).fit(Slice(batch))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"depth": 1}, "depth=1"),
            ({"least_noise": 5.0, "most_noise": 2.0}, "are no range"),
            ({"least_noise": 0.0}, "are no range"),
            ({"window": 2}, "window=2"),
            ({"width": 0}, "width=0"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            NoiseResidual(**options)


def test_cross_entropy_is_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    locator = GradCam(weights="none")
    logits = torch.tensor([1.0, -2.0, 0.5, 0.0])
    batch = a_batch()
    expected = F.binary_cross_entropy_with_logits(logits, batch.labels)
    torch.testing.assert_close(locator.loss(Fixed(logits), batch), expected)
