import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from flbench.errors import RunError
from flbench.files import (
    atomic_write,
    file_digest,
    files_below,
    raise_if_full,
    save_into,
    storage_error,
    sweep,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def explode(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        atomic_write(path, explode)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_swept_and_what_is_being_written_stays(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from flbench.files import replacing\n"
        "with replacing(Path(sys.argv[1]) / 'panel.png') as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.glob(".panel.png.*.tmp")
    (tmp_path / ".mine.tmp").write_text("of someone")

    def write(temporary: Path) -> None:
        temporary.write_text("other half")
        sweep(tmp_path, ("cases.png",))
        assert left.exists(), "its name is another one"
        sweep(tmp_path)
        assert not left.exists()
        assert temporary.exists(), "it is being written"

    atomic_write(tmp_path / "panel.png", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "panel.png"]


def test_json_is_sorted_and_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n "a": 2,\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert "a" in (tmp_path / "a.json").read_text()


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_in_words(number: int, tmp_path: Path) -> None:
    error = storage_error(OSError(number, "x"), tmp_path / "f")
    assert "disk full" in error.message
    assert "nothing finished was lost" in error.hint


def test_a_file_size_limit_ends_in_one_line_and_no_half_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from flbench.files import write_text\n"
        "from flbench.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "try: write_text(Path(sys.argv[1]) / 'big.txt', 'x' * 5000)\n"
        "except RunError as error: print(error.exit_code, error)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 disk full")
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_files_are_saved_into_a_folder_all_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "fit"

    def save(into: Path) -> None:
        (into / "a.json").write_text("{}")
        (into / "b.json").write_text("{}")

    save_into(folder, save)
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]

    def fail(into: Path) -> None:
        (into / "c.json").write_text("{")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(RunError, match="disk full while writing fit"):
        save_into(folder, fail)
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]


def test_only_want_of_space_is_raised(tmp_path: Path) -> None:
    raise_if_full(ValueError("no"), tmp_path)
    raise_if_full(OSError(errno.EACCES, "no"), tmp_path)
    with pytest.raises(RunError, match="disk full while writing x in /y"):
        raise_if_full(OSError(errno.ENOSPC, "full", "/y/x"), tmp_path)


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / "x" / "y.txt", "text")


def test_files_below_a_folder_are_told_by_their_parts_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a-1.png", "a/b/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    assert files_below(tmp_path) == ["a/b/c.png", "a/z.png", "a-1.png", "b.png", "link.png"]
