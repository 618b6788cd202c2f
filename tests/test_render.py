from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest
from factories import make_protocol, make_record, make_scores
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flbench.protocol import Protocol
from flbench.record import Convention
from flbench.reporting.board import boards
from flbench.reporting.convention_tables import side_by_side
from flbench.reporting.model import Board, Entry
from flbench.reporting.render import (
    MARK,
    Listed,
    Picture,
    anchor,
    code,
    conventions_page,
    escape,
    grid,
    index,
    markdown,
)
from flbench.reporting.tables import WIDEST, Cell, Column, Group, Table, head, tables
from flbench.scoring.conventions import CONVENTIONS

SLICES = ("near", "hair", "smile", "age")
CONDITIONS = ("clean", *(f"jpeg-{quality}" for quality in range(10, 70, 10)))
PLAIN = make_protocol()
WIDE = make_protocol("wide", tests=SLICES, reference="near", conditions=CONDITIONS)
EVIL = "evil | `x` <script>alert(1)</script>\n[a](javascript:b) ![i](http://x) *b* $m$ :tada: \x1b[31m"


def make_board(protocol: Protocol = PLAIN, methods: Sequence[str] = ("good", "bad"), **told: object) -> Board:
    return board_of(make_entries(protocol, methods, **told), protocol)


def board_of(entries: list[Entry], protocol: Protocol) -> Board:
    (board,) = boards(entries, {protocol.name: protocol})
    return board


def make_entries(protocol: Protocol = PLAIN, methods: Sequence[str] = ("good", "bad"), **told: object) -> list[Entry]:
    tests = [test.name for test in protocol.test]
    asked = {"mapping": told.get("mapping")}
    entries = []
    for number, method in enumerate(methods):
        scores = make_scores(0.9 - 0.2 * number, tests=tests, conditions=protocol.conditions, people=6)
        record = make_record(method, scores, protocol=protocol, **told)
        entries.append(Entry(record=record, scores=scores, folder=f"{protocol.name}-v1/{record.cell}"))
    scores = make_scores(0.97, tests=tests, conditions=protocol.conditions, people=6)
    oracle = make_record("oracle", scores, protocol=protocol, reference=True, **asked)
    skipped = make_record("idle", protocol=protocol, status="skipped", reason="needs a | licence", **asked)
    return [*entries, Entry(record=oracle, scores=scores), Entry(record=skipped)]


def cells_of(line: str) -> list[str]:
    """Cells of a markdown table's line; an escaped border is none."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def grids_of(text: str) -> list[list[list[str]]]:
    blocks = re.split(r"\n(?!\|)", text)
    return [
        [cells_of(line) for line in block.split("\n") if line.startswith("|")]
        for block in blocks
        if "\n| " in f"\n{block}"
    ]


@pytest.mark.parametrize("protocol", [PLAIN, WIDE], ids=["plain", "wide"])
def test_tables_are_whole_and_narrow(protocol: Protocol) -> None:
    found = [rows for rows in grids_of(markdown(make_board(protocol, ("good", EVIL)))) if rows]
    assert len(found) > 5
    for rows in found:
        assert {len(row) for row in rows} == {len(rows[0])}
        assert len(rows[0]) <= WIDEST
        assert all(set(cell) <= set(":-") for cell in rows[1])


def test_bytes_do_not_depend_on_the_order_of_records() -> None:
    entries = make_entries(WIDE, ("a", "b", "c"))
    expected = markdown(board_of(entries, WIDE))
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        assert markdown(board_of(entries, WIDE)) == expected


def test_ranks_come_first_and_references_have_none() -> None:
    (ranking,) = [rows for rows in grids_of(markdown(make_board())) if rows and rows[0][:2] == ["Rank", "Method"]][:1]
    assert [row[:2] for row in ranking[2:]] == [
        ["1", "good"],
        ["2", "bad"],
        ["", "*Reference rows, never ranked*"],
        ["–", "oracle"],
    ]
    assert re.fullmatch(r"\*\*0\.\d{3}\*\* \\\[\.\d{3}, \.\d{3}\\\]", ranking[2][2])
    assert "**" not in ranking[5][2]


def test_the_head_says_the_protocol_in_words() -> None:
    board = make_board(WIDE)
    said = dict(head(board))
    assert WIDE.fingerprint[:12] in said["Protocol"]
    assert "CC0" in said["Data set"]
    assert "mean of COSS over hair, smile and age" in said["Rank"]
    assert "Departs from the protocol" not in said
    text = markdown(board)
    assert all(escape(sentence) in text for sentence in said.values())
    assert "- **PSNR**: 10 log10(1 / MSE) in dB" in text


def test_a_departure_is_said_in_the_head() -> None:
    assert (
        "stgan replaced by stargan" in dict(head(make_board(mapping={"stgan": "stargan"})))["Departs from the protocol"]
    )


def test_what_the_paper_reports_is_a_table_of_its_own() -> None:
    made = {table.title: table for table in tables(make_board())}
    table = made["As reported by the paper, on other data; never ranked"]
    assert [cell.text for cell in table.groups[0].rows[0]] == ["Paper's own", "STGAN hair", "Table 5", "0.855", "28.27"]
    ranked = [
        cell.text
        for name, other in made.items()
        if other is not table
        for g in other.groups
        for r in g.rows
        for cell in r
    ]
    assert "Paper's own" not in ranked


def test_the_share_of_the_clean_value_is_told_for_conditions() -> None:
    board = make_board(WIDE)
    found = [table for table in tables(board) if "under conditions" in table.title]
    assert [(table.title, table.folded) for table in found] == [
        ("COSS ↑ under conditions", False),
        *((f"{name} under conditions", True) for name in ("PSNR ↑", "SSIM ↑", "MAE ↓", "ACC ↑", "AUROC ↑")),
    ]
    assert [group.label for group in found[0].groups] == list(SLICES)
    good, metric = board.placed("ranked")[0], "coss"
    for line, condition in zip(found[0].groups[1].rows, CONDITIONS, strict=True):
        number, gamma = good.number("hair", metric, condition), good.gamma("hair", metric, condition)
        expected = f"{number.value:.3f}"
        if condition != "clean":
            expected += f" ({gamma.value:.1f} % [{gamma.low:.1f}, {gamma.high:.1f}])"
            assert gamma.value == pytest.approx(100 * number.value / good.number("hair", metric).value)
        assert [cell.text for cell in line[:2]] == [condition, expected]
        assert (line[1].strong, line[2].strong) == (True, False)
        assert "[" not in line[3].text, "reference rows stay narrow"


def test_conditions_of_one_slice_stand_by_kind() -> None:
    protocol = make_protocol("kinds", conditions=("clean", "blur-5", "jpeg-10", "jpeg-90", "disorganized"))
    table = next(table for table in tables(make_board(protocol)) if "under conditions: hair" in table.title)
    assert [(group.label, [row[0].text for row in group.rows]) for group in table.groups] == [
        ("", ["clean"]),
        ("Gaussian blur: kernel size in pixels", ["blur-5"]),
        ("JPEG: quality", ["jpeg-90", "jpeg-10"]),
        ("Disorganized", ["disorganized"]),
    ]
    text = markdown(make_board(protocol))
    assert (
        "- **Conditions**: clean; Gaussian blur (kernel size in pixels 5); JPEG (quality 90 and 10); Disorganized"
        in text
    )
    assert "- **JPEG (jpeg)**" in text


def test_a_board_of_many_slices_stays_short() -> None:
    names = [f"slice {i}" for i in range(32)]
    protocol = make_protocol("many", tests=names, reference="slice 0", conditions=("clean", "jpeg-50"))
    board = make_board(protocol, ("good",))
    made = tables(board)
    assert len(made) < 16
    matrix = next(table for table in made if table.title == "COSS ↑ by test slice")
    assert [row[0].text for row in matrix.groups[0].rows] == ["slice 0 (reference)", *names[1:]]
    every = next(table for table in made if table.title == "All metrics: good")
    row = board.placed("ranked")[0]
    assert [[cell.value for cell in line[1:]] for line in every.groups[0].rows] == [
        [row.number(name, metric).value for metric in protocol.scoring.metrics] for name in names
    ]
    under = next(table for table in made if table.title == "COSS ↑ under conditions")
    assert under.groups[0].rows[0][1].value == pytest.approx(row.primary.value)
    detection = next(table for table in made if table.title.startswith("Real or fake"))
    values = [row.number(name, "false_alarm").value for name in names]
    assert [cell.value for cell in detection.groups[0].rows[0][-2:]] == pytest.approx([sum(values) / 32, max(values)])
    assert "mean of COSS over the 31 test slices that rank" in dict(head(board))["Rank"]
    text = markdown(board)
    assert text.count("<details>") == text.count("</details>") > 2
    for rows in grids_of(text):
        assert {len(row) for row in rows} == {len(rows[0])} if rows else True
        assert len(rows[0]) <= WIDEST if rows else True


def test_slices_are_told_by_fit_where_there_are_several() -> None:
    document = make_protocol("fits", tests=[f"t{i}" for i in range(8)]).model_dump(mode="json")
    document["fit"].append({"name": "smile", "categories": ["stgan/smile"]})
    for part in document["test"][4:]:
        part["fit"] = "smile"
    board = make_board(Protocol.model_validate(document))
    matrix = next(table for table in tables(board) if "by test slice" in table.title)
    assert [(group.label, len(group.rows)) for group in matrix.groups] == [
        ("Fitted on hair", 4),
        ("Fitted on smile", 4),
    ]
    (rows,) = [rows for rows in grids_of(markdown(board)) if rows and rows[0][:2] == ["Test slice", "Fitted on"]]
    assert [row[1] for row in rows[2:]] == ["hair"] * 4 + ["smile"] * 4


def test_what_a_protocol_asks_is_not_told_twice() -> None:
    protocol = make_protocol(metrics=("false_alarm", "tnr"), primary="false_alarm")
    table = next(table for table in tables(make_board(protocol)) if table.title.startswith("Real or fake"))
    assert [column.title for column in table.columns[2:]] == ["TPR ↑ hair"]


def test_conventions_have_a_page_of_their_own() -> None:
    names = [f"f1/{over}/0.5/as-is/{level}" for over in ("image/fakes", "pooled/all") for level in (0.05, 0.1)]
    numbers = [Convention(value=v, n=n, undefined=9 - n) for v, n in ((0.1, 9), (0.2, 8), (None, 9), (0.4, 9))]
    board = make_board(conventions=dict(zip(names, numbers, strict=True)))
    page = conventions_page(board, "sample.md")
    assert page.startswith(MARK)
    assert "[the board](sample.md)" in page
    (rows,) = [rows for rows in grids_of(page) if rows]
    assert rows[0][:4] == ["Convention", "Images", "Undefined", "good"]
    assert [row[:4] for row in rows[2:]] == [
        ["*image / fakes*", "", "", ""],
        ["0.5 / as-is", "9 · 8", "0 · 1", "0.100 · 0.200"],
        ["*pooled / all*", "", "", ""],
        ["0.5 / as-is", "9", "0", "– · 0.400"],
    ]
    assert conventions_page(make_board(), "sample.md") == ""
    assert "(sample-conventions.md)" in markdown(board, conventions="sample-conventions.md")


def test_every_convention_finds_its_place() -> None:
    numbers = {name: Convention(value=k / 1000, n=9, undefined=0) for k, name in enumerate(CONVENTIONS)}
    made = side_by_side({"m": numbers}, "hair")
    shown = [cell.text for table in made for group in table.groups for row in group.rows for cell in row[3:]]
    assert sorted(" · ".join(shown).split(" · ")) == sorted(f"{number.value:.3f}" for number in numbers.values())


def test_figures_are_shown_and_linked() -> None:
    text = markdown(make_board(), [Picture("What | it shows.", "a-b.svg", "a-b.png")])
    assert "\n![What \\| it shows.](a-b.svg)\n\nWhat \\| it shows. [PNG](a-b.png)\n" in text
    assert "## Figures" not in markdown(make_board())


def test_flags_are_footnotes() -> None:
    text = markdown(make_board(flags=["collapsed on hair: flat | maps"]))
    assert "1. collapsed on hair: flat \\| maps" in text
    assert "good <sup>1</sup>" in text


def test_every_row_has_its_command() -> None:
    lines = [line for line in markdown(make_board()).split("\n") if "flbench run --method" in line]
    assert [line.split(":")[0] for line in lines] == ["- good", "- bad", "- oracle", "- idle"]
    assert "`flbench run --method good --protocol sample --data faces`" in lines[0]
    assert re.search(r"\[record of seed 0\]\(sample-v1/cell-\w+/run\.json\)", lines[0])


def test_evil_names_are_only_text() -> None:
    text = markdown(make_board(methods=(EVIL, "good"), title=EVIL, paper="javascript:alert(1)", flags=[EVIL]))
    assert "\x1b" not in text
    parsed = MarkdownIt("commonmark").enable("table").parse(text)
    parts = [child for token in parsed for child in [token, *(token.children or [])]]
    links = [str(part.attrs["href"]) for part in parts if part.type == "link_open"]
    assert links
    assert all(href.startswith("sample-v1/cell-") for href in links)
    assert not [part for part in parts if part.type == "image"]
    markup = {part.content.strip() for part in parts if part.type in ("html_inline", "html_block")}
    assert markup <= {MARK, "<!-- -->", "<sup>", "</sup>"}
    names = [part.content for part in parsed if part.type == "inline"]
    assert any("evil" in name for name in names)
    code_spans = [part.content for part in parts if part.type == "code_inline" and "evil" in part.content]
    assert code_spans
    assert all(span.startswith("flbench run") for span in code_spans)


def test_a_paper_is_linked_only_where_it_is_a_web_address() -> None:
    assert "[paper](https://arxiv.org/abs/2001.09598)" in markdown(make_board(paper="https://arxiv.org/abs/2001.09598"))
    assert "arXiv 2001.09598" in markdown(make_board(paper="arXiv 2001.09598"))
    assert anchor("x", "javascript:alert(1)") == "x"
    assert anchor("x", "../../etc") == "x"
    assert anchor("x", "a b/c)d") == "[x](a%20b/c%29d)"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("a\nb", "a b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("cross_attribute", "cross_attribute"),
        ("_x_", r"\_x\_"),
        ("**x** `y`", r"\*\*x\*\* \`y\`"),
        (":tada: a:b", "&#58;tada&#58; a:b"),
        ("\\|", r"\\\|"),
    ],
)
def test_text_is_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.text())
def test_no_text_breaks_a_row(text: str) -> None:
    column = (Column("x"), Column("y"))
    lines = grid(Table(title="", columns=column, groups=(Group("", ((Cell(text, strong=True), Cell("end")),)),)))
    assert len(lines) == 3
    # A border is escaped by an odd number of backslashes.
    borders = re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])
    assert len(borders) == 3
    assert "<" not in lines[2].replace("<!-- -->", "")


@pytest.mark.parametrize("text", ["a", "a`b", "``", "`a", "a``b`c"])
def test_code_is_fenced_by_more_backticks_than_it_holds(text: str) -> None:
    drawn = code(text)
    fence = re.match("`+", drawn)[0]
    assert drawn.endswith(fence)
    inner = drawn.removeprefix(fence).removesuffix(fence)
    assert fence not in re.findall("`+", inner)
    assert inner.strip() == text


def test_panels_are_shown_for_rows_that_have_one() -> None:
    entries = [
        Entry(record=e.record, scores=e.scores, folder=e.folder, panel=i == 0) for i, e in enumerate(make_entries())
    ]
    text = markdown(board_of(entries, PLAIN))
    assert text.count("<details>") == 1
    assert f"![Maps of good]({entries[0].folder}/panel.webp)" in text
    assert "<details>" not in markdown(make_board())
    both = [Entry(record=e.record, scores=e.scores, folder=e.folder, panel=True, cases=True) for e in make_entries()]
    assert f"![Best and worst maps of good]({both[0].folder}/cases.webp)" in markdown(board_of(both, PLAIN))


def test_the_index_names_leaders_and_keeps_departures_apart() -> None:
    listed = [
        Listed(make_board(WIDE), "faces/wide.md"),
        Listed(make_board(), "faces/sample.md"),
        Listed(make_board(mapping={"stgan": "stargan"}), "faces/sample-stgan=stargan.md"),
    ]
    text = index(listed)
    assert text == index(listed[::-1])
    assert text.startswith(MARK)
    written, departed = text.split("## Other categories, regions or conditions")
    assert "| faces v1 | sample v1 | good | COSS ↑ |" in written
    assert "| faces v1 | wide v1 | good | mean COSS ↑ |" in written
    assert "[board](faces/sample-stgan=stargan.md)" in departed
    assert "[board](faces/sample-stgan=stargan.md)" not in written
    for rows in grids_of(text):
        assert {len(row) for row in rows} == {len(rows[0])} if rows else True
    assert "No record is published yet." in index([])
