"""Prepare the next batch while the network looks at this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


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
