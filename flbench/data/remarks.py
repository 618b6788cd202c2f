"""What is worth knowing of a data set and not wrong: what is done to its images and masks when they are read."""

from __future__ import annotations

from collections import Counter

import numpy as np

from flbench.data.dataset import Dataset
from flbench.data.decoding import read_gray
from flbench.data.images import conversion
from flbench.errors import DataError

GRAY = (16, 239)
"""Values of a mask between these are neither black nor white, also where JPEG has blurred them a little."""


def remarks(dataset: Dataset) -> list[str]:
    """Return sentences: how many images are converted, and from what; how much of the masks is gray.

    Args:
        dataset: Its images' headers are read, and its masks.
    """
    kinds = Counter(kind for path in dataset.manifest["image"] if (kind := conversion(dataset.path(path))))
    said = []
    if kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        said.append(f"{kinds.total()} of {len(dataset.manifest)} images are converted to 8-bit RGB: {counted}")
    shares = [share for path in dataset.manifest["mask"] if path and (share := _gray(dataset, path)) is not None]
    if any(shares):
        count, mean = sum(share > 0 for share in shares), 100 * float(np.mean(shares))
        said.append(
            f"{count} of {len(shares)} masks are not black and white, {mean:.1f} % of all pixels: gray counts as it "
            "is, for F1, IoU and AUROC as fake from 0.1"
        )
    return said


def _gray(dataset: Dataset, path: str) -> float | None:
    """Return the share of a mask's pixels that are neither black nor white, None if it cannot be read."""
    try:
        mask = read_gray(dataset.path(path))
    except DataError:
        return None
    return float(((mask >= GRAY[0]) & (mask <= GRAY[1])).mean())
