"""Where and how a process computes: device, threads, determinism, provenance, and the events it sends."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from flbench.engine.inference import FULL, PRECISIONS, TF32, TORCH, check_engine, check_precision
from flbench.errors import Interrupted, UsageError

Send = Callable[[dict[str, Any]], None]

# Images predicted together, at most, and their pixels. Measured on two CPUs, for four networks: at 64 and 128 pixels a
# side an image costs least in batches of 16, at 224 in batches of 4, where 16 cost a fifth more.
_BATCHES = {"cpu": (16, 16 * 128**2), "other": (256, 64 * 224**2)}

_MOST_BESIDE = 4
"""Threads that prepare and score beside a GPU, at most: measured, more of them wait for each other."""

# Numbers of glibc's mallopt, with bytes: what is freed below them stays with the process.
_KEPT_MEMORY = {-3: 32 << 20, -1: 256 << 20}


class Events:
    """What a work unit tells the process that waits for it.

    Args:
        send: Called with each event, a JSON-ready dict with the key `event`.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.stopping = False
        self.what = ""
        self._waits = False

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell how far a stage has come."""
        self._send({"event": "progress", "what": self.what, "stage": stage, "done": done, "total": total, "note": note})

    def warn(self, text: str) -> None:
        """Tell something the user should know."""
        self._send({"event": "warning", "text": text})

    def waits(self, why: str) -> None:
        """Tell that another command is waited for: in words the first time, as a sign of life after that.

        Raises:
            Interrupted: The process was asked to stop.
        """
        self.check()
        if not self._waits:
            self.warn(f"waiting: {why}")
        self._waits = True
        self._send({"event": "waiting"})

    def cell(self, cell: str, status: str, reason: str) -> None:
        """Tell that a record is written."""
        self._send({"event": "cell", "cell": cell, "status": status, "reason": reason})

    def check(self) -> None:
        """Raise if the process was asked to stop.

        Raises:
            Interrupted: After the current state was saved.
        """
        if self.stopping:
            raise Interrupted("stopped; what is finished is kept", hint="run the same command again to go on")


@dataclass(frozen=True)
class Runtime:
    """Device and threads of a process, and what runs its networks.

    Attributes:
        device: Where modules and batches are.
        threads: CPU threads of torch.
        inference: Engine that fitted networks predict with, "torch" or one of `inference.ENGINES`.
        precision: In which networks predict, a key of `inference.PRECISIONS`; fits have their own, see `fitting`.
        batch: Images predicted together; None: as many as `batch_at` finds right.
    """

    device: torch.device
    threads: int
    inference: str = TORCH
    precision: str = FULL
    batch: int | None = None

    @classmethod
    def set_up(
        cls,
        device: str,
        threads: int,
        inference: str = TORCH,
        *,
        precision: str = FULL,
        batch: int | None = None,
    ) -> Runtime:
        """Choose the device, fix the thread count and ask torch for deterministic kernels.

        Args:
            device: "auto", "cpu", "cuda", "cuda:1", "mps".
            threads: CPU threads.
            inference: Engine of fitted networks.
            precision: In which networks predict.
            batch: Images predicted together; None: found from the device and their size.

        Raises:
            UsageError: The device does not exist here, or engine or precision cannot be used on it.
        """
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        _keep_memory()
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import torch's compiler: 1.7 s
        # Else all memory is filled before it is written to: 2 to 4 % of a forward pass on a CPU.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        _round_products(False)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            chosen = torch.device(device)
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            have = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
            raise UsageError(f"device {device!r} cannot be used", hint="here: " + ", ".join(have)) from error
        check_precision(precision, chosen)
        return cls(chosen, threads, check_engine(inference, chosen, precision), precision, batch)

    @contextmanager
    def fitting(self) -> Iterator[dict[str, str]]:
        """Let networks be fitted as torch does it by default, and give what a record says of that.

        On GPUs products are rounded as in "tf32": a fit has no bits to keep there, and DeepLabV3-ResNet101 in float32
        takes four times as long.
        """
        rounds = self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) >= (8, 0)
        _round_products(self.device.type == "cuda")
        try:
            yield {"precision": TF32 if rounds else FULL}
        finally:
            _round_products(False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let layers run in the precision."""
        kind = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype=kind, enabled=kind is not None):
            _round_products(self.precision == TF32)
            try:
                yield
            finally:
                _round_products(False)

    @property
    def beside(self) -> int:
        """Threads that prepare and score images while a network looks at others; on a CPU it has all the cores."""
        return 1 if self.device.type == "cpu" else min(self.threads, _MOST_BESIDE)

    def batch_at(self, size: int) -> int:
        """Return how many images of a size, in pixels a side, are predicted together.

        Without a number asked for, it follows from size and device alone, so that a run can be repeated to the bit.
        """
        if self.batch is not None:
            return self.batch
        most, pixels = _BATCHES["cpu" if self.device.type == "cpu" else "other"]
        return max(1, min(most, pixels // size**2))

    @property
    def name(self) -> str:
        """The device in words."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {self.threads} thread{'s' if self.threads != 1 else ''}"

    def provenance(self) -> dict[str, Any]:
        """Return versions, platform, commit, device and time."""
        packages = (
            "flbench",
            "torch",
            "torchvision",
            "timm",
            "segmentation-models-pytorch",
            "numba",
            "numpy",
            "pillow",
            "scipy",
        )
        return {
            "device": self.name,
            "threads": self.threads,
            "precision": self.precision,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "machine": platform.machine(),
            "instructions": torch.backends.cpu.get_cpu_capability(),  # decides the last bits, as threads do
            "system": platform.system(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in packages},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **commit(),
        }


def _round_products(yes: bool) -> None:
    """Let GPUs multiply float32 rounded to ten bits, as torch does in convolutions unless told otherwise."""
    torch.backends.cudnn.allow_tf32 = yes
    torch.backends.cuda.matmul.allow_tf32 = yes


def _keep_memory() -> None:
    """Let the allocator keep memory that is freed, for the next batch, where it is glibc's.

    It gives large blocks back to the system at once, and the next step faults all their pages in again. Measured on
    CPUs: a step of a fit takes a sixth less time so, a forward pass a tenth, a blurred image two thirds.
    """
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for setting, size in _KEPT_MEMORY.items():
            mallopt(setting, size)


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def commit() -> dict[str, Any]:
    """Return the commit and dirty flag of the checkout flbench runs from; nulls for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
