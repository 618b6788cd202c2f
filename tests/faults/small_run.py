"""A run as small as a real one can be, a fit and its cell, and what must hold of its study whatever went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from flbench.data.dataset import Dataset
from flbench.record import read_record
from flbench.study import FIT, SCORES, Study

PROTOCOL = """
name = "short"
version = 1
title = "Short"
question = "How well?"
paper = "None"
size = "dataset"
conditions = ["clean", "jpeg-50"]

[[fit]]
name = "hair"
categories = ["stgan/blond_hair"]
people = "disjoint"

[[test]]
name = "hair"
fit = "hair"
categories = ["stgan/blond_hair"]

[scoring]
over = "whole"
metrics = ["coss", "mae"]
primary = "coss"
reals = "balanced"
"""


def short_run(data: Dataset, folder: Path, *, size: int = 2) -> list[str]:
    """Return the words of the command, without the study; the protocol is written into a folder.

    Args:
        data: Has the category of the protocol.
        folder: Where the protocol goes.
        size: Channels of the network.
    """
    protocol = folder / "short.toml"
    protocol.write_text(PROTOCOL)
    words = ["run", "-m", "noise_residual", "-p", str(protocol), "--data", str(data.folder), "--json", "--threads", "1"]
    return [*words, "--set", "depth=2", "--set", f"width={size}", "--max-steps", "2"]


def is_picture(path: Path) -> bool:
    """Return whether a file is what a kill leaves of a picture, which is drawn without a lock."""
    return path.name.endswith(".tmp") and path.name.startswith((".panel.", ".cases."))


def hold_whole(study: Path) -> None:
    """Hold that every file under a final name can be read, and that nothing else lies about."""
    for path in (path for path in study.rglob("*") if not path.is_dir() and not is_picture(path)):
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".parquet":
                pd.read_parquet(path)
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    dict(arrays)
            case ".safetensors":
                with safe_open(path, framework="pt") as tensors:
                    assert [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118 - not a mapping
            case _:
                assert path.suffix in (".lock", ".png", ".txt"), path
    assert not [path for path in study.rglob("*.tmp") if not is_picture(path)]
    assert not list(study.glob("locks/*.json"))
    for record in study.glob("cells/*/run.json"):
        assert read_record(record).status == "ok"
        assert (record.parent / SCORES).is_file()
    for fit in study.glob("fits/*/fit.json"):
        assert list(fit.parent.glob("*.safetensors"))


def outcome(study: Path) -> tuple[dict[str, str], dict[str, bytes], list[str]]:
    """Return digests of records, per-image scores and digests of weights."""
    records = Study(study).records()
    scores = {r.cell: (Study(study).cell_folder(r.cell) / SCORES).read_bytes() for r in records}
    weights = [json.loads(path.read_text())["weights"] for path in study.glob(f"fits/*/{FIT}")]
    return {record.cell: record.digest for record in records}, scores, weights
