"""What a locator is fed: decoded images, ground truth, regions and attention maps of one protocol's size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from flbench.condition import Condition
from flbench.data import fakeness
from flbench.data.dataset import ENTIRE, Dataset, Selection
from flbench.data.decoding import read_gray, read_image, read_parsing
from flbench.data.degradations import degrade
from flbench.data.images import pixel_limit, resize, resize_classes, shape_of
from flbench.errors import DataError
from flbench.locator import Batch
from flbench.store import PixelStore

_CLEAN = Condition()

CACHE_BYTES = 1 << 30
"""Decoded images kept in memory, at most, where they are not kept on disk; beyond it the longest unused goes."""

MAPS_BYTES = 1 << 28
"""Attention maps kept in memory, at most."""


ROWS_KEPT = 1 << 10
"""Rows of the manifest kept at hand, at most."""


class Example(NamedTuple):
    """One image with its ground truth at the protocol's size.

    Attributes:
        image: uint8 (S, S, 3).
        truth: float32 (S, S) in [0, 1], zeros for a real image.
        region: bool (S, S), None where the protocol scores whole images or the image is real.
    """

    image: np.ndarray
    truth: np.ndarray
    region: np.ndarray | None


class _Cache:
    """Arrays by name, at most some bytes of them: the longest unused goes first.

    Args:
        most: Bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._arrays: OrderedDict[str, np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = Lock()  # a thread may prepare a batch while another looks at one

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array, made now if it is not there."""
        with self._lock:
            if name in self._arrays:
                self._arrays.move_to_end(name)
                return self._arrays[name]
        array = make()
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = array
                self._held += array.nbytes
            while self._held > self._most and len(self._arrays) > 1:
                self._held -= self._arrays.popitem(last=False)[1].nbytes
        return array


class _Places:
    """The place of every name: a dict would take ten times the memory of these hashes.

    Args:
        names: No two of them equal.
    """

    def __init__(self, names: pd.Series) -> None:
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        self._names = names.array
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def of(self, name: str) -> int:
        """Return the place of a name."""
        first = int(self._hashes.searchsorted(hash(name)))
        for place in self._order[first:]:  # a hash that two names share is next to never met
            if self._names[place] == name:
                return int(place)
        raise KeyError(name)


class Frames:
    """Decode the samples of a data set at one size, and derive their maps.

    Args:
        dataset: Where samples come from.
        size: Height and width in pixels to which every image is brought.
        region: Where regions come from: "parsing", "difference", or "" for none.
        on_disk: Keep what is decoded in the cache folder, for other processes and later runs, and not in memory.
    """

    def __init__(self, dataset: Dataset, *, size: int, region: str = "", on_disk: bool = False) -> None:
        self.dataset = dataset
        self.size = size
        self.region_source = region
        self._place = lru_cache(maxsize=ROWS_KEPT)(_Places(dataset.manifest["sample_id"]).of)
        # As pandas has them, without its way to a single one, which takes four times as long.
        self._columns = {str(name): pa.array(column) for name, column in dataset.manifest.items()}
        self._row = lru_cache(maxsize=ROWS_KEPT)(self._picked)
        self._decoded = _Cache(CACHE_BYTES)
        self._maps = _Cache(MAPS_BYTES)
        self._stores = {kind: self._store(kind) for kind in ("image", "mask", "region")} if on_disk else {}

    def with_region(self, region: str) -> Frames:
        """Return the same decoded images with another source of regions."""
        other = copy(self)
        other.region_source = region
        return other

    def _store(self, kind: str) -> PixelStore:
        shape = (self.size, self.size, 3) if kind == "image" else (self.size, self.size)
        # What is too large for one command must not be had from another one that was allowed more.
        about = {"data set": self.dataset.fingerprint, "kind": kind, "size": self.size, "limit": pixel_limit()}
        return PixelStore(about, len(self.dataset.manifest), shape)

    def _picked(self, sample: str) -> dict[str, str]:
        place = self._place(sample)
        return {name: column[place].as_py() for name, column in self._columns.items()}

    def _kept(self, kind: str, sample: str, files: Sequence[str], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what is decoded of a sample's files, uint8, from the store on disk or from memory; made if need be."""
        store = self._stores.get(kind)
        if store is None:
            return self._decoded.get(f"{kind} {sample}", make)
        # To join paths as such takes as long as to read a mask.
        return store.get(self._place(sample), [f"{self.dataset.folder}/{path}" for path in files], make)

    def image(self, sample: str) -> np.ndarray:
        """Return the uint8 (S, S, 3) image of a sample.

        Raises:
            DataError: The file is missing or cannot be decoded.
        """
        path = self._row(sample)["image"]
        return self._kept("image", sample, [path], lambda: resize(read_image(self.dataset.folder / path), self.size))

    def truth(self, sample: str) -> np.ndarray:
        """Return the float32 (S, S) ground truth: zeros, ones, a stored mask, or Eq. 4 on the resized pair.

        Raises:
            DataError: The photo or the mask is missing, unreadable, or of another size than the image.
        """
        row = self._row(sample)
        if row["label"] == "real":
            return np.zeros((self.size, self.size), np.float32)
        if row["mask"]:
            mask = self._kept("mask", sample, [row["mask"], row["image"]], lambda: self._mask(row))
            gray = mask.astype(np.float32) / 255
            return 1 - gray if self.dataset.about.mask_polarity == "fake_is_black" else gray
        if row["attribute"] == ENTIRE:
            return np.ones((self.size, self.size), np.float32)
        return fakeness.fakeness_map(self.image(row["source"]), self.image(sample))

    def _mask(self, row: Mapping[str, str]) -> np.ndarray:
        mask = read_gray(self.dataset.folder / row["mask"])
        height, width = shape_of(self.dataset.folder / row["image"])
        if mask.shape != (height, width):
            raise DataError(f"mask_mismatch: mask {mask.shape[1]}x{mask.shape[0]}, image {width}x{height}")
        return resize(np.repeat(mask[:, :, None], 3, axis=2), self.size)[:, :, 0]

    def region(self, sample: str) -> np.ndarray | None:
        """Return the bool (S, S) region of a fake, or None for a real image or whole-image scoring.

        Raises:
            DataError: The data set has no parsing map for the sample.
        """
        row = self._row(sample)
        if not self.region_source or row["label"] == "real":
            return None
        if self.region_source == "difference":
            return fakeness.difference_region(self.truth(sample))
        found = self._parsed_region(sample)
        if found is None:
            raise DataError(f"no parsing map for {sample}")
        return found

    def _parsed_region(self, sample: str) -> np.ndarray | None:
        row = self._row(sample)
        photo = self._row(row["source"])["parsing"] if row["source"] else ""
        paths = self.dataset.region_maps(row["parsing"], photo, row["attribute"])
        if row["attribute"] == ENTIRE:
            return np.ones((self.size, self.size), bool)
        if not paths:
            return None

        def read() -> np.ndarray:
            maps = [resize_classes(read_parsing(self.dataset.folder / path), self.size) for path in paths]
            return fakeness.region_of(row["attribute"], *maps).view(np.uint8)

        return self._kept("region", sample, paths, read).view(bool)

    def attention(self, sample: str) -> np.ndarray:
        """Return the float32 (S, S) face attention map; ones for a real image or without a parsing map."""
        row = self._row(sample)
        region = None if row["label"] == "real" else self._parsed_region(sample)
        if region is None or not region.any():
            return np.ones((self.size, self.size), np.float32)
        return self._maps.get(sample, lambda: fakeness.face_attention(region))

    def example(self, sample: str, condition: Condition = _CLEAN, *, recomputed: bool = False) -> Example:
        """Return the image of a sample under a condition, with its ground truth and region.

        Args:
            sample: Its identifier.
            condition: What happens to the image; what moves pixels moves ground truth and region alike.
            recomputed: Recompute Eq. 4 from the photo and the degraded fake, as the paper does; without, the ground
                truth is that of the undegraded fake. Masks and `entire` cannot be recomputed and stay as they are.

        Raises:
            DataError: Anything of it is missing or unreadable.
        """
        image, region = self.image(sample), self.region(sample)
        if not condition.steps:
            return Example(image, self.truth(sample), region)
        row = self._row(sample)
        if not (recomputed and row["label"] == "fake" and not row["mask"] and row["attribute"] != ENTIRE):
            made = degrade(condition, image, truth=self.truth(sample), region=region, key=sample)
            return Example(made.image, _there(made.truth), made.region)
        made = degrade(condition, image, photo=self.image(row["source"]), region=region, key=sample)
        return Example(made.image, fakeness.fakeness_map(_there(made.photo), made.image), made.region)

    def batch(self, samples: Sequence[str], device: torch.device, flips: np.ndarray | None = None) -> Batch:
        """Return a training batch of the given samples, mirrored left to right where `flips` says so."""
        mirrored = np.zeros(len(samples), bool) if flips is None else flips

        def together(made: Callable[[str], np.ndarray]) -> Tensor:
            arrays = map(made, samples)
            return on_device([a[:, ::-1] if flip else a for a, flip in zip(arrays, mirrored, strict=True)], device)

        labels = np.array([self._row(sample)["label"] == "fake" for sample in samples], np.float32)
        return Batch(
            to_tensor(together(self.image)),
            together(self.truth),
            torch.from_numpy(labels).to(device),
            together(self.attention),
        )


def _there(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def on_device(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Return arrays of one shape and type as one tensor; a GPU fetches it by itself, while this thread goes on."""
    shape, kind = (len(arrays), *arrays[0].shape), getattr(torch, arrays[0].dtype.name)
    joined = torch.empty(shape, dtype=kind, pin_memory=device.type == "cuda")
    np.stack(arrays, out=joined.numpy())
    return joined.to(device, non_blocking=True)


def to_tensor(images: Tensor) -> Tensor:
    """Return uint8 (B, H, W, 3) images as float32 (B, 3, H, W) in [0, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


class Sampler:
    """Choose the samples of every training step: half fakes, half real photos, each passed through in shuffled rounds.

    What a step gets is a function of the seed and the step alone, so a resumed fit sees the same batches.

    Args:
        selection: The training slice.
        batch: Images per step.
        seed: Seed of the fit.
    """

    def __init__(self, selection: Selection, *, batch: int, seed: int) -> None:
        self.fakes = list(selection.fakes["sample_id"])
        self.reals = list(selection.reals["sample_id"])
        self.batch = batch
        self.seed = seed
        self._order = lru_cache(maxsize=4)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every fake is seen once."""
        return max(1, round(len(self.fakes) / max(1, self.batch // 2)))

    def _shuffled(self, group: int, count: int, round_: int) -> np.ndarray:
        return np.random.default_rng([self.seed, group, round_]).permutation(count)

    def _take(self, group: int, names: list[str], number: int, start: int) -> list[str]:
        if not names:
            return []
        places = range(start, start + number)
        return [names[self._order(group, len(names), p // len(names))[p % len(names)]] for p in places]

    def samples(self, step: int) -> list[str]:
        """Return the sample ids of a step, fakes first."""
        fakes = (self.batch + 1) // 2
        reals = self.batch - fakes
        return self._take(0, self.fakes, fakes, step * fakes) + self._take(1, self.reals, reals, step * reals)

    def flips(self, step: int, count: int) -> np.ndarray:
        """Return which images of a step are mirrored, bool (count,)."""
        return np.random.default_rng([self.seed, 2, step]).random(count) < 0.5
