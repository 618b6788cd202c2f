"""Batches of a fit made in processes of their own: the same batches, in the same order."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from test_fit import RECIPE, optimised, same

from flbench.data.dataset import Dataset
from flbench.engine import loading
from flbench.engine.loading import can_load, loaded
from flbench.engine.runtime import Runtime
from flbench.errors import DataError
from flbench.locator import Batch

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes hand over tensors on Linux")


def batch_of(step: int) -> Batch:
    if step == 7:
        raise DataError("photo.png: cannot be decoded", hint="see flbench data check")
    numbers = torch.arange(2 * 4 * 5.0).view(2, 4, 5) + step
    return Batch(
        numbers[:, None] + torch.arange(3.0)[:, None, None], numbers + 4, torch.tensor([1.0, 0.0]), numbers + 9
    )


def test_batches_come_in_order_and_the_processes_end_with_them() -> None:
    before = torch.random.get_rng_state()
    for step, batch in zip(range(2, 6), loaded(batch_of, range(2, 6), 2, CPU), strict=True):
        assert isinstance(batch, Batch)
        for part, expected in zip(batch, batch_of(step), strict=True):
            assert torch.equal(part, expected)
    assert torch.equal(torch.random.get_rng_state(), before), "a fit draws from it"
    assert not multiprocessing.active_children()


def test_what_cannot_be_read_is_told_as_in_this_process_and_ends_them_too() -> None:
    with pytest.raises(DataError) as caught:
        list(loaded(batch_of, range(20), 2, CPU))
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


def test_little_shared_memory_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(64 << 20, 0, 64 << 20))
    assert can_load(4, 3 << 20)
    assert not can_load(4, 5 << 20)
    assert not can_load(1, 1), "with one thread there is nothing to share"
    monkeypatch.setattr(loading, "_SHARED", Path("nowhere"))
    assert not can_load(4, 1)
