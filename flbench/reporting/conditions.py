"""Conditions of a board in families: one kind of degradation, mildest first, with its severities in native units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flbench.condition import CLEAN, KINDS, Condition, Step, parse_condition
from flbench.errors import UsageError

OTHERS = "other"


class Family(NamedTuple):
    """Conditions that differ in nothing but severity.

    Attributes:
        kind: A name of `KINDS`; "other" for chains of steps and for what is not known.
        title: Name to print.
        axis: What the severity is; "" without one.
        names: The conditions, mildest first.
        values: Their severities; empty without an axis.
    """

    kind: str
    title: str
    axis: str
    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def identity(self) -> float | None:
        """The severity that changes nothing; None if none does."""
        return KINDS[self.kind].identity if self.kind in KINDS else None

    @property
    def falling(self) -> bool:
        """Whether a smaller severity is harsher."""
        return self.kind in KINDS and KINDS[self.kind].harsher == "less"


def families(conditions: Iterable[str]) -> list[Family]:
    """Return degradations by kind, in the order in which kinds come; chains and unknown names come last."""
    steps: dict[str, list[tuple[Step, str]]] = {}
    rest = []
    for name in conditions:
        found = _read(name)
        if found is not None and not found.steps:
            continue
        if found is None or len(found.steps) > 1:
            rest.append(name)
        else:
            steps.setdefault(found.steps[0].kind, []).append((found.steps[0], name))
    made = [_family(kind, members) for kind, members in steps.items()]
    return [*made, Family(OTHERS, "Steps in a row", "", tuple(rest), ())] if rest else made


def kinds(conditions: Iterable[str]) -> list[str]:
    """Return the kinds of degradation that stand in conditions, in chains too, in the order of `KINDS`."""
    found = {step.kind for name in conditions if (known := _read(name)) is not None for step in known.steps}
    return [kind for kind in KINDS if kind in found]


def phrase(name: str) -> str:
    """Return a condition in words: `JPEG, quality 50`, or `Low resolution 2, then JPEG 50`."""
    found = _read(name)
    if found is None or not found.steps:
        return name
    if len(found.steps) == 1:
        step = found.steps[0]
        known = KINDS[step.kind]
        return known.title if step.value is None else f"{known.title}, {known.axis} {step.value:g}"
    return ", then ".join(_short(step) for step in found.steps)


def telling(conditions: Iterable[str]) -> list[str]:
    """Return the conditions that tell most where there is no room for all: clean, and the harshest of each kind."""
    names = list(dict.fromkeys(conditions))
    harshest = {family.names[-1] for family in families(names)}
    return [name for name in names if name == CLEAN or name in harshest]


def _read(name: str) -> Condition | None:
    """Return a condition by its name; None for one that this version does not know."""
    try:
        return parse_condition(name)
    except UsageError:
        return None


def _family(kind: str, members: list[tuple[Step, str]]) -> Family:
    known = KINDS[kind]
    if known.axis:
        members = sorted(members, key=lambda member: member[0].value or 0.0, reverse=known.harsher == "less")
    values = tuple(step.value for step, _ in members if step.value is not None)
    return Family(kind, known.title, known.axis, tuple(name for _, name in members), values)


def _short(step: Step) -> str:
    title = KINDS[step.kind].title
    return title if step.value is None else f"{title} {step.value:g}"
