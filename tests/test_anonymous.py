"""Home folders and names of users are taken out, and nothing else is."""

from pathlib import Path

import pytest

from flbench.anonymous import without_home, without_names


@pytest.fixture(autouse=True)
def alice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/alice"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/alice/data", "~/data"),
        ("in /home/alice.", "in ~."),
        ("'/home/alice'", "'~'"),
        ("/home/alice2/data", "/home/alice2/data"),
        ("/home/alice.old/data", "/home/alice.old/data"),
        ("two\nlines", "two lines"),
        ("flbench 0.1.0", "flbench 0.1.0"),
    ],
)
def test_the_home_folder_is_a_tilde(text: str, said: str) -> None:
    assert without_home(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/alice/data of /home/bob/data", "~/data of /home/<user>/data"),
        ("/Users/carol/Library/x", "/Users/<user>/Library/x"),
        (r"C:\Users\dave\x", r"C:\Users\<user>\x"),
        ("/scratch/alice/x", "/scratch/<user>/x"),
        ("/scratch/alice", "/scratch/<user>"),
        ("/scratch/alices/x", "/scratch/alices/x"),
        ("alice 1.0", "alice 1.0"),
    ],
)
def test_names_of_users_are_taken_out_of_paths(text: str, said: str) -> None:
    assert without_names(text) == said


def test_a_home_that_is_the_root_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert without_names("/data/x") == "/data/x"


def test_no_home_at_all_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr(Path, "home", homeless)
    assert without_names("/data/x") == "/data/x"
