"""Decoded pictures kept on disk, so that none is decoded twice: not by the next condition, process, method or run.

A store is a folder in the cache folder with two files: `pixels`, in which items of one size follow each other, and
`marks`, which tells of each item of which files it was made and what its bytes add up to. An item counts only while
these files have the size and the time of change they had then, and its bytes the checksum they had.

Items are read and written by their position in the file. Mapped into memory they would be as fast; but where a disk is
full or a file was cut short a process dies of touching them, and here it goes on as if there were no store. Memory does
not grow with what was read. Processes may share a store: an item is marked after it is written, and whoever made it,
it is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from flbench.files import home

RULES = 1
"""Raised whenever the same files are decoded, resized or read in another way, so that old stores do not count."""

LIMIT = "FLBENCH_PIXELS"
"""Environment variable: gigabytes that all stores may take; 0 for none."""

GIGABYTES = 32.0
"""Taken where the variable says nothing."""

LEAST_FREE = 2 << 30
"""Bytes that a store, when it is full, leaves free on the disk; where it would not, there is none."""

_MARK = struct.Struct("<8sII")


class PixelStore:
    """Arrays uint8 of one shape, by their number.

    Args:
        about: What tells this store from others; JSON-ready.
        count: How many items there may be.
        shape: Of an item.
        folder: Where stores lie; None: in the cache folder.
    """

    def __init__(
        self, about: Mapping[str, Any], count: int, shape: tuple[int, ...], *, folder: Path | None = None
    ) -> None:
        whole = json.dumps({**about, "count": count, "shape": shape, "rules": RULES}, sort_keys=True)
        self.folder = (folder or pixels_folder()) / hashlib.sha256(whole.encode()).hexdigest()[:20]
        self.shape = shape
        self._count = count
        self._bytes = int(np.prod(shape))
        self._files: tuple[int, int] | None = None
        self._opened = False
        self._writable = True
        self._trusted = bytearray(count)
        self._lock = Lock()

    def get(self, number: int, files: Sequence[str | Path], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an item, made now if it is not there or no longer of these files; what is there cannot be written to.

        Whatever the store cannot do it does without; only what `make` raises is raised.

        Args:
            number: Of the item.
            files: What it is made of.
            make: Returns it, uint8 of the store's shape; another shape is returned and not kept.
        """
        kept = self._open()
        stamp = _stamp(files) if kept is not None else None
        if kept is None or stamp is None:
            return make()
        found = self._read(kept, number, stamp)
        if found is not None:
            return found
        made = make()
        if self._writable and made.dtype == np.uint8 and made.shape == self.shape:
            self._write(kept, number, stamp, np.ascontiguousarray(made))
        return made

    def _open(self) -> tuple[int, int] | None:
        """Return the two open files; None if there can be no store."""
        with self._lock:
            if not self._opened:
                self._opened = True
                with suppress(OSError, ValueError):
                    self._files = self._opened_files()
            return self._files

    def _opened_files(self) -> tuple[int, int] | None:
        if not hasattr(os, "pread") or not self._fits():
            return None
        paths = self.folder / "pixels", self.folder / "marks"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)  # when it was last used
            pixels, marks = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644) for path in paths)
        except PermissionError:  # one that others filled, and that may be read
            self._writable = False
            pixels, marks = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths)
        return pixels, marks

    def _fits(self) -> bool:
        """Make room among stores, and tell whether there is enough of it, on the disk too."""
        most = limit()
        size = self._count * self._bytes
        if size > most or not most:
            return False
        if self.folder.is_dir():
            return True
        root = self.folder.parent
        root.mkdir(parents=True, exist_ok=True)
        others = sorted(stores(root), key=lambda store: store.stat().st_mtime)
        taken = {store: size_of(store) for store in others}
        for store in others:
            if sum(taken.values()) + size <= most:
                break
            shutil.rmtree(store, ignore_errors=True)
            del taken[store]
        return shutil.disk_usage(root).free - size >= LEAST_FREE

    def _read(self, kept: tuple[int, int], number: int, stamp: bytes) -> np.ndarray | None:
        pixels, marks = kept
        try:
            mark = os.pread(marks, _MARK.size, number * _MARK.size)
            if len(mark) < _MARK.size or mark[: len(stamp)] != stamp:
                return None
            data = os.pread(pixels, self._bytes, number * self._bytes)
        except OSError:
            return None
        if len(data) < self._bytes:
            return None
        if not self._trusted[number]:
            if zlib.crc32(data) != _MARK.unpack(mark)[1]:
                return None
            self._trusted[number] = True
        return np.frombuffer(data, np.uint8).reshape(self.shape)

    def _write(self, kept: tuple[int, int], number: int, stamp: bytes, item: np.ndarray) -> None:
        pixels, marks = kept
        data = item.tobytes()
        try:
            written = os.pwrite(pixels, data, number * self._bytes)
            if written == len(data):
                os.pwrite(marks, _MARK.pack(stamp, zlib.crc32(data), 0), number * _MARK.size)
                self._trusted[number] = False
        except OSError:  # a full disk, a quota: what is there can still be read
            self._writable = False


def _stamp(files: Sequence[str | Path]) -> bytes | None:
    """Return 8 bytes that tell the content of files from what it was, by size and time of change; None if one lacks."""
    try:
        said = [(found.st_size, found.st_mtime_ns) for found in map(os.stat, files)]
    except (OSError, ValueError):
        return None
    return hashlib.blake2b(repr(said).encode(), digest_size=8).digest()


def pixels_folder() -> Path:
    """Return the folder of all stores."""
    return home() / "pixels"


def limit() -> int:
    """Return the bytes that all stores may take."""
    try:
        return max(0, int(float(os.environ.get(LIMIT) or GIGABYTES) * (1 << 30)))
    except (ValueError, OverflowError):
        return int(GIGABYTES * (1 << 30))


def stores(root: Path) -> list[Path]:
    """Return the stores in a folder."""
    return [path for path in root.iterdir() if (path / "marks").is_file()] if root.is_dir() else []


def size_of(store: Path) -> int:
    """Return the bytes that a store takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in store.iterdir() if path.is_file())
