"""The two streams of a terminal: what can be written to them, and how wide they are.

Text of users is never markup, carries no control characters, and is written in signs that the stream can encode. Where
the stream is no terminal there are no colours, lines or bars, but plain text.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from typing import IO, Any, cast

from rich.console import Console

from flbench.reporting.words import clean

PIPE_WIDTH = 100
"""Columns of a table where nothing tells the width."""

_ASCII = {"–": "-", "—": "-", "‑": "-", "×": "x", "·": "|", "…": ".", "↑": "^", "↓": "v", "±": "~", "γ": "g"}
_ASCII |= {"“": '"', "”": '"', "’": "'", "‘": "'", "\N{NO-BREAK SPACE}": " "}


def printable(text: object, stream: IO[str] | None = None) -> str:
    """Return text on one line, in signs that a stream can encode, one sign for one sign.

    Args:
        text: Anything.
        stream: Where it goes; None for stdout.
    """
    return _encodable(clean(text), stream or sys.stdout)


def _encodable(text: str, stream: IO[str]) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(sign if _fits(sign, encoding) else _ASCII.get(sign, "?") for sign in text)
    return text


def _fits(sign: str, encoding: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


_RARE = re.compile(r"[^\n -~]")


def json_text(document: Any, stream: IO[str] | None = None) -> str:
    """Return a document as JSON that any terminal may show: keys sorted, numbers as numbers, no value changed.

    Signs that would steer a terminal, that nobody sees, or that the stream cannot encode are written as JSON escapes.

    Args:
        document: Anything that JSON knows; other values as text.
        stream: Where it goes; None for stdout.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"

    def escaped(match: re.Match[str]) -> str:
        sign = match[0]
        plain = unicodedata.category(sign)[0] not in "CZ" and _fits(sign, encoding)
        return sign if plain else json.dumps(sign)[1:-1]

    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    return _RARE.sub(escaped, text) + "\n"


class Stream:
    """A text stream that replaces what it cannot encode, instead of failing half-way through a table."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, signs that do not fit replaced."""
        return self._stream.write(_encodable(text, self._stream))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command end quietly, instead of with rich's exit code."""
        raise BrokenPipeError


def _on(stream: IO[str]) -> Console:
    made = _Console(file=cast(IO[str], Stream(stream)), markup=False, highlight=False, emoji=False)
    if not made.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        made.width = PIPE_WIDTH
    return made


def out() -> Console:
    """Return the console of stdout as it is now."""
    return _on(sys.stdout)


def err() -> Console:
    """Return the console of stderr as it is now."""
    return _on(sys.stderr)
