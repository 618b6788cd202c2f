"""The forge: makes a data set of photos and fakes of synthetic people, the same pixels on every machine of a kind."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor, nn

from flbench.data.dataset import About, read_dataset, write_dataset
from flbench.data.manifest import COLUMNS, ENTIRE
from flbench.data.parsing import PALETTE
from flbench.errors import Interrupted, RunError, UsageError
from flbench.files import file_digest, storage_error, write_json
from flbench.synthetic import finish
from flbench.synthetic.camera import photograph, resize_classes, sensor_size
from flbench.synthetic.casting import Chunk, amount, chunks, need_of
from flbench.synthetic.faces import EDITS, GEOMETRIC_EDITS, Attributes, Identity, render, sample_identity
from flbench.synthetic.generators import FAMILIES
from flbench.synthetic.measure import apply
from flbench.synthetic.profiles import (
    DATABASE,
    EXPECTED,
    GUEST_DATABASE,
    RECIPE_VERSION,
    Profile,
    expected_pixels,
    profile_named,
    recipe,
)
from flbench.synthetic.training import load_generator
from flbench.synthetic.workers import pool, steady

ROWS = ".forge"
"""Folder, in a data set being made, of the rows of finished chunks and of what decided their pixels."""


def make(profile: str, into: Path, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> None:
    """Make the data set of a profile.

    It is made in a folder beside `into` and moved there when it is whole. What a stopped or killed making finished is
    kept beside, and the next one goes on from there, unless the recipe or the machine is another. Pixels depend
    neither on that nor on the number of workers.

    Args:
        profile: A name in `PROFILES`.
        into: The data set's folder; must not exist.
        workers: Processes; 1 makes it in this process.
        progress: Called with the number of images made and their total.

    Raises:
        UsageError: No such profile, or `into` exists.
        RunError: Another process is making it, or the disk refuses or has too little space.
        Interrupted: Ctrl+C; what is finished is kept.
    """
    chosen, partial = profile_named(profile), into.with_name(f"{into.name}.partial")
    if into.exists():
        raise UsageError(f"{into} exists already", hint="remove it or name another folder")
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with _alone(into):
            _prepare(partial, profile)
            _make(chosen, partial, workers, progress)
            partial.rename(into)
            shutil.rmtree(into / ROWS, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, into) from error
    except KeyboardInterrupt as error:
        hint = "run the same command again to go on"
        raise Interrupted(f"stopped; what is finished of {into.name} is kept beside it", hint=hint) from error


def pixel_checksum(digests: Mapping[str, str]) -> str:
    """Return the sha256 over sample ids and the sha256 of their raw pixels, in the order of the ids."""
    total = hashlib.sha256()
    for sample_id in sorted(digests):
        total.update(f"{sample_id}:{digests[sample_id]}\n".encode())
    return total.hexdigest()


def machine_kind() -> str:
    """Name what decides the last bits besides torch: the processor architecture and torch's vector instructions."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """Hold the lock of a data set being made."""
    lock = into.with_name(f".{into.name}.lock")
    try:
        with FileLock(lock, timeout=0):
            yield
            lock.unlink(missing_ok=True)
    except Timeout as error:
        raise RunError(f"another process is making {into}", hint="wait for it to end") from error


def _prepare(folder: Path, profile: str) -> None:
    """Make the folders; remove what an earlier making left if other pixels would come out now."""
    wanted = {"recipe": recipe(profile), "machine": machine_kind(), "torch": torch.__version__}
    mark = folder / ROWS / "recipe.json"
    left: object = None
    with suppress(OSError, ValueError):
        left = json.loads(mark.read_text(encoding="utf-8"))
    if left != wanted and folder.exists():
        shutil.rmtree(folder)
    for name in ("images", "parsing", ROWS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(mark, wanted)


def _make(profile: Profile, folder: Path, workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Make the chunks that are not there yet, then the manifest of all of them."""
    work = chunks(profile)
    left = [chunk for chunk in work if not _is_whole(folder, chunk)]
    _check_space(profile, folder, left)
    total = sum(chunk.images for chunk in work)
    done = total - sum(chunk.images for chunk in left)
    if progress and done:
        progress(done, total)
    for chunk in _as_made(profile, folder, left, workers):
        done += chunk.images
        if progress:
            progress(done, total)
    rows = [row for chunk in work for row in _read_rows(folder, chunk)]
    digests = {row["sample_id"]: row.pop("pixels") for row in rows}
    about = _about(profile, pixel_checksum(digests))
    write_dataset(folder, about, pd.DataFrame(rows, columns=list(COLUMNS)))


def _check_space(profile: Profile, folder: Path, work: list[Chunk]) -> None:
    need, free = need_of(profile, work).bytes, shutil.disk_usage(folder).free
    if need > free:
        message = (
            f"{DATABASE} {profile.name} needs about {amount(need)} more, and {folder.parent} has {amount(free)} free"
        )
        raise RunError(message, hint="free some space, or let FLBENCH_HOME name a folder on another disk")


def _as_made(profile: Profile, folder: Path, work: list[Chunk], workers: int) -> Iterator[Chunk]:
    """Make chunks and yield them, in order."""
    if workers <= 1:
        for chunk in work:
            with steady():
                make_chunk(profile, chunk, folder)
            yield chunk
        return
    with pool(workers) as executor:
        jobs = [executor.submit(make_chunk, profile, chunk, folder) for chunk in work]
        for chunk, job in zip(work, jobs, strict=True):
            job.result()
            yield chunk


def _rows_path(folder: Path, chunk: Chunk) -> Path:
    return folder / ROWS / f"{chunk.number:05d}.json"


def _read_rows(folder: Path, chunk: Chunk) -> list[dict[str, str]]:
    return json.loads(_rows_path(folder, chunk).read_text(encoding="utf-8"))


def _is_whole(folder: Path, chunk: Chunk) -> bool:
    """Tell whether a chunk was made: its rows are there and its files hold what they say, even after a power cut."""
    try:
        return all(
            file_digest(folder / row["image"]) == row["sha256"] and (folder / row["parsing"]).stat().st_size > 0
            for row in _read_rows(folder, chunk)
        )
    except (OSError, ValueError):
        return False


def _about(profile: Profile, pixels: str) -> About:
    fingerprint = recipe(profile.name)
    expected = expected_pixels(profile.name)
    note = "Procedural faces and small generators; a ranking here is a hypothesis about photographs, not a result."
    if profile.finished:
        note += f" {finish.NOTE}"
    if expected and expected["recipe"] == fingerprint and expected["pixels"] != pixels:
        note += f" The pixels differ from those recorded on {expected['machine']} with torch {expected['torch']}."
        note += f" This machine is {machine_kind()} with torch {torch.__version__}."
    categories = sorted({category for names in profile.categories.values() for category in names})
    return About(
        name=f"{DATABASE}-{profile.name}",
        version=str(RECIPE_VERSION),
        title=f"Synthetic faces, {profile.name}",
        licence="CC0-1.0",
        size=profile.size,
        publishable=True,
        database=DATABASE,
        recipe=fingerprint,
        pixels=pixels,
        note=note,
        categories=tuple(categories),
    )


_generators: dict[str, nn.Module] = {}


def _generator(name: str) -> nn.Module:
    """Load a generator once per process."""
    if name not in _generators:
        _generators[name] = load_generator(name)
    return _generators[name]


def make_chunk(profile: Profile, chunk: Chunk, folder: Path) -> None:
    """Make photos, parsing maps and fakes of a few people, and last their rows: with those the chunk is finished.

    The rows are those of the manifest, with one more column `pixels`: the sha256 of the image's raw pixels.
    """
    setting = profile.settings["guests" if chunk.guests else chunk.split]
    database = GUEST_DATABASE if chunk.guests else DATABASE
    people = [sample_identity(seed, setting.scenery) for seed in chunk.seeds]
    linear, classes = render(people, [person.attributes for person in people], sensor_size(profile.native))
    photos = photograph(linear, list(chunk.seeds), profile.native, camera=setting.camera)
    maps = resize_classes(classes, profile.size)
    rows = []
    for person, photo, parsing in zip(people, _enlarge(photos, profile.size), maps, strict=True):
        name = f"{person.seed:06d}"
        row = _row(profile, folder, name, photo, person, database)
        rows.append(row | {"parsing": _save_parsing(folder, name, parsing)})
    maps_of: dict[str, str] = {}
    for category, seeds in chunk.fakes.items():
        chosen = [chunk.seeds.index(seed) for seed in seeds]
        rows += _make_fakes(profile, folder, category, [people[index] for index in chosen], photos[chosen], maps_of)
    write_json(_rows_path(folder, chunk), [row | {"split": chunk.split} for row in rows])


def _make_fakes(
    profile: Profile, folder: Path, category: str, people: list[Identity], photos: Tensor, maps_of: dict[str, str]
) -> list[dict[str, str]]:
    """Make the fakes of one category; `maps_of` remembers the parsing maps of edited faces, for all generators."""
    generator, attribute = category.split("/")
    before = [person.attributes for person in people]
    flips = [_flips(generator, attribute, person) for person in people]
    after = [_flipped(look, edits) for look, edits in zip(before, flips, strict=True)]
    difference = np.stack([new.vector() - old.vector() for old, new in zip(before, after, strict=True)])
    fakes = apply(_generator(generator), photos, torch.from_numpy(difference))
    rows = []
    for person, edits, look, fake in zip(people, flips, after, _enlarge(fakes, profile.size), strict=True):
        source = f"{person.seed:06d}"
        parsing = f"parsing/{source}.png"
        if not GEOMETRIC_EDITS.isdisjoint(edits):
            edited = "-".join([source, *(EDITS[edit] for edit in edits)])
            if edited not in maps_of:
                maps_of[edited] = _edited_parsing(profile, folder, edited, person, look)
            parsing = maps_of[edited]
        row = _row(profile, folder, f"{source}-{generator}-{attribute}", fake, person)
        names = {"generator": generator, "attribute": attribute, "source": "" if attribute == ENTIRE else source}
        rows.append(row | names | {"label": "fake", "parsing": parsing})
    return rows


def _flips(generator: str, attribute: str, person: Identity) -> tuple[str, ...]:
    """Return the edits that make a fake: one; for a whole face two of three, so that it is none of the edited ones."""
    if attribute != ENTIRE:
        return (attribute,)
    learnt = FAMILIES[generator].learnt
    left_out = learnt[person.seed % len(learnt)]
    return tuple(edit for edit in learnt if edit != left_out)


def _flipped(look: Attributes, edits: tuple[str, ...]) -> Attributes:
    for edit in edits:
        look = look.edit(edit)
    return look


def _enlarge(images: Tensor, size: int) -> Tensor:
    """Bring images uint8 (B, 3, S, S) to (B, 3, size, size), photos and fakes alike: bicubic, antialiased."""
    if images.shape[-1] == size:
        return images
    larger = F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return larger.clamp_(0, 255).round_().to(torch.uint8)


def _edited_parsing(profile: Profile, folder: Path, name: str, person: Identity, look: Attributes) -> str:
    """Write the parsing map of an edited face; return its path in the data set."""
    _, classes = render([person], [look], sensor_size(profile.native))
    return _save_parsing(folder, name, resize_classes(classes, profile.size)[0])


def _row(
    profile: Profile, folder: Path, name: str, image: Tensor, person: Identity, database: str = DATABASE
) -> dict[str, str]:
    """Write an image (3, S, S) and return its row, that of a photo without split and parsing map."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    if profile.finished:
        pixels = finish.finish(pixels, person.seed)
    path = folder / "images" / f"{name}.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return dict.fromkeys(COLUMNS, "") | {
        "sample_id": name,
        "image": f"images/{name}.png",
        "label": "real",
        "database": database,
        "identity": f"{database}-{person.seed:06d}",
        "sha256": file_digest(path),
        "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
    }


def _save_parsing(folder: Path, name: str, classes: Tensor) -> str:
    """Write a parsing map as a palette PNG whose indices are the class numbers; return its path in the data set."""
    image = Image.fromarray(classes.numpy())
    image.putpalette(PALETTE)
    image.save(folder / "parsing" / f"{name}.png", compress_level=1)
    return f"parsing/{name}.png"


def record_expected(folder: Path, profile: str) -> dict[str, Any]:
    """Record the pixels of a data set made on this machine as the expected ones, after a change of the recipe."""
    about = read_dataset(folder).about
    known = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.is_file() else {}
    known[profile] = {
        "recipe": about.recipe,
        "pixels": about.pixels,
        "machine": machine_kind(),
        "torch": torch.__version__,
    }
    temporary = EXPECTED.with_suffix(".tmp")
    temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(EXPECTED)
    return known[profile]
