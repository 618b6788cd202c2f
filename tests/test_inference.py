"""Other engines than eager torch: they score what torch scores, say how far they are from it, or are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import flbench
from flbench.cli import main
from flbench.data.dataset import Dataset
from flbench.engine import inference
from flbench.engine.inference import (
    ENGINES,
    TORCH,
    Inference,
    check_engine,
    check_precision,
    in_channels_last,
    with_engine,
)
from flbench.engine.runtime import Runtime
from flbench.errors import MethodError, UsageError
from flbench.locator import NeuralLocator, Prediction, Recipe
from flbench.methods.gradcam import GradCam
from flbench.methods.ones import Ones
from flbench.methods.y_autoencoder import YAutoencoder
from flbench.registry import choose_method, load_method
from flbench.study import Study

CPU = torch.device("cpu")


def ready(locator: NeuralLocator) -> NeuralLocator:
    torch.manual_seed(0)
    locator.module = locator.build(pretrained=False)
    return locator


def needs(engine: str) -> None:
    try:
        check_engine(engine, CPU)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_says_what_torch_says_and_how_far_it_is(engine: str) -> None:
    needs(engine)
    locator = ready(YAutoencoder())
    made = with_engine(locator, "y", engine, size=32, threads=1)
    assert isinstance(made, Inference)
    assert made.deviation is None
    assert made.parameters == locator.parameters
    for count in (4, 1):
        images = torch.rand(count, 3, 32, 32)
        for one, two in zip(made.predict(images), locator.predict(images), strict=True):
            assert one is not None
            assert two is not None
            torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
    assert made.deviation is not None
    assert 0 <= made.deviation <= 1e-4


def test_an_engine_that_says_something_else_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(locator: NeuralLocator, name: str, size: int, threads: int) -> inference.Session:
        return lambda images: (torch.zeros(len(images), size, size), torch.zeros(len(images)))

    monkeypatch.setitem(ENGINES, "onnxruntime", wrong)
    made = with_engine(ready(YAutoencoder()), "y", "onnxruntime", size=32, threads=1)
    with pytest.raises(MethodError, match=r"method y: onnxruntime differs from torch by .*--inference torch"):
        made.predict(torch.rand(2, 3, 32, 32))


def test_an_engine_that_says_nan_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(locator: NeuralLocator, name: str, size: int, threads: int) -> inference.Session:
        def run(images: Tensor) -> tuple[Tensor, ...]:
            return torch.full((len(images), size, size), torch.nan), torch.zeros(len(images))

        return run

    monkeypatch.setitem(ENGINES, "openvino", broken)
    with pytest.raises(MethodError, match="openvino differs from torch by nan"):
        with_engine(ready(YAutoencoder()), "y", "openvino", size=32, threads=1).predict(torch.rand(1, 3, 32, 32))


def test_compile_asks_torch_to_compile_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def compiled(module: torch.nn.Module) -> torch.nn.Module:
        asked.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    locator = ready(YAutoencoder())
    made = with_engine(locator, "y", "compile", size=32, threads=1)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(made.predict(images).fakeness, locator.predict(images).fakeness)
    assert asked == [locator.module]


def test_what_is_no_plain_network_is_run_by_torch() -> None:
    for locator in (Ones(), ready(GradCam(weights="none"))):
        assert with_engine(locator, "it", "onnxruntime", size=32, threads=1) is locator
    locator = ready(YAutoencoder())
    assert with_engine(locator, "it", TORCH, size=32, threads=1) is locator


def test_what_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'tensorrt' is not known .*onnxruntime"):
        check_engine("tensorrt", CPU)
    with pytest.raises(UsageError, match=r"is not for meta .*--device cpu"):
        check_engine("compile", torch.device("meta"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"needs openvino, which is not installed .*flbench\[openvino\]"):
        Runtime.set_up("cpu", torch.get_num_threads(), "openvino")


def test_the_command_knows_every_engine() -> None:
    (option,) = [option for option in main.commands["run"].params if option.name == "inference"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == [TORCH, *ENGINES]


def test_a_run_by_another_engine_scores_the_same_and_its_record_says_so(boxes: Dataset, tmp_path: Path) -> None:
    needs("onnxruntime")
    words = ["run", "-m", "y_autoencoder", "-p", "in_gan", "--data", str(boxes.folder), "--max-steps", "3"]
    records = {}
    for engine in (TORCH, "onnxruntime"):
        done = CliRunner().invoke(
            main, [*words, "--study", str(tmp_path / engine), "--threads", "1", "--inference", engine, "--json"]
        )
        assert done.exit_code == 0, done.output
        records[engine] = {record["method"]["name"]: record for record in json.loads(done.stdout)}
    mine = records["onnxruntime"]["y_autoencoder"]
    assert mine["provenance"]["inference"]["engine"] == "onnxruntime"
    assert 0 <= mine["provenance"]["inference"]["deviation"] <= 1e-4
    assert "inference" not in records[TORCH]["y_autoencoder"]["provenance"]
    assert "inference" not in records["onnxruntime"]["meanmap"]["provenance"]
    assert mine["cell"] == records[TORCH]["y_autoencoder"]["cell"]
    one, two = (Study(tmp_path / engine).scores(mine["cell"]).set_index("sample_id") for engine in records)
    for column in ("score", "coss", "ssim", "mae"):
        np.testing.assert_allclose(one[column], two[column], atol=1e-4, rtol=0)


class Net(nn.Module):
    """A convolution, then what may or may not count on the order of its output in memory."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.flat = flat

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return features.view(-1).view(features.shape).mean(1).sigmoid() if self.flat else features.mean(1).sigmoid()


class Small(NeuralLocator):
    title = "Small"

    def __init__(self, *, flat: bool) -> None:
        super().__init__(recipe=Recipe())
        self.module = Net(flat=flat)

    def build(self, *, pretrained: bool) -> nn.Module:
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: object) -> Tensor:
        raise NotImplementedError

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        return Prediction(module(images))


def test_weights_are_laid_as_convolutions_like_them_where_the_network_says_the_same() -> None:
    safe, images = Small(flat=False), torch.rand(2, 3, 16, 16)
    before = safe.predict(images).fakeness
    assert in_channels_last(safe, 16, CPU)
    assert safe.module is not None
    assert safe.module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(safe.predict(images).fakeness, before, atol=1e-6, rtol=0)


def test_weights_that_lie_so_already_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    locator = Small(flat=False)
    assert locator.module is not None
    locator.module.to(memory_format=torch.channels_last)
    monkeypatch.setattr(locator, "predict", None)
    assert in_channels_last(locator, 16, CPU)


def test_a_network_that_counts_on_the_usual_order_is_left_as_it_is() -> None:
    flat, images = Small(flat=True), torch.rand(2, 3, 16, 16)
    before = flat.predict(images).fakeness
    assert not in_channels_last(flat, 16, CPU)
    assert flat.module is not None
    assert flat.module.conv.weight.is_contiguous()
    assert torch.equal(flat.predict(images).fakeness, before)


def test_what_is_no_network_has_no_layout() -> None:
    assert not in_channels_last(load_method(choose_method("ela")), 16, CPU)


def test_precisions_are_for_gpus_and_told_before_anything_runs() -> None:
    check_precision("float32", torch.device("cpu"))
    check_precision("bfloat16", torch.device("cuda"))
    with pytest.raises(UsageError, match=r"precision float16 is for GPUs, the device is cpu"):
        check_precision("float16", torch.device("cpu"))
    with pytest.raises(UsageError, match="not known"):
        check_precision("float8", torch.device("cuda"))


@pytest.mark.parametrize(
    ("size", "device", "batch"),
    [(64, "cpu", 16), (128, "cpu", 16), (224, "cpu", 5), (1024, "cpu", 1), (224, "mps", 64)],
)
def test_the_number_of_images_predicted_together_follows_from_size_and_device(
    size: int, device: str, batch: int
) -> None:
    assert Runtime(torch.device(device), 1).batch_at(size) == batch
    assert Runtime(torch.device(device), 1, batch=3).batch_at(size) == 3


def test_an_engine_given_from_python_is_told_by_its_own_name(boxes: Dataset) -> None:
    needs("onnxruntime")
    ready_made = Inference(ready(YAutoencoder()), "y", "onnxruntime", size=32, threads=1)
    record = flbench.evaluate(ready_made, "in_gan", boxes, threads=1, device="cpu")
    assert record.status == "ok"
    assert record.provenance["inference"]["engine"] == "onnxruntime"
