"""Render what is made from the code, pages under docs/ and a table of the README: `make docs`; a test compares them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import click
import fault_table
import performance

from flbench.cli import main
from flbench.method_file import MethodEntry
from flbench.protocol import METRICS
from flbench.record import Record, read_record
from flbench.registry import find_protocol, methods, protocols
from flbench.reporting.words import count, describe, full, heading, number_of
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


def method_table() -> str:
    """Return every method that ships in one table, reference rows last: the README's."""
    shipped = sorted(ours(), key=lambda entry: (entry.reference, bool(entry.target)))
    lines = [
        (
            f"[`{entry.name}`](methods/{entry.name}.py)",
            entry.summary,
            "reference row" if entry.reference else f"a {entry.target}" if entry.target else learns(entry),
            ", ".join(f"`{variant}`" for variant in entry.variants),
        )
        for entry in shipped
    ]
    return rows(("method", "what it is", "what it needs", "variants"), lines)


def ours() -> list[MethodEntry]:
    """Return the methods that ship, without those of other distributions that may be installed."""
    return [entry for entry in methods().values() if entry.module.startswith("flbench.methods.")]


def learns(entry: MethodEntry) -> str:
    """Say in a word whether a method is fitted."""
    return "a fit" if entry.trains else "nothing"


def method_pages() -> str:
    """Return what every method's file says of it: paper, licence, options, variants."""
    parts = ["# Methods\n\nMade from `methods/*.py` by `make docs`. `flbench show METHOD` tells the same of yours, and"]
    parts[0] += " what\na method costs on your machine.\n"
    for entry in ours():
        parts.append(f"## {entry.title}\n\n`{entry.name}`: {entry.summary}\n")
        said = {"Paper": entry.paper, "Licence": entry.licence, "Needs": learns(entry)}
        if entry.target:
            said["Needs"] = f"a {entry.target}, given as `{entry.name}:{entry.target.upper().replace(' ', '_')}`"
        parts.append("".join([*(f"- {label}: {text}\n" for label, text in said.items() if text), *measured(entry)]))
        if entry.options:
            options = [
                (f"`{name}`", f"`{plain(value)}`", entry.told.get(name, "")) for name, value in entry.options.items()
            ]
            parts.append(rows(("Option", "Default", "What it does"), options))
        if entry.variants:
            sets = [
                (f"`{entry.name}:{name}`", ", ".join(f"`{option}={plain(value)}`" for option, value in given.items()))
                for name, given in entry.variants.items()
            ]
            parts.append(rows(("Variant", "Sets"), sets))
    return "\n".join(parts)


def plain(value: object) -> str:
    """Return a value as one would type it after `--set option=`."""
    return value if isinstance(value, str) else json.dumps(value)


@cache
def results() -> list[Record]:
    """Return the published records of every method on one category of the embedded data set."""
    records = [read_record(path) for path in sorted(RESULTS.glob("*/run.json"))]
    return [record for record in records if record.results]


def measured(entry: MethodEntry) -> list[str]:
    """Say what a method and its variants reached, and which reference row they do not beat by separate intervals."""
    found = {record.method.name: record.results[0].metrics for record in results()}
    lines = []
    for name, metrics in found.items():
        if name.partition(":")[0] != entry.name or entry.reference:
            continue
        bars = [("coss", "zeros"), ("coss", "ones"), ("auroc", "meanmap")]
        lost = [
            f"`{row}` in {heading(metric)}" for metric, row in bars if metrics[metric].low <= found[row][metric].high
        ]
        numbers = ", ".join(f"{heading(name)} {full(number_of(metrics[name]), name)}" for name in ("coss", "auroc"))
        end = f"; **not above** {' and '.join(lost)}" if lost else "; above `zeros`, `ones` and, in AUROC, `meanmap`"
        lines.append(f"- Measured, `{name}` on `in_gan` of `synthfaces-mini`: {numbers}{end}\n")
    return lines


def results_table() -> str:
    """Return what every method reached on one category of the embedded data set."""
    found = [(record, record.results[0].metrics) for record in results()]
    found.sort(key=lambda pair: -pair[1]["coss"].value)
    lines = [
        (
            f"`{record.method.name}`" + (" (reference row)" if record.method.reference else ""),
            *(f"{metrics[name].value:.{digits}f}" for name, digits in SHOWN.items()),
            count(record.method.parameters) if record.method.parameters else "–",
            f"{record.timings['fit_s']:.0f} s" if "fit_s" in record.timings else "–",
        )
        for record, metrics in found
    ]
    return rows(("method", *(heading(name) for name in SHOWN), "parameters", "fit, one core"), lines)


def readme() -> str:
    """Return the README with its tables made anew."""
    text = README.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        start, end = f"<!-- made by `make docs`: {name} -->", "<!-- end -->"
        head, _, rest = text.partition(start)
        text = f"{head}{start}\n\n{table()}\n{end}{rest.partition(end)[2]}"
    return text


README = HERE.parent / "README.md"
RESULTS = HERE.parent / "leaderboards" / "synthfaces-mini" / "in_gan-v1"
SHOWN = {"coss": 3, "psnr": 2, "ssim": 3, "acc": 3, "auroc": 3}
TABLES = {"methods": method_table, "results": results_table, "faults": fault_table.summary}
PAGES = {
    "commands.md": commands,
    "faults.md": fault_table.page,
    "methods.md": method_pages,
    "performance.md": performance.page,
    "protocols.md": protocol_pages,
    "synthfaces.md": synthfaces,
}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
