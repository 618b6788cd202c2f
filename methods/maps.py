"""Maps that another program has written into a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flbench.errors import MethodError
from flbench.files import files_below
from flbench.locator import Prediction, Replay, Unanswered
from flbench.store import PixelStore

from ._answers import SCORES, SUFFIXES, as_map, read_levels, read_scores, scores_of
from ._networks import resize


class FolderOfMaps(Replay):
    """Maps in a folder, written by any program in any language and found by the names of the samples.

    The map of a sample is `<sample_id>.png` or `.npy` (see `_answers`); a `/` in the name is a folder, or `__`. Maps of
    degraded images lie in a folder with the name of the condition, such as `jpeg-50/`. Beside the maps `scores.csv`
    with the columns `sample_id,score` may give the probabilities that images are fake; without it scores follow from
    the maps. A map of another size is resized (antialiased bilinear) to the images of the protocol; a sample without a
    map counts as failed, with the worst values.

    Args:
        target: The folder, given as `maps:FOLDER`.
    """

    title = "Folder of maps"
    licence = "not stated"
    target = "folder"

    def __init__(self, *, target: str = "") -> None:
        self.folder = Path(target)
        self._maps: dict[str, list[str]] | None = None
        self._store: PixelStore | None = None
        self._numbers: dict[str, int] = {}
        self._scores: dict[str, dict[str, float] | None] = {}
        self._named = bool(target)

    def predict_named(self, size: tuple[int, int], samples: Sequence[str], condition: str) -> Prediction:
        """Return the maps of samples, at the size of the protocol.

        Raises:
            Unanswered: Samples without a map, or whose map cannot be used.
            MethodError: The scores are damaged.
        """
        below = "" if condition == "clean" else f"{condition}/"
        if below not in self._scores:
            self._scores[below] = read_scores(self.folder / below / SCORES, "sample_id")
        reasons: dict[int, str] = {}
        maps = torch.zeros(len(samples), *size)
        for place, sample in enumerate(samples):
            try:
                maps[place] = resize(self._read(self._find(below, sample), size)[None], size)[0]
            except ValueError as error:
                reasons[place] = str(error)
        scores = scores_of(samples, self._scores[below], reasons)
        prediction = Prediction(maps.clamp_(0, 1), scores)
        if reasons:
            raise Unanswered(prediction, reasons)
        return prediction

    def _read(self, file: str, size: tuple[int, int]) -> Tensor:
        """Return a map; one of 8 bits and of the size asked for is decoded once for all runs.

        Raises:
            ValueError: The file is damaged or holds something else.
        """
        if self._store is None:
            files = [file for files in self._listed().values() for file in files]
            self._numbers = {file: number for number, file in enumerate(files)}
            about = {"maps": str(self.folder.resolve()), "files": files}
            self._store = PixelStore(about, len(files), size)
        path = f"{self.folder}/{file}"
        levels = self._store.get(self._numbers[file], [path], lambda: read_levels(Path(path)))
        return as_map(levels, file.rpartition("/")[2])

    def _find(self, below: str, sample: str) -> str:
        """Return the map of a sample by its place below the folder.

        Raises:
            ValueError: There is none, or more than one.
        """
        names = dict.fromkeys((f"{below}{sample}", below + sample.replace("/", "__")))
        found = [file for name in names for file in self._listed().get(name, [])]
        if len(found) != 1:
            what = (
                "no map" if not found else f"{len(found)} maps ({', '.join(file.rpartition('/')[2] for file in found)})"
            )
            raise ValueError(f"{what} for {sample}{f' under {below[:-1]}' if below else ''}")
        return found[0]

    def _listed(self) -> dict[str, list[str]]:
        """Return the places of maps below the folder, by themselves without suffix."""
        if not self._named:
            raise MethodError("no folder of maps is given", hint="maps:FOLDER")
        if self._maps is None:
            self._maps = {}
            for file in files_below(self.folder):
                name, suffix = os.path.splitext(file)  # noqa: PTH122 - a folder has many
                if suffix.lower() in SUFFIXES:
                    self._maps.setdefault(name, []).append(file)
        return self._maps
