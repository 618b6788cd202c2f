"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from flbench.errors import UsageError

_PIXELS = "FLBENCH_MAX_PIXELS"  # `data.images` reads it; importing that for every --help would take too long


def split(texts: Iterable[str]) -> list[str]:
    """Return the items of repeated and comma-separated options."""
    return [item.strip() for text in texts for item in text.split(",") if item.strip()]


def pairs_of(texts: Iterable[str], option: str) -> dict[str, str]:
    """Read repeated KEY=VALUE options.

    Raises:
        UsageError: One has no `=`.
    """
    pairs = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{option} {text!r} is not KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def value_of(text: str) -> Any:
    """Read an option's value: JSON where it is JSON, text otherwise; `none`, `true` and `false` in any case."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def values_of(texts: Iterable[str]) -> dict[str, Any]:
    """Read repeated --set OPTION=VALUE.

    Raises:
        UsageError: One has no `=`.
    """
    return {key: value_of(value) for key, value in pairs_of(texts, "--set").items()}


def seeds_of(texts: Iterable[str]) -> list[int]:
    """Read repeated and comma-separated seeds.

    Raises:
        UsageError: One is not a whole number.
    """
    try:
        return sorted({int(text) for text in split(texts)}) or [0]
    except ValueError:
        raise UsageError("--seed takes whole numbers, such as --seed 0,1,2") from None


def _allow_pixels(context: click.Context, _: click.Parameter, value: int | None) -> None:
    """Let a command and its processes read images of up to so many pixels."""
    if value is not None:
        before = os.environ.get(_PIXELS)
        os.environ[_PIXELS] = str(value)
        context.call_on_close(lambda: os.environ.pop(_PIXELS) if before is None else _restore(before))


def _restore(value: str) -> None:
    os.environ[_PIXELS] = value


data = click.option(
    "--data",
    default="synthfaces",
    show_default=True,
    metavar="NAME|FOLDER",
    help="Data set: a folder, or one made by code.",
)
profile = click.option(
    "--profile", default="mini", show_default=True, help="Profile of a data set that is made by code."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
study = click.option(
    "--study",
    default="study",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of fits, cells and records.",
)
max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    callback=_allow_pixels,
    expose_value=False,
    help="Read images of up to so many pixels, height times width; default: 40 million.",
)
given = click.option("--set", "given", multiple=True, metavar="OPTION=VALUE", help="Option of the methods; repeatable.")
weights = click.option(
    "--weights",
    default="",
    metavar="FILE[#sha256=HEX]",
    help="Weights of a network, in place of a fit: safetensors, or a state_dict of torch.save; recorded.",
)
mapping = click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="OLD=NEW",
    help="Use another generator (stgan=stargan) or category (stgan/smile=stargan/age); recorded.",
)
region = click.option(
    "--region",
    type=click.Choice(["parsing", "difference"]),
    default="parsing",
    show_default=True,
    help="Where regions come from; 'difference' (pixels above 0.1, dilated) needs no parsing maps; recorded.",
)
