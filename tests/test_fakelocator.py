"""FakeLocator: losses, limiting layer, face parsing, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, Loss, Recipe, Training
from flbench.methods._networks import shipped_weights
from flbench.methods.fakelocator import FakeLocator, borrowed, map_loss

CONVOLUTIONAL = ["Unet", "UnetPlusPlus", "FPN", "DeepLabV3", "DeepLabV3Plus", "PSPNet", "PAN", "Linknet", "MAnet"]
ARCHITECTURES = [*CONVOLUTIONAL, "UPerNet", "Segformer", "DPT"]
SHIPPED, RESNET, MIT, VIT = "timm-tf_efficientnet_lite0", "resnet18", "mit_b0", "tu-vit_tiny_patch16_224"
REFUSED = {
    **{(name, VIT): "Unsupported model downsampling pattern" for name in ARCHITECTURES if name != "DPT"},
    **{("DPT", name): "Only Timm encoders are supported" for name in (SHIPPED, RESNET, MIT)},
    ("Linknet", MIT): "not supported for Linknet",
    ("UnetPlusPlus", MIT): "is not support",
}
"""What smp cannot join, and the words in which it says so; everything else of the matrix is fitted and predicts."""

LIGHT: dict[str, Any] = {"encoder": "resnet18", "weights": "none", "decoder_channels": (16, 16, 8, 8, 8)}


def make(**options: Any) -> tuple[FakeLocator, Any]:
    torch.manual_seed(0)
    locator = FakeLocator(**{**LIGHT, **options})
    locator.module = locator.build(pretrained=True)
    return locator, locator.module


def a_batch(size: int = 64, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([1.0, 0.0]).repeat(count)[:count]
    truth = torch.rand(count, size, size, generator=generator) * labels.view(-1, 1, 1)
    return Batch(torch.rand(count, 3, size, size, generator=generator), truth, labels, torch.ones_like(truth))


class TestContract:
    @pytest.mark.parametrize("input_size", [None, 32])
    @pytest.mark.parametrize("limiting", ["after", "before"])
    def test_any_size(self, input_size: int | None, limiting: str) -> None:
        locator, _ = make(input_size=input_size, limiting=limiting)
        for height, width in ((1, 1), (31, 57), (64, 64)):
            fakeness, score = locator.predict(torch.rand(2, 3, height, width))
            assert fakeness.shape == (2, height, width)
            assert fakeness.dtype == torch.float32
            assert fakeness.min() >= 0
            assert fakeness.max() <= 1
            assert score is not None
            assert score.shape == (2,)
            assert ((score >= 0) & (score <= 1)).all()

    def test_no_classifier_no_score(self) -> None:
        locator, module = make(classifier=False)
        assert locator.predict(torch.rand(1, 3, 32, 32)).score is None
        assert module.head is None

    def test_padding_does_not_reach_the_loss(self) -> None:
        """A loss on 33 px must equal the loss by hand on the cropped prediction."""
        locator, module = make(classifier=False, map_weight=2.0)
        batch = a_batch(33)
        module.eval()
        expected = 2 * (locator.predict(batch.images).fakeness - batch.fakeness).abs().mean()
        torch.testing.assert_close(locator.loss(module, batch), expected)

    def test_network_sees_the_input_size(self) -> None:
        locator, module = make(input_size=96)
        seen: list[torch.Size] = []
        module.segmenter.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
        locator.predict(torch.rand(1, 3, 20, 50))
        locator.loss(module, a_batch(40))
        assert [tuple(s[-2:]) for s in seen] == [(96, 96), (96, 96)]

    def test_images_are_normalised_inside(self) -> None:
        locator, module = make()
        seen: list[Tensor] = []
        module.segmenter.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        locator.predict(torch.full((1, 3, 32, 32), 0.5))
        expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(seen[0][0, :, 0, 0], expected)

    @pytest.mark.parametrize("architecture", ["DeepLabV3", "FPN", "PSPNet", "Segformer", "PAN"])
    def test_one_image_can_be_fitted(self, architecture: str) -> None:
        locator, module = make(architecture=architecture, decoder_channels=None)
        module.train()
        locator.loss(module, a_batch(64, count=1)).backward()
        assert module.training
        assert all(m.training for m in module.modules())

    @pytest.mark.parametrize("encoder", [SHIPPED, RESNET, MIT, VIT])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture_on_every_kind_of_encoder(self, architecture: str, encoder: str) -> None:
        torch.manual_seed(0)
        locator = FakeLocator(architecture=architecture, encoder=encoder, weights="none")
        if (architecture, encoder) in REFUSED:
            with pytest.raises(MethodError, match=REFUSED[architecture, encoder]):
                locator.build(pretrained=False)
            return
        locator.module = locator.build(pretrained=False)
        locator.module.train()
        locator.loss(locator.module, a_batch(48, count=2)).backward()
        decoder = list(locator.module.segmenter.decoder.parameters())
        assert sum(p.grad is not None and bool((p.grad != 0).any()) for p in decoder) > len(decoder) / 2
        prediction = locator.predict(torch.rand(1, 3, 50, 40))
        assert prediction.fakeness.shape == (1, 50, 40)
        assert 0 <= prediction.fakeness.min() <= prediction.fakeness.max() <= 1

    def test_an_encoder_of_one_size_asks_for_it(self) -> None:
        encoder = "tu-swin_tiny_patch4_window7_224"
        with pytest.raises(MethodError, match=r"takes no images of this size.*set input_size"):
            FakeLocator(architecture="FPN", encoder=encoder, weights="none").build(pretrained=False)
        locator = FakeLocator(architecture="FPN", encoder=encoder, weights="none", input_size=224)
        locator.module = locator.build(pretrained=False)
        assert locator.predict(torch.rand(1, 3, 48, 64)).fakeness.shape == (1, 48, 64)

    def test_round_trip(self, tmp_path: Path) -> None:
        locator, module = make()
        module.train()
        locator.loss(module, a_batch()).backward()  # moves the running statistics
        images = torch.rand(2, 3, 40, 40)
        locator.save(tmp_path)
        other = FakeLocator(**LIGHT)
        other.load(tmp_path)
        for one, two in zip(locator.predict(images), other.predict(images), strict=True):
            assert one is not None
            assert two is not None
            assert torch.equal(one, two)
        assert other.parameters == sum(p.numel() for p in module.parameters())


class TestLosses:
    truth = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    maps = torch.tensor([[[0.2, 0.5], [0.6, 0.75]]])

    def test_by_hand(self) -> None:
        assert map_loss("l1", self.maps, self.truth).item() == pytest.approx((0.2 + 0 + 0.4 + 0.5) / 4)
        assert map_loss("l2", self.maps, self.truth).item() == pytest.approx((0.04 + 0 + 0.16 + 0.25) / 4)
        both, each = 0.25 + 0.6 + 0.1875, (0.04 + 0.25 + 0.36 + 0.5625) + (0.25 + 1 + 0.0625)
        assert map_loss("dice", self.maps, self.truth).item() == pytest.approx(1 - (2 * both + 1) / (each + 1))

    def test_focal_is_weighted_cross_entropy(self) -> None:
        torch.testing.assert_close(
            map_loss("focal", self.maps, self.truth, gamma=0.0), F.binary_cross_entropy(self.maps, self.truth)
        )
        fake, real = torch.tensor([[[0.9]]]), torch.tensor([[[1.0]]])
        easy = map_loss("focal", fake, real, gamma=2.0)
        torch.testing.assert_close(easy, 0.1**2 * F.binary_cross_entropy(fake, real))

    @pytest.mark.parametrize("kind", ["l1", "l2", "dice"])
    def test_least_at_the_truth(self, kind: str) -> None:
        least = map_loss(kind, self.truth, self.truth)
        assert least.abs() < 1e-6
        for shift in (-0.1, 0.1):
            assert map_loss(kind, (self.truth + shift).clamp(0, 1), self.truth) > least

    @pytest.mark.parametrize("limiting", ["after", "before"])
    @pytest.mark.parametrize("kind", ["l1", "l2", "dice", "focal"])
    def test_finite_gradients_everywhere(self, kind: str, limiting: str) -> None:
        locator, module = make(loss=kind, limiting=limiting)
        module.train()
        batch = a_batch()
        for truth in (batch.fakeness, torch.zeros_like(batch.fakeness), torch.ones_like(batch.fakeness)):
            module.zero_grad()
            locator.loss(module, batch._replace(fakeness=truth)).backward()
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name

    def test_focal_survives_saturation(self) -> None:
        maps = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
        loss = map_loss("focal", maps, torch.tensor([[[1.0, 0.0]]]))
        loss.backward()
        assert maps.grad is not None
        assert torch.isfinite(maps.grad).all()
        assert torch.isfinite(loss)

    def test_weights_of_the_two_parts(self) -> None:
        _, module = make()
        module.eval()
        batch = a_batch()
        maps, logits = module(batch.images)
        parts = (maps - batch.fakeness).abs().mean(), F.binary_cross_entropy_with_logits(logits, batch.labels)
        total = FakeLocator(**LIGHT, map_weight=3.0, score_weight=0.5).loss(module, batch)
        torch.testing.assert_close(total, 3 * parts[0] + 0.5 * parts[1])


class TestLimiting:
    def features(self, module: Any, images: Tensor) -> list[Tensor]:
        seen: list[list[Tensor]] = []
        handle = module.segmenter.decoder.register_forward_pre_hook(lambda _, args: seen.append(list(args[0])))
        with torch.no_grad():
            module(images)
        handle.remove()
        return seen[0]

    def test_before_limits_what_the_decoder_sees(self) -> None:
        images = torch.rand(1, 3, 64, 64)
        _, after = make(limiting="after")
        _, before = make(limiting="before")
        after.eval(), before.eval()
        plain, limited = self.features(after, images), self.features(before, images)
        assert torch.equal(plain[0], limited[0]), "the image itself is not limited"
        for one, two in zip(plain[1:], limited[1:], strict=True):
            torch.testing.assert_close(one.sigmoid(), two)

    def test_after_is_the_sigmoid_of_the_decoder(self) -> None:
        _, module = make()
        module.eval()
        seen: list[Tensor] = []
        module.segmenter.segmentation_head.register_forward_hook(lambda _, __, out: seen.append(out))
        maps, _ = module(torch.rand(1, 3, 64, 64))
        torch.testing.assert_close(maps, seen[0][:, 0].sigmoid())

    def test_before_is_the_clamp_of_the_decoder(self) -> None:
        _, module = make(limiting="before")
        module.eval()
        with torch.no_grad():
            module.segmenter.segmentation_head[0].weight.mul_(50)
        seen: list[Tensor] = []
        module.segmenter.segmentation_head.register_forward_hook(lambda _, __, out: seen.append(out))
        maps, _ = module(torch.rand(1, 3, 64, 64))
        assert seen[0].min() < 0
        assert seen[0].max() > 1
        torch.testing.assert_close(maps, seen[0][:, 0].clamp(0, 1))


class TestFaceParsing:
    def decoder_input(self, module: Any, run: Callable[[], object]) -> list[Tensor]:
        seen: list[list[Tensor]] = []
        handle = module.segmenter.decoder.register_forward_pre_hook(lambda _, args: seen.append(list(args[0])))
        with torch.no_grad():
            run()
        handle.remove()
        return seen[0]

    def test_attention_multiplies_every_stage(self) -> None:
        _, module = make()
        module.eval()
        images = torch.rand(2, 3, 64, 64)
        attention = torch.zeros(2, 64, 64)
        attention[0, :, :32] = 1
        attention[1] = 0.5
        white = self.decoder_input(module, lambda: module(images))
        masked = self.decoder_input(module, lambda: module(images, attention))
        assert torch.equal(white[0], masked[0]), "the image itself is not multiplied"
        for one, two in zip(white[1:], masked[1:], strict=True):
            half = one.shape[-1] // 2
            torch.testing.assert_close(two[1], one[1] * 0.5)
            assert one.shape == two.shape
            # Antialiasing blurs the edge over one cell at most.
            torch.testing.assert_close(two[0, ..., : max(half - 1, 0)], one[0, ..., : max(half - 1, 0)])
            assert (two[0, ..., half + 1 :] == 0).all()
        assert white[1].abs().sum() > 0

    def test_attention_is_used_while_fitting_only(self) -> None:
        locator, module = make(face_parsing=True)
        batch = a_batch()._replace(attention=torch.zeros(4, 64, 64))
        module.train()
        fitting = self.decoder_input(module, lambda: locator.loss(module, batch))
        assert all((f == 0).all() for f in fitting[1:])
        module.eval()
        judging = self.decoder_input(module, lambda: locator.loss(module, batch))
        predicting = self.decoder_input(module, lambda: locator.predict(batch.images))
        for one, two in zip(judging, predicting, strict=True):
            assert torch.equal(one, two)
            assert one.abs().sum() > 0

    def test_needs_parsing_maps(self) -> None:
        class Without(Training):
            attention = False

            def batches(self, *, batch: int = 32) -> Iterator[Batch]:
                yield a_batch()

            def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
                raise AssertionError("not reached")

        with pytest.raises(MethodError, match="parsing maps"):
            FakeLocator(**LIGHT, face_parsing=True).fit(Without())

    def test_white_map_when_predicting(self) -> None:
        plain, _ = make(face_parsing=False)
        parsing, module = make(face_parsing=True)
        images = torch.rand(2, 3, 48, 48)
        assert torch.equal(plain.predict(images).fakeness, parsing.predict(images).fakeness)
        with torch.no_grad():
            for one, two in zip(module(images), module(images, torch.ones(2, 48, 48)), strict=True):
                torch.testing.assert_close(one, two)

    def test_without_it_attention_is_not_looked_at(self) -> None:
        locator, module = make(face_parsing=False)
        module.train()
        batch = a_batch()._replace(attention=torch.zeros(4, 64, 64))
        fitting = self.decoder_input(module, lambda: locator.loss(module, batch))
        assert all(f.abs().sum() > 0 for f in fitting)

    def test_real_images_borrow_from_the_fakes(self) -> None:
        attention = torch.arange(5.0).view(5, 1, 1).expand(5, 2, 2)
        lent = borrowed(attention, torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]))
        assert lent[:, 0, 0].tolist() == [1, 1, 3, 3, 1]
        assert torch.equal(borrowed(attention, torch.zeros(5)), attention)

    def test_head_sees_the_mean_inside_the_region(self) -> None:
        """A head that sees sums would learn the region's area instead of what is in it."""
        _, module = make(face_parsing=True)
        module.eval()
        with torch.no_grad():
            _, white = module(torch.full((1, 3, 64, 64), 0.5))
            _, half = module(torch.full((1, 3, 64, 64), 0.5), torch.full((1, 64, 64), 0.5))
        torch.testing.assert_close(white, half)


class TestWeights:
    @pytest.mark.parametrize("encoder", ["timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"])
    def test_shipped_weights_are_loaded(self, encoder: str) -> None:
        saved = list(torch.load(shipped_weights(), weights_only=True).values())
        built = FakeLocator(encoder=encoder).build(pretrained=True)
        own = list(built.segmenter.encoder.state_dict().values())
        assert len(own) >= 288
        assert torch.equal(own[0], saved[0])
        assert torch.equal(own[287], saved[287])
        empty = FakeLocator(encoder=encoder).build(pretrained=False)
        assert not torch.equal(next(iter(empty.segmenter.encoder.state_dict().values())), saved[0])

    @pytest.mark.parametrize("encoder", ["resnet34", "tu-resnet34.a1_in1k"])
    def test_weights_that_are_not_here(self, encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        locator = FakeLocator(encoder=encoder)
        with pytest.raises(MethodError, match=r"imagenet of .*resnet34.*weights=none.*download=true") as caught:
            locator.build(pretrained=True)
        assert "\n" not in str(caught.value)
        assert isinstance(locator.build(pretrained=False), nn.Module)

    def test_weights_that_do_not_exist(self) -> None:
        with pytest.raises(MethodError, match="nowhere"):
            FakeLocator(encoder="resnet18", weights="nowhere").build(pretrained=True)
        with pytest.raises(MethodError, match="no weights"):
            FakeLocator(encoder="tu-mobilenetv2_035").build(pretrained=True)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"architecture": "Unett"}, "did you mean unet"),
            ({"encoder": "resnet19"}, "did you mean resnet18"),
            ({"encoder": "tu-no_such_model"}, "no_such_model"),
            ({"encoder": "tu-resnet18.no_such_tag"}, "no_such_tag"),
        ],
    )
    def test_unknown_parts(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(MethodError, match=said):
            FakeLocator(**options).build(pretrained=True)

    @pytest.mark.parametrize(
        "options",
        [
            {"loss": "l3"},
            {"limiting": "inside"},
            {"input_size": 0},
            {"decoder_channels": (8, 8)},
            {"architecture": "FPN", "decoder_channels": (8,) * 5},
        ],
    )
    def test_options_that_cannot_be(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            FakeLocator(**options)


def test_it_learns() -> None:
    """Twelve steps on one batch must bring the loss down."""
    locator, module = make()
    module.train()
    batch = a_batch()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = locator.loss(module, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
