"""Numbers and protocols in words: what boards and the terminal print, before any markup."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flbench.condition import KINDS
from flbench.protocol import LOWER_IS_BETTER, METRICS, Category, FitSlice, Protocol
from flbench.record import Record, Value
from flbench.reporting.conditions import families, kinds, phrase
from flbench.targets import BROUGHT, weights_again

NOTHING = "–"
TITLES: Mapping[str, str] = METRICS
IMAGE_METRICS = ("acc", "auroc")
"""Metrics that count fakes and real photos alike."""
PHOTO_METRICS = ("tnr", "false_alarm")
"""Metrics that count real photos only."""
DEFINITIONS: Mapping[str, str] = {
    "acc": "share of images, real and fake, called right at a score of 0.5",
    "coss": "cosine of the predicted and the true map; 1 if both are zero, 0 if one is",
    "psnr": "10 log10(1 / MSE) in dB, at most 100",
    "ssim": "mean structural similarity, 7 × 7 uniform window, data range 1",
    "mae": "mean absolute difference of the maps",
    "auroc": "area under the ROC curve of the image scores, real against fake",
    "f1": "harmonic mean of precision and recall over pixels; marked from 0.5, true from 0.1; mean over fakes",
    "iou": "pixels both marked (from 0.5) and true (from 0.1) among those that are either; mean over fakes",
    "pixel_auroc": "area under the ROC curve of an image's pixels, true from 0.1; mean over fakes",
    "pixel_ap": "average precision of an image's pixels, true from 0.1; mean over fakes",
    "tpr": "share of fakes called fake",
    "tnr": "share of real photos called real",
    "false_alarm": "mean share of a real photo's pixels with a fakeness of at least 0.5",
}
_DECIMALS = {"psnr": 2}
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of a board.

    Attributes:
        value: Mean over images, or over seeds; None if undefined.
        low: Lower end of the 95 % interval over identities; None over several seeds.
        high: Upper end.
        std: Standard deviation over seeds; None for one seed.
        undefined: Images without a value, left out.
        failed: Images counted with the worst value.
        capped: Images whose value was cut.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    undefined: int = 0
    failed: int = 0
    capped: int = 0


def number_of(value: Value) -> Number:
    """Return a value of a record as a number of a board."""
    return Number(**value.model_dump(exclude={"n"}))


def clean(text: object) -> str:
    """Return text on one line, without escape sequences, control, bidirectional or invisible characters."""
    line = _ESCAPES.sub("", str(text))
    kept = []
    for sign in line:
        category = unicodedata.category(sign)
        if sign.isspace() or category in ("Zl", "Zp"):
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif category not in ("Cc", "Cf", "Cn", "Co"):
            kept.append(sign)
    return " ".join("".join(kept).split())


def link(text: str) -> str:
    """Return the text if it is a plain http or https address, else ""."""
    if re.search(r"[\s<>\"'`\\()|{}^\[\]]", text) or clean(text) != text:
        return ""
    try:
        parts = urlsplit(text)
        return text if parts.scheme in ("http", "https") and parts.hostname else ""
    except ValueError:
        return ""


def arrow(metric: str) -> str:
    """Return the direction in which a metric is better."""
    return "↓" if metric in LOWER_IS_BETTER else "↑"


def heading(metric: str) -> str:
    """Return a metric's name with its direction, such as `COSS ↑`."""
    return f"{TITLES.get(metric, metric)} {arrow(metric)}"


def bare(number: Number | None, metric: str) -> str:
    """Return the value and nothing else: `0.412`, `22.83`, or a dash."""
    return NOTHING if number is None or number.value is None else _fixed(number.value, metric)


def plain(number: Number | None, metric: str) -> str:
    """Return the value without its interval: `0.412`, over seeds `0.412 ± .013`, or a dash."""
    text = bare(number, metric)
    if number is None or number.value is None or number.std is None:
        return text
    return f"{text} ± {_short(number.std, metric)}"


def full(number: Number | None, metric: str) -> str:
    """Return the value with its interval, `0.412 [.398, .427]`; over seeds `0.412 ± .013`."""
    text = plain(number, metric)
    if number is None or number.value is None or number.low is None or number.high is None or number.std is not None:
        return text
    return f"{text} [{_short(number.low, metric)}, {_short(number.high, metric)}]"


def share(number: Number | None) -> str:
    """Return γ with its interval, `97.3 % [95.1, 98.8]`; over seeds `97.3 % ± 1.2`; "" if it is undefined."""
    if number is None or number.value is None:
        return ""
    text = f"{number.value:.1f} %"
    if number.std is not None:
        return f"{text} ± {number.std:.1f}"
    return text if number.low is None or number.high is None else f"{text} [{number.low:.1f}, {number.high:.1f}]"


def _fixed(value: float, metric: str) -> str:
    text = f"{value:.{_DECIMALS.get(metric, 3)}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _short(value: float, metric: str) -> str:
    text = _fixed(value, metric)
    if text.startswith("0."):
        return text[1:]
    return f"-{text[2:]}" if text.startswith("-0.") else text


def count(number: int) -> str:
    """Return a number of parameters with three digits: `850`, `12.4 k`, `58.6 M`."""
    scaled, units = float(number), ["", "k", "M", "G", "T"]
    while scaled >= 999.5 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    unit = units[0]
    if not unit:
        return str(number)
    digits = max(0, 2 - (scaled >= 9.995) - (scaled >= 99.95))
    return f"{scaled:.{digits}f} {unit}"


def seconds(value: float | None) -> str:
    """Return seconds with two significant digits and no exponent, such as `0.0042`, `1.3`, `210`."""
    if value is None or value < 0:
        return NOTHING
    if value == 0:
        return "0"
    exponent = int(f"{value:.1e}".partition("e")[2])
    return f"{round(value, 1 - exponent):.{max(0, 1 - exponent)}f}"


def machine(provenance: Mapping[str, Any]) -> str:
    """Return what a time was measured on, such as `cpu, 2 threads`."""
    device, threads = clean(provenance.get("device", "")), provenance.get("threads")
    words = [device] if device else []
    if isinstance(threads, int) and threads > 0 and "thread" not in device:
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(words) or NOTHING


def code_version(record: Record) -> str:
    """Return what code made a record: its distribution and commit."""
    commit = clean(record.provenance.get("commit") or "")[:12]
    changed = " with local changes" if commit and record.provenance.get("dirty") else ""
    words = [clean(record.method.distribution), f"commit {commit}{changed}" if commit else ""]
    return ", ".join(word for word in words if word)


def options(given: Mapping[str, Any]) -> str:
    """Return options set by the user, `lr=0.001, steps=200`."""
    return ", ".join(f"{clean(key)}={clean(given[key])}" for key in sorted(given))


def command(record: Record, seeds: Sequence[int]) -> str:
    """Return the command that measures a row again, quoted for a POSIX shell."""
    info = record.protocol
    words = ["flbench", "run", "--method", record.method.name, "--protocol", info.name, "--data", record.dataset.name]
    if seeds and list(seeds) != [0]:
        words += ["--seed", ",".join(map(str, seeds))]
    for key in sorted(record.method.given):
        value = record.method.given[key]
        if key == BROUGHT:
            words += ["--weights", weights_again(value)]
        else:
            words += ["--set", f"{key}={_argument(value)}"]
    for old in sorted(info.mapping):
        words += ["--map", f"{old}={info.mapping[old]}"]
    if info.region == "difference":
        words += ["--region", "difference"]
    for condition in info.added:
        words += ["--condition", condition]
    if info.missing:
        words.append("--allow-missing")
    return " ".join(shlex.quote(clean(word)) for word in words)


def _argument(value: Any) -> str:
    """Return an option's value as the command line reads it: JSON, or bare text where that is not JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return json.dumps(value) if value.lower() in ("none", "true", "false") else value
    return json.dumps(value)


def listing(words: Sequence[str], *, last: str = "and") -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def describe(
    protocol: Protocol, *, region: str = "parsing", conditions: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """Say a protocol in words: pairs of a short label and a sentence, for the head of a board.

    Args:
        protocol: The protocol, mapped if the runs were.
        region: Where regions came from, "parsing" or "difference".
        conditions: Conditions that ran; None for the protocol's.
    """
    scoring = protocol.scoring
    size = "the data set's own size" if protocol.size == "dataset" else f"{protocol.size} × {protocol.size} pixels"
    said = [
        ("Question", protocol.question),
        ("Fitted on", _fits_words(protocol.fit)),
        ("Images", f"brought to {size}; the people tested are in no training slice"),
        ("Real photos", _photos(protocol)),
        ("Scored over", _over(protocol, region)),
        (
            "Image score",
            "the method's own probability; without one, the mean of the highest 5 % of the map's pixels; "
            "0.5 and above is called fake",
        ),
    ]
    ran = protocol.conditions if conditions is None else conditions
    if len(ran) > 1:
        truth = "the map of the undegraded fake"
        if scoring.ground_truth == "degraded":
            truth = "recomputed from the real image and the degraded fake"
        said.append(("Conditions", f"{condition_words(ran)}; ground truth: {truth}"))
    said.append(
        (
            "Failures",
            "a failed image counts with the worst value; above "
            f"{100 * scoring.max_failed:g} % of the images the run is partial and not ranked",
        )
    )
    said.append(("Paper", protocol.paper))
    said += [("Note", note) for note in protocol.notes]
    return [(label, " ".join(sentence.split())) for label, sentence in said if sentence]


def condition_words(conditions: Sequence[str]) -> str:
    """Return conditions in words and native units: `clean; JPEG (quality 90 and 50); Disorganized`."""
    said = ["clean"]
    for family in families(conditions):
        if family.axis:
            said.append(f"{family.title} ({family.axis} {listing([f'{value:g}' for value in family.values])})")
        else:
            said += [phrase(name) for name in family.names]
    return "; ".join(said)


def condition_definitions(conditions: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of a degradation's name and what it does to an image."""
    return [(f"{KINDS[kind].title} ({kind})", KINDS[kind].sentence) for kind in kinds(conditions)]


def _fits_words(fits: Sequence[FitSlice]) -> str:
    """Say training slices; those called after their one category share a sentence."""
    alike: dict[str, list[str]] = {}
    said = []
    for fit in fits:
        if len(fits) > 1 and fit.categories == (fit.name,):
            alike.setdefault(_taught(fit), []).append(fit.name)
        else:
            said.append(f"{fit.name} (fakes of {categories(fit.categories)}; {_taught(fit)})")
    return listing([*(f"{listing(names)} (each: its fakes; {how})" for how, names in alike.items()), *said])


def _taught(fit: FitSlice) -> str:
    """Say what a fit learns beside its fakes, and how."""
    people = {"disjoint": "real photos of other people", "paired": "the real photos of the same people"}
    said = [people[fit.people]]
    if fit.per_category is not None:
        said.append(f"equally many fakes of each category, at most {fit.per_category:,}")
    if fit.binarised is not None:
        said.append(f"maps thresholded at {fit.binarised:g}")
    return "; ".join(said)


def categories(names: Sequence[str]) -> str:
    """Return categories as one speaks; more than four by generator, `stgan: bald, smile; icgan: bald`."""
    if len(names) <= 4:
        return listing(names)
    by_generator: dict[str, list[str]] = {}
    for name in names:
        category = Category.parse(name)
        by_generator.setdefault(category.generator, []).append(category.attribute)
    return "; ".join(f"{generator}: {', '.join(attributes)}" for generator, attributes in by_generator.items())


def _photos(protocol: Protocol) -> str:
    """Say which real photos there are, and what counts what."""
    metrics = protocol.scoring.metrics
    both, photos = ([TITLES[m] for m in metrics if m in group] for group in (IMAGE_METRICS, PHOTO_METRICS))
    fakes = [TITLES[m] for m in metrics if m not in (*IMAGE_METRICS, *PHOTO_METRICS)]
    reals = "as many as fakes in each slice, chosen by a fixed hash order"
    if protocol.scoring.reals == "all":
        reals = "every real photo of the test split"
    said = []
    if any(test.photos == "same" for test in protocol.test):
        said.append(reals)
    others = [test.name for test in protocol.test if test.photos == "other"]
    if others:
        said.append(f"{listing(others)}: every photo of other databases than those fitted on, and no fake")
    if both or photos:
        said.append(f"they count for {listing([*both, *photos])}")
    if fakes:
        said.append(f"{listing(fakes)} {'is a mean' if len(fakes) == 1 else 'are means'} over the fakes")
    return "; ".join(said)


def _over(protocol: Protocol, region: str) -> str:
    if protocol.scoring.over == "whole":
        return "every pixel of the image"
    sources = {
        "parsing": "parsing maps of the face",
        "difference": "the difference of real and fake, for want of parsing maps",
    }
    return f"the pixels of the edited attribute's region, taken from {sources.get(region, region)}"


def definitions(metrics: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of a metric's name and its definition in a line."""
    return [(TITLES[metric], DEFINITIONS[metric]) for metric in dict.fromkeys(metrics) if metric in DEFINITIONS]
