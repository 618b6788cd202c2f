"""The record of one run: what was measured, of what, by what, on what; JSON in and out.

A record is the only thing boards are made of. Numbers are numbers, keys are sorted, and there is no NaN: a value that
could not be computed is null and counted as undefined or failed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flbench.errors import DataError
from flbench.protocol import fingerprint

SCHEMA = "flbench.run/1"
Status = Literal["ok", "partial", "failed", "skipped"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Value(_Model):
    """One measured number.

    Attributes:
        value: Mean over images (or the pooled value); null if undefined for every image.
        low: Lower end of the 95 % bootstrap interval over identities.
        high: Upper end.
        n: Images that count.
        undefined: Images for which the metric has no value; left out of the mean.
        failed: Images whose prediction failed; counted with the worst value.
        capped: Images whose value was cut at the metric's cap.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    undefined: int = 0
    failed: int = 0
    capped: int = 0


class Convention(_Model):
    """One thresholded metric under one convention.

    Attributes:
        value: The number; null if undefined for every image.
        n: Images that count.
        undefined: Images without a value, left out.
    """

    value: float | None
    n: int
    undefined: int


class Result(_Model):
    """The numbers of one test slice under one condition.

    Attributes:
        test: Name of the test slice.
        condition: "clean", or a degradation.
        categories: Categories really tested, after mapping.
        fakes: Number of fake images.
        reals: Number of real images.
        metrics: Metric name to value. Beside the protocol's metrics: `tpr`, `tnr` and `false_alarm` (mean share of
            pixels above one half on real images).
        gamma: Metric to γ, the percentage of the clean value, with the interval of a paired bootstrap; empty for clean.
        conventions: Name of a convention (see `scoring.conventions`) to its number; empty unless the protocol asks.
    """

    test: str
    condition: str
    categories: tuple[str, ...]
    fakes: int
    reals: int
    metrics: dict[str, Value]
    gamma: dict[str, Value] = Field(default_factory=dict)
    conventions: dict[str, Convention] = Field(default_factory=dict)


class MethodInfo(_Model):
    """What was run.

    Attributes:
        name: The method, with its variant: `fakelocator:l2`.
        title: Name to print.
        paper: Citation or link.
        licence: Licence.
        reference: Whether it is a reference row.
        options: Every option, defaults included.
        given: Options that differ from the variant's.
        distribution: Distribution and version that brought it.
        parameters: Number of learnt values.
        weights: sha256 of what was learnt, null if nothing was.
        fits: Fit slice name to the identifier of the fit used.
    """

    name: str
    title: str
    paper: str = ""
    licence: str = ""
    reference: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    given: dict[str, Any] = Field(default_factory=dict)
    distribution: str = ""
    parameters: int = 0
    weights: str | None = None
    fits: dict[str, str] = Field(default_factory=dict)


class ProtocolInfo(_Model):
    """What was asked.

    Attributes:
        name: The protocol.
        version: Its version.
        title: One line.
        fingerprint: Of the protocol as written, before mapping.
        mapping: Categories put in place of the protocol's own; empty for the protocol as written.
        missing: Test slices left out because the data set has no such category.
        region: Where regions came from: "parsing", "difference", or "" for whole-image scoring.
        added: Conditions added to the protocol's own.
        over: "whole" or "region".
        metrics: The table's columns.
        primary: The metric that ranks.
    """

    name: str
    version: int
    title: str
    fingerprint: str
    mapping: dict[str, str] = Field(default_factory=dict)
    missing: tuple[str, ...] = ()
    region: str = ""
    added: tuple[str, ...] = ()
    over: str
    metrics: tuple[str, ...]
    primary: str


class DatasetInfo(_Model):
    """What it was measured on.

    Attributes:
        name: The data set, with its profile: `synthfaces-mini`.
        version: Its version.
        title: One line.
        fingerprint: Of its content, or of the recipe for one made by code.
        size: Height and width in pixels at which it was scored.
        licence: Licence of the images.
        publishable: Whether its images may be shown in figures that are published.
        note: What a reader must know, such as pixels that differ from the recipe's checksum.
    """

    name: str
    version: str
    title: str = ""
    fingerprint: str
    size: int
    licence: str = ""
    publishable: bool = False
    note: str = ""


class Record(_Model):
    """The record of one cell.

    Attributes:
        schema_: Always "flbench.run/1" (written as `schema`).
        cell: Identifier of the cell.
        status: ok; partial: some images or slices are missing; failed; skipped.
        reason: Why the status is not ok.
        flags: Warnings for readers, such as "collapsed: ...".
        method: What was run.
        protocol: What was asked.
        dataset: What it was measured on.
        seed: Seed of the fit.
        results: A result per test slice and condition.
        timings: Seconds: `fit_s`, `predict_s`, `score_s`, `s_per_image`; not part of the digest.
        provenance: Versions, commit and dirty flag, platform, device, threads, time; `inference` where another engine
            than eager torch ran the network: its name, version and deviation; `batch` where a batch did not fit in
            memory: the largest that did. Not part of the digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_: Literal["flbench.run/1"] = Field(default="flbench.run/1", alias="schema")
    cell: str
    status: Status
    reason: str = ""
    flags: tuple[str, ...] = ()
    method: MethodInfo
    protocol: ProtocolInfo
    dataset: DatasetInfo
    seed: int
    results: tuple[Result, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of everything but timings and provenance: equal for two runs that measured the same."""
        return fingerprint(self.model_dump(mode="json", by_alias=True, exclude={"timings", "provenance"}))

    def result(self, test: str, condition: str = "clean") -> Result | None:
        """Return the result of one test slice under one condition, or None."""
        return next((r for r in self.results if (r.test, r.condition) == (test, condition)), None)

    def to_json(self) -> str:
        """Return the record as indented JSON with sorted keys and a final newline."""
        document = self.model_dump(mode="json", by_alias=True)
        return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number that JSON knows")


def read_record(path: Path) -> Record:
    """Read one `run.json`.

    Raises:
        DataError: The file is missing, truncated, of another schema, or fails validation.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_refused)
    except OSError as error:
        raise DataError(f"record {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"record {path} is damaged: {error}", hint="move it away and run the cell again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise DataError(f"record {path} has schema {schema!r}, this version reads {SCHEMA!r}", hint="upgrade flbench")
    try:
        return Record.model_validate_json(
            text, strict=True
        )  # numbers are numbers, and text is text that can be written
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"record {path} is not valid: {where}: {first['msg']}") from error
