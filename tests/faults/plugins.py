"""Distributions of methods that misbehave, made in a folder that is put on the path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flbench import registry


def distribution(folder: Path, module: str, code: str, methods: dict[str, str]) -> Path:
    """Write a distribution as it lies when it is installed, and return the folder.

    Args:
        folder: To be put on the path.
        module: Name of its module.
        code: What stands in it.
        methods: Name of a method to its class.
    """
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    points = "".join(f"{name} = {module}:{kind}\n" for name, kind in methods.items())
    (info / "entry_points.txt").write_text(f"[flbench.methods]\n{points}")
    return folder


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let this process find the methods of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry.methods.cache_clear()
        yield
    registry.methods.cache_clear()
