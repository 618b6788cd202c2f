"""Boards as markdown. Another format is one more function that draws the same head and tables (`tables.py`).

Text is a pure function of the records: no date, sorted, fixed decimals. Whatever a record says is escaped, so that a
method's name can neither break a table nor become markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote

from flbench.reporting.convention_tables import convention_tables
from flbench.reporting.layout import Cell, Group, Table, footnotes
from flbench.reporting.model import SHOWN_CASES, SHOWN_PANEL, Board, Entry, Row
from flbench.reporting.tables import head, metric_words, slices, tables, title
from flbench.reporting.words import (
    NOTHING,
    TITLES,
    clean,
    code_version,
    condition_definitions,
    full,
    heading,
    link,
)
from flbench.scoring.conventions import AXES
from flbench.study import RECORD, SCORES

MARK: Final = "<!-- made by flbench publish from the records beside it; edits are lost -->"
"""First line of every rendered file: a file without it was written by someone and is never removed."""

_SPECIAL = re.compile(r"[\\`*\[\]<>|~$#&]|(?<![^\W_])_|_(?![^\W_])|\b(?=[hH][tT][tT][pP][sS]?://|[wW]{3}\.)")

_EMOJI = re.compile(r":[A-Za-z0-9_+-]+:")


def escape(text: object) -> str:
    """Return text for markdown: one line, nothing in it is markup, HTML, a link or a cell border."""

    def replaced(match: re.Match[str]) -> str:
        sign = match[0]
        if not sign:
            return "<!-- -->"  # keeps an address from becoming a link
        return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign, "\\" + sign)

    line = _SPECIAL.sub(replaced, clean(text))
    return _EMOJI.sub(lambda match: match[0].replace(":", "&#58;"), line)


def code(text: str) -> str:
    """Return text as inline code, fenced by more backticks than it holds in a row."""
    line = clean(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def anchor(text: str, href: str) -> str:
    """Return a link to an http(s) address or to a file beside the board; plain text for anything else."""
    shown = escape(text)
    target = link(href) if ":" in href else quote(href, safe="/=+-._~")
    return f"[{shown}]({target})" if target and not href.startswith(("/", "..")) else shown


class Picture(NamedTuple):
    """A figure beside a board.

    Attributes:
        caption: What it shows, in a sentence.
        svg: Its file, relative to the board: the one that is shown.
        png: The same as pixels, for slides.
    """

    caption: str
    svg: str
    png: str


def markdown(board: Board, pictures: Sequence[Picture] = (), conventions: str = "") -> str:
    """Return a board as GitHub-flavoured markdown.

    Args:
        board: The board.
        pictures: Figures beside it.
        conventions: The page of its conventions, relative to the board; "" if there is none.
    """
    lines = [MARK, f"# {escape(title(board))}", ""]
    lines += [f"- **{escape(label)}**: {escape(sentence)}" for label, sentence in head(board)]
    notes = [f"{number}. {escape(note)}" for number, note in enumerate(footnotes(board), 1)]
    lines += _tables([slices(board), *tables(board)], {"Ranking": notes})
    lines += _figures(pictures)
    lines += ["", "## Metrics", ""]
    lines += [f"- **{escape(name)}**: {escape(meaning)}" for name, meaning in metric_words(board)]
    if conventions:
        lines += ["", anchor("Thresholded metrics under every convention in use, side by side", conventions)]
    degradations = condition_definitions(board.conditions)
    if degradations:
        lines += ["", "## Conditions", ""]
        lines += [f"- **{escape(name)}**: {escape(meaning)}" for name, meaning in degradations]
    lines += _reproduce(board) + _panels(board)
    return "\n".join(lines) + "\n"


def conventions_page(board: Board, href: str) -> str:
    """Return the page of a board's conventions as markdown; "" if its records have none.

    Args:
        board: The board.
        href: Its file, relative to this page.
    """
    found = convention_tables(board)
    if not found:
        return ""
    lines = [MARK, f"# Conventions: {escape(title(board))}", ""]
    lines += [
        "The same maps of clean images under every convention in use, so that a number from elsewhere can be matched "
        f"or explained. Nothing here ranks: {anchor('the board', href)} does.",
        "",
        f"A convention is named by its parts, {code('/'.join(AXES))}:",
        "",
    ]
    lines += [f"- **{escape(name)}**: {escape(meaning)}" for name, meaning in AXES.items()]
    lines += [
        "",
        f"Images: those that count; undefined: those without a value, left out. {escape('A range: methods differ.')}",
    ]
    return "\n".join(lines + _tables(found, {})) + "\n"


def _tables(found: Sequence[Table], after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return tables under their titles, folded ones in drawers; a table without a title goes on in the same place.

    Args:
        found: The tables.
        after: Title of a table to lines that follow it.
    """
    lines: list[str] = []
    drawer = False
    for table in found:
        if drawer and (table.title or not table.folded):
            lines += ["", "</details>"]
            drawer = False
        if table.title and table.folded:
            lines += ["", f"<details><summary>{html.escape(clean(table.title))}</summary>"]
            drawer = True
        elif table.title:
            lines += ["", f"## {escape(table.title)}"]
        if table.note:
            lines += ["", escape(table.note)]
        lines += ["", *grid(table)]
        if after.get(table.title):
            lines += ["", *after[table.title]]
    return [*lines, "", "</details>"] if drawer else lines


def _figures(pictures: Sequence[Picture]) -> list[str]:
    lines: list[str] = []
    for picture in pictures:
        svg = quote(picture.svg, safe="/=+-._~")
        lines += [
            "",
            f"![{escape(picture.caption)}]({svg})",
            "",
            f"{escape(picture.caption)} {anchor('PNG', picture.png)}",
        ]
    return ["", "## Figures", *lines] if lines else []


def grid(table: Table) -> list[str]:
    """Return the lines of a markdown table; a group's label is a row of its own."""
    lines = [
        _line([escape(column.title) for column in table.columns]),
        _line(["---:" if column.right else ":---" for column in table.columns]),
    ]
    for group in table.groups:
        lines += _rows(group, [column.right for column in table.columns])
    return lines


def _rows(group: Group, right: Sequence[bool]) -> list[str]:
    lines = []
    if group.label:
        place = right.index(False) if False in right else 0
        lines.append(_line([f"*{escape(group.label)}*" if i == place else "" for i in range(len(right))]))
    return lines + [_line([_drawn(cell) for cell in row]) for row in group.rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _drawn(cell: Cell) -> str:
    text = anchor(cell.text, cell.href) if cell.href else escape(cell.text)
    if cell.strong:
        first, space, rest = text.partition(" ")
        text = f"**{first}**{space}{rest}"
    marks = ", ".join(map(str, cell.marks))
    return f"{text} <sup>{marks}</sup>" if marks else text


def _reproduce(board: Board) -> list[str]:
    """Return a line per row with the command that measures it again, and its records."""
    lines = ["", "## Reproduce", ""]
    for row in board.rows:
        files = []
        for entry in row.entries:
            if entry.folder:
                seed = f" of seed {entry.record.seed}" if row.seeds else ""
                files.append(anchor(f"record{seed}", f"{entry.folder}/{RECORD}"))
                if entry.scores is not None:
                    files.append(anchor("scores", f"{entry.folder}/{SCORES}"))
        made = sorted({escape(code_version(entry.record)) for entry in row.entries} - {""})
        lines.append(" · ".join([f"- {escape(row.method)}: {code(row.command)}", *files, *made]))
    return lines


def _panels(board: Board) -> list[str]:
    """Return a drawer per method with its pictures, for data that may be shown."""
    lines: list[str] = []
    for row in board.rows:
        shown = next((entry for entry in row.entries if entry.panel or entry.cases), None)
        if shown is None:
            continue
        lines += ["", f"<details><summary>{html.escape(row.method)}</summary>", ""]
        lines += [*_shown(shown, escape(row.method)), "</details>"]
    return ["", "## Look at it", "", "Real, fake, ground truth, prediction, overlay.", *lines] if lines else []


def _shown(entry: Entry, name: str) -> list[str]:
    files = [
        (entry.panel, SHOWN_PANEL, f"Maps of {name}"),
        (entry.cases, SHOWN_CASES, f"Best and worst maps of {name}"),
    ]
    lines: list[str] = []
    for there, file, text in files:
        if there:
            lines += [f"![{text}]({quote(f'{entry.folder}/{file}', safe='/=+-._~')})", ""]
    return lines


@dataclass(frozen=True)
class Listed:
    """A board in the index.

    Attributes:
        board: The board.
        href: Its file, relative to the index.
    """

    board: Board
    href: str


def index(listed: Sequence[Listed]) -> str:
    """Return the index of all boards as markdown: one table for protocols as written, one for departures."""
    lines = [MARK, "# Leaderboards", ""]
    ordered = sorted(listed, key=lambda item: (item.board.key.dataset, item.board.key.protocol, item.href))
    written = [item for item in ordered if item.board.key.as_written]
    departed = [item for item in ordered if not item.board.key.as_written]
    if not ordered:
        lines += ["No record is published yet."]
    if written:
        head_ = ["Data set", "Protocol", "Leader", "Primary", "Value", "Ranked methods", "Board"]
        lines += _index_table(head_, [_index_row(item) for item in written])
    if departed:
        head_ = ["Data set", "Protocol", "Departs by", "Leader", "Primary", "Value", "Ranked methods", "Board"]
        rows = [_index_row(item) for item in departed]
        rows = [
            [*row[:2], escape(item.board.key.departures), *row[2:]] for row, item in zip(rows, departed, strict=True)
        ]
        lines += ["", "## Other categories, regions or conditions: not the protocol as written", ""]
        lines += _index_table(head_, rows)
    return "\n".join(lines).rstrip("\n") + "\n"


def _index_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    right = {"Value", "Ranked methods"}
    return [
        _line(titles),
        _line(["---:" if name in right else ":---" for name in titles]),
        *(_line(row) for row in rows),
    ]


def _index_row(item: Listed) -> list[str]:
    key, primary = item.board.key, item.board.asked.primary
    ranked = item.board.placed("ranked")
    leader = _leaders(ranked)
    value = full(ranked[0].primary, primary) if ranked else NOTHING
    mean = "mean " if len(item.board.ranking) > 1 else ""
    return [
        escape(f"{key.dataset} v{key.dataset_version}"),
        escape(f"{key.protocol} v{key.version}"),
        escape(leader),
        escape(f"{mean}{heading(primary)}" if primary in TITLES else primary),
        escape(value),
        str(len(ranked)),
        anchor("board", item.href),
    ]


def _leaders(ranked: Sequence[Row]) -> str:
    """Return the first method, and how many share its rank."""
    if not ranked:
        return NOTHING
    tied = sum(row.rank == ranked[0].rank for row in ranked) - 1
    return ranked[0].method + (f" (ties with {tied} more)" if tied else "")
