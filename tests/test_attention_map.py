"""The attention-map baseline: where the map is, what it is fitted to, how it is enlarged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, Loss, Recipe, Training
from flbench.methods._networks import shipped_weights
from flbench.methods.attention_map import GRID, TEMPLATES, AttentionMap, peak_loss


def make(**options: Any) -> tuple[AttentionMap, Any]:
    torch.manual_seed(0)
    locator = AttentionMap(**{"weights": "none", **options})
    locator.module = locator.build(pretrained=True)
    return locator, locator.module


def a_batch(size: int = 64, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([1.0, 0.0]).repeat(count)[:count]
    truth = torch.rand(count, size, size, generator=generator) * labels.view(-1, 1, 1)
    return Batch(torch.rand(count, 3, size, size, generator=generator), truth, labels, torch.ones_like(truth))


class Slice(Training):
    """One batch, and an optimiser that does nothing."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.seed = 0
        self.size = batch.images.shape[-1]
        self.device = torch.device("cpu")
        self.attention = False
        self.given: tuple[nn.Module, Recipe] | None = None

    def batches(self, *, batch: int = 32) -> Iterator[Batch]:
        yield self.batch

    def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
        assert torch.isfinite(loss(module, self.batch))
        self.given = module, recipe


def stub(locator: AttentionMap, maps: Tensor) -> None:
    """Replace the network by one that always gives these coarse maps."""

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return maps, torch.zeros(len(maps))

    locator.module = Fixed()


class TestContract:
    @pytest.mark.parametrize("attention", ["regression", "template"])
    @pytest.mark.parametrize("options", [{}, {"binarise": False}, {"input_size": 48}, {"enlarge": "nearest"}], ids=str)
    def test_any_size(self, attention: str, options: dict[str, Any]) -> None:
        locator, _ = make(attention=attention, **options)
        for height, width in ((1, 1), (31, 57), (64, 64)):
            fakeness, score = locator.predict(torch.rand(2, 3, height, width))
            assert fakeness.shape == (2, height, width)
            assert fakeness.dtype == torch.float32
            assert ((fakeness >= 0) & (fakeness <= 1)).all()
            if locator.binarise:
                assert set(fakeness.unique().tolist()) <= {0.0, 1.0}
            assert score is not None
            assert score.shape == (2,)
            assert ((score >= 0) & (score <= 1)).all()

    @pytest.mark.parametrize("attention", ["regression", "template"])
    def test_round_trip(self, attention: str, tmp_path: Path) -> None:
        locator, _ = make(attention=attention, binarise=False)
        locator.fit(Slice(a_batch()))
        locator.save(tmp_path)
        other = AttentionMap(weights="none", attention=attention, binarise=False)
        other.load(tmp_path)
        images = torch.rand(2, 3, 40, 40)
        for one, two in zip(locator.predict(images), other.predict(images), strict=True):
            assert one is not None
            assert two is not None
            assert torch.equal(one, two)

    @pytest.mark.parametrize("attention", ["regression", "template"])
    def test_finite_gradients_everywhere(self, attention: str) -> None:
        locator, module = make(attention=attention)
        module.train()
        for count in (4, 1):
            module.zero_grad()
            locator.loss(module, a_batch(count=count)).backward()
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name


class TestNetwork:
    def test_light_map_is_a_sixteenth(self) -> None:
        _, module = make()
        maps, logits = module(torch.rand(2, 3, 128, 128))
        assert maps.shape == (2, 8, 8)
        assert logits.shape == (2,)

    def test_xception_map_is_the_papers(self) -> None:
        locator, module = make(**{**AttentionMap.variants["paper"], "weights": "none"})
        assert locator.input_size == 299
        assert len([name for name in module.state_dict() if "first" in name and "conv1.weight" in name]) > 0
        module.eval()
        with torch.no_grad():
            maps, _ = module(torch.rand(1, 3, 299, 299))
        assert maps.shape == (1, 19, 19)
        assert module.attention[0].in_channels == 728

    def test_vgg_map_is_after_its_third_pooling(self) -> None:
        _, module = make(**{**AttentionMap.variants["vgg16"], "weights": "none"})
        module.eval()
        with torch.no_grad():
            maps, _ = module(torch.rand(1, 3, 224, 224))
        assert maps.shape == (1, 28, 28)
        assert module.attention[0].in_channels == 256

    def test_features_are_multiplied_with_the_map(self) -> None:
        _, module = make()
        module.eval()
        features: list[Tensor] = []
        multiplied: list[Tensor] = []
        module.first.register_forward_hook(lambda _, __, out: features.append(out))
        module.last.register_forward_pre_hook(lambda _, args: multiplied.append(args[0]))
        with torch.no_grad():
            maps, _ = module(torch.rand(2, 3, 64, 64))
        torch.testing.assert_close(multiplied[0], features[0] * maps.unsqueeze(1))

    def test_shipped_weights_are_loaded(self) -> None:
        saved = list(torch.load(shipped_weights(), weights_only=True).values())
        network = AttentionMap().build(pretrained=True)
        backbone = [*network.first.state_dict().values(), *network.last.state_dict().values()]
        assert len(backbone) == 294
        assert all(torch.equal(one, two) for one, two in zip(backbone, saved, strict=False))

    def test_weights_that_are_not_here(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(MethodError, match=r"imagenet of legacy_xception.*weights=none.*download=true"):
            AttentionMap(backbone="legacy_xception").build(pretrained=True)

    @pytest.mark.parametrize("option", ["backbone", "weights", "attention", "enlarge"])
    def test_options_that_cannot_be(self, option: str) -> None:
        with pytest.raises(UsageError, match=option):
            AttentionMap(**{option: "nonsense"})

    def test_input_size_below_what_the_network_takes(self) -> None:
        assert AttentionMap(input_size=32).input_size == 32
        with pytest.raises(UsageError, match="input_size=31"):
            AttentionMap(input_size=31)


class TestMap:
    truth = torch.tensor([0.05, 0.3]).repeat_interleave(32).repeat(64, 1)[None]

    @pytest.mark.parametrize(("binarise", "expected"), [(False, (0.05 + 0.3) / 2), (True, 0.5)])
    def test_loss_by_hand(self, binarise: bool, expected: float) -> None:
        locator = AttentionMap(weights="none", binarise=binarise, map_weight=2.0)
        stub(locator, torch.zeros(1, 4, 4))
        assert locator.module is not None
        batch = Batch(torch.rand(1, 3, 64, 64), self.truth, torch.ones(1), torch.ones(1, 64, 64))
        head = F.binary_cross_entropy_with_logits(torch.zeros(1), torch.ones(1))
        torch.testing.assert_close(locator.loss(locator.module, batch), 2 * torch.tensor(expected) + head)

    def test_weak_loss_by_hand(self) -> None:
        maps = torch.tensor([[[0.1, 0.5], [0.2, 0.0]], [[0.1, 0.5], [0.2, 0.0]]])
        real, fake = 0.8 / 4, 0.75 - 0.5
        torch.testing.assert_close(peak_loss(maps, torch.tensor([0.0, 1.0])), torch.tensor((real + fake) / 2))

    def test_weak_supervision_never_sees_the_truth(self) -> None:
        locator, module = make(supervision="label")
        module.eval()
        batch = a_batch()
        blank = batch._replace(fakeness=torch.zeros_like(batch.fakeness))
        assert torch.equal(locator.loss(module, batch), locator.loss(module, blank))

    def test_bilinear_and_nearest(self) -> None:
        coarse = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
        images = torch.rand(1, 3, 64, 64)
        for enlarge, columns in (("nearest", 2), ("bilinear", 34)):
            locator = AttentionMap(binarise=False, enlarge=enlarge)
            stub(locator, coarse)
            fakeness = locator.predict(images).fakeness
            assert len(fakeness.unique()) == columns
            assert (fakeness[..., :16] == 0).all()
            assert (fakeness[..., 48:] == 1).all()

    def test_binarised_at_one_half(self) -> None:
        locator = AttentionMap()
        stub(locator, torch.tensor([[[0.49, 0.51], [0.49, 0.51]]]))
        fakeness = locator.predict(torch.rand(1, 3, 64, 64)).fakeness
        assert torch.equal(fakeness, (torch.arange(64) >= 32).float().expand(1, 64, 64))

    def test_padding_is_cropped_not_squeezed(self) -> None:
        """A 16 px image is the upper left quarter of what the network saw at 32 px."""
        locator = AttentionMap(enlarge="nearest", binarise=False)
        stub(locator, torch.tensor([[[0.25, 0.5], [0.75, 1.0]]]))
        assert locator.predict(torch.rand(1, 3, 16, 16)).fakeness.unique().tolist() == [0.25]


class TestTemplates:
    def test_mean_and_axes_of_the_fakes(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = torch.rand(GRID, GRID, generator=generator)
        other = torch.rand(GRID, GRID, generator=generator)
        amounts = torch.linspace(-1, 1, 6).view(-1, 1, 1)
        maps = shape * 0.5 + amounts * other * 0.2
        truth = torch.cat([maps, torch.zeros(2, GRID, GRID)])
        batch = Batch(torch.rand(8, 3, GRID, GRID), truth, (torch.arange(8) < 6).float(), torch.ones_like(truth))
        locator = AttentionMap(weights="none", attention="template", binarise=False)
        slice_ = Slice(batch)
        locator.fit(slice_)
        assert slice_.given is not None
        module: Any = slice_.given[0]
        torch.testing.assert_close(module.attention.mean[0], maps.mean(dim=0))
        deviation = amounts.square().mean().sqrt()
        torch.testing.assert_close(module.attention.basis[0], other * 0.2 * deviation, rtol=1e-3, atol=1e-5)
        assert module.attention.basis.shape == (TEMPLATES, GRID, GRID)
        assert module.attention.basis[1:].abs().max() < 1e-4, "one axis explains these maps"

    def test_map_is_the_weighted_sum(self) -> None:
        _, module = make(attention="template")
        templates = module.attention
        templates.take(torch.rand(20, GRID, GRID))
        with torch.no_grad():
            templates.weigh.weight.zero_()
            templates.weigh.bias.zero_()
            templates.weigh.bias[0] = 1
            templates.weigh.bias[3] = 0.5
            maps = templates(torch.rand(2, 112, GRID, GRID))
        expected = (templates.mean[0] + 0.5 * templates.basis[2]).clamp(0, 1)
        torch.testing.assert_close(maps, expected.expand(2, 1, GRID, GRID))

    def test_without_fakes(self) -> None:
        batch = a_batch()._replace(labels=torch.zeros(4))
        with pytest.raises(MethodError, match="no fake"):
            AttentionMap(weights="none", attention="template").fit(Slice(batch))
