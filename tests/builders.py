"""Small data sets for tests, made from numbers: photos of smooth noise, fakes with a brightened box."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from flbench.cli import main
from flbench.data.dataset import COLUMNS, About, Dataset, write_dataset
from flbench.files import file_digest

HAIR, SKIN, MOUTH = 13, 1, 10
BOXES = {"blond_hair": (0, 12), "black_hair": (0, 10), "brown_hair": (2, 12), "smile": (22, 28)}


def make_dataset(
    folder: Path,
    *,
    people: int = 24,
    size: int = 32,
    attributes: tuple[str, ...] = tuple(BOXES),
    generator: str = "stgan",
    parsing: bool = True,
) -> Dataset:
    """Write a data set: every person has one photo, and one fake per attribute with the attribute's box brightened."""
    rows: list[dict[str, str]] = []
    for person in range(people):
        rng = np.random.default_rng([11, person])
        coarse = rng.integers(40, 160, (4, 4, 3), dtype=np.uint8)
        photo = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).copy()
        split = ("train", "train", "train", "valid", "test", "test")[person % 6]
        base = {"database": "boxes", "identity": f"p{person:03d}", "split": split}
        classes = np.full((size, size), SKIN, np.uint8)
        classes[: size * 12 // 32] = HAIR
        classes[size * 22 // 32 : size * 28 // 32] = MOUTH
        own = f"parsing/p{person:03d}.png" if parsing else ""
        if parsing:
            _save(folder / own, classes)
        rows.append(base | _image(folder, f"p{person:03d}", photo) | {"label": "real", "parsing": own})
        for attribute in attributes:
            top, bottom = (size * edge // 32 for edge in BOXES[attribute])
            fake = photo.astype(int)
            fake[top:bottom] += rng.integers(60, 90)
            fake += np.indices((size, size)).sum(0)[:, :, None] % 2 * 2
            name = f"p{person:03d}-{attribute}"
            rows.append(
                base
                | _image(folder, name, np.clip(fake, 0, 255).astype(np.uint8))
                | {"label": "fake", "source": f"p{person:03d}", "generator": generator, "attribute": attribute}
            )
    manifest = pd.DataFrame([dict.fromkeys(COLUMNS, "") | row for row in rows])
    about = About(name="boxes", version="1", title="Boxes", licence="CC0-1.0", size=size, publishable=True)
    return write_dataset(folder, about, manifest)


def settle(module: nn.Module, side: int) -> None:
    """Let a network's norms know what images are like, as after a fit, and set it to predict."""
    with torch.no_grad():
        for _ in range(3):
            module.train()(torch.rand(4, 3, side, side))
    module.eval()


def _image(folder: Path, name: str, pixels: np.ndarray) -> dict[str, str]:
    path = f"images/{name}.png"
    _save(folder / path, pixels)
    return {"sample_id": name, "image": path, "sha256": file_digest(folder / path)}


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def run_units_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let work units run in this process, where a test can reach them and torch is imported already."""
    from flbench.engine import local
    from flbench.engine.plan import unit_from_json
    from flbench.engine.runtime import Events
    from flbench.engine.worker import run_unit, runtime_of
    from flbench.study import Study

    def run(job: Mapping[str, Any], unit: object, watch: Callable[[Mapping[str, Any]], None]) -> None:
        del unit
        told = json.loads(json.dumps(job))
        runtime = runtime_of(told)
        study = Study(Path(told["study"]))
        run_unit(unit_from_json(told["unit"]), Path(told["dataset"]), study, runtime, Events(watch), wait=told["wait"])

    monkeypatch.setattr(local, "_run", run)


def flbench(*words: object, code: int = 0) -> Result:
    """Run a command in this process and hold it to its exit code; a traceback is never shown."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    assert "Traceback" not in done.output
    return done
