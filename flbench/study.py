"""A study: the folder of fits, cells and records, and the truth about what is done.

    study/fits/<fit>/    weights.safetensors, checkpoint.safetensors while it runs, fit.json written last
    study/cells/<cell>/  images.parquet, gallery.npz, panel.png, cases.png, run.json written last
    study/data/          where data sets lie

Every file is written beside its place and moved there, so a kill at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flbench.errors import DataError, RunError
from flbench.files import atomic_write, make_folder, storage_error, storing, sweep, write_json
from flbench.record import Record, read_record

if TYPE_CHECKING:
    import pandas as pd

RECORD = "run.json"
SCORES = "images.parquet"
GALLERY = "gallery.npz"
PANEL = "panel.png"
CASES = "cases.png"
FIT = "fit.json"
CHECKPOINT = "checkpoint.safetensors"
LOG = "log.txt"
PARTIAL = "partial"
DATA = "data"
ROW = ("test", "condition", "sample_id")
"""Columns of the per-image scores that tell one row from another."""
TEXTS = (*ROW, "identity", "label", "status")
"""Columns of the per-image scores that are always there and hold text; the others hold numbers, but for `reason`."""
PIECE = 1 << 14
"""Rows of per-image scores written together."""
GRACE_SECONDS = 5.0
"""How long a command waits for a lock without `--wait`: a process whose driver was killed needs a moment to notice."""


class Study:
    """The folder of fits and cells of one study.

    Args:
        folder: Where it is, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fit_folder(self, fit: str) -> Path:
        """Return the folder of a fit."""
        return self.folder / "fits" / fit

    def cell_folder(self, cell: str) -> Path:
        """Return the folder of a cell."""
        return self.folder / "cells" / cell

    def fit(self, fit: str) -> dict[str, Any] | None:
        """Return what `fit.json` says, or None if the fit is not done."""
        path = self.fit_folder(fit) / FIT
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(document, dict):
                return document
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            pass
        _set_aside(path)
        return None

    def record(self, cell: str) -> Record | None:
        """Return the record of a cell, or None if the cell is not done.

        A damaged record is set aside, and so is a whole one whose per-image scores are damaged.
        """
        path = self.cell_folder(cell) / RECORD
        if not path.exists():
            return None
        scores = path.with_name(SCORES)
        try:
            if _is_cut(scores):
                raise DataError(f"scores {scores} are damaged")
            return read_record(path)
        except DataError as error:
            if "upgrade" in error.hint:
                raise
            for damaged in (scores, path):
                _set_aside(damaged)
            return None

    def records(self) -> list[Record]:
        """Return every valid record, ordered by cell."""
        return [record for cell in self.cells() if (record := self.record(cell)) is not None]

    def cells(self) -> list[str]:
        """Return the ids of cells that have a record, in order; it may be damaged."""
        return sorted(path.parent.name for path in self.folder.glob(f"cells/*/{RECORD}"))

    def remember_data(self, name: str, folder: Path) -> None:
        """Keep in which folder a data set lies, so that a change of it can be seen later.

        Raises:
            RunError: The folder cannot be written.
        """
        if self.data_folder(name) != folder:
            sweep(self.folder / DATA)
            write_json(self.folder / DATA / f"{name}.json", {"folder": str(folder)})

    def data_folder(self, name: str) -> Path | None:
        """Return the folder in which a data set lay when a cell was last measured on it; None if that is not known."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return Path(json.loads((self.folder / DATA / f"{name}.json").read_text(encoding="utf-8"))["folder"])
        return None

    def scores(self, cell: str) -> pd.DataFrame:
        """Return the per-image scores of a cell.

        Raises:
            DataError: The file is missing or damaged.
        """
        return read_scores(self.cell_folder(cell), hint="run the cell again")

    def break_locks(self) -> list[str]:
        """Take away locks that processes of other hosts hold, and return whose they were; own ones free themselves.

        A lock of a process that runs elsewhere after all is lost with it, and two may then work on the same cell.

        Raises:
            RunError: The folder cannot be written.
        """
        broken = []
        for owner in sorted((self.folder / "locks").glob("*.json")):
            try:
                if json.loads(owner.read_text(encoding="utf-8"))["host"] == socket.gethostname():
                    continue
            except (OSError, ValueError, KeyError, TypeError):
                continue
            broken.append(f"{owner.stem}{_holder(owner)}")
            with storing(owner):
                owner.with_suffix(".lock").unlink(missing_ok=True)
                owner.unlink(missing_ok=True)
        return broken

    @contextmanager
    def lock(self, name: str, *, wait: bool = False, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold a lock of this study, so that two commands never work on the same fit or cell.

        What a process that was killed has left half-written of it is swept away first.

        Args:
            name: Of a fit or cell.
            wait: Wait for it as long as it takes.
            waiting: Called every few seconds of that, with who holds it.

        Raises:
            RunError: Another process holds it and `wait` is false; names the process, its host, since when, and for
                how long.
        """
        from filelock import FileLock, Timeout

        folder = self.folder / "locks"
        make_folder(folder)
        owner = folder / f"{name}.json"
        lock = FileLock(folder / f"{name}.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=GRACE_SECONDS)
            except Timeout:
                held = f"{self.folder} is in use{_holder(owner)}"
                if not wait:
                    raise RunError(held, hint=_advice(owner)) from None
                if waiting is not None:
                    waiting(held)
            except OSError as error:
                raise storage_error(error, folder) from error
        try:
            who = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            self._sweep(name)
            write_json(owner, who)
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def _sweep(self, name: str) -> None:
        """Remove temporary files of a fit or cell whose lock is held; pictures are drawn without the lock."""
        cell = self.cell_folder(name)
        left = [*self.fit_folder(name).glob(".*.tmp"), *(cell / PARTIAL).glob(".*.tmp")]
        left += (self.folder / "locks").glob(f".{name}.json.*.tmp")
        left += [path for kept in (RECORD, SCORES, GALLERY) for path in cell.glob(f".{kept}.*.tmp")]
        for path in left:
            with suppress(OSError):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _holder(owner: Path) -> str:
    try:
        who = json.loads(owner.read_text(encoding="utf-8"))
        return f" by pid {who['pid']} on host {who['host']} since {who['since']}{_age(owner)}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _age(owner: Path) -> str:
    """Return for how long a lock is held in words; the file system's clock dates it and another one reads it."""
    hours = (time.time() - owner.stat().st_mtime) / 3600
    return f", {hours / 24:.0f} days ago" if hours >= 48 else f", {hours:.0f} hours ago" if hours >= 2 else ""


def _advice(owner: Path) -> str:
    """Return what to do about a lock that another process holds; one of another host may be of a host that is gone."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        who = json.loads(owner.read_text(encoding="utf-8"))
        if who["host"] != socket.gethostname():
            return f"wait for it with --wait; if nothing runs on {who['host']} any more, --break-lock"
    return "wait for it with --wait"


def _is_cut(scores: Path) -> bool:
    """Return whether a Parquet file is there and has lost its beginning or its end."""
    mark = b"PAR1"
    try:
        with scores.open("rb") as file:
            head = file.read(len(mark))
            file.seek(max(0, scores.stat().st_size - len(mark)))
            return (head, file.read()) != (mark, mark)
    except OSError:
        return False


def _set_aside(path: Path) -> None:
    """Move a damaged file out of the way, so that its cell counts as not done and nothing is deleted."""
    with suppress(OSError):
        path.replace(path.with_name(path.name + ".bad"))


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Write per-image scores atomically, in pieces: what Parquet makes of a table it holds in memory a piece at a time.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """
    atomic_write(path, lambda temporary: scores.to_parquet(temporary, index=False, row_group_size=PIECE))


def read_scores(folder: Path, *, hint: str, columns: Collection[str] = ()) -> pd.DataFrame:
    """Return the per-image scores in the folder of a cell, of a study or beside a board.

    Args:
        folder: Where the file lies.
        hint: What to do if it cannot be read.
        columns: Those to read, as far as they are there; none: all.

    Raises:
        DataError: The file is missing or damaged, or its rows cannot be told apart.
    """
    import pandas as pd
    from pyarrow.parquet import read_schema

    path = folder / SCORES
    try:
        known = read_schema(path).names
        scores = pd.read_parquet(path, columns=[name for name in known if not columns or name in columns])
    except Exception as error:  # of damaged files, pandas raises whatever it trips over: OSError, ValueError, KeyError
        raise DataError(f"scores {path} cannot be read: {error}", hint=hint) from error
    absent = [name for name in (*TEXTS, "score") if name not in scores and (not columns or name in columns)]
    if absent:
        raise DataError(f"scores {path} have no column {', '.join(absent)}", hint=hint)
    odd = [name for name in scores if name not in (*TEXTS, "reason") and scores[name].dtype.kind not in "fiu"]
    if odd:
        raise DataError(f"scores {path} hold no numbers in column {odd[0]!r}", hint=hint)
    if set(ROW) <= set(scores) and scores.duplicated(list(ROW)).any():
        raise DataError(f"scores {path} have an image twice", hint=hint)
    return scores
