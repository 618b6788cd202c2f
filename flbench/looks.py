"""Looks at a method on trial: each returns what is wrong with it in words, "" for nothing.

A look at one side of the contract takes the others as given: maps of a wrong shape are the business of `shape` alone.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flbench.errors import FlbenchError, MethodError
from flbench.locator import Locator, NeuralLocator, Prediction, Reference, Replay, options_of
from flbench.method_file import REQUIRED
from flbench.recipe import KEYWORD, Recipe
from flbench.registry import MethodChoice, choose_method, find_protocol, load_method, protocols
from flbench.trial import IMAGES, SHOWN, Shown, Trial, ask, changed, make_images, untouched, world

TOLERANCE = 1e-4
"""How far two predictions that ought to be one may differ in a pixel: the order of sums differs between batch sizes.

1e-5 would do for most; a method that takes the logarithm of small energies was seen to differ by 1.2e-5.
"""

FLIPPED = 1e-3
"""Share of pixels that may lie so near a threshold that the order of sums decides."""

ODD_SIZES = ((61, 83), (96, 41))
"""Height and width in pixels; no multiples of 32, not square."""

LONGEST = 120
"""Characters of a docstring's first line that still fit a listing."""

PATIENCE = 300.0
"""Seconds that a fresh process may take."""

_CONTRACT = (Locator, NeuralLocator, Reference, Replay)


class NotApplicable(Exception):
    """A look that does not concern this method; the text says why."""


class Exempt(NotApplicable):
    """A method that neither this look nor any after it concerns."""


def stated(attribute: str) -> Callable[[Trial], str]:
    """Return a look at a class attribute that a listing reads from the file."""

    def look(trial: Trial) -> str:
        entry = trial.choice.entry
        if attribute == "paper" and entry.reference:
            raise NotApplicable("a reference row has no paper")
        own = [vars(kind) for kind in trial.kind.__mro__ if kind not in _CONTRACT]
        value = next((found[attribute] for found in own if attribute in found), None)
        if not isinstance(value, str) or not value.strip():
            return f"{entry.kind} states no {attribute}"
        listed = getattr(entry, attribute)
        return "" if value == listed or not entry.complete else f"a listing reads {listed!r}, the class says {value!r}"

    return look


def loads(trial: Trial) -> str:
    """Look whether the file is imported and its class makes a locator with the options asked for."""
    return "" if isinstance(trial.fresh(), Locator) else "it is no Locator"


def docstring(trial: Trial) -> str:
    """Look at the first line of the class's docstring, which every listing shows."""
    first = (vars(trial.kind).get("__doc__") or "").strip().split("\n")[0]
    if not first:
        return f"{trial.kind.__name__} has no docstring"
    if len(first) > LONGEST:
        return f"its first line has {len(first)} characters, at most {LONGEST}"
    return "" if first.endswith(".") else f"its first line ends with {first[-1]!r}, not with a full stop"


def described(trial: Trial) -> str:
    """Look at the options: keyword-only, with defaults that JSON gives back, each told in the docstring."""
    made = trial.kind.__init__
    parameters = [] if made is object.__init__ else list(inspect.signature(made).parameters.values())[1:]
    loose = [
        p.name
        for p in parameters
        if p.kind is not p.KEYWORD_ONLY and not (p.name == KEYWORD and p.kind is p.VAR_KEYWORD)
    ]
    if loose:
        return f"not keyword-only: {', '.join(loose)}"
    text = "\n".join(inspect.cleandoc(vars(kind).get("__doc__") or "") for kind in (*trial.kind.__mro__, Recipe))
    for name, default in options_of(trial.kind).items():
        listed = trial.choice.entry.options.get(name, default)
        if default is not inspect.Parameter.empty and not _plain(default):
            return f"the default of {name} is {default!r}, which JSON does not give back"
        if trial.choice.entry.complete and listed not in (default, REQUIRED):
            return f"a listing reads {name}={listed!r}, the signature says {default!r}"
        if f"\n    {name}: " not in text:
            return f"the docstring does not describe {name}"
    return ""


def _plain(value: Any) -> bool:
    """Return whether JSON gives a value back as it was."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def varied(trial: Trial) -> str:
    """Look whether every variant sets known options and makes a locator."""
    if not trial.kind.variants:
        raise NotApplicable("it has none")
    entry, known = trial.choice.entry, options_of(trial.kind)
    if dict(entry.variants) != dict(trial.kind.variants) and entry.complete:
        return "a listing does not read them: they are no literals"
    for name, values in trial.kind.variants.items():
        unknown = [option for option in values if option not in known]
        if unknown:
            return f"{name} sets {', '.join(unknown)}, which is no option"
        try:
            with untouched():
                load_method(MethodChoice(entry=entry, given={**values, **trial.choice.given}))
        except FlbenchError as error:
            return f"{name} cannot be made: {error}"
    return ""


def skip(trial: Trial) -> str:
    """Look whether `skip` gives None or a reason for every protocol that ships."""
    locator = trial.fresh()
    for name in protocols():
        reason = locator.skip(find_protocol(name))
        if reason is not None and not (isinstance(reason, str) and reason.strip()):
            return f"for the protocol {name} it gave {reason!r}"
    return ""


def alone(trial: Trial) -> str:
    """Look whether `predict` takes images and nothing else."""
    if issubclass(trial.kind, Replay):
        raise Exempt("it repeats maps by the names of samples, which made images do not have")
    parameters = list(inspect.signature(trial.kind.predict).parameters.values())[1:]
    names = ", ".join(parameter.name for parameter in parameters)
    return "" if len(parameters) == 1 else f"predict takes {names or 'nothing'}"


def fits(trial: Trial) -> str:
    """Look whether the method is fitted on the made training slice; one that declines everything here is not tried."""
    locator = trial.fresh()
    reasons = [locator.skip(find_protocol(name)) for name in protocols()]
    if reasons and all(reasons):
        raise Exempt(f"it declines every protocol here: {reasons[0]}")
    if not trial.kind.trains():
        raise NotApplicable("nothing to fit")
    _ = trial.locator
    return ""


def saves(trial: Trial) -> str:
    """Look at the kinds of files that a fitted method saves."""
    _training(trial)
    files = [path for path in sorted(trial.saved.rglob("*")) if path.is_file()]
    other = [path.name for path in files if path.suffix not in (".safetensors", ".json")]
    if other:
        return f"it wrote {', '.join(other)}"
    return "" if files else "it wrote nothing"


def forgets(trial: Trial) -> str:
    """Look whether what is saved grows with the training slice: then it holds images, maps or labels of it."""
    _training(trial)
    few, many = _size(trial.saved), _size(trial.save(trial.fit(2 * IMAGES), "twice"))
    allowed = few * 1.01 + 1024  # texts, such as counts in JSON, may grow a little
    return "" if many <= allowed else f"{IMAGES} images give {few} bytes, {2 * IMAGES} give {many}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _training(trial: Trial) -> None:
    if not trial.kind.trains():
        raise NotApplicable("nothing to fit")


def predicts(trial: Trial) -> str:
    """Look at the types of what `predict` returns."""
    prediction = trial.prediction
    if not isinstance(prediction, Prediction):
        return f"predict returned {type(prediction).__name__}"
    fakeness = prediction.fakeness
    return "" if isinstance(fakeness, Tensor) else f"fakeness is {type(fakeness).__name__}"


def shape(trial: Trial) -> str:
    """Look at the shape of the map of a batch of square images."""
    return _shape_of(trial.prediction, SHOWN)


def _shape_of(prediction: Prediction, shown: Shown) -> str:
    expected = tuple(shown.truth.shape)
    found = tuple(prediction.fakeness.shape)
    return "" if found == expected else f"images {tuple(shown.images.shape)} give a map {found}, expected {expected}"


def odd_sizes(trial: Trial) -> str:
    """Look at the shapes of maps of images of odd sizes."""
    wrong = (_shape_of(trial.predict(shown), shown) for shown in (make_images(2, size) for size in ODD_SIZES))
    return next(filter(None, wrong), "")


def one_image(trial: Trial) -> str:
    """Look at the shape of the map of a batch of one."""
    return _shape_of(trial.predict(SHOWN.one(0)), SHOWN.one(0))


def dtype(trial: Trial) -> str:
    """Look at the map's type of numbers."""
    found = trial.prediction.fakeness.dtype
    return "" if found == torch.float32 else f"fakeness is {found}"


def span(trial: Trial) -> str:
    """Look at the least and the greatest finite value of maps."""
    for shown in _hard():
        fakeness = trial.predict(shown).fakeness.double()
        known = fakeness[torch.isfinite(fakeness)]
        if known.numel() and (known.min() < -1e-6 or known.max() > 1 + 1e-6):
            return f"fakeness is in {known.min():.3g}..{known.max():.3g}"
    return ""


def finite(trial: Trial) -> str:
    """Look for NaN and infinity, also in maps of images of one colour."""
    for shown in _hard():
        prediction = trial.prediction if shown is SHOWN else trial.predict(shown)
        for name, part in zip(("fakeness", "score"), prediction, strict=True):
            if isinstance(part, Tensor) and not bool(torch.isfinite(part).all()):
                flat = "an image of one colour" if shown is not SHOWN else "an image"
                return f"{name} has NaN or infinity for {flat}"
    return ""


def _hard() -> Iterator[Shown]:
    """Yield ordinary images, then black, gray and white ones, which divide by their own deviation at their peril."""
    yield SHOWN
    levels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    yield Shown(levels.expand_as(SHOWN.images).contiguous(), torch.zeros_like(SHOWN.truth))


def score(trial: Trial) -> str:
    """Look at type, shape and range of the scores."""
    given = trial.prediction.score
    if given is None:
        raise NotApplicable("the protocol derives the score from the map")
    if not isinstance(given, Tensor):
        return f"score is {type(given).__name__}"
    expected = (len(SHOWN.images),)
    if tuple(given.shape) != expected or given.dtype != torch.float32:
        return f"score is {given.dtype} {tuple(given.shape)}, expected torch.float32 {expected}"
    known = given[torch.isfinite(given)]
    within = bool(((known >= 0) & (known <= 1)).all())
    return "" if within else f"score is in {known.min():.3g}..{known.max():.3g}"


def batch(trial: Trial) -> str:
    """Look whether an image alone gives what it gives in a batch."""
    together = trial.prediction
    for place in range(len(SHOWN.images)):
        rest = None if together.score is None else together.score[place : place + 1]
        wrong = differs(Prediction(together.fakeness[place : place + 1], rest), trial.predict(SHOWN.one(place)))
        if wrong:
            return f"image {place + 1} of {len(SHOWN.images)} alone and in the batch: {wrong}"
    return ""


def deterministic(trial: Trial) -> str:
    """Look whether two predictions, with other random states before them, are one to the bit."""
    found = []
    with untouched():
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(trial.predict(SHOWN))
    return differs(*found, tolerance=0.0)


def in_place(trial: Trial) -> str:
    """Look whether `predict` leaves its images as they are."""
    kept, locator = SHOWN.images.clone(), trial.locator
    shown = Shown(kept.clone(), SHOWN.truth.clone())
    with untouched(), torch.inference_mode():
        ask(locator, shown)
    return "" if torch.equal(shown.images, kept) else "predict changed the images that it was given"


def manners(trial: Trial) -> str:
    """Look at what a fit, a load and a prediction change in the process around them."""
    _ = trial.locator, trial.loaded
    with untouched():
        before = world()
        ask(trial.locator, Shown(SHOWN.images.clone(), SHOWN.truth.clone()))
        wrong = dict.fromkeys([*trial.changed, *changed(before, world())])
    return f"it changed {', '.join(wrong)}" if wrong else ""


def round_trip(trial: Trial) -> str:
    """Look whether a new locator that loads what was saved predicts the same bits."""
    loaded = trial.loaded
    if loaded.parameters != trial.locator.parameters:
        return f"{trial.locator.parameters} parameters were saved, {loaded.parameters} loaded"
    return differs(trial.prediction, trial.predict(SHOWN, loaded), tolerance=0.0)


def elsewhere(trial: Trial) -> str:
    """Look whether a fresh process finds the method by name, loads what was saved and predicts the same.

    Raises:
        MethodError: The process failed; its last line is told.
    """
    wish, reply = trial.folder / "shown.safetensors", trial.folder / "reply.safetensors"
    save_file({"images": SHOWN.images, "truth": SHOWN.truth}, wish)
    job = {
        "method": trial.choice.text,
        "given": dict(trial.choice.given),
        "fit": str(trial.saved) if trial.kind.trains() else None,
        "shown": str(wish),
        "reply": str(reply),
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-P", "-c", "from flbench.looks import answer; answer()"]
    text = json.dumps(job)
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise MethodError(f"a fresh process did not answer within {PATIENCE:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MethodError(f"a fresh process failed: {last}")
    state = load_file(reply)
    return differs(trial.prediction, Prediction(state["fakeness"], state.get("score")))


def answer() -> None:
    """Carry out the job on stdin, as the fresh process of `elsewhere`."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    locator = load_method(choose_method(job["method"], job["given"]))
    if job["fit"] is not None:
        locator.load(Path(job["fit"]))
    with torch.inference_mode():
        prediction = ask(locator, Shown(**load_file(job["shown"])))
    named = {"fakeness": prediction.fakeness, "score": prediction.score}
    save_file({name: part.contiguous() for name, part in named.items() if part is not None}, job["reply"])


def differs(one: Prediction, other: Prediction, *, tolerance: float = TOLERANCE) -> str:
    """Return how two predictions of the same images differ, "" if they do not.

    NaN equals NaN. Unless `tolerance` is 0, a share of `FLIPPED` pixels may differ by more.
    """
    if (one.score is None) != (other.score is None):
        return "one has a score, the other has none"
    for name, left, right in zip(("fakeness", "score"), one, other, strict=True):
        if left is None or right is None:
            continue
        if left.shape != right.shape:
            return f"{name} is {tuple(left.shape)} and {tuple(right.shape)}"
        apart = ~torch.isclose(left.double(), right.double(), rtol=0, atol=tolerance, equal_nan=True)
        allowed = FLIPPED * apart.numel() if tolerance and name == "fakeness" else 0
        if int(apart.sum()) > allowed:
            most = (left.double() - right.double()).abs()[apart].max()
            return f"{name} differs by up to {most:.2g} in {int(apart.sum())} of {apart.numel()} values"
    return ""
