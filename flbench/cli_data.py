"""The commands about data sets: options in, jobs done, tables out. No logic of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flbench import console
from flbench import options as shared
from flbench.errors import DataError, UsageError


@click.group()
def data() -> None:
    """Make, import, check and show data sets."""


@data.command()
@click.argument("name", default="synthfaces")
@shared.profile
@click.option("--finish", is_flag=True, help="The variant with the same noise and JPEG on photos and fakes alike.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
def make(name: str, profile: str, finish: bool, workers: int | None) -> None:
    """Make a data set from code, in the cache folder (FLBENCH_HOME overrides where that is).

    Where an earlier call was stopped, this one goes on from there.
    """
    from flbench import jobs

    variant = f"{profile.removesuffix('-finished')}-finished" if finish else profile
    with console.progress() as progress:
        dataset = jobs.make_dataset(name, variant, progress=progress, workers=workers, say=progress.say)
    console.dataset_card(dataset)


@data.group("import")
def import_() -> None:
    """Import photos and fakes of one's own."""


_import_options = [
    click.option("--real", required=True, type=click.Path(path_type=Path), help="Folder of photos."),
    click.option("--database", required=True, help="Where the photos are from, such as celeba."),
    click.option(
        "--parsing", type=click.Path(path_type=Path), help="Folder of the photos' parsing maps (CelebAMask-HQ)."
    ),
    click.option("--identities", type=click.Path(path_type=Path), help="CSV with the columns image and identity."),
    click.option("--fractions", default="0.7,0.1,0.2", show_default=True, help="Shares of train, valid and test."),
    click.option("--seed", default=0, show_default=True, help="Seed of the split."),
    click.option("--licence", default="", help="Licence of the images."),
    click.option("--into", required=True, type=click.Path(path_type=Path), help="Data set; made if it does not exist."),
    shared.as_json,
]


def _imports(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of every import."""
    for option in reversed(_import_options):
        command = option(command)
    return command


def _shares(fractions: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(share) for share in fractions.split(","))
    except ValueError:
        raise UsageError("--fractions takes three numbers, such as 0.7,0.1,0.2") from None
    return train, valid, test


@import_.command()
@click.option("--fake", required=True, type=click.Path(path_type=Path), help="Folder of fakes with the photos' names.")
@click.option("--generator", required=True, help="What made the fakes, such as stargan.")
@click.option("--attribute", required=True, help="What was edited, such as black_hair; 'entire' for whole faces.")
@click.option("--fake-parsing", type=click.Path(path_type=Path), help="Folder of the fakes' parsing maps.")
@click.option("--replace", is_flag=True, help="Replace the category if the data set has it.")
@_imports
def pairs(fractions: str, as_json: bool, **options: Any) -> None:
    """Import photos and their fakes, paired by file name; repeat it to add categories to a data set."""
    from flbench.data.importers import import_pairs

    shares = _shares(fractions)
    with console.progress() as progress:
        report = import_pairs(**options, fractions=shares, progress=lambda done, total: progress("import", done, total))
    console.json_out(report._asdict()) if as_json else console.import_report(report)


@import_.command()
@_imports
def photos(fractions: str, as_json: bool, **options: Any) -> None:
    """Import photos without fakes, such as those of another database, on which false alarms are counted."""
    from flbench.data.importers import import_photos

    shares = _shares(fractions)
    with console.progress() as progress:
        report = import_photos(
            **options, fractions=shares, progress=lambda done, total: progress("import", done, total)
        )
    console.json_out(report._asdict()) if as_json else console.import_report(report)


@data.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--parser",
    default="synthfaces",
    show_default=True,
    metavar="NAME|folder:DIR|onnx:FILE|MODULE:CALLABLE",
    help="What makes the maps: an installed parser, maps that lie in a folder, a network, a Python callable.",
)
@click.option("--replace", is_flag=True, help="Renew the maps that are there too.")
@shared.as_json
def parse(dataset: Path, parser: str, replace: bool, as_json: bool) -> None:
    """Fill in the parsing maps that an imported data set lacks, so that regions can be scored."""
    from flbench import jobs

    with console.progress() as progress:
        filled = jobs.parse_dataset(dataset, parser, replace=replace, progress=progress)
    console.json_out(filled._asdict()) if as_json else console.parse_report(filled)


@data.command()
@shared.data
@shared.profile
@shared.max_pixels
@shared.as_json
def check(data: str, profile: str, as_json: bool) -> None:
    """Look at every image and row: missing, unreadable, mismatched, duplicate, leaking between splits."""
    from flbench import jobs
    from flbench.data.inspection import check_dataset
    from flbench.data.remarks import remarks

    with console.progress() as progress:
        dataset = jobs.open_dataset(data, profile, progress=progress)
        findings = check_dataset(dataset, progress=lambda done, total: progress("check", done, total))
    console.json_out([finding._asdict() for finding in findings]) if as_json else console.findings(findings, dataset)
    console.notes(remarks(dataset))
    if findings:
        raise DataError(f"{len(findings)} findings in {dataset.label}")


@data.command("show")
@shared.data
@shared.profile
@click.option("--sheet", type=click.Path(path_type=Path), help="Also draw a contact sheet into this PNG.")
@shared.as_json
def show_data(data: str, profile: str, sheet: Path | None, as_json: bool) -> None:
    """Show what a data set holds: a table of categories and splits, and a contact sheet."""
    from flbench import jobs
    from flbench.data.inspection import contact_sheet

    with console.progress() as progress:
        dataset = jobs.open_dataset(data, profile, progress=progress)
    if as_json:
        about = dataset.about.model_dump(mode="json")
        counts = json.loads(dataset.counts().to_json(orient="index"))
        console.json_out(about | {"fingerprint": dataset.fingerprint, "counts": counts, "folder": str(dataset.folder)})
    else:
        console.dataset_card(dataset)
    if sheet is not None:
        contact_sheet(dataset, sheet)
        console.files("sheet", [sheet])


@data.command()
@click.argument("name", default="synthfaces", metavar="[NAME|FOLDER]")
@shared.profile
@click.option("--into", type=click.Path(path_type=Path), help="Also write it there, with pictures.")
@shared.as_json
def report(name: str, profile: str, into: Path | None, as_json: bool) -> None:
    """Measure the fakes of a data set: do they look like their name, where are they changed, what gives them away."""
    from flbench import jobs
    from flbench.reporting.data_report import report_tables, verdict_table

    with console.progress() as progress:
        dataset = jobs.open_dataset(name, profile, progress=progress)
        document, written = jobs.report_dataset(dataset, into=into, progress=progress)
    console.json_out(document) if as_json else console.show([*report_tables(document), verdict_table(document)])
    if not as_json:
        console.files("written", written)


@data.command("train-generators")
@click.option("--family", "families", multiple=True, help="Family to train; repeatable; default: all.")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="Folder for the weights and their cards.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Steps of 8 images each; default: what the shipped weights had."
)
@click.option("--seconds", type=click.IntRange(min=1), help="Stop after so many seconds, if that comes first.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda...")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads.")
def train_generators(families: tuple[str, ...], into: Path, **budget: Any) -> None:
    """Train the generators of the embedded data set anew: how the shipped weights came to be.

    A training that was stopped goes on from its checkpoint.
    """
    from flbench.synthetic.generators import FAMILIES
    from flbench.synthetic.training import train_generator

    for family in shared.split(families) or FAMILIES:
        train_generator(family, into=into, progress=console.say, **budget)
        console.files("written", [into / f"{family}.safetensors", into / f"{family}.json"])


@data.command("train-parser")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="Folder for the weights and their card.")
@click.option("--steps", default=450, show_default=True, type=click.IntRange(min=1), help="Steps of 12 images each.")
@click.option("--seconds", type=click.IntRange(min=1), help="Stop after so many seconds, if that comes first.")
@click.option("--photos", type=click.Path(path_type=Path), help="Folder of real photos to measure the parser on.")
@click.option("--masks", type=click.Path(path_type=Path), help="Folder of their parsing maps (CelebAMask-HQ).")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda...")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads.")
def train_parser(into: Path, photos: Path | None, masks: Path | None, **budget: Any) -> None:
    """Train the parser that ships anew, and measure it: how its weights and their card came to be.

    Without photos the card offers no region.
    """
    from flbench.synthetic import parser_training

    if (photos is None) != (masks is None):
        raise UsageError("--photos and --masks go together")
    measured_on = None if photos is None or masks is None else (photos, masks)
    parser_training.train_parser(into=into, measured_on=measured_on, progress=console.say, **budget)
    console.files("written", parser_training.written(into))


@data.command("train-classifier")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="Folder for the weights and their card.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Rendering processes.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads.")
def train_classifier(into: Path, workers: int, threads: int) -> None:
    """Train the attribute classifier that judges the fakes anew: how its weights and their card came to be."""
    from flbench.synthetic import classifier

    classifier.train_classifier(into=into, workers=workers, threads=threads, progress=console.say)
    console.files("written", [into / f"{classifier.NAME}.safetensors", into / f"{classifier.NAME}.json"])
