"""The commands that show what there is: options in, lines out. No logic of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flbench import console
from flbench import options as shared
from flbench.errors import UsageError, suggest

if TYPE_CHECKING:
    from flbench.method_file import MethodEntry


@click.command("list")
@click.argument("what", type=click.Choice(["all", "methods", "protocols", "data", "cells"]), default="all")
@shared.study
@click.option("--data", default="", metavar="FOLDER", help="Of cells: where their data set is; default: where it was.")
@shared.as_json
def list_(what: str, study: Path, data: str, as_json: bool) -> None:
    """List methods, protocols, data sets, or the cells of a study; imports none of them.

    A cell is stale if its data set, where that is at hand, has another fingerprint now than when it was measured.
    """
    from flbench.registry import dataset_makers, find_protocol, load_maker, methods, protocols

    document: dict[str, Any] = {}
    if what in ("all", "methods"):
        document["methods"] = list(methods().values())
    if what in ("all", "protocols"):
        document["protocols"] = [find_protocol(name) for name in protocols()]
    if what in ("all", "data"):
        document["data"] = [{"name": name, "profiles": list(load_maker(name).PROFILES)} for name in dataset_makers()]
    if what == "cells":
        from flbench import stale
        from flbench.study import Study

        records = Study(study).records()
        document["cells"] = stale.cells(records, stale.states(Study(study), records, data))
    if as_json:
        console.json_out(console.plain_listing(document))
    else:
        console.listing(document)


@click.command()
@click.argument("name")
@shared.study
@shared.as_json
def show(name: str, study: Path, as_json: bool) -> None:
    """Show one method, protocol, data set made by code, or cell of a study in full; or the metric conventions.

    A method, METHOD or METHOD:VARIANT, is built and looks at a few made images, to say what it costs on this machine.
    """
    from flbench.registry import dataset_makers, find_protocol, load_maker, methods, protocols
    from flbench.study import Study

    base = name.partition(":")[0]
    if name == "conventions":
        from flbench.scoring.conventions import AXES, CONVENTIONS

        if as_json:
            console.json_out({"axes": AXES, "conventions": CONVENTIONS})
        else:
            console.conventions(AXES, CONVENTIONS)
    elif base in methods():
        _show_method(methods()[base], name, as_json)
    elif name in protocols() or name.endswith(".toml"):
        protocol = find_protocol(name)
        console.json_out(protocol.model_dump(mode="json")) if as_json else console.protocol_card(protocol)
    elif name in dataset_makers():
        page = load_maker(name).datasheet()
        console.json_out({"name": name, "datasheet": page}) if as_json else console.page(page)
    else:
        record = Study(study).record(name)
        if record is None:
            known = [*methods(), *protocols(), *dataset_makers(), *Study(study).cells()]
            raise UsageError(f"nothing is called {name!r}", hint=suggest(name, known))
        from flbench.stale import STALE, states, why_stale

        why = why_stale(record, states(Study(study), [record]))
        if as_json:
            console.json_out(record.model_dump(mode="json", by_alias=True) | ({STALE: why} if why else {}))
        else:
            console.record_card(record, why)


def _show_method(entry: MethodEntry, name: str, as_json: bool) -> None:
    """Show what a method's file says, then what the method costs here, which takes seconds for a large one."""
    from flbench.registry import choose_method

    choice = None if entry.broken or (name == entry.name and entry.target) else choose_method(name)
    if not as_json:
        console.method_card(entry)
    if choice is None:
        footprint = None
    else:
        from flbench.footprint import measure_footprint

        footprint = measure_footprint(choice)
    if as_json:
        card = console.plain_listing({"methods": [entry]})["methods"][0]
        console.json_out(card | {"footprint": footprint and asdict(footprint)})
    elif footprint is not None:
        from flbench.reporting.cards import footprint_table

        console.show([footprint_table(name, footprint)])
