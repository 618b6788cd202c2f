"""Loops over pixels, written in Python and compiled to machine code.

Where numpy would go over an image once for each step of a formula, a compiled loop goes over it once. Sums are added in
the order in which they are written, without liberties of the compiler: a machine gives the same bits as the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def compiled(signature: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function when it is first called, by numba.

    What is compiled is kept beside the source, in `__pycache__`, or in the user's cache folder where that cannot be
    written, and is as trustworthy as the source's own bytecode there. Where neither can be written or what is kept is
    damaged, each process compiles for itself, which takes up to a second a function.

    Args:
        signature: Types of arguments and result as numba writes them. A call with others raises TypeError. Arrays that
            are given are only read; they may be read-only.

    Returns:
        A decorator. The function may use what numba knows of Python and numpy; other threads run meanwhile.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        ready = functools.cache(lambda: _compile(function, signature))

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = ready()(*args, **kwargs)
            return result

        return run

    return decorate


def _compile(function: Callable[..., Any], signature: str) -> Callable[..., Any]:
    import numba  # here, because commands that only show something must start at once
    from numba.core import sigutils, types

    given, result = sigutils.normalize_signature(signature)
    read = [kind.copy(readonly=True) if isinstance(kind, types.Array) else kind for kind in given]
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Callable[..., Any] = numba.njit(result(*read), cache=True, **options)(function)
    except Exception:  # whatever a folder that is read-only or full, or a damaged file, raises
        compiled = numba.njit(result(*read), **options)(function)
    return compiled
