"""Parsers: what finds the parts of a face in a photo, for data sets that came without parsing maps.

A parser is a callable. It is named by an entry point of the group `flbench.parsers`, or on the command line as
`folder:DIR` (maps that lie there), `onnx:FILE` (a network) or `module:callable`. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from flbench.data.fakeness import CLASSES
from flbench.data.images import SUFFIXES, read_parsing
from flbench.data.manifest import NAME
from flbench.errors import DataError, FlbenchError, UsageError
from flbench.files import file_digest

Maps = Sequence[np.ndarray]


class Parser(Protocol):
    """What makes parsing maps.

    Attributes:
        name: Letters, digits and `_ . + -`.
        regions: Edited attributes in whose region it is good enough to score; None: in all of them.
        digest: Changes whenever the maps may change, so that maps can be kept when a run was stopped; "": unknown.
        note: What a reader must know, one line.
    """

    name: str
    regions: frozenset[str] | None
    digest: str
    note: str

    def __call__(self, images: Maps, /) -> Maps:
        """Return the maps of images.

        Args:
            images: uint8 (H, W, 3) each, of any sizes.

        Returns:
            uint8 (H, W) each, CelebAMask-HQ classes 0-18.
        """


class CallableParser:
    """A Python callable, with what it says about itself checked and the rest filled in.

    Args:
        parse: What is called; may have the attributes of `Parser`.
        name: Its name if it has none.

    Raises:
        UsageError: It cannot be called, or one of the attributes cannot be.
    """

    def __init__(self, parse: Callable[[Maps], Maps], *, name: str) -> None:
        if not callable(parse):
            raise UsageError(f"parser {name} is no callable but {type(parse).__name__}", hint="def parse(images): ...")
        self.parse = parse
        self.name = str(getattr(parse, "name", name))
        regions = getattr(parse, "regions", None)
        if isinstance(regions, str):
            raise UsageError(f"parser {name}: regions is a string", hint="a set of attributes, or None for all")
        self.regions = None if regions is None else frozenset(map(str, regions))
        self.digest = str(getattr(parse, "digest", ""))
        self.note = str(getattr(parse, "note", ""))
        if not NAME.fullmatch(self.name):
            raise UsageError(f"a parser cannot be called {self.name!r}", hint="letters, digits and _ . + - only")

    def __call__(self, images: Maps) -> Maps:
        """Return the maps of images, checked.

        Raises:
            DataError: It fails, or does not return one uint8 (H, W) map of known classes per image.
        """
        try:
            maps = [np.asarray(found) for found in self.parse(list(images))]
        except FlbenchError:
            raise
        except Exception as error:  # anything may be raised by another's code
            raise DataError(f"parser {self.name} failed: {type(error).__name__}: {error}") from error
        if len(maps) != len(images):
            raise DataError(f"parser {self.name} returned {len(maps)} maps for {len(images)} images")
        return [_checked(found, image.shape[:2], self.name) for found, image in zip(maps, images, strict=True)]


class FolderParser:
    """Maps that lie in a folder: made by hand, or by a program that flbench does not know.

    A map has the name of the sample, or of the image below the data set's `images/`, or, for a photo, of the image
    alone; the suffix does not matter. Its pixel values are the classes (palette or 8-bit gray). It may have another
    size than the image, but not another shape.

    Args:
        folder: Where they lie; folders in it count.

    Raises:
        UsageError: There is no such folder, or no map in it.
    """

    name = "folder"
    regions: frozenset[str] | None = None
    digest = ""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"the folder of parsing maps {folder} does not exist", hint="check the path")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self.maps = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        if not self.maps:
            raise UsageError(f"{folder} has no parsing maps", hint="PNG files named as the samples or their images")
        self.note = f"{len(self.maps)} maps"

    def find(self, sample: str, image: str, *, real: bool) -> Path | None:
        """Return the map of a sample, or None.

        Args:
            sample: Its `sample_id`.
            image: Path of its image in the data set.
            real: Whether it is a photo.
        """
        stem = image.rpartition("/")[2].rpartition(".")[0]
        below = image.removeprefix("images/").rpartition(".")[0]
        names = (sample, below, stem) if real else (sample, below)
        return next((self.maps[name] for name in names if name in self.maps), None)

    def read(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Read a map and bring it to the height and width of its image by the nearest pixel.

        Raises:
            DataError: It cannot be read, has an unknown class, or another shape than the image.
        """
        found = read_parsing(path)
        (height, width), (rows, columns) = shape[:2], found.shape
        if abs(rows * width - columns * height) > max(width, height):  # a pixel of rounding is no other shape
            raise DataError(f"{path.name}: the map is {columns}x{rows}, its image {width}x{height}")
        return _checked(nearest(found, (height, width)), (height, width), path.name)

    def __call__(self, images: Maps) -> Maps:
        """Refuse: a picture alone does not say which map is its own.

        Raises:
            UsageError: Always.
        """
        raise UsageError("a folder of maps goes by names, not by pixels", hint="use it with: flbench data parse")


class OnnxParser:
    """A network in an ONNX file, run by onnxruntime on the CPU.

    Its one input is float32 (1, 3, H, W), RGB in [0, 1]; H and W may be fixed, then images are brought to them
    bilinearly, and maps back by the nearest pixel. Its first output is either scores (1, 19, H, W) or classes
    (1, H, W), with the classes of CelebAMask-HQ. A network of other numbers is wrapped in a Python callable.

    Args:
        path: The file.

    Raises:
        UsageError: There is no such file, onnxruntime is not installed, or the input is of another kind.
        DataError: onnxruntime cannot read the file.
    """

    regions: frozenset[str] | None = None

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"the network {path} does not exist", hint="check the path")
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError("onnxruntime is not installed", hint="run: pip install 'flbench[onnx]'") from error
        self.name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", path.stem).lstrip("_.+-") or "onnx"
        self.digest = file_digest(path)
        self.note = path.name
        self.file = path.name
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base of their own
            raise DataError(f"{path} cannot be used: {str(error).splitlines()[0]}") from error
        inputs = self.session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else None
        if shape is None or len(shape) != 4 or (shape[1] not in (3, None) and not isinstance(shape[1], str)):
            given = ", ".join(f"{item.name} {item.shape}" for item in inputs)
            raise UsageError(f"{path.name} takes {given}", hint="one input (1, 3, H, W) is needed")
        self.input = inputs[0].name
        self.side = tuple(size if isinstance(size, int) else None for size in shape[2:])

    def __call__(self, images: Maps) -> Maps:
        """Return the maps of images.

        Raises:
            DataError: The network fails, or its output is of another kind.
        """
        return [self._parse(image) for image in images]

    def _parse(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        size = (self.side[0] or height, self.side[1] or width)
        fitted = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        fed = np.ascontiguousarray(fitted.transpose(2, 0, 1)[None], np.float32) / 255
        try:
            output = np.asarray(self.session.run(None, {self.input: fed})[0])
        except Exception as error:  # as above
            raise DataError(f"{self.file} failed on {width}x{height}: {str(error).splitlines()[0]}") from error
        if output.ndim == 4 and output.shape[:2] == (1, len(CLASSES)):
            classes = output[0].argmax(0)
        elif output.ndim == 3 and output.shape[0] == 1 and np.issubdtype(output.dtype, np.integer):
            classes = output[0]
        else:
            hint = f"scores (1, {len(CLASSES)}, H, W) or whole numbers (1, H, W) are needed"
            raise DataError(f"{self.file} gives {output.dtype} {output.shape}", hint=hint)
        _check_classes(classes, self.file)
        return nearest(classes.astype(np.uint8), (height, width))


def parser_from(thing: Any, name: str) -> Parser:
    """Make a parser of what an entry point stands for: a class or a callable, or the path of a folder or ONNX file.

    Args:
        thing: A class is called without arguments; a path may be text.
        name: Name of the entry point.

    Raises:
        UsageError: It cannot be a parser.
        DataError: It fails while it is made.
    """
    if isinstance(thing, str | Path):
        path = Path(thing)
        return OnnxParser(path) if path.suffix.lower() == ".onnx" else FolderParser(path)
    if isinstance(thing, type):
        try:
            thing = thing()
        except FlbenchError:
            raise
        except Exception as error:  # anything may be raised by another's code
            raise DataError(f"parser {name} cannot be made: {type(error).__name__}: {error}") from error
    return thing if isinstance(thing, FolderParser) else CallableParser(thing, name=name)


def nearest(classes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a map uint8 (H, W) to another height and width by the nearest pixel, so that no class is made up."""
    if classes.shape == shape:
        return classes
    return np.array(Image.fromarray(classes).resize(shape[::-1], Image.Resampling.NEAREST))


def _checked(found: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return a map as uint8 if it has a shape and known classes.

    Raises:
        DataError: It has not.
    """
    if found.shape != tuple(shape) or not np.issubdtype(found.dtype, np.integer):
        raise DataError(f"{name}: a map is {found.dtype} {found.shape}, its image {tuple(shape)}", hint="uint8 (H, W)")
    _check_classes(found, name)
    return found.astype(np.uint8)


def _check_classes(classes: np.ndarray, name: str) -> None:
    if classes.size and (classes.min() < 0 or classes.max() >= len(CLASSES)):
        wrong = int(classes.max() if classes.max() >= len(CLASSES) else classes.min())
        raise DataError(f"{name}: class {wrong} in a parsing map; known are 0 to {len(CLASSES) - 1}")
