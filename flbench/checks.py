"""The conformance suite: what every method must hold, as data. `flbench check` and a method's own tests run it.

A check is a name, what it holds, how to mend what does not hold, and a function that looks. Checks run in order; after
one that the others rest on has failed, they are skipped, so that one mistake is one finding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flbench import looks
from flbench.errors import FlbenchError
from flbench.registry import MethodChoice, choose_method, load_method
from flbench.trial import Trial, untouched


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that every method must hold.

    Attributes:
        name: A word or two.
        holds: What is true of a method that passes.
        mend: What to do if it is not.
        look: Returns what is wrong, "" for nothing.
        gate: Whether what follows makes no sense after it failed.
        slow: Whether it starts a process, which takes seconds.
    """

    name: str
    holds: str
    mend: str
    look: Callable[[Trial], str]
    gate: bool = False
    slow: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a check found.

    Attributes:
        check: Its name.
        holds: What it holds.
        status: "ok", "failed" or "skipped".
        what: What is wrong, or why it was skipped.
        mend: What to do, "" unless it failed.
    """

    check: str
    holds: str
    status: Literal["ok", "failed", "skipped"]
    what: str = ""
    mend: str = ""


CHECKS: tuple[Check, ...] = (
    Check(
        name="loads",
        holds="its file is imported, and its class makes a locator with these options",
        mend="import the file in Python and make the class; heavy or optional imports belong into build or predict",
        look=looks.loads,
        gate=True,
    ),
    Check(
        name="title",
        holds="a title that a listing reads without importing the file",
        mend='write title = "..." in the class body, as plain text',
        look=looks.stated("title"),
    ),
    Check(
        name="docstring",
        holds="a docstring whose first line, at most 120 characters and a full stop, says what marks a pixel as fake",
        mend="write it below the class line; listings and boards show its first line",
        look=looks.docstring,
    ),
    Check(
        name="paper",
        holds="a citation or a link",
        mend='write paper = "..." in the class body; "unpublished" if there is none',
        look=looks.stated("paper"),
    ),
    Check(
        name="licence",
        holds="a licence of its own, and of weights it may load",
        mend='write licence = "Apache-2.0", or whichever it is, in the class body',
        look=looks.stated("licence"),
    ),
    Check(
        name="options",
        holds="options are keyword-only, told in the docstring, with defaults that JSON knows",
        mend='write def __init__(self, *, name: int = 3), a literal default, and "name: ..." under Args: of the class',
        look=looks.described,
    ),
    Check(
        name="variants",
        holds="every variant is a literal that sets known options and makes a locator",
        mend='write variants = {"name": {"option": value}} with options of __init__ and values that it accepts',
        look=looks.varied,
    ),
    Check(
        name="skip",
        holds="skip gives None or a reason for every protocol that ships",
        mend="return None where the method can run the protocol, else one line that says why not; never True or False",
        look=looks.skip,
    ),
    Check(
        name="images alone",
        holds="predict takes images and nothing else: no label, path or map",
        mend="write def predict(self, images: Tensor) -> Prediction; what is learnt from labels is learnt in fit",
        look=looks.alone,
        gate=True,
    ),
    Check(
        name="fit",
        holds="it is fitted on a small training slice",
        mend="call training.optimise(module, loss, recipe), or read training.batches(); the loss is a finite scalar "
        "with gradient; weights that must be downloaded need an option that goes without, such as weights=none",
        look=looks.fits,
        gate=True,
    ),
    Check(
        name="files",
        holds="what it saves is safetensors and JSON",
        mend="use safetensors.torch.save_file for tensors and JSON for the rest: a pickle can run code",
        look=looks.saves,
    ),
    Check(
        name="no training data",
        holds="what it saves does not grow with the training slice",
        mend="save what was learnt, not the images, maps or labels that it was learnt from",
        look=looks.forgets,
    ),
    Check(
        name="prediction",
        holds="predict returns a Prediction whose map is a tensor",
        mend="return Prediction(fakeness, score) of flbench.locator, or Prediction(fakeness)",
        look=looks.predicts,
        gate=True,
    ),
    Check(
        name="shape",
        holds="images (B, 3, H, W) give maps (B, H, W)",
        mend="drop the channel with squeeze(1) or mean(dim=1), and resize the map to the images' height and width",
        look=looks.shape,
        gate=True,
    ),
    Check(
        name="odd sizes",
        holds="maps have the images' size where that is not square and no multiple of 32",
        mend="pad the images to what the network takes and crop the map, or resize the map back; "
        "height is images.shape[-2], width images.shape[-1]",
        look=looks.odd_sizes,
    ),
    Check(
        name="one image",
        holds="a batch of one image works",
        mend="squeeze with its dimension, squeeze(1): a bare squeeze() drops the batch too",
        look=looks.one_image,
        gate=True,
    ),
    Check(name="dtype", holds="maps are float32", mend="end with fakeness.float()", look=looks.dtype),
    Check(
        name="range",
        holds="maps are in [0, 1]",
        mend="end with sigmoid() for logits, or clamp(0, 1)",
        look=looks.span,
    ),
    Check(
        name="finite",
        holds="no NaN and no infinity, black, gray and white images included",
        mend="add a small number to what you divide by: an image of one colour has deviation 0",
        look=looks.finite,
    ),
    Check(
        name="score",
        holds="scores, if any, are float32 (B,) in [0, 1]",
        mend="return logits.squeeze(1).sigmoid(), or no score: then the protocol derives it from the map",
        look=looks.score,
        gate=True,
    ),
    Check(
        name="batch",
        holds="an image gives the same alone and in a batch, within 1e-4 in all but 0.1 % of pixels",
        mend="take statistics per image, dim=(-2, -1), never over the batch; put the module into eval mode",
        look=looks.batch,
    ),
    Check(
        name="determinism",
        holds="the same images give the same bits twice",
        mend="draw random numbers in fit only, or from a torch.Generator that predict seeds itself; keep no state "
        "between predictions",
        look=looks.deterministic,
        gate=True,
    ),
    Check(
        name="in place",
        holds="predict does not change its images",
        mend="work on a copy: images = images - mean, not images -= mean",
        look=looks.in_place,
    ),
    Check(
        name="manners",
        holds="random states, threads, working folder, gradient mode and default dtype stay as they were",
        mend="use torch.Generator for random numbers and with torch.no_grad(): for the mode; leave threads, folder and "
        "default dtype to the harness",
        look=looks.manners,
    ),
    Check(
        name="round trip",
        holds="a new locator that loads what was saved predicts the same bits",
        mend="save and load all that fit learns, buffers too; options are handed to __init__ again",
        look=looks.round_trip,
    ),
    Check(
        name="fresh process",
        holds="another Python finds it by name, loads what was saved and predicts the same",
        mend="rely on nothing that this process did before: no variable, no sys.path, no working folder",
        look=looks.elsewhere,
        slow=True,
    ),
)
"""The suite, in the order in which it runs."""


def check_method(
    choice: MethodChoice | str,
    *,
    fresh_process: bool = True,
    progress: Callable[[str, int, int], object] | None = None,
) -> list[Result]:
    """Hold a method to the contract, on made images and without any data set.

    A method that trains is fitted twice for two steps. What the caller's process holds (random numbers, working
    folder, threads, gradient mode) is as before when it returns.

    Args:
        choice: The method with its options, or its name.
        fresh_process: Whether to run the slow checks too, which start another Python.
        progress: Called with a stage, checks done and their number.

    Returns:
        One result per check, in order.

    Raises:
        UsageError: Unknown method, variant or option.
        MethodError: Its file cannot be read at all; the listing says so too.
    """
    chosen = choose_method(choice) if isinstance(choice, str) else choice
    checks = [check for check in CHECKS if fresh_process or not check.slow]
    results: list[Result] = []
    closed = ""
    with tempfile.TemporaryDirectory(prefix="flbench-check-") as folder, untouched():
        trial = Trial(chosen, load_method, Path(folder))
        for place, check in enumerate(checks):
            result, closed = _run(check, trial, closed)
            results.append(result)
            if progress is not None:
                progress(f"check {chosen.name}", place + 1, len(checks))
    return results


def _run(check: Check, trial: Trial, closed: str) -> tuple[Result, str]:
    """Carry one check out, and tell why those after it are skipped; whatever the method raises is a finding."""
    if closed:
        return Result(check=check.name, holds=check.holds, status="skipped", what=closed), closed
    try:
        what = check.look(trial)
    except looks.NotApplicable as reason:
        why = str(reason)
        skipped = Result(check=check.name, holds=check.holds, status="skipped", what=why)
        return skipped, f"see {check.name!r}" if isinstance(reason, looks.Exempt) else ""
    except FlbenchError as error:
        what = str(error)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
    if not what:
        return Result(check=check.name, holds=check.holds, status="ok"), ""
    failed = Result(check=check.name, holds=check.holds, status="failed", what=" ".join(what.split()), mend=check.mend)
    return failed, f"mend {check.name!r} first" if check.gate else ""
