"""A program that is called once per batch."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from flbench.errors import MethodError, UsageError
from flbench.locator import Locator, Prediction, Unanswered
from flbench.targets import split_command

from ._answers import SCORES, SUFFIXES, read_map, read_scores, scores_of
from ._networks import size_of

_LOG = logging.getLogger("flbench.command")
_KEPT = 20_000


class Command(Locator):
    """A program in any language, called once per batch of images; no shell is involved.

    It is called with two folders more, in place of the words `{images}` and `{maps}` or, without them, at the end. The
    first holds the batch as 8-bit RGB files `000000.png`, `000001.png`...; into the second it writes a map of the same
    name and size for each (PNG or NPY, see `_answers`) and, if it has scores, `scores.csv` with the columns
    `image,score`, such as `000000.png,0.93`. It must end with code 0 in time. What it prints goes to the log. An image
    without a usable map counts as failed; where the program itself fails, it is called again with one image at a time.

    Args:
        target: The command line, given as `command:LINE`.
        seconds: Time limit of a call; the program and what it has started are killed then.
    """

    title = "External command"
    licence = "not stated"
    target = "command line"

    def __init__(self, *, target: str = "", seconds: float = 600.0) -> None:
        if not isinstance(seconds, int | float) or not seconds > 0:
            raise UsageError(f"seconds={seconds} is no time limit", hint="seconds per call, such as 600")
        self.words = split_command(target)
        self.seconds = float(seconds)

    def predict(self, images: Tensor) -> Prediction:
        """Call the program.

        Raises:
            Unanswered: Images without a map, or whose map cannot be used.
            MethodError: The program cannot be started, or its scores are damaged.
            RuntimeError: It ended with another code than 0.
            TimeoutError: It did not end in time.
        """
        if not self.words:
            raise MethodError("no command line is given", hint="command:LINE")
        with tempfile.TemporaryDirectory(prefix="flbench-", ignore_cleanup_errors=True) as name:
            fed, made = Path(name, "images"), Path(name, "maps")
            fed.mkdir()
            made.mkdir()
            pixels = images.mul(255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
            names = [f"{place:06d}" for place in range(len(images))]
            for stem, array in zip(names, pixels, strict=True):
                Image.fromarray(array).save(fed / f"{stem}.png")
            self._call(fed, made, Path(name, "log.txt"))
            return _answers(made, names, images)

    def _call(self, fed: Path, made: Path, log: Path) -> None:
        """Run the program to its end, and pass on what it printed."""
        words = [word.replace("{images}", str(fed)).replace("{maps}", str(made)) for word in self.words]
        words += [str(fed), str(made)] if words == self.words else []
        # A file, not a pipe: what a killed program has started may hold a pipe open for ever.
        with log.open("wb") as printed:
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True
                )
            except OSError as error:
                raise MethodError(f"{Path(words[0]).name} cannot be started: {error.strerror}") from error
            try:
                code: int | None = process.wait(self.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        text = log.read_bytes()[-_KEPT:].decode(errors="replace").strip()
        if text:
            _LOG.warning("%s: %s", Path(words[0]).name, text)
        last = f": {text.splitlines()[-1][:200]}" if text else ""
        if code is None:
            raise TimeoutError(f"{Path(words[0]).name} did not end within {self.seconds:g} s{last}")
        if code:
            raise RuntimeError(f"{Path(words[0]).name} ended with code {code}{last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that still runs, and whatever it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def _answers(folder: Path, names: list[str], images: Tensor) -> Prediction:
    """Read what the program wrote.

    Raises:
        Unanswered: Images without a map, or whose map cannot be used.
        MethodError: The scores are damaged.
    """
    reasons: dict[int, str] = {}
    maps = torch.zeros(len(names), *size_of(images))
    for place, name in enumerate(names):
        found = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        try:
            if len(found) != 1:
                raise ValueError("no map was written" if not found else "two maps were written")
            read = read_map(found[0])
            if size_of(read) != size_of(images):
                sizes = ["x".join(map(str, reversed(size_of(tensor)))) for tensor in (read, images)]
                raise ValueError(f"the map is {sizes[0]}, its image {sizes[1]}")
            maps[place] = read
        except ValueError as error:
            reasons[place] = str(error)
    known = read_scores(folder / SCORES, "image")
    if known is not None:
        known = {name.removesuffix(".png"): score for name, score in known.items()}
    prediction = Prediction(maps.to(images.device), scores_of(names, known, reasons))
    if reasons:
        raise Unanswered(prediction, reasons)
    return prediction
