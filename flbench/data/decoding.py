"""Decode images in processes of their own: a file on which a decoder hangs or crashes costs one row, and no run.

Each process reads one file after the other, by the rule of `data.images`, as long as this one lives. Where it takes too
long or ends, the file counts as unreadable and the next one is read by a new process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any

import numpy as np

from flbench.data import images
from flbench.errors import DataError

SECONDS = 60.0
"""An image that takes longer is given up; one of 40 million pixels takes about two."""

COMMAND = [sys.executable, "-P", "-m", "flbench.data.decoding"]
READERS = {"image": images.read_image, "gray": images.read_gray, "parsing": images.read_parsing}


def read_image(path: Path) -> np.ndarray:
    """Decode a photo or a fake, uint8 (H, W, 3), as `images.read_image` does.

    Raises:
        DataError: As there, or its decoder hung or crashed.
    """
    return _read("image", path)


def read_gray(path: Path) -> np.ndarray:
    """Decode a stored mask, uint8 (H, W), as `images.read_gray` does.

    Raises:
        DataError: As there, or its decoder hung or crashed.
    """
    return _read("gray", path)


def read_parsing(path: Path) -> np.ndarray:
    """Decode a parsing map, uint8 (H, W), as `images.read_parsing` does.

    Raises:
        DataError: As there, or its decoder hung or crashed.
    """
    return _read("parsing", path)


_idle: list[_Decoder] = []
if hasattr(os, "register_at_fork"):  # a process answers one other
    os.register_at_fork(after_in_child=_idle.clear)


def _read(kind: str, path: Path) -> np.ndarray:
    """Let an idle process read a file, or a new one: there are as many as threads that read at once."""
    decoder = _idle_one() or _Decoder()
    array = decoder.read(kind, path)
    _idle.append(decoder)
    if isinstance(array, DataError):
        raise array
    return array


def _idle_one() -> _Decoder | None:
    """Return a process that waits for a file, None if there is none; one that has ended meanwhile is left out."""
    while True:
        try:
            decoder = _idle.pop()  # by one thread at a time
        except IndexError:
            return None
        if decoder.process.poll() is None:
            return decoder


class _Decoder:
    """A process that decodes one file at a time, and a thread that ends it where it takes too long."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(COMMAND, **pipes)  # type: ignore[call-overload]
        self.process.stdout.readline()  # it is ready: the time to start does not count against an image
        self.since: float | None = None
        self.late = False
        self._widen()
        Thread(target=self._watch, daemon=True, name="decoder").start()

    def _widen(self) -> None:
        """Let a whole small image fit into the pipe, where that can be asked for; else it comes in pieces."""
        with suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self.process.stdout.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)

    def _watch(self) -> None:
        while self.process.poll() is None:
            since = self.since
            if since is not None and time.monotonic() - since > SECONDS:
                self.late = True
                self.process.kill()
            time.sleep(min(1.0, SECONDS / 4))

    def read(self, kind: str, path: Path) -> np.ndarray | DataError:
        """Return the pixels of a file, or the error that its reader raised.

        Raises:
            DataError: The process hung or ended; it is gone.
        """
        asked = {"kind": kind, "path": str(path.absolute()), "max_pixels": images.pixel_limit()}
        self.since = time.monotonic()
        try:
            self.process.stdin.write(json.dumps(asked).encode() + b"\n")
            self.process.stdin.flush()
            return _received(self.process.stdout)
        except (OSError, ValueError) as error:
            raise DataError(f"{path.name}: {self._end()}") from error
        finally:
            self.since = None

    def _end(self) -> str:
        """Say how the process ended, and see that it has."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()
        if self.late:
            return f"its decoder took more than {SECONDS:g} s"
        return f"its decoder crashed ({signal.Signals(-code).name if code < 0 else f'code {code}'})"


def _received(stream: IO[bytes]) -> np.ndarray | DataError:
    """Return what a process answers.

    Raises:
        ValueError: It ended before it had answered.
    """
    told: dict[str, Any] = json.loads(stream.readline())
    if "error" in told:
        return DataError(told["error"], hint=told["hint"])
    array = np.empty(told["shape"], np.uint8)
    whole = array.data.cast("B")
    filled = 0
    while filled < len(whole):
        count = stream.readinto(whole[filled:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("the pixels end early")
        filled += count
    return array


def main() -> None:
    """Answer questions on stdin, a line of JSON each, with a line of JSON and the pixels on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = sys.stdout.buffer
    out.write(b"ready\n")
    out.flush()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        try:
            array = READERS[asked["kind"]](Path(asked["path"]), max_pixels=asked["max_pixels"])
        except DataError as error:
            out.write(json.dumps({"error": error.message, "hint": error.hint}).encode() + b"\n")
        else:
            out.write(json.dumps({"shape": array.shape}).encode() + b"\n")
            out.write(np.ascontiguousarray(array).data.cast("B"))
        out.flush()


if __name__ == "__main__":
    main()
