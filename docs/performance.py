"""Turn measured benchmarks into ratios: a table, a page of the documentation, a comparison with the committed ratios.

    make bench           run the benchmarks and print the table
    make bench-docs      run them, write performance.json, and from it the page
    make bench-compare   run them; exit code 1 if a ratio is worse than the committed one by more than 15 %

With ARGS=--gpu they are those that need a GPU, with a file and a table of their own.

A group of benchmarks has a reference row, the one that sets `extra_info["reference"]` to what it is; where parameters
split a group, each has its own. Others may set `what` (a name to print), `images` (how many a round does: times are
then per image), `limit` (the ratio to keep) and `limit_ms` (the milliseconds to keep; needs no reference).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "tests/benchmarks"
COMMITTED = HERE / "performance.json"
ON_GPU = HERE / "performance_gpu.json"
PAGE = HERE / "performance.md"
WORSE = 1.15
"""A ratio is worse, or better, if it has moved by more than this factor."""
RUNS = 3
"""Runs in all of which a ratio must be worse: what else a machine does can move one by as much."""

INTRO = """# How fast it is

Made by `make bench-docs` from `tests/benchmarks/`, the part on a GPU by `make bench-docs ARGS=--gpu` on a machine that
has one. Everything in one table ran in one go on one machine.

## How to read it

Times are the machine's; **ratios are the result**. In a group, what flbench does stands beside the same thing done by
another library or by the loop that one writes first, on the same data, and both must give the same numbers. A ratio of
0.1 is ten times as fast as the reference. Where a limit is given, it is the goal; *no* says that it is not
reached, on this machine.

*CPU* is the processor time of the process, all its threads together, so that other work on the machine counts little;
*wall* is what a clock on the wall says. Times are medians over rounds, per image where that is said. Libraries that use
threads have one (`OMP_NUM_THREADS=1`) unless a group says otherwise.

`make bench` measures again and prints the same table; `make bench-compare` fails if a ratio has become worse by more
than 15 %. `ARGS` goes to pytest: `make bench ARGS="-k ssim"`.
"""

GPU = """## Measured on a GPU

`--precision` says in which a network predicts; the default, float32, is what it says, where torch by itself would round
the products of convolutions to the ten bits of tf32. How weights lie in memory follows from it.

What came after this table was not measured on a GPU yet. In a test the next batch is given to it before the maps of
this one are waited for, which it has written to the host's memory by then; intervals are computed while it is busy, and
memory is no longer filled before it is written to. In a fit the processes that load write into memory that all of them
share from the start, and only the generators that a step draws from are seeded. In a fit imitated on a CPU, each of
its 400 steps waiting for 22 ms as for a GPU, a step takes 24.0 ms so and took 25.9; by the bare loop it takes 23.2.
"""

TRIED = """## What was tried

Times are of one thread of the machine named above, at 224 pixels a side.

- *Loops over pixels compiled by numba*: SSIM takes 0.12 ms an image, in steps of numpy 0.65; ranking all pixels 0.3 ms,
  with sorts of numpy or torch 0.75; the score of a map 0.12 ms, by a partition 0.25; a blur 0.3 ms, by scipy 0.9, with
  the same bits. Each process pays half a second to load them.
- *Fast sorts of numpy*: 0.2 ms for the pixels of an image, but 0.97 ms on this processor, whose AVX-512 they use and
  should not (`NPY_DISABLE_CPU_FEATURES` tells them). Sorting by digits takes 0.19 ms everywhere.
- *Images mapped into memory* in place of reads by their position: 0.006 ms an image either way, and a process dies of
  touching a page where a disk is full or a file was cut short.
- *SSIM in float32* would take half the time, but maps with flat areas come out wrong by up to 1.6e-4: not done.
- *Low resolution by torch* would take a third of Pillow's 0.5 ms, but differs from it by a gray level in up to 2 % of
  the pixels: not done, Pillow is the definition.
- *The noise field* is numpy's, bit for bit, and drawn in 0.4 ms an image; numpy takes 1.3. Keeping it for the other
  severities of an image would take 600 kB an image: not done.
- *Galleries compressed*: two thirds of the space, and as much time as scoring a hundred images: not done.
- *Winograd's filtering* lets the wide 3 × 3 convolutions of a network multiply less, in the other engines; for fewer
  than 256 channels, cutting the tiles costs what the products save. Eager torch stays as it is: all is held against it.
- *Leaving out what dilated convolutions find in the padding* (DeepLabV3's on a map of 28 × 28): all three libraries
  leave it out already. *Lower levels of optimisation* of onnxruntime are two fifths slower, the *latency hint* of
  openvino is no difference.
- *Larger batches*: at 224 pixels batches of 16 cost a fifth more an image than batches of 4 or 5; at 64 pixels batches
  of 4 cost a third more than of 16. So the batch follows from the size.
- *Worker processes for loading*: with what is decoded kept on disk, one thread that prepares the next batch is enough
  on a CPU. Beside a GPU four threads prepare and score 0.5 ms an image; more wait for each other. A fit there is loaded
  by processes: with threads a step of the default fit took 27 ms, by itself 21. Memory that is handed over costs the
  process that gets it 1.3 ms a batch, memory that lies where it always does next to nothing.
- *JPEG by Pillow*: 0.45 ms, by OpenCV 0.28 with the same bits, and two threads are 1.7 times as fast, with Pillow 1.05.
- *Memory filled with NaN*, as torch does for deterministic kernels, is 2 to 4 % of a forward pass on a CPU: not done.
"""


class Moved(NamedTuple):
    """How ratios differ from earlier ones, a sentence each.

    Attributes:
        worse: Ratios that grew, and milliseconds without a reference that are over their limit.
        better: Ratios that fell.
        others: Benchmarks that are new or missing, and another machine.
        groups: Groups of what is worse.
    """

    worse: list[str]
    better: list[str]
    others: list[str]
    groups: set[str]


def summary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a file that pytest-benchmark wrote: names, medians, ratios, limits and versions.

    Raises:
        ValueError: A group has no reference for a row that needs one, has two, or counts images in one of them only.
    """
    rows = [_row(benchmark) for benchmark in raw["benchmarks"]]
    for row in rows:
        beside = [other for other in rows if other["group"] == row["group"] and other["reference"]]
        found = [o for o in beside if o["param"] == row["param"]] or [o for o in beside if not o["param"]]
        if len(found) > 1:
            raise ValueError(f"group {row['group']!r} has two references: {found[0]['name']} and {found[1]['name']}")
        if found:
            (reference,) = found
            if reference["per_image"] != row["per_image"]:
                raise ValueError(f"{row['name']} and {reference['name']} must both say how many images they do")
            row["ratio"] = row["ms"] / reference["ms"]
        elif row["limit"] is not None or row["limit_ms"] is None:
            raise ValueError(
                f"group {row['group']!r} has no reference for {row['name']}: set benchmark.extra_info['reference'] in "
                "the row that the others are compared with, or limit_ms where there is nothing to compare with"
            )
    kept = [{key: _short(value) for key, value in row.items() if key != "param"} for row in rows]
    return {"machine": _machine(raw["machine_info"]), "rows": sorted(kept, key=lambda row: (row["group"], _order(row)))}


def _row(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return one benchmark, without its ratio."""
    told, name = benchmark["extra_info"], benchmark["name"]
    if not benchmark["group"]:
        raise ValueError(f"{name} is in no group: mark it with @pytest.mark.benchmark(group=...)")
    what = told.get("reference") or told.get("what") or name.partition("[")[0].removeprefix("test_").replace("_", " ")
    param = benchmark["param"] or ""
    return {
        "group": benchmark["group"],
        "name": name,
        "param": param,
        "what": f"{what} [{param}]" if param else what,
        "clock": "wall" if benchmark["options"]["timer"] in ("perf_counter", "time", "by_now") else "CPU",
        "ms": 1000 * benchmark["stats"]["median"] / told.get("images", 1),
        "per_image": "images" in told,
        "reference": "reference" in told,
        "ratio": None,
        "limit": told.get("limit"),
        "limit_ms": told.get("limit_ms"),
    }


def _order(row: Mapping[str, Any]) -> list[str | int]:
    """Return a key that puts parameter 64 before 128, and what is measured before its reference."""
    param = row["name"].partition("[")[2].rstrip("]")
    return [param.zfill(12) if param.isdecimal() else param, int(row["reference"]), row["name"]]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _machine(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return processor and versions: what tells one machine from another, and no name or path of it."""
    cpu = told.get("cpu", {})
    return {
        "cpu": cpu.get("brand_raw", told.get("machine", "")),
        "cores": cpu.get("count"),
        "system": told["system"],
        "python": told["python_version"],
        **told.get("versions", {}),
        **({"gpu": told["gpu"]} if "gpu" in told else {}),
    }


def holds(row: Mapping[str, Any]) -> bool | None:
    """Return whether a row keeps its limits; None without any."""
    kept = [row[key] <= row[limit] for key, limit in (("ratio", "limit"), ("ms", "limit_ms")) if row[limit] is not None]
    return all(kept) if kept else None


def table(document: Mapping[str, Any]) -> str:
    """Return the rows as a markdown table, and below it the machine."""
    heads = ("group", "what", "clock", "median ms", "ratio", "limit", "holds")
    lines = [heads, ["---"] * len(heads), *_cells(document["rows"])]
    machine = dict(document["machine"])
    gpu = f"{machine.pop('gpu')} with " if "gpu" in machine else ""
    cores = f"{machine.pop('cpu')}, {machine.pop('cores')} cores, {machine.pop('system')}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\nMeasured on {gpu}{cores}; {versions}.\n"


def _cells(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    group = ""
    for row in rows:
        limits = [f"≤ {row['limit']:g}"] if row["limit"] is not None else []
        limits += [f"≤ {row['limit_ms']:,g} ms"] if row["limit_ms"] is not None else []
        ratio = "1 (reference)" if row["reference"] else "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        yield [
            row["group"] if row["group"] != group else "",
            row["what"],
            row["clock"],
            f"{_number(row['ms'])}{' per image' if row['per_image'] else ''}",
            ratio,
            " and ".join(limits),
            {None: "", True: "yes", False: "**no**"}[holds(row)],
        ]
        group = row["group"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def page() -> str:
    """Return the page of the documentation, of the committed numbers."""
    here, gpu = (table(json.loads(path.read_text(encoding="utf-8"))) for path in (COMMITTED, ON_GPU))
    return "\n".join([INTRO, "## Measured\n", here, GPU, gpu, TRIED])


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Moved:
    """Hold every ratio against an earlier one; what has none is held against its limit."""
    old, new = ({(row["group"], row["name"]): row for row in part["rows"]} for part in (before, now))
    moved = Moved([], [], [], set())
    for key, row in new.items():
        name, known = ": ".join(key), old.get(key)
        if known is None:
            moved.others.append(f"{name} is new")
        if row["ratio"] is None and holds(row) is False:
            moved.groups.add(row["group"])
            moved.worse.append(f"{name} takes {_number(row['ms'])} ms, and its limit is {row['limit_ms']:,g} ms")
        if known is None or row["ratio"] is None or known["ratio"] is None:
            continue
        change = row["ratio"] / known["ratio"]
        said = f"{name} {known['ratio']:.3g} → {row['ratio']:.3g} ({100 * (change - 1):+.0f} %)"
        if change > WORSE:
            moved.groups.add(row["group"])
            moved.worse.append(said)
        elif change < 1 / WORSE:
            moved.better.append(said)
    moved.others.extend(f"{': '.join(key)} is missing" for key in old if key not in new)
    unlike = [key for key, value in before["machine"].items() if now["machine"].get(key) != value]
    if unlike:
        moved.others.append(f"the committed ratios are of another machine or other versions: {', '.join(unlike)}")
    return moved


def best(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first of several summaries, each row as in the one in which it is best."""
    rows = [row for document in documents for row in document["rows"]]
    kept: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["ms"] if row["ratio"] is None else row["ratio"]):
        kept.setdefault((row["group"], row["name"]), row)
    return {**documents[0], "rows": [kept[row["group"], row["name"]] for row in documents[0]["rows"]]}


def benchmarks(gpu: bool) -> list[str]:
    """Return the files of the benchmarks, those that need a GPU or the others."""
    files = sorted(path.relative_to(HERE.parent).as_posix() for path in BENCHMARKS.glob("test_*.py"))
    return [file for file in files if file.endswith("_gpu.py") == gpu]


def measure(args: Sequence[str], targets: Sequence[str]) -> Mapping[str, Any]:
    """Run the benchmarks and return what pytest-benchmark wrote.

    Args:
        args: For pytest.
        targets: Files, folders or single benchmarks.

    Raises:
        click.ClickException: They could not be run, or one failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        options = ["--benchmark-enable", "--benchmark-only", "--benchmark-quiet", "--benchmark-timer=time.process_time"]
        command = [sys.executable, "-P", "-m", "pytest", *targets, *options, f"--benchmark-json={out}", *args]
        done = subprocess.run(command, cwd=HERE.parent, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False)
        if done.returncode:
            raise click.ClickException("a benchmark failed, or there was none to run")
        return json.loads(out.read_text(encoding="utf-8"))


def compared(raw: Mapping[str, Any], committed: Mapping[str, Any], *, again: bool) -> Moved:
    """Compare what was measured with the committed ratios; measure what is worse again, if that may be."""
    documents = [summary(raw)]
    moved = compare(committed, documents[0])
    while again and moved.worse and len(documents) < RUNS:
        click.echo(f"measured again, being worse: {', '.join(sorted(moved.groups))}")
        names = [benchmark["fullname"] for benchmark in raw["benchmarks"] if benchmark["group"] in moved.groups]
        documents.append(summary(measure([], names)))
        moved = compare(committed, best(documents))
    return moved


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--from", "source", type=click.Path(path_type=Path), help="A file of pytest-benchmark, instead of a run.")
@click.option("--gpu", is_flag=True, help="What needs a GPU, and nothing else.")
@click.option("--write", is_flag=True, help="Write the ratios to commit, and performance.md.")
@click.option("--compare", "against", is_flag=True, help="Compare with the committed ratios.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def main(source: Path | None, gpu: bool, write: bool, against: bool, args: tuple[str, ...]) -> None:
    """Run the benchmarks, with ARGS for pytest, and print the table of ratios."""
    if write and args:
        raise click.UsageError("the page is made of a whole run: leave out ARGS")
    raw = json.loads(source.read_text(encoding="utf-8")) if source else measure(args, benchmarks(gpu))
    kept = ON_GPU if gpu else COMMITTED
    try:
        document = summary(raw)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(document))
    if write:
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        kept.write_text(text, encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")
    if against:
        moved = compared(raw, json.loads(kept.read_text(encoding="utf-8")), again=source is None)
        for what, sentences in zip(("worse", "better", "note"), moved[:3], strict=True):
            for sentence in sentences:
                click.echo(f"{what}: {sentence}")
        if moved.worse:
            raise SystemExit(1)
        click.echo("no ratio is worse by more than 15 %")


if __name__ == "__main__":
    main()
