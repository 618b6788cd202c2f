"""The command that reproduces a record: options in, job done, lines out. No logic of its own."""

from __future__ import annotations

from pathlib import Path

import click

from flbench import console
from flbench import options as shared
from flbench.errors import RunError


@click.command()
@click.argument("record", metavar="RECORD")
@shared.study
@click.option("--data", default="", metavar="NAME|FOLDER", help="Data set; default: made by code, by its name.")
@click.option("--protocol", "-p", default="", metavar="NAME|FILE.toml", help="Protocol; default: by its name.")
@click.option("--method", "-m", default="", metavar="NAME:TARGET", help="Method, where it works with a file.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Empty folder of the new study; default: one that is gone at the end.",
)
@click.option("--device", default="", help="cpu, cuda, cuda:1, mps; default: the record's kind.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: as many as the record's.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Largest difference of a metric's value; 0: the same bits; default: 0 on the same kind of machine, else 1e-6.",
)
@shared.as_json
def reproduce(
    record: str,
    study: Path,
    data: str,
    protocol: str,
    method: str,
    into: Path | None,
    device: str,
    threads: int | None,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Run again what a record says, from nothing, and say whether the same comes out.

    RECORD is a run.json, of a study or beside a board, its folder, or the id of a cell in --study. Method options,
    protocol, mapping, region, conditions, seed, threads and kind of device are the record's; a protocol, data set or
    option that is another one here stops with exit code 2. On the same kind of machine, with the same torch and as many
    threads, every bit must be the same, of per-image scores and weights too; elsewhere the values of metrics must agree
    within a tolerance. Exit code 1 if the record is not reproduced.
    """
    from flbench import jobs, reproduce
    from flbench.reporting.reproduction import hold_against, reproduction_document, reproduction_table

    wanted, path = reproduce.find_record(record, study)
    setting = reproduce.set_up(wanted, protocol=protocol, method=method, device=device, threads=threads)
    scores = reproduce.scores_beside(path.parent)
    with console.progress() as progress:
        dataset = jobs.open_dataset(*reproduce.data_of(wanted, data), progress=progress)
    plan = reproduce.plan_again(wanted, setting, dataset)
    with reproduce.fresh_study(into, wanted) as store:
        with console.watch(plan, store) as watch:
            again = reproduce.run_again(plan, store, setting, watch)
        scores_again = reproduce.scores_beside(store.cell_folder(again.cell))
    found = hold_against(wanted, again, scores, scores_again, tolerance=tolerance)
    if as_json:
        console.json_out(reproduction_document(found))
    else:
        console.show([reproduction_table(found)])
        console.notes([f"another kind of machine: {text}" for text in found.elsewhere] + list(found.notes))
    if not found.reproduced:
        raise RunError(f"not reproduced: {found.summary}", hint="the notes say what is another here")
