"""Training pairs for the generators: photos of people before and after one edit, rendered once and memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flbench.synthetic.camera import photograph, sensor_size
from flbench.synthetic.faces import ATTRIBUTES, EDITS, RENDERER_VERSION, render, sample_identity
from flbench.synthetic.workers import pool

FIRST_TRAINING_SEED = 1_000_000
"""Identities from this seed on train generators; data sets use seeds below it, so no person is in both."""

WEIGHTS: Mapping[str, float] = {
    "eyeglasses": 3,
    "smile": 3,
    "mustache": 3,
    "bangs": 3,
    "bald": 1.5,
    "black_hair": 1,
    "blond_hair": 1,
    "brown_hair": 1,
    "male": 0.7,
    "age": 0.7,
}
"""How often an edit is sampled: small edits are hard to learn and need about three times as many pairs."""

IDENTITY_SHARE = 0.15
"""Share of pairs without an edit."""

ADDING_SHARE = 0.75
"""Share of the edits that add the attribute; the rest remove it."""

_PAIR_STREAM = 9105
_CHUNK = 20


@dataclass(frozen=True)
class Faces:
    """Photos of people with each edit: index 0 is the photo itself, then one photo per entry of `EDITS`."""

    images: np.ndarray
    """uint8 (people, 1 + edits, 3, S, S), memory-mapped."""
    attributes: np.ndarray
    """float32 (people, 1 + edits, 10)."""


def photograph_edits(seed: int, size: int, edits: Sequence[str] = tuple(EDITS)) -> tuple[Tensor, np.ndarray]:
    """Return the photo of one person and E edits of it: uint8 (1 + E, 3, size, size), attribute vectors (1 + E, 10)."""
    identity = sample_identity(seed)
    looks = [identity.attributes, *(identity.attributes.edit(edit) for edit in edits)]
    images = []
    for look in looks:
        linear, _ = render([identity], [look], sensor_size(size))
        images.append(photograph(linear, [seed], size))
    return torch.cat(images), np.stack([look.vector() for look in looks])


def _render_chunk(first: int, count: int, size: int, path: Path) -> int:
    images = np.lib.format.open_memmap(path, mode="r+")
    for index in range(first, first + count):
        images[index] = photograph_edits(FIRST_TRAINING_SEED + index, size)[0].numpy()
    return count


def prepare_faces(
    folder: Path, *, people: int, size: int, workers: int, progress: Callable[[str], None] | None = None
) -> Faces:
    """Render the training people once into a memory-mapped file, or open it if it is already there.

    Args:
        folder: Cache folder; holds 0.5 MB per person at 128 pixels.
        people: How many.
        size: Side of the photos.
        workers: Rendering processes.
        progress: Called with one line now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"faces-v{RENDERER_VERSION}-{people}-{size}.npy"
    done = path.with_suffix(".json")
    attributes = _attributes(people)
    if not done.exists():
        shape = (people, 1 + len(EDITS), 3, size, size)
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
        rendered = 0
        with pool(workers) as executor:
            starts = range(0, people, _CHUNK)
            jobs = [executor.submit(_render_chunk, start, min(_CHUNK, people - start), size, path) for start in starts]
            for job in jobs:
                rendered += job.result()
                if progress:
                    progress(f"rendered {rendered} of {people} people")
        temporary = done.with_suffix(".tmp")
        temporary.write_text(json.dumps({"people": people, "size": size}), encoding="utf-8")
        temporary.replace(done)
    return Faces(np.load(path, mmap_mode="r"), attributes)


def _attributes(people: int) -> np.ndarray:
    """Return the attribute vectors of the training people and their edits."""
    rows = []
    for index in range(people):
        attributes = sample_identity(FIRST_TRAINING_SEED + index).attributes
        rows.append([attributes.vector(), *(attributes.edit(edit).vector() for edit in EDITS)])
    return np.array(rows, dtype=np.float32)


def sample_pairs(faces: Faces, people: range, count: int, *, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the batch of one step; it depends on seed and step only, so a resumed training sees the same batches.

    Args:
        faces: The rendered people.
        people: Which of them may be drawn.
        count: Number of pairs B.
        seed: Seed of the training.
        step: Number of the step.

    Returns:
        Inputs and targets, float32 (B, 3, S, S) in [-1, 1], and attribute differences, float32 (B, 10).
    """
    rng = np.random.Generator(np.random.PCG64([_PAIR_STREAM, seed, step]))
    odds = np.array([WEIGHTS[edit] for edit in EDITS])
    odds /= odds.sum()
    inputs, targets, differences = [], [], []
    for _ in range(count):
        person = int(rng.integers(people.start, people.stop))
        edit = int(rng.choice(len(odds), p=odds))
        adding, unchanged, flipped = rng.random(3)
        before, after = 0, 1 + edit
        attribute = ATTRIBUTES.index(EDITS[list(EDITS)[edit]])
        adds = faces.attributes[person, after, attribute] > faces.attributes[person, before, attribute]
        if adds != (adding < ADDING_SHARE):
            before, after = after, before
        if unchanged < IDENTITY_SHARE:
            after = before
        pair = faces.images[person, [before, after]]
        pair = pair[..., ::-1] if flipped < 0.5 else pair
        inputs.append(pair[0])
        targets.append(pair[1])
        differences.append(faces.attributes[person, after] - faces.attributes[person, before])
    return _to_tensor(inputs), _to_tensor(targets), torch.from_numpy(np.stack(differences))


def _to_tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).float().mul_(1 / 127.5).sub_(1)
