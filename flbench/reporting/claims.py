"""Claims judged by records: what holds on one data set, what does not, and what nobody has measured.

An inequality holds if the 95 % bootstrap interval of `left - bound` lies wholly on the right side, does not hold if it
lies wholly on the wrong side, and is undecided if it touches the edge. Only records of the protocol as written count:
complete, of its present version, without replaced categories, other regions, options or a trial's cut.
"""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from flbench.claims import Check, Claim, Claims, Quantity
from flbench.errors import UsageError
from flbench.protocol import Protocol
from flbench.record import DatasetInfo
from flbench.reporting.board import age, boards
from flbench.reporting.model import Board, Entry, Row
from flbench.reporting.words import listing
from flbench.scoring.comparison import Margin, margin
from flbench.scoring.resampling import RESAMPLES

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["holds", "does not hold", "undecided", "not measured"]


class Terms(NamedTuple):
    """How runs may depart from the protocols and still count: for data without the paper's categories.

    Attributes:
        mapping: Categories put in place of the protocols' own, as in `Record.protocol.mapping`.
        region: Where regions come from, "parsing" or "difference".
    """

    mapping: tuple[tuple[str, str], ...] = ()
    region: str = "parsing"

    @property
    def words(self) -> tuple[str, ...]:
        """The options of `flbench run` that make such runs."""
        mapped = [word for old, new in self.mapping for word in ("--map", f"{old}={new}")]
        return (*mapped, *(("--region", self.region) if self.region != "parsing" else ()))


AS_WRITTEN = Terms()


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A record that a claim needs and that does not exist, or does not count.

    Attributes:
        method: Name, with its variant.
        protocol: Name of the protocol.
        reason: Why, in words.
    """

    method: str
    protocol: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check by one metric.

    Attributes:
        check: The check.
        metric: The metric.
        outcome: What the data say.
        margin: The numbers; None if not measured.
        gaps: Records that are missing.
    """

    check: Check
    metric: str
    outcome: Outcome
    margin: Margin | None = None
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the records of one data set say about one claim.

    Attributes:
        claim: The claim.
        outcome: "holds": every check does; "does not hold": one does not; "not measured": a record is missing and no
            check that is measured fails; else "undecided".
        findings: Every check by every metric.
        rows: The rows that the numbers come from, over their seeds.
        protocols: Labels of the protocols by name.
        data: Name of the data set asked for.
        dataset: The data set as its records tell it; None without a record.
        terms: How the runs depart from the protocols as written.
    """

    claim: Claim
    outcome: Outcome
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]
    protocols: Mapping[str, str]
    data: str
    dataset: DatasetInfo | None
    terms: Terms = AS_WRITTEN

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The records that are missing, each once."""
        return tuple(dict.fromkeys(gap for finding in self.findings for gap in finding.gaps))

    def counted(self, outcome: Outcome) -> int:
        """Return the number of checks with this outcome."""
        return sum(finding.outcome == outcome for finding in self.findings)


Progress = Callable[[str, int, int], None]


def judge(
    claims: Claims,
    entries: Iterable[Entry],
    protocols: Mapping[str, Protocol],
    *,
    data: str = "",
    terms: Terms = AS_WRITTEN,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Judge claims by the records of one data set; the order of the entries does not matter.

    Several seeds count as the mean over them. Of a data set with records of several versions, the version of the
    newest record counts, and of a method measured twice the newest record.

    Args:
        claims: The claims.
        entries: Cells.
        protocols: Protocols by name, as written.
        data: Name of the data set, such as `synthfaces-mini`, whose entries count; "" if all are of one.
        terms: How the runs that count depart from the protocols as written; others do not count.
        resamples: Number of bootstrap resamples.
        progress: Called with stage, done and total.

    Raises:
        UsageError: A claim names a protocol, test slice, condition or metric that does not exist; no data set is named
            and the entries are of none or of several.
    """
    claims.against(protocols)
    entries = list(entries)
    measured = _Measured(claims, entries, protocols, data or _data_of(entries), terms)
    made = []
    for done, claim in enumerate(claims.claim, 1):
        made.append(_verdict(claim, measured, resamples))
        if progress is not None:
            progress("judge claims", done, len(claims.claim))
    return made


def _data_of(entries: Iterable[Entry]) -> str:
    names = sorted({entry.record.dataset.name for entry in entries})
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError("there is no record to judge claims by", hint="name the data set to see what would measure it")
    raise UsageError(f"there are records of {listing(names)}, and claims are judged on one", hint="name it with --data")


class _Measured:
    """The rows that claims may be judged by, and why others may not."""

    def __init__(
        self,
        claims: Claims,
        entries: Iterable[Entry],
        protocols: Mapping[str, Protocol],
        data: str,
        terms: Terms,
    ) -> None:
        self.terms = terms
        asked = {(quantity.protocol, quantity.method) for _, _, quantity in claims.quantities()}
        entries = [entry for entry in entries if entry.record.dataset.name == data]
        entries = [entry for entry in entries if (entry.record.protocol.name, entry.record.method.name) in asked]
        newest = max(entries, key=lambda entry: age(entry.record), default=None)
        self.data = data
        self.dataset = newest.record.dataset if newest is not None else None
        self.scores = {entry.record.cell: entry.scores for entry in entries if entry.scores is not None}
        self.protocols = protocols
        self.rows: dict[tuple[str, str], Row] = {}
        self.reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
        # Without scores a board finds no intervals, which are not needed here and take most of the time.
        for board in boards([replace(entry, scores=None) for entry in entries], protocols, rank=False):
            for row in board.rows:
                self._add(board, row)

    def _add(self, board: Board, row: Row) -> None:
        where = (board.key.protocol, row.record.method.name)
        reason = self._against(board, row)
        scored = replace(row, entries=tuple(entry for entry in row.entries if entry.record.cell in self.scores))
        if reason or not scored.entries:
            self.reasons[where].append(reason or "no per-image scores")
        elif where not in self.rows or _newest(scored) > _newest(self.rows[where]):
            self.rows[where] = scored

    def _against(self, board: Board, row: Row) -> str:
        """Return why a row does not count, "" if it does."""
        key, now = board.key, self.protocols[board.key.protocol]
        if self.dataset is None or key.dataset_fingerprint != self.dataset.fingerprint:
            return f"only on version {key.dataset_version} of the data set, {key.dataset_fingerprint[:8]}"
        if (key.version, key.fingerprint) != (now.version, now.fingerprint):
            return f"only for {key.protocol} v{key.version}, {key.fingerprint[:8]}"
        wanted = key._replace(mapping=tuple(sorted(self.terms.mapping)), missing=(), added=())
        if key != wanted or key.region not in ("", self.terms.region):
            return f"departs from the protocol: {key.departures}" if key.departures else "as the protocol is written"
        if row.place == "unranked":
            return f"{row.record.status}: {row.reason}" if row.record.status != "ok" else row.reason
        return f"only as {row.method}" if row.record.method.given else ""

    def gaps(self, check: Check) -> tuple[Gap, ...]:
        """Return the records that a check needs and that are not there."""
        return tuple(
            Gap(
                method=quantity.method,
                protocol=quantity.protocol,
                reason="; ".join(sorted(set(self.reasons[quantity.protocol, quantity.method]))) or "no record",
            )
            for quantity in check.quantities
            if (quantity.protocol, quantity.method) not in self.rows
        )

    def row(self, quantity: Quantity) -> Row:
        return self.rows[quantity.protocol, quantity.method]

    def tables(self, quantity: Quantity) -> list[pd.DataFrame]:
        """Return the per-image scores of each seed, test slice and condition."""
        tests = quantity.tests(self.protocols[quantity.protocol])
        found = []
        for entry in self.row(quantity).entries:
            table = self.scores[entry.record.cell]
            found += [
                table[(table["test"] == test) & (table["condition"] == condition)]
                for test in tests
                for condition in quantity.condition
            ]
        return found


def _newest(row: Row) -> tuple[bool, str, str]:
    return max(age(entry.record) for entry in row.entries)


def _verdict(claim: Claim, measured: _Measured, resamples: int) -> Verdict:
    findings = [finding for check in claim.check for finding in _findings(check, measured, resamples)]
    quantities = [q for check in claim.check if not measured.gaps(check) for q in check.quantities]
    rows = {(q.protocol, q.method): measured.row(q) for q in quantities}
    names = dict.fromkeys(q.protocol for check in claim.check for q in check.quantities)
    return Verdict(
        claim=claim,
        outcome=_together([finding.outcome for finding in findings]),
        findings=tuple(findings),
        rows=tuple(rows.values()),
        protocols={name: measured.protocols[name].label for name in names},
        data=measured.data,
        terms=measured.terms,
        dataset=measured.dataset,
    )


def _findings(check: Check, measured: _Measured, resamples: int) -> list[Finding]:
    gaps = measured.gaps(check)
    if gaps:
        return [Finding(check=check, metric=metric, outcome="not measured", gaps=gaps) for metric in check.metrics]
    left = measured.tables(check.left)
    right = measured.tables(check.right) if check.right is not None else []
    found = []
    for metric in check.metrics:
        numbers = margin(left, right, metric, factor=check.factor, offset=check.offset, resamples=resamples)
        found.append(Finding(check=check, metric=metric, outcome=outcome(check, numbers), margin=numbers))
    return found


def outcome(check: Check, found: Margin) -> Outcome:
    """Return what an interval says of a check; one that touches the edge, or none at all, decides nothing."""
    if found.low is None or found.high is None:
        return "undecided"
    if check.within is not None:
        least, most = -check.within, check.within
    else:
        least, most = (0.0, math.inf) if check.relation == ">=" else (-math.inf, 0.0)
    if least < found.low and found.high < most:
        return "holds"
    return "does not hold" if found.high < least or found.low > most else "undecided"


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a claim from those of its checks: the worst that is known decides."""
    order: tuple[Outcome, ...] = ("does not hold", "not measured", "undecided")
    return next((word for word in order if word in outcomes), "holds")


def commands(verdicts: Iterable[Verdict]) -> list[str]:
    """Return the commands that would measure what is missing, one for each protocol, quoted for a POSIX shell."""
    missing: dict[tuple[str, str, Terms], dict[str, None]] = defaultdict(dict)
    for verdict in verdicts:
        for gap in verdict.gaps:
            missing[gap.protocol, verdict.data, verdict.terms][gap.method] = None
    lines = []
    for (protocol, data, terms), methods in missing.items():
        asked = ["--method", ",".join(methods), "--protocol", protocol, "--data", data]
        lines.append(shlex.join(["flbench", "run", *asked, *terms.words]))
    return lines


def claims_document(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as values that JSON knows."""
    return [
        {
            "name": verdict.claim.name,
            "title": verdict.claim.title,
            "source": verdict.claim.source,
            "reported": verdict.claim.reported,
            "outcome": verdict.outcome,
            "data": {"name": verdict.data}
            | (verdict.dataset.model_dump(include={"version", "fingerprint"}) if verdict.dataset else {}),
            "protocols": dict(verdict.protocols),
            "checks": [
                finding.check.model_dump(mode="json", exclude={"metrics"})
                | {"metric": finding.metric, "outcome": finding.outcome}
                | {"measured": finding.margin._asdict() if finding.margin is not None else None}
                for finding in verdict.findings
            ],
            "records": [entry.record.cell for row in verdict.rows for entry in row.entries],
            "missing": [asdict(gap) for gap in verdict.gaps],
            "commands": commands([verdict]),
        }
        for verdict in verdicts
    ]
