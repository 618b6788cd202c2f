"""The typed model of a board: entries, rows and slices; numbers and words, no markup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

from flbench.protocol import Protocol
from flbench.record import DatasetInfo, ProtocolInfo, Record
from flbench.reporting.words import Number, clean, command, listing, machine, options

if TYPE_CHECKING:
    import pandas as pd

Place = Literal["ranked", "reference", "unranked"]
SHOWN_PANEL, SHOWN_CASES = "panel.webp", "cases.webp"
"""What panels are called beside a board."""

FEW = 6
"""Test slices that may have tables and curves of their own: of more, a board shows means and a row for each."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell as a board sees it.

    Attributes:
        record: Its record.
        scores: Its per-image scores; None where they are not at hand.
        folder: Where its files are, as a POSIX path relative to the board's file; "" if they are not beside it.
        panel: Whether a panel figure lies in the folder.
        cases: Whether a figure of best and worst samples lies there.
    """

    record: Record
    scores: pd.DataFrame | None = None
    folder: str = ""
    panel: bool = False
    cases: bool = False


class Key(NamedTuple):
    """What all records of one board have in common."""

    dataset: str
    dataset_version: str
    dataset_fingerprint: str
    protocol: str
    version: int
    fingerprint: str
    mapping: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    region: str = ""
    added: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Record) -> Key:
        """Return the key of a record's board."""
        asked, data = record.protocol, record.dataset
        return cls(
            data.name,
            data.version,
            data.fingerprint,
            asked.name,
            asked.version,
            asked.fingerprint,
            tuple(sorted(asked.mapping.items())),
            tuple(sorted(asked.missing)),
            asked.region,
            tuple(sorted(asked.added)),
        )

    @property
    def as_written(self) -> bool:
        """Whether the protocol was run as its file says."""
        return not self.mapping and not self.missing and not self.added and self.region in ("", "parsing")

    @property
    def departures(self) -> str:
        """How the runs depart from the protocol as written, in words; "" if they do not."""
        said = [f"{old} replaced by {new}" for old, new in self.mapping]
        if self.region not in ("", "parsing"):
            said.append(f"region from {self.region}")
        if self.missing:
            said.append(f"without {listing(self.missing)}")
        if self.added:
            said.append(f"with {listing(self.added)} added")
        return "; ".join(clean(part) for part in said)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One test slice of a board.

    Attributes:
        name: As in the protocol.
        fit: Fit slice whose fit is tested; "" if the protocol is not at hand.
        categories: Categories tested, after mapping; none if it has real photos of other databases only.
        fakes: Number of fakes.
        reals: Number of real photos.
        undefined: Fakes for which the primary metric has no value (no region); the least over the methods.
        reference: Whether other slices are compared with it.
        ranks: Whether it counts for the rank.
    """

    name: str
    fit: str = ""
    categories: tuple[str, ...]
    fakes: int
    reals: int
    undefined: int
    reference: bool
    ranks: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method with one set of options, over its seeds.

    Attributes:
        place: "ranked", "reference" (stands beside the ranks), or "unranked" (below the line).
        entries: Its cells, by seed.
        primary: Mean of the primary metric over the slices that rank.
        numbers: (test, condition) to metric to number.
        gammas: (test, condition) to metric to γ, the percentage of the clean value.
        rank: "1", or "2–3" for a tie; "" if not ranked.
        reason: Why it is unranked.
        notes: What a reader must know of it.
    """

    place: Place
    entries: tuple[Entry, ...]
    primary: Number
    numbers: Mapping[tuple[str, str], Mapping[str, Number]]
    gammas: Mapping[tuple[str, str], Mapping[str, Number]] = field(default_factory=dict)
    rank: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> Record:
        """The record of the first seed, for what all seeds share."""
        return self.entries[0].record

    @property
    def method(self) -> str:
        """Name, with the options set by the user."""
        given = options(self.record.method.given)
        return f"{clean(self.record.method.name)} ({given})" if given else clean(self.record.method.name)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the fits; empty for a method that is not fitted."""
        return tuple(entry.record.seed for entry in self.entries) if self.record.method.fits else ()

    @property
    def command(self) -> str:
        """The command that measures the row again."""
        return command(self.record, self.seeds)

    @property
    def machine(self) -> str:
        """What the times were measured on."""
        return "; ".join(sorted({machine(entry.record.provenance) for entry in self.entries}))

    def seconds(self, timing: str) -> float | None:
        """Return the mean of a timing over the seeds that have it."""
        known = [entry.record.timings[timing] for entry in self.entries if timing in entry.record.timings]
        return fmean(known) if known else None

    def number(self, test: str, metric: str, condition: str = "clean") -> Number | None:
        """Return one number, or None."""
        return self.numbers.get((test, condition), {}).get(metric)

    def gamma(self, test: str, metric: str, condition: str) -> Number | None:
        """Return γ of one number, or None."""
        return self.gammas.get((test, condition), {}).get(metric)


@dataclass(frozen=True, kw_only=True)
class Board:
    """Every record of one key, ranked.

    Attributes:
        key: What the records have in common.
        protocol: The protocol, mapped as the runs were; None if this content of it is not at hand.
        asked: The protocol as the records tell it.
        dataset: The data set.
        tests: Test slices that ran.
        conditions: Conditions that ran, "clean" first.
        rows: Ranked rows by rank, then reference rows, then the rest.
        shadowed: Older records of the same method, options and seed, which are not shown.
    """

    key: Key
    protocol: Protocol | None
    asked: ProtocolInfo
    dataset: DatasetInfo
    tests: tuple[Slice, ...]
    conditions: tuple[str, ...]
    rows: tuple[Row, ...]
    shadowed: int = 0

    def placed(self, place: str) -> list[Row]:
        """Return the rows of one place, in order."""
        return [row for row in self.rows if row.place == place]

    @property
    def ranking(self) -> list[str]:
        """Names of the test slices that rank."""
        return [test.name for test in self.tests if test.ranks]

    @property
    def long(self) -> bool:
        """Whether there are too many test slices for a table each."""
        return len(self.tests) > FEW
