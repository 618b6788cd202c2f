"""What stands on a board: its head in words and its tables, still without markup.

A board with few test slices has a table for each of them; one with many has a column or a table for each method, with
the slices as rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from flbench.protocol import LOWER_IS_BETTER
from flbench.reporting.condition_tables import condition_tables
from flbench.reporting.layout import (
    START,
    WIDEST,
    Cell,
    Column,
    Group,
    Line,
    Table,
    across,
    down,
    drawn,
    footnotes,
    identity,
    parts,
)
from flbench.reporting.model import FEW, Board, Row, Slice
from flbench.reporting.words import (
    NOTHING,
    TITLES,
    Number,
    categories,
    clean,
    count,
    definitions,
    describe,
    full,
    heading,
    link,
    listing,
    seconds,
)

__all__ = [
    "WIDEST",
    "Cell",
    "Column",
    "Group",
    "Table",
    "footnotes",
    "head",
    "metric_words",
    "slices",
    "tables",
    "title",
]

ALWAYS = ("tpr", "tnr", "false_alarm")
"""Told on every board, whatever the protocol's metrics."""


def title(board: Board) -> str:
    """Return the heading of a board."""
    return f"{clean(board.asked.title)} on {clean(board.dataset.title or board.dataset.name)}"


def head(board: Board) -> list[tuple[str, str]]:
    """Return the protocol and the data in words: pairs of a label and a sentence."""
    key, data = board.key, board.dataset
    said = [
        ("Protocol", f"{key.protocol} v{key.version}, fingerprint {key.fingerprint[:12]}"),
        ("Departs from the protocol", f"{key.departures}; never to be compared with the protocol as written"),
        (
            "Data set",
            f"{data.name} v{data.version}, fingerprint {data.fingerprint[:12]}, scored at {data.size} × {data.size} px"
            + (f", licence {data.licence}" if data.licence else ""),
        ),
        ("Note on the data", data.note),
    ]
    if not key.departures:
        del said[1]
    if board.protocol is not None:
        said += describe(board.protocol, region=key.region, conditions=board.conditions)
    said += [
        (
            "Rank",
            f"by {_ranked_by(board)}; methods that a paired bootstrap over people cannot tell from the first of "
            "their group share a rank",
        ),
        (
            "Intervals",
            "in brackets, 95 % percentile bootstrap over people, 2,000 resamples; over several seeds ± is the "
            "standard deviation",
        ),
    ]
    if board.shadowed:
        older = "record of the same method, options and seed is" if board.shadowed == 1 else "records are"
        said.append(("Left out", f"{board.shadowed} older {older} not shown"))
    return [(label, clean(sentence)) for label, sentence in said if clean(sentence)]


def _ranked_by(board: Board) -> str:
    primary = TITLES.get(board.asked.primary, board.asked.primary)
    if len(board.ranking) < 2:
        return primary
    over = listing(board.ranking) if len(board.ranking) <= FEW else f"the {len(board.ranking)} test slices that rank"
    return f"the mean of {primary} over {over}"


def metric_words(board: Board) -> list[tuple[str, str]]:
    """Return the definitions of the metrics on the board."""
    return definitions([*board.asked.metrics, *(metric for _, metric in _told(board))])


def slices(board: Board) -> Table:
    """Return the table of test slices."""
    several = len({test.fit for test in board.tests}) > 1
    rows = []
    for test in board.tests:
        role = "ranks" if test.ranks else "reference" if test.reference else NOTHING
        left_out = str(test.undefined) if test.undefined else NOTHING
        numbers = (Cell(str(test.fakes), test.fakes), Cell(str(test.reals), test.reals), Cell(left_out, test.undefined))
        fakes = clean(categories(test.categories)) or NOTHING
        rows.append((Cell(clean(test.name)), *_fit(test, several), Cell(fakes), *numbers, Cell(role)))
    columns = (
        Column("Test slice", False),
        *([Column("Fitted on", False)] if several else []),
        Column("Fakes of", False),
        Column("Fakes"),
        Column("Real photos"),
        Column("Undefined"),
        Column("Role", False),
    )
    return Table(title="Test slices", columns=columns, groups=(Group("", tuple(rows)),), folded=board.long)


def _fit(test: Slice, several: bool) -> list[Cell]:
    return [Cell(clean(test.fit) or NOTHING)] if several else []


def tables(board: Board) -> list[Table]:
    """Return the tables of results: the ranking, all metrics, conditions, detection, cost, and what is not ranked."""
    made = _ranking(board)
    if board.long:
        made += by_slice(board) + _metrics_by_method(board)
    elif len(board.tests) > 1 or len(board.asked.metrics) > 1:
        made += _metrics_by_slice(board)
    made += condition_tables(board)
    made += _detection_in_short(board) if board.long else _detection(board)
    if board.placed("ranked") or board.placed("reference"):
        made.append(_cost(board))
    return [*made, *_unranked(board), *_reported(board)]


def _ranking(board: Board) -> list[Table]:
    """Return the primary metric: its mean over the slices that rank, and each slice if they are few."""
    primary = board.asked.primary
    several = len(board.ranking) > 1
    mean = [Column(f"Mean {heading(primary)}" if several else heading(primary))]
    names = [test.name for test in board.tests if len(board.tests) > 1 and not board.long]
    made: list[Table] = []
    for part in parts(names, WIDEST - 4) or [()]:

        def cells(row: Row, part: Sequence[str] = part) -> list[Cell]:
            seeds = Cell(", ".join(map(str, row.seeds)) or NOTHING)
            each = [drawn(row.number(test, primary), primary, full) for test in part]
            return [drawn(row.primary, primary, full), *each, seeds]

        columns = [Column(f"{clean(test)}{'' if test in board.ranking else ' (reference)'}") for test in part]
        made.append(
            Table(
                title="" if made else "Ranking",
                columns=(*START, *mean, *columns, Column("Seeds")),
                groups=down(board, cells, [primary, *[primary] * len(part), ""]),
            )
        )
    return made


def _sections(board: Board) -> list[tuple[str, list[Slice]]]:
    """Return the test slices by the fit that they test, where there are several fits of several slices."""
    fits: dict[str, list[Slice]] = {}
    for test in board.tests:
        fits.setdefault(test.fit, []).append(test)
    if len(fits) < 2 or len(fits) == len(board.tests):
        return [("", list(board.tests))]
    return [(f"Fitted on {clean(fit)}", tests) for fit, tests in fits.items()]


def _name(test: Slice, board: Board) -> str:
    return clean(test.name) if test.ranks or not board.ranking else f"{clean(test.name)} (reference)"


def by_slice(board: Board) -> list[Table]:
    """Return the primary metric of every method on every test slice, a row per slice."""
    primary = board.asked.primary

    def line(test: Slice) -> Line:
        return Line(_name(test, board), primary, lambda row: drawn(row.number(test.name, primary), primary))

    groups = [(label, [line(test) for test in tests]) for label, tests in _sections(board)]
    return across(board, f"{heading(primary)} by test slice", "Test slice", groups)


def _metrics_by_method(board: Board) -> list[Table]:
    """Return all metrics of each ranked method, a row per test slice, as Table 3 of the paper."""
    made = []
    for row in board.placed("ranked"):
        for start, part in enumerate(parts(board.asked.metrics, WIDEST - 1)):
            groups = tuple(
                Group(
                    label,
                    tuple(
                        (Cell(_name(t, board)), *(drawn(row.number(t.name, metric), metric) for metric in part))
                        for t in tests
                    ),
                )
                for label, tests in _sections(board)
            )
            columns = (Column("Test slice", False), *(Column(heading(metric)) for metric in part))
            name = "" if start else f"All metrics: {row.method}"
            made.append(Table(title=name, columns=columns, groups=groups, folded=True))
    return made


def _metrics_by_slice(board: Board) -> list[Table]:
    """Return all metrics of each test slice, a row per method."""
    made = []
    for test in board.tests:
        for start, part in enumerate(parts(board.asked.metrics, WIDEST - 2)):

            def cells(row: Row, part: Sequence[str] = part, test: str = test.name) -> list[Cell]:
                return [drawn(row.number(test, metric), metric) for metric in part]

            made.append(
                Table(
                    title="" if start else f"All metrics: {clean(test.name)}",
                    columns=(*START, *(Column(heading(metric)) for metric in part)),
                    groups=down(board, cells, part),
                )
            )
    return made


def _told(board: Board) -> list[tuple[str, str]]:
    """Return test slice and metric of what is told beside the protocol's metrics and has a value somewhere."""
    rows = [*board.placed("ranked"), *board.placed("reference")]
    asked = [(test.name, m) for test in board.tests for m in ALWAYS if m not in board.asked.metrics]
    return [(test, m) for test, m in asked if any((n := row.number(test, m)) and n.value is not None for row in rows)]


def _detection(board: Board) -> list[Table]:
    """Return what is called fake, and the area marked on real photos, for each test slice."""
    made: list[Table] = []
    for part in parts(_told(board), WIDEST - 2):

        def cells(row: Row, part: Sequence[tuple[str, str]] = part) -> list[Cell]:
            return [drawn(row.number(test, metric), metric) for test, metric in part]

        names = [f"{heading(metric)} {clean(test)}" for test, metric in part]
        made.append(
            Table(
                title="" if made else "Real or fake, and false alarms",
                columns=(*START, *map(Column, names)),
                groups=down(board, cells, [""] * len(names)),
            )
        )
    return made


def _detection_in_short(board: Board) -> list[Table]:
    """Return the same as mean and worst over all test slices."""
    told = _told(board)
    metrics = [metric for metric in ALWAYS if any(metric == other for _, other in told)]
    if not metrics:
        return []

    def cells(row: Row) -> list[Cell]:
        made = []
        for metric in metrics:
            numbers = [row.number(test, metric) for test, other in told if other == metric]
            values = [number.value for number in numbers if number is not None and number.value is not None]
            worst = max if metric in LOWER_IS_BETTER else min
            for reduce in (fmean, worst):
                made.append(drawn(Number(value=reduce(values) if values else None), metric))
        return made

    names = [f"{which} {heading(metric)}" for metric in metrics for which in ("Mean", "Worst")]
    return [
        Table(
            title="Real or fake, and false alarms",
            note=f"Mean and worst over {len(board.tests)} test slices.",
            columns=(*START, *map(Column, names)),
            groups=down(board, cells, [""] * len(names)),
        )
    ]


def _cost(board: Board) -> Table:
    """Return what each method is and costs."""

    def cells(row: Row) -> list[Cell]:
        method = row.record.method
        reference = link(method.paper)
        paper = Cell("paper", href=reference) if reference else Cell(clean(method.paper) or NOTHING)
        time = row.seconds("s_per_image")
        return [
            Cell(clean(method.title), href=""),
            Cell(count(method.parameters) if method.parameters else NOTHING, method.parameters),
            Cell(seconds(row.seconds("fit_s")), row.seconds("fit_s")),
            Cell(seconds(time), time),
            Cell(row.machine),
            paper,
        ]

    columns = (
        *START,
        Column("Title", False),
        Column("Parameters"),
        Column("Fit, s"),
        Column("s/image"),
        Column("Measured on", False),
        Column("Paper", False),
    )
    return Table(title="Methods", columns=columns, groups=down(board, cells, [""] * 6))


def _unranked(board: Board) -> list[Table]:
    """Return what stands below the line, with the reason."""
    rows = []
    for row in board.placed("unranked"):
        record = row.record
        seed = Cell(str(record.seed) if record.method.fits else NOTHING)
        value = drawn(row.primary, board.asked.primary, full)
        rows.append((identity(board, row)[1], seed, Cell(record.status), value, Cell(row.reason)))
    columns = (
        Column("Method", False),
        Column("Seed"),
        Column("Status", False),
        Column(heading(board.asked.primary)),
        Column("Reason", False),
    )
    return [Table(title="Not ranked", columns=columns, groups=(Group("", tuple(rows)),))] if rows else []


def _reported(board: Board) -> list[Table]:
    """Return the numbers that the paper reports."""
    if board.protocol is None or not board.protocol.reported:
        return []
    made = []
    reported = board.protocol.reported
    present = {metric for line in reported for metric in line.values}
    metrics = [m for m in board.asked.metrics if m in present] + sorted(present - set(board.asked.metrics))
    for start, part in enumerate(parts(metrics, WIDEST - 3)):
        rows = tuple(
            (
                Cell(clean(line.method)),
                Cell(clean(line.test)),
                Cell(clean(line.source)),
                *(drawn(Number(value=line.values.get(metric)), metric) for metric in part),
            )
            for line in reported
        )
        made.append(
            Table(
                title="" if start else "As reported by the paper, on other data; never ranked",
                columns=(
                    Column("Method", False),
                    Column("Tested on", False),
                    Column("Source", False),
                    *(Column(heading(metric)) for metric in part),
                ),
                groups=(Group("", rows),),
            )
        )
    return made
