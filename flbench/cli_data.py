"""The commands about data sets: options in, jobs done, tables out. No logic of its own."""

from __future__ import annotations

import json
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
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
def make(name: str, profile: str, workers: int | None) -> None:
    """Make a data set from code, in the cache folder (FLBENCH_HOME overrides where that is)."""
    from flbench import jobs

    with console.progress() as progress:
        dataset = jobs.make_dataset(name, profile, progress=progress, workers=workers)
    console.dataset_card(dataset)


@data.group("import")
def import_() -> None:
    """Import fakes of one's own."""


@import_.command()
@click.option("--real", required=True, type=click.Path(path_type=Path), help="Folder of photos.")
@click.option("--fake", required=True, type=click.Path(path_type=Path), help="Folder of fakes with the photos' names.")
@click.option("--generator", required=True, help="What made the fakes, such as stargan.")
@click.option("--attribute", required=True, help="What was edited, such as black_hair; 'entire' for whole faces.")
@click.option("--database", required=True, help="Where the photos are from, such as celeba.")
@click.option("--parsing", type=click.Path(path_type=Path), help="Folder of the photos' parsing maps (CelebAMask-HQ).")
@click.option("--fake-parsing", type=click.Path(path_type=Path), help="Folder of the fakes' parsing maps.")
@click.option("--identities", type=click.Path(path_type=Path), help="CSV with the columns image and identity.")
@click.option("--fractions", default="0.7,0.1,0.2", show_default=True, help="Shares of train, valid and test.")
@click.option("--seed", default=0, show_default=True, help="Seed of the split.")
@click.option("--licence", default="", help="Licence of the images.")
@click.option("--replace", is_flag=True, help="Replace the category if the data set has it.")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="Data set; made if it does not exist.")
@shared.as_json
def pairs(fractions: str, as_json: bool, **options: Any) -> None:
    """Import photos and their fakes, paired by file name; repeat it to add categories to a data set."""
    from flbench.data.importers import import_pairs

    try:
        shares = tuple(float(share) for share in fractions.split(","))
    except ValueError:
        raise UsageError("--fractions takes three numbers, such as 0.7,0.1,0.2") from None
    if len(shares) != 3:
        raise UsageError("--fractions takes three numbers, such as 0.7,0.1,0.2")
    with console.progress() as progress:
        report = import_pairs(**options, fractions=shares, progress=lambda done, total: progress("import", done, total))
    console.json_out(report._asdict()) if as_json else console.import_report(report)


@data.command()
@shared.data
@shared.profile
@shared.as_json
def check(data: str, profile: str, as_json: bool) -> None:
    """Look at every image and row: missing, unreadable, mismatched, duplicate, leaking between splits."""
    from flbench import jobs
    from flbench.data.inspection import check_dataset

    with console.progress() as progress:
        dataset = jobs.open_dataset(data, profile, progress=progress)
        findings = check_dataset(dataset, progress=lambda done, total: progress("check", done, total))
    console.json_out([finding._asdict() for finding in findings]) if as_json else console.findings(findings, dataset)
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


@data.command("train-generators")
@click.option("--family", "families", multiple=True, help="Family to train; repeatable; default: all.")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="Folder for the weights and their cards.")
@click.option("--steps", default=10_000, show_default=True, type=click.IntRange(min=1), help="Steps of 8 images each.")
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
