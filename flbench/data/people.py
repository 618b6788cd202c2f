"""Who is on a photo, and in which split people are."""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flbench.data.images import SUFFIXES
from flbench.data.manifest import SPLITS
from flbench.errors import UsageError

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
"""What no name may contain: control characters, a backslash, bytes that are not UTF-8."""


def split_of(identity: str, *, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int = 0) -> str:
    """Return the split of an identity: where the sha256 of `seed:identity`, as a number in [0, 1), falls.

    Args:
        identity: Who a photo shows.
        fractions: Shares of train, valid and test, which add up to one.
        seed: Another seed gives another split.
    """
    digest = hashlib.sha256(f"{seed}:{identity}".encode()).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48
    edges = np.cumsum(fractions)
    return SPLITS[int(np.searchsorted(edges[:2], place, side="right"))]


def read_identities(path: Path) -> Mapping[str, str]:
    """Read who is on which photo from a CSV file with the columns image and identity.

    Returns:
        Name of a photo, without suffix and in Unicode's composed form, to identity.

    Raises:
        UsageError: The file cannot be read, has an empty or unprintable value, or gives a photo two identities.
    """
    named: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"image", "identity"} <= set(reader.fieldnames or ()):
                raise UsageError(f"{path} needs the columns image and identity", hint="a header line is required")
            for row in reader:
                image, identity = row["image"], row["identity"]
                if not image or not identity or UNPRINTABLE.search(identity):
                    raise UsageError(f"{path.name}, line {reader.line_num}: image or identity is empty or unprintable")
                bare = Path(image).stem if Path(image).suffix.lower() in SUFFIXES else image
                name = unicodedata.normalize("NFC", bare)
                if named.setdefault(name, identity) != identity:
                    raise UsageError(f"{path.name}, line {reader.line_num}: {image!r} has two identities")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the table of identities {path} cannot be read: {error}") from error
    return named
