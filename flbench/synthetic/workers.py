"""Worker processes for rendering: spawned, one torch thread each, gone when their parent is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

import torch

from flbench.errors import RunError


@contextmanager
def steady(threads: int = 1) -> Iterator[None]:
    """Compute with a fixed number of threads and without denormal numbers, then restore what was set before.

    Sums of several threads differ in their last bits from those of one, so pixels are always made by one.
    """
    threads_before = torch.get_num_threads()
    flushing = bool(torch.tensor(1e-40) * 1.0 == 0.0)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)
        torch.set_num_threads(threads_before)


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Hand out a pool of spawned workers; if the block fails, work that has not begun is dropped.

    Raises:
        RunError: A worker died, as when the machine runs out of memory.
    """
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    try:
        with _deaf():
            for _ in range(workers):
                executor.submit(_nothing)
        yield executor
    except BrokenProcessPool as error:
        raise RunError("a rendering process died", hint="was the memory full? try with fewer workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl+C for a moment: processes that are started meanwhile ignore it from their first instruction on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _nothing() -> None:
    """Make the executor start a worker."""


def _begin() -> None:
    """Set a worker up: the parent decides what an interrupt means, and a worker must notice that its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
