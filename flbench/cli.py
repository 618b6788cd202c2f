"""The commands: options in, jobs done, tables out. No logic of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from flbench import console
from flbench import options as shared
from flbench.cli_data import data
from flbench.cli_doctor import doctor
from flbench.cli_plugins import check, new
from flbench.cli_predict import export, predict
from flbench.cli_reproduce import reproduce
from flbench.cli_show import list_, show
from flbench.errors import FlbenchError, Interrupted, MethodError, PartialError, UsageError
from flbench.files import is_full, storage_error

Command = Callable[..., Any]


class Main(click.Group):
    """A group whose commands fail in one line with the exit code of the error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn every failure into one line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except FlbenchError as error:
            console.error(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            console.error(Interrupted("stopped"))
            ctx.exit(Interrupted.exit_code)
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            console.error(_unexpected(error))
            ctx.exit(1)


def _unexpected(error: Exception) -> FlbenchError:
    """Keep the traceback of an error that nobody foresaw in a file, and say so in one line; a full disk is no bug."""
    if isinstance(error, OSError) and is_full(error):
        return storage_error(error, Path(error.filename or "a file"))
    where = "nowhere: no temporary folder can be written"
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="flbench-", suffix=".txt", delete=False, encoding="utf-8") as file,
    ):
        traceback.print_exception(error, file=file)
        where = file.name
    return FlbenchError(f"unexpected {type(error).__name__}: {error}", hint=f"a bug; please report it with {where}")


_job_options: list[Callable[[Command], Command]] = [
    click.option(
        "--method",
        "-m",
        "methods",
        multiple=True,
        metavar="NAME[:VARIANT]",
        help="Method; repeatable; all; default: those that the protocol's table compares.",
    ),
    click.option(
        "--protocol",
        "-p",
        "protocols",
        multiple=True,
        required=True,
        metavar="NAME|FILE.toml",
        help="Protocol; repeatable; all.",
    ),
    click.option(
        "--condition",
        "-c",
        "conditions",
        multiple=True,
        metavar="KIND-SEVERITY",
        help="Test under a degradation too: jpeg-50, blur-5, noise-0.01, lowres-2+jpeg-50; repeatable; recorded.",
    ),
    shared.data,
    shared.profile,
    shared.study,
    click.option("--seed", "seeds", multiple=True, default=("0",), show_default=True, help="Seeds of the fits: 0,1,2."),
    shared.given,
    shared.weights,
    shared.max_pixels,
    shared.mapping,
    click.option("--allow-missing", is_flag=True, help="Run the test slices the data set has, and mark the record."),
    shared.region,
    click.option("--max-steps", type=click.IntRange(min=1), help="Stop fits after so many steps: for a quick trial."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: every core."),
    click.option(
        "--inference",
        type=click.Choice(["torch", "onnxruntime", "openvino", "compile"]),
        default="torch",
        show_default=True,
        help="What fitted networks predict with, held against torch on the first batch.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "tf32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="In which networks predict; all but float32 are for GPUs. Fits are in float32, on GPUs in tf32.",
    ),
    click.option("--batch", type=click.IntRange(min=1), help="Images predicted together; default: by size and device."),
    click.option(
        "--break-lock", is_flag=True, help="Take away locks of other hosts first, where nothing runs any more."
    ),
    click.option("--wait", is_flag=True, help="Wait for another command that works on the same fit or cell."),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Give up a cell that shows no progress for so long, and go on with the others; default: never.",
    ),
    shared.as_json,
]


def _job(command: Command) -> Command:
    """Give a command the options that describe a job."""
    for option in reversed(_job_options):
        command = option(command)
    return command


def _plan(options: Mapping[str, Any], *, references: bool) -> Any:
    """Return protocols, plan, study and machine of a job."""
    from flbench import jobs
    from flbench.engine.plan import Request
    from flbench.registry import choose_method, find_protocol, methods, protocols

    seeds = shared.seeds_of(options["seeds"])
    names = shared.split(options["methods"])
    if "all" in names:
        names = [e.name for e in methods().values() if not (e.reference or e.broken or e.target)]
    everything = "all" in shared.split(options["protocols"])
    asked = list(protocols()) if everything else shared.split(options["protocols"])
    given = shared.values_of(options["given"])
    if options["weights"] and (len(names) != 1 or len(seeds) != 1):
        raise UsageError("weights are those of one method and have no seeds", hint="--method NAME --weights FILE")
    chosen = [choose_method(name, given, weights=options["weights"]) for name in names]
    found = [find_protocol(name) for name in asked]
    request = Request(
        mapping=shared.pairs_of(options["mapping"], "--map"),
        allow_missing=options["allow_missing"],
        region=options["region"],
        cap=options["max_steps"],
        conditions=tuple(shared.split(options["conditions"])),
    )
    with console.progress() as progress:
        dataset = jobs.open_dataset(options["data"], options["profile"], progress=progress)
    plan = jobs.plan_run(dataset, found, chosen, seeds, request, references=references, lenient=everything)
    machine = jobs.Machine(**{field.name: options[field.name] for field in fields(jobs.Machine)})
    return found, plan, machine


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="flbench", prog_name="flbench")
def main() -> None:
    """Benchmark methods that say, pixel by pixel, where a GAN manipulated a face image.

    \b
    flbench run --method fakelocator --protocol cross_attribute
    flbench run --method fakelocator,attention_map --protocol in_gan --seed 0,1,2
    flbench list
    flbench publish

    Exit codes: 0 ok, 1 run-time failure, 2 usage or plan, 3 bad method, checkpoint or data, 4 finished but partial,
    130 interrupted.
    """  # noqa: D301 - \b keeps click from joining the lines


@main.command()
@_job
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and how long it takes by what is known.")
def run(study: Path, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Fit what must be fitted, test it, and show the table.

    What is done is never done again: stop at any time, run the same command again, and it goes on. Protocols share
    fits and predictions. Reference rows (zeros, ones, the mean map, the oracle) stand in every table. The data set is
    made on first use.
    """
    from flbench import jobs, stale
    from flbench.reporting.study_figures import draw_boards
    from flbench.study import Study

    protocols, plan, machine = _plan(options, references=True)
    store = Study(study)
    if options["break_lock"] and not dry_run:
        console.notes(f"lock broken: {lock}" for lock in store.break_locks())
    estimate = jobs.estimate_run(plan, store, machine)
    if dry_run and as_json:
        console.json_out(console.plain_plan(plan, estimate))
        return
    console.plan(plan, estimate)
    if dry_run:
        return
    with console.watch(plan, store) as watch:
        outcome = jobs.carry_out(plan, store, machine, watch)
    if as_json:
        console.json_out([json.loads(record.to_json()) for record in outcome.records])
    else:
        for protocol in protocols:
            mine = [r for r in outcome.records if r.protocol.fingerprint == protocol.fingerprint]
            console.results(mine, protocol, store)
        console.files("panel", outcome.panels.values())
        with console.progress() as progress:
            drawn = draw_boards(outcome.records, {p.name: p for p in protocols}, store, progress=progress)
        console.files("figure", drawn)
    console.judge(outcome.records, outcome.missing)
    now = {plan.dataset.about.name: plan.dataset.fingerprint}
    console.notes(stale.notes(stale.alike(store, [cell.id for cell in plan.cells]), now))
    unfinished = [record for record in outcome.records if record.status not in ("ok", "skipped")]
    asked = [record for record in outcome.records if not record.method.reference]
    if asked and all(record.status == "failed" for record in asked):
        raise MethodError(asked[0].reason)
    if unfinished or outcome.missing:
        raise PartialError(f"{len(unfinished) + len(outcome.missing)} of {len(plan.cells)} cells are not ok")


@main.command()
@_job
def fit(study: Path, as_json: bool, **options: Any) -> None:
    """Fit methods on the training slices of protocols, and test nothing."""
    from dataclasses import replace

    from flbench import jobs
    from flbench.study import Study

    _, plan, machine = _plan(options, references=False)
    plan = replace(plan, units=tuple(replace(unit, cells=()) for unit in plan.units))
    store = Study(study)
    if options["break_lock"]:
        console.notes(f"lock broken: {lock}" for lock in store.break_locks())
    with console.watch(plan, store) as watch:
        jobs.carry_out(plan, store, machine, watch)
    fits = [document for fit in plan.fits if (document := store.fit(fit.id)) is not None]
    if as_json:
        console.json_out(fits)
    else:
        console.fits(fits, store)


@main.command()
@shared.study
@click.option(
    "--into",
    default="leaderboards",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the boards.",
)
@click.option("--check", is_flag=True, help="Write nothing; fail if the boards are not what the records give.")
@shared.as_json
def publish(study: Path, into: Path, check: bool, as_json: bool) -> None:
    """Copy the records of a study beside the boards, and render the boards from all records there."""
    from flbench import jobs

    changed, notes = jobs.publish_boards(study, into, check=check)
    if as_json:
        console.json_out([str(path) for path in changed])
    else:
        console.files("differs" if check else "written", changed)
    console.notes(notes)
    if check and changed:
        raise FlbenchError(f"{len(changed)} boards differ from what the records give", hint="run: flbench publish")


@main.command()
@shared.study
@click.option("--data", default="", help="Data set whose records count, as synthfaces-mini; default: the only one.")
@shared.mapping
@shared.region
@click.option("--file", type=click.Path(dir_okay=False), default="", help="TOML file of claims; default: the paper's.")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="Also write it into this markdown file.")
@shared.as_json
def claims(
    study: Path, data: str, mapping: tuple[str, ...], region: str, file: str, into: Path | None, as_json: bool
) -> None:
    """Hold the paper's findings against the records of a study: holds, does not hold, or undecided.

    Each finding is an inequality between measured values; its verdict comes from the 95 % interval of a bootstrap over
    people. A finding whose records are not there is not measured, and the command that measures it is named. With --map
    or --region, runs with the same options count, and no others.
    """
    from flbench import jobs
    from flbench.reporting.claim_tables import claim_tables
    from flbench.reporting.claims import claims_document, commands

    with console.progress() as progress:
        swapped = shared.pairs_of(mapping, "--map")
        verdicts = jobs.judge_claims(study, file, data, mapping=swapped, region=region, into=into, progress=progress)
    if as_json:
        console.json_out(claims_document(verdicts))
    else:
        console.show(claim_tables(verdicts))
        console.commands(commands(verdicts))
        console.files("written", [into] if into else [])


@main.command()
@shared.study
@click.option("--protocol", "-p", "protocols", multiple=True, metavar="NAME|FILE.toml", help="Protocol; repeatable.")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="Also write it into this markdown file.")
@shared.as_json
def agree(study: Path, protocols: tuple[str, ...], into: Path | None, as_json: bool) -> None:
    """Compare the orders of the methods on two or more data sets: where they agree and where they do not.

    It reads the records of a study. For each protocol that ran on several data sets, also with --map, it shows value
    and place of every method on both, Kendall's tau-b, and the pairs of methods that both data sets tell apart.
    """
    from flbench import jobs
    from flbench.reporting.agreement import agreement_document
    from flbench.reporting.agreement_tables import agreement_tables

    with console.progress() as progress:
        found = jobs.compare_data(study, shared.split(protocols), into=into, progress=progress)
    if as_json:
        console.json_out([agreement_document(agreement) for agreement in found])
    else:
        console.show(agreement_tables(found))
        console.files("written", [into] if into else [])


for command in (data, check, new, predict, export, reproduce, list_, show, doctor):
    main.add_command(command)

if __name__ == "__main__":
    main()
