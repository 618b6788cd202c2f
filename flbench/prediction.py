"""Use a locator on one's own images: maps, overlays and a summary. Nothing here prints.

The rule for sizes: an image is brought to the square that the fit was made on, as a protocol does it (antialiased
bilinear, the aspect ratio is not kept); its map is brought back to the image's own height and width (bilinear,
antialiased where it shrinks). The score is taken from the map before it is brought back. Images are decoded by the rule
of `data.images`: pixels count as they are stored, without the EXIF orientation.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flbench.data.batches import Example
from flbench.data.decoding import read_image
from flbench.data.images import SUFFIXES, resize
from flbench.engine.evaluate import ready_locator
from flbench.engine.fit import take_weights
from flbench.engine.predictions import Timer
from flbench.engine.predictor import Predictor
from flbench.engine.runtime import Runtime
from flbench.errors import DataError, UsageError, suggest
from flbench.files import atomic_write, make_folder, write_text
from flbench.locator import Locator, Reference, Replay
from flbench.registry import MethodChoice, choose_method, choose_named, load_method
from flbench.scoring.metrics import false_alarm, top_score
from flbench.study import LOG, Study
from flbench.targets import BROUGHT

if TYPE_CHECKING:
    from flbench.reporting.layout import Table

Progress = Callable[[str, int, int], None]

SUMMARY = "summary.csv"
_COLOURS = "magma"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a locator says of one image.

    Attributes:
        image: The file.
        width: In pixels; 0 if it cannot be read.
        height: In pixels.
        score: Probability that the image is fake; None if there is no prediction.
        marked: Share of the image's pixels whose fakeness is 0.5 or above.
        map: File of the map, 8-bit gray, 0 real and 255 fake, of the image's size; below the folder of results.
        overlay: File of the map laid over the image.
        reason: Why there is no prediction, else "".
    """

    image: str
    width: int = 0
    height: int = 0
    score: float | None = None
    marked: float | None = None
    map: str = ""
    overlay: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Ready:
    """A locator that can predict.

    Attributes:
        method: The method with its options.
        locator: It, on the device.
        size: Side of the square that images are brought to; None: their own size.
        runtime: Device.
        fit: The fit it has learnt in; "" for a method that learns nothing, or whose weights were given.
        notes: What was done to make the weights fit that were given, a sentence each.
    """

    method: MethodChoice
    locator: Locator
    size: int | None
    runtime: Runtime
    fit: str = ""
    notes: tuple[str, ...] = ()


def open_locator(
    method: str = "",
    *,
    fit: str = "",
    weights: str = "",
    given: Mapping[str, Any] | None = None,
    study: Study,
    size: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> Ready:
    """Return a fitted locator of a study, one whose weights are given, or one that needs no fit.

    Args:
        method: The method, with its variant; "" for that of the fit.
        fit: Identifier of the fit or any part of it that only one has; "" for the only one of the method.
        weights: File of weights that stand for a fit, with `#sha256=` and its digits if they are known.
        given: Options of the method, where no fit says them.
        study: Where the fit is.
        size: Side of the square that images are brought to, for a method without a fit; None: their own size.
        device: "auto", "cpu", "cuda"...
        threads: CPU threads.

    Raises:
        UsageError: No such method or fit, several fits, or a method that says nothing of an image alone.
        MethodError: The method cannot be loaded, or the weights have changed or do not fit.
    """
    if weights and (fit or not method):
        raise UsageError("weights are given for a method, not for a fit", hint="--method NAME --weights FILE")
    if not method and not fit:
        raise UsageError("nothing says what is to look at the images", hint="--method NAME or --fit ID")
    asked = choose_method(method, given, weights=weights) if method else None
    document: dict[str, Any] | None = None
    if not weights and (asked is None or fit or asked.entry.trains):
        if asked is not None and not asked.entry.trains:
            raise UsageError(f"method {asked.name} learns nothing and has no fit", hint="leave out --fit")
        if given:
            raise UsageError("the options are those of the fit", hint="--set goes with --weights")
        document = _find_fit(study, fit, asked)
        if size is not None:
            raise UsageError(
                f"images are brought to the size of the fit, {document['size']} px", hint="leave out --size"
            )
    choice = asked if document is None else _named(document, _given(document))
    if choice is None or choice.entry.reference:
        raise UsageError(f"{choice and choice.name} is a reference row, which knows nothing of an image")
    runtime = Runtime.set_up(device, threads)
    notes = []
    if weights:
        locator = load_method(choice)
        notes = take_weights(locator, choice)
        locator.to(runtime.device)
    else:
        locator = ready_locator(choice, document, study, runtime)
    if isinstance(locator, Reference | Replay):
        raise UsageError(f"{choice.name} says nothing of an image that is in no data set", hint="choose another method")
    return Ready(
        choice,
        locator,
        size if document is None else document["size"],
        runtime,
        fit if document is None else document["fit"],
        tuple(notes),
    )


def _find_fit(study: Study, fit: str, method: MethodChoice | None) -> dict[str, Any]:
    """Return what `fit.json` says of the one fit that is meant.

    Raises:
        UsageError: None or several are meant, or it is of another method.
    """
    there = sorted(path.parent.name for path in study.folder.glob("fits/*/fit.json"))
    documents = {name: document for name in there if (document := study.fit(name)) is not None}
    if fit in documents:
        found = [fit]
        if method is not None and documents[fit]["method"] != method.name:
            raise UsageError(f"fit {fit} is of {documents[fit]['method']}, not of {method.name}")
    else:
        of = {name: d for name, d in documents.items() if method is None or d["method"] == method.name}
        found = [name for name in of if fit in name]
    what = f"fit {fit!r}" if fit else "fit"
    whose = f"{study.folder} has {{}} {what}" + (f" of {method.name}" if method else "")
    if not found:
        known = suggest(fit, list(documents)) if documents else "make one: flbench fit --method ... --protocol ..."
        raise UsageError(whose.format("no"), hint=known)
    if len(found) > 1:
        raise UsageError(whose.format(f"{len(found)} that may be meant,"), hint="--fit " + " or ".join(found[:4]))
    return documents[found[0]]


def _named(document: dict[str, Any], given: dict[str, Any] | None = None) -> MethodChoice:
    """Return the method that a fit says it is of."""
    return choose_named(document["method"], f"fit {document['fit']}", given)


def _given(document: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a fit that are not those of its method by now, whose defaults may have changed."""
    own = _named(document).options
    told = {key: value for key, value in document["options"].items() if key != BROUGHT}
    return {key: value for key, value in told.items() if key not in own or own[key] != value}


def find_images(paths: Iterable[Path], into: Path) -> list[tuple[Path, str]]:
    """Return image files with the names of their results: those named, and those in folders, by their suffix.

    The name is the file's path below the folder, or its own name, without suffix; where two files would have one name,
    the later ones get a number. A file that is named twice counts once. What lies in `into` is left out, so that
    results are not taken for images.

    Raises:
        UsageError: There is no such file or folder, or nothing in it is an image.
    """
    found: list[tuple[Path, str]] = []
    seen: set[Path] = set()
    names: set[str] = set()
    for given in paths:
        if given.is_dir():
            files = [path for path in sorted(given.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
            files = [path for path in files if not path.resolve().is_relative_to(into.resolve())]
        elif given.is_file():
            files = [given]
        else:
            raise UsageError(f"there is no image or folder {given}", hint="check the path")
        if not files:
            raise UsageError(f"{given} has no images", hint=", ".join(sorted(SUFFIXES)))
        for path in files:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            stem = (path.relative_to(given) if given.is_dir() else Path(path.name)).with_suffix("").as_posix()
            name, number = stem, 1
            while name.lower() in names:  # some file systems do not tell capitals from small letters
                number += 1
                name = f"{stem}-{number}"
            names.add(name.lower())
            found.append((path, name))
    return found


def predict_images(paths: Iterable[Path], into: Path, ready: Ready, *, progress: Progress | None = None) -> list[Seen]:
    """Predict images of any size, and write maps, overlays and `summary.csv`.

    Each image is predicted alone, so what is said of it does not depend on the others.

    Args:
        paths: Images, and folders of images.
        into: Folder of the results: `NAME-map.png`, `NAME-overlay.png`, `summary.csv`.
        ready: The locator.
        progress: Called with stage, done and total.

    Returns:
        What was said, in the order of the images. One that cannot be read or predicted has a reason.

    Raises:
        UsageError: A path does not exist, or a folder has no images.
        MethodError: The method breaks the contract, or fails on the first images.
        RunError: The results cannot be written.
    """
    images = find_images(paths, into)
    make_folder(into)
    predict = Predictor(ready.locator, ready.method.name, ready.runtime, into / LOG, Timer())
    seen = []
    for place, (path, name) in enumerate(images):
        seen.append(_see(path, name, into, predict, ready.size))
        if progress is not None:
            progress("predict", place + 1, len(images))
    write_text(into / SUMMARY, _csv(seen))
    return seen


def _see(path: Path, name: str, into: Path, predict: Predictor, size: int | None) -> Seen:
    try:
        image = read_image(path)
    except DataError as error:
        return Seen(image=str(path), reason=error.message)
    height, width = image.shape[:2]
    fed = image if size is None else resize(image, size)
    blank = np.zeros(fed.shape[:2], np.float32)
    (outcome,) = predict([Example(fed, blank, None)], [name], "clean")
    if not isinstance(outcome, str) and not (np.isfinite(outcome[0]).all() and np.isfinite(outcome[1] or 0)):
        outcome = "error: NaN or infinity"
    if isinstance(outcome, str):
        return Seen(image=str(path), width=width, height=height, reason=outcome.partition(": ")[2])
    fakeness = np.clip(outcome[0], 0, 1)
    score = float(top_score(fakeness[None])[0]) if outcome[1] is None else outcome[1]
    own = enlarged(fakeness, (height, width))
    files = {kind: f"{name}-{kind}.png" for kind in ("map", "overlay")}
    pictures = {"map": np.round(own * 255).astype(np.uint8), "overlay": laid_over(image, own)}
    for kind, pixels in pictures.items():
        picture = Image.fromarray(pixels)
        atomic_write(into / files[kind], lambda temporary, p=picture: p.save(temporary, format="PNG"))  # type: ignore[misc]
    return Seen(
        image=str(path),
        width=width,
        height=height,
        score=score,
        marked=float(false_alarm(own[None])[0]),
        map=files["map"],
        overlay=files["overlay"],
    )


def enlarged(fakeness: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a map float32 (H, W) in [0, 1] to another height and width, bilinearly, antialiased where it shrinks."""
    if fakeness.shape == shape:
        return fakeness
    return np.clip(np.array(Image.fromarray(fakeness).resize(shape[::-1], Image.Resampling.BILINEAR)), 0, 1)


def laid_over(image: np.ndarray, fakeness: np.ndarray) -> np.ndarray:
    """Return a map float (H, W) laid over its image uint8 (H, W, 3), which is darkened and gray; uint8 (H, W, 3)."""
    from matplotlib import colormaps

    from flbench.reporting.figures import overlay

    return np.round(overlay(image, fakeness, colormaps[_COLOURS]) * 255).astype(np.uint8)


def _csv(seen: Sequence[Seen]) -> str:
    """Return a row per image; no text is a formula to a spreadsheet."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Seen)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(key, value) for key, value in asdict(one).items()} for one in seen)
    return text.getvalue()


def _harmless(column: str, value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula: a path from here, another text behind a quotation mark."""
    if not isinstance(value, str) or value[:1] not in tuple("=+-@\t\r"):
        return value
    return f"'{value}" if column == "reason" else f"./{value}"


def summary_table(seen: Sequence[Seen], ready: Ready) -> Table:
    """Return what was said of images as a table: score, marked area in per cent, and why there is none."""
    from flbench.reporting.cards import table

    rows = []
    for one in seen:
        numbers = (
            ("", "") if one.score is None or one.marked is None else (f"{one.score:.3f}", f"{100 * one.marked:.1f}")
        )
        size = f"{one.width}x{one.height}" if one.width else ""
        rows.append((one.image, size, *numbers, one.reason))
    title = f"{ready.method.name}{f', fit {ready.fit}' if ready.fit else ''}"
    return table(("image", "pixels", "score", "marked %", ""), rows, title=title, right=range(1, 4))
