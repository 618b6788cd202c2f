"""The datasheet of the embedded data set: what it is, what it stands for, what it cannot; imports no torch.

The words are in `datasheet.md`; the numbers are taken from the cards that training and measuring left beside the
weights, so that neither can say what the other does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flbench.data.parsing_quality import good_regions
from flbench.synthetic.profiles import CATEGORIES, OFFERED, PROFILES, WEIGHTS, Profile

_WORDS = Path(__file__).parent / "datasheet.md"


def datasheet() -> str:
    """Return the datasheet as markdown, the same bytes each time.

    Every line `{name}` of `datasheet.md` is replaced by the table of that name.
    """
    tables = {
        "{profiles}": _profiles,
        "{generators}": _generators,
        "{edits}": _edits,
        "{fingerprints}": _fingerprints,
        "{classifier}": _classifier,
        "{parser}": _parser,
    }
    lines = _WORDS.read_text(encoding="utf-8").splitlines()
    return "\n".join(tables[line]() if line in tables else line for line in lines) + "\n"


def card(name: str) -> dict[str, Any]:
    """Return the card of a network that ships: what its training wrote beside the weights."""
    return json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a markdown table, all columns but the first to the right."""
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _profiles() -> str:
    splits = (f"{split}: sources + others / fakes" for split in ("train", "valid", "test"))
    return _table(
        ("profile", "size", *splits, "test: guests"),
        (_profile(profile) for profile in PROFILES.values() if not profile.finished),
    )


def _profile(profile: Profile) -> tuple[str, ...]:
    people = (
        f"{split.sources:,} + {split.others:,} / {sum(split.fakes.values()):,}" for split in profile.splits.values()
    )
    return f"`{profile.name}`", f"{profile.size} px", *people, f"{profile.splits['test'].guests:,}"


def _generators() -> str:
    rows = []
    for name in OFFERED:
        known = card(name)
        rows.append(
            (
                known["title"],
                known["upsampling"],
                f"{known['parameters'] / 1e6:.2f} M",
                f"{known['images']:,}",
                f"{known['cpu_seconds'] / 60:.0f} min",
                known["held_out_l1"],
                f"{known['reconstruction']:.3f}",
            )
        )
    titles = ("family", "upsampling", "parameters", "images seen", "CPU", "L1 to the ideal edit, 0–255")
    return _table((*titles, "mean M without an edit"), rows)


def _edits() -> str:
    """Return a table family × edit of M inside / outside the region of the ideal edit."""
    edits = list(dict.fromkeys(category.partition("/")[2] for category in CATEGORIES if "/entire" not in category))
    rows = []
    for edit in edits:
        cells = []
        for name in OFFERED:
            known = card(name)["edits"].get(edit)
            offered = known is not None and f"{name}/{edit}" in CATEGORIES
            cells.append(f"{known['inside']:.3f} / {known['outside']:.3f} = {known['ratio']:.1f}" if offered else "")
        rows.append((edit, *cells))
    used = [index for index, name in enumerate(OFFERED, 1) if OFFERED[name] != ("entire",)]
    names = list(OFFERED)
    return _table(("edit", *(names[index - 1] for index in used)), ((row[0], *(row[i] for i in used)) for row in rows))


def _fingerprints() -> str:
    points = ("1/2,0", "1/2,1/2", "1/4,0", "1/4,1/4", "1/2,1/4", "1/8,1/8")
    rows = [("photos", "camera", *(card(next(iter(OFFERED)))["fingerprint_photos"][point] for point in points))]
    rows += [
        (name, card(name)["upsampling"], *(card(name)["fingerprint"][point] for point in points)) for name in OFFERED
    ]
    return _table(("made by", "upsampling", *points), rows)


def _classifier() -> str:
    accuracy = card("classifier")["accuracy"]
    return _table(tuple(accuracy), [tuple(f"{100 * value:.1f} %" for value in accuracy.values())])


def _parser() -> str:
    known = card("parser")
    measured = known["measured_on_real"]
    offered = good_regions(measured)
    classes = [(name, "" if value is None else f"{value:.2f}") for name, value in measured["classes"].items()]
    regions = [
        (name, f"{iou['pooled']:.2f}", f"{iou['per_image']:.2f}", "yes" if name in offered else "no")
        for name, iou in measured["regions"].items()
    ]
    words = f"{measured['images']} photos, mean IoU {measured['mean_iou']:.2f} over the classes that occur."
    of_regions = _table(("region of", "IoU, pooled", "IoU, mean per photo", "offered"), regions)
    return "\n\n".join((words, _table(("class", "IoU"), classes), of_regions))
