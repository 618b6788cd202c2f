"""What came of every fault: which number, what the user saw, with which exit code, and whether flbench held.

A test carries `@pytest.mark.fault(number, "what was done")` and calls `observed(...)` once with what the user saw.
`pytest tests/faults --fault-report FILE` writes all of it as JSON; `make faults` makes docs/faults.md of that.
"""

from __future__ import annotations

import ast
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from click.testing import Result

NUMBERS = frozenset(range(1, 75)) - {54, 66, 67, 68}
"""The faults that are counted; the missing four need a cluster."""

KINDS = ("input", "kill", "write", "other")
"""What a case is: a bad input, a process killed, a write failed, or anything else that goes wrong around a run."""

NO_CODE = "row"
"""In place of an exit code: the run goes on, and the fault is a row of its scores or of a listing."""

_NAME = r"[^\s'\"():;,/]+"
_HIDDEN = [
    (re.compile(r"disk full while writing \S+ in \S+"), "disk full while writing FILE in FOLDER"),
    (re.compile(r"\bpid \d+"), "pid P"),
    (re.compile(r"\bon host \S+"), "on host H"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*"), "T"),
    (re.compile(r"\d+(\.\d+)? (s|seconds|minutes|hours|days)\b"), "N \\2"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"), "…"),
]


@dataclass
class Fault:
    """One line of the ledger: everything that was tried under one number by one phrase.

    Attributes:
        number: Of the list, or a few words for what is injected and has no number.
        fault: What was done.
        kind: One of `KINDS`.
        saw: What the user saw, the first case of several.
        code: The exit code, `NO_CODE`, or the name of the signal that ended the command.
        cases: Inputs tried, processes killed or writes failed.
        held: How many of them ended as they must.
        skipped: How many could not be tried here.
    """

    number: int | str
    fault: str
    kind: str = "input"
    saw: str = ""
    code: int | str = NO_CODE
    cases: int = 0
    held: int = 0
    skipped: int = 0


@dataclass
class Observed:
    """Keeps what the user saw in one test.

    Attributes:
        hidden: Folders of this machine that are not shown.
        saw: What the user saw.
        code: As in `Fault`.
        cases: As in `Fault`.
    """

    hidden: list[Path] = field(default_factory=list)
    saw: str = ""
    code: int | str = NO_CODE
    cases: int = 1

    def __call__(
        self, what: Result | CompletedProcess[str] | str, code: int | str = NO_CODE, *, cases: int = 1
    ) -> None:
        """Keep the last lines that matter of a command, or a text and its exit code.

        Args:
            what: The end of a command, or what the user saw as text.
            code: Exit code, where `what` is a text.
            cases: How many inputs, kills or writes this stands for.
        """
        text = what
        if isinstance(what, Result):
            text, code = _last(what.stderr, what.stdout), what.exit_code
        elif isinstance(what, CompletedProcess):
            text, code = _last(what.stderr, what.stdout), what.returncode
        if isinstance(code, int) and code < 0:
            code = signal.Signals(-code).name
        self.saw, self.code, self.cases = self._plain(str(text)), code, cases

    def _plain(self, text: str) -> str:
        """Return the text without what differs from machine to machine and from run to run."""
        for folder in self.hidden:
            text = re.sub(rf"{re.escape(str(folder))}(?:/{_NAME})*?(/{_NAME})?(?=[\s'\"():;,]|$)", _end, text)
        for pattern, plain in _HIDDEN:
            text = pattern.sub(plain, text)
        return " ".join(text.split())


def _end(match: re.Match[str]) -> str:
    return f"…{match[1] or ''}"


def _last(err: str, out: str) -> str:
    """Return the line that says what went wrong, or else the last line that says anything."""
    lines = [line.strip() for line in (err or out).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error:")]
    return (told or lines or [""])[-1]


def error_of(err: str) -> str:
    """Return the one line that says what went wrong; there is exactly one, and no traceback."""
    assert "Traceback" not in err, err
    (line,) = (line for line in err.splitlines() if line.startswith("error:"))
    return line


def carried(folder: Path) -> Iterator[tuple[int | str, str]]:
    """Yield number and phrase of every `fault` mark in the test files of a folder, without importing them."""
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fault":
                number, phrase = (ast.literal_eval(part) for part in node.args)
                yield number, phrase


class Ledger:
    """The faults of a test session, in the order in which they were first met."""

    def __init__(self) -> None:
        self.faults: dict[tuple[Any, str], Fault] = {}

    def note(self, number: int | str, phrase: str, kind: str, outcome: str, seen: Observed) -> None:
        """Add the outcome of a test, "passed", "failed" or "skipped"."""
        fault = self.faults.setdefault((number, phrase), Fault(number, phrase, kind))
        if not fault.saw:
            fault.saw, fault.code = seen.saw, seen.code
        fault.cases += seen.cases
        fault.held += seen.cases if outcome == "passed" else 0
        fault.skipped += seen.cases if outcome == "skipped" else 0

    def to_json(self) -> str:
        """Return the faults by number, then those without one by name."""
        ordered = sorted(self.faults.values(), key=lambda fault: (isinstance(fault.number, str), 0))
        ordered.sort(key=lambda fault: (isinstance(fault.number, str), fault.number if fault.number in NUMBERS else 0))
        return json.dumps([asdict(fault) for fault in ordered], indent=1, ensure_ascii=False) + "\n"
