"""What a method may do to the process it runs in: undone, or told as the method's failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from flbench.errors import MethodError


class Unheard(SystemExit):
    """The end of a process that nobody waits for any more; no method's doing."""


@contextmanager
def contained(name: str) -> Iterator[None]:
    """Let a method work; afterwards the working folder, the threads and the default dtype are what they were.

    Args:
        name: The method, for messages.

    Raises:
        MethodError: It asked for the end of the process.
    """
    folder, threads, dtype = _here(), torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    except Unheard:
        raise
    except SystemExit as end:
        raise MethodError(f"method {name} ends the process: sys.exit({end.code!r})") from end
    finally:
        if _here() != folder:
            with suppress(OSError):
                os.chdir(folder)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - as it is given back
    except FileNotFoundError:
        return ""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory was short: an accelerator's, or this machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch has no kind for the CPU's
