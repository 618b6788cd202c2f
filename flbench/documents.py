"""Read a TOML file as a pydantic model, strictly; what is wrong is told in one line with its line number."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from flbench.errors import UsageError, suggest

M = TypeVar("M", bound=BaseModel)


def read_document(path: Path, kind: type[M], what: str) -> M:
    """Read a TOML file as a model.

    Args:
        path: The file.
        kind: The model; unknown keys are errors if it forbids extra fields.
        what: What the file is, for messages: "protocol", "claims".

    Raises:
        UsageError: The file is missing, not TOML, has an unknown key or a value that cannot be; names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits, brackets in brackets
        raise UsageError(f"{what} {path.name}: not valid TOML: {error}") from error
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise UsageError(_explain(error, path, text, kind)) from error


def _explain(error: ValidationError, path: Path, text: str, kind: type[BaseModel]) -> str:
    """Turn pydantic's complaints into one line with the line number of the key; an unknown key comes first."""
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    number = line_of(text, first["loc"])
    where = f"{path.name}, line {number}" if number else path.name
    name = ".".join(part for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        owner = _owner(kind, first["loc"][:-1])
        return f"{where}: unknown key {name!r}, {suggest(str(first['loc'][-1]), list(owner.model_fields))}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {name + ': ' if name else ''}{message}"


def _owner(kind: type[BaseModel], place: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model that stands at a place of another one."""
    for part in place:
        if part in kind.model_fields:
            inner = list(_models(kind.model_fields[str(part)].annotation))
            kind = inner[0] if inner else kind
    return kind


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


_HEADER = re.compile(r"(\[\[?)\s*([\w.-]+)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"([\w-]+)\s*=")


def line_of(text: str, place: tuple[str | int, ...]) -> int | None:
    """Return the line of a TOML document that a path of keys and positions leads to, or the nearest above it.

    Args:
        text: The document.
        place: Path as pydantic tells it, such as `("claim", 2, "check", 0, "left", "test")`; tables of an array are
            counted from 0, and the keys of an inline table stand on its line.

    Returns:
        The line, from 1; None if not even the first key is found.
    """
    last: dict[tuple[str | int, ...], int] = {}
    section: tuple[str | int, ...] = ()
    best: tuple[int, int | None] = (0, None)
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if header := _HEADER.match(line):
            section = ()
            names = header[2].split(".")
            for depth, name in enumerate(names, 1):
                section = (*section, name)
                if header[1] == "[[" and depth == len(names):
                    last[section] = last.get(section, -1) + 1
                if section in last:
                    section = (*section, last[section])
            node = section
        elif key := _KEY.match(line):
            node = (*section, key[1])
        else:
            continue
        if len(node) > best[0] and place[: len(node)] == node:
            best = len(node), number
    return best[1]
