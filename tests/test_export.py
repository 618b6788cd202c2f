"""A fitted network as an ONNX file: it scores what the locator scores, or it is not written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flbench
from flbench.data.dataset import Dataset
from flbench.engine import export
from flbench.engine.export import export_onnx
from flbench.errors import MethodError, UsageError
from flbench.locator import NeuralLocator
from flbench.methods.fakelocator import FakeLocator
from flbench.methods.ones import Ones
from flbench.methods.onnx import OnnxModel
from flbench.methods.y_autoencoder import YAutoencoder
from flbench.study import Study


def ready(locator: NeuralLocator) -> NeuralLocator:
    torch.manual_seed(0)
    locator.module = locator.build(pretrained=False)
    return locator


def test_an_exported_fakelocator_scores_what_it_scores_in_torch(boxes: Dataset, tmp_path: Path) -> None:
    locator = ready(FakeLocator(weights="none"))
    assert export_onnx(locator, "fakelocator", boxes.about.size, tmp_path / "net.onnx") <= 1e-4
    files = [path.name for path in tmp_path.iterdir()]
    assert files == ["net.onnx"]
    found = {}
    for name, thing in (("torch", locator), ("onnx", OnnxModel(target=str(tmp_path / "net.onnx")))):
        record = flbench.evaluate(thing, "in_gan", boxes, study=tmp_path / name, threads=1)
        assert record.status == "ok", record.reason
        found[name] = Study(tmp_path / name).scores(record.cell).set_index("sample_id")
    for column in ("score", "coss", "ssim", "mae"):
        np.testing.assert_allclose(found["torch"][column], found["onnx"][column], atol=1e-4, rtol=0)


def test_what_differs_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(MethodError, match="the exported file differs by"):
        export_onnx(ready(YAutoencoder()), "y_autoencoder", 32, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_export_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    locator = ready(YAutoencoder())
    monkeypatch.setattr(locator, "forward", lambda module, images: 1 / 0)
    monkeypatch.setattr(export, "_Outputs", lambda locator: torch.nn.Identity())

    def refuse(*words: object, **more: object) -> None:
        raise RuntimeError("no such operator\nand a long explanation")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(MethodError, match=r"method y cannot be exported: RuntimeError: no such operator$"):
        export_onnx(locator, "y", 32, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    for thing in (Ones(), YAutoencoder()):
        with pytest.raises(UsageError, match="is no fitted network"):
            export_onnx(thing, "it", 32, tmp_path / "net.onnx")


def test_without_the_libraries_one_line_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"onnxscript is not installed.*pip install 'flbench\[onnx\]'"):
        export_onnx(ready(YAutoencoder()), "y", 32, tmp_path / "net.onnx")
