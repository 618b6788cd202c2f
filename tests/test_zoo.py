"""The supervised methods of the field: one contract for all, and by hand what each does in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, NeuralLocator, Recipe, Training
from flbench.methods import _networks as networks
from flbench.methods import face_xray, y_autoencoder
from flbench.methods.face_xray import FaceXray
from flbench.methods.frozen_vit import FrozenViT, spread
from flbench.methods.landmark_aided import LandmarkAided
from flbench.methods.y_autoencoder import YAutoencoder
from flbench.registry import find_protocol

TINY_VIT: dict[str, Any] = {"encoder": "test_vit", "weights": "none", "layers": 2, "hidden": 16}
ZOO: dict[str, Callable[..., NeuralLocator]] = {
    "y_autoencoder": lambda **options: YAutoencoder(**options),
    "face_xray": lambda **options: FaceXray(**{"weights": "none", **options}),
    "landmark_aided": lambda **options: LandmarkAided(**{"weights": "none", **options}),
    "frozen_vit": lambda **options: FrozenViT(**{**TINY_VIT, "input_size": None, **options}),
}
every = pytest.mark.parametrize("name", ZOO)


def make(name: str, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    locator = ZOO[name](**options)
    locator.module = locator.build(pretrained=True)
    return locator, locator.module


def a_batch(size: int = 32, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([1.0, 0.0]).repeat(count)[:count]
    truth = torch.rand(count, size, size, generator=generator) * labels.view(-1, 1, 1)
    attention = (torch.rand(count, size, size, generator=generator) > 0.5).float()
    return Batch(torch.rand(count, 3, size, size, generator=generator), truth, labels, attention)


def same(one: Tensor | None, two: Tensor | None) -> bool:
    assert one is not None
    assert two is not None
    return torch.equal(one, two)


class Fixed(nn.Module):
    """A network that always answers the same, and remembers what it was asked."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[Any] = []

    def forward(self, *given: Any) -> tuple[Tensor, ...]:
        self.asked.append(given)
        return self.answers


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@every
class TestContract:
    @pytest.mark.parametrize("options", [{}, {"input_size": 48}], ids=str)
    def test_any_size(self, name: str, options: dict[str, Any]) -> None:
        locator, _ = make(name, **options)
        for height, width in ((1, 1), (31, 57), (64, 64)):
            fakeness, score = locator.predict(torch.rand(2, 3, height, width))
            assert fakeness.shape == (2, height, width)
            assert fakeness.dtype == torch.float32
            assert ((fakeness >= 0) & (fakeness <= 1)).all()
            assert score.shape == (2,)
            assert ((score >= 0) & (score <= 1)).all()

    def test_images_do_not_see_each_other(self, name: str) -> None:
        locator, _ = make(name)
        images = torch.rand(3, 3, 40, 40)
        together = locator.predict(images)
        for i in range(3):
            alone = locator.predict(images[i : i + 1])
            torch.testing.assert_close(alone.fakeness[0], together.fakeness[i], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(alone.score[0], together.score[i], atol=1e-5, rtol=1e-4)

    def test_same_seed_same_bits(self, name: str) -> None:
        images = torch.rand(2, 3, 40, 40)
        locator, _ = make(name)
        first, again = locator.predict(images), locator.predict(images)
        other = make(name)[0].predict(images)
        for prediction in (again, other):
            assert torch.equal(first.fakeness, prediction.fakeness)
            assert torch.equal(first.score, prediction.score)

    def test_round_trip(self, name: str, tmp_path: Path) -> None:
        locator, module = make(name)
        module.train()
        locator.loss(module, a_batch())  # running statistics move
        locator.save(tmp_path)
        other = ZOO[name]()
        other.load(tmp_path)
        images = torch.rand(2, 3, 40, 40)
        one, two = locator.predict(images), other.predict(images)
        assert torch.equal(one.fakeness, two.fakeness)
        assert same(one.score, two.score)

    def test_finite_gradients(self, name: str) -> None:
        locator, module = make(name)
        module.train()
        for count in (4, 2):
            module.zero_grad()
            locator.loss(module, a_batch(count=count)).backward()
            for where, parameter in module.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, where
                    assert torch.isfinite(parameter.grad).all(), where

    def test_a_few_steps_lower_the_loss(self, name: str) -> None:
        locator, module = make(name)
        module.train()
        batch = a_batch()
        optimiser = torch.optim.Adam((p for p in module.parameters() if p.requires_grad), lr=1e-3)
        losses = []
        for _ in range(10):
            torch.manual_seed(3)  # the same drop-out and the same blended pairs every time
            loss = locator.loss(module, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.97 * losses[0]

    def test_nonsense_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="input_size=0"):
            ZOO[name](input_size=0)
        if name != "y_autoencoder":
            with pytest.raises(UsageError, match="weights=nonsense"):
                ZOO[name](weights="nonsense")


class TestYAutoencoder:
    latent = torch.tensor([[1.0, -3.0], [2.0, 2.0], [0.0, -1.0], [5.0, 4.0]]).view(1, 4, 1, 2)

    def test_activations_by_hand(self) -> None:
        assert y_autoencoder.activations_of(self.latent).tolist() == [[2.0, 2.5]]

    def test_half_of_the_other_class_is_zeroed(self) -> None:
        both = self.latent.repeat(2, 1, 1, 1)
        real, fake = y_autoencoder.keep_half(both, torch.tensor([0.0, 1.0]))
        assert real.flatten().tolist() == [1, -3, 2, 2, 0, 0, 0, 0]
        assert fake.flatten().tolist() == [0, 0, 0, 0, 0, -1, 5, 4]

    def test_activation_loss_by_hand(self) -> None:
        loss = y_autoencoder.activation_loss(torch.tensor([[0.25, 0.5], [1.0, 0.0]]), torch.tensor([1.0, 0.0]))
        assert loss.item() == pytest.approx((0.25 + 0.5 + 0 + 0) / 2)

    @pytest.mark.parametrize("segmentation", y_autoencoder.SEGMENTATIONS)
    @pytest.mark.parametrize("threshold", [None, 0.4])
    def test_whole_loss_by_hand(self, segmentation: str, threshold: float | None) -> None:
        generator = torch.Generator().manual_seed(0)
        batch = a_batch()
        logits = torch.randn(4, 32, 32, generator=generator)
        rebuilt = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
        halves = torch.rand(4, 2, generator=generator)
        locator = YAutoencoder(
            segmentation=segmentation,
            truth_threshold=threshold,
            activation_weight=2.0,
            segmentation_weight=3.0,
            reconstruction_weight=5.0,
        )
        truth = batch.fakeness.double().numpy()
        if threshold is not None:
            truth = (truth >= threshold).astype(float)
        maps = 1 / (1 + np.exp(-logits.double().numpy()))
        by_kind = {"l1": np.abs(maps - truth), "cross_entropy": -truth * np.log(maps) - (1 - truth) * np.log(1 - maps)}
        labels = batch.labels.numpy()
        wanted = np.stack([1 - labels, labels], axis=1)
        activation = np.abs(halves.numpy() - wanted).sum(axis=1).mean()
        rebuilding = ((rebuilt.numpy() - (2 * batch.images.numpy() - 1)) ** 2).mean()
        expected = 2 * activation + 3 * by_kind[segmentation].mean() + 5 * rebuilding
        assert locator.loss(Fixed(halves, logits, rebuilt), batch).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("training", [True, False])
    def test_decoder_sees_one_half(self, training: bool) -> None:
        """The label's half while fitting; the more active one when predicting and when a state is judged."""
        locator, module = make("y_autoencoder")
        latents: list[Tensor] = []
        seen: list[Tensor] = []
        module.encoder.register_forward_hook(lambda _, __, out: latents.append(out))
        module.shared.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        batch = a_batch()
        module.train(training)
        with torch.no_grad():
            locator.loss(module, batch)
        real, fake = latents[0].abs().flatten(1).chunk(2, dim=1)
        active = (fake.mean(dim=1) > real.mean(dim=1)).float()
        chosen = batch.labels if training else active
        for i in range(4):
            first, second = seen[0][i].chunk(2)
            kept, dropped = (second, first) if chosen[i] == 1 else (first, second)
            assert dropped.abs().max() == 0
            assert torch.equal(kept, latents[0][i].chunk(2)[int(chosen[i])])

    def test_score_is_the_softmax_of_the_activations(self) -> None:
        locator = YAutoencoder()
        locator.module = Fixed(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 8, 8), torch.zeros(1, 3, 8, 8))
        _, score = locator.predict(torch.rand(1, 3, 8, 8))
        assert score is not None
        assert score.item() == pytest.approx(math.e / (1 + math.e))

    def test_published_shape(self) -> None:
        _, module = make("y_autoencoder")
        latent = module.encoder(torch.rand(2, 3, 64, 64))
        assert latent.shape == (2, 128, 4, 4)
        activations, logits, rebuilt = module(torch.rand(2, 3, 40, 56))
        assert activations.shape == (2, 2)
        assert logits.shape == (2, 40, 56)
        assert rebuilt.shape == (2, 3, 40, 56)
        assert rebuilt.abs().max() <= 1

    def test_width_of_nothing(self) -> None:
        with pytest.raises(UsageError, match="width=0"):
            YAutoencoder(width=0)


class TestBlending:
    def test_boundary_by_hand(self) -> None:
        masks = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
        assert face_xray.boundary(masks).tolist() == [0, 0.75, 1, 0.75, 0]

    @settings(max_examples=30)
    @given(value=st.floats(0, 1))
    def test_boundary_knows_no_inside(self, value: float) -> None:
        inside, outside = (face_xray.boundary(torch.tensor(v, dtype=torch.float64)) for v in (value, 1 - value))
        assert inside.item() == pytest.approx(outside.item(), abs=1e-12)
        assert 0 <= inside <= 1

    def test_blend_by_hand(self) -> None:
        inside, outside = torch.full((1, 3, 1, 3), 0.8), torch.full((1, 3, 1, 3), 0.4)
        blended = face_xray.blend(inside, outside, torch.tensor([[[0.0, 0.25, 1.0]]]))
        torch.testing.assert_close(blended, torch.tensor([0.4, 0.5, 0.8]).expand(1, 3, 1, 3))

    def test_masks_are_one_soft_blob_each(self) -> None:
        masks = face_xray.random_masks(24, (64, 80), generator=torch.Generator().manual_seed(0))
        assert masks.shape == (24, 64, 80)
        assert ((masks >= 0) & (masks <= 1)).all()
        for mask in masks.numpy():
            inside = mask > 0.5
            assert ndimage.label(inside)[1] == 1
            assert (ndimage.binary_fill_holes(inside) == inside).all()
            assert 0.03 < inside.mean() < 0.75
            assert ((mask > 0.05) & (mask < 0.95)).any()

    def test_edge_is_that_of_a_blurred_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every draw in the middle gives a disc with a known radius and a known blur."""
        monkeypatch.setattr(torch, "rand", lambda *shape, generator=None: torch.full(shape, 0.5))
        (mask,) = face_xray.random_masks(1, (401, 401), generator=None).numpy()
        radius, deviation = (0.15 + 0.38) / 2 * 401, 0.03 * 401
        step = (np.abs(np.arange(-400, 401)) < radius).astype(float)
        expected = ndimage.gaussian_filter1d(step, deviation, truncate=6)[200:601]
        np.testing.assert_allclose(mask[200], expected, atol=0.02)
        np.testing.assert_allclose(mask[:, 200], expected, atol=0.02)

    def test_masks_follow_the_generator(self) -> None:
        one, two, other = (
            face_xray.random_masks(2, (16, 16), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        assert not torch.equal(one[0], one[1])

    def test_matched_colours(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = 0.4 + 0.2 * torch.rand(2, 3, 16, 16, generator=generator)
        like = 0.3 + 0.3 * torch.rand(2, 3, 16, 16, generator=generator)
        masks = (torch.rand(2, 16, 16, generator=generator) > 0.5).float()
        matched = face_xray.match_colours(images, like, masks).double().numpy()
        for i in range(2):
            inside = masks[i].numpy() > 0
            for channel in range(3):
                mine, its = matched[i, channel][inside], like[i, channel].numpy()[inside]
                assert mine.mean() == pytest.approx(its.mean(), abs=1e-5)
                assert mine.std() == pytest.approx(its.std(), abs=1e-5)

    def test_altered_photo_is_nearly_the_same(self) -> None:
        flat = face_xray.altered(torch.full((8, 3, 8, 8), 0.5), generator=torch.Generator().manual_seed(0))
        assert (flat - 0.5).abs().max() <= 0.5 * 0.1 + 0.1 + 1e-6
        assert (flat.amax(dim=(2, 3)) - flat.amin(dim=(2, 3))).max() < 1e-6
        ramp = torch.linspace(0.3, 0.7, 64).expand(4, 3, 64, 64)
        moved = face_xray.altered(ramp, generator=torch.Generator().manual_seed(1))
        assert not torch.allclose(moved, ramp, atol=1e-3)
        assert (moved - ramp).abs().max() < 0.4 * (0.03 + 0.025) + 0.7 * 0.1 + 0.1

    @pytest.mark.parametrize("partner", face_xray.PARTNERS)
    @pytest.mark.parametrize("count", [1, 3])
    def test_outside_of_the_mask_nothing_changes(self, partner: str, count: int) -> None:
        photos = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        blended, edges = face_xray.blends(photos, partner=partner, generator=torch.Generator().manual_seed(5))
        masks = face_xray.random_masks(count, (64, 64), generator=torch.Generator().manual_seed(5))
        assert torch.equal(edges, face_xray.boundary(masks))
        changed = (blended - photos).abs().amax(dim=1)
        assert changed[masks < 1e-6].max() < 1e-5
        assert changed[masks > 0.9].mean() > 0.05

    def test_other_is_the_next_photo_in_matched_colours(self) -> None:
        photos = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        blended, _ = face_xray.blends(photos, partner="other", generator=torch.Generator().manual_seed(5))
        masks = face_xray.random_masks(3, (64, 64), generator=torch.Generator().manual_seed(5))
        for i, before in enumerate((2, 0, 1)):
            one = slice(i, i + 1)
            pasted = face_xray.match_colours(photos[before : before + 1], photos[one], masks[one])
            core = masks[i] > 1 - 1e-6
            assert core.any()
            torch.testing.assert_close(blended[i][:, core], pasted[0][:, core], atol=1e-5, rtol=0)


class TestFaceXray:
    def test_fakes_are_never_looked_at(self) -> None:
        locator, module = make("face_xray")
        module.eval()
        batch = a_batch()
        images = batch.images.clone()
        images[batch.labels > 0.5] = math.nan
        hidden = batch._replace(images=images, fakeness=torch.full_like(batch.fakeness, math.nan))
        with torch.no_grad():
            assert locator.loss(module, batch).item() == locator.loss(module, hidden).item()

    def test_states_are_judged_on_the_same_pairs(self) -> None:
        locator, module = make("face_xray")
        batch = a_batch()
        with torch.no_grad():
            module.train()
            assert locator.loss(module, batch).item() != locator.loss(module, batch).item()
            module.eval()
            assert locator.loss(module, batch).item() == locator.loss(module, batch).item()

    def test_loss_by_hand(self) -> None:
        batch = a_batch()
        network = Fixed(torch.full((4, 32, 32), -1.0), torch.tensor([-2.0, -2.0, 3.0, 3.0])).eval()
        loss = FaceXray(map_weight=7.0).loss(network, batch)
        generator = torch.Generator().manual_seed(0)
        photos = batch.images[batch.labels == 0]
        blended, edges = face_xray.blends(photos, partner="self", generator=generator)
        ((given,),) = network.asked
        assert torch.equal(given, torch.cat([photos, blended]))
        truth = torch.cat([torch.zeros(2, 32, 32), edges]).double().numpy()
        softplus = np.log1p(math.exp(-1))
        painted = (softplus + truth).mean()  # log(1 + e^z) - T z at z = -1
        score = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 2
        assert loss.item() == pytest.approx(7 * painted + score, rel=1e-5)

    def test_score_comes_from_the_mean_of_the_map(self) -> None:
        _, module = make("face_xray")
        module.eval()
        with torch.no_grad():
            maps, scores = module(torch.rand(3, 3, 40, 40))
            means = maps.sigmoid().mean(dim=(1, 2))
            expected = F.linear(means.view(3, 1) / math.sqrt(1 + 1e-5), module.score[1].weight, module.score[1].bias)
        torch.testing.assert_close(scores, expected.squeeze(1))

    def test_hrnet_gives_its_four_branches(self) -> None:
        _, module = make("face_xray", backbone="hrnet_w18_small", hidden=8)
        assert [layer.in_channels for layer in module.fusion.project] == [16, 32, 64, 128]
        module.eval()
        sizes: list[Any] = []
        module.fusion.register_forward_hook(lambda _, __, out: sizes.append(out.shape))
        with torch.no_grad():
            maps, _ = module(torch.rand(1, 3, 64, 64))
        assert sizes == [(1, 16, 16)]
        assert maps.shape == (1, 64, 64)

    def test_without_photos(self) -> None:
        locator, module = make("face_xray")
        with pytest.raises(MethodError, match="the batch has none"):
            locator.loss(module, a_batch()._replace(labels=torch.ones(4)))
        with pytest.raises(UsageError, match="batch=1"):
            FaceXray(batch=1)

    def test_weights_that_are_not_here(self, empty_cache: None) -> None:
        with pytest.raises(MethodError, match=r"imagenet of hrnet_w18_small.*weights=none.*download=true"):
            FaceXray(backbone="hrnet_w18_small").build(pretrained=True)


class Slice(Training):
    """A slice that has parsing maps or has not."""

    def __init__(self, *, attention: bool) -> None:
        self.attention = attention
        self.device = torch.device("cpu")
        self.optimised = False

    def batches(self, *, batch: int = 32) -> Any:
        yield a_batch()

    def optimise(self, module: nn.Module, loss: Any, recipe: Recipe) -> None:
        self.optimised = True


class TestLandmarkAided:
    def test_needs_parsing_maps(self) -> None:
        without, with_ = Slice(attention=False), Slice(attention=True)
        with pytest.raises(MethodError, match="parsing maps"):
            LandmarkAided(weights="none").fit(without)
        LandmarkAided(weights="none").fit(with_)
        assert (without.optimised, with_.optimised) == (False, True)

    def test_loss_by_hand(self) -> None:
        batch = a_batch()
        maps, scores, parts = torch.zeros(4, 32, 32), torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.full((4, 32, 32), 2.0)
        loss = LandmarkAided(map_weight=2.0, score_weight=3.0, part_weight=5.0).loss(Fixed(maps, scores, parts), batch)
        painted = np.abs(0.5 - batch.fakeness.double().numpy()).mean()
        score = math.log1p(math.exp(-1))
        found = (math.log1p(math.exp(2)) - 2 * batch.attention[batch.labels == 1].double().numpy()).mean()
        assert loss.item() == pytest.approx(2 * painted + 3 * score + 5 * found, rel=1e-5)

    def test_photos_teach_no_parts(self) -> None:
        locator, module = make("landmark_aided")
        module.eval()
        batch = a_batch()
        with torch.no_grad():
            losses = []
            for label in (None, 0.0, 1.0):
                attention = batch.attention.clone()
                attention[batch.labels == label] = 1
                losses.append(locator.loss(module, batch._replace(attention=attention)).item())
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]

    def test_only_the_heat_map_teaches_its_head(self) -> None:
        locator, module = make("landmark_aided", part_weight=0.0)
        module.train()
        nn.init.ones_(module.join.weight)  # at zero no gradient would come this far anyway
        locator.loss(module, a_batch()).backward()
        assert all(p.grad is None or not p.grad.any() for p in module.parts.parameters())
        assert module.join.weight.grad.any()

    def test_backbone_starts_with_the_image_alone(self) -> None:
        _, module = make("landmark_aided")
        module.eval()
        given: list[Tensor] = []
        module.backbone.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            _, _, parts = module(images)
            torch.testing.assert_close(given[0], module.normalise(images))
            nn.init.ones_(module.join.weight)
            module(images)
        box = F.conv2d(parts.sigmoid().unsqueeze(1), torch.ones(1, 1, 3, 3), padding=1)
        torch.testing.assert_close(given[1] - module.normalise(images), box.expand(2, 3, 64, 64), atol=1e-4, rtol=1e-4)


class TestFrozenViT:
    def test_transformer_never_changes(self) -> None:
        locator, module = make("frozen_vit")
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.train()
        assert not any(part.training for part in module.vit.modules())
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            locator.loss(module, a_batch()).backward()
            optimiser.step()
        changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
        assert not any(name.startswith("vit.") for name in changed)
        assert {"detect.weight", "locate.0.weight"} <= changed

    def test_tokens_are_the_transformers(self) -> None:
        _, module = make("frozen_vit", layers=1, decoder="linear")
        module.eval()
        images = torch.rand(2, 3, 48, 64)
        with torch.no_grad():
            maps, scores = module(images)
            tokens = module.vit.forward_features(module.normalise(images))[:, module.vit.num_prefix_tokens :]
            grid = F.linear(tokens, module.locate.weight.flatten(1), module.locate.bias).view(2, 1, 3, 4)
            expected = F.interpolate(grid, size=(48, 64), mode="bilinear")[:, 0]
        torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores, module.detect(tokens.mean(dim=1)).squeeze(1), atol=1e-4, rtol=1e-4)

    def test_blocks_that_are_read(self) -> None:
        assert spread(12, 4) == [2, 5, 8, 11]
        assert spread(12, 1) == [11]
        assert spread(6, 6) == [0, 1, 2, 3, 4, 5]
        assert make("frozen_vit", layers=3)[1].indices == [1, 3, 5]

    def test_random_is_refused_unless_asked_for(self, empty_cache: None) -> None:
        for name in ("test_vit", "vit_small_patch14_dinov2.lvd142m"):
            with pytest.raises(MethodError, match=rf"pretrained of {name}.*download=true"):
                FrozenViT(encoder=name).build(pretrained=True)

    def test_without_weights_it_declines_and_says_what_to_do(self, empty_cache: None) -> None:
        protocol = find_protocol("in_gan")
        assert "download=true" in (FrozenViT().skip(protocol) or "")
        assert FrozenViT(download=True).skip(protocol) is None
        assert FrozenViT(weights="none").skip(protocol) is None

    def test_with_weights_in_the_cache_it_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def cached(repo: str, file: str) -> str | None:
            asked.append(repo)
            return "/a/file" if file == "model.safetensors" else None

        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
        assert FrozenViT().skip(find_protocol("in_gan")) is None
        assert set(asked) == {"timm/vit_small_patch14_dinov2.lvd142m"}

    def test_saved_fit_brings_the_weights(self, empty_cache: None, tmp_path: Path) -> None:
        locator, _ = make("frozen_vit", encoder="test_vit.r160_in1k")
        locator.save(tmp_path)
        other = FrozenViT(**{**TINY_VIT, "encoder": "test_vit.r160_in1k", "weights": "pretrained", "input_size": None})
        other.load(tmp_path)
        images = torch.rand(1, 3, 32, 32)
        assert torch.equal(locator.predict(images).fakeness, other.predict(images).fakeness)

    def test_what_cannot_be(self) -> None:
        with pytest.raises(MethodError, match="resnet18 is not a vision transformer"):
            make("frozen_vit", encoder="resnet18")
        with pytest.raises(MethodError, match="6 blocks, not 7"):
            make("frozen_vit", layers=7)
        with pytest.raises(UsageError, match="layers=0"):
            FrozenViT(layers=0)
        with pytest.raises(UsageError, match=r"decoder=linea .*linear"):
            FrozenViT(decoder="linea")


class TestShared:
    def test_none_of_a_command_line(self) -> None:
        assert networks.choose("weights", None, ("imagenet", "none")) == "none"
        with pytest.raises(UsageError, match="decoder=none"):
            networks.choose("decoder", None, ("light", "linear"))

    def test_fusion_is_the_joined_convolution(self) -> None:
        torch.manual_seed(0)
        fusion = networks.Fusion([4, 6], hidden=5).eval()
        fine, coarse = torch.rand(2, 4, 8, 8), torch.rand(2, 6, 4, 4)
        joined = torch.cat([fine, F.interpolate(coarse, size=(8, 8), mode="bilinear")], dim=1)
        kernel = torch.cat([layer.weight for layer in fusion.project], dim=1)  # type: ignore[misc]
        with torch.no_grad():
            expected = fusion.logits(F.conv2d(joined, kernel)).squeeze(1)
            torch.testing.assert_close(fusion([fine, coarse]), expected, atol=1e-5, rtol=1e-4)

    def test_shipped_weights_are_loaded_into_feature_maps(self) -> None:
        saved = list(torch.load(networks.shipped_weights(), weights_only=True).values())
        for locator in (FaceXray(), LandmarkAided()):
            own = list(locator.build(pretrained=True).backbone.state_dict().values())  # type: ignore[union-attr,operator]
            assert len(own) > 280
            assert all(torch.equal(one, two) for one, two in zip(own, saved, strict=False))

    def test_names_that_timm_lacks(self) -> None:
        with pytest.raises(MethodError, match=r"hrnet_w19 is not a model of timm.*hrnet_w18"):
            networks.timm_model("hrnet_w19", weights="none", download=False)
        with pytest.raises(MethodError, match=r"timm has no weights for test_vit\.nonsense"):
            networks.timm_model("test_vit.nonsense", weights="pretrained", download=False)
