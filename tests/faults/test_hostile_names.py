"""Names that a stranger chose, in everything that is shown or written: they are text, and nothing else happens."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import flbench
from factories import make_gallery, make_protocol, make_record, make_scores, write_cell
from ledger import Observed
from markdown_it import MarkdownIt

from flbench import console
from flbench.engine.runtime import Runtime
from flbench.errors import UsageError
from flbench.prediction import Ready, predict_images
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.registry import choose_method, load_method
from flbench.reporting.board import boards
from flbench.reporting.figures import panel
from flbench.reporting.model import Entry
from flbench.reporting.plots import draw_board_figures
from flbench.reporting.publish import publish

NAMES = {
    "ansi": "\x1b[31mred\x1b[2J\x1b[0m",
    "ansi-of-8-bits": "\x9b31mred\x9d0;title\x9c",
    "terminal-link": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "markdown": "[a](javascript:alert(1)) ![i](http://evil.example/x) `c` **b**",
    "pipe": "a|b||c\\|d",
    "newline": "first\nsecond\r\n# third\u2028fourth",
    "formula": "=cmd|' /C calc'!A1",
    "rich-markup": "[/nope][red]x[/]",
    "right-to-left": "photo\u202egnp.exe\u2066",
    "unseen": "a\u200bb\x00c\x7fd\ufeff",
    "tex": "$\\frac{x_^{$ \\input{/etc/passwd}",
}
HARMLESS = "harmless"
PLAIN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
each_name = pytest.mark.parametrize("name", [pytest.param(name, id=key) for key, name in NAMES.items()])


def told(name: str) -> tuple[Record, Protocol]:
    protocol = make_protocol().model_copy(
        update={"title": name, "question": name, "paper": name, "notes": (name,), "name": "hostile"}
    )
    record = make_record(
        name,
        make_scores(0.7, people=6),
        protocol=protocol,
        title=name,
        paper=name,
        flags=[name],
        given={name: name},
        mapping={name: name},
        dataset=name,
        cell="cell",
    )
    more = {"title": name, "note": name, "licence": name}
    return record.model_copy(update={"dataset": record.dataset.model_copy(update=more)}), protocol


def hold_plain(text: str) -> None:
    """Hold that nothing in a text steers a terminal, is unseen, or turns the direction of reading."""
    odd = {sign for sign in text if unicodedata.category(sign) in PLAIN} - {"\n"}
    assert not odd, odd


@pytest.mark.fault(71, "names with escapes, markup, formulas and line ends in: terminal")
@each_name
def test_70_71_terminal(
    name: str, capsys: pytest.CaptureFixture[str], observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # a line that is too long is broken, by its width and not by its name

    def shown(name: str) -> str:
        record, protocol = told(name)
        failed = record.model_copy(update={"status": "failed", "reason": name, "results": ()})
        console.results([record, failed], protocol)
        console.judge([failed], [name])
        console.record_card(record)
        console.protocol_card(protocol)
        console.files("written", [Path(name)])
        console.say(name)
        console.commands([name])
        console.error(UsageError(name, hint=name))
        with console.progress() as progress:
            progress.say(name)
        said = capsys.readouterr()
        return said.out + said.err

    text = shown(name)
    hold_plain(text)
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    observed(line)
    if name.startswith("["):
        assert name in line
    short = shown("x")
    assert [line for line in text.splitlines() if line.startswith(("#", "second"))] == []
    assert text.count("written ") == short.count("written ") == 1


@pytest.mark.fault(71, "names with escapes, markup, formulas and line ends in: json")
@each_name
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_71_json(name: str, encoding: str, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from flbench.cli import main

    record, _ = told(name)
    write_cell(tmp_path / "cells" / "cell", record)
    done = CliRunner(charset=encoding).invoke(main, ["show", "cell", "--study", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    hold_plain(done.stdout)
    observed(next(line for line in done.stdout.splitlines() if '"note"' in line), 0)
    assert Record.model_validate(json.loads(done.stdout)) == record, "no value is changed"


@pytest.mark.fault(70, "names with escapes, markup, formulas and line ends in: markdown boards")
@each_name
def test_70_markdown(name: str, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    from flbench.reporting import plots

    monkeypatch.setattr(plots, "save", lambda draw, files, mark: [file.write_text("") for file in files])

    def pages(name: str, into: Path) -> list[str]:
        record, protocol = told(name)
        folder = write_cell(tmp_path / f"study-{into.name}", record, make_scores(0.7, people=6))
        written = publish([(record, folder)], {"hostile": protocol}, into)
        assert all(path.resolve().is_relative_to(into.resolve()) for path in written)
        return [path.read_text("utf-8") for path in into.rglob("*.md")]

    found, harmless = pages(name, tmp_path / "a"), pages(HARMLESS, tmp_path / "b")
    parsed, expected = (
        [MarkdownIt("commonmark").enable("table").parse(text) for text in texts] for texts in (found, harmless)
    )
    kinds = [sorted([token.type for token in page] for page in made) for made in (parsed, expected)]
    assert kinds[0] == kinds[1], "the pages have the parts that they have with a harmless name"
    assert len(found) >= 2
    for text, page in zip(found, parsed, strict=True):
        hold_plain(text)
        inside = [child for token in page for child in token.children or []]
        html = {part.content.strip() for part in [*page, *inside] if part.type.startswith("html")}
        assert all(re.fullmatch(r"<!--.*-->|</?(sup|details|summary|br)>.*", part, re.S) for part in html), html
        links = [str(part.attrs.get("href") or part.attrs.get("src")) for part in inside if part.attrs]
        assert not [link for link in links if re.match(r"\s*(javascript|data|//)|https?://evil", link)]
    row = next(line for text in found for line in text.splitlines() if line.startswith("| 1"))
    observed(row)


@pytest.mark.fault(70, "names with escapes, markup, formulas and line ends in: summary.csv of predictions")
@each_name
def test_70_csv(name: str, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    path = Path(name.translate({ord("/"): "_", 0: None}) + ".png")  # the two signs that no file name has
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / path.name, "PNG")
    choice = choose_method("highpass")
    ready = Ready(choice, load_method(choice), 32, Runtime(torch.device("cpu"), 1))
    predict_images([path], Path("out"), ready)
    with Path("out/summary.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    observed(f"image: {row['image']!a}", 0)
    assert all(value is None or not value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())
    assert Path(row["image"]) == path
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "out"])


@pytest.mark.fault(70, "names with escapes, markup, formulas and line ends in: figures")
def test_70_figures(tmp_path: Path, observed: Observed) -> None:
    """All names on one board and under one panel, drawn for real: drawing takes its time."""
    protocol = make_protocol(metrics=("coss",))
    entries = []
    for place, name in enumerate(NAMES.values()):
        scores = make_scores(0.4 + place / 40, people=4)
        entries.append(Entry(record=make_record(name, scores, protocol=protocol, dataset="x"), scores=scores))
    (board,) = boards(entries, {protocol.name: protocol})
    files = draw_board_figures(board, tmp_path / "out", "stem")
    drawn = [path for path in files if path.suffix == ".svg"]
    assert drawn
    for path in drawn:
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert not tags & {"script", "image", "foreignObject", "a"}
        assert not [value for element in root.iter() for key, value in element.attrib.items() if key.startswith("on")]
    panel(make_gallery(tmp_path / "g.npz"), tmp_path / "p.png", " ".join(NAMES.values()).replace("\x00", ""))
    observed(f"{len(files) + 1} figures", 0, cases=len(NAMES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.npz", "out", "p.png"]
    assert flbench("list", "protocols", "--json").exit_code == 0
