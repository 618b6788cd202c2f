"""A disk that is really full, and a limit on the size of files: one line, nothing half written, and it goes on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import run_units_here
from ledger import Observed, error_of
from small_run import hold_whole, outcome, short_run

from flbench.data.dataset import Dataset
from flbench.files import atomic_write
from flbench.reporting import figures
from flbench.study import PANEL

KIB = 1024


@pytest.fixture(scope="module")
def words(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return short_run(boxes, tmp_path_factory.mktemp("protocol"), size=16)


def start(words: list[str], study: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, with processes of its own."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return subprocess.run(
        [sys.executable, "-P", "-m", "flbench", *words, "--study", str(study)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )


@pytest.fixture(scope="module")
def undisturbed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("undisturbed")
    done = start(words, study)
    assert done.returncode == 0, done.stderr
    return study


def hold_one_line(err: str) -> None:
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if line.startswith("error:"))
    assert line.startswith("error: disk full while writing"), line
    assert "run the same command again" in line


@pytest.mark.fault(59, "a limit on the size of files (RLIMIT_FSIZE)", kind="write")
@pytest.mark.parametrize("limit", [2 * KIB, 24 * KIB], ids=["in-the-unit", "in-the-driver"])
def test_59_a_limit_on_the_size_of_files(
    words: list[str], undisturbed: Path, tmp_path: Path, limit: int, observed: Observed
) -> None:
    largest = max(path.stat().st_size for path in undisturbed.rglob("*"))
    assert largest > limit, "a file of the run is larger than the limit"
    done = start(words, tmp_path / "s", limit)
    observed(done)
    assert done.returncode == 1, done.stderr
    hold_one_line(done.stderr)
    hold_whole(tmp_path / "s")
    again = start(words, tmp_path / "s")
    assert again.returncode == 0, again.stderr
    assert outcome(tmp_path / "s") == outcome(undisturbed)


Resize = Callable[[int], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A disk of its own in memory, and what makes it larger or smaller, in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int, more: str = "") -> None:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k{more}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"a tmpfs can be mounted by root only: {made.stderr.strip()}")

    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("a tmpfs can be mounted by root only, on Linux")
    mount(64)
    try:
        yield folder, lambda size: mount(size, ",remount")
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.mark.fault(57, "a disk that is really full, and grows a little each time", kind="write")
def test_57_a_full_disk_of_any_size(
    words: list[str],
    undisturbed: Path,
    disk: tuple[Path, Resize],
    monkeypatch: pytest.MonkeyPatch,
    observed: Observed,
) -> None:
    """On a disk that grows a little each time, every run goes on a little further, until the last finishes."""

    def draw(gallery: Path, folder: Path, title: str) -> None:
        atomic_write(folder / PANEL, lambda path: path.write_bytes(title.encode()))

    run_units_here(monkeypatch)
    monkeypatch.setattr(figures, "draw_cell_figures", draw)
    folder, resize = disk
    failed = 0
    for size in (8, 24, 48, 72, 96, 120, 160, 1024):
        resize(size)
        study = folder / "s"
        done = run_to(words, study)
        if done is None:
            break
        failed += 1
        observed(error_of(done), 1, cases=failed)
        hold_one_line(done)
        hold_whole(study)
    assert failed >= 4, "the disk was full at several places"
    assert outcome(study) == outcome(undisturbed)


def run_to(words: list[str], study: Path) -> str | None:
    """Run in this process; return what it said on stderr if the disk was full, None if it ended well."""
    from click.testing import CliRunner

    from flbench.cli import main

    done = CliRunner().invoke(main, [*words, "--study", str(study)])
    assert done.exit_code in (0, 1), done.output
    return done.stderr if done.exit_code else None


@pytest.mark.fault(57, "a full disk under a command with work units of its own", kind="write")
def test_57_a_full_disk_under_a_real_run(
    words: list[str], undisturbed: Path, disk: tuple[Path, Resize], observed: Observed
) -> None:
    folder, resize = disk
    done = start(words, folder / "s")
    observed(done)
    assert done.returncode == 1, done.stderr
    hold_one_line(done.stderr)
    hold_whole(folder / "s")
    resize(4 * KIB)
    again = start(words, folder / "s")
    assert again.returncode == 0, again.stderr
    assert outcome(folder / "s") == outcome(undisturbed)
