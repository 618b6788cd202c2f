"""Reproduce a record: find out what was asked, and ask the same again in a study of its own."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flbench import registry
from flbench.data.dataset import Dataset
from flbench.engine.local import Machine, run_plan
from flbench.engine.plan import Plan, Request, make_plan
from flbench.errors import RunError, UsageError, suggest
from flbench.files import write_json
from flbench.protocol import Protocol
from flbench.record import Record, read_record
from flbench.registry import MethodChoice
from flbench.study import RECORD, SCORES, Study, read_scores
from flbench.targets import BROUGHT, weights_again

if TYPE_CHECKING:
    import pandas as pd

MARK = "reproduces.json"
"""Says in a folder given with `into` which record is reproduced there, so that a stopped reproduction can go on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is asked again, and where.

    Attributes:
        protocol: As written, the same as the record's.
        method: With the same options.
        request: Mapping, region, added conditions and limits of the record.
        machine: Where and how, as the record was made.
    """

    protocol: Protocol
    method: MethodChoice
    request: Request
    machine: Machine


def find_record(text: str, study: Path) -> tuple[Record, Path]:
    """Return a record and its file, by the path of the file or its folder, or by the id of a cell of a study.

    Raises:
        UsageError: There is none, several may be meant, or nothing was measured.
        DataError: The file is damaged.
    """
    path = Path(text)
    path = path / RECORD if path.is_dir() else path
    if not path.is_file():
        cells = Study(study).cells()
        found = [text] if text in cells else [cell for cell in cells if text in cell]
        if not found:
            raise UsageError(f"{text} is neither a {RECORD} nor a cell of {study}", hint=suggest(text, cells))
        if len(found) > 1:
            raise UsageError(f"{study} has {len(found)} cells that {text} may mean", hint="such as " + found[0])
        path = Study(study).cell_folder(found[0]) / RECORD
    record = read_record(path)
    if not record.results:
        why = f": {record.reason}" if record.reason else ""
        raise UsageError(f"{record.cell} is {record.status}{why}", hint="there is no result to reproduce")
    return record, path


def set_up(
    record: Record, *, protocol: str = "", method: str = "", device: str = "", threads: int | None = None
) -> Setting:
    """Return what a record asks for: method with options, protocol, request and machine.

    Args:
        record: What is to be reproduced.
        protocol: Name or TOML file of its protocol; "": by the record's name.
        method: Name of its method, for one that works with a file; "": by the record's name.
        device: Where to run; "": on the kind of device that the record was made on.
        threads: CPU threads; None: as many as the record's.

    Raises:
        UsageError: The protocol or the method here is another one than the record's.
        MethodError: The method is broken here.
    """
    asked, made = record.protocol, record.provenance
    here = registry.find_protocol(protocol or asked.name)
    if here.fingerprint != asked.fingerprint:
        raise UsageError(
            f"protocol {here.label} here has the fingerprint {here.fingerprint[:12]}, the record was made by "
            f"{asked.name} v{asked.version}, {asked.fingerprint[:12]}",
            hint="--protocol FILE.toml names the protocol of the record",
        )
    caps = [int(found[1]) for flag in record.flags if (found := re.match(r"trial: at most (\d+) steps", flag))]
    request = Request(
        mapping=asked.mapping,
        allow_missing=bool(asked.missing),
        region=asked.region or "parsing",
        cap=max(caps, default=None),
        conditions=asked.added,
    )
    return Setting(
        protocol=here,
        method=_method(record, method),
        request=request,
        machine=Machine(
            device=device
            or next((kind for kind in ("cpu", "mps") if str(made.get("device", "")).startswith(kind)), "cuda"),
            threads=threads or made.get("threads"),
            inference=made.get("inference", {}).get("engine", Machine.inference),
            precision=made.get("precision", Machine.precision),
            batch=made.get("batch"),
        ),
    )


def _method(record: Record, text: str) -> MethodChoice:
    """Return the method of a record, with its options.

    Raises:
        UsageError: It is not here, or its options are others.
    """
    recorded = record.method
    name = (text or recorded.name).partition(":")[0]
    entry = registry.methods().get(name)
    if entry is None:
        raise UsageError(
            f"method {name!r} is not here; the record's came with {recorded.distribution or 'nothing named'}",
            hint="install it, or evaluate what was given from Python again",
        )
    if BROUGHT in recorded.options:
        raise UsageError(
            f"the weights of {recorded.name} were given as a file, which no record holds",
            hint=f"flbench run --weights {weights_again(recorded.options[BROUGHT])}",
        )
    if entry.target and not text:
        raise UsageError(
            f"{recorded.name} works with a {entry.target}, which no record holds", hint=f"--method {name}:…"
        )
    choice = registry.choose_method(text or recorded.name, recorded.given)
    here, there = (json.loads(json.dumps(options)) for options in (choice.options, recorded.options))
    other = [
        f"{key} is {here.get(key, 'unknown')} here and {there.get(key, 'unknown')} in the record"
        for key in sorted({*here, *there})
        if (key in here, here.get(key)) != (key in there, there.get(key))
    ]
    if other:
        raise UsageError(
            f"method {choice.name} is another one: {'; '.join(other[:3])}", hint="use the record's version"
        )
    return choice


def data_of(record: Record, given: str = "") -> tuple[str, str]:
    """Return the data set to open, as a name or folder and a profile.

    Raises:
        UsageError: It has to be given, or the recipe here makes another data set than the record's.
    """
    about = record.dataset
    maker, _, profile = about.name.partition("-")
    if given:
        return given, profile
    if maker not in registry.dataset_makers():
        raise UsageError(
            f"the record was measured on {about.name} v{about.version}", hint="say where it is: --data FOLDER"
        )
    made = registry.load_maker(maker)
    recipe = made.recipe(profile) if profile in made.PROFILES else ""
    if recipe != about.fingerprint:
        raise UsageError(
            f"{about.name} made here has the fingerprint {recipe[:12] or 'of nothing'}, the record was measured on v"
            f"{about.version}, {about.fingerprint[:12]}",
            hint="the recipe differs: use the flbench of the record, or --data FOLDER",
        )
    return about.name, profile


def plan_again(record: Record, setting: Setting, dataset: Dataset) -> Plan:
    """Plan the one cell of a record.

    Raises:
        UsageError: The data set is another one than the record's, or lacks what the record's had.
    """
    about, recorded = dataset.about, record.dataset
    if dataset.fingerprint != recorded.fingerprint:
        pairs = {"name": (recorded.name, about.name), "version": (recorded.version, about.version)}
        pairs |= {"fingerprint": (recorded.fingerprint[:12], dataset.fingerprint[:12])}
        other = [f"{key} {there}, here {here}" for key, (there, here) in pairs.items() if there != here]
        raise UsageError(
            f"the record was measured on another data set: {'; '.join(other)}", hint="--data FOLDER names the right one"
        )
    plan = make_plan(dataset, [(setting.protocol, [setting.method])], [record.seed], setting.request)
    (cell,) = plan.cells
    if cell.missing != record.protocol.missing:
        raise UsageError(f"test slices left out here: {cell.missing}, in the record: {record.protocol.missing}")
    return plan


@contextmanager
def fresh_study(into: Path | None, record: Record) -> Iterator[Study]:
    """Open a study that nothing but this reproduction has written to; without `into` it is gone at the end.

    Raises:
        UsageError: The folder holds something else.
        RunError: It cannot be written.
    """
    if into is None:
        with tempfile.TemporaryDirectory(prefix="flbench-", ignore_cleanup_errors=True) as folder:
            yield Study(Path(folder))
        return
    mark, said = into / MARK, {"cell": record.cell, "digest": record.digest}
    if not into.is_dir() or not any(into.iterdir()):
        write_json(mark, said)
    try:
        known = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known != said:
        raise UsageError(f"{into} is not empty", hint="a record is reproduced in a folder of its own")
    yield Study(into)


def run_again(plan: Plan, study: Study, setting: Setting, watch: Callable[[Mapping[str, Any]], None]) -> Record:
    """Carry out the plan of a reproduction and return the new record.

    Raises:
        FlbenchError: It could not be carried out.
    """
    run_plan(plan, study, setting.machine, watch)
    again = study.record(plan.cells[0].id)
    if again is None:
        raise RunError(f"{plan.cells[0].id} has no record", hint=f"see {study.folder}/log.txt")
    return again


def scores_beside(folder: Path) -> pd.DataFrame | None:
    """Return the per-image scores in the folder of a record, None if there are none.

    Raises:
        DataError: They are damaged.
    """
    there = (folder / SCORES).is_file()
    return read_scores(folder, hint="move them away to compare the rest") if there else None
