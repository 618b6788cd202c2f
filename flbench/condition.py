"""Conditions by name: what happens to an image before a locator sees it, as data.

A name is `clean`, or steps joined by `+` and taken from left to right: `jpeg-50`, `blur-5`, `lowres-2+jpeg-50`. The
number behind a kind is its severity in native units. What a step does to pixels is in `flbench.data.degradations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flbench.errors import UsageError, suggest

CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of degradations.

    Attributes:
        title: Name to print, such as "JPEG".
        does: What happens to an image, to follow "is"; `{}` stands for the severity.
        axis: What the severity is, for an axis or a sentence; "" for a kind without severity.
        symbol: Letter of the severity in `sentence`.
        low: Smallest severity.
        high: Largest severity.
        whole: Whether severities are whole numbers.
        odd: Whether they must be odd.
        harsher: "more" if a larger severity is harsher, "less" if a smaller one is.
        identity: The severity that changes nothing; None if none does.
        example: A severity to suggest, as it is written.
    """

    title: str
    does: str
    axis: str = ""
    symbol: str = ""
    low: float = 0.0
    high: float = 0.0
    whole: bool = True
    odd: bool = False
    harsher: str = "more"
    identity: float | None = None
    example: str = ""

    @property
    def sentence(self) -> str:
        """What the kind does at any severity, in words: "compressed as JPEG at quality q…"."""
        return self.does.format(self.symbol)


KINDS: Mapping[str, Kind] = {
    "jpeg": Kind(
        title="JPEG",
        does="compressed as JPEG at quality {} (libjpeg-turbo, 4:2:0) and decoded",
        axis="quality",
        symbol="q",
        low=1,
        high=100,
        harsher="less",
        example="50",
    ),
    "blur": Kind(
        title="Gaussian blur",
        does="blurred by a Gaussian kernel of side {} (σ = 0.3((side − 1)/2 − 1) + 0.8, mirrored at the border)",
        axis="kernel size in pixels",
        symbol="k",
        low=1,
        high=255,
        odd=True,
        identity=1,
        example="5",
    ),
    "noise": Kind(
        title="Gaussian noise",
        does="overlaid with Gaussian noise of variance {} on [0, 1], independent in every pixel and channel",
        axis="variance on [0, 1]",
        symbol="v",
        low=0,
        high=1,
        whole=False,
        identity=0,
        example="0.01",
    ),
    "lowres": Kind(
        title="Low resolution",
        does="reduced to 1/{} per side and enlarged back (antialiased bilinear)",
        axis="reduction per side",
        symbol="r",
        low=1,
        high=64,
        identity=1,
        example="2",
    ),
    "disorganized": Kind(
        title="Disorganized",
        does="cut into four quadrants, which change places by a random permutation, maps and regions with it",
    ),
}
"""Kinds of degradation, by the word a condition's name starts with."""


@dataclass(frozen=True)
class Step:
    """One degradation at one severity.

    Attributes:
        kind: A key of `KINDS`.
        value: The severity in native units; None for a kind without severity.
    """

    kind: str
    value: float | None = None

    @property
    def name(self) -> str:
        """The step as it is written, such as `jpeg-50` or `noise-0.01`; reading it gives the same step."""
        return self.kind if self.value is None else f"{self.kind}-{_written(self.value)}"

    @property
    def is_identity(self) -> bool:
        """Whether the step changes nothing, as `blur-1`."""
        return self.value is not None and self.value == KINDS[self.kind].identity


@dataclass(frozen=True)
class Condition:
    """What happens to an image.

    Attributes:
        steps: Degradations in their order; none for `clean`.
    """

    steps: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        """The condition as it is written in protocols and records."""
        return "+".join(step.name for step in self.steps) or CLEAN

    @property
    def is_identity(self) -> bool:
        """Whether every image stays as it is, as under `clean`, `blur-1` or `lowres-1+noise-0`."""
        return all(step.is_identity for step in self.steps)


def parse_condition(text: str) -> Condition:
    """Read a condition by its name; equal conditions get one name, `noise-0.010` is `noise-0.01`.

    Raises:
        UsageError: An unknown kind, or a severity that is missing, superfluous or out of range.
    """
    if text.strip() == CLEAN:
        return Condition()
    return Condition(tuple(_step(part.strip(), text) for part in text.split("+")))


def describe(condition: Condition) -> str:
    """Say in words what a condition does to an image, to follow "is"; no full stop.

    `lowres-2+jpeg-50` is "reduced to 1/2 per side …, then compressed as JPEG at quality 50 …", `clean` is
    "left as it is". For one sentence over all severities see `Kind.sentence`.
    """
    done = [
        KINDS[step.kind].does.format("" if step.value is None else _written(step.value)) for step in condition.steps
    ]
    return ", then ".join(done) or "left as it is"


def _written(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    return repr(int(value) if value == int(value) else value)


def _step(part: str, text: str) -> Step:
    kind, dash, severity = part.partition("-")
    if kind == CLEAN:
        raise UsageError(f"condition {text!r}: {CLEAN} stands alone", hint=f"leave {part} out")
    if kind not in KINDS:
        raise UsageError(f"unknown condition {text!r}", hint=suggest(kind, [CLEAN, *KINDS]))
    known = KINDS[kind]
    if not known.axis:
        if dash:
            raise UsageError(f"condition {text!r}: {kind} has no severity", hint=f"write {kind}")
        return Step(kind)
    hint = f"such as {kind}-{known.example}"
    try:
        value = float(severity)
    except ValueError:
        raise UsageError(f"condition {text!r}: {kind} needs a {known.axis}", hint=hint) from None
    # NaN lies in no range, so int() below sees finite numbers only.
    fits = known.low <= value <= known.high and (not known.whole or value == int(value))
    if not fits or (known.odd and value % 2 == 0):
        what = ("an odd " if known.odd else "a whole ") if known.whole else "a "
        span = f"{what}number from {known.low:g} to {known.high:g}"
        raise UsageError(f"condition {text!r}: the {known.axis} of {kind} is {span}", hint=hint)
    return Step(kind, value + 0.0)  # -0 becomes 0
