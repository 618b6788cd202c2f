"""Which records were measured on another state of their data set than the one that is there now.

Data sets are compared by fingerprint: of the recipe for one made by code, else of the manifest; no image is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flbench.data.dataset import read_dataset
from flbench.errors import FlbenchError, UsageError
from flbench.record import Record
from flbench.registry import dataset_makers, load_maker
from flbench.study import Study

STALE = "stale"
"""Status shown in place of a record's own."""

States = Mapping[str, str]
"""Name of a data set to the fingerprint that it has now."""


def states(study: Study, records: Iterable[Record], data: str = "") -> dict[str, str]:
    """Return the fingerprints of data sets as they are now; one that is not found, or is damaged, is left out.

    Args:
        study: Knows in which folders data sets lay when a cell was last measured on them.
        records: Whose data sets are looked for.
        data: Folder of one of them; "": where it lay.

    Raises:
        DataError: The data set in the folder given is missing or damaged.
        UsageError: It does not hold together, or no record is of a data set of its name.
    """
    names = {record.dataset.name for record in records}
    found: dict[str, str] = {}
    for name in sorted(names):
        with suppress(FlbenchError):
            found |= _made(name) or _lying(study, name)
    if data:
        given = read_dataset(Path(data))
        if given.about.name not in names:
            hint = f"they are of {', '.join(sorted(names)) or 'none'}"
            raise UsageError(f"no record of {study.folder} is of a data set called {given.about.name}", hint=hint)
        found[given.about.name] = given.fingerprint
    return found


def _made(name: str) -> dict[str, str]:
    """Return the fingerprint of the data set that code here would make under a name."""
    maker, _, profile = name.partition("-")
    if maker not in dataset_makers():
        return {}
    known = load_maker(maker)
    return {name: known.recipe(profile)} if profile in known.PROFILES else {}


def _lying(study: Study, name: str) -> dict[str, str]:
    folder = study.data_folder(name)
    if folder is None:
        return {}
    dataset = read_dataset(folder)
    return {name: dataset.fingerprint} if dataset.about.name == name else {}


def why_stale(record: Record, now: States) -> str:
    """Return why a record is stale, in words; "" if it is not, or if its data set is not at hand."""
    then, here = record.dataset.fingerprint, now.get(record.dataset.name, record.dataset.fingerprint)
    if then == here:
        return ""
    return f"measured on another state of the data set: fingerprint {then[:12]} then, {here[:12]} now"


def cells(records: Iterable[Record], now: States) -> list[dict[str, Any]]:
    """Return what there is to say of each cell in a listing; one that is stale has that as its status."""
    listed = []
    for record in records:
        stale, asked, data = why_stale(record, now), record.protocol, record.dataset
        listed.append(
            {
                "cell": record.cell,
                "status": STALE if stale else record.status,
                "reason": stale or record.reason,
                "method": record.method.name,
                "protocol": f"{asked.name} v{asked.version}",
                "dataset": f"{data.name} v{data.version}",
                "fingerprint": data.fingerprint,
                "seed": record.seed,
            }
        )
    return listed


def notes(records: Iterable[Record], now: States) -> list[str]:
    """Return a sentence for every state of a data set that is no longer there, with how many records are of it."""
    found: dict[str, int] = {}
    for record in records:
        if why := why_stale(record, now):
            said = why.replace("the data set", record.dataset.name)
            found[said] = found.get(said, 0) + 1
    return [f"{STALE}: {n} record{'s' * (n > 1)} {said}" for said, n in found.items()]


def alike(study: Study, planned: Iterable[str]) -> list[Record]:
    """Return the records of a study that differ from planned cells in the last part of their id only.

    Method, protocol, data set and seed have the same names; what else differs may be the state of the data set. Only
    these records are read: there may be thousands.
    """
    planned = set(planned)
    asked = {cell.rpartition("--")[0] for cell in planned}
    others = [cell for cell in study.cells() if cell not in planned and cell.rpartition("--")[0] in asked]
    return [record for cell in others if (record := study.record(cell)) is not None]
