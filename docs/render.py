"""Render the pages under docs/ that are made from the code: `python docs/render.py`; a test compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flbench.cli import main

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


PAGES = {"commands.md": commands}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")
