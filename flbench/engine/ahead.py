"""Work beside the network: prepare what comes next while it looks at this, and share what is left among threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END = object()

_PATIENCE = 0.05
"""Seconds for which threads make way, at most: a method may wait for its GPU before it returns."""

_made_way_until = 0.0


def one_ahead(made: Iterable[T]) -> Iterator[T]:
    """Yield the items of an iterable, in order, the next one being made by a thread meanwhile.

    Decoding, resizing and most of numpy leave the interpreter to others, as a network's forward pass does. What is
    made must not depend on what is done with the item before. An error comes where its item would have come.
    """
    iterator = iter(made)
    with ThreadPoolExecutor(1, thread_name_prefix="flbench-ahead") as thread:
        waiting = thread.submit(next, iterator, _END)
        while (item := waiting.result()) is not _END:
            waiting = thread.submit(next, iterator, _END)
            yield item  # type: ignore[misc]


class Threads:
    """Threads that share a list among themselves, an item being worked on by one of them alone.

    They help as far as the work leaves the interpreter to others: files, codecs and compiled loops do.

    Args:
        count: How many; with one, the caller's own does all.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="flbench-share") if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what a function makes of every item, in order; of errors the first is raised."""
        if self._pool is None:
            return [function(item) for item in items]
        size = max(1, len(items) // (4 * self._count))  # handing over a share costs as much as a small image
        shares = [items[start : start + size] for start in range(0, len(items), size)]
        made = self._pool.map(lambda share: [_in_turn(function, item) for item in share], shares)
        return [one for share in made for one in share]


@contextmanager
def making_way() -> Iterator[None]:
    """Let this thread alone have the interpreter, while it gives work to a GPU; threads that share a list wait.

    A network is a thousand calls, after each of which the interpreter would go to another thread and back. Measured
    with four threads beside it: an image took half a millisecond longer.
    """
    global _made_way_until
    _made_way_until = time.monotonic() + _PATIENCE
    try:
        yield
    finally:
        _made_way_until = 0.0


def _in_turn(function: Callable[[T], R], item: T) -> R:
    while time.monotonic() < _made_way_until:
        time.sleep(_PATIENCE / 25)
    return function(item)
