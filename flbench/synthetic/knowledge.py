"""What only the maker of an embedded data set knows: who is on a photo, and what a perfect edit would look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation

from flbench.data.dataset import Dataset
from flbench.data.images import resize_classes
from flbench.synthetic.camera import photograph, sensor_size
from flbench.synthetic.faces import EDITS, Attributes, Identity, render, sample_identity
from flbench.synthetic.measure import gray
from flbench.synthetic.profiles import DATABASE, PROFILES, RECIPE_VERSION, Profile
from flbench.synthetic.workers import steady

CHANGED = 0.06
"""Smallest gray difference of a perfect edit that counts as changed."""


class Perfect(NamedTuple):
    """A perfect edit.

    Attributes:
        image: uint8 (S, S, 3), the photo of the person after the edit, before any finish.
        look: What the person looks like on it.
        region: bool (H, W), what differs from the photo by more than `CHANGED`, grown by a pixel; of the data set's
            size.
    """

    image: np.ndarray
    look: Attributes
    region: np.ndarray


class Knowledge:
    """The people of one data set.

    Args:
        profile: The profile it was made from.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._people: dict[tuple[str, str], Identity] = {}
        self._photos: dict[tuple[str, Attributes], np.ndarray] = {}

    @property
    def native(self) -> bool:
        """Whether images are of the size at which they were edited, so that spectra are those of the generators."""
        return self.profile.size == self.profile.native

    def setting(self, split: str) -> dict[str, str]:
        """Return the `scenery` and the `camera` of a split."""
        return dict(self.profile.settings[split]._asdict())

    def person(self, row: Mapping[str, str]) -> Identity:
        """Return who is on an image of the manifest."""
        key = row["identity"], row["split"]
        if key not in self._people:
            seed = int(row["identity"].removeprefix(f"{DATABASE}-"))
            self._people[key] = sample_identity(seed, self.profile.settings[row["split"]].scenery)
        return self._people[key]

    def after(self, row: Mapping[str, str], attribute: str = "") -> Attributes:
        """Return what a person looks like after an edit; without one, or as a whole new face, as on the photo."""
        look = self.person(row).attributes
        return look.edit(attribute) if attribute in EDITS else look

    def vectors(self, rows: pd.DataFrame, attribute: str = "") -> np.ndarray:
        """Return the attributes of people after an edit, float32 (N, 10)."""
        found = [self.after(row, attribute).vector() for row in rows[["identity", "split"]].to_dict("records")]
        return np.stack(found) if found else np.zeros((0, 10), np.float32)

    def perfect_edit(self, row: Mapping[str, str], attribute: str) -> Perfect:
        """Photograph the person of a fake as the edit should have left them."""
        look = self.after(row, attribute)
        before, image = self._photo(row, self.after(row)), self._photo(row, look)
        difference = np.abs(image.astype(np.float32) - before.astype(np.float32)).transpose(2, 0, 1)
        region = binary_dilation(gray(difference) / 255 > CHANGED)
        return Perfect(image, look, resize_classes(region.astype(np.uint8), self.profile.size) > 0)

    def _photo(self, row: Mapping[str, str], look: Attributes) -> np.ndarray:
        person = self.person(row)
        key = row["identity"], look
        if key not in self._photos:
            size, camera = self.profile.native, self.profile.settings[row["split"]].camera
            with steady():
                linear, _ = render([person], [look], sensor_size(size))
                taken = photograph(linear, [person.seed], size, camera=camera)
            self._photos[key] = taken[0].permute(1, 2, 0).contiguous().numpy()
        return self._photos[key]


def knowledge_of(dataset: Dataset) -> Knowledge | None:
    """Return the people of a data set that was made here and now, None for any other."""
    about = dataset.about
    profile = PROFILES.get(about.name.removeprefix(f"{DATABASE}-"))
    if about.database != DATABASE or profile is None or about.version != str(RECIPE_VERSION):
        return None
    return Knowledge(profile)
