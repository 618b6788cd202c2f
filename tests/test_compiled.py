"""Compiled loops: what they promise whatever becomes of the folder in which they are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flbench.compiled import compiled

SOURCE = """
import numpy as np
from flbench.compiled import compiled

@compiled("float64(float64[::1])")
def total(values):
    found = 0.0
    for i in range(len(values)):
        found += values[i]
    return found

if __name__ == "__main__":
    values = np.arange(5.0)
    values.flags.writeable = False
    print(total(values))
"""


@compiled("float64(float64[::1])")
def squares(values: np.ndarray) -> float:
    """Return the sum of squares."""
    found = 0.0
    for i in range(len(values)):
        found += values[i] * values[i]
    return found


def run(source: Path, caches: Path) -> str:
    """Run a script as a process whose user keeps caches in a folder."""
    environment = os.environ | {"HOME": str(caches), "XDG_CACHE_HOME": str(caches), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([sys.executable, source], env=environment, capture_output=True, text=True, check=True)
    assert not ended.stderr
    return ended.stdout.strip()


def test_it_computes_what_python_does_and_says_what_it_is() -> None:
    values = np.random.default_rng(0).random(100)
    assert squares(values) == sum(float(v) * float(v) for v in values)
    assert squares.__name__ == "squares"
    assert squares.__doc__ == "Return the sum of squares."
    with pytest.raises(TypeError):
        squares(values.astype(np.float32))


def test_what_is_compiled_is_kept_and_used_again(tmp_path: Path) -> None:
    source = tmp_path / "total.py"
    source.write_text(SOURCE)
    assert run(source, tmp_path / "caches") == "10.0"
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert len(kept) == 1
    assert run(source, tmp_path / "caches") == "10.0"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == kept


@pytest.mark.parametrize("content", [b"", b"\x80\x05damaged", b"\0" * 100], ids=["empty", "cut short", "zeros"])
@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_file_is_not_used(tmp_path: Path, kind: str, content: bytes) -> None:
    source = tmp_path / "total.py"
    source.write_text(SOURCE)
    run(source, tmp_path / "caches")
    (kept,) = tmp_path.rglob(kind)
    kept.write_bytes(content)
    assert run(source, tmp_path / "caches") == "10.0"


def test_it_works_where_no_folder_can_be_written(tmp_path: Path) -> None:
    """Even root cannot make a folder where a file is."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "total.py").write_text(SOURCE)
    (folder / "__pycache__").write_text("a file")
    caches = tmp_path / "caches"
    caches.write_text("a file too")
    assert run(folder / "total.py", caches) == "10.0"
