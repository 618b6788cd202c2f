"""The commands for those who write methods: options in, jobs done, lines out. No logic of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from flbench import console
from flbench import options as shared
from flbench.errors import MethodError


@click.command()
@click.argument("methods", metavar="METHOD...", nargs=-1, required=True)
@click.option("--set", "given", multiple=True, metavar="OPTION=VALUE", help="Option of the methods; repeatable.")
@shared.as_json
def check(methods: tuple[str, ...], given: tuple[str, ...], as_json: bool) -> None:
    """Hold methods to the contract: NAME, NAME:VARIANT or all; say what is wrong and how to mend it.

    Shapes, types, ranges, odd sizes, independence of the batch, determinism, saving and loading, a fresh process, and
    what a listing shows. It takes seconds and no data set: a method that trains is fitted on made images, two steps.
    Exit code 3 if a check failed.
    """
    from flbench.checks import check_method
    from flbench.registry import choose_method
    from flbench.registry import methods as known

    names = shared.split(methods)
    if "all" in names:
        names = [entry.name for entry in known().values() if not (entry.broken or entry.target)]
    values = shared.values_of(given)
    chosen = [choose_method(name, values) for name in names]
    with console.progress() as progress:
        found = {choice.name: check_method(choice, progress=progress) for choice in chosen}
    if as_json:
        rows = [{"method": name, "checks": [asdict(result) for result in results]} for name, results in found.items()]
        console.json_out(rows)
    else:
        for name, results in found.items():
            console.checked(name, results)
    failed = [f"{name}: {r.check}" for name, results in found.items() for r in results if r.status == "failed"]
    if failed:
        raise MethodError(f"failed: {'; '.join(failed)}", hint="each line above says how to mend it")


@click.group()
def new() -> None:
    """Write the first version of a file, ready to run."""


@new.command("method")
@click.argument("name")
@click.option("--network", is_flag=True, help="A network that the harness fits, instead of a formula.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a distribution of its own into this folder; default: a file in methods/ of the checkout.",
)
def new_method(name: str, network: bool, into: Path | None) -> None:
    """Write a method that works, with a test beside it, and say what to do next.

    Nothing is overwritten. Nothing has to be registered: a file's place, or its entry point, is its registration.
    """
    from flbench.scaffold import write_method

    written = write_method(name, network=network, into=into)
    console.files("written", written.files)
    console.commands(written.commands, title="Next:")
