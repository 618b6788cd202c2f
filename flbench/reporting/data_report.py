"""The report on a data set as tables and as markdown; its numbers come ready made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flbench.reporting.render import anchor, code, escape, grid
from flbench.reporting.tables import Cell, Column, Group, Table
from flbench.reporting.words import NOTHING

Document = Mapping[str, Any]
HOLDS = {True: "holds", False: "does not hold", None: NOTHING}
_NUMBERS = {"power": "residual, dB", "frame": "border, dB", "brightness": "mean gray"}


def report_tables(document: Document) -> list[Table]:
    """Return the tables of a report; one about which nothing is known is left out."""
    made = [_claims(document), _strengths(document), _ideals(document), _peaks(document)]
    made += [_settings(document), _numbers(document), _people(document)]
    return [table for table in made if table is not None]


class Verdict(NamedTuple):
    """What a data set is meant to keep to.

    Attributes:
        text: The claim.
        holding: For how many of the things it speaks of it holds.
        asked: Of how many that is known.
    """

    text: str
    holding: int
    asked: int

    @property
    def word(self) -> str:
        """Say whether it holds, and for how many if not for all."""
        if self.holding == self.asked:
            return HOLDS[True] if self.asked else NOTHING
        return f"{HOLDS[False]}, {self.holding} of {self.asked} do"


def verdicts(document: Document) -> list[Verdict]:
    """Return whether the data set keeps to what it is meant to, over all its categories, generators and photos."""
    asked, categories, generators = document["asked"], document["categories"], document["generators"]
    share, level = f"{asked['agreement']:.0%}", f"{asked['auroc']:.2f}"
    told = [number["holds"] for row in generators for number in row["numbers"].values()]
    people = [row["sources"]["holds"] for row in categories if row["sources"]]
    return [
        _verdict_on(
            f"fakes look like their edit's name, at least {share} of every category",
            _each(categories, "agreement_holds"),
        ),
        _verdict_on(
            f"edits are at least {asked['ratio']:g} times as strong in their region as outside",
            _each(categories, "ratio_holds"),
        ),
        _verdict_on("generators leave the trace of their upsampling", _each(generators, "holds")),
        _verdict_on("photos show no such trace", _each(document["photos"], "holds")),
        _verdict_on(f"single numbers do not tell fakes from photos (AUROC below {level})", told),
        _verdict_on(f"people on fakes are like those on photos (AUROC below {level})", people),
    ]


def verdict_table(document: Document) -> Table:
    """Return the verdicts as a table."""
    rows = [(Cell(verdict.text), Cell(verdict.word)) for verdict in verdicts(document)]
    return _table("What it is meant to keep to", "", ("for all of it", "verdict"), rows)


def report_markdown(document: Document, pictures: Sequence[str] = ()) -> str:
    """Return a report as GitHub-flavoured markdown, a function of its arguments only.

    Args:
        document: The report.
        pictures: Names of the pictures beside it.
    """
    data = document["dataset"]
    lines = [f"# Report on {escape(data['name'])} v{escape(data['version'])}", ""]
    lines += [
        f"Fingerprint {code(data['fingerprint'][:12])}, {document['images']:,} images of {document['size']} × "
        f"{document['size']} pixels, {document['measured']:,} of them measured. Made by {code('flbench data report')}.",
        "",
    ]
    lines += [f"- {escape(verdict.text)}: **{verdict.word}**" for verdict in verdicts(document)]
    for table in report_tables(document):
        lines += ["", f"## {escape(table.title)}", "", escape(table.note), "", *grid(table)]
    if pictures:
        lines += ["", "## Pictures", ""]
        lines += [f"!{anchor(name.rpartition('.')[0], name)}" for name in pictures]
    return "\n".join(lines) + "\n"


def _each(rows: Sequence[Mapping[str, Any]], key: str) -> list[bool | None]:
    return [row[key] for row in rows]


def _verdict_on(text: str, holds: Sequence[bool | None]) -> Verdict:
    known = [one for one in holds if one is not None]
    return Verdict(text, sum(known), len(known))


def _table(title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], left: int = 1) -> Table:
    """Return a table whose first columns hold words; the last one too if it holds verdicts."""
    words = {*range(left), *([len(columns) - 1] if columns[-1] == "verdict" else [])}
    heads = tuple(Column(name, place not in words) for place, name in enumerate(columns))
    return Table(title=title, note=note, columns=heads, groups=(Group("", tuple(map(tuple, rows))),))


def _number(value: float | None, digits: int = 3) -> Cell:
    if value is None:
        return Cell(NOTHING)
    text = f"{value:.{digits}f}"
    return Cell(text.removeprefix("-") if float(text) == 0 else text, value)


def _share(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else f"{100 * value:.1f} %", value)


def _verdict(holds: bool | None) -> Cell:
    return Cell(HOLDS[holds])


def _claims(document: Document) -> Table | None:
    if all(row["agreement"] is None for row in document["categories"]):
        return None
    rows = [
        (
            Cell(row["category"]),
            Cell(str(row["n"]), row["n"]),
            Cell(str(row["measured"]), row["measured"]),
            *map(_share, (row["agreement"], row["agreement_ideal"], row["agreement_photos"])),
            _verdict(row["agreement_holds"]),
        )
        for row in document["categories"]
    ]
    note = (
        "How often an attribute classifier that has never seen a fake reads on it what the edit claims; the same for "
        "perfect edits, rendered anew, and for the photos before the edit, where it should be rare. "
        f"Asked for: at least {document['asked']['agreement']:.0%} on the fakes."
    )
    columns = ("category", "fakes", "measured", "agreement", "perfect edit", "photo before", "verdict")
    return _table("Edits look like their name", note, columns, rows)


def _strengths(document: Document) -> Table:
    rows = [
        (
            Cell(row["category"]),
            *map(_number, (row["inside"], row["outside"])),
            _number(row["ratio"], 1),
            *map(_number, (row["away"], row["mean"])),
            *map(_share, (row["above"], row["present"])),
            _verdict(row["ratio_holds"]),
        )
        for row in document["categories"]
    ]
    note = (
        "Mean of M, the gray difference to the photo, over the pixels of all fakes: inside the attribute's region by "
        "parsing maps, outside it, away from it by more than a sixteenth of the side, and of the whole image; then the "
        "shares of pixels with M above .1 and above 0. For a face that is synthetic as a whole: the difference to the "
        "person's photo. Edits of photographs by StarGAN and STGAN have a mean of about .03 away from the edit and of "
        ".06 to .11 over the image for hair colours, and 1 to 2 % of the pixels above .1 for small edits. "
        f"Asked for: inside at least {document['asked']['ratio']:g} times outside."
    )
    columns = ("category", "inside", "outside", "ratio", "away", "mean", "M > .1", "M > 0", "verdict")
    return _table("Where the difference is", note, columns, rows)


def _ideals(document: Document) -> Table | None:
    known = [row for row in document["categories"] if row["ideal"]]
    if not known:
        return None
    rows = [
        (
            Cell(row["category"]),
            *map(_number, (row["ideal"]["inside"], row["ideal"]["outside"])),
            _number(row["ideal"]["ratio"], 1),
            _number(row["ideal"]["away"]),
        )
        for row in known
    ]
    note = (
        "The same with the region of the perfect edit: where a photo of the person after the edit differs from the "
        "one before by more than .06, grown by a pixel."
    )
    return _table("Where the difference should be", note, ("category", "inside", "outside", "ratio", "away"), rows)


def _peaks(document: Document) -> Table:
    points = document["points"]
    rows = []
    for row in document["photos"]:
        name = f"photos, {row['split']}"
        rows.append((Cell(name), *(_number(row["peaks"][p], 1) for p in points), _verdict(row["holds"])))
    for row in document["generators"]:
        name = f"{row['generator']} ({row['upsampling']})" if row["upsampling"] else row["generator"]
        rows.append((Cell(name), *(_number(row["peaks"][p], 1) for p in points), _verdict(row["holds"])))
    asked = {row["upsampling"]: " and ".join(row["bounds"]) for row in document["generators"] if row["bounds"]}
    note = (
        "How far, in dB, the spectrum of what a 3×3 median removes stands out at frequencies (in cycles per pixel) "
        "where upsampling by two leaves peaks. Asked for: photos < 3 dB everywhere"
    )
    note += "".join(f"; {operator} {bounds}" for operator, bounds in sorted(asked.items())) + "."
    return _table("Traces of upsampling", note, ("images", *points, "verdict"), rows)


def _settings(document: Document) -> Table:
    rows = [
        (
            Cell(row["split"]),
            Cell(row["scenery"] or NOTHING),
            Cell(row["camera"] or NOTHING),
            Cell(str(row["n"]), row["n"]),
            *(_number(row[number], 1) for number in _NUMBERS),
        )
        for row in document["photos"]
    ]
    note = "Where and with what the photos of a split were taken, and their mean numbers."
    columns = ("split", "scenery", "camera", "photos", *_NUMBERS.values())
    return _table("Photos of the splits", note, columns, rows, left=3)


def _numbers(document: Document) -> Table:
    rows = []
    for name, words in _NUMBERS.items():
        for row in document["generators"]:
            told = row["numbers"][name]
            numbers = (_number(told["photos"], 1), _number(told["fakes"], 1), _number(told["auroc"]))
            rows.append((Cell(words), Cell(row["generator"]), *numbers, _verdict(told["holds"])))
    note = (
        "What a detector could live on without seeing an edit: the power of what a 3×3 median removes (sensor noise "
        "that a generator loses), that power in a frame of 2 pixels over the next 8, and brightness. AUROC of the "
        "number alone, fakes against photos of the same people, in the better of both directions. "
        f"Asked for: below {document['asked']['auroc']:.2f}."
    )
    columns = ("number", "generator", "photos", "fakes", "AUROC", "verdict")
    return _table("Shortcuts: single numbers", note, columns, rows, left=2)


def _people(document: Document) -> Table | None:
    known = [row for row in document["categories"] if row["sources"]]
    if not known:
        return None
    rows = [
        (
            Cell(row["category"]),
            Cell(row["sources"]["attribute"]),
            *map(_share, (row["sources"]["photos"], row["sources"]["fakes"])),
            _number(row["sources"]["auroc"]),
            _number(row["sources"].get("edit_auroc")),
            _verdict(row["sources"]["holds"]),
        )
        for row in known
    ]
    note = (
        "The attribute, of those that the edit leaves alone, in whose share people on fakes and on photos of the same "
        "splits differ most, and how well it alone tells them apart. Asked for: an AUROC below "
        f"{document['asked']['auroc']:.2f}. The last AUROC is that of asking whether a face shows what the edit adds: "
        "it belongs to the task, and tells why a locator of one edit must be tried on others."
    )
    columns = ("category", "attribute", "on photos", "on fakes", "AUROC", "the edit's", "verdict")
    return _table("Shortcuts: who is edited", note, columns, rows, left=2)
