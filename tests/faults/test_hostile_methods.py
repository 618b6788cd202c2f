"""Methods that fight the process they run in, all in one grid of real processes: no other cell is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import flbench, run_units_here
from ledger import Observed, error_of
from plugins import distribution

from flbench.data.dataset import Dataset
from flbench.record import Record
from flbench.reporting import figures
from flbench.study import LOG, SCORES, Study

HOSTILE = '''
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
import numpy
import torch
from flbench.locator import Locator, Prediction


class Killed(Locator):
    """Is killed whenever it sees an image, as by a system that is short of memory."""

    title = "Killed"

    def predict(self, images):
        os.kill(os.getpid(), signal.SIGKILL)


class Leaves(Locator):
    """Ends the process behind Python's back."""

    title = "Leaves"

    def predict(self, images):
        os._exit(0)


class Hangs(Locator):
    """Never answers, nor does a program that it has started."""

    title = "Hangs"

    def predict(self, images):
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,)).start()
        time.sleep(3600)


class Hungry(Locator):
    """Takes memory without end, up to a limit of its process."""

    title = "Hungry"

    def predict(self, images):
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
        try:
            held = []
            while True:
                held.append(numpy.empty(1 << 24, numpy.uint8))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Noisy(Locator):
    """Writes wherever it can, changes whatever it can, and leaves a thread and a program running; its maps are good."""

    title = "Noisy"

    def predict(self, images):
        print('{"event": "cell", "cell": "forged"}', flush=True)
        print("[]", file=sys.__stdout__, flush=True)
        for stream in (1, 2):
            os.write(stream, b"[1, 2, 3]\\n")
        os.chdir("/")
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        threading.Thread(target=time.sleep, args=(3600,)).start()
        if not multiprocessing.active_children():
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,)).start()
        return Prediction(images.mean(dim=1))
'''

NAMES = ("killed", "leaves", "hangs", "hungry", "noisy")
PATIENCE = 12
Grid = tuple[subprocess.CompletedProcess[str], dict[str, Record], Path]


def words(boxes: Dataset, study: Path, methods: str) -> list[str]:
    asked = ["run", "-m", methods, "-p", "in_gan", "--data", str(boxes.folder), "--study", str(study)]
    return [*asked, "--set", "window=9", "--threads", "1", "--json"]


@pytest.fixture(scope="module")
def grid(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Run all of them, and a method that is in order, by one command."""
    methods = {name: name.title() for name in NAMES}
    folder = distribution(tmp_path_factory.mktemp("hostile"), "hostile_methods", HOSTILE, methods)
    study = tmp_path_factory.mktemp("grid")
    asked = words(boxes, study, ",".join([*NAMES, "highpass"]))
    asked = [word for word in asked if word not in ("--set", "window=9")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flbench", *asked, "--timeout", str(PATIENCE)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    assert "Traceback" not in done.stderr
    records = [Record.model_validate(record) for record in json.loads(done.stdout)]
    return done, {record.method.name: record for record in records}, study


@pytest.mark.fault(51, "killed by signal 9 whenever it sees an image, three times")
def test_51_a_killed_method_is_tried_again_twice_and_then_fails(grid: Grid, observed: Observed) -> None:
    done, records, _ = grid
    observed(f"failed: {records['killed'].reason}", done.returncode)
    assert records["killed"].status == "failed"
    assert records["killed"].reason == "the process was killed by signal 9 (out of memory?)"
    assert done.stderr.count("the process for killed was killed by signal 9 (out of memory?); it is tried again") == 2


@pytest.mark.fault(47, "never answers, nor does a program that it has started; --timeout")
def test_47_a_method_that_hangs_fails_after_the_timeout(grid: Grid, observed: Observed) -> None:
    done, records, _ = grid
    observed(f"failed: {records['hangs'].reason}", done.returncode)
    assert records["hangs"].status == "failed"
    assert records["hangs"].reason == f"the process gave no answer for {PATIENCE} s (timeout)"


@pytest.mark.fault(
    49, "prints, writes to the streams, changes folder, seeds, threads and dtype, leaves a thread running"
)
def test_49_a_method_that_changes_what_it_can_changes_nothing(grid: Grid, observed: Observed) -> None:
    done, records, study = grid
    record = records["noisy"]
    observed(f"{record.status}; what it printed is in {LOG}", done.returncode)
    assert record.status == "ok"
    assert record.provenance["threads"] == 1
    assert not record.flags
    log = (study / LOG).read_text()
    assert '"forged"' in log
    assert "[1, 2, 3]" in log
    assert "forged" not in done.stderr + done.stdout


@pytest.mark.fault("a method that ends the process behind Python's back", "os._exit(0) while it predicts", kind="other")
def test_a_method_that_is_gone_fails(grid: Grid, observed: Observed) -> None:
    done, records, _ = grid
    observed(f"failed: {records['leaves'].reason}", done.returncode)
    assert records["leaves"].status == "failed"
    assert records["leaves"].reason == "the process ended with code 0 before its work was done"


@pytest.mark.fault("a method that takes memory without end", "up to the limit of its process", kind="other")
def test_a_method_that_takes_memory_without_end_has_rows_without_maps(grid: Grid, observed: Observed) -> None:
    done, records, study = grid
    record = records["hungry"]
    observed(record.reason, done.returncode)
    assert record.status == "partial"
    assert set(Study(study).scores(record.cell)["status"]) == {"oom"}


@pytest.mark.fault("five hostile methods in one grid", "kills, exits, hangs, takes memory, makes noise", kind="other")
def test_the_other_cells_of_the_grid_have_the_bits_of_a_quiet_run(
    grid: Grid, boxes: Dataset, tmp_path: Path, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, records, study = grid
    observed(done)
    assert done.returncode == 4
    assert "4 of 10 cells are not ok" in error_of(done.stderr)
    run_units_here(monkeypatch)
    monkeypatch.setattr(figures, "draw_cell_figures", lambda gallery, folder, title: None)
    asked = [word for word in words(boxes, tmp_path, "highpass") if word not in ("--set", "window=9")]
    quiet = [Record.model_validate(record) for record in json.loads(flbench(*asked).stdout)]
    assert sorted(record.method.name for record in quiet) == sorted(set(records) - set(NAMES))
    for record in quiet:
        assert record.digest == records[record.method.name].digest
        here, there = (Study(folder).cell_folder(record.cell) / SCORES for folder in (tmp_path, study))
        assert here.read_bytes() == there.read_bytes()
