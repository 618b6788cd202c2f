"""Galleries of cells: a few samples with their maps, read, held to each other, and chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flbench.errors import DataError
from flbench.reporting.conditions import telling

Arrays = Mapping[str, NDArray]

MOST = 18
"""Rows of a panel at most: of more samples or conditions it would be a picture that nobody reads."""
MOST_CASES = 6
"""Best and worst samples shown at most."""
_KEYS = ("real", "fake", "truth", "prediction", "sample_ids", "tests")
_WORDS = {"conditions": "clean", "cases": "first"}  # what stands in arrays that older galleries lack


def is_empty(path: Path) -> bool:
    """Return whether a gallery holds no array at all: that of a cell that was tested on no fake.

    Raises:
        DataError: It is missing or damaged.
    """
    return not _load(path)


def read_gallery(path: Path) -> dict[str, NDArray]:
    """Read a gallery and hold its arrays to each other.

    Returns:
        `real`, `fake` (n, H, W, 3) uint8; `truth`, `prediction` (n, H, W) uint8; `region` (n, H, W) bool, if it is
        there; `sample_ids`, `tests`, `conditions`, `cases` (n,) text.

    Raises:
        DataError: It is missing, damaged or empty, or its arrays do not fit together.
    """
    arrays = _load(path)
    absent = [name for name in _KEYS if name not in arrays]
    if absent:
        raise DataError(f"gallery {path} has no {', '.join(absent)}", hint="run the cell again")
    count, *size = arrays["truth"].shape
    arrays = {name: np.array([word] * count) for name, word in _WORDS.items()} | arrays
    expected = {"real": (count, *size, 3), "fake": (count, *size, 3), "prediction": (count, *size)}
    expected |= {"region": (count, *size)} if "region" in arrays else {}
    expected |= dict.fromkeys(("sample_ids", "tests", *_WORDS), (count,))
    wrong = [name for name, shape in expected.items() if arrays[name].shape != shape]
    if wrong or count == 0 or len(size) != 2:
        what = f"shapes that do not fit: {', '.join(wrong)}" if wrong else "no sample"
        raise DataError(f"gallery {path} has {what}", hint="run the cell again")
    return arrays


def _load(path: Path) -> dict[str, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # of damaged files, zipfile and numpy raise what they trip over, NotImplementedError too
        raise DataError(f"gallery {path} cannot be read: {error}", hint="run the cell again") from error


def chosen(arrays: Arrays, rows: Sequence[int]) -> dict[str, NDArray]:
    """Return some rows of a gallery, in this order."""
    return {name: array[list(rows)] for name, array in arrays.items()}


def first_rows(arrays: Arrays) -> list[int]:
    """Return the rows of a panel: the first samples, each under all of its conditions next to each other.

    Of more than `MOST` rows, only those under clean and the harshest of each kind stay, then the first ones.
    """
    samples = list(zip(map(str, arrays["tests"]), map(str, arrays["sample_ids"]), strict=True))
    order = {sample: place for place, sample in reversed(list(enumerate(samples)))}
    rows = [row for row, case in enumerate(arrays["cases"]) if case == "first"]
    if len(rows) > MOST:
        told = telling(map(str, arrays["conditions"]))
        rows = [row for row in rows if arrays["conditions"][row] in told] or rows
    return sorted(rows, key=lambda row: order[samples[row]])[:MOST]


def case_rows(arrays: Arrays) -> list[int]:
    """Return the rows of best samples, then those of worst ones: of each test slice the first, then the second..."""
    rows = []
    for case in ("best", "worst"):
        turns: dict[str, int] = {}
        found = []
        for row in np.flatnonzero(arrays["cases"] == case):
            place = (str(arrays["tests"][row]), str(arrays["conditions"][row]))
            turn = turns["/".join(place)] = turns.get("/".join(place), 0) + 1
            found.append((turn, int(row)))
        rows += [row for _, row in sorted(found)[:MOST_CASES]]
    return rows


def common_rows(galleries: Sequence[Arrays]) -> list[list[int]]:
    """Return, for each gallery, the rows of the first samples that all of them show, in the order of the first one.

    Raises:
        DataError: Two of them show different images or ground truth under one name.
    """
    names = [_names(arrays) for arrays in galleries]
    order = _names(chosen(galleries[0], first_rows(galleries[0])))
    shared = [name for name in order if all(name in other for other in names)]
    for arrays, known in zip(galleries[1:], names[1:], strict=True):
        for name in shared:
            for key in ("fake", "truth"):
                ours, theirs = galleries[0][key][names[0][name]], arrays[key][known[name]]
                if not np.array_equal(ours, theirs):
                    raise DataError(f"two galleries differ in the {key} of {name[2]}", hint="compare one data set")
    return [[known[name] for name in shared] for known in names]


def _names(arrays: Arrays) -> dict[tuple[str, str, str], int]:
    """Return the rows of first samples by test slice, condition and sample."""
    words = zip(*(map(str, arrays[key]) for key in ("tests", "conditions", "sample_ids", "cases")), strict=True)
    return {(test, condition, name): row for row, (test, condition, name, case) in enumerate(words) if case == "first"}
