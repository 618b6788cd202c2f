"""Verdicts on claims as tables and as markdown."""

from __future__ import annotations

from collections.abc import Sequence

from flbench.claims import RANKING, Check, Quantity
from flbench.condition import CLEAN
from flbench.reporting.cards import table
from flbench.reporting.claims import Finding, Verdict, commands
from flbench.reporting.render import code, escape, grid
from flbench.reporting.tables import Cell, Table
from flbench.reporting.words import NOTHING, TITLES, Number, bare, clean, full, listing

_WORDS = (
    "A check holds if the 95 % interval of the left side minus the bound lies wholly on the right side, does not hold "
    "if it lies wholly on the wrong side, and is undecided otherwise. The bound is the right side with the factor and "
    "the offset that the check states.",
    "Intervals: percentile bootstrap over people, 2,000 resamples, the same people for both sides. Each is taken by "
    "itself, without a correction for their number, and none knows how another seed of a fit would do; several seeds "
    "count as their mean.",
    "A claim holds if all of its checks hold, does not hold if one does not, and is not measured if a record is "
    "missing and no check that is measured fails. Partial, failed and trial records do not count, nor those "
    "with other categories, regions or options than the heading names.",
)


def claim_tables(verdicts: Sequence[Verdict]) -> list[Table]:
    """Return what a terminal shows: all claims at a glance, the checks of each, records, and what is missing."""
    made = [overview(verdicts)] if verdicts else []
    for verdict in verdicts:
        made += [checks(verdict)] if verdict.rows else []
    return [*made, *_ends(verdicts)]


def claims_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as GitHub-flavoured markdown, a function of the records only."""
    lines = ["# Claims", "", f"Made by {code('flbench claims')}.", ""]
    lines += [f"- {escape(text)}" for text in _WORDS]
    if verdicts:
        lines += ["", f"## {escape(_title(verdicts))}", "", *grid(overview(verdicts))]
    for verdict in verdicts:
        claim = verdict.claim
        source = f"{claim.source}: {claim.reported}" if claim.reported else claim.source
        lines += ["", f"### {escape(claim.title)}", "", f"**{verdict.outcome.capitalize()}.** {escape(source)}"]
        lines += ["", *grid(checks(verdict))]
    for drawn in _ends(verdicts):
        lines += ["", f"## {escape(drawn.title)}", "", *grid(drawn)]
    missing = commands(verdicts)
    if missing:
        lines += ["", "To measure what is missing:", "", *(f"- {code(text)}" for text in missing)]
    return "\n".join(lines) + "\n"


def overview(verdicts: Sequence[Verdict]) -> Table:
    """Return a line per claim: what it says, its verdict, and how many of its checks hold."""
    rows = []
    for verdict in verdicts:
        held, of = verdict.counted("holds"), len(verdict.findings)
        words = (Cell(clean(verdict.claim.title)), Cell(clean(verdict.claim.source)), Cell(verdict.outcome))
        rows.append((*words, Cell(f"{held} of {of}", held)))
    return table(("claim", "source", "verdict", "checks held"), rows, title=_title(verdicts), right=(3,))


def checks(verdict: Verdict) -> Table:
    """Return the checks of one claim with their numbers."""
    rows = []
    for finding in verdict.findings:
        found = finding.margin
        left, right = (Number(value=side) for side in (found[:2] if found is not None else (None, None)))
        above = Number(value=found.value, low=found.low, high=found.high) if found is not None else None
        rows.append(
            (
                Cell(clean(described(finding, verdict))),
                Cell(bare(left, finding.metric), left.value),
                Cell(bare(right, finding.metric), right.value),
                Cell(full(above, finding.metric), above.value if above is not None else None),
                Cell(finding.outcome),
            )
        )
    heads = ("check", "left", "right", "left - bound", "verdict")
    return table(heads, rows, title=f"{verdict.outcome}: {clean(verdict.claim.title)}", right=(1, 2, 3))


def described(finding: Finding, verdict: Verdict) -> str:
    """Return a check in words; what both sides share is said once.

    `COSS, losses v1, bald: fakelocator ≥ 1.8 × attention_map`
    """
    check = finding.check
    sides = [_parts(quantity, verdict) for quantity in check.quantities]
    same = [len(sides) == 2 and left == right for left, right in zip(sides[0], sides[-1], strict=True)]
    if len(sides) == 1:
        same = [False, True, True, True]
    shared = [part for part, told in zip(sides[0], same, strict=True) if told and part != CLEAN]
    left, *others = [", ".join(part for part, told in zip(side, same, strict=True) if not told) for side in sides]
    return f"{', '.join([TITLES[finding.metric], *shared])}: {left} {_bound(check, others)}"


def _parts(quantity: Quantity, verdict: Verdict) -> tuple[str, str, str, str]:
    """Return method, protocol, test slices and conditions in words."""
    tests = "mean over the slices that rank" if quantity.test == (RANKING,) else _mean(quantity.test)
    return quantity.method, verdict.protocols[quantity.protocol], tests, _mean(quantity.condition)


def _mean(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"mean of {listing(names)}"


def _bound(check: Check, right: Sequence[str]) -> str:
    factor = "" if check.factor == 1.0 else f"{check.factor:g} × "
    bound = f"{factor}{right[0]}" if right else f"{check.offset:g}"
    if right and check.offset:
        bound += f" {'+' if check.offset > 0 else '-'} {abs(check.offset):g}"
    if check.within is not None:
        return f"within {check.within:g} of {bound}"
    return f"{'≥' if check.relation == '>=' else '≤'} {bound}"


def _title(verdicts: Sequence[Verdict]) -> str:
    first = verdicts[0]
    if first.dataset is None:
        return f"Claims on {clean(first.data)}, of which there is no record"
    data = first.dataset
    departing = f", run with {clean(' '.join(first.terms.words))}" if first.terms.words else ""
    return f"Claims on {clean(data.name)} v{clean(data.version)}, fingerprint {clean(data.fingerprint[:12])}{departing}"


def _ends(verdicts: Sequence[Verdict]) -> list[Table]:
    """Return the records that the numbers come from, and those that are missing."""
    used = {(row.record.protocol.name, row.record.method.name): row for verdict in verdicts for row in verdict.rows}
    rows = [
        (
            clean(row.method),
            f"{clean(row.record.protocol.name)} v{row.record.protocol.version}",
            ", ".join(map(str, row.seeds)) or NOTHING,
            "; ".join(row.notes) or NOTHING,
        )
        for _, row in sorted(used.items())
    ]
    made = [table(("method", "protocol", "seeds", "notes"), rows, title="Records behind the numbers")] if rows else []
    gaps = dict.fromkeys(gap for verdict in verdicts for gap in verdict.gaps)
    if gaps:
        lines = [(clean(gap.method), clean(gap.protocol), clean(gap.reason)) for gap in gaps]
        made.append(table(("method", "protocol", "reason"), lines, title="Not measured"))
    return made
