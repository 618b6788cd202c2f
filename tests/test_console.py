from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from factories import make_protocol, make_record, make_scores, write_cell
from rich.cells import cell_len

from flbench import console
from flbench.data.inspection import Finding
from flbench.doctor import Row
from flbench.errors import UsageError
from flbench.method_file import MethodEntry
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.study import Study

SLICES = ("near", "hair", "smile", "age")
SEVERAL = make_protocol("several", tests=SLICES, reference="near", over="region")
ODD = "[/nope] [bold]✓ 漢[/bold] \x1b[31mred\x1b[0m\n:tada:"
SGR = re.compile(r"\x1b\[[0-9;]*m")


class Stream(io.TextIOWrapper):
    """A stream of one's choice of encoding that may say that it is a terminal."""

    def __init__(self, encoding: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True, newline="\n")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def streams(
    monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8", *, terminal: bool = False
) -> tuple[Stream, Stream]:
    pair = Stream(encoding, terminal=terminal), Stream(encoding, terminal=terminal)
    monkeypatch.setattr(sys, "stdout", pair[0])
    monkeypatch.setattr(sys, "stderr", pair[1])
    return pair


def make_run(protocol: Protocol, *methods: str) -> list[Record]:
    tests = [test.name for test in protocol.test]
    records = [
        make_record(method, make_scores(0.5, tests=tests, people=6), protocol=protocol, flags=[f"collapsed: {ODD}"])
        for method in methods
    ]
    records.append(make_record("oracle", make_scores(0.9, tests=tests, people=6), protocol=protocol, reference=True))
    records.append(make_record("idle", protocol=protocol, status="skipped", reason=ODD))
    return records


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("columns", ["80", "100", "", "20"])
def test_anything_can_be_printed_anywhere(
    monkeypatch: pytest.MonkeyPatch, encoding: str, terminal: bool, columns: str
) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    out, err = streams(monkeypatch, encoding, terminal=terminal)
    records = make_run(SEVERAL, "plain", ODD)
    console.results(records, SEVERAL)
    console.judge(records, [ODD])
    console.error(UsageError(ODD, hint=ODD))
    console.record_card(records[0])
    console.protocol_card(SEVERAL)
    entry = MethodEntry(name=ODD, module="m", summary=ODD, options={"x": ODD}, variants={ODD: {"x": 1}})
    console.method_card(entry)
    console.listing({"methods": [entry], "protocols": [SEVERAL], "data": [{"name": ODD, "profiles": [ODD]}]})
    console.files("written", [Path(ODD)])
    console.diagnosis([Row(part=ODD, status="failed", says=ODD, advice=ODD)], ODD)
    assert "[/nope]" in SGR.sub("", out.text).replace("\n", "") or columns == "20"
    assert "\x1b[31mred" not in out.text + err.text
    if not terminal:
        assert "\x1b" not in out.text + err.text


@pytest.mark.parametrize(("columns", "limit"), [("80", 80), ("100", 100), ("", 100)])
def test_tables_fit(monkeypatch: pytest.MonkeyPatch, columns: str, limit: int) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    out, _ = streams(monkeypatch)
    console.results(make_run(SEVERAL, "a_long_method_name:with_a_variant")[:2], SEVERAL)
    lines = out.text.split("\n")
    assert max(map(cell_len, lines)) <= limit
    text = " ".join(lines)
    assert "…" not in text
    assert len(re.findall(r"\d\.\d{3} \[\.\d{3}, \.\d{3}\]", text)) == 2 * len(SLICES), "no number is cut or folded"


def test_a_run_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = Study(tmp_path)
    records = []
    for method, level in (("low", 0.3), ("high", 0.8)):
        scores = make_scores(level, tests=SLICES, people=6)
        records.append(make_record(method, scores, protocol=SEVERAL))
        write_cell(study.cell_folder(records[-1].cell), records[-1], scores)
    out, _ = streams(monkeypatch)
    console.results(records, SEVERAL, study)
    lines = out.text.split("\n")
    assert lines[1].split() == ["rank", "method", "mean", "COSS", "↑", "(near)", "hair", "smile", "age"]
    assert [line.split()[:2] for line in lines[2:4]] == [["1", "high"], ["2", "low"]]
    assert re.search(r"0\.\d{3} \[\.\d{3}, \.\d{3}\]", lines[2])


def test_reference_rows_are_dim_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = streams(monkeypatch, terminal=True)
    console.results(make_run(make_protocol(), "method"), make_protocol())
    lines = out.text.split("\n")
    (method,) = [number for number, line in enumerate(lines) if "method" in line and "0." in line]
    (oracle,) = [number for number, line in enumerate(lines) if "oracle" in line]
    assert method < oracle
    assert "\x1b[2moracle" in lines[oracle]
    assert "\x1b[2m" not in lines[method]


def test_no_color_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out, err = streams(monkeypatch, terminal=True)
    console.results(make_run(make_protocol(), "method"), make_protocol())
    console.error(UsageError("wrong"))
    console.say("careful", "yellow")
    codes = {code for found in SGR.findall(out.text + err.text) for code in found[2:-1].split(";")}
    assert codes <= {"0", "1", "2"}, "bold and dim are no colours"


def test_an_error_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out, err = streams(monkeypatch)
    console.error(UsageError("unknown method 'x'\nin the list of all the methods", hint="did you mean y?"))
    assert out.text == ""
    assert err.text == "error: unknown method 'x' in the list of all the methods (did you mean y?)\n"


def test_what_must_not_be_overlooked_goes_to_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch)
    records = [make_record("flat", flags=["collapsed"]), make_record("idle", cell="c", status="skipped", reason="why")]
    console.judge(records, ["lost"])
    assert out.text == ""
    assert err.text.splitlines() == [
        "warning: flat, seed 0: collapsed",
        "skipped: c: why",
        "missing: lost: no record was written",
    ]


def test_nothing_is_wrong_is_told_too(monkeypatch: pytest.MonkeyPatch, boxes: object) -> None:
    out, _ = streams(monkeypatch)
    console.findings([], boxes)
    assert out.text.startswith("ok ")
    console.findings([Finding("missing", "p1", "a [/b] file")], boxes)
    assert "a [/b] file" in out.text
    console.dataset_card(boxes)
    assert "stgan/blond_hair" in out.text


def test_the_end_of_a_pipe_is_the_callers_to_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(Stream):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed("utf-8", terminal=False))
    with pytest.raises(BrokenPipeError):
        console.files("written", [Path("x")])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch)
    clock = Clock()
    with console.Progress(clock=clock) as progress:
        for done in range(0, 101, 5):
            progress("fit", done, 100, "loss 0.1")
            clock.now += 1
    lines = err.text.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"fit: {n}/100 ({n} %)" for n in (25, 50, 75, 100)]
    assert lines[0] == "fit: 25/100 (25 %), 15 s left, 5.0/s, loss 0.1"
    assert out.text == ""


def test_slow_stages_are_told_every_ten_seconds_and_short_ones_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = streams(monkeypatch)
    clock = Clock()
    with console.Progress(clock=clock) as progress:
        for done in range(0, 8):
            progress("slow", done, 1000)
            clock.now += 6
        for done in range(0, 11):
            progress("short", done, 10)
    assert [line.split(" ")[:2] for line in err.text.splitlines()] == [
        ["slow:", "2/1000"],
        ["slow:", "4/1000"],
        ["slow:", "6/1000"],
    ]


def test_a_stage_that_starts_again_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = streams(monkeypatch)
    clock = Clock()
    with console.Progress(clock=clock) as progress:
        for _ in range(2):
            progress("test hair", 0, 2)
            clock.now += 3
            progress("test hair", 2, 2)
        progress("nothing", 0, 0)
    assert err.text.count("test hair: 2/2") == 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bars_are_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out, err = streams(monkeypatch, encoding, terminal=True)
    with console.progress() as progress:
        for done in range(11):
            progress(ODD, done, 10, "[/x] ✓")
            progress("[bold]other", done // 2, 10)
        progress.say("a line [/between]")
    assert "a line [/between]" in err.text
    assert "[bold]other" in err.text
    assert out.text == ""


class Units:
    """A plan that has three cells, one of which is done."""

    cells = (1, 2, 3)

    def open(self, study: object) -> list[object]:
        return [type("Unit", (), {"cells": (2, 3)})()]


def test_events_of_work_units_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = streams(monkeypatch)
    with console.watch(Units(), None) as handle:
        handle({"event": "progress", "what": "m:v", "stage": "fit", "done": 5, "total": 5, "note": "loss 1"})
        handle({"event": "warning", "text": "odd [/x]"})
        handle({"event": "cell", "cell": "c1", "status": "ok", "reason": ""})
        handle({"event": "cell", "cell": "c2", "status": "failed", "reason": "boom"})
    assert err.text.splitlines() == [
        "1 of 3 cells are done already",
        "warning: odd [/x]",
        "[2/3] ok c1",
        "[3/3] failed c2: boom",
    ]
    assert out.text == ""


def test_a_listing_as_json_is_plain_values() -> None:
    document = {"methods": [MethodEntry(name="m", module="x")], "protocols": [SEVERAL], "data": ["d"]}
    found = console.plain_listing(document)
    assert found["methods"][0]["name"] == "m"
    assert found["protocols"][0]["fingerprint"] == SEVERAL.fingerprint
    assert found["data"] == ["d"]
