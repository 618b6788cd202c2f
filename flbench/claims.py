"""Claims as typed documents: findings written as inequalities between quantities that records measure.

    [[claim]]
    name = "example"
    title = "Method a marks edits better than method b, and at least half as well degraded"
    source = "Table 2"

    [[claim.check]]
    metrics = ["coss", "ssim"]
    left = { method = "a", protocol = "p", test = "t" }
    factor = 1.5
    right = { method = "b", protocol = "p", test = ["t", "u"], condition = "jpeg-50" }

A check is `left >= factor * right + offset` for each of its metrics; `relation = "<="` turns it round, and
`within = 0.02` asks that the two sides differ by no more. Without a right side the offset is the bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flbench.condition import CLEAN, parse_condition
from flbench.documents import read_document
from flbench.errors import UsageError, suggest
from flbench.protocol import METRICS, Protocol

RANKING = "mean"
"""In place of a test slice: the plain mean over the slices that rank."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Quantity(_Model):
    """What one side of an inequality measures; over several tests or conditions it is their plain mean.

    Attributes:
        method: The method, as `name[:variant]`, without options of its own.
        protocol: Name of the protocol.
        test: Test slices, one text or a list; "mean": those that rank.
        condition: Conditions, one text or a list.
    """

    method: str
    protocol: str
    test: tuple[str, ...] = Field(min_length=1, strict=False)
    condition: tuple[str, ...] = Field((CLEAN,), min_length=1, strict=False)

    @field_validator("test", "condition", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("condition")
    @classmethod
    def _canonical(cls, conditions: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(parse_condition(text).name for text in conditions)
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("test", "condition")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice")
        return names

    def tests(self, protocol: Protocol) -> tuple[str, ...]:
        """Return the names of the test slices, with the slices that rank in place of "mean"."""
        if self.test != (RANKING,):
            return self.test
        others = tuple(test.name for test in protocol.test if not test.reference)
        return others or tuple(test.name for test in protocol.test)


class Check(_Model):
    """One inequality, asked of each of its metrics.

    Attributes:
        metrics: Names from `flbench.protocol.METRICS`.
        left: The left side.
        right: The right side; None: a number, the offset.
        factor: What the right side is multiplied by.
        offset: What is added to it, in the metric's units.
        relation: ">=": the left side is at least the bound `factor * right + offset`; "<=": at most.
        within: In place of a relation: the most by which the left side may differ from the bound either way.
    """

    metrics: tuple[str, ...] = Field(min_length=1, strict=False)
    left: Quantity
    right: Quantity | None = None
    factor: float = Field(1.0, gt=0)
    offset: float = 0.0
    relation: Literal[">=", "<="] = ">="
    within: float | None = Field(None, gt=0)

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}, {suggest(name, list(METRICS))}")
        return names

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        given = self.model_fields_set
        if self.right is None and "offset" not in given:
            raise ValueError("a check has a right side, or an offset to compare the left side with")
        if self.right is None and "factor" in given:
            raise ValueError("a factor multiplies a right side, and there is none")
        if self.right == self.left and self.factor == 1.0 and self.offset == 0.0:
            raise ValueError("left and right are the same")
        if self.within is not None and "relation" in given:
            raise ValueError("a check has a relation or is within a margin, not both")
        if len(self.metrics) > 1 and "psnr" in self.metrics and (self.offset or self.within):
            raise ValueError("an offset or margin is in the metric's units, and psnr's are decibels: give it a check")
        return self

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities that must be measured."""
        return (self.left,) if self.right is None else (self.left, self.right)


class Claim(_Model):
    """One finding.

    Attributes:
        name: Short name.
        title: The finding in one sentence, without a full stop.
        source: Table, figure or section of the paper.
        reported: What the paper reports, in one sentence.
        check: Inequalities that must all hold.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(min_length=1)
    source: str = Field(min_length=1)
    reported: str = ""
    check: tuple[Check, ...] = Field(min_length=1, strict=False)


class Claims(_Model):
    """What a file of claims holds.

    Attributes:
        claim: Claims in the order in which they are printed.
    """

    claim: tuple[Claim, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [claim.name for claim in self.claim]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two claims are called {twice[0]!r}")
        return self

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols whose records are needed."""
        return tuple(dict.fromkeys(quantity.protocol for _, _, quantity in self.quantities()))

    def against(self, protocols: Mapping[str, Protocol], methods: Collection[str] | None = None) -> None:
        """Check that every claim speaks of what there is.

        Args:
            protocols: Protocols by name, as written.
            methods: Methods with their variants; None leaves methods unchecked.

        Raises:
            UsageError: A claim names a protocol, test slice, condition, metric or method that does not exist.
        """
        for claim, check, quantity in self.quantities():
            protocol = protocols.get(quantity.protocol)
            if protocol is None:
                raise _unknown(claim, "protocol", quantity.protocol, protocols)
            tests = [test.name for test in protocol.test]
            known: list[tuple[str, Collection[str], Collection[str]]] = [
                (f"test slice of {protocol.name}", quantity.tests(protocol), tests),
                (f"condition of {protocol.name}", quantity.condition, protocol.conditions),
                (f"metric of {protocol.name}", check.metrics, (*protocol.scoring.metrics, *_ALWAYS)),
                ("method", (quantity.method,), (quantity.method,) if methods is None else methods),
            ]
            for what, names, there in known:
                for name in names:
                    if name not in there:
                        raise _unknown(claim, what, name, there)

    def quantities(self) -> Iterator[tuple[Claim, Check, Quantity]]:
        """Yield every quantity with the claim and the check that it stands in."""
        for claim in self.claim:
            for check in claim.check:
                for quantity in check.quantities:
                    yield claim, check, quantity


_ALWAYS = ("tpr", "tnr", "false_alarm")  # in every record


def _unknown(claim: Claim, what: str, name: str, known: Collection[str]) -> UsageError:
    return UsageError(f"claim {claim.name}: {name!r} is no {what}", hint=suggest(name, list(known)))


def read_claims(path: Path) -> Claims:
    """Read claims from a TOML file.

    Raises:
        UsageError: The file is missing, not TOML, has an unknown key or a value that cannot be; names file and line.
    """
    return read_document(path, Claims, "claims")
