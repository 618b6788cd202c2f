"""A protocol as a typed document: what to fit on, what to test on, under which conditions, and how to score.

One TOML file is the whole truth about one protocol version. Unknown keys are errors; changing a number means a new
version, because records are compared by the fingerprint of this content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flbench.condition import CLEAN, parse_condition
from flbench.documents import read_document
from flbench.errors import UsageError, suggest

METRICS: Mapping[str, str] = {
    "acc": "ACC",
    "coss": "COSS",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "mae": "MAE",
    "auroc": "AUROC",
    "f1": "F1",
    "iou": "IoU",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "tpr": "TPR",
    "tnr": "TNR",
    "false_alarm": "False alarm",
}
"""Metrics a protocol may ask for, and how they are printed."""

LOWER_IS_BETTER = frozenset({"mae", "false_alarm"})


class Category(NamedTuple):
    """One (generator, attribute) pair, written `generator/attribute`."""

    generator: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.generator}/{self.attribute}"

    @classmethod
    def parse(cls, text: str) -> Category:
        """Read `generator/attribute`.

        Raises:
            ValueError: The text has not exactly two non-empty parts.
        """
        parts = text.split("/")
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"a category is written generator/attribute, not {text!r}")
        return cls(*parts)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _categories(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        Category.parse(text)
    return texts


class FitSlice(_Model):
    """What one fit learns from.

    Attributes:
        name: How tests refer to it.
        categories: Categories of the fakes, as `generator/attribute`.
        people: "disjoint": the real photos and the fakes show different people, as in the paper; "paired": the same.
        per_category: Most fakes of each category; every category then gives as many as the one with the fewest, up to
            this number. None: all there are.
        binarised: Fakeness at and above which the maps learnt from are 1, below 0; None: gray-scale maps.
    """

    name: str
    categories: tuple[str, ...] = Field(min_length=1, strict=False)
    people: Literal["disjoint", "paired"] = "disjoint"
    per_category: int | None = Field(None, ge=1)
    binarised: float | None = Field(None, gt=0, lt=1)

    _check = field_validator("categories")(_categories)


class TestSlice(_Model):
    """What one row group of the table is measured on.

    Attributes:
        name: Printed in tables.
        fit: Name of the fit slice whose fit is tested.
        categories: Categories of the fakes, as `generator/attribute`; none where `photos` is "other".
        photos: Real photos: "same": of the databases the fakes are from; "other": every photo of other databases than
            those that the fit learnt from, and no fake.
        reference: Whether this slice is the one others are compared with.
    """

    __test__ = False  # not a pytest class

    name: str
    fit: str
    categories: tuple[str, ...] = Field((), strict=False)
    photos: Literal["same", "other"] = "same"
    reference: bool = False

    _check = field_validator("categories")(_categories)

    @model_validator(mode="after")
    def _fakes_or_photos(self) -> Self:
        if bool(self.categories) == (self.photos == "other"):
            raise ValueError('a test slice has categories, or photos = "other" and none')
        return self


class Scoring(_Model):
    """How predictions become numbers.

    Attributes:
        over: "whole": every pixel; "region": pixels of the edited attribute's region only.
        metrics: Names from `METRICS`, in the order of the table's columns.
        primary: The metric that ranks.
        score_rule: How an image score is derived from a map without one; "top": mean of the highest 5 % of pixels.
        reals: Real images beside the fakes for ACC and AUROC: "balanced": as many as fakes, chosen by a fixed hash
            order; "all": every real photo of the test split.
        ground_truth: For degraded fakes: "clean": the map of the undegraded fake; "degraded": recomputed from the
            real image and the degraded fake.
        conventions: Whether F1, IoU, pixel AUROC and AP are reported under every convention in use, for clean images.
        max_failed: Share of failed images above which a cell is partial and not ranked.
    """

    over: Literal["whole", "region"]
    metrics: tuple[str, ...] = Field(min_length=1, strict=False)
    primary: str
    score_rule: Literal["top"] = "top"
    reals: Literal["balanced", "all"] = "balanced"
    ground_truth: Literal["clean", "degraded"] = "clean"
    conventions: bool = False
    max_failed: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.metrics, self.primary):
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}, {suggest(name, list(METRICS))}")
        if self.primary not in self.metrics:
            raise ValueError(f"the primary metric {self.primary!r} is not among metrics")
        return self


class Reported(_Model):
    """Numbers that the paper reports, shown in a table of their own and never ranked.

    Attributes:
        source: Where they are printed, such as "Table 5".
        method: The paper's name of the row.
        test: What the paper tested on.
        values: Metric to value.
    """

    source: str
    method: str
    test: str
    values: dict[str, float]


class Protocol(_Model):
    """One version of one protocol.

    Attributes:
        name: Short name, as the file's.
        version: Increased whenever a number would change.
        title: One line for headings.
        question: What the protocol answers, one or two sentences.
        paper: Where it comes from.
        notes: What the paper leaves unsaid and this protocol decides.
        size: Height and width in pixels to which images are brought; "dataset": the size the data set declares.
        fit: Training slices.
        test: Test slices.
        conditions: Degradations under which every test slice is predicted, "clean" among them.
        methods: Methods that its table compares, as `name[:variant]`; run if none is asked for.
        scoring: How predictions become numbers.
        reported: The paper's numbers.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    title: str
    question: str
    paper: str
    notes: tuple[str, ...] = Field((), strict=False)
    size: Annotated[int, Field(ge=1, le=16384)] | Literal["dataset"] = "dataset"
    fit: tuple[FitSlice, ...] = Field(min_length=1, strict=False)
    test: tuple[TestSlice, ...] = Field(min_length=1, strict=False)
    conditions: tuple[str, ...] = Field((CLEAN,), strict=False)
    methods: tuple[str, ...] = Field((), strict=False)
    scoring: Scoring
    reported: tuple[Reported, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, names in (("fit", [f.name for f in self.fit]), ("test", [t.name for t in self.test])):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"two {what} slices are called {sorted(twice)[0]!r}")
        fits = [f.name for f in self.fit]
        for test in self.test:
            if test.fit not in fits:
                raise ValueError(f"test {test.name!r} names an unknown fit {test.fit!r}, {suggest(test.fit, fits)}")
        return self

    @field_validator("conditions")
    @classmethod
    def _canonical(cls, conditions: tuple[str, ...]) -> tuple[str, ...]:
        try:
            names = tuple(dict.fromkeys(parse_condition(text).name for text in conditions))
        except UsageError as error:
            raise ValueError(str(error)) from error
        if CLEAN not in names:
            raise ValueError('"clean" must be among them')
        return names

    @property
    def label(self) -> str:
        """Name and version, such as `in_gan v1`."""
        return f"{self.name} v{self.version}"

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the numbers: everything but prose, the methods compared and reported rows."""
        # What is not given does not count, so that a new optional field leaves the fingerprints of old protocols alone.
        prose = {"title", "question", "paper", "notes", "methods", "reported"}
        return fingerprint(self.model_dump(mode="json", exclude_defaults=True, exclude=prose))

    def slice(self, name: str) -> FitSlice:
        """Return the fit slice called `name`."""
        return next(f for f in self.fit if f.name == name)

    def under(self, conditions: Sequence[str]) -> Protocol:
        """Return the protocol with more conditions.

        Raises:
            UsageError: There is no such condition.
        """
        more = [parse_condition(text).name for text in conditions]
        return self.model_copy(update={"conditions": tuple(dict.fromkeys((*self.conditions, *more)))})

    def mapped(self, mapping: Mapping[str, str]) -> Protocol:
        """Return the protocol with other categories in place of its own.

        Args:
            mapping: Old to new; keys and values are `generator`, or `generator/attribute`. The longer key wins.
        """
        if not mapping:
            return self

        def swap(text: str) -> str:
            category = Category.parse(text)
            if text in mapping:
                return mapping[text]
            return str(category._replace(generator=mapping.get(category.generator, category.generator)))

        document = self.model_dump(mode="json")
        for part in (*document["fit"], *document["test"]):
            part["categories"] = [swap(text) for text in part["categories"]]
        return Protocol.model_validate(document)


def fingerprint(content: Any) -> str:
    """Return the sha256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_protocol(path: Path) -> Protocol:
    """Read one protocol from a TOML file.

    Raises:
        UsageError: The file is missing, not TOML, has an unknown key or a value that cannot be; names file and line.
    """
    return read_document(path, Protocol, "protocol")
