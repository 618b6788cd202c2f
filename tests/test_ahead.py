"""One item ahead: the same items in the same order, made meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flbench.engine.ahead import one_ahead


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
