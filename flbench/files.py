"""Files written so that a kill at any moment leaves the old one or the new one, and errors that say what to do."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flbench.errors import RunError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be moved either
    fcntl = None  # type: ignore[assignment]


def home() -> Path:
    """Return the user's cache folder: `FLBENCH_HOME`, or the platform's."""
    from platformdirs import user_cache_path

    given = os.environ.get("FLBENCH_HOME")
    return Path(given).expanduser() if given else user_cache_path("flbench")


def files_below(folder: Path) -> list[str]:
    """Return the files in a folder and in those below it, as paths from it with `/`, in the order of their parts."""
    found: list[tuple[str, ...]] = []

    def look(at: str | Path, above: tuple[str, ...]) -> None:
        with os.scandir(at) as entries:  # a Path for each file takes longer than what is done with it
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    look(entry.path, (*above, entry.name))
                elif entry.is_file():
                    found.append((*above, entry.name))

    look(folder, ())
    return ["/".join(parts) for parts in sorted(found)]


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn whatever a failed write of `path` raises into one line.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error
    except Exception as error:
        if "No space left" in str(error):  # safetensors reports no errno
            raise storage_error(OSError(errno.ENOSPC, "No space left on device"), path) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; flush it to disk and move it there if the block ends well.

    Raises:
        RunError: The disk is full, or the folder cannot be written; nothing is left behind.
    """
    temporary: Path | None = None
    handle: int | None = None
    try:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            temporary = Path(name)
            if not _held(handle):
                os.close(handle)
                handle = None
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        if handle is not None:
            os.close(handle)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _held(handle: int) -> bool:
    """Lock an open file until it is closed or its process ends; return whether that can be done here, and was."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or the file system knows no locks
        return False
    return True


def sweep(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Remove what killed processes have left of files that they were replacing; what is being written stays.

    Args:
        folder: Of the files.
        names: Of the files, as patterns.
    """
    for path in [path for name in names for path in folder.glob(f".{name}.*.tmp")]:
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR)
            try:
                # An empty file may be one that is not locked yet.
                if os.fstat(handle).st_size and _held(handle):
                    path.unlink()
            finally:
                os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises:
        RunError: The disk is full, or the folder cannot be made.
    """
    with storing(path):
        path.mkdir(parents=True, exist_ok=True)


def save_into(folder: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write files into an empty folder beside, then move each of them into `folder`.

    Raises:
        RunError: The disk is full, or the folder cannot be written; no half file is left in it.
    """
    make_folder(folder)
    with storing(folder), tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as name:
        save(Path(name))
        made = sorted(path for path in Path(name).iterdir() if path.is_file())
        for path in made:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        for path in made:
            path.replace(folder / path.name)


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then move it into place.

    Raises:
        RunError: As `replacing`.
    """
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8 with line feeds."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically, keys sorted, without NaN."""
    write_text(path, json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(error: OSError) -> bool:
    """Return whether a write failed for want of space: a full disk, a quota, or a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raise_if_full(error: Exception, path: Path) -> None:
    """Raise for a failed write for want of space, which is nobody's fault and must not be recorded as a failure.

    Raises:
        RunError: The disk is full.
    """
    if isinstance(error, OSError) and is_full(error):
        raise storage_error(error, Path(error.filename or path)) from error


def storage_error(error: OSError, path: Path) -> RunError:
    """Turn a failed write into one line that says what is lost (nothing) and what to do."""
    if is_full(error):
        where = f" in {path.parent}" if path.parent != Path() else ""
        return RunError(
            f"disk full while writing {path.name}{where}",
            hint="nothing finished was lost; free some space and run the same command again",
        )
    return RunError(f"{path} cannot be written: {error.strerror or error}")
