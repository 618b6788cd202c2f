"""One item ahead: the same items in the same order, made meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flbench.engine import ahead
from flbench.engine.ahead import Threads, making_way, one_ahead


@given(st.lists(st.one_of(st.integers(), st.none(), st.lists(st.integers()))))
def test_items_come_in_order(items: list[object]) -> None:
    assert list(one_ahead(iter(items))) == items


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    second = threading.Event()

    def made() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    items = one_ahead(made())
    assert next(items) == 1
    assert second.wait(timeout=60), "nobody asked for the second one yet"
    assert list(items) == [2]


def test_no_more_than_one_is_made_ahead() -> None:
    asked: list[int] = []

    def made() -> Iterator[int]:
        for place in range(5):
            asked.append(place)
            yield place

    items = one_ahead(made())
    for place in range(4):
        assert next(items) == place
        assert max(asked) <= place + 1
    items.close()  # type: ignore[attr-defined]
    assert asked == [0, 1, 2, 3, 4]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def made() -> Iterator[int]:
        yield 1
        raise KeyError("second")

    items = one_ahead(made())
    assert next(items) == 1
    with pytest.raises(KeyError, match="second"):
        next(items)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    items = one_ahead(iter(range(100)))
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@given(st.lists(st.integers()), st.integers(1, 4))
def test_threads_share_a_list_and_keep_its_order(items: list[int], count: int) -> None:
    with Threads(count) as threads:
        assert threads.map(lambda item: item * item, items) == [item * item for item in items]


def test_threads_work_at_the_same_time_and_one_is_the_callers_own() -> None:
    met = threading.Barrier(2)
    with Threads(2) as threads:
        threads.map(lambda _: met.wait(timeout=60), range(2))
    with Threads(1) as threads:
        assert threads.map(lambda _: threading.current_thread(), [0]) == [threading.current_thread()]


def test_the_first_error_of_threads_is_raised() -> None:
    with Threads(3) as threads, pytest.raises(ZeroDivisionError):
        threads.map(lambda item: 1 / item, [1, 0, 2])


def test_threads_make_way_for_a_while_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_PATIENCE", 0.2)
    seen: list[float] = []
    with Threads(2) as threads, making_way():
        started = time.monotonic()
        threads.map(lambda _: seen.append(time.monotonic() - started), range(2))
    assert min(seen) >= 0.19
    with Threads(2) as threads:  # nobody is in the way any more
        monkeypatch.setattr(time, "sleep", None)
        assert threads.map(str, range(3)) == ["0", "1", "2"]
