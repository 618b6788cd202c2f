"""The forge: makes a data set of photos and fakes of synthetic people, the same pixels on every machine of a kind."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor, nn

from flbench.data.dataset import About, read_dataset, write_dataset
from flbench.data.manifest import COLUMNS, ENTIRE
from flbench.errors import RunError, UsageError
from flbench.files import file_digest
from flbench.synthetic.camera import photograph, resize_classes, sensor_size
from flbench.synthetic.faces import (
    EDITS,
    GEOMETRIC_EDITS,
    HAIR_COLOURS,
    Attributes,
    Identity,
    render,
    sample_identity,
)
from flbench.synthetic.measure import apply
from flbench.synthetic.profiles import (
    DATABASE,
    EXPECTED,
    PROFILES,
    RECIPE_VERSION,
    Profile,
    expected_pixels,
    profile_named,
    recipe,
)
from flbench.synthetic.training import load_generator
from flbench.synthetic.workers import pool, steady

CHUNK = 8
"""People per unit of work. Fixed: a generator's last bits may depend on how many images share a batch."""

_PALETTE = bytes.fromhex(
    "000000 e0ac8a 5ca43c d6c628 3e46f0 c424c8 3ce2e6 f6bec4 784618 e82c2c"
    "78d23c f4f45a 1c1c96 283cbe f05096 28bebe 145a14 f69c42 28b446"
)
"""One colour per CelebAMask-HQ class, for whoever opens a parsing map in a viewer."""


def make(profile: str, into: Path, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> None:
    """Make the data set of a profile.

    It is made in a folder beside `into` and moved there when it is whole; a kill leaves nothing under the final name.
    Pixels do not depend on the number of workers.

    Args:
        profile: A name in `PROFILES`.
        into: The data set's folder; must not exist.
        workers: Processes; 1 makes it in this process.
        progress: Called with the number of people done and their total.

    Raises:
        UsageError: No such profile, or `into` exists.
        RunError: Another process is making it, or the disk refuses.
    """
    chosen, partial = profile_named(profile), into.with_name(f"{into.name}.partial")
    if into.exists():
        raise UsageError(f"{into} exists already", hint="remove it or name another folder")
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with _alone(into):
            _clear(partial)
            try:
                _make(chosen, partial, workers, progress)
                partial.rename(into)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"data set {into} cannot be made: {reason}", hint="nothing was left there") from error


def pixel_checksum(digests: Mapping[str, str]) -> str:
    """Return the sha256 over sample ids and the sha256 of their raw pixels, in the order of the ids."""
    total = hashlib.sha256()
    for sample_id in sorted(digests):
        total.update(f"{sample_id}:{digests[sample_id]}\n".encode())
    return total.hexdigest()


def machine_kind() -> str:
    """Name what decides the last bits besides torch: the processor architecture and torch's vector instructions."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def applicable(identity: Identity, attribute: str) -> bool:
    """Tell whether a photo can be edited so: it lacks the attribute, and hair edits need hair.

    `age` makes young people old; `entire` re-synthesises anyone.
    """
    look = identity.attributes
    if attribute == ENTIRE:
        return True
    if attribute == "age":
        return look.young
    if look.bald and (attribute in HAIR_COLOURS or attribute == "bangs"):
        return False
    return not getattr(look, EDITS[attribute])


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


def _clear(folder: Path) -> None:
    """Remove what an earlier, killed making left."""
    if folder.exists():
        shutil.rmtree(folder)
    for name in ("images", "parsing"):
        (folder / name).mkdir(parents=True)


def _make(profile: Profile, folder: Path, workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Make images and parsing maps, chunk by chunk, then the manifest."""
    chunks = [
        (split, seeds[start : start + CHUNK])
        for split, seeds in ((split, profile.seeds(split)) for split in profile.people)
        for start in range(0, len(seeds), CHUNK)
    ]
    rows: list[dict[str, str]] = []
    done, total = 0, sum(profile.people.values())
    for (_, seeds), made in zip(chunks, _all_chunks(profile, folder, chunks, workers), strict=True):
        rows.extend(made)
        done += len(seeds)
        if progress:
            progress(done, total)
    digests = {row["sample_id"]: row.pop("pixels") for row in rows}
    about = _about(profile, pixel_checksum(digests))
    write_dataset(folder, about, pd.DataFrame(rows, columns=list(COLUMNS)))


def _all_chunks(
    profile: Profile, folder: Path, chunks: list[tuple[str, range]], workers: int
) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of every chunk, in order."""
    if workers <= 1:
        for split, seeds in chunks:
            with steady():
                rows = make_chunk(profile.name, split, seeds, folder)
            yield rows
        return
    with pool(workers) as executor:
        jobs = [executor.submit(make_chunk, profile.name, split, seeds, folder) for split, seeds in chunks]
        for job in jobs:
            yield job.result()


def _about(profile: Profile, pixels: str) -> About:
    fingerprint = recipe(profile.name)
    expected = expected_pixels(profile.name)
    note = "Procedural faces and small generators; a ranking here is a hypothesis about photographs, not a result."
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


def make_chunk(profile_name: str, split: str, seeds: range, folder: Path) -> list[dict[str, str]]:
    """Make photos, parsing maps and fakes of a few people.

    Returns:
        Manifest rows, with one more column `pixels`: the sha256 of the image's raw pixels.
    """
    profile = PROFILES[profile_name]
    people = [sample_identity(seed) for seed in seeds]
    linear, classes = render(people, [person.attributes for person in people], sensor_size(profile.size))
    photos = photograph(linear, list(seeds), profile.size)
    maps = resize_classes(classes, profile.size)
    rows = []
    for person, photo, parsing in zip(people, photos, maps, strict=True):
        name = f"{person.seed:06d}"
        rows.append(_row(folder, name, photo, person, split, _save_parsing(folder, name, parsing), label="real"))
    for category in profile.categories[split]:
        rows += _make_fakes(profile, folder, split, category, people, photos)
    return rows


def _make_fakes(
    profile: Profile, folder: Path, split: str, category: str, people: list[Identity], photos: Tensor
) -> list[dict[str, str]]:
    """Make the fakes of one category for those people whose photo can be edited so."""
    generator, attribute = category.split("/")
    chosen = [index for index, person in enumerate(people) if applicable(person, attribute)]
    if not chosen:
        return []
    before = [people[index].attributes for index in chosen]
    after = before if attribute == ENTIRE else [look.edit(attribute) for look in before]
    difference = np.stack([new.vector() - old.vector() for old, new in zip(before, after, strict=True)])
    fakes = apply(_generator(generator), photos[chosen], torch.from_numpy(difference))
    rows = []
    for index, look, fake in zip(chosen, after, fakes, strict=True):
        person = people[index]
        source = f"{person.seed:06d}"
        parsing = f"parsing/{source}.png"
        if attribute in GEOMETRIC_EDITS:
            parsing = _edited_parsing(profile, folder, person, look, attribute)
        names = {"generator": generator, "attribute": attribute, "source": "" if attribute == ENTIRE else source}
        name = f"{source}-{generator}-{attribute}"
        rows.append(_row(folder, name, fake, person, split, parsing, label="fake") | names)
    return rows


def _edited_parsing(profile: Profile, folder: Path, person: Identity, look: Attributes, attribute: str) -> str:
    """Write the parsing map of the edited face, once for all generators; return its path in the data set."""
    name = f"{person.seed:06d}-{attribute}"
    if not (folder / "parsing" / f"{name}.png").exists():
        _, classes = render([person], [look], sensor_size(profile.size))
        _save_parsing(folder, name, resize_classes(classes, profile.size)[0])
    return f"parsing/{name}.png"


def _row(
    folder: Path, name: str, image: Tensor, person: Identity, split: str, parsing: str, *, label: str
) -> dict[str, str]:
    """Write an image (3, S, S) and return its row."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    path = folder / "images" / f"{name}.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return dict.fromkeys(COLUMNS, "") | {
        "sample_id": name,
        "image": f"images/{name}.png",
        "label": label,
        "database": DATABASE,
        "identity": f"{DATABASE}-{person.seed:06d}",
        "split": split,
        "parsing": parsing,
        "sha256": file_digest(path),
        "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
    }


def _save_parsing(folder: Path, name: str, classes: Tensor) -> str:
    """Write a parsing map as a palette PNG whose indices are the class numbers; return its path in the data set."""
    image = Image.fromarray(classes.numpy())
    image.putpalette(_PALETTE)
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
