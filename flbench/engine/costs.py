"""What fits and predictions cost on this machine, remembered from run to run, so that a plan can tell its time.

Nothing is guessed from a table: a method that never ran here on images of this size has no known time, and the
estimate says so. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flbench.data.dataset import Dataset, select_test
from flbench.engine.plan import Fit, Plan
from flbench.errors import RunError
from flbench.files import write_json
from flbench.protocol import Protocol, TestSlice, fingerprint
from flbench.registry import MethodChoice
from flbench.study import Study

FILE = "costs.json"
START_S = 8.0
"""Seconds that the process of a work unit takes to start and to import its libraries."""

KEEP = 2000
"""Measurements kept, the newest ones."""

_Asked = tuple[tuple[str, ...], str, str, tuple[str, ...]]
"""Categories and photos of a test slice, which real photos count, and the categories of its fit."""


@dataclass(frozen=True)
class Estimate:
    """How much a plan is.

    Attributes:
        fits: Fits in the plan.
        fits_left: Those still to be made.
        cells: Cells in the plan.
        cells_left: Those still to be done.
        images: Images to be predicted, each condition counted; an upper limit, since cells share predictions.
        seconds: Time for what is left, of what is known.
        unknown: Methods of which no time is known here.
    """

    fits: int
    fits_left: int
    cells: int
    cells_left: int
    images: int
    seconds: float
    unknown: tuple[str, ...]


def place(device: str, threads: int) -> str:
    """Return a name for where work is done: times of one place say nothing about another."""
    return f"{device}, {threads} threads"


def estimate(plan: Plan, study: Study, where: str, folder: Path) -> Estimate:
    """Return how much of a plan is left and how long it will take, by what was measured before.

    Args:
        plan: What is asked.
        study: What is done.
        where: Where it will run, see `place`.
        folder: Where measurements are kept.
    """
    known = _read(folder / FILE)
    left = plan.open(study)
    fits = [fit for unit in left for fit in unit.fits if study.fit(fit.id) is None]
    cells = [cell for unit in left for cell in unit.cells]
    seconds, images = START_S * len(left), 0
    unknown: dict[str, None] = {}
    for fit in fits:
        cost = known.get(_fit_key(fit, where))
        if cost is None:
            unknown[fit.method.name] = None
        seconds += cost or 0.0
    slices = _Slices(plan.dataset)
    seen: set[tuple[str, _Asked, str]] = set()
    for cell in cells:
        cost = known.get(_key("image", cell.method, int(cell.protocol.size), where))
        if cost is None and not cell.method.entry.reference:
            unknown[cell.method.name] = None
        scoring = known.get(_score_key(int(cell.protocol.size), where), 0.0)
        for needed, asked, number in slices.of(cell.protocol):
            for condition in cell.protocol.conditions:
                key = (cell.fits.get(needed, cell.method.name), asked, condition)
                fresh = key not in seen
                seen.add(key)
                images += number
                seconds += number * ((cost or 0.0) * fresh + scoring)
    return Estimate(
        fits=len(plan.fits),
        fits_left=len(fits),
        cells=len(plan.cells),
        cells_left=len(cells),
        images=images,
        seconds=seconds,
        unknown=tuple(unknown),
    )


class _Slices:
    """The test slices of protocols with their number of images, each looked up once whatever the number of cells."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._protocols: dict[int, list[tuple[str, _Asked, int]]] = {}
        self._counts: dict[_Asked, int] = {}

    def of(self, protocol: Protocol) -> list[tuple[str, _Asked, int]]:
        """Return for every test slice the fit it needs, what it asks for, and how many images that is."""
        if id(protocol) not in self._protocols:  # the cells of a plan hold it, so its identity stays its own
            self._protocols[id(protocol)] = [self._slice(test, protocol) for test in protocol.test]
        return self._protocols[id(protocol)]

    def _slice(self, test: TestSlice, protocol: Protocol) -> tuple[str, _Asked, int]:
        reals, fit = protocol.scoring.reals, protocol.slice(test.fit)
        asked = (test.categories, test.photos, reals, fit.categories)
        alike = asked if test.photos == "other" else (*asked[:3], ())  # other photos alone depend on the fit
        if alike not in self._counts:
            chosen = select_test(self._dataset, test, reals, fit)
            self._counts[alike] = len(chosen.fakes) + len(chosen.reals)
        return test.fit, asked, self._counts[alike]


def remember(plan: Plan, study: Study, folder: Path) -> None:
    """Keep what the fits and cells of a plan have cost, newest last; a folder that cannot be written is no error."""
    known = _read(folder / FILE)
    before = dict(known)
    for fit in plan.fits:
        document = study.fit(fit.id)
        if document is not None:
            where = _where(document["provenance"])
            known.update(_measured(_fit_key(fit, where), document["timings"].get("fit_s")))
    for cell in plan.cells:
        record = study.record(cell.id)
        if record is not None:
            where, size = _where(record.provenance), int(cell.protocol.size)
            known.update(_measured(_key("image", cell.method, size, where), record.timings.get("s_per_image")))
            images = sum(result.fakes + result.reals for result in record.results)
            spent = record.timings.get("score_s")
            known.update(_measured(_score_key(size, where), spent and images and spent / images))
    if known == before:
        return
    with suppress(RunError, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, dict(list(known.items())[-KEEP:]))


def _score_key(size: int, where: str) -> str:
    return f"score {size} px, {where}"


def _fit_key(fit: Fit, where: str) -> str:
    return _key("fit", fit.method, int(fit.protocol.size), where, fit.cap)


def _measured(key: str, value: float | None) -> dict[str, float]:
    return {key: float(value)} if value else {}


def _where(provenance: Mapping[str, Any]) -> str:
    device = "cpu" if str(provenance.get("device", "")).startswith("cpu") else "cuda"
    return place(device, int(provenance.get("threads", 0)))


def _key(what: str, method: MethodChoice, size: int, where: str, cap: int | None = None) -> str:
    options = fingerprint(method.options)[:12]
    return f"{what} {method.name} {options} {size} px, {where}{f', {cap} steps' if cap else ''}"


def _read(path: Path) -> dict[str, float]:
    with suppress(OSError, ValueError):
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return {key: float(value) for key, value in document.items() if isinstance(value, int | float)}
    return {}
