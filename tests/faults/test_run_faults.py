"""What goes wrong around a run: folders, locks, records, clocks, plugins, names, pipes and terminals."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import flbench, make_dataset
from click.testing import Result
from factories import make_record, make_scores, write_cell
from ledger import Observed, error_of
from markdown_it import MarkdownIt
from PIL import Image
from small_run import hold_whole, outcome, short_run

from flbench import registry, study
from flbench.data.dataset import Dataset
from flbench.record import SCHEMA
from flbench.study import RECORD, SCORES, Study

pytestmark = pytest.mark.usefixtures("here")
DAY = 86_400


@pytest.fixture
def words(boxes: Dataset, tmp_path: Path) -> list[str]:
    return short_run(boxes, tmp_path)


def command(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "flbench", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written, for root neither."""
    folder = tmp_path / "frozen"
    folder.mkdir()
    root = os.geteuid() == 0
    if root:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("this root may not mount, and can write everywhere")
    else:
        folder.chmod(0o555)
    try:
        yield folder
    finally:
        if root:
            subprocess.run(["umount", str(folder)], check=True, capture_output=True)
        else:
            folder.chmod(0o755)


@pytest.mark.fault(58, "a folder that cannot be written: of the study, of the boards, of the maps", kind="write")
@pytest.mark.parametrize("what", ["run", "publish", "predict"])
def test_58_a_read_only_folder(
    words: list[str], boxes: Dataset, frozen: Path, tmp_path: Path, what: str, observed: Observed
) -> None:
    if what == "publish":
        record = make_record("alpha", make_scores(0.7, people=6))
        write_cell(tmp_path / "s" / "cells" / record.cell, record, make_scores(0.7, people=6))
    asked = {
        "run": [*words, "--study", frozen / "s"],
        "publish": ["publish", "--study", tmp_path / "s", "--into", frozen / "boards"],
        "predict": ["predict", boxes.folder / "images", "-m", "highpass", "--into", frozen / "maps", "--threads", 1],
    }
    done = flbench(*asked[what], code=1)
    observed(done)
    assert re.search(r"frozen/\S+ cannot be written: (Read-only file system|Permission denied)", error_of(done.stderr))


HOLD = """
import sys
from pathlib import Path
from flbench.study import Study
with Study(Path(sys.argv[1])).lock(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock of a study, until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, str(folder), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.wait(60)
        process.stdout.close()


def undone(words: list[str], folder: Path) -> tuple[str, object]:
    """Finish a run, then take its record away; return the cell that is left to do, and the outcome it must have."""
    flbench(*words, "--study", folder)
    expected = outcome(folder)
    (cell,) = expected[0]
    (folder / "cells" / cell / RECORD).unlink()
    return cell, expected


@pytest.mark.fault(60, "another process works on the same cell of the same folder", kind="other")
def test_60_a_folder_in_use(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    monkeypatch.setattr(study, "GRACE_SECONDS", 0.05)
    folder = tmp_path / "s"
    cell, expected = undone(words, folder)
    with held(folder, cell) as other:
        done = flbench(*words, "--study", folder, code=1)
        observed(done)
        where = f"in use by pid {other.pid} on host {socket.gethostname()} since "
        assert where in error_of(done.stderr)
        assert "(wait for it with --wait)" in done.stderr
        protocol = words[words.index("-p") + 1]
        data = words[words.index("--data") + 1]
        flbench("run", "-m", "highpass", "-p", protocol, "--data", data, "--threads", 1, "--study", folder)
        assert other.stdin is not None
        threading.Timer(0.3, other.stdin.close).start()
        flbench(*words, "--study", folder, "--wait")
    assert outcome(folder)[0].items() >= expected[0].items()  # type: ignore[index]


@pytest.mark.fault(61, "a lock that a host holds which is gone, as a network file system keeps it", kind="other")
def test_61_a_lock_of_a_host_that_is_gone(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    monkeypatch.setattr(study, "GRACE_SECONDS", 0.05)
    folder = tmp_path / "s"
    cell, expected = undone(words, folder)
    with held(folder, cell):
        owner = folder / "locks" / f"{cell}.json"
        owner.write_text(json.dumps({"pid": 7, "host": "gone", "since": "2026-01-01T00:00:00Z"}))
        os.utime(owner, (time.time() - 3 * DAY,) * 2)
        done = flbench(*words, "--study", folder, code=1)
        said = error_of(done.stderr)
        observed(re.sub(r"\d+ days", "N days", said), done.exit_code)
        assert "in use by pid 7 on host gone since 2026-01-01T00:00:00Z, 3 days ago" in said
        assert "if nothing runs on gone any more, --break-lock" in said
        done = flbench(*words, "--study", folder, "--break-lock")
        assert f"note: lock broken: {cell} by pid 7 on host gone" in done.stderr
        assert outcome(folder) == expected
    with held(folder, cell):
        (folder / "cells" / cell / RECORD).unlink()
        assert "in use by pid" in flbench(*words, "--study", folder, "--break-lock", code=1).stderr, "one's own stays"


@pytest.mark.fault(62, "a record or its per-image scores are cut off", kind="other")
@pytest.mark.parametrize("name", [RECORD, SCORES])
@pytest.mark.parametrize("kept", [0, 30, -5])
def test_62_truncated_results(words: list[str], tmp_path: Path, name: str, kept: int, observed: Observed) -> None:
    folder = tmp_path / "s"
    flbench(*words, "--study", folder)
    expected = outcome(folder)
    (path,) = folder.glob(f"cells/*/{name}")
    path.write_bytes(path.read_bytes()[:kept])
    done = flbench(*words, "--study", folder)
    assert "1 cell to do" in done.stderr
    observed(next(line for line in done.stderr.splitlines() if "to do" in line).split(",")[0], done.exit_code)
    assert outcome(folder) == expected
    assert path.with_name(f"{name}.bad").exists(), "nothing is deleted"
    for bad in folder.glob("cells/*/*.bad"):
        bad.unlink()
    hold_whole(folder)


@pytest.mark.fault(63, "a record that a newer flbench has written", kind="other")
@pytest.mark.parametrize("what", ["run", "publish", "show"])
def test_63_a_newer_record(words: list[str], tmp_path: Path, what: str, observed: Observed) -> None:
    folder = tmp_path / "s"
    flbench(*words, "--study", folder)
    (path,) = folder.glob(f"cells/*/{RECORD}")
    newer = path.read_text().replace(SCHEMA, "flbench.run/9")
    path.write_text(newer)
    asked = {
        "run": [*words, "--study", folder],
        "publish": ["publish", "--study", folder, "--into", tmp_path / "boards"],
        "show": ["show", path.parent.name, "--study", folder],
    }
    done = flbench(*asked[what], code=3)
    observed(done)
    assert f"has schema 'flbench.run/9', this version reads '{SCHEMA}' (upgrade flbench)" in error_of(done.stderr)
    assert path.read_text() == newer, "it is left alone"


@pytest.mark.fault(64, "the clock jumps by years, forward and back, all through a run", kind="other")
def test_64_a_clock_that_jumps(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    flbench(*words, "--study", tmp_path / "steady")
    jumps = itertools.cycle([0.0, 4e9, 1e9, 2e9, 1.0])
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(jumps))
        done = flbench(*words, "--study", tmp_path / "jumping")
        assert "1 fits and 1 cells, all done" in flbench(*words, "--study", tmp_path / "jumping").stderr
    observed("nothing: the same bits", done.exit_code)
    assert outcome(tmp_path / "jumping") == outcome(tmp_path / "steady")


@pytest.mark.fault(65, "the protocol, or an option, is edited between two runs", kind="other")
def test_65_a_protocol_that_was_edited(words: list[str], tmp_path: Path, observed: Observed) -> None:
    folder = tmp_path / "s"
    flbench(*words, "--study", folder)
    old = outcome(folder)
    (protocol,) = tmp_path.glob("*.toml")
    protocol.write_text(protocol.read_text().replace('"jpeg-50"', '"jpeg-40"'))
    done = flbench(*words, "--study", folder)
    new = outcome(folder)
    observed(next(line for line in done.stderr.splitlines() if "to do" in line).split(",")[0], done.exit_code)
    assert new[0].items() > old[0].items(), "a new cell, and the old one is as it was"
    assert len(new[0]) == 2
    assert new[2] == old[2], "the fit is the same"
    flbench(*words, "--set", "lr=0.01", "--study", folder)
    assert outcome(folder)[0].items() > new[0].items()
    assert len(outcome(folder)[2]) == 2, "another option is another fit"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Distributions whose methods are broken, absent, or called as another one."""
    folder = tmp_path / "plugins"
    info = folder / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "broken_plugin.py").write_text("class Broken(:\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    points = "broken = broken_plugin:Broken\nabsent = no_such_module:X\nzeros = broken_plugin:Zeros\n"
    (info / "entry_points.txt").write_text(f"[flbench.methods]\n{points}")
    monkeypatch.syspath_prepend(folder)
    registry.methods.cache_clear()
    yield
    monkeypatch.undo()
    registry.methods.cache_clear()


@pytest.mark.fault(69, "plugins that cannot be read, are not there, or have the name of another", kind="other")
@pytest.mark.usefixtures("plugins")
def test_69_broken_plugins(words: list[str], tmp_path: Path, observed: Observed) -> None:
    listed = {row["name"]: row["broken"] for row in json.loads(flbench("list", "--json").stdout)["methods"]}
    assert "line 1" in listed["broken"]
    assert "not found" in listed["absent"]
    assert "declared twice" in listed["zeros"]
    assert "flbench.methods.zeros" in listed["zeros"]
    assert not listed["noise_residual"]
    done = flbench("list")
    observed(f"broken: {listed['zeros']}", done.exit_code)
    assert "broken" in done.stdout
    flbench(*words, "--study", tmp_path / "s")
    said = flbench(
        *[word if word != "noise_residual" else "broken" for word in words], "--study", tmp_path / "s", code=3
    )
    assert "method broken is broken: " in error_of(said.stderr)


EVIL = "=cmd()|'/c calc'!A0 <script>alert(1)</script>\n| a | [x](javascript:b) ![i](http://x.invalid/i.png) `c` [/nope]"
ESCAPES = "\x1b[2J\x1b]0;title\x07red\x1b[31m\r\x08\x9b31m\u202e"


def boards_of(name: str, folder: Path) -> tuple[Result, str]:
    """Publish a record that carries a text wherever it may; return the end and everything that was written."""
    scores = make_scores(0.7, people=6)
    told = {"title": name, "paper": f"javascript:alert(1) {name}", "flags": [name], "given": {name: name}}
    record = make_record(name, scores, **told)
    write_cell(folder / "s" / "cells" / record.cell, record, scores)
    done = flbench("publish", "--study", folder / "s", "--into", folder / "boards")
    files = [path for path in (folder / "boards").rglob("*") if path.suffix in (".md", ".html", ".csv", ".svg")]
    assert files
    return done, "\n".join(path.read_text(encoding="utf-8") for path in sorted(files))


@pytest.mark.fault(70, "a method named as HTML, a row of a table, a link, a picture and a formula of a spreadsheet")
def test_70_hostile_names_in_boards(boxes: Dataset, tmp_path: Path, observed: Observed) -> None:
    done, text = boards_of(EVIL, tmp_path)
    shown = MarkdownIt("commonmark").enable("table").render(text)
    assert "cmd()" in shown
    assert "<script" not in shown
    assert not re.search(r"(href|src)=.(javascript:|http://x)", shown)
    assert not [line for line in text.splitlines() if line.startswith(("| a |", "=cmd"))]
    observed("text, letter by letter: no element, no link, no picture, no row, no formula", done.exit_code)
    image = tmp_path / "=cmd().png"
    Image.new("RGB", (8, 8), "gray").save(image)
    (tmp_path / "@broken.png").write_bytes(b"")
    with contextlib.chdir(tmp_path):
        flbench("predict", image.name, "@broken.png", "-m", "highpass", "--into", "maps", "--threads", 1, code=4)
        with (tmp_path / "maps" / "summary.csv").open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]
        assert [Path(cell).is_file() for cell in cells if cell.startswith("./=cmd")] == [True, False, False]


@pytest.mark.fault(71, "escape sequences and control characters in the name of a method and of a data set")
def test_71_control_characters(boxes: Dataset, tmp_path: Path, observed: Observed) -> None:
    done, text = boards_of(f"evil{ESCAPES}", tmp_path)
    (record,) = Study(tmp_path / "s").records()
    shown = flbench("show", record.cell, "--study", tmp_path / "s")
    data = make_dataset(tmp_path / "d", people=6, attributes=("blond_hair",))
    about = (data.folder / "dataset.toml").read_text()
    title = json.dumps(f"evil{ESCAPES}").replace("\\u009b", "\\u009B")
    (data.folder / "dataset.toml").write_text(about.replace('"Boxes"', title))
    listed = flbench("data", "show", "--data", data.folder)
    lines = (done.output, shown.output, listed.output, text)
    for number, said in enumerate(lines):
        bad = set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said))
        assert not bad, (number, bad)
    assert "evil" in shown.output
    assert "evil" in listed.output
    observed(next(line for line in listed.stdout.splitlines() if "evil" in line), listed.exit_code)


@pytest.mark.fault(72, "no network, and a proxy that is not there: weights are asked for that are not installed")
def test_72_no_network(boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed) -> None:
    tried: list[object] = []

    def refuse(*asked: object, **_: object) -> None:
        tried.append(asked)
        raise OSError(101, "Network is unreachable")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:1")
    short = short_run(boxes, tmp_path)[3:7]
    asked = ["run", "-m", "fakelocator", "--set", "encoder=resnet18", *short, "--max-steps", 1, "--threads", 1]
    done = flbench(*asked, "--study", tmp_path / "s", code=3)
    observed(done)
    assert "weights imagenet of resnet18 are not in the local Hugging Face cache" in error_of(done.stderr)
    assert "set weights=none for a random start, or download=true on a machine with network" in done.stderr
    assert tried == [], "offline unless asked"


@pytest.mark.fault(73, "the reader of a pipe has seen enough (| head -n 1)", kind="other")
@pytest.mark.parametrize("asked", ["list --json", "show in_gan"])
def test_73_a_closed_pipe(asked: str, observed: Observed) -> None:
    pipe = f"set -o pipefail; {sys.executable} -P -m flbench {asked} | head -n 1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    observed("the first line, and nothing else", done.returncode)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.fault(74, "a terminal that knows ASCII only", kind="other")
@pytest.mark.parametrize("asked", [("list",), ("show", "conventions"), ("data", "show"), ("run",)])
def test_74_an_ascii_terminal(boxes: Dataset, tmp_path: Path, asked: tuple[str, ...], observed: Observed) -> None:
    if asked == ("data", "show"):
        about = boxes.about.model_copy(update={"title": "Café ✓ 😀"})
        data = make_dataset(tmp_path / "d", people=6, attributes=("blond_hair",))
        (data.folder / "dataset.toml").write_text(
            (data.folder / "dataset.toml").read_text().replace('"Boxes"', json.dumps(about.title, ensure_ascii=False)),
            encoding="utf-8",
        )
        asked = (*asked, "--data", str(data.folder))
    elif asked == ("run",):
        short = short_run(boxes, tmp_path)[3:7]
        asked = ("run", "-m", "highpass", *short, "--study", str(tmp_path / "s"), "--dry-run")
    done = command(*asked, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", TERM="dumb")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert done.stdout or done.stderr
    observed("the same in ASCII", done.returncode)
