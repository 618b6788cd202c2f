"""Batches of a fit made in processes of their own: the same batches, in the same order."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import pytest
import torch
from test_fit import RECIPE, optimised, same

from flbench.data.dataset import Dataset
from flbench.engine.loading import can_load, loaded
from flbench.engine.runtime import Runtime
from flbench.errors import DataError
from flbench.locator import Batch

CPU = torch.device("cpu")
SHAPE = (2, 4, 5)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes load on Linux")


def batch_of(step: int) -> Batch:
    if step == 7:
        raise DataError("photo.png: cannot be decoded", hint="see flbench data check")
    numbers = torch.arange(2 * 4 * 5.0).view(2, 4, 5) + step
    return Batch(
        numbers[:, None] + torch.arange(3.0)[:, None, None], numbers + 4, torch.tensor([1.0, 0.0]), numbers + 9
    )


def test_batches_come_in_order_and_the_processes_end_with_them() -> None:
    """All are held before they are looked at: what processes write later lies elsewhere."""
    before = torch.random.get_rng_state()
    batches = list(loaded(batch_of, range(8, 60), 2, CPU, SHAPE))
    for step, batch in zip(range(8, 60), batches, strict=True):
        assert isinstance(batch, Batch)
        for part, expected in zip(batch, batch_of(step), strict=True):
            assert torch.equal(part, expected)
    assert torch.equal(torch.random.get_rng_state(), before), "a fit draws from it"
    assert not multiprocessing.active_children()


def test_what_cannot_be_read_is_told_as_in_this_process_and_ends_them_too() -> None:
    with pytest.raises(DataError) as caught:
        list(loaded(batch_of, range(20), 2, CPU, SHAPE))
    assert (caught.value.message, caught.value.hint) == ("photo.png: cannot be decoded", "see flbench data check")
    del caught
    until = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


def test_a_fit_that_loads_in_processes_has_the_same_bits(
    boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are decoded in this process first, whose decoders are then not those of its forks."""
    here, run = optimised(boxes, tmp_path / "here", RECIPE)
    assert run.loaders == 1
    monkeypatch.setattr(Runtime, "beside", 2)
    there, run = optimised(boxes, tmp_path / "there", RECIPE)
    assert run.loaders == 2
    assert same(here, there)
    assert run.history.losses


def test_processes_load_where_forks_are_safe_and_more_than_one_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_load(2)
    assert not can_load(1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_load(4)
