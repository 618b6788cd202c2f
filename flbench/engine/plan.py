"""Decide what must run: the fits, the cells that need them, and the work units they form.

Planning reads manifests and protocols only; it imports no torch, so ten thousand cells are planned in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from flbench.data.dataset import ENTIRE, Dataset, Selection, lacks_other, select_test
from flbench.data.images import MAX_PIXELS, pixel_limit
from flbench.errors import MethodError, UsageError
from flbench.protocol import Protocol, TestSlice, fingerprint
from flbench.record import Record
from flbench.registry import MethodChoice
from flbench.study import Study
from flbench.targets import MARK


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One method to be trained on one slice with one seed.

    Attributes:
        id: Readable identifier that ends in the fingerprint.
        method: What is fitted.
        slice: Name of the fit slice in `protocol`.
        protocol: The protocol that names the slice, mapped and with its size decided.
        seed: Seed of the fit.
        cap: Upper limit on the optimiser steps, for a trial; None for what the method asks.
    """

    id: str
    method: MethodChoice
    slice: str
    protocol: Protocol
    seed: int
    cap: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method, protocol, data set and seed: what becomes one record.

    Attributes:
        id: Readable identifier that ends in the fingerprint.
        method: What is tested.
        protocol: What is asked, mapped, with its size decided and only the slices that can run.
        origin: Fingerprint of the protocol as written.
        seed: Seed of the fits.
        fits: Fit slice name to fit identifier; empty for a training-free method.
        mapping: Categories put in place of the protocol's own.
        missing: Test slices left out.
        region: "parsing", "difference" or "".
        added: Conditions added to the protocol's own.
    """

    id: str
    method: MethodChoice
    protocol: Protocol
    origin: str
    seed: int
    fits: Mapping[str, str] = field(default_factory=dict)
    mapping: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    region: str = ""
    added: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one fresh process does: some fits, then the cells that need them.

    Attributes:
        fits: Fits to be made or found done.
        cells: Cells that need no other fits than these.
    """

    fits: tuple[Fit, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a command is asked to do.

    Attributes:
        dataset: The data set.
        units: Independent pieces of work.
        left_out: Protocols that cannot run on the data set, with the reason.
    """

    dataset: Dataset
    units: tuple[Unit, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Every cell, in the order of the units."""
        return [cell for unit in self.units for cell in unit.cells]

    @property
    def fits(self) -> list[Fit]:
        """Every fit, in the order of the units."""
        return [fit for unit in self.units for fit in unit.fits]

    def open(self, study: Study) -> tuple[Unit, ...]:
        """Return the units with work left to do, without what is done; what failed or was skipped is tried again."""
        left = []
        for unit in self.units:
            cells = tuple(cell for cell in unit.cells if not is_done(study.record(cell.id)))
            needed = {fit for cell in cells for fit in cell.fits.values()}
            tested = {fit for cell in unit.cells for fit in cell.fits.values()}
            fits = tuple(f for f in unit.fits if f.id in needed or (f.id not in tested and study.fit(f.id) is None))
            if cells or fits:
                left.append(Unit(fits=fits, cells=cells))
        return tuple(left)


def is_done(record: Record | None) -> TypeGuard[Record]:
    """Return whether a record says all there is to say: a failure, or a reason to skip, may be gone by now."""
    return record is not None and record.status not in ("failed", "skipped")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for, beside methods, protocols and seeds.

    Attributes:
        mapping: Categories put in place of the protocols' own.
        allow_missing: Run the slices that can run, and mark the record.
        region: "parsing", or "difference" for data sets without parsing maps.
        cap: Upper limit on the optimiser steps.
        conditions: Conditions added to those of the protocols.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    allow_missing: bool = False
    region: str = "parsing"
    cap: int | None = None
    conditions: tuple[str, ...] = ()


def make_plan(
    dataset: Dataset,
    asked: Sequence[tuple[Protocol, Sequence[MethodChoice]]],
    seeds: Sequence[int],
    request: Request,
) -> Plan:
    """Cross each protocol with its methods and the seeds into fits and cells, each fit once.

    Raises:
        UsageError: A category or parsing map that a protocol needs is not in the data set.
    """
    fits: dict[str, Fit] = {}
    cells: dict[str, Cell] = {}
    for protocol, methods in asked:
        ready, left_out = prepare(protocol, dataset, request)
        added = tuple(name for name in ready.conditions if name not in protocol.conditions)
        region = _region(ready, dataset, request)
        origin, prepared = protocol.fingerprint, ready.fingerprint
        for method in methods:
            for seed in seeds if method.entry.trains else (0,):
                own = _fits(method, ready, dataset, seed, request.cap) if method.entry.trains else {}
                fits.update({fit.id: fit for fit in own.values()})
                cell = Cell(
                    id="",
                    method=method,
                    protocol=ready,
                    origin=origin,
                    seed=seed,
                    fits={name: fit.id for name, fit in own.items()},
                    mapping=dict(request.mapping),
                    missing=left_out,
                    region=region,
                    added=added,
                )
                cell = replace(cell, id=_cell_id(cell, dataset, prepared))
                cells[cell.id] = cell
    return Plan(dataset=dataset, units=_units(fits, list(cells.values())))


def prepare(protocol: Protocol, dataset: Dataset, request: Request) -> tuple[Protocol, tuple[str, ...]]:
    """Return the protocol as it will run on a data set, and the names of the test slices left out.

    Raises:
        UsageError: A fit category is missing, or a test category is and that is not allowed.
    """
    ready = protocol.mapped(request.mapping).under(request.conditions)
    if ready.size == "dataset":
        ready = ready.model_copy(update={"size": dataset.about.size})
    used = {test.fit for test in ready.test}
    counts = dataset.counts.drop(index="real")
    trained, tested = (dict.fromkeys(counts.index[counts[split] > 0]) for split in ("train", "test"))
    absent = [c for fit in ready.fit if fit.name in used for c in fit.categories if c not in trained]
    have = _some(list(tested))
    if absent:
        raise UsageError(
            f"{protocol.label} fits on {_some(absent)}, which {dataset.label} has no training images of"
            f" (it has of {_some(list(trained))})",
            hint="use --map OLD=NEW, such as --map stgan=stargan, or import the category",
        )
    alone = [test for test in ready.test if test.photos == "other" and lacks_other(dataset, ready.slice(test.fit))]
    if alone and not request.allow_missing:
        raise UsageError(
            f"{protocol.label} tests on real photos of another database, and {dataset.label} has none",
            hint="add some: flbench data import photos --real FOLDER --database NAME --into DATASET",
        )
    left_out = tuple(test.name for test in ready.test if test in alone or not set(test.categories) <= set(tested))
    if left_out and not request.allow_missing:
        names = _some([c for test in ready.test for c in test.categories if c not in tested])
        raise UsageError(
            f"{protocol.label} tests on {names}, which {dataset.label} does not have (it has {have})",
            hint="--allow-missing runs the rest and marks the record; --map OLD=NEW uses another category",
        )
    tests = tuple(test for test in ready.test if test.name not in left_out)
    if not tests:
        raise UsageError(f"{protocol.label} has no test slice left on {dataset.label} (it has {have})")
    kept = tuple(fit for fit in ready.fit if fit.name in {test.fit for test in tests})
    return ready.model_copy(update={"test": tests, "fit": kept}), left_out


def _some(names: Sequence[str], most: int = 12) -> str:
    """Return names once each, and how many more there are: an error is one line."""
    once = list(dict.fromkeys(names))
    more = [f"{len(once) - most} more"] if len(once) > most else []
    return ", ".join([*once[:most], *more])


def _select(dataset: Dataset, protocol: Protocol, test: TestSlice) -> Selection:
    return select_test(dataset, test, protocol.scoring.reals, protocol.slice(test.fit))


def _region(protocol: Protocol, dataset: Dataset, request: Request) -> str:
    """Return where regions come from, after checking that they can."""
    if protocol.scoring.over == "whole":
        return ""
    if request.region == "difference":
        return "difference"
    for test in protocol.test:
        fakes = _select(dataset, protocol, test).fakes
        bare = fakes[~dataset.parsed(fakes) & (fakes["attribute"] != ENTIRE)]
        if len(bare):
            raise UsageError(
                f"{protocol.label} scores in the edited region, but {len(bare)} of {len(fakes)} fakes of "
                f"{', '.join(test.categories)} in {dataset.label} {dataset.why_unparsed(bare)}",
                hint="import parsing maps, or use --region difference, which is recorded as such",
            )
    return "parsing"


def _fits(method: MethodChoice, protocol: Protocol, dataset: Dataset, seed: int, cap: int | None) -> dict[str, Fit]:
    """Return the fits of one method for one protocol, by slice name."""
    found = {}
    for piece in protocol.fit:
        content = {
            "method": method.entry.name,
            "source": method.entry.source,
            "options": method.options,
            "categories": sorted(piece.categories),
            "people": piece.people,
            "per_category": piece.per_category,
            "binarised": piece.binarised,
            "dataset": dataset.fingerprint,
            "size": protocol.size,
            "seed": seed,
            "cap": cap,
            **_departures(),
        }
        what = "+".join(c.replace("/", "-") for c in piece.categories[:2])
        identifier = f"{_file(method.name)}--{what}--{dataset.about.name}--s{seed}--{fingerprint(content)[:8]}"
        found[piece.name] = Fit(id=identifier, method=method, slice=piece.name, protocol=protocol, seed=seed, cap=cap)
    return found


def _cell_id(cell: Cell, dataset: Dataset, prepared: str) -> str:
    """Return the identifier of a cell; `prepared` is the fingerprint of its protocol, the same for many cells."""
    content = {
        "method": cell.method.entry.name,
        "source": cell.method.entry.source,
        "options": cell.method.options,
        "protocol": prepared,
        "origin": cell.origin,
        "dataset": dataset.fingerprint,
        "fits": dict(cell.fits),
        "seed": cell.seed,
        "region": cell.region,
        **_departures(),
    }
    method = _file(cell.method.name)
    name = f"{cell.protocol.name}-v{cell.protocol.version}"
    return f"{method}--{name}--{dataset.about.name}--s{cell.seed}--{fingerprint(content)[:8]}"


def _departures() -> dict[str, int]:
    """Return what the user allows beyond what is usual: more images can be read, so it is another fit or cell."""
    return {} if pixel_limit() == MAX_PIXELS else {"max_pixels": pixel_limit()}


def _file(name: str) -> str:
    """Return a name as it may stand in a file name."""
    return "".join(sign if sign.isalnum() or sign in "._-" else "." for sign in name)


def _units(fits: Mapping[str, Fit], cells: Sequence[Cell]) -> tuple[Unit, ...]:
    """Group cells that share fits; what costs less than starting a process forms one unit: references, no fits.

    A method of another distribution shares its process with no other, so that it can disturb none.
    """
    light: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.method.entry.reference or not cell.fits:
            light.setdefault(_guest(cell), []).append(cell)
    lightly = {cell.id for members in light.values() for cell in members}
    group_of: dict[str, int] = {}
    groups: dict[int, list[Cell]] = {}
    for number, cell in enumerate(cells):
        if cell.id in lightly:
            continue
        joined = sorted({group_of[fit] for fit in cell.fits.values() if fit in group_of})
        members = [member for old in joined for member in groups.pop(old)] + [cell]
        groups[number] = members
        group_of |= {fit: number for member in members for fit in member.fits.values()}
    return tuple(_unit(fits, members) for members in (*groups.values(), *light.values()))


def _guest(cell: Cell) -> str:
    """Return the name of a method that came with another distribution, "" for one of flbench's own."""
    entry = cell.method.entry
    return "" if entry.module.startswith("flbench.methods.") else entry.name


def _unit(fits: Mapping[str, Fit], cells: Sequence[Cell]) -> Unit:
    """Return the unit of some cells, with every fit they need once."""
    needed = dict.fromkeys(name for cell in cells for name in cell.fits.values())
    return Unit(fits=tuple(fits[name] for name in needed), cells=tuple(cells))


def unit_to_json(unit: Unit) -> dict[str, Any]:
    """Return a unit as JSON, for the process that carries it out."""

    def method(choice: MethodChoice) -> dict[str, Any]:
        document = {"name": choice.text, "given": dict(choice.given), "target": choice.target and choice.target.digest}
        return document | (
            {"weights": f"{choice.weights.place}{MARK}{choice.weights.digest}"} if choice.weights else {}
        )

    def plain(part: Fit | Cell) -> dict[str, Any]:
        document = {key: getattr(part, key) for key in part.__dataclass_fields__}
        document["method"] = method(part.method)
        document["protocol"] = part.protocol.model_dump(mode="json")
        return document

    return {"fits": [plain(fit) for fit in unit.fits], "cells": [plain(cell) for cell in unit.cells]}


def unit_from_json(document: Mapping[str, Any]) -> Unit:
    """Return the unit that `unit_to_json` wrote.

    Raises:
        MethodError: A method is broken by now, or its target or weights have changed.
    """
    from flbench.registry import choose_method

    def rebuilt(part: Mapping[str, Any]) -> dict[str, Any]:
        told = part["method"]
        choice = choose_method(told["name"], told["given"], weights=told.get("weights", ""))
        if (choice.target and choice.target.digest) != told.get("target"):
            raise MethodError(f"the target of {choice.name} changed after the run was planned", hint="run it again")
        return {**part, "method": choice, "protocol": Protocol.model_validate(part["protocol"])}

    fits = tuple(Fit(**rebuilt(part)) for part in document["fits"])
    listed = ("missing", "added")
    cells = tuple(Cell(**{**rebuilt(c), **{key: tuple(c[key]) for key in listed}}) for c in document["cells"])
    return Unit(fits=fits, cells=cells)
