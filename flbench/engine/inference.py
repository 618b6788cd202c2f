"""Run a fitted network by another engine than eager torch, and hold it against eager torch on the first batch."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flbench.engine.export import TOLERANCE, WRITERS, first_missing, write_onnx
from flbench.engine.winograd import multiplying_less
from flbench.errors import MethodError, UsageError
from flbench.locator import Locator, NeuralLocator, Prediction
from flbench.trial import make_images

Session = Callable[[Tensor], tuple[Tensor, ...]]

TORCH = "torch"
"""Eager torch: what every number is held against."""


FULL = "float32"
"""Precision that every number is held against."""

TF32 = "tf32"
"""Precision in which GPUs round what they multiply to ten bits and add in float32: much faster on recent ones."""

PRECISIONS: dict[str, torch.dtype | None] = {
    FULL: None,
    TF32: None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""In what networks may predict on a GPU, with the type that their layers are run in; None: as they are."""

_TRIED = 128

LAYOUT_TOLERANCE = 1e-5
"""Most by which a map may change when a network's weights lie in memory in another order."""


class Inference(Locator):
    """A fitted network as another engine runs it.

    Args:
        locator: Fitted, on its device.
        name: The method, for messages.
        engine: One of `ENGINES`.
        size: Height and width of the images in pixels.
        threads: CPU threads.

    Attributes:
        deviation: Largest difference of a map or a score from eager torch on the first batch; None before it.

    Raises:
        MethodError: The network cannot be brought to the engine.
    """

    title = "Another engine"

    def __init__(self, locator: NeuralLocator, name: str, engine: str, *, size: int, threads: int) -> None:
        self.locator = locator
        self.name = name
        self.engine = engine
        self.deviation: float | None = None
        self._session = ENGINES[engine](locator, name, size, threads)

    def predict(self, images: Tensor) -> Prediction:
        """Return what the engine says.

        Raises:
            MethodError: It says something else than eager torch on the first batch.
        """
        fakeness, *score = self._session(images)
        said = Prediction(fakeness, score[0] if score else None)
        if self.deviation is None:
            self._compare(said, self.locator.predict(images))
        return said

    def _compare(self, said: Prediction, expected: Prediction) -> None:
        found = _furthest(said, expected)
        if not found <= TOLERANCE:
            hint = f"run it with --inference {TORCH}"
            raise MethodError(f"method {self.name}: {self.engine} differs from torch by {found:.2g}", hint=hint)
        self.deviation = found

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return self.locator.parameters


def with_engine(locator: Locator, name: str, engine: str, *, size: int, threads: int) -> Locator:
    """Return a locator as an engine runs it; what is no plain network is returned as it is, for torch.

    Args:
        locator: Ready to predict, on its device.
        name: The method, for messages.
        engine: "torch", or one of `ENGINES`.
        size: Height and width of the images in pixels.
        threads: CPU threads.

    Raises:
        MethodError: The network cannot be brought to the engine.
    """
    plain = isinstance(locator, NeuralLocator) and type(locator).predict is NeuralLocator.predict
    if engine == TORCH or not plain or not isinstance(locator, NeuralLocator):
        return locator
    return Inference(locator, name, engine, size=size, threads=threads)


def check_precision(precision: str, device: torch.device) -> None:
    """Hold that a precision can be used on a device.

    Raises:
        UsageError: There is no such precision, or it is not for the device: on CPUs half precision is seldom faster
            and often many times slower.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known", hint="one of: " + ", ".join(PRECISIONS))
    if precision != FULL and device.type != "cuda":
        raise UsageError(f"precision {precision} is for GPUs, the device is {device}", hint=f"--precision {FULL}")


def in_channels_last(locator: Locator, size: int, device: torch.device, precision: str = FULL) -> bool:
    """Let the weights of a network lie in memory with channels last, where it is faster and says the same then.

    Measured for DeepLabV3-ResNet101: a tenth to a fifth faster on CPUs, and so in lower precisions on a GPU, where
    it is six times slower in float32. A network whose layers count on the usual order is left as it is.

    Args:
        locator: Ready to predict, on the device.
        size: Height and width of the images in pixels.
        device: Where it is.
        precision: In which it predicts.

    Returns:
        Whether they lie so.
    """
    if not isinstance(locator, NeuralLocator) or locator.module is None:
        return False
    if device.type == "cuda" and precision == FULL:
        locator.module.to(memory_format=torch.contiguous_format)
        return False
    weights = [part for part in locator.module.parameters() if part.ndim == 4]
    if weights and all(part.is_contiguous(memory_format=torch.channels_last) for part in weights):
        return True
    side = min(size, _TRIED)  # what a network says of one image tells enough, and a large one takes a second
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        before = locator.predict(images)
        locator.module.to(memory_format=torch.channels_last)
        if _furthest(locator.predict(images), before) <= LAYOUT_TOLERANCE:
            return True
    except Exception:  # whatever the network raises, it will raise on the first batch if it is its own fault
        pass
    locator.module.to(memory_format=torch.contiguous_format)
    return False


def _furthest(said: Prediction, expected: Prediction) -> float:
    """Return the largest difference of a map or a score; NaN if there is any."""
    pairs = zip(said, expected, strict=True)
    return float(np.max([float((one - two).abs().max()) for one, two in pairs if one is not None and two is not None]))


def check_engine(engine: str, device: torch.device, precision: str = FULL) -> str:
    """Return the name of an engine that can be used here.

    Raises:
        UsageError: There is no such engine, its library is not installed, or device or precision are not its own.
    """
    if engine == TORCH:
        return engine
    if engine not in ENGINES:
        raise UsageError(f"inference engine {engine!r} is not known", hint="one of: " + ", ".join([TORCH, *ENGINES]))
    if device.type not in _DEVICES[engine]:
        raise UsageError(f"inference by {engine} is not for {device.type}", hint="--device cpu")
    if precision != FULL:
        raise UsageError(f"inference by {engine} is in {FULL}, not in {precision}", hint=f"--precision {FULL}")
    missing = first_missing(_LIBRARIES[engine])
    if missing:
        hint = f"run: pip install 'flbench[{_EXTRAS[engine]}]'"
        raise UsageError(f"inference by {engine} needs {missing}, which is not installed", hint=hint)
    return engine


def version_of(engine: str) -> str:
    """Return the version of the library behind an engine."""
    return metadata.version(_LIBRARIES[engine][0] if _LIBRARIES[engine] else TORCH)


def _compile(locator: NeuralLocator, name: str, size: int, threads: int) -> Session:
    del name, threads
    locator = lighter(locator, size)
    module = locator.module
    assert module is not None
    torch.use_deterministic_algorithms(True, warn_only=True)  # tells the compiler too
    compiled: Any = torch.compile(module.eval())

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            said = locator.forward(compiled, images)
        return tuple(part for part in said if part is not None)

    return run


def lighter(locator: NeuralLocator, size: int, *, early: bool = False) -> NeuralLocator:
    """Return a locator whose convolutions multiply less, if it says the same of an image; else the one given.

    Args:
        locator: Fitted; it stays as it is. One that is not on the CPU is returned: there it would gain nothing.
        size: Height and width of the images in pixels.
        early: As for `Winograd`.
    """
    assert locator.module is not None
    if any(part.device.type != "cpu" for part in locator.module.parameters()):
        return locator
    images = make_images(1, (size, size)).images
    extents: dict[str, tuple[int, int]] = {}
    hooks = []
    try:
        for name, part in locator.module.named_modules():
            if isinstance(part, nn.Conv2d):
                hooks.append(part.register_forward_pre_hook(_noting(extents, name)))
        said = locator.predict(images)
        while hooks:
            hooks.pop().remove()
        module = multiplying_less(locator.module, extents, early=early)
        if module is not None:
            made = copy.copy(locator)
            made.module = module
            if _furthest(made.predict(images), said) <= LAYOUT_TOLERANCE:
                return made
    except Exception:  # whatever the network raises, it will raise when it is brought to the engine
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return locator


def _noting(extents: dict[str, tuple[int, int]], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def note(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        extents[name] = (given[0].shape[-2], given[0].shape[-1])

    return note


@contextmanager
def _as_onnx(locator: NeuralLocator, name: str, size: int, *, early: bool = False) -> Iterator[Path]:
    """Write a network as an ONNX file that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="flbench-") as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(lighter(locator, size, early=early), name, size, path)
        yield path


def _onnxruntime(locator: NeuralLocator, name: str, size: int, threads: int) -> Session:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    with _as_onnx(locator, name, size, early=True) as path:  # 1 % faster; in openvino 4 % slower
        session = onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
        return tuple(torch.from_numpy(np.asarray(output)) for output in outputs)

    return run


def _openvino(locator: NeuralLocator, name: str, size: int, threads: int) -> Session:
    import openvino

    core = openvino.Core()
    with _as_onnx(locator, name, size) as path:
        # openvino would compute in bfloat16 where the CPU has it, which is another locator.
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        network = core.compile_model(core.read_model(path), "CPU", settings)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = network(np.ascontiguousarray(images.numpy()))
        return tuple(torch.from_numpy(np.array(outputs[place])) for place in range(len(network.outputs)))

    return run


ENGINES: dict[str, Callable[[NeuralLocator, str, int, int], Session]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "compile": _compile,
}
"""What can run a network in place of eager torch, by name."""

_LIBRARIES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", *WRITERS),
    "openvino": ("openvino", *WRITERS),
    "compile": (),
}
_DEVICES = {"onnxruntime": ("cpu",), "openvino": ("cpu",), "compile": ("cpu", "cuda")}
_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
