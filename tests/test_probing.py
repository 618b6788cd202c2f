"""Looks in other processes: what hangs, crashes, exits or prints is told, and the others are looked at all the same."""

import os
import time
from pathlib import Path

import pytest

from flbench.probing import Seen, probe

LOOKS = """
import os, signal, subprocess, sys, threading, time

def look(item):
    if item == "hang":
        time.sleep(600)
    elif item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif item == "leave":
        print("the last words", file=sys.stderr)
        os._exit(7)
    elif item == "exit":
        sys.exit(3)
    elif item == "raise":
        raise ValueError("of two\\nlines")
    elif item == "print":
        print("Hello from a plugin")
    elif item == "system":
        os.system("echo hello from its child")
    elif item == "endless":
        while True:
            os.write(1, b"x" * 65536)
    elif item == "closed":
        sys.stdout.close()
    elif item == "no json":
        return object()
    elif item == "ask":
        input("which folder? ")
    elif item == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return child.pid
    elif item == "thread":
        threading.Thread(target=time.sleep, args=(600,)).start()
    return item
"""
PATIENCE = 600.0


@pytest.fixture(autouse=True)
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_looks.py").write_text(LOOKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def looked(*items: str, seconds: float = PATIENCE) -> dict[str, Seen]:
    told: list[Seen] = []
    seen = probe(items, "made_looks:look", seconds=seconds, tell=told.append)
    assert [one.item for one in seen] == list(items)
    assert told == seen
    return {one.item: one for one in seen}


def test_replies_come_in_order_and_nothing_is_printed() -> None:
    assert looked("a", "b", "c") == {name: Seen(name, reply=name) for name in "abc"}
    assert probe([], "made_looks:look", seconds=PATIENCE) == []


def test_whatever_one_does_the_others_are_looked_at() -> None:
    seen = looked("a", "crash", "b", "leave", "exit", "raise", "c", "no json", "ask", "closed", "d")
    failed = {name: one.failure for name, one in seen.items() if one.failure}
    assert failed == {
        "crash": "crashes the process: SIGSEGV",
        "leave": "ends the process with code 7: the last words",
        "exit": "calls sys.exit(3)",
        "raise": "ValueError: of two lines",
        "no json": "TypeError: Object of type object is not JSON serializable",
        "ask": "EOFError: EOF when reading a line",
    }
    assert [seen[name].reply for name in "abcd"] == list("abcd")


def test_one_that_hangs_is_ended() -> None:
    assert looked("hang", seconds=0.5)["hang"].failure == "hangs: no answer within 0.5 s"


def test_what_is_printed_is_told_of_the_one_that_printed_it() -> None:
    seen = looked("a", "print", "b", "system")
    assert {name: one.printed for name, one in seen.items()} == {
        "a": "",
        "print": "Hello from a plugin",
        "b": "",
        "system": "hello from its child",
    }
    assert [one.reply for one in seen.values()] == list(seen)


def test_printing_without_end_is_ended() -> None:
    assert looked("endless", "a")["endless"].failure == "prints without end"


def test_what_a_plugin_started_ends_with_it() -> None:
    pid = looked("child")["child"].reply
    while is_running(pid):  # it was killed; whoever inherits it has to notice
        time.sleep(0.02)
    assert looked("thread")["thread"].reply == "thread"


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    if state.parent.parent.joinpath("self").exists():
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_look_that_cannot_be_found_is_told_of_every_item() -> None:
    seen = probe(["a", "b"], "no_such_module:look", seconds=PATIENCE)
    for one in seen:
        assert one.failure.startswith("ends the process with code 1: ModuleNotFoundError")
