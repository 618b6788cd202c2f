"""The finished slices of a cell, kept on disk until its record is written, so that a stopped cell goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from flbench.engine.gallery import write_arrays
from flbench.files import write_json
from flbench.protocol import fingerprint
from flbench.record import Convention
from flbench.study import PARTIAL, write_scores


@dataclass
class Shard:
    """The outcome of one test slice under one condition.

    Attributes:
        scores: One row per image.
        gallery: Arrays of a few fakes, for pictures.
        conventions: Thresholded metrics under every convention; empty if they were not asked for.
    """

    scores: pd.DataFrame
    gallery: dict[str, np.ndarray] = field(default_factory=dict)
    conventions: Mapping[str, Convention] = field(default_factory=dict)


class Shards:
    """The finished slices of one cell.

    Args:
        folder: Folder of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / PARTIAL

    def read(self, test: str, condition: str) -> Shard | None:
        """Return a finished slice, or None."""
        stem = self._stem(test, condition)
        try:
            with np.load(_with(stem, ".npz"), allow_pickle=False) as file:
                gallery = dict(file)
            scores = pd.read_parquet(_with(stem, ".parquet"))
            said = json.loads(_with(stem, ".json").read_text(encoding="utf-8"))
            return Shard(scores, gallery, {name: Convention.model_validate(value) for name, value in said.items()})
        except (OSError, ValueError, EOFError):
            return None

    def write(self, test: str, condition: str, shard: Shard) -> None:
        """Keep a finished slice; the gallery comes last and makes it count."""
        stem = self._stem(test, condition)
        write_scores(_with(stem, ".parquet"), shard.scores)
        write_json(_with(stem, ".json"), {name: value.model_dump() for name, value in shard.conventions.items()})
        write_arrays(_with(stem, ".npz"), shard.gallery)

    def clear(self) -> None:
        """Drop what the record has made superfluous."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stem(self, test: str, condition: str) -> Path:
        """Return the path of a slice's files without suffix; names of slices may hold any sign."""
        name = f"{test}--{condition}"
        safe = "".join(sign if sign.isalnum() or sign in "_+-" else "." for sign in name)[:80]
        return self.folder / (safe if safe == name else f"{safe}-{fingerprint(name)[:8]}")


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # a condition such as noise-0.01 has a dot of its own
