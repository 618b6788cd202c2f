"""Convolutions that multiply less: the same sums for every size, only where it is worth it, and nothing is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flbench.engine import inference, winograd
from flbench.engine.inference import Inference, check_engine, lighter
from flbench.engine.winograd import POINTS, Winograd, _toom_cook, multiplying_less
from flbench.errors import UsageError
from flbench.locator import NeuralLocator, Prediction, Recipe
from flbench.methods.fakelocator import FakeLocator


@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    padding=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    dilation=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    count=st.integers(1, 3),
    bias=st.booleans(),
    outputs=st.sampled_from(list(POINTS)),
    early=st.booleans(),
)
@settings(max_examples=150)
def test_it_is_the_convolution_it_stands_for(
    size: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels: tuple[int, int],
    count: int,
    bias: bool,
    outputs: int,
    early: bool,
) -> None:
    size = tuple(max(s, 2 * d + 1 - 2 * p) for s, p, d in zip(size, padding, dilation, strict=True))  # type: ignore[assignment]
    torch.manual_seed(0)
    conv = nn.Conv2d(*channels, 3, padding=padding, dilation=dilation, bias=bias, dtype=torch.float64)
    made = Winograd(conv, size, outputs, early=early)
    images = torch.randn(count, channels[0], *size, dtype=torch.float64)
    torch.testing.assert_close(made(images), conv(images), atol=1e-12, rtol=1e-12)
    larger = torch.randn(count, channels[0], size[0] + 1, size[1], dtype=torch.float64)
    assert torch.equal(made(larger), conv(larger))
    assert torch.equal(made(larger[0]), conv(larger[0]))
    torch.testing.assert_close(made(images[0]), conv(images[0]), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("outputs", POINTS)
def test_the_matrices_filter_a_row_of_whole_numbers(outputs: int) -> None:
    inward, kernel, outward = _toom_cook(outputs)
    rng = np.random.default_rng(0)
    row, taps = rng.integers(-9, 9, outputs + 2), rng.integers(-9, 9, 3)
    found = outward @ ((kernel @ taps) * (inward @ row))
    np.testing.assert_allclose(found, np.correlate(row, taps, "valid"), atol=1e-9)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_in_float32_it_errs_by_hundred_thousandths_at_most(dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 256, 3, padding=dilation, dilation=dilation)
    images = torch.randn(1, 256, 28, 28)
    exact = conv.double()(images.double())
    for outputs in POINTS:
        error = (Winograd(conv.float(), (28, 28), outputs)(images) - exact).abs().max()
        assert error < 2e-5


WIDE: dict[str, Any] = {"in_channels": 256, "out_channels": 256, "kernel_size": 3, "padding": 2, "dilation": 2}


def replaced(conv: nn.Conv2d, side: int = 28) -> bool:
    return multiplying_less(nn.Sequential(conv), {"0": (side, side)}) is not None


def test_a_wide_convolution_is_replaced() -> None:
    assert replaced(nn.Conv2d(**WIDE))
    assert replaced(nn.Conv2d(**WIDE | {"padding": 1, "dilation": 1}), 14)


@pytest.mark.parametrize(
    "change",
    [
        {"out_channels": 128},
        {"in_channels": 32},
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 5},
        {"stride": 2},
        {"groups": 256},
        {"padding": "same"},
        {"padding_mode": "reflect"},
        {"padding": 24, "dilation": 24},  # nearly all of its taps meet the padding, which costs nothing as it is
    ],
    ids=str,
)
def test_one_that_gains_nothing_is_left_alone(change: dict[str, Any]) -> None:
    assert not replaced(nn.Conv2d(**WIDE | change))


def test_one_with_few_tiles_a_hook_or_a_class_of_its_own_is_left_alone() -> None:
    class Own(nn.Conv2d):
        pass

    assert not replaced(nn.Conv2d(**WIDE), 8)
    assert not replaced(Own(**WIDE))
    hooked = nn.Conv2d(**WIDE)
    hooked.register_forward_hook(lambda part, given, said: said)
    assert not replaced(hooked)


def test_no_more_are_replaced_than_a_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(**WIDE), nn.Conv2d(**WIDE))
    monkeypatch.setattr(winograd, "ROOM", 256 * 256 * 49 * 4)
    made = multiplying_less(network, {"0": (28, 28), "1": (28, 28)})
    assert made is not None
    assert [type(part) for part in made.children()] == [Winograd, nn.Conv2d]


def test_the_network_stays_as_it_is_and_lends_its_weights() -> None:
    inner = nn.Conv2d(**WIDE)
    network = nn.Sequential(nn.Conv2d(3, 256, 1), nn.Sequential(inner, nn.BatchNorm2d(256)), inner).eval()
    made = multiplying_less(network, {"0": (28, 28), "1.0": (28, 28)})
    assert made is not None
    assert network[1][0] is inner  # type: ignore[index]
    assert isinstance(made.get_submodule("1.0"), Winograd)
    assert dict(made.state_dict()).keys() == dict(network.state_dict()).keys()
    for one, two in zip(made.parameters(), network.parameters(), strict=True):
        assert one is two
    images = torch.rand(2, 3, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(made(images), network(images), atol=1e-5, rtol=0)


def deeplab() -> FakeLocator:
    torch.manual_seed(0)
    locator = FakeLocator(architecture="DeepLabV3", encoder="resnet18", weights="none")
    locator.module = locator.build(pretrained=False)
    return locator


def winograds(locator: NeuralLocator) -> list[str]:
    assert locator.module is not None
    return [name for name, part in locator.module.named_modules() if isinstance(part, Winograd)]


def hooks(locator: NeuralLocator) -> int:
    assert locator.module is not None
    return sum(len(part._forward_pre_hooks) for part in locator.module.modules())


def test_deeplab_says_the_same_with_fewer_products() -> None:
    locator = deeplab()
    made = lighter(locator, 128)
    assert made is not locator
    assert any("layer3" in name for name in winograds(made))
    assert not any("aspp" in name for name in winograds(made))
    assert not winograds(locator)
    assert not hooks(locator)
    for side in (128, 96):
        images = torch.rand(3, 3, side, side)
        for one, two in zip(made.predict(images), locator.predict(images), strict=True):
            assert one is not None
            torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


class Wide(NeuralLocator):
    """One wide convolution, or a network that raises."""

    title = "Wide"

    def __init__(self, *, raises: bool = False) -> None:
        super().__init__(recipe=Recipe())
        self.module = nn.Sequential(nn.Conv2d(3, 256, 1), nn.Conv2d(**WIDE))
        self.raises = raises

    def build(self, *, pretrained: bool) -> nn.Module:
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: object) -> Tensor:
        raise NotImplementedError

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        maps = module(images).mean(1).sigmoid()
        if self.raises:
            raise RuntimeError("no")
        return Prediction(maps)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_is_given_it_and_says_what_torch_says(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        check_engine(engine, torch.device("cpu"))
    except UsageError as error:
        pytest.skip(str(error))
    given: list[NeuralLocator] = []

    def noted(locator: NeuralLocator, size: int, *, early: bool) -> NeuralLocator:
        given.append(lighter(locator, size, early=early))
        return given[-1]

    monkeypatch.setattr(inference, "lighter", noted)
    locator = Wide()
    brought = Inference(locator, "it", engine, size=32, threads=1)
    assert winograds(given[0])
    for count in (3, 1):
        images = torch.rand(count, 3, 32, 32)
        expected = locator.predict(images).fakeness
        torch.testing.assert_close(brought.predict(images).fakeness, expected, atol=1e-5, rtol=0)


def test_a_network_that_says_something_else_or_raises_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert winograds(lighter(Wide(), 32))
    raises = Wide(raises=True)
    assert lighter(raises, 32) is raises
    assert not hooks(raises)
    wrong = Wide()
    monkeypatch.setattr(inference, "LAYOUT_TOLERANCE", -1.0)
    assert lighter(wrong, 32) is wrong
