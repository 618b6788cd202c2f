"""The errors a user may see: one base class, a few kinds, each with the exit code of the command that raised it."""

from __future__ import annotations

LONGEST = 1000
"""Signs of a message, at most: a stranger's file may have a name or a line of any length."""


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


class FlbenchError(Exception):
    """Say in one line what went wrong, where, and what to do next.

    Args:
        message: What happened and where; no trailing full stop, no newline.
        hint: What to do next, shown after the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = _line(message), _line(hint)
        super().__init__(f"{self.message} ({self.hint})" if self.hint else self.message)


class RunError(FlbenchError):
    """A failure while running: disk full, a lost worker, a folder in use. Exit code 1."""


class UsageError(FlbenchError):
    """A command, configuration, protocol or plan that cannot be right. Exit code 2."""

    exit_code = 2


class DataError(FlbenchError):
    """A data set, image or manifest that cannot be used. Exit code 3."""

    exit_code = 3


class MethodError(FlbenchError):
    """A method, its output or its checkpoint that cannot be used. Exit code 3."""

    exit_code = 3


class PartialError(FlbenchError):
    """The work finished, but some cells are partial, failed or skipped. Exit code 4."""

    exit_code = 4


class Interrupted(FlbenchError):
    """The user or the scheduler asked to stop; what is finished is kept. Exit code 130."""

    exit_code = 130


def suggest(word: str, known: list[str]) -> str:
    """Return a hint that names the nearest known words, or all of them."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=2)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "known: " + ", ".join(sorted(known)) if known else "none is known"
