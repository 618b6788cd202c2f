"""Write a fitted locator as an ONNX file, and hold the file against the locator."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError
from flbench.files import atomic_write
from flbench.locator import Locator, NeuralLocator, Prediction
from flbench.trial import make_images

TOLERANCE = 1e-4
"""Largest difference of a map or a score between the file and the locator."""

WRITERS = ("onnx", "onnxscript")
"""What torch writes ONNX files with."""


class _Outputs(nn.Module):
    """A neural locator as a plain module: images in, map and score out."""

    def __init__(self, locator: NeuralLocator) -> None:
        super().__init__()
        self.locator = locator
        self.module = locator.module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        assert self.module is not None
        said: Prediction = self.locator.forward(self.module, images)
        return tuple(part for part in said if part is not None)


def export_onnx(locator: Locator, name: str, size: int, path: Path) -> float:
    """Write a fitted neural locator as one ONNX file for images of its fit's size and batches of any size.

    Input `images`: float32 (B, 3, H, W), RGB in [0, 1]. Outputs `fakeness` (B, H, W) in [0, 1] and, if the method has
    one, `score` (B,). The file is run by onnxruntime on made images before it is put in place.

    Args:
        locator: Fitted, on the CPU.
        name: The method, for messages.
        size: Height and width of the images in pixels.
        path: The file; one that exists is replaced.

    Returns:
        The largest difference of a map or a score between file and locator.

    Raises:
        UsageError: The method is no fitted network, or the libraries are not installed.
        MethodError: torch cannot export the network, or the file gives other numbers than the locator.
        RunError: The file cannot be written.
    """
    if not isinstance(locator, NeuralLocator) or locator.module is None:
        raise UsageError(f"method {name} is no fitted network", hint="only a network can be exported")
    missing = first_missing(("onnxruntime", *WRITERS))
    if missing:
        raise UsageError(f"{missing} is not installed", hint="run: pip install 'flbench[onnx]'")
    images = make_images(3, (size, size)).images
    with torch.inference_mode():
        said = _Outputs(locator).eval()(images)
    found: list[float] = []

    def write(temporary: Path) -> None:
        write_onnx(locator, name, size, temporary)
        found.append(_difference(temporary, images, said))
        if not found[0] <= TOLERANCE:
            raise MethodError(f"method {name}: the exported file differs by {found[0]:.2g}, allowed is {TOLERANCE:g}")

    atomic_write(path, write)
    return found[0]


def first_missing(libraries: Iterable[str]) -> str:
    """Return the first of some libraries that cannot be imported, "" if all can."""
    for library in libraries:
        try:
            importlib.import_module(library)
        except ImportError:
            return library
    return ""


def write_onnx(locator: NeuralLocator, name: str, size: int, path: Path) -> None:
    """Write a fitted neural locator as an ONNX file, without a look at what the file says.

    Args:
        locator: Fitted, on the CPU.
        name: The method, for messages.
        size: Height and width of the images in pixels.
        path: The file.

    Raises:
        MethodError: torch cannot export the network.
    """
    with _quiet():
        try:
            torch.onnx.export(
                _Outputs(locator).eval(),
                (make_images(2, (size, size)).images,),
                path,
                dynamo=True,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                input_names=["images"],
                output_names=["fakeness", "score"],
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch.export raises errors of many kinds
            lines = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {lines[0] if lines else ''}"
            raise MethodError(f"method {name} cannot be exported: {said}") from error


def _difference(path: Path, images: Tensor, said: tuple[Tensor, ...]) -> float:
    """Return the largest difference between what the file says and what the locator said."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
    return max(float(np.abs(one - two.numpy()).max()) for one, two in zip(outputs, said, strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice, which is for those who write exporters, from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
