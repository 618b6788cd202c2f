"""The documentation says what the code does."""

import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flbench.cli import main

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tests" / "faults")]

import fault_table  # noqa: E402
import render  # noqa: E402
from ledger import KINDS, NUMBERS, carried  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [context.command for context in render.contexts(click.Context(main, info_name="flbench"))]


@pytest.mark.parametrize("name", sorted(render.PAGES))
def test_a_rendered_page_is_what_the_code_gives(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == render.PAGES[name](), "run: make docs"


def test_the_readmes_table_of_methods_is_what_the_code_gives() -> None:
    assert render.readme() == README, "run: make docs"
    assert "| [`fakelocator`](methods/fakelocator.py) |" in README


def test_every_fault_is_tried_and_told() -> None:
    """The page is made by running the tests, which takes minutes; that it names what they try is cheap to hold."""
    tried = dict.fromkeys(carried(ROOT / "tests" / "faults"))
    assert {number for number, _ in tried} >= NUMBERS
    told = {(line["number"], line["fault"]): line for line in fault_table.read()}
    assert set(told) == set(tried), "run: make faults"
    assert set(KINDS) == set(fault_table.KINDS)
    assert sum(map(len, fault_table.SECTIONS.values())) - len(fault_table.CLUSTER) == len(NUMBERS) == 70
    for line in told.values():
        assert line["saw"] or line["skipped"], f"{line['number']}: nothing was observed"
        assert line["held"] + line["skipped"] == line["cases"], f"{line['number']} does not hold"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_for_itself_and_every_option(command: click.Command) -> None:
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def shown() -> list[str]:
    """Return every flbench command line of the blocks of README and a page by hand, continued lines joined."""
    pages = README, (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    blocks = [block for page in pages for block in re.findall(r"```\n(.*?)```", page, re.DOTALL)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("flbench ")]


def test_the_readme_shows_commands() -> None:
    assert len(shown()) >= 8


@pytest.mark.parametrize("line", shown())
def test_every_command_that_is_shown_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(line, words)


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_promise_names_tests_that_there_are() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    table = text.partition("the test that holds it")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        held = re.findall(r"((?:`test_\w+`(?: and )?)+) in \[(tests/[\w/]+\.py)\]", row)
        assert held, row
        for names, file in held:
            source = (ROOT / file).read_text(encoding="utf-8")
            for name in re.findall(r"test_\w+", names):
                assert f"def {name}(" in source, f"{file} has no {name}"
    assert text.count("`test_") == sum(len(re.findall("`test_", row)) for row in rows)


def test_the_method_of_the_readme_keeps_the_contract() -> None:
    import torch

    (block,) = re.findall(r"```python\n([^`]*?class .*?)```", README, re.DOTALL)
    room: dict[str, object] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), room)
    fakeness, score = room["Bright"](power=2.0).predict(torch.rand(2, 3, 5, 7))  # type: ignore[operator]
    assert fakeness.shape == (2, 5, 7)
    assert 0 <= fakeness.min() <= fakeness.max() <= 1
    assert score is None


@pytest.mark.parametrize("words", [["list"], ["show", "fakelocator"], ["show", "in_gan"], ["--version"]])
def test_commands_that_need_no_data_run(words: list[str]) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.output
