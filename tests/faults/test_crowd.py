"""Two and eight commands on one study at the same time: each cell is done once, with the bits of one command alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from builders import flbench, run_units_here
from crowd import crowd
from ledger import Observed, error_of
from small_run import hold_whole, outcome, short_run

from flbench.data.dataset import Dataset

IN_USE = r"error: \S+ is in use( by pid \d+ on host \S+ since \d{4}-\S+Z)? \(wait for it with --wait\)"


@pytest.fixture(scope="module")
def words(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return short_run(boxes, tmp_path_factory.mktemp("protocol"), size=8)


@pytest.fixture(scope="module")
def alone(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        run_units_here(patch)
        flbench(*words, "--study", study)
    return study


def finished(err: str) -> list[str]:
    """Return the cells that a command finished itself."""
    return re.findall(r"^\[\d+/\d+\] ok (\S+)$", err, re.MULTILINE)


@pytest.mark.fault("commands on one study at the same time", "two and eight, with --wait", kind="other")
@pytest.mark.parametrize("count", [2, 8])
def test_commands_that_wait_share_the_work(
    words: list[str], alone: Path, tmp_path: Path, observed: Observed, count: int
) -> None:
    ended = crowd([*words, "--study", str(tmp_path), "--wait"], count, patience=0.02)
    observed("ok, each cell is done by one of them", max(code for code, _ in ended), cases=count)
    assert [code for code, _ in ended] == [0] * count, ended
    cells = Counter(cell for _, err in ended for cell in finished(err))
    assert set(cells.values()) == {1}
    assert set(cells) == set(outcome(alone)[0])
    assert outcome(tmp_path) == outcome(alone)
    hold_whole(tmp_path)
    waited = {line for _, err in ended for line in err.splitlines() if line.startswith("warning: waiting:")}
    assert all("is in use" in line for line in waited)
    assert waited or count == 2, "eight cannot all come at the right moment"


@pytest.mark.fault("commands on one study at the same time", "eight that do not wait", kind="other")
def test_commands_that_do_not_wait_say_who_is_there(
    words: list[str], alone: Path, tmp_path: Path, observed: Observed
) -> None:
    ended = crowd([*words, "--study", str(tmp_path)], 8, patience=0)
    told = [error_of(err) for code, err in ended if code]
    assert told, "eight at once get in each other's way"
    observed(max(told, key=len), 1, cases=8)
    assert {code for code, _ in ended} <= {0, 1}
    for line in told:
        assert re.fullmatch(IN_USE, line), line
    again = crowd([*words, "--study", str(tmp_path)], 1, patience=5)
    assert again[0][0] == 0, again
    cells = Counter(cell for _, err in [*ended, *again] for cell in finished(err))
    assert set(cells.values()) == {1}
    assert outcome(tmp_path) == outcome(alone)
    hold_whole(tmp_path)
