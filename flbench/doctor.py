"""Examine an installation: the machine, folders, data sets, plugins and metrics; say what is wrong and what to do.

What may hang or crash (drivers, other people's plugins) is looked at in other processes, and nothing is changed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from flbench.anonymous import without_home, without_names
from flbench.engine.local import usable_cores
from flbench.errors import DataError, FlbenchError
from flbench.files import home
from flbench.probing import Plugin, Seen, known_plugins, probe
from flbench.record import read_record
from flbench.store import LIMIT, limit, pixels_folder, size_of, stores
from flbench.study import RECORD

Progress = Callable[[str, int, int], object]

LITTLE_SPACE = 2 << 30
"""Free bytes in the cache folder below which is warned: what a data set of a few thousand images takes."""

_NAMED = 3
_OWN = "flbench"
_MACHINE = "flbench.doctor:look_at_machine"
_PLUGIN = "flbench.probing:look_at_plugin"
_NEEDS = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?[^;]*(?:;.*extra\s*==\s*['\"](\w+)['\"])?")
_DEVELOPERS = "dev"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found of one part.

    Attributes:
        part: What was examined.
        status: "ok", "warning" or "failed".
        says: What was found, on one line.
        advice: What to do next, "" where all is well.
    """

    part: str
    status: Literal["ok", "warning", "failed"]
    says: str
    advice: str = ""


def examine(
    *, data: Path | None = None, study: Path = Path("study"), seconds: float = 60.0, progress: Progress | None = None
) -> list[Row]:
    """Examine this installation.

    Args:
        data: Folder of a data set to look at too.
        study: Folder of a study, which need not be there.
        seconds: How long each plugin may take to load, and the machine's devices to be found.
        progress: Called with a stage, done and total.

    Returns:
        A row per part, in the order of a reader's questions; the home folder stands as `~`.
    """
    tell = progress or (lambda stage, done, total: None)
    steps: tuple[tuple[str, Callable[[], Iterable[Row]]], ...] = (
        ("packages", packages),
        ("machine", lambda: machine(seconds)),
        ("cache folder", cache_folder),
        ("study", lambda: study_folder(study)),
        ("data sets", lambda: data_sets(data)),
        ("metrics", self_test),
    )
    rows: list[Row] = []
    for place, (name, step) in enumerate(steps):
        tell("doctor", place, len(steps) + 1)
        rows += _guarded(name, step)
    tell("doctor", len(steps), len(steps) + 1)
    rows += _guarded("plugins", lambda: _loaded(rows, seconds, tell))
    tell("doctor", len(steps) + 1, len(steps) + 1)
    return [
        replace(row, part=without_home(row.part), says=without_home(row.says), advice=without_home(row.advice))
        for row in rows
    ]


def _guarded(name: str, step: Callable[[], Iterable[Row]]) -> list[Row]:
    """Return the rows of a step; what a broken package raises in it must not hide the rows of the others."""
    try:
        return list(step())
    except Exception as error:
        return [_failed(name, f"{type(error).__name__}: {error}", "a bug or a broken package; please report it")]


def _loaded(rows: Sequence[Row], seconds: float, progress: Progress) -> Iterator[Row]:
    """Load every plugin, unless what they all need is broken."""
    if any(row.part == "torch" and row.status == "failed" for row in rows):
        yield _warning("plugins", "not loaded: each needs torch", "mend torch first")
    else:
        yield from plugins(known_plugins(), seconds, progress=progress)


def packages() -> Iterator[Row]:
    """Compare what is installed with what flbench's metadata ask for."""
    yield _ok("python", f"{platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}")
    yield _ok("flbench", _version(_OWN))
    needed: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    for line in metadata.requires(_OWN) or ():
        match = _NEEDS.match(line)
        if match is not None and match[3] != _DEVELOPERS:
            (extras.setdefault(match[3], {}) if match[3] else needed)[match[1]] = match[2] or "0"
    have = {name: _version(name) for name in needed}
    wrong = {name: least for name, least in needed.items() if _below(have[name], least)}
    if wrong:
        said = "; ".join(f"{name} {have[name] or 'is missing'}, needed is {least}" for name, least in wrong.items())
        yield _failed("packages", said, _install(wrong))
    else:
        yield _ok("packages", ", ".join(f"{name} {version}" for name, version in have.items()))
    for extra, wanted in sorted(extras.items()):
        have = {name: _version(name) for name in wanted}
        said = ", ".join(f"{name} {version or 'is not installed'}" for name, version in have.items())
        old = {name: least for name, least in wanted.items() if have[name] and _below(have[name], least)}
        if old:
            yield _warning(f"extra {extra}", f"too old: {said}", _install(old))
        else:
            yield _ok(f"extra {extra}", said)


def _install(needed: Mapping[str, str]) -> str:
    return "pip install --upgrade " + " ".join(f"'{name}>={least}'" for name, least in needed.items())


def machine(seconds: float) -> Iterator[Row]:
    """Say what computes here: cores, threads and devices."""
    cores, told = usable_cores(), os.environ.get("OMP_NUM_THREADS", "")
    said = f"{cores} usable of {os.cpu_count() or cores}"
    yield _ok("cores", said + (f", OMP_NUM_THREADS={told}" if told else ""))
    (seen,) = probe(["torch"], _MACHINE, seconds=seconds)
    if seen.failure:
        yield _failed(
            "torch", seen.failure, "install it again, as its web page says for this machine: pip install torch"
        )
        return
    found = seen.reply
    yield _ok("torch", f"{found['torch']}, {found['threads']} thread{'s' if found['threads'] != 1 else ''}")
    if found["commit"]:
        yield _ok("code", found["commit"])
    broken = {name: why for name, why in found["devices"].items() if why}
    usable = [name for name, why in found["devices"].items() if not why]
    yield _ok("device", ", ".join(usable) + "; --device auto takes the first")
    for name, why in broken.items():
        yield _warning(
            "device", f"{name} is there and cannot be used: {why}", "run with --device cpu, or mend its driver"
        )


def look_at_machine(item: str) -> dict[str, Any]:
    """Return version, threads, commit and devices, each device with why it cannot be used; in another process."""
    import torch

    from flbench.engine.runtime import commit

    devices: dict[str, str] = {}
    for place in range(torch.cuda.device_count()):
        devices[f"cuda:{place} {torch.cuda.get_device_name(place)}"] = _tried(torch, f"cuda:{place}")
    devices[f"cpu {platform.processor() or platform.machine()}"] = ""
    if torch.backends.mps.is_available():
        devices["mps"] = _tried(torch, "mps")
    code = commit()
    named = f"commit {code['commit'][:12]}" if code["commit"] else ""
    changed = " with local changes" if named and code["dirty"] else ""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": named + changed,
        "devices": devices,
    }


def _tried(torch: Any, device: str) -> str:
    try:
        return "" if float(torch.ones(8, device=device).sum()) == 8 else "it computes wrong sums"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def cache_folder() -> Iterator[Row]:
    """Say where data sets are kept, whether they can be, and how much space is left."""
    folder = home()
    place = f"{folder}{' (FLBENCH_HOME)' if os.environ.get('FLBENCH_HOME') else ''}"
    above = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
    why = _unwritable(above)
    if why:
        yield _failed("cache folder", f"{place} cannot be written: {why}", "set FLBENCH_HOME to a folder that can be")
        return
    free = shutil.disk_usage(above).free
    said = f"{place}, {_size(free)} free{'' if above == folder else ', made on first use'}"
    kept = sum(size_of(store) for store in stores(pixels_folder()))
    if kept:
        said += f"; {_size(kept)} of decoded pictures in pixels, of at most {_size(limit())} ({LIMIT}=GIGABYTES)"
    if free < LITTLE_SPACE:
        yield _warning("cache folder", said, "little space: free some, or set FLBENCH_HOME to a folder on another disk")
    else:
        yield _ok("cache folder", said)


def study_folder(folder: Path) -> Iterator[Row]:
    """Say how many records a study has, and which of them cannot be read; nothing is set aside here."""
    if not folder.exists():
        yield _ok("study", f"none at {folder}; the first run makes it")
        return
    why = _unwritable(folder)
    if why:
        yield _failed("study", f"{folder} cannot be written: {why}", "give another one: --study FOLDER")
        return
    bad = []
    records = sorted(folder.glob(f"cells/*/{RECORD}"))
    for path in records:
        try:
            read_record(path)
        except DataError as error:
            bad.append(f"{path.parent.name}: {error}")
    fits = sum(1 for _ in folder.glob("fits/*/fit.json"))
    said = f"{folder}: {len(records)} records, {fits} fits"
    if bad:
        said = f"{len(bad)} of {len(records)} records in {folder} cannot be read, such as {bad[0]}"
        yield _warning("study", said, "run the same commands again: they make what is damaged anew")
    else:
        yield _ok("study", said)


def data_sets(given: Path | None) -> Iterator[Row]:
    """Look at the data sets of the cache folder, and at one that is given, without opening an image."""
    cached = home() / "datasets"
    if given is not None:
        yield data_set(given)
    folders = sorted(path for path in cached.iterdir() if path.is_dir()) if cached.is_dir() else []
    for folder in folders:
        if folder.name.endswith(".partial"):
            advice = "flbench data make goes on where it stopped; or delete the folder"
            yield _warning(f"data set {folder.name}", "its making has not come to its end", advice)
        elif not folder.name.startswith("."):
            yield data_set(folder)
    if not folders:
        yield _ok("data sets", "none made yet; flbench data make synthfaces makes one, offline")


def data_set(folder: Path) -> Row:
    """Read the manifest of a data set and see that its files are there."""
    from flbench.data.dataset import read_dataset

    part = f"data set {folder.name}"
    try:
        dataset = read_dataset(folder)
    except FlbenchError as error:
        return _failed(part, str(error), error.hint or "mend the manifest, or make or import the data set again")
    rows = dataset.manifest
    files = [path for column in ("image", "parsing", "mask") for path in rows[column] if path]
    missing = _missing(folder, files)
    if missing:
        said = f"{len(missing)} of {len(files)} files are missing, such as {', '.join(missing[:_NAMED])}"
        return _failed(part, said, f"flbench data check --data {folder} names all; make or import it again")
    return _ok(part, f"{dataset.label}: {len(rows)} images, all {len(files)} files there")


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    """Return which files are not there; each folder is listed once, since asking for each file takes long."""
    there: dict[str, set[str]] = {}
    found = []
    for path in files:
        parent, _, name = path.rpartition("/")
        if parent not in there:
            there[parent] = set()
            with suppress(OSError), os.scandir(folder / parent) as entries:
                there[parent] = {entry.name for entry in entries if entry.is_file()}
        if name not in there[parent]:
            found.append(path)
    return found


def self_test() -> Iterator[Row]:
    """Hold the metrics against answers by hand."""
    from flbench.selftest import wrong_answers

    wrong, count = wrong_answers()
    if wrong:
        said = f"{len(wrong)} of {count} known answers are wrong: {'; '.join(wrong[:_NAMED])}"
        yield _failed("metrics", said, "trust no number from here; install numpy again, then report it")
    else:
        yield _ok("metrics", f"{count} known answers, all right")


def plugins(found: Sequence[Plugin], seconds: float, *, progress: Progress | None = None) -> Iterator[Row]:
    """Load plugins, those of each distribution in a process of its own; one row for all of flbench's that load."""
    groups: dict[str, list[Plugin]] = {}
    for plugin in found:
        groups.setdefault(_OWN if plugin.own else plugin.distribution, []).append(plugin)
    done = 0

    def tell(_: Seen) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("load plugins", done, len(found))

    def load(group: Sequence[Plugin]) -> list[Seen]:
        return probe([f"{plugin.group} {plugin.name}" for plugin in group], _PLUGIN, seconds=seconds, tell=tell)

    with ThreadPoolExecutor(min(4, usable_cores()), thread_name_prefix="doctor") as pool:
        answers = dict(zip(groups, pool.map(load, groups.values()), strict=True))
    own = [_plugin_row(*pair) for pair in zip(groups.get(_OWN, ()), answers.get(_OWN, ()), strict=True)]
    fine = sum(row.status == "ok" for row in own)
    if own:
        yield _ok("plugins", f"{fine} of {len(own)} of flbench's own load")
    yield from (row for row in own if row.status != "ok")
    for name in sorted(set(groups) - {_OWN}):
        yield from (_plugin_row(*pair) for pair in zip(groups[name], answers[name], strict=True))


def _plugin_row(plugin: Plugin, seen: Seen) -> Row:
    brought = f" ({plugin.distribution})" if plugin.distribution else ""
    away = "install flbench again" if plugin.own else f"mend it, or: pip uninstall {plugin.distribution.split(' ')[0]}"
    if seen.failure:
        return _failed(plugin.label, f"{seen.failure}{brought}", away)
    if seen.printed:
        advice = "harmless here; its author should print nothing while it is imported"
        return _warning(plugin.label, f"loads{brought}, and prints: {seen.printed}", advice)
    return _ok(plugin.label, f"loads{brought}")


def issue_block(rows: Sequence[Row]) -> str:
    """Return rows as a markdown block for a report, without home folders and names of users."""
    lines = [f"{row.status} {row.part}: {row.says}" for row in rows]
    return "\n".join(["```text", *(without_names(line).replace("`", "'") for line in lines), "```"])


def _version(name: str) -> str:
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def _below(version: str, least: str) -> bool:
    """Tell whether a version is missing or older than another; suffixes such as `+cpu` and `rc1` do not count."""
    have, want = ([int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", text)[0])] for text in (version, least))
    return not have or have + [0] * (len(want) - len(have)) < want


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that may not be looked into
        return False


def _unwritable(folder: Path) -> str:
    """Return why no file can be made in a folder, "" if one can; the file is gone at once."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _size(count: int) -> str:
    return f"{count / 2**30:.0f} GiB" if count >= 10 << 30 else f"{count / 2**30:.1f} GiB"


def _ok(part: str, says: str) -> Row:
    return Row(part=part, status="ok", says=says)


def _warning(part: str, says: str, advice: str) -> Row:
    return Row(part=part, status="warning", says=says, advice=advice)


def _failed(part: str, says: str, advice: str) -> Row:
    return Row(part=part, status="failed", says=says, advice=advice)
