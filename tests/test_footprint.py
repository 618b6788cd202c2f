"""What a method costs: counts by hand, and why there may be none."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from flbench.cli import main
from flbench.footprint import SIZE, measure_footprint
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe
from flbench.method_file import MethodEntry
from flbench.registry import MethodChoice, choose_method


class OneConvolution(NeuralLocator):
    title = "One convolution"

    def __init__(self) -> None:
        super().__init__(recipe=Recipe(steps=1))

    def build(self, *, pretrained: bool) -> nn.Module:
        if pretrained:
            raise AssertionError("weights are not needed to count")
        return nn.Conv2d(3, 4, 3, padding=1, bias=False)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("nothing is fitted to count")

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        return Prediction(module(images).mean(dim=1).sigmoid())


def given(locator: NeuralLocator) -> MethodChoice:
    return MethodChoice(entry=MethodEntry(name="given", module="tests"), ready=locator)


def test_a_network_is_counted_without_weights_or_fit() -> None:
    found = measure_footprint(given(OneConvolution()))
    assert found.parameters == 4 * 3 * 3 * 3
    assert found.macs == SIZE * SIZE * 4 * 3 * 3 * 3
    assert found.seconds > 0
    assert found.threads == torch.get_num_threads()
    assert not found.why


def test_a_method_without_network_is_timed() -> None:
    found = measure_footprint(choose_method("ela"))
    assert (found.parameters, found.macs, found.why) == (0, 0, "")
    assert found.seconds > 0


def test_a_method_that_takes_gradients_is_timed_all_the_same() -> None:
    found = measure_footprint(choose_method("gradcam", {"weights": "none"}))
    assert found.macs is None
    assert found.parameters > 1e6
    assert found.seconds > 0


def test_what_cannot_predict_says_why(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = measure_footprint(choose_method(f"maps:{tmp_path}"))
    assert "goes by names" in found.why


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("y_autoencoder", ["what it does", "Optimiser steps of a fit", "parameters", "multiply-accumulates", "ms per"]),
        ("maps", ["what it does"]),
        ("attention_map:weak", ["attention_map:weak on this machine"]),
    ],
)
def test_show_prints_a_card(name: str, words: list[str]) -> None:
    result = CliRunner().invoke(main, ["show", name])
    assert result.exit_code == 0, result.output
    for word in words:
        assert word in " ".join(result.output.split())


def test_show_as_json() -> None:
    result = CliRunner().invoke(main, ["show", "highpass", "--json"])
    card = json.loads(result.stdout)
    assert card["told"].keys() == card["options"].keys()
    assert card["footprint"]["seconds"] > 0
    assert json.loads(CliRunner().invoke(main, ["show", "maps", "--json"]).stdout)["footprint"] is None


def test_an_unknown_variant_is_refused() -> None:
    result = CliRunner().invoke(main, ["show", "attention_map:weka"])
    assert result.exit_code == 2
    assert "weak" in result.stderr
