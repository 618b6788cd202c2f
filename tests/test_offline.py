"""No command uses the network: every attempt of every process is caught, whatever becomes of the error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

# An audit hook sees what a patched socket module would miss, and no library can take it out again.
GUARD = """
import os, sys

WATCHED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}
LOG = os.environ["FLBENCH_TEST_ATTEMPTS"]

def guard(event, args):
    if event not in WATCHED:
        return
    import socket
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if args[0].family == getattr(socket, "AF_UNIX", None):
            return
        address = args[1]
    else:
        address = args[:2] if event == "socket.getaddrinfo" else args[0]
    with open(LOG, "a") as file:
        file.write(f"{event} {address!r} by {sys.argv}\\n")
    raise OSError(f"no network in this test: {event} {address!r}")

sys.addaudithook(guard)
"""


class Offline:
    """Runs commands far from the checkout, in an environment that notes every attempt to reach something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempts = folder / "attempts"
        guard = folder / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(GUARD)
        # What a machine may have said to be offline would hide an attempt, and so would weights that it has already.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TORCH_"))}
        self.environment |= {
            "FLBENCH_HOME": str(folder / "home"),
            "FLBENCH_TEST_ATTEMPTS": str(self.attempts),
            "HF_HOME": str(folder / "hub"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(guard),
            "TORCH_HOME": str(folder / "torch"),
        }

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=self.environment)

    def flbench(self, *words: str, code: int = 0) -> str:
        """Return the stdout of a command that tried to reach nothing."""
        done = self.python("-m", "flbench", *words)
        assert self.tried() == "", f"flbench {' '.join(words)}"
        assert done.returncode == code, done.stderr
        return done.stdout

    def tried(self) -> str:
        return self.attempts.read_text() if self.attempts.exists() else ""


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return Offline(tmp_path)


@pytest.mark.parametrize(
    ("code", "tried"),
    [
        ("import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)", "('192.0.2.1', 80)"),
        ("import socket; socket.socket().connect_ex(('192.0.2.1', 80))", "('192.0.2.1', 80)"),
        ("import socket; socket.getaddrinfo('example.invalid', 443)", "('example.invalid', 443)"),
        ("import socket; socket.gethostbyname('example.invalid')", "example.invalid"),
        ("import _socket; _socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 53))", "('192.0.2.1', 53)"),
        (
            "import urllib.request as r\ntry: r.urlopen('http://example.invalid')\nexcept OSError: pass",
            "example.invalid",
        ),
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', "
            "'import socket; socket.create_connection((\"192.0.2.1\", 80))'])",
            "192.0.2.1",
        ),
    ],
)
def test_an_attempt_is_caught_even_where_its_error_is_not_told(offline: Offline, code: str, tried: str) -> None:
    offline.python("-c", code)
    assert tried in offline.tried()


@pytest.mark.skipif(not hasattr(__import__("socket"), "AF_UNIX"), reason="no sockets of files here")
def test_a_socket_of_this_machine_is_no_attempt(offline: Offline) -> None:
    code = "import socket; pair = socket.socketpair(); socket.socket(socket.AF_UNIX).connect_ex('nowhere')"
    assert offline.python("-c", code).returncode == 0
    assert offline.tried() == ""


def test_no_command_reaches_for_the_network(offline: Offline) -> None:
    """From an empty machine to published boards and maps of one's own images, with data made there."""
    listing = json.loads(offline.flbench("list", "--json"))
    assert {"methods", "protocols", "data"} == set(listing)
    for name in ("highpass", "in_gan"):
        assert offline.flbench("show", name)
    offline.flbench("data", "make", "synthfaces", "--profile", "tiny")
    for word in ("show", "check"):
        offline.flbench("data", word, "--profile", "tiny")
    methods = ("--method", "highpass,fakelocator")
    asked = (*methods, "--protocol", "in_gan", "--profile", "tiny", "--max-steps", "2", "--allow-missing")
    records = json.loads(offline.flbench("run", *asked, "--json"))
    found = {record["method"]["name"]: record["status"] for record in records}
    assert found["highpass"] == found["fakelocator"] == "ok", records
    offline.flbench("publish")
    offline.flbench("publish", "--check")
    offline.flbench("claims", "--data", "synthfaces-tiny")
    image = next((offline.folder / "home").rglob("images/*.png"))
    for name in ("highpass", "fakelocator"):
        size = ("--size", "64") if name == "highpass" else ()
        offline.flbench("predict", str(image), "--method", name, "--into", name, *size)
        assert list((offline.folder / name).glob("*-map.png"))
    offline.flbench("check", "highpass")
    offline.flbench("doctor", "--seconds", "600")


def test_weights_that_are_not_there_are_not_fetched_unless_asked_for(offline: Offline) -> None:
    """The one setting that may use the network does, and nothing less."""
    code = (
        "from flbench.registry import choose_method, load_method\n"
        "load_method(choose_method('fakelocator', {'weights': 'imagenet', 'encoder': 'resnet18', 'download': %s}))"
        ".build(pretrained=True)\n"
    )
    done = offline.python("-c", code % False)
    assert "set weights=none for a random start, or download=true" in done.stderr
    assert offline.tried() == ""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code % True], env=offline.environment, cwd=offline.folder
    ) as asked:
        try:
            while asked.poll() is None and not offline.tried():
                time.sleep(0.05)
        finally:
            asked.kill()  # it would try again for half a minute
    assert "huggingface.co" in offline.tried()
