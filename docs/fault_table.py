"""Render what came of every fault that is tried on flbench, from the report that the tests wrote: `make faults`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPORT = Path(__file__).parent / "faults.json"
SECTIONS = {
    "Checkpoints": range(1, 15),
    "Images": range(15, 30),
    "Data sets and manifests": range(30, 42),
    "What a method says": range(42, 52),
    "Runs and storage": range(52, 75),
}
CLUSTER = frozenset({54, 66, 67, 68})
"""Faults of a cluster, which are tried where there is one and not counted here."""

KINDS = {"input": "bad inputs tried", "kill": "kills survived", "write": "writes failed", "other": "other mishaps"}
HEADS = ("number", "what was done", "what the user saw", "exit code", "cases", "held")
TOP = """# Faults that flbench must survive

Made by `make faults`: the tests in [tests/faults](../tests/faults) try every fault and write down what the user saw.
Exit codes: 0 ok, 1 run-time failure, 2 usage or plan, 3 bad method, checkpoint or data, 4 finished but partial, 130
interrupted; *row*: the fault is told of one image, method or record, and the command goes on. Folders, process numbers
and times are left out. 54 and 66 to 68 are faults of a cluster and are tried where there is one.
"""


def read() -> list[dict[str, Any]]:
    """Return the lines of the report."""
    return json.loads(REPORT.read_text(encoding="utf-8"))


def page() -> str:
    """Return every fault in tables by section, with the totals."""
    lines = read()
    parts = [TOP, totals(lines)]
    for name, numbers in SECTIONS.items():
        parts.append(f"## {name}\n\n{table([line for line in lines if line['number'] in numbers])}")
    rest = [line for line in lines if isinstance(line["number"], str)]
    if rest:
        parts.append(f"## Without a number\n\n{table(rest)}")
    return "\n".join(parts)


def summary() -> str:
    """Return how many faults hold, by section: the README's table."""
    lines = read()
    rows = []
    for name, numbers in SECTIONS.items():
        counted = [number for number in numbers if number not in CLUSTER]
        held = [number for number in counted if holds(lines, number)]
        cases = sum(line["cases"] for line in lines if line["number"] in numbers)
        rows.append((name, cases, f"{len(held)} of {len(counted)}"))
    every = (*SECTIONS.values(),)
    held = sum(holds(lines, number) for numbers in every for number in numbers)
    total = sum(len(numbers) for numbers in every) - len(CLUSTER)
    rows.append(("**all**", sum(line["cases"] for line in lines), f"**{held} of {total} hold**"))
    return _table(("faults", "cases tried", "hold"), rows)


def totals(lines: Sequence[dict[str, Any]]) -> str:
    """Say in a list how many numbers hold and how much was tried."""
    numbers = [number for numbers in SECTIONS.values() for number in numbers if number not in CLUSTER]
    lost = [str(number) for number in numbers if not holds(lines, number)]
    told = [f"- **{len(numbers) - len(lost)} of {len(numbers)} faults hold**"]
    if lost:
        told.append(f"- not held, or not tried: {', '.join(lost)}")
    for kind, what in KINDS.items():
        told.append(f"- {what}: {sum(line['held'] for line in lines if line['kind'] == kind)}")
    skipped = sum(line["skipped"] for line in lines)
    if skipped:
        told.append(f"- could not be tried on the machine that wrote this page: {skipped}")
    return "\n".join(told) + "\n"


def holds(lines: Sequence[dict[str, Any]], number: int) -> bool:
    """Tell whether every case of a number that could be tried ended as it must, and at least one was tried."""
    own = [line for line in lines if line["number"] == number]
    return any(line["held"] for line in own) and all(line["held"] + line["skipped"] == line["cases"] for line in own)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return faults as a markdown table."""
    rows = [
        (line["number"], _text(line["fault"]), f"{_code(line['saw'])}", line["code"], line["cases"], _held(line))
        for line in lines
    ]
    return _table(HEADS, rows)


def _held(line: dict[str, Any]) -> str:
    tried = line["cases"] - line["skipped"]
    if not tried:
        return "not tried"
    return "yes" if line["held"] == tried else f"**{line['held']} of {tried}**"


def _text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    """Return what was seen as a span of code, which shows hostile names as they are."""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|") if text else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
