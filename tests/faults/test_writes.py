"""The k-th write, fsync, rename or new folder of a run fails, for every k, as in SQLite's tests of a failing disk."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from builders import flbench, run_units_here
from ledger import Observed, error_of
from safetensors import SafetensorError
from small_run import hold_whole, outcome, short_run

from flbench import jobs
from flbench.data.dataset import Dataset
from flbench.engine import fit as fits
from flbench.engine import predictor
from flbench.files import atomic_write
from flbench.reporting import figures
from flbench.study import PANEL

RENAMES, FSYNCS, FOLDERS, NAMES, WRITES = "rename", "fsync", "mkdir", "new name", "write"


def full(path: object = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([] if path is None else [str(path)]))


class Disk:
    """Counts what a run asks of the disk, and fails one of it.

    Args:
        fail: Number of the call that fails, from 1; 0: none does.
    """

    def __init__(self, fail: int = 0) -> None:
        self.fail = fail
        self.calls: list[str] = []

    def refuses(self, what: str) -> bool:
        self.calls.append(what)
        return len(self.calls) == self.fail

    @contextmanager
    def under(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """Stand between the run and the disk; a write that fails leaves half of the file, as a full disk does."""

        def simple(owner: Any, name: str, what: str) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                if self.refuses(what):
                    raise full()
                return real(*args, **kwargs)

            patch.setattr(owner, name, call)

        def writer(owner: Any, name: str, place: int, error: Callable[[], Exception] = full) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                done = real(*args, **kwargs)
                if self.refuses(WRITES):
                    file = args[place]
                    if hasattr(file, "flush"):
                        file.flush()
                    path = file.name if hasattr(file, "flush") else file
                    os.truncate(path, Path(path).stat().st_size // 2)
                    raise error()
                return done

            patch.setattr(owner, name, call)

        real_mkdir = os.mkdir

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            if not Path(path).exists() and Path(path).parent.exists() and self.refuses(FOLDERS):
                raise full(path)
            real_mkdir(path, *args, **kwargs)

        patch.setattr(os, "mkdir", mkdir)
        simple(os, "replace", RENAMES)
        simple(os, "fsync", FSYNCS)
        simple(tempfile, "mkstemp", NAMES)
        writer(Path, "write_text", 0)
        writer(Path, "write_bytes", 0)
        writer(pd.DataFrame, "to_parquet", 1)
        writer(np, "savez_compressed", 0)
        writer(np, "savez", 0)
        rust = "Error while serializing: I/O error: No space left on device (os error 28)"
        writer(safetensors.torch, "serialize_file", 1, lambda: SafetensorError(rust))
        try:
            yield
        finally:
            patch.undo()


Run = Callable[..., str]


@pytest.fixture
def run(boxes: Dataset, tmp_path: Path) -> Run:
    """Run a small fit and its cell in this process, on a disk; returns what it said on stderr."""
    words = short_run(boxes, tmp_path)

    def draw(gallery: Path, folder: Path, title: str) -> None:
        atomic_write(folder / PANEL, lambda path: path.write_bytes(title.encode()))

    def go(study: Path, disk: Disk, code: int = 0) -> str:
        with pytest.MonkeyPatch.context() as patch:
            run_units_here(patch)
            patch.setattr(jobs, "reference_methods", list)
            patch.setattr(figures, "draw_cell_figures", draw)  # how pictures are written is tested with them
            patch.setattr(jobs.costs, "remember", lambda *_: None)  # what it cannot write it does without
            with disk.under(patch):
                return flbench(*words, "--study", study, code=code).stderr

    return go


@pytest.mark.fault(
    57, "the k-th write, fsync, rename, new name or new folder fails, for every k of a run", kind="write"
)
def test_57_every_call_that_fails_is_one_line_and_costs_no_bit(run: Run, tmp_path: Path, observed: Observed) -> None:
    undisturbed = Disk()
    run(tmp_path / "before", Disk())  # what is decoded is kept from here on, and a failure to keep it costs nothing
    run(tmp_path / "0", undisturbed)
    expected = outcome(tmp_path / "0")
    assert set(undisturbed.calls) == {RENAMES, FSYNCS, FOLDERS, NAMES, WRITES}
    assert len(expected[0]) == len(expected[2]) == 1
    for k in range(1, len(undisturbed.calls) + 2):
        study, disk = tmp_path / str(k), Disk(k)
        if k > len(undisturbed.calls):
            run(study, disk)
            assert len(disk.calls) == len(undisturbed.calls), "the count itself is steady, so every call was failed"
            break
        what = f"call {k}, a {undisturbed.calls[k - 1]}"
        said = run(study, disk, code=1)
        line = error_of(said)
        observed(line, 1, cases=k)
        assert line.startswith("error: disk full while writing"), what
        assert "run the same command again" in line, what
        hold_whole(study)
        run(study, Disk())
        assert outcome(study) == expected, what
        hold_whole(study)


@pytest.mark.fault(57, "a method meets the full disk itself, while it is fitted and while it is tested", kind="write")
@pytest.mark.parametrize("room", [fits, predictor], ids=["fit", "test"])
def test_57_a_method_that_meets_a_full_disk_is_not_recorded_as_failed(
    run: Run, tmp_path: Path, room: Any, observed: Observed
) -> None:
    """What a method writes itself, such as its words into the log, fails the run and not the method."""
    from flbench.methods.noise_residual import NoiseResidual

    def refuse(*_: object) -> None:
        raise full("/somewhere/words.txt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseResidual, "loss" if room is fits else "forward", refuse)
        said = run(tmp_path / "s", Disk(), code=1)
    observed(error_of(said), 1)
    assert "error: disk full while writing words.txt in /somewhere" in said
    assert not list(tmp_path.glob("s/cells/*/run.json"))
    run(tmp_path / "s", Disk())
    assert len(outcome(tmp_path / "s")[0]) == 1
