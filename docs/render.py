"""Render the pages under docs/ that are made from the code: `python docs/render.py`; a test compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flbench.cli import main
from flbench.synthetic.datasheet import datasheet
from flbench.synthetic.profiles import OFFERED

HERE = Path(__file__).parent


def commands() -> str:
    """Return every command's help as one page."""
    parts = ["# Commands\n\nMade from the code by `make docs`.\n"]
    settings = main.context_settings | {"terminal_width": 100, "max_content_width": 100}
    for context in contexts(click.Context(main, info_name="flbench", **settings)):
        parts.append(f"## {context.command_path}\n\n```\n{context.get_help()}\n```\n")
    return "\n".join(parts)


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of a command and of all commands below it, in the order of their names."""
    yield context
    if isinstance(context.command, click.Group):
        for name, command in sorted(context.command.commands.items()):
            yield from contexts(click.Context(command, parent=context, info_name=name))


def synthfaces() -> str:
    """Return the datasheet of the embedded data set, with the pictures that `flbench data report` drew of it."""
    parts = [datasheet().rstrip(), "", "## What it looks like", ""]
    parts += ["Made by `flbench data report synthfaces --profile standard --into docs/synthfaces`, which also wrote"]
    parts += ["[every number](synthfaces/report.md). Six people per category: photo, fake, and M.", ""]
    parts += ["![Averaged spectra of what a median removes, photos and families](synthfaces/spectra.png)", ""]
    for name in OFFERED:
        parts += [f"![{name}: photo, fake and M of every category](synthfaces/{name}.jpg)", ""]
    return "\n".join(parts)


PAGES = {"commands.md": commands, "synthfaces.md": synthfaces}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")
