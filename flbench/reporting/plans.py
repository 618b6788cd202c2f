"""A plan in words, and the conventions of thresholded metrics as tables, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flbench.reporting.cards import pairs, table
from flbench.reporting.tables import Table
from flbench.reporting.words import listing

if TYPE_CHECKING:
    from flbench.engine.costs import Estimate


def plan_words(estimate: Estimate) -> str:
    """Return one line: how many fits and cells there are, how many are left, and how long they take by what is known.

    Args:
        estimate: What was counted and measured.
    """
    left = f"{_of(estimate.fits_left, estimate.fits, 'fit')} and {_of(estimate.cells_left, estimate.cells, 'cell')}"
    if not estimate.cells_left and not estimate.fits_left:
        return f"{estimate.fits} fits and {estimate.cells} cells, all done"
    words = [f"{left} to do, {estimate.images:,} images to score"]
    known = f"about {duration(estimate.seconds)}"
    if estimate.unknown:
        names = listing([*estimate.unknown[:3], *(["others"] if len(estimate.unknown) > 3 else [])])
        words.append(f"{known}, and what {names} {'take' if len(estimate.unknown) > 1 else 'takes'}, not measured here")
    else:
        words.append(known)
    return "; ".join(words)


def _of(left: int, whole: int, noun: str) -> str:
    return f"{left} {noun}{'s' if left != 1 else ''}" if left == whole else f"{left} of {whole} {noun}s"


def duration(seconds: float) -> str:
    """Return a time in the unit that a person would use: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def convention_tables(axes: Mapping[str, str], conventions: Mapping[str, str]) -> list[Table]:
    """Return what the parts of a convention's name mean, then every name with its sentence."""
    return [
        pairs(axes.items(), title="A name has these parts"),
        table(("Convention", "What it is"), conventions.items(), title=f"The {len(conventions)} conventions"),
    ]
