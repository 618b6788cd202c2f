"""Agreement of two data sets as tables and as markdown."""

from __future__ import annotations

from collections.abc import Sequence

from flbench.reporting.agreement import Agreement, Comparison, Line, Tally
from flbench.reporting.cards import pairs, table
from flbench.reporting.render import code, escape, grid
from flbench.reporting.tables import Cell, Column, Group, Table
from flbench.reporting.words import NOTHING, clean, full, heading, listing

SCOPES = (("methods", False), ("with reference rows", True))
_WORDS = (
    "Orders: place 1 is the best value among all rows, reference rows included; equal values share a place. Kendall's "
    "τ-b is 1 for equal orders, -1 for inverse ones.",
    "Pairs: a data set tells two methods apart if the 95 % interval of their difference, by a paired bootstrap over "
    "people, leaves out zero. Agree: both data sets do, in the same order; opposite: both do, in opposite orders; "
    "undecided: at least one does not. Each interval is taken by itself, without a correction for their number.",
    "Intervals: in brackets, 95 %; over several seeds the mean ± the standard deviation.",
)


def agreement_tables(found: Sequence[Agreement]) -> list[Table]:
    """Return what a terminal shows: for each two data sets what is compared and how, then the summaries."""
    made = []
    for agreement in found:
        made += [sides(agreement), *_left_out(agreement)]
        for comparison in agreement.comparisons:
            made += [values(agreement, comparison), pairs(verdicts(agreement, comparison))]
    return [*made, *_summaries(found)]


def agreement_markdown(found: Sequence[Agreement]) -> str:
    """Return agreements as GitHub-flavoured markdown, a function of the records only."""
    lines = ["# Agreement of data sets", "", f"Made by {code('flbench agree')}.", ""]
    lines += [f"- {escape(text)}" for text in _WORDS]
    for agreement in found:
        lines += ["", f"## {escape(_title(agreement))}", "", *grid(sides(agreement))]
        lines += [line for left in _left_out(agreement) for line in ("", f"### {escape(left.title)}", "", *grid(left))]
        for comparison in agreement.comparisons:
            drawn = values(agreement, comparison)
            lines += ["", f"### {escape(drawn.title)}", "", *grid(drawn), ""]
            lines += [f"- **{escape(label)}**: {escape(text)}" for label, text in verdicts(agreement, comparison)]
    for drawn in _summaries(found):
        lines += ["", f"## {escape(drawn.title)}", "", *grid(drawn)]
    return "\n".join(lines) + "\n"


def sides(agreement: Agreement) -> Table:
    """Return what stands behind each side: categories and images of each test slice, and how the runs depart."""
    rows = []
    for label, board in zip(agreement.labels, agreement.boards, strict=True):
        for test in board.tests:
            numbers = (Cell(str(number), number) for number in (test.fakes, test.reals))
            words = (label, test.name, listing(test.categories))
            rows.append((*map(_text, words), *numbers, _text(board.key.departures or NOTHING)))
    columns = ("data set", "test slice", "fakes of", "fakes", "real photos", "departs from the protocol")
    return table(columns, rows, title=_title(agreement), right=(3, 4))


def values(agreement: Agreement, comparison: Comparison) -> Table:
    """Return the value and place of each method on each data set, reference rows last."""

    def row(line: Line) -> tuple[Cell, ...]:
        each = []
        for number, place in zip(line.numbers, line.places or (None, None), strict=True):
            each += [Cell(full(number, comparison.metric), number.value)]
            each += [Cell(NOTHING if place is None else str(place), place)]
        return Cell(clean(_name(line.method, reference=line.reference))), *each

    heads = [Column(clean(text)) for label in agreement.labels for text in (label, "place")]
    groups = [
        (label, tuple(row(line) for line in comparison.lines if line.reference is reference))
        for label, reference in (("", False), ("Reference rows", True))
    ]
    return Table(
        title=f"{heading(comparison.metric)}, {_where(comparison)}",
        columns=(Column("method", False), *heads),
        groups=tuple(Group(label, rows) for label, rows in groups if rows),
    )


def verdicts(agreement: Agreement, comparison: Comparison) -> list[tuple[str, str]]:
    """Return what stands below the values: pairs of a label and a sentence."""
    tallies = [comparison.tally(references=told) for _, told in SCOPES]
    said = [(word, _counted(tally)) for (word, _), tally in zip(SCOPES, tallies, strict=True)]
    first, second = agreement.labels
    opposite = [pair for pair in comparison.pairs if pair.verdict == "opposite"]
    said += [("opposite", f"{pair.first} better than {pair.second} on {first}, worse on {second}") for pair in opposite]
    for label, names in zip(agreement.labels, agreement.unpaired, strict=True):
        if names:
            told = (
                f"{listing(names)} on {label}: no per-image scores, so told apart only by intervals that do not touch"
            )
            said.append(("unpaired", told))
    return [(label, clean(sentence)) for label, sentence in said]


def summary(agreement: Agreement) -> Table:
    """Return how many pairs agree by each metric, over all test slices."""
    rows = []
    for word, told in SCOPES:
        part = []
        for metric in agreement.metrics:
            tally = agreement.total(metric, references=told)
            counts = (Cell(str(n), n) for n in (tally.agree, tally.opposite, tally.undecided))
            part.append((Cell(heading(metric)), Cell(word), Cell(_tau(tally), tally.tau), *counts))
        rows.append(tuple(part))
    slices = len({(c.test, c.condition) for c in agreement.comparisons})
    tau = "τ-b" if slices == 1 else f"mean τ-b of {slices} slices"
    heads = (Column("metric", False), Column("over", False), *map(Column, (tau, "agree", "opposite", "undecided")))
    groups = tuple(Group("", part) for part in rows)
    return Table(title=f"Pairs in {_title(agreement)}", columns=heads, groups=groups)


def _summaries(found: Sequence[Agreement]) -> list[Table]:
    return [summary(agreement) for agreement in found if agreement.comparisons]


def _left_out(agreement: Agreement) -> list[Table]:
    rows = [tuple(map(_text, two)) for two in agreement.left_out]
    return [table(("what", "reason"), rows, title="Left out")] if rows else []


def _title(agreement: Agreement) -> str:
    keys = [board.key for board in agreement.boards]
    names = [
        f"{label} ({key.departures})" if key.departures else label
        for label, key in zip(agreement.labels, keys, strict=True)
    ]
    return clean(f"{keys[0].protocol} v{keys[0].version}: {' and '.join(names)}")


def _where(comparison: Comparison) -> str:
    clear = comparison.condition == "clean"
    return clean(comparison.test if clear else f"{comparison.test}, {comparison.condition}")


def _text(text: str) -> Cell:
    return Cell(clean(text))


def _name(method: str, *, reference: bool) -> str:
    return f"{method} (reference)" if reference else method


def _tau(tally: Tally) -> str:
    return NOTHING if tally.tau is None else f"{tally.tau:.2f}".replace("-0.00", "0.00")


def _counted(tally: Tally) -> str:
    if tally.methods < 2:
        return f"{tally.methods} with a value on both, so there is no order to compare"
    return (
        f"Kendall's τ-b {_tau(tally)} over {tally.methods}; {tally.agree + tally.opposite + tally.undecided} pairs: "
        f"{tally.agree} agree, {tally.opposite} opposite, {tally.undecided} undecided"
    )
