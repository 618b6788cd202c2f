"""Training pairs for the generators: photos of people before and after one edit, rendered once and memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flbench.synthetic.camera import CAMERAS, photograph, sensor_size
from flbench.synthetic.faces import ATTRIBUTES, EDITS, RENDERER_VERSION, Attributes, render, sample_identity
from flbench.synthetic.identity import SCENERIES
from flbench.synthetic.workers import pool

FIRST_TRAINING_SEED = 1_000_000
"""Identities from this seed on train generators; data sets use seeds below it, so no person is in both."""

WEIGHTS: Mapping[str, float] = {
    "eyeglasses": 3,
    "smile": 3,
    "mustache": 3,
    "gender": 3,
    "age": 3,
    "bald": 3,
    "bangs": 2,
}
"""How often an edit is sampled, 1 if not named: what is small, or asked for in both directions, is hard to learn."""

BOTH_WAYS = ("gender", "age")
"""Edits that are taught in both directions alike: in the paper's data they turn a trait over."""

BY_REMOVING = ("age",)
"""Edits that are asked for by taking an attribute away: `age` makes young people old."""

IDENTITY_SHARE = 0.15
"""Share of pairs without an edit."""

ADDING_SHARE = 0.75
"""Share of the other edits that add the attribute; the rest remove it."""

_PAIR_STREAM = 9105
_CHUNK = 20


@dataclass(frozen=True)
class Faces:
    """Photos of people with each attribute flipped: index 0 is the photo itself, 1 + i has `ATTRIBUTES[i]` flipped."""

    images: np.ndarray
    """uint8 (people, 1 + 10, 3, S, S), memory-mapped."""
    attributes: np.ndarray
    """float32 (people, 1 + 10, 10)."""


class Pairs(NamedTuple):
    """A batch of B pairs."""

    source: Tensor
    """float32 (B, 3, S, S) in [-1, 1]."""
    target: Tensor
    """The same person after the edit."""
    difference: Tensor
    """float32 (B, 10): attributes of the target less those of the source."""
    attributes: Tensor
    """float32 (B, 10): attributes of the target."""


def flips(look: Attributes) -> list[Attributes]:
    """Return the look itself, then with each of `ATTRIBUTES` flipped."""
    return [look, *(look.set(name, not getattr(look, name)) for name in ATTRIBUTES)]


def photograph_looks(seed: int, size: int, looks: Callable[[Attributes], Sequence[Attributes]] = flips) -> np.ndarray:
    """Return photos of one person in several looks, uint8 (looks, 3, size, size).

    People alternate between both sceneries and, every second one, between both cameras.
    """
    identity = sample_identity(seed, SCENERIES[seed % 2])
    camera = list(CAMERAS)[seed // 2 % 2]
    images = []
    for look in looks(identity.attributes):
        linear, _ = render([identity], [look], sensor_size(size))
        images.append(photograph(linear, [seed], size, camera))
    return torch.cat(images).numpy()


def _render_chunk(first: int, count: int, size: int, path: Path) -> int:
    images = np.lib.format.open_memmap(path, mode="r+")
    for index in range(first, first + count):
        images[index] = photograph_looks(FIRST_TRAINING_SEED + index, size)
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
        shape = (people, 1 + len(ATTRIBUTES), 3, size, size)
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
    """Return the attribute vectors of the training people and their flips."""
    looks = (flips(sample_identity(FIRST_TRAINING_SEED + index).attributes) for index in range(people))
    return np.array([[look.vector() for look in row] for row in looks], dtype=np.float32)


def sample_pairs(
    faces: Faces,
    people: range,
    edits: Sequence[str],
    count: int,
    *,
    seed: int,
    step: int,
    emphasis: Mapping[str, float] | None = None,
) -> Pairs:
    """Draw the batch of one step; it depends on seed and step only, so a resumed training sees the same batches.

    Args:
        faces: The rendered people.
        people: Which of them may be drawn.
        edits: Which edits may be drawn, keys of `EDITS`.
        count: Number of pairs B.
        seed: Seed of the training.
        step: Number of the step.
        emphasis: How often an edit is sampled, in place of `WEIGHTS`; these are taught as they are asked for, not in
            both directions alike.
    """
    emphasis = emphasis or {}
    rng = np.random.Generator(np.random.PCG64([_PAIR_STREAM, seed, step]))
    odds = np.array([emphasis.get(edit, WEIGHTS.get(edit, 1)) for edit in edits], dtype=np.float64)
    odds /= odds.sum()
    sources, targets, before_after = [], [], []
    for _ in range(count):
        person = int(rng.integers(people.start, people.stop))
        edit = edits[int(rng.choice(len(odds), p=odds))]
        adding, unchanged, flipped = rng.random(3)
        attribute = ATTRIBUTES.index(EDITS[edit])
        before, after = 0, 1 + attribute
        adds = faces.attributes[person, after, attribute] > faces.attributes[person, before, attribute]
        even = edit in BOTH_WAYS and edit not in emphasis
        wanted = adding < (0.5 if even else ADDING_SHARE)
        if adds != (wanted if even or edit not in BY_REMOVING else not wanted):
            before, after = after, before
        if unchanged < IDENTITY_SHARE:
            after = before
        pair = faces.images[person, [before, after]]
        pair = pair[..., ::-1] if flipped < 0.5 else pair
        sources.append(pair[0])
        targets.append(pair[1])
        before_after.append(faces.attributes[person, [before, after]])
    looks = torch.from_numpy(np.stack(before_after))
    return Pairs(_to_tensor(sources), _to_tensor(targets), looks[:, 1] - looks[:, 0], looks[:, 1].clone())


def _to_tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).float().mul_(1 / 127.5).sub_(1)
