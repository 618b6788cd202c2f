"""Hold a record against one that was made of the same question: what is equal, within a tolerance, or differs.

On the same kind of machine, with the same version of torch and as many threads, every bit must be the same; elsewhere
the values of metrics must agree within a tolerance. What is promised stands in docs/reproducibility.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flbench.protocol import fingerprint
from flbench.record import Record, Value
from flbench.reporting.cards import table
from flbench.reporting.tables import Table
from flbench.scoring.metrics import WORST

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-6
"""Largest difference of a metric's value where the same bits are not promised; of a value above 1, as a share of it.

A PSNR of 25 dB in single precision has no bits below a millionth of a decibel.
"""

EQUAL, WITHIN, DIFFERS = "equal", "within", "differs"
GAMMA, CONVENTIONS = "γ", "conventions"
_ROW = ["test", "condition", "sample_id"]
_KIND = ("machine", "system", "instructions", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that was compared.

    Attributes:
        what: Its name.
        verdict: "equal", "within" the tolerance, or "differs".
        values: How many numbers or rows it is.
        difference: Largest difference; None where there is none between numbers.
        where: Where the largest difference, or the first that is none between numbers, is.
        judged: Whether it decides if the record is reproduced.
    """

    what: str
    verdict: str
    values: int
    difference: float | None = None
    where: str = ""
    judged: bool = True


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What a reproduction gave.

    Attributes:
        cell: The cell of the record.
        tolerance: Largest difference allowed; 0: the same bits.
        lines: What was compared.
        elsewhere: What makes the machine another kind than the record's, such as "threads 2, here 1".
        notes: What a reader should know, such as versions that differ.
    """

    cell: str
    tolerance: float
    lines: tuple[Line, ...]
    elsewhere: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[Line, ...]:
        """What differs and is judged."""
        return tuple(line for line in self.lines if line.judged and line.verdict == DIFFERS)

    @property
    def reproduced(self) -> bool:
        """Whether nothing that is judged differs."""
        return not self.wrong

    @property
    def summary(self) -> str:
        """How much differs, and what most, on one line."""
        if not self.wrong:
            return f"none of {len(self.lines)} comparisons differs"
        worst = max(self.wrong, key=lambda line: line.difference or 0.0)
        off = "" if worst.difference is None else f" by {worst.difference:.2g}"
        where = f" ({worst.where})" if worst.where else ""
        return f"{len(self.wrong)} of {len(self.lines)} comparisons differ, such as {worst.what}{off}{where}"


def hold_against(
    record: Record,
    again: Record,
    scores: pd.DataFrame | None = None,
    scores_again: pd.DataFrame | None = None,
    *,
    tolerance: float | None = None,
) -> Reproduction:
    """Compare a record with one that was made by asking the same again.

    Args:
        record: As it was made.
        again: As it was made now.
        scores: Per-image scores of the first, where they are at hand.
        scores_again: Those of the second.
        tolerance: Largest difference of a metric's value; 0 demands the same bits; None: 0 on the same kind of machine
            with the same torch and as many threads, `TOLERANCE` elsewhere.
    """
    elsewhere = _elsewhere(record.provenance, again.provenance)
    limit = tolerance if tolerance is not None else TOLERANCE if elsewhere else 0.0
    bits = limit == 0
    lines = [
        _exact("status and counts", _counts(record), _counts(again)),
        *_metrics(record, again, limit),
        _exact("digest of the results", [_digest(record)], [_digest(again)], judged=bits),
        _exact("digest of the weights", [record.method.weights], [again.method.weights], judged=bits),
    ]
    notes = _notes(record, again)
    if scores is None or scores_again is None:
        notes.append("no per-image scores lie beside the record, so only what it holds itself was compared")
    else:
        unasked = set(WORST) - set(record.protocol.metrics)  # earlier versions measured them all the same
        there, here = (frame.drop(columns=list(unasked & set(frame))) for frame in (scores, scores_again))
        lines.append(_scores(there, here, limit))
    return Reproduction(
        cell=record.cell, tolerance=limit, lines=tuple(lines), elsewhere=tuple(elsewhere), notes=tuple(notes)
    )


def _elsewhere(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return what decides the last bits and is another here; what the record does not say counts as another."""
    pairs = {key: (there.get(key), here.get(key)) for key in _KIND}
    pairs["torch"] = (there.get("packages", {}).get("torch"), here.get("packages", {}).get("torch"))
    for key in ("engine", "version"):
        pairs[f"inference {key}"] = there.get("inference", {}).get(key), here.get("inference", {}).get(key)
    return [f"{key} {'not recorded' if a is None else a}, here {b}" for key, (a, b) in pairs.items() if a != b]


def _notes(record: Record, again: Record) -> list[str]:
    there, here = record.provenance, again.provenance
    old, new = there.get("packages", {}), here.get("packages", {})
    versions = [f"{name} {old.get(name)}, here {new.get(name)}" for name in sorted({*old, *new})]
    notes = [text for text, name in zip(versions, sorted({*old, *new}), strict=True) if old.get(name) != new.get(name)]
    if there.get("python") != here.get("python"):
        notes.append(f"python {there.get('python')}, here {here.get('python')}")
    if record.method.distribution != again.method.distribution:
        notes.append(f"method of {record.method.distribution}, here of {again.method.distribution}")
    if record.cell != again.cell:
        notes.append("the file of the method is not that of the record: the cell's name ends in another fingerprint")
    if there.get("commit") != here.get("commit"):
        notes.append(f"commit {str(there.get('commit'))[:12]}, here {str(here.get('commit'))[:12]}")
    notes += [f"the {what} has uncommitted changes" for what, p in _checkouts(there, here) if p.get("dirty")]
    if record.dataset.note != again.dataset.note:
        notes.append(f"the data set says here: {again.dataset.note or 'nothing'}")
    if again.reason and again.reason != record.reason:
        notes.append(f"the new run is {again.status}: {again.reason}")
    return notes


def _checkouts(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [("checkout of the record", there), ("checkout here", here)]


def _digest(record: Record) -> str:
    """Return the digest of what was measured, without the names of cell and fits, which tell the method's file."""
    document = record.model_dump(mode="json", include={"status", "reason", "flags", "results"})
    return fingerprint(document)


def _counts(record: Record) -> list[tuple[object, ...]]:
    """Return what must be the same whatever the machine: status, slices, images, and values that count or do not."""
    counts: list[tuple[object, ...]] = [("status", record.status)]
    for result in record.results:
        where = f"{result.test}, {result.condition}"
        counts.append((where, result.categories, result.fakes, result.reals))
        for metric, value in result.metrics.items():
            counts.append((f"{metric} of {where}", value.n, value.undefined, value.failed, value.capped))
        for name, found in result.conventions.items():
            counts.append((f"{name} of {where}", found.n, found.undefined))
    return counts


def _exact(what: str, there: Sequence[object], here: Sequence[object], *, judged: bool = True) -> Line:
    if there == here:
        return Line(what=what, verdict=EQUAL, values=len(there), judged=judged)
    first = next((a for a, b in zip(there, here, strict=False) if a != b), None)
    where = str(first[0]) if isinstance(first, tuple) else ""
    return Line(what=what, verdict=DIFFERS, values=len(there), where=where, judged=judged)


Numbers = dict[tuple[str, str], float | None]


def _metrics(record: Record, again: Record, limit: float) -> Iterator[Line]:
    """Yield a line for each metric, with the ends of its intervals, for γ, and for conventions.

    Beside a tolerance γ and conventions are told and not judged: a quotient of small numbers, or a threshold, makes
    any difference of their metrics larger.
    """
    there, here = _numbers(record), _numbers(again)
    for what in dict.fromkeys([*there, *here]):
        judged = limit == 0 or what not in (GAMMA, CONVENTIONS)
        yield _close(what, there.get(what, {}), here.get(what, {}), limit, judged=judged)


def _numbers(record: Record) -> dict[str, Numbers]:
    """Return every number of a record by what it is, then by place and end."""
    found: dict[str, Numbers] = {}

    def add(what: str, where: str, value: Value) -> None:
        for end in ("value", "low", "high"):
            found.setdefault(what, {})[where, end] = getattr(value, end)

    for result in record.results:
        where = f"{result.test}, {result.condition}"
        for metric, value in result.metrics.items():
            add(metric, where, value)
        for metric, value in result.gamma.items():
            add(GAMMA, f"{metric} of {where}", value)
        for name, told in result.conventions.items():
            found.setdefault(CONVENTIONS, {})[f"{name} of {where}", "value"] = told.value
    return found


def _close(what: str, there: Numbers, here: Numbers, limit: float, *, judged: bool = True) -> Line:
    """Compare numbers by name: equal if all are the same, within if none is further off than the limit.

    What is above 1, such as decibels, may be further off in proportion.
    """
    largest, difference, where = 0.0, 0.0, ""
    for key in dict.fromkeys([*there, *here]):
        a, b = there.get(key), here.get(key)
        if a == b and (key in there) == (key in here):
            continue
        off = math.inf if a is None or b is None else abs(a - b)
        share = math.inf if a is None or b is None else off / max(1.0, abs(a), abs(b))
        if share > largest:
            largest, difference, where = share, off, " ".join(part for part in key if part != "value")
    verdict = EQUAL if not largest else WITHIN if largest <= limit else DIFFERS
    told = difference if math.isfinite(largest) else None
    return Line(what=what, verdict=verdict, values=len(there), difference=told, where=where, judged=judged)


def _scores(there: pd.DataFrame, here: pd.DataFrame, limit: float) -> Line:
    """Compare per-image scores row by row; beside a tolerance, which is for means, they are told and not judged."""
    what, judged = "scores of each image", limit == 0
    a, b = (frame.set_index(_ROW).sort_index() for frame in (there, here))
    if set(a.columns) != set(b.columns) or not a.index.equals(b.index):
        where = "columns" if set(a.columns) != set(b.columns) else "images"
        return Line(what=what, verdict=DIFFERS, values=len(there), where=where, judged=judged)
    numbers: tuple[Numbers, Numbers] = ({}, {})
    for name in a.columns:
        numeric = a[name].dtype.kind == "f" and b[name].dtype.kind == "f"
        same = (a[name] == b[name]) | (a[name].isna() & b[name].isna())
        if numeric:
            for side, frame in zip(numbers, (a, b), strict=True):
                odd = frame.loc[~same, name]
                side.update(
                    {(name, ", ".join(key)): None if value != value else float(value) for key, value in odd.items()}
                )
        elif not same.all():
            return Line(what=what, verdict=DIFFERS, values=len(there), where=name, judged=judged)
    line = _close(what, *numbers, limit, judged=judged)
    return Line(**asdict(line) | {"values": len(there)})


def reproduction_table(found: Reproduction) -> Table:
    """Return what was compared as a table."""
    rows = [
        (
            line.what,
            line.verdict,
            "" if line.judged else "not judged",
            str(line.values),
            "" if line.difference is None else f"{line.difference:.2g}",
            line.where,
        )
        for line in found.lines
    ]
    demand = "the same bits" if not found.tolerance else f"values of metrics within {found.tolerance:g}"
    heads = ("compared", "verdict", "", "numbers", "largest difference", "where")
    return table(heads, rows, title=f"{found.cell}: {demand}", right=(3, 4))


def reproduction_document(found: Reproduction) -> dict[str, Any]:
    """Return a reproduction as values that JSON knows."""
    return asdict(found) | {"reproduced": found.reproduced}
