"""What is known of a method before it is imported: its file's syntax tree, read."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flbench.recipe import KEYWORD, Recipe, recipe_options
from flbench.targets import KINDS

REQUIRED = "<required>"
_CONTRACT = {"Locator", "NeuralLocator", "Reference", "Replay"}
_SECTION = re.compile(r"^(?:Args|Attributes):\n((?: {4}.*\n|\s*\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """What is known of a method before it is imported.

    Attributes:
        name: How it is addressed.
        module: Dotted module that holds it.
        kind: Name of its class.
        title: Name to print.
        summary: First line of its docstring.
        paper: Citation or link.
        licence: Licence.
        reference: Whether it is a reference row.
        trains: Whether it has anything to fit.
        variants: Variant name to options.
        options: Option name to default; `REQUIRED` where there is none.
        told: Option name to what its docstring says of it.
        complete: Whether `options` is all there is; false if the class derives from another method.
        distribution: Distribution and version that brought it.
        source: sha256 of its file, part of the identity of a fit.
        target: What stands behind the colon in place of a variant, one of `targets.KINDS`; "" for a variant.
        broken: Why it cannot be used, "" if it can.
    """

    name: str
    module: str
    kind: str = ""
    title: str = ""
    summary: str = ""
    paper: str = ""
    licence: str = "Apache-2.0"
    reference: bool = False
    trains: bool = False
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    distribution: str = ""
    source: str = ""
    target: str = ""
    broken: str = ""


def describe_method(name: str, module: str, kind: str, path: Path | None, distribution: str) -> MethodEntry:
    """Read a method's class attributes, signature and docstring from its syntax tree.

    Args:
        name: How the method is addressed.
        module: Dotted module that holds it.
        kind: Name of its class; "": the one class with a title.
        path: Its file; None if it was not found.
        distribution: Distribution and version that brought it.

    Returns:
        The entry; a file that cannot be used gives one that says why in `broken`.
    """

    def broken(reason: str) -> MethodEntry:
        return MethodEntry(name=name, module=module, distribution=distribution, broken=reason)

    if path is None:
        return broken(f"module {module} is not found")
    try:
        source = path.read_bytes()
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return broken(f"{path.name}{where}: {getattr(error, 'msg', None) or error}")
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    titled = [c for c in classes if (c.name == kind if kind else "title" in _literals(c))]
    if len(titled) != 1:
        which = f"class {kind}" if kind else "exactly one class with a title"
        return broken(f"{path.name} must have {which}, it has {len(titled)}")
    node = titled[0]
    given = _literals(node)
    docstring = ast.get_docstring(node) or ""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    functions = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    try:
        options = _signature(functions.get("__init__"))
    except ValueError as error:
        return broken(f"{path.name}: the default of option {error} is not a literal")
    if not isinstance(given.get("title"), str) and bases <= _CONTRACT:
        return broken(f"{path.name}: class {node.name} states no title")
    if given.get("target", "") not in ("", *KINDS):
        return broken(f"{path.name}: target is {given['target']!r}, known are {', '.join(KINDS)}")
    return MethodEntry(
        name=name,
        module=module,
        kind=node.name,
        title=str(given.get("title", name)),
        summary=docstring.strip().split("\n")[0],
        paper=str(given.get("paper", "")),
        licence=str(given.get("licence", "Apache-2.0")),
        reference=bool(given.get("reference", "Reference" in bases)),
        trains="fit" in functions or not bases <= _CONTRACT - {"NeuralLocator"},
        variants=given.get("variants", {}),
        options=options,
        told={option: text for option, text in _described(docstring).items() if option in options},
        complete=bases <= _CONTRACT,
        distribution=distribution,
        source=hashlib.sha256(source).hexdigest(),
        target=given.get("target", ""),
    )


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    """Return the class attributes that are literals."""
    values: dict[str, Any] = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            target, value = item.targets[0].id, item.value
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            target, value = item.target.id, item.value
        else:
            continue
        try:
            values[target] = ast.literal_eval(value)
        except ValueError:
            continue
    return values


def _signature(function: ast.FunctionDef | None) -> dict[str, Any]:
    """Return the keyword-only arguments with their defaults; `**recipe` stands for those of a recipe."""
    if function is None:
        return {}
    options: dict[str, Any] = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        try:
            options[argument.arg] = REQUIRED if default is None else ast.literal_eval(default)
        except ValueError as error:
            raise ValueError(argument.arg) from error
    shared = function.args.kwarg is not None and function.args.kwarg.arg == KEYWORD
    return {**options, **{name: value for name, value in recipe_options().items() if shared and name not in options}}


def _described(docstring: str) -> dict[str, str]:
    """Return what a method's docstring says of each option, and what a recipe's says of its own."""
    return {**_section(inspect.getdoc(Recipe) or ""), **_section(docstring)}


def _section(docstring: str) -> dict[str, str]:
    """Return what the section `Args:` or `Attributes:` says of each name, on one line each."""
    section = _SECTION.search(docstring + "\n")
    found = _ARGUMENT.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for name, text in found}
