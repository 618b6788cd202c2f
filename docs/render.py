"""Render the pages under docs/ that are made from the code: `python docs/render.py`; a test compares them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from flbench.cli import main
from flbench.protocol import METRICS
from flbench.registry import find_protocol, protocols
from flbench.reporting.words import describe
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


def protocol_pages() -> str:
    """Return every protocol in words, with the paper's numbers."""
    parts = ["# Protocols\n\nMade from `protocols/*.toml` by `make docs`.\n"]
    for name in protocols():
        protocol = find_protocol(name)
        parts.append(f"## {protocol.title}\n\n`{name}`, version {protocol.version}\n")
        parts.append("".join(f"- **{label}**: {sentence}\n" for label, sentence in describe(protocol)))
        slices = [
            (test.name, test.fit, ", ".join(test.categories) or "photos of other databases") for test in protocol.test
        ]
        parts.append(rows(("Test slice", "Fit", "Fakes of"), slices))
        if protocol.reported:
            metrics = [metric for metric in METRICS if any(metric in line.values for line in protocol.reported)]
            heads = ("As reported by the paper", "Tested on", "Source", *(METRICS[metric] for metric in metrics))
            reported = [
                (line.method, line.test, line.source, *(line.values.get(metric, "–") for metric in metrics))
                for line in protocol.reported
            ]
            parts.append(rows(heads, reported))
    return "\n".join(parts)


def rows(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Return a markdown table."""
    table = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in table)


def synthfaces() -> str:
    """Return the datasheet of the embedded data set, with the pictures that `flbench data report` drew of it."""
    parts = [datasheet().rstrip(), "", "## What it looks like", ""]
    parts += ["Made by `flbench data report synthfaces --profile standard --into docs/synthfaces`, which also wrote"]
    parts += ["[every number](synthfaces/report.md). Six people per category: photo, fake, and M.", ""]
    parts += ["![Averaged spectra of what a median removes, photos and families](synthfaces/spectra.png)", ""]
    for name in OFFERED:
        parts += [f"![{name}: photo, fake and M of every category](synthfaces/{name}.jpg)", ""]
    return "\n".join(parts)


PAGES = {"commands.md": commands, "protocols.md": protocol_pages, "synthfaces.md": synthfaces}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")
