"""Look at things that may hang, crash, exit or print, each in another process that disturbs nothing.

One process looks at several things in turn and writes each answer down at once, so whatever ends it is known to be the
fault of the one it was looking at; another process goes on with those after it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

from flbench.errors import FlbenchError, MethodError, UsageError
from flbench.registry import (
    DATASET_GROUP,
    METHOD_GROUP,
    PARSER_GROUP,
    MethodChoice,
    load_maker,
    load_method,
    load_parser,
    methods,
)

MOST_PRINTED = 1 << 24
"""Bytes that a process may print; one that prints without end would fill the disk."""

_TICK = 0.02
_SHOWN = 200
_OWN = "flbench"
_START = "from flbench.probing import answer; answer()"


class Seen(NamedTuple):
    """What came of one thing.

    Attributes:
        item: What was looked at.
        reply: What the look returned, as JSON knows it.
        failure: Why there is no reply, on one line; "" if there is one.
        printed: Start of what it printed on stdout, on one line.
    """

    item: str
    reply: Any = None
    failure: str = ""
    printed: str = ""


def probe(
    items: Sequence[str], look: str, *, seconds: float, tell: Callable[[Seen], object] | None = None
) -> list[Seen]:
    """Look at each item in another process, one process for all as long as it lives.

    Args:
        items: What to look at, in words that `look` understands.
        look: A function of one item, as `module:function`; what it returns must be JSON.
        seconds: How long each item may take.
        tell: Called with each answer.

    Returns:
        An answer per item, in order.
    """
    seen: list[Seen] = []
    while len(seen) < len(items):
        found = _process(items[len(seen) :], look, seconds)
        seen += found
        if tell is not None:
            for one in found:
                tell(one)
    return seen


def _process(items: Sequence[str], look: str, seconds: float) -> list[Seen]:
    """Return the answers of one process, and why it ended before the last of them if it did; at least one."""
    with tempfile.TemporaryDirectory(prefix="flbench-probe-", ignore_cleanup_errors=True) as folder:
        # Files and no pipes: a child of a plugin that outlives it would keep a pipe open, and the reader waiting.
        job, replies, out, err = (Path(folder) / name for name in ("job", "replies", "out", "err"))
        wish = {"items": list(items), "look": look, "replies": str(replies), "out": str(out)}
        job.write_text(json.dumps(wish), encoding="utf-8")
        replies.touch()
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(job)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # so that what it started ends with it, and Ctrl+C reaches this side only
            )
            try:
                why = _wait(process, replies, (out, err), len(items), seconds)
            finally:
                _end(process)
        seen = [_seen(line, out) for line in replies.read_bytes().split(b"\n")[:-1]]
        if len(seen) < len(items):
            words = err.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
            last = f": {words[-1][-_SHOWN:]}" if words and "hangs" not in why else ""
            seen.append(Seen(items[len(seen)], failure=f"{why}{last}"))
        return seen


def _wait(process: subprocess.Popen[bytes], replies: Path, printed: Sequence[Path], count: int, seconds: float) -> str:
    """Wait until all answers are there or the process ends or must be ended; return why it did not get to the end."""
    answered, since = 0, time.monotonic()
    while process.poll() is None:
        done = replies.read_bytes().count(b"\n")
        if done >= count:  # threads of a plugin may keep the process alive
            return ""
        if done > answered:
            answered, since = done, time.monotonic()
        if time.monotonic() - since > seconds:
            return f"hangs: no answer within {seconds:g} s"
        if sum(path.stat().st_size for path in printed) > MOST_PRINTED:
            return "prints without end"
        time.sleep(_TICK)
    code = process.returncode
    if code < 0:
        with suppress(ValueError):
            return f"crashes the process: {signal.Signals(-code).name}"
    return f"ends the process with code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _seen(line: bytes, out: Path) -> Seen:
    """Read one answer, with the start of what was printed meanwhile."""
    answer = json.loads(line)
    start, end = answer.pop("printed")
    with out.open("rb") as file:
        file.seek(start)
        text = file.read(min(end - start, _SHOWN)).decode(errors="replace")
    return Seen(**answer, printed=" ".join(text.split()))


def answer() -> None:
    """Look at the items of the job whose file the command line names, as the other process of `probe`."""
    job = json.loads(Path(sys.argv.pop()).read_text(encoding="utf-8"))
    module, _, function = job["look"].partition(":")
    look = getattr(import_module(module), function)
    with Path(job["replies"]).open("a", encoding="utf-8") as replies:
        for item in job["items"]:
            replies.write(json.dumps(_looked(look, item, Path(job["out"]))) + "\n")
            replies.flush()
    os._exit(0)  # whatever a plugin has registered for the end has no say


def _looked(look: Callable[[str], Any], item: str, out: Path) -> dict[str, Any]:
    """Return an answer about one item; whatever is raised is an answer too."""
    start, reply, failure = _printed(out), None, ""
    try:
        reply = look(item)
        json.dumps(reply)
    except FlbenchError as error:
        failure = str(error)
    except SystemExit as error:
        failure = f"calls sys.exit({error.code!r})"
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
    printed = start, _printed(out)
    return {"item": item, "reply": None if failure else reply, "failure": " ".join(failure.split()), "printed": printed}


def _printed(out: Path) -> int:
    """Return how many bytes have been printed so far; what a plugin has put in the place of `sys.stdout` may fail."""
    with suppress(Exception):
        sys.stdout.flush()
    return out.stat().st_size


class Plugin(NamedTuple):
    """Something that is loaded by name.

    Attributes:
        group: Entry-point group.
        name: Its name.
        distribution: What brought it, with version.
    """

    group: str
    name: str
    distribution: str

    @property
    def label(self) -> str:
        """Kind and name, such as `method highpass`."""
        return f"{_KINDS[self.group]} {self.name}"

    @property
    def own(self) -> bool:
        """Whether it came with flbench."""
        return self.distribution.split(" ")[0] == _OWN


_KINDS = {METHOD_GROUP: "method", DATASET_GROUP: "data set", PARSER_GROUP: "parser"}


def known_plugins() -> list[Plugin]:
    """Return everything that is loaded by name: methods, makers of data sets, parsers."""
    found = [Plugin(METHOD_GROUP, name, entry.distribution) for name, entry in methods().items()]
    for group in (DATASET_GROUP, PARSER_GROUP):
        for point in sorted(metadata.entry_points(group=group)):
            brought = f"{point.dist.name} {point.dist.version}" if point.dist else ""
            found.append(Plugin(group, point.name, brought))
    return found


def look_at_plugin(item: str) -> None:
    """Load one plugin, `group name`, in another process; a method without required options and target is made too."""
    group, _, name = item.partition(" ")
    if group == DATASET_GROUP:
        maker = load_maker(name)
        wanted = [word for word in ("PROFILES", "recipe", "estimate", "make", "datasheet") if not hasattr(maker, word)]
        if wanted:
            raise UsageError(f"has no {', '.join(wanted)}")
    elif group == PARSER_GROUP:
        load_parser(name)
    else:
        _load_method(name)


def _load_method(name: str) -> None:
    from flbench.method_file import REQUIRED

    entry = methods()[name]
    if entry.broken:
        raise MethodError(entry.broken)
    if not entry.target and REQUIRED not in entry.options.values():
        load_method(MethodChoice(entry=entry))
        return
    kind = getattr(import_module(entry.module), entry.kind)
    from flbench.locator import Locator

    if not issubclass(kind, Locator):
        raise MethodError(f"{entry.kind} does not derive from Locator")
