"""Render the pages under docs/ that are made from the code: `python docs/render.py`; a test compares them."""

from __future__ import annotations

from pathlib import Path

import click

from flbench.cli import main

HERE = Path(__file__).parent


def commands() -> str:
    """Return every command's help as one page."""
    parts = ["# Commands\n\nMade from the code by `make docs`.\n"]
    for path, command in _walk(("flbench",), main):
        context = click.Context(command, info_name=" ".join(path), terminal_width=100, max_content_width=100)
        parts.append(f"## {' '.join(path)}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _walk(path: tuple[str, ...], command: click.Command) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            found += _walk((*path, name), child)
    return found


PAGES = {"commands.md": commands}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")
