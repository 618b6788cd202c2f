"""The ledger of faults: `pytest tests/faults --fault-report FILE` writes what came of every one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import make_dataset, run_units_here
from ledger import KINDS, NUMBERS, Ledger, Observed

from flbench import jobs
from flbench.data.dataset import Dataset
from flbench.reporting import figures, study_figures

LEDGER = pytest.StashKey[Ledger]()
SEEN = pytest.StashKey[Observed]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-report", metavar="FILE", help="write what came of every fault as JSON; not with -n")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger()
    if config.getoption("--fault-report", None) and config.getoption("numprocesses", None):
        raise pytest.UsageError("--fault-report counts in one process: leave out --numprocesses")


@pytest.fixture
def observed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """Call it with what the user saw: the end of a command, or a text and an exit code."""
    seen = Observed([tmp_path_factory.getbasetemp().parent])
    request.node.stash[SEEN] = seen
    return seen


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs stay in this process, without reference rows and pictures, which are tested elsewhere."""
    run_units_here(monkeypatch)
    monkeypatch.setattr(jobs, "reference_methods", list)
    monkeypatch.setattr(figures, "draw_cell_figures", lambda *_: None)
    monkeypatch.setattr(study_figures, "draw_boards", lambda *_, **__: [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        for mark in item.iter_markers("fault"):
            number, phrase = mark.args
            kind = mark.kwargs.get("kind", "input")
            assert kind in KINDS, kind
            assert number in NUMBERS or isinstance(number, str), number
            seen = item.stash.get(SEEN, Observed())
            item.config.stash[LEDGER].note(number, phrase, kind, report.outcome, seen)
    return report  # type: ignore[return-value]


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--fault-report", None)
    if path:
        Path(path).write_text(session.config.stash[LEDGER].to_json(), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Photos and fakes of twelve people, for a test to damage."""
    return make_dataset(tmp_path / "data", people=12, attributes=("blond_hair",))


@pytest.fixture
def victim(data: Dataset) -> Path:
    """A fake that the run looks at."""
    return data.path(data.manifest.query("split == 'test' and label == 'fake'")["image"].iloc[0])
