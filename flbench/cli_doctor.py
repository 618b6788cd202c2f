"""The command that examines an installation: options in, lines out. No logic of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from flbench import console
from flbench import options as shared
from flbench.errors import RunError


@click.command()
@click.option("--data", type=click.Path(path_type=Path), metavar="FOLDER", help="A data set to look at too.")
@shared.study
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="How long each plugin may take to load.",
)
@shared.as_json
def doctor(data: Path | None, study: Path, seconds: float, as_json: bool) -> None:
    """Examine this installation: packages, devices, folders, data sets, plugins and metrics; say what to do next.

    Plugins are loaded in other processes, so one that hangs, crashes, exits or prints disturbs nothing. Of the data
    sets in the cache folder the manifests are read and the files counted; `flbench data check` opens every image.
    The metrics are held against answers worked out by hand. It ends with a block for an issue report, which names no
    home folder and no user. Exit code 1 if something failed.
    """
    from flbench.doctor import examine, issue_block

    with console.progress() as progress:
        rows = examine(data=data, study=study, seconds=seconds, progress=progress)
    if as_json:
        console.json_out({"rows": [asdict(row) for row in rows], "issue": issue_block(rows)})
    else:
        console.diagnosis(rows, issue_block(rows))
    failed = [row.part for row in rows if row.status == "failed"]
    if failed:
        raise RunError(f"failed: {', '.join(failed)}", hint="each line above says what to do next")
