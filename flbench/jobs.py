"""The jobs behind the commands: find or make a data set, plan, run, draw. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flbench import stale
from flbench.data.dataset import Dataset, read_dataset
from flbench.data.parsers import FolderParser, OnnxParser, Parser, parser_from
from flbench.data.parsing import Filled, fill_parsing
from flbench.engine import costs
from flbench.engine.local import Machine, run_plan, usable_cores
from flbench.engine.plan import Plan, Request, make_plan, prepare
from flbench.errors import UsageError, suggest
from flbench.files import home, write_json, write_text
from flbench.protocol import Protocol
from flbench.record import Record
from flbench.registry import MethodChoice, choose_named, dataset_makers, load_maker, load_parser, reference_methods
from flbench.study import Study

if TYPE_CHECKING:
    from flbench.reporting.agreement import Agreement
    from flbench.reporting.claims import Verdict
    from flbench.reporting.model import Entry

Progress = Callable[[str, int, int], None]


def make_dataset(
    name: str,
    profile: str,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Dataset:
    """Return a data set that is made by code, made now if the cache has it not; what was begun is gone on with.

    Args:
        name: Such as `synthfaces`.
        profile: One of the maker's profiles.
        progress: Called with stage, done and total.
        workers: Processes; None for one per usable core.
        say: Called, before it is made, with how much it is.

    Raises:
        UsageError: Unknown data set or profile.
        RunError: The cache folder cannot be written or has too little space.
        Interrupted: Ctrl+C; what is finished is kept.
    """
    maker = load_maker(name)
    if profile not in maker.PROFILES:
        raise UsageError(f"data set {name} has no profile {profile!r}", hint=suggest(profile, list(maker.PROFILES)))
    folder = cached_dataset(name, profile)
    if not (folder / "dataset.toml").is_file():
        if say is not None:
            say(f"{name} {profile}: {maker.estimate(profile)}")
        tell = None if progress is None else partial(progress, f"make {name} {profile}")
        maker.make(profile, folder, workers=workers or usable_cores(), progress=tell)
    return read_dataset(folder)


def cached_dataset(name: str, profile: str) -> Path:
    """Return where a data set made by code is kept; the folder carries the fingerprint of its recipe."""
    return home() / "datasets" / f"{name}-{profile}-{load_maker(name).recipe(profile)[:8]}"


def open_parser(text: str) -> Parser:
    """Return a parser by the name of its entry point, or by `folder:DIR`, `onnx:FILE` or `module:callable`.

    Raises:
        UsageError: Nothing of that name, or what it names cannot be a parser.
        DataError: It is damaged, or fails while it is made.
    """
    kind, _, rest = text.partition(":")
    if kind == "folder":
        return FolderParser(Path(rest))
    if kind == "onnx":
        return OnnxParser(Path(rest))
    return parser_from(load_parser(text), rest.rpartition(".")[2] or text)


def parse_dataset(folder: Path, parser: str, *, replace: bool = False, progress: Progress | None = None) -> Filled:
    """Fill in the parsing maps that a data set lacks.

    Args:
        folder: The data set.
        parser: As for `open_parser`.
        replace: Renew the maps that are there too.
        progress: Called with stage, done and total.

    Raises:
        UsageError: The parser is unknown, or the data set is not one to be filled in.
        DataError: The data set is damaged, or the parser fails.
        RunError: The folder cannot be written, or another command changes it.
    """
    tell = None if progress is None else partial(progress, f"parse {folder}")
    return fill_parsing(read_dataset(folder), open_parser(parser), replace=replace, progress=tell)


def open_dataset(text: str, profile: str, *, progress: Progress | None = None) -> Dataset:
    """Return a data set by the name of its maker, by maker and profile in one word, or by its folder.

    Raises:
        UsageError: Neither a known name nor a folder with a `dataset.toml`.
        DataError: The folder is damaged.
    """
    if text in dataset_makers():
        return make_dataset(text, profile, progress=progress)
    name, _, named = text.partition("-")
    if name in dataset_makers() and not Path(text).exists():
        return make_dataset(name, named, progress=progress)
    folder = Path(text)
    if not folder.is_dir():
        raise UsageError(f"no data set {text!r}", hint=f"a folder, or one of: {', '.join(dataset_makers())}")
    return read_dataset(folder)


def report_dataset(
    dataset: Dataset, *, into: Path | None = None, progress: Progress | None = None
) -> tuple[dict[str, Any], list[Path]]:
    """Measure a data set of fakes: whether edits look like their name, where they are, and what gives them away.

    Args:
        dataset: The data set.
        into: Folder for `report.json`, `report.md`, `spectra.png` and, where images may be published, a sheet per
            generator; None writes nothing.
        progress: Called with stage, done and total.

    Returns:
        The report, and the files written.

    Raises:
        UsageError: The data set has no fakes.
        DataError: An image is missing or cannot be read.
        RunError: The folder cannot be written.
    """
    from flbench.reporting.data_report import report_markdown
    from flbench.synthetic import figures, report
    from flbench.synthetic.classifier import load_classifier

    tell = None if progress is None else partial(progress, f"report on {dataset.about.name}")
    made = report.report_dataset(dataset, classifier=load_classifier(), progress=tell)
    if into is None:
        return made.document, []
    pictures = figures.draw_report(made, into, sheets=dataset.about.publishable)
    write_json(into / "report.json", made.document)
    write_text(into / "report.md", report_markdown(made.document, [path.name for path in pictures]))
    return made.document, [into / "report.json", into / "report.md", *pictures]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left behind.

    Attributes:
        records: Records of the planned cells, in the order of the plan.
        panels: Cell to the panel drawn for it.
        missing: Cells that have no record.
    """

    records: list[Record]
    panels: Mapping[str, Path] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def plan_run(
    dataset: Dataset,
    protocols: Sequence[Protocol],
    methods: Sequence[MethodChoice],
    seeds: Sequence[int],
    request: Request,
    *,
    references: bool = True,
    lenient: bool = False,
) -> Plan:
    """Plan methods on protocols, with the reference rows that stand in every table.

    Args:
        dataset: The data set.
        protocols: What is asked.
        methods: What is tested; none: on each protocol the methods that its table compares.
        seeds: Seeds of the fits.
        request: What else the user asks for.
        references: Whether reference rows are planned too.
        lenient: Leave out protocols that cannot run on the data set, and say so in the plan.

    Raises:
        UsageError: A protocol cannot run on the data set, or names no method to run if none is given.
    """
    asked: list[tuple[Protocol, list[MethodChoice]]] = []
    left_out: dict[str, str] = {}
    for protocol in protocols:
        try:
            prepare(protocol, dataset, request)
        except UsageError as error:
            if not lenient:
                raise
            left_out[protocol.label] = error.message.removeprefix(f"{protocol.label} ")
            continue
        chosen = list(methods) or [choose_named(name, protocol.label) for name in protocol.methods]
        if not chosen and references:
            raise UsageError(f"{protocol.label} names no methods to run", hint="name some with --method")
        asked.append((protocol, _without_doubles([*chosen, *(reference_methods() if references else [])])))
    if protocols and not asked:
        raise UsageError(f"no protocol can run on {dataset.label}: {' '.join(next(iter(left_out.items())))}")
    return replace(make_plan(dataset, asked, seeds, request), left_out=left_out)


def _without_doubles(methods: Sequence[MethodChoice]) -> list[MethodChoice]:
    return list({(method.name, str(method.given)): method for method in methods}.values())


def carry_out(plan: Plan, study: Study, machine: Machine, watch: Callable[[Mapping[str, Any]], None]) -> Outcome:
    """Run what is left of a plan and return the records of all of it.

    Raises:
        FlbenchError: A unit could not be carried out; what is finished is kept.
    """
    try:
        run_plan(plan, study, machine, watch)
    finally:
        costs.remember(plan, study, home())
    from flbench.reporting.study_figures import draw_panels

    records = {cell.id: study.record(cell.id) for cell in plan.cells}
    found = [record for record in records.values() if record is not None]
    return Outcome(
        records=found,
        panels=draw_panels(found, study),
        missing=tuple(cell for cell, record in records.items() if record is None),
    )


def estimate_run(plan: Plan, study: Study, machine: Machine) -> costs.Estimate:
    """Say how much of a plan is left and, from what was measured here before, how long it will take."""
    where = costs.place(machine.device, machine.cores)
    return costs.estimate(plan, study, where, home())


def publish_boards(study: Path, into: Path, *, check: bool = False) -> tuple[list[Path], list[str]]:
    """Copy the records of a study into the folder of boards and render them, or find what would change.

    Returns:
        The files written, and what a reader should know of records that are stale; with `check`, the files whose
        content is not what the records give, and nothing else, since no study is read.

    Raises:
        UsageError: There is no record to publish.
    """
    from flbench.registry import find_protocol, protocols
    from flbench.reporting import publish as boards

    known = {name: find_protocol(name) for name in protocols()}
    if check:
        return boards.stale(into, known), []
    store = Study(study)
    records = [(record, store.cell_folder(record.cell)) for record in store.records()]
    if not records and not any(into.glob("*/*/*/run.json")):
        raise UsageError(f"{study} has no record to publish", hint="flbench run --method ... --protocol ...")
    now = stale.states(store, [record for record, _ in records])
    return boards.publish(records, known, into), stale.notes((record for record, _ in records), now)


def compare_data(
    study: Path, protocols: Sequence[str] = (), *, into: Path | None = None, progress: Progress | None = None
) -> list[Agreement]:
    """Compare the orders in which data sets put the same methods, by the records of a study.

    Args:
        study: Its folder.
        protocols: Names or TOML files; none: every protocol there are records of.
        into: Markdown file to write; None writes nothing.
        progress: Called with stage, done and total.

    Raises:
        UsageError: There is no record, or no protocol has records that can be compared on two data sets.
        DataError: The per-image scores of a cell are damaged.
        RunError: The file cannot be written.
    """
    from flbench import registry
    from flbench.reporting.agreement import agreements
    from flbench.reporting.agreement_tables import agreement_markdown

    asked = [registry.find_protocol(name) for name in protocols]
    known = {name: registry.find_protocol(name) for name in registry.protocols()}
    known |= {protocol.name: protocol for protocol in asked}
    names = {protocol.name for protocol in asked}
    kept = _entries(study, names or None)
    if not kept:
        of = f" of {', '.join(sorted(names))}" if names else ""
        raise UsageError(f"{study} has no record{of} to compare", hint="flbench run --method ... --protocol ...")
    found = agreements(kept, known, progress=progress)
    if not found:
        there = sorted({f"{e.record.protocol.name} on {e.record.dataset.name}" for e in kept})
        raise UsageError(
            f"no protocol has records on two data sets, only {', '.join(there)}",
            hint="run the same protocol with --data A and --data B first",
        )
    if not any(agreement.comparisons for agreement in found):
        left = [": ".join(two) for agreement in found for two in agreement.left_out]
        raise UsageError(f"nothing can be compared: {left[0] if left else 'the data sets share no test slice'}")
    if into is not None:
        write_text(into, agreement_markdown(found))
    return found


def judge_claims(
    study: Path,
    file: str = "",
    data: str = "",
    *,
    mapping: Mapping[str, str] | None = None,
    region: str = "parsing",
    into: Path | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Hold claims against the records of a study on one data set.

    Args:
        study: Its folder.
        file: TOML file of claims; "" for those that ship.
        data: Name of the data set; "" if the study has records of one only.
        mapping: Categories that were put in place of the protocols' own; runs without do not count then.
        region: Where regions came from, as for a run.
        into: Markdown file to write; None writes nothing.
        progress: Called with stage, done and total.

    Raises:
        UsageError: No data set is named, and there are records of none or of several.
        DataError: The per-image scores of a cell are damaged.
        RunError: The file cannot be written.
    """
    from flbench import registry
    from flbench.reporting.claim_tables import claims_markdown
    from flbench.reporting.claims import Terms, judge

    claims = registry.find_claims(file)
    known = {name: registry.find_protocol(name) for name in registry.protocols()}
    kept = _entries(study, set(claims.protocols))
    terms = Terms(tuple(sorted((mapping or {}).items())), region)
    verdicts = judge(claims, kept, known, data=data, terms=terms, progress=progress)
    if into is not None:
        write_text(into, claims_markdown(verdicts))
    return verdicts


def _entries(study: Path, protocols: Container[str] | None = None) -> list[Entry]:
    """Return the records of a study with their per-image scores, where there are some."""
    from flbench.reporting.study_figures import entries

    store = Study(study)
    return entries(store, [r for r in store.records() if protocols is None or r.protocol.name in protocols])
