"""Many commands at once, each in a process forked from one that has imported torch, so that eight cost little."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from threading import Barrier

import pytest
from builders import run_units_here
from click.testing import CliRunner

from flbench import study
from flbench.cli import main

START: list[Barrier] = []


def crowd(words: Sequence[str], count: int, *, patience: float) -> list[tuple[int, str]]:
    """Start a command so many times at one moment, each with its work units in its own process.

    Args:
        words: The command.
        count: How many processes.
        patience: Seconds that each waits for a lock before it says that the study is in use.

    Returns:
        Exit code and what went to stderr of each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["flbench.engine.worker", "flbench.jobs", "flbench.methods.noise_residual", __name__]
    )
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_ready, initargs=(barrier,)) as pool:
        started = [pool.submit(_command, list(words), patience) for _ in range(count)]
        return [future.result(timeout=120) for future in started]


def _ready(barrier: Barrier) -> None:
    START.append(barrier)


def _command(words: list[str], patience: float) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        run_units_here(patch)
        patch.setattr(study, "GRACE_SECONDS", patience)
        START[0].wait(60)
        done = CliRunner().invoke(main, words)
    return done.exit_code, done.stderr
