"""What a terminal shows: tables, progress, status words, errors. Data go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table as Grid
from rich.text import Text

from flbench.errors import DataError, FlbenchError
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.reporting import cards, plans
from flbench.reporting.tables import Cell, Table
from flbench.reporting.words import seconds
from flbench.streams import PIPE_WIDTH, Stream, err, json_text, out, printable

if TYPE_CHECKING:
    import pandas as pd

    from flbench.checks import Result
    from flbench.data.dataset import Dataset
    from flbench.data.importers import Report
    from flbench.data.inspection import Finding
    from flbench.data.parsing import Filled
    from flbench.doctor import Row
    from flbench.engine.costs import Estimate
    from flbench.engine.plan import Plan
    from flbench.method_file import MethodEntry
    from flbench.study import Study

_NAMED = 10
_WORDS = {
    "green": "ok, holds, equal",
    "yellow": "partial, stale, warning, undecided, within",
    "red": "failed, broken, missing, does not hold, differs",
    "cyan": "skipped, not measured",
}
_COLOURS = {word: colour for colour, words in _WORDS.items() for word in words.split(", ")}


def status(word: str) -> Text:
    """Return a status word in its colour."""
    return Text(printable(word), _COLOURS.get(word, ""))


def error(problem: FlbenchError) -> None:
    """Print an error on one line of stderr: what, where, what next."""
    line = Text("error: ", "bold red")
    line.append(printable(problem.message, sys.stderr), "default not bold")
    if problem.hint:
        line.append(" " + printable(f"({problem.hint})", sys.stderr), "dim")
    err().print(line, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """Print a line on stderr."""
    err().print(Text(printable(text, sys.stderr), style), soft_wrap=True)


class Progress:
    """How far stages have come, on stderr: bars on a terminal, else a line at each quarter or every 10 seconds.

    A stage of less than two seconds says nothing there: a run under many conditions has hundreds of them.

    Args:
        clock: Returns seconds, for tests.
    """

    EVERY = 10.0
    SOON = 2.0

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = err()
        self._clock = clock
        self._started: dict[str, tuple[float, int]] = {}
        self._told: dict[str, tuple[float, int]] = {}
        self._ids: dict[str, TaskID] = {}
        self._bars: Bars | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            text = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
            more = [TextColumn("{task.fields[note]}", markup=False, style="dim"), TimeRemainingColumn(compact=True)]
            self._bars = Bars(*text, *more, console=self._console, transient=True)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell that `done` of `total` items of a stage are done."""
        stage, note = printable(stage, sys.stderr), printable(note, sys.stderr)
        now = self._clock()
        if stage not in self._started or done < self._told[stage][1]:
            self._started[stage] = now, done
            self._told[stage] = now, done
        begun, first = self._started[stage]
        rate = (done - first) / (now - begun) if now > begun and done > first else 0.0
        said = ", ".join(word for word in (f"{seconds(rate)}/s" if rate else "", note) if word)
        if self._bars is not None:
            self._told[stage] = now, done
            self._draw(self._bars, stage, done, total, said)
        elif self._due(stage, done, total, now):
            self._told[stage] = now, done
            left = f", {seconds((total - done) / rate)} s left" if rate and done < total else ""
            share = f" ({100 * done // total} %)" if total else ""
            self.say(f"{stage}: {done}/{total}{share}{left}{', ' if said else ''}{said}")
        if done >= total:
            self._started.pop(stage, None)

    def say(self, text: str, style: str = "") -> None:
        """Print a line, above the bars if there are any."""
        self._console.print(Text(printable(text, sys.stderr), style), soft_wrap=True)

    def _draw(self, bars: Bars, stage: str, done: int, total: int, note: str) -> None:
        if stage not in self._ids:
            self._ids[stage] = bars.add_task(stage, total=total, completed=done, note=note)
        bars.update(self._ids[stage], completed=done, total=total, note=note)
        if done >= total:
            bars.remove_task(self._ids.pop(stage))

    def _due(self, stage: str, done: int, total: int, now: float) -> bool:
        then, before = self._told[stage]
        if done >= total:
            return now - self._started[stage][0] >= self.SOON or then > self._started[stage][0]
        if now - then >= self.EVERY:
            return True
        return 4 * done // total > 4 * before // total and now - self._started[stage][0] >= self.SOON


def progress() -> Progress:
    """Return a progress display, to be used in a `with` statement and called with stage, done and total."""
    return Progress()


@contextmanager
def watch(plan: Plan, study: Study) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show the events of a plan's work units."""
    cells = len(plan.cells)
    done = cells - sum(len(unit.cells) for unit in plan.open(study))
    with Progress() as shown:
        if done:
            shown.say(f"{done} of {cells} cells are done already", "dim")

        def handle(event: Mapping[str, Any]) -> None:
            nonlocal done
            kind = event["event"]
            if kind == "progress":
                stage = f"{event['what']} {event['stage']}".strip()
                shown(stage, event["done"], event["total"], event.get("note", ""))
            elif kind == "warning":
                shown.say(f"warning: {event['text']}", "yellow")
            elif kind == "cell":
                done += 1
                reason = f": {event['reason']}" if event["reason"] else ""
                shown.say(
                    f"[{done}/{cells}] {event['status']} {event['cell']}{reason}", _COLOURS.get(event["status"], "")
                )

        yield handle


def plan(plan: Plan, estimate: Estimate) -> None:
    """Tell on stderr what a plan takes, before it starts: a line, and one for each protocol left out."""
    for label, reason in plan.left_out.items():
        say(f"left out: {label} {reason}", "yellow")
    say(plans.plan_words(estimate), "dim")


def plain_plan(plan: Plan, estimate: Estimate) -> dict[str, Any]:
    """Return a plan as values that JSON knows."""
    return {
        "estimate": asdict(estimate),
        "fits": [fit.id for fit in plan.fits],
        "cells": [cell.id for cell in plan.cells],
        "left_out": dict(plan.left_out),
    }


def commands(lines: Iterable[str], title: str = "Measured by:") -> None:
    """Print commands on stdout as they are to be typed, under a line that says what they do."""
    for place, line in enumerate(lines):
        if not place:
            out().print(Text(title, "bold"))
        out().print(Text(printable(line)), soft_wrap=True)


def notes(lines: Iterable[str]) -> None:
    """Print on stderr what a reader should know, a line each."""
    for line in lines:
        say(f"note: {line}", "dim")


def conventions(axes: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Print what the conventions of thresholded metrics are."""
    show(plans.convention_tables(axes, names))


def draw(table: Table) -> Grid:
    """Return a table as rich draws it: groups after the first are dim, strong cells bold, status words coloured."""
    lines = box.SIMPLE_HEAD if out().is_terminal and any(column.title for column in table.columns) else None
    grid = Grid(box=lines, show_header=any(column.title for column in table.columns))
    grid.pad_edge = grid.show_edge = False
    grid.collapse_padding = lines is not None  # two columns between cells either way
    for column in table.columns:
        side: Literal["left", "right"] = "right" if column.right else "left"
        least = 4 if column.right else 12  # numbers never fold, so a wide table would squeeze the names to nothing
        grid.add_column(
            Text(printable(column.title)), justify=side, no_wrap=column.right, overflow="fold", min_width=least
        )
    for place, group in enumerate(table.groups):
        for row in group.rows:
            grid.add_row(*map(_cell, row), style="dim" if place else "")
    return grid


def _cell(cell: Cell) -> Text:
    return Text(printable(cell.text), "bold" if cell.strong else _COLOURS.get(cell.text, ""))


def show(tables: Iterable[Table]) -> None:
    """Print tables on stdout."""
    console = out()
    for place, table in enumerate(tables):
        if place:
            console.print()
        if table.title:
            console.print(Text(printable(table.title), "bold"), soft_wrap=True)
        console.print(draw(table))


def results(records: Sequence[Record], protocol: Protocol, study: Study | None = None) -> None:
    """Print the tables of a run, and why a row is not among them.

    Args:
        records: Records of one protocol.
        protocol: The protocol as written.
        study: Where the per-image scores are; without them there are no ranks and no interval of a mean over slices.
    """
    from flbench.reporting.board import boards
    from flbench.reporting.model import Entry

    entries = [Entry(record=record, scores=_scores(record, study)) for record in records]
    for board in boards(entries, {protocol.name: protocol}, rank=study is not None):
        show(cards.run_tables(board, wide=out().width >= PIPE_WIDTH))
        for row in board.placed("unranked"):
            _worded(row.record.status, f"{row.method}: {row.reason}")


def _scores(record: Record, study: Study | None) -> pd.DataFrame | None:
    if study is None or not record.results:
        return None
    try:
        return study.scores(record.cell)
    except DataError:
        return None


def _worded(word: str, text: str) -> None:
    """Print a line on stdout that starts with a status word."""
    out().print(Text.assemble(status(word), " ", printable(text)), soft_wrap=True)


def judge(records: Sequence[Record], missing: Sequence[str] = ()) -> None:
    """Print on stderr what a reader must not overlook: flags, and cells that are not ok."""
    flags = dict.fromkeys(f"{r.method.name}, seed {r.seed}: {flag}" for r in records for flag in r.flags)
    for flag in flags:
        say(f"warning: {flag}", "yellow")
    for record in records:
        if record.status != "ok":
            say(f"{record.status}: {record.cell}: {record.reason}", _COLOURS[record.status])
    for cell in missing:
        say(f"missing: {cell}: no record was written", _COLOURS["missing"])


def json_out(document: Any) -> None:
    """Print a JSON document on stdout, keys sorted, numbers as numbers."""
    sys.stdout.write(json_text(document))


def files(word: str, paths: Iterable[Path]) -> None:
    """Print one line per file, after a word such as "written"."""
    for path in paths:
        out().print(Text(printable(f"{word} {path}")), soft_wrap=True)


def page(text: str) -> None:
    """Print a markdown page: laid out on a terminal, as it is written elsewhere."""
    if not out().is_terminal:
        Stream(sys.stdout).write(text)
        return
    from rich.markdown import Markdown

    out().print(Markdown(text))


def fits(documents: Sequence[Mapping[str, Any]], study: Study) -> None:
    """Print a table of fits."""
    show([cards.fit_table(documents, study.folder)])


def plain_listing(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a listing as values that JSON knows."""

    def known(item: Any) -> Any:
        if isinstance(item, Protocol):
            return item.model_dump(mode="json") | {"fingerprint": item.fingerprint}
        return asdict(item) if is_dataclass(item) and not isinstance(item, type) else item

    return {name: [known(item) for item in items] for name, items in document.items()}


def listing(document: Mapping[str, Any]) -> None:
    """Print the methods, protocols and data sets of a listing."""
    show(cards.listing_tables(document))


def method_card(entry: MethodEntry) -> None:
    """Print all that is known of a method without importing it."""
    show(cards.method_tables(entry))


def protocol_card(protocol: Protocol) -> None:
    """Print a protocol in words."""
    show(cards.protocol_tables(protocol))


def record_card(record: Record, stale: str = "") -> None:
    """Print a record, and why it is stale if it is."""
    show(cards.record_tables(record, stale))


def dataset_card(dataset: Dataset) -> None:
    """Print a data set: what it says about itself, and images per category and split."""
    show(cards.dataset_tables(dataset))


def import_report(report: Report) -> None:
    """Print what an import did; what it left out goes to stderr."""
    out().print(Text(f"{report.added_real} photos and {report.added_fake} fakes added"))
    for word, lines in (("skipped", report.skipped), ("warning", report.warnings)):
        for name, reason in lines:
            say(f"{word}: {name}: {reason}", "yellow")


def parse_report(filled: Filled) -> None:
    """Print what filling in parsing maps did; what got none goes to stderr, the first ones by name."""
    regions = ", ".join(filled.attributes) or "no attribute"
    out().print(Text(f"{filled.added} parsing maps by {filled.parser}, {filled.kept} kept"))
    out().print(Text(f"good enough to score in the region of: {regions}"), soft_wrap=True)
    for name, reason in filled.skipped[:_NAMED]:
        say(f"skipped: {name}: {reason}", "yellow")
    if len(filled.skipped) > _NAMED:
        say(f"skipped: {len(filled.skipped) - _NAMED} more; --json names all", "yellow")


def findings(found: Sequence[Finding], dataset: Dataset) -> None:
    """Print a table of what is wrong with a data set."""
    if found:
        show([cards.finding_table(found, dataset.label)])
    else:
        _worded("ok", f"{dataset.label}: nothing is wrong")


def checked(method: str, results: Sequence[Result]) -> None:
    """Print what the conformance checks of a method found, and below a failed one how to mend it."""
    rows: list[tuple[str, str, str]] = []
    for result in results:
        rows.append((result.status, result.check, result.what or result.holds))
        if result.mend:
            rows.append(("", "", f"to mend: {result.mend}"))
    show([cards.table(("", "check", "what"), rows, title=method)])


def diagnosis(found: Sequence[Row], block: str) -> None:
    """Print what was found of an installation, and a block to copy into an issue report."""
    rows: list[tuple[str, str, str]] = []
    for row in found:
        rows.append((row.status, row.part, row.says))
        if row.advice:
            rows.append(("", "", f"next: {row.advice}"))
    show([cards.table(("", "part", "what"), rows)])
    commands(block.splitlines(), title="\nFor an issue report:")
