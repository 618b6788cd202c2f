"""kill -9 at every point where a run tells of progress or moves a file into place, one after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import flbench, run_units_here
from ledger import Observed
from small_run import hold_whole, outcome, short_run

from flbench.data.dataset import Dataset
from flbench.engine.runtime import Events


def dies_at(point: int, words: list[str]) -> int:
    """Run a command in a process of its own that kills itself at a point, and return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["flbench.engine.worker", "flbench.jobs", "flbench.methods.noise_residual", __name__]
    )
    process = context.Process(target=_run, args=(point, words))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def _run(point: int, words: list[str]) -> None:
    passed = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        undrawn(patch)
        patch.setattr(Events, "progress", counted(Events.progress))
        patch.setattr(Path, "replace", counted(Path.replace))
        flbench(*words)


def undrawn(patch: pytest.MonkeyPatch) -> None:
    """Let work units run in this process, and draw no pictures: they come after all that counts, and take longest."""
    run_units_here(patch)
    patch.setattr("flbench.reporting.study_figures.draw_panels", lambda records, study: {})


@pytest.fixture(scope="module")
def words(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return short_run(boxes, tmp_path_factory.mktemp("protocol"))


@pytest.mark.fault(52, "kill -9 at every point of progress and before every file is moved into place", kind="kill")
def test_52_a_run_killed_anywhere_goes_on_to_the_same_bits(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    undrawn(monkeypatch)
    flbench(*words, "--study", tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    point = 0
    while True:
        study = tmp_path / str(point + 1)
        code = dies_at(point + 1, [*words, "--study", str(study)])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        point += 1
        flbench(*words, "--study", study)
        assert outcome(study) == expected, point
        hold_whole(study)
    assert point > 20
    observed("Killed; the same command again goes on to the bits of an undisturbed run", "SIGKILL", cases=point)
