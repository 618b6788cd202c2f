"""A network in an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flbench.errors import MethodError
from flbench.locator import Locator, Prediction

from ._networks import resize, size_of


class OnnxModel(Locator):
    """A network exported to ONNX by any framework, run by onnxruntime on the CPU.

    Input: float32 (B, 3, H, W), RGB in [0, 1]; the network normalises. First output: fakeness (B, H, W) or
    (B, 1, H, W) in [0, 1]; second output, if there is one: score (B,) or (B, 1) in [0, 1]. A fixed height and width is
    served by resizing (antialiased bilinear) images to it and maps back; a fixed batch size by as many runs as are
    needed, the last one filled up by its last image. Weights outside of the file must be in files named after it, such
    as `net.onnx.data`: no others are part of the fingerprint.

    Args:
        target: The file, given as `onnx:FILE`.
    """

    title = "ONNX model"
    licence = "not stated"
    target = "file"

    def __init__(self, *, target: str = "") -> None:
        self.path = Path(target)
        self._session: Any = None
        self._named = bool(target)

    def predict(self, images: Tensor) -> Prediction:
        """Run the network over the images.

        Raises:
            MethodError: onnxruntime is not installed, or the file, its input or its outputs are of another kind.
        """
        session = self._opened()
        (entry,) = session.get_inputs()
        count, _, height, width = (size if isinstance(size, int) else None for size in entry.shape)
        own = size_of(images)
        fed = resize(images, (height or own[0], width or own[1])).clamp(0, 1).cpu().numpy()
        parts = [
            self._run(entry.name, fed[i : i + (count or len(fed))], count)
            for i in range(0, len(fed), count or len(fed))
        ]
        outputs = [torch.from_numpy(np.concatenate(pieces)).to(images.device) for pieces in zip(*parts, strict=True)]
        maps = self._squeezed(outputs[0], 3, "fakeness (B, H, W) or (B, 1, H, W)")
        maps = maps if size_of(maps) == own else resize(maps, own).clamp(0, 1)
        score = self._squeezed(outputs[1], 1, "score (B,) or (B, 1)") if len(outputs) > 1 else None
        return Prediction(maps, score)

    def _run(self, name: str, images: np.ndarray, count: int | None) -> list[np.ndarray]:
        """Return the first two outputs for some images, filled up to the network's batch size."""
        missing = (count or len(images)) - len(images)
        filled = np.concatenate([images, images[-1:].repeat(missing, 0)]) if missing else images
        outputs = self._session.run(None, {name: np.ascontiguousarray(filled)})[:2]
        arrays = [np.asarray(output, np.float32) for output in outputs]
        for array in arrays:
            if array.ndim == 0 or len(array) != len(filled):
                raise MethodError(f"{self.path.name} gives {array.shape} for {len(filled)} images", hint="batch first")
        return [array[: len(images)] for array in arrays]

    def _squeezed(self, output: Tensor, dimensions: int, expected: str) -> Tensor:
        """Return an output without a second dimension of one."""
        squeezed = output.squeeze(1) if output.ndim == dimensions + 1 and output.shape[1] == 1 else output
        if squeezed.ndim != dimensions:
            raise MethodError(f"{self.path.name} gives {tuple(output.shape)}", hint=f"expected {expected}")
        return squeezed

    def _opened(self) -> Any:
        """Return the session, opened when it is first needed."""
        if self._session is not None:
            return self._session
        if not self._named:
            raise MethodError("no ONNX file is given", hint="onnx:FILE")
        try:
            import onnxruntime
        except ImportError as error:
            raise MethodError("onnxruntime is not installed", hint="run: pip install 'flbench[onnx]'") from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(self.path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base of their own
            said = str(error).replace(str(self.path), self.path.name).splitlines()[0]
            raise MethodError(f"{self.path.name} cannot be used: {said}") from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            given = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
            raise MethodError(f"{self.path.name} takes {given}", hint="one float32 input (B, 3, H, W) is needed")
        self._session = session
        return session
