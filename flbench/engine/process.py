"""A work unit's process as its driver sees it: what it says, whether it is alive, and how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import IO, Any, cast

from flbench.errors import Interrupted

COMMAND = (sys.executable, "-P", "-m", "flbench.engine.worker")
MEMORY = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""What the process is told of memory: that of pyarrow's own choice keeps what it has freed."""


class Died(Exception):
    """A process that ended before its work did.

    Args:
        how: How, as the end of a sentence.
        passing: Whether it may go well the next time.
    """

    def __init__(self, how: str, *, passing: bool = False) -> None:
        super().__init__(how)
        self.passing = passing


def converse(job: Mapping[str, Any], watch: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Start the process of a work unit, hand it its job, pass its events on, and wait for its end.

    Args:
        job: For `flbench.engine.worker`; its `timeout` is how many seconds without an event end the process.
        watch: Called with every event but those of this conversation.

    Returns:
        The error that the process reported, empty if there was none.

    Raises:
        Died: The process was killed, was silent for too long, or ended before its work did.
        Interrupted: Ctrl+C or SIGTERM.
    """
    said: dict[str, dict[str, Any]] = {}
    process = subprocess.Popen(
        COMMAND,
        env=MEMORY | os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl+C reaches this side only, which asks the unit to stop
    )
    with process, _stops(process), _guarded(process, job.get("timeout")) as guard:
        stdin, stdout, stderr = (cast(IO[str], f) for f in (process.stdin, process.stdout, process.stderr))
        with suppress(BrokenPipeError):  # it ended at once; its exit code and last words tell why
            stdin.write(json.dumps(job))
            stdin.close()
        for event in _events(stdout):
            guard.hear()
            if event["event"] in ("begin", "end", "error"):
                said[event["event"]] = event
            elif event["event"] != "waiting":
                watch(event)
        words = stderr.read().strip().splitlines()
        code = process.wait()
    if "error" in said:
        return said["error"]
    if guard.silent:
        raise Died(f"gave no answer for {job['timeout']:g} s (timeout)")
    if code < 0:
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        raise Died(f"was killed by signal {-code}{memory}", passing=True)
    if code or "end" not in said:
        raise Died(f"ended with code {code} before its work was done{': ' + words[-1] if words else ''}")
    return {}


def _events(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """Yield the events of a process; the last line of one that was killed may be half a line."""
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)


class _Guard:
    """Ends a process that is silent for too long, and with every process what it leaves behind.

    Args:
        process: Leads a process group.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.silent = False
        self.over = False
        self._process = process
        self._heard = Event()

    def hear(self) -> None:
        """Note a sign of life; the first one starts the watch, since importing torch takes its time."""
        self._heard.set()

    def bury(self) -> None:
        """Wait for the end of the process, then end its children: they would keep its output open."""
        self._process.wait()
        self._kill()

    def listen(self, timeout: float) -> None:
        """End the process after so many seconds of silence."""
        self._heard.wait()
        while self._heard.wait(timeout) or self._heard.wait(1):  # if this side was stopped, it must first read on
            if self.over:
                return
            self._heard.clear()
        self.silent = True
        self._kill()

    def _kill(self) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def _guarded(process: subprocess.Popen[str], timeout: float | None) -> Iterator[_Guard]:
    guard = _Guard(process)
    threads = [Thread(target=guard.bury, daemon=True)]
    if timeout is not None:
        threads.append(Thread(target=guard.listen, args=(timeout,), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield guard
    finally:
        guard.over = True
        guard.hear()


@contextmanager
def _stops(process: subprocess.Popen[str]) -> Iterator[None]:
    """Turn Ctrl+C and SIGTERM into a clean stop of the process; a second one ends it at once."""
    asked = 0

    def stop(*_: object) -> None:
        nonlocal asked
        asked += 1
        if process.poll() is None:
            if asked == 1:
                process.terminate()
            else:
                process.kill()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked and process.returncode is not None and process.returncode <= 0:
            raise Interrupted("stopped; what is finished is kept", hint="run the same command again to go on")
