"""Find methods, protocols, data sets and parsers without importing them; load one on demand.

A method is a file in `methods/`, or an entry point of another distribution in the group `flbench.methods`. What a
listing shows is read from the file's syntax tree, so a listing never imports torch and a broken plugin is a row with
its reason instead of a crash.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flbench.claims import Claims, read_claims
from flbench.errors import FlbenchError, MethodError, UsageError, suggest
from flbench.method_file import REQUIRED, MethodEntry, describe_method
from flbench.protocol import Protocol, read_protocol
from flbench.targets import BROUGHT, Target, describe_target, describe_weights

if TYPE_CHECKING:
    from flbench.locator import Locator

METHOD_GROUP = "flbench.methods"
DATASET_GROUP = "flbench.datasets"
PARSER_GROUP = "flbench.parsers"
CLAIMS = "claims.toml"
_NOT_INSTALLED = "flbench.methods is not installed"


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """One method with every option decided.

    Attributes:
        entry: The method.
        variant: Name of the variant, "" for the default.
        given: Options set by the user.
        target: What the method works with, for one that takes a target.
        weights: File of weights that stand for a fit; None: the method is fitted.
        ready: A locator that was given from Python, used as it is.
    """

    entry: MethodEntry
    variant: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    target: Target | None = None
    weights: Target | None = None
    ready: Locator | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """`method`, `method:variant`, or `method:target@content`, with eight digits of the target's fingerprint."""
        if self.target is not None:
            return f"{self.entry.name}:{self.target.label}@{self.target.digest[:8]}"
        return f"{self.entry.name}:{self.variant}" if self.variant else self.entry.name

    @property
    def text(self) -> str:
        """What `choose_method` resolves to this choice; unlike the name it may hold a path."""
        return self.name if self.target is None else f"{self.entry.name}:{self.target.place}"

    @property
    def options(self) -> dict[str, Any]:
        """Every option: defaults, then the variant's, then the user's; a target by the fingerprint of its content.

        Weights that are given count as an option too, by their fingerprint, so no fit is taken for another one.
        """
        target = {} if self.target is None else {"target": f"sha256:{self.target.digest}"}
        return {**self.arguments, **target, **self.brought}

    @property
    def arguments(self) -> dict[str, Any]:
        """What the method is made with, but for a target."""
        return {**self.entry.options, **self.entry.variants.get(self.variant, {}), **self.given}

    @property
    def brought(self) -> dict[str, str]:
        """Weights that are given, as a record has them among the options."""
        return {} if self.weights is None else {BROUGHT: f"sha256:{self.weights.digest}"}


@cache
def methods() -> Mapping[str, MethodEntry]:
    """Return every method by name, broken ones included.

    Raises:
        UsageError: The package of methods is not installed.
    """
    found: dict[str, MethodEntry] = {}
    package = _find("flbench.methods")
    if package is None or not package.submodule_search_locations:
        raise UsageError(_NOT_INSTALLED, hint="run: pip install -e .")
    own = f"flbench {metadata.version('flbench')}"
    for folder in package.submodule_search_locations:
        for path in sorted(Path(folder).glob("[!_]*.py")):
            _add(found, describe_method(path.stem, f"flbench.methods.{path.stem}", "", path, own))
    for point in sorted(metadata.entry_points(group=METHOD_GROUP)):
        module, _, kind = point.value.partition(":")
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else ""
        _add(found, describe_method(point.name, module, kind, _file_of(module), distribution))
    return dict(sorted(found.items()))


def _add(found: dict[str, MethodEntry], entry: MethodEntry) -> None:
    """Add an entry; a name declared twice becomes a broken row that names both."""
    other = found.get(entry.name)
    if other is not None:
        both = f"declared twice: {other.module} ({other.distribution}) and {entry.module} ({entry.distribution})"
        entry = MethodEntry(name=entry.name, module=entry.module, distribution=entry.distribution, broken=both)
    found[entry.name] = entry


def _find(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _file_of(module: str) -> Path | None:
    """Return the file of a module without importing the packages above it."""
    top, *rest = module.split(".")
    spec = _find(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def choose_method(text: str, given: Mapping[str, Any] | None = None, *, weights: str = "") -> MethodChoice:
    """Resolve `name`, `name:variant` or `name:target` and check the options set by the user.

    Args:
        text: What the user calls the method.
        given: Options set by the user.
        weights: File of weights that stand for a fit, with `#sha256=` and its digits if they are known; "" for a fit.

    Raises:
        UsageError: Unknown method, variant or option, a required option or target that is not given, or weights for
            a method that learns nothing.
        MethodError: The method is broken, or the weights are others than asked for.
    """
    name, _, variant = text.partition(":")
    entry = methods().get(name)
    if entry is None:
        raise UsageError(f"unknown method {name!r}", hint=suggest(name, list(methods())))
    if entry.broken:
        raise MethodError(f"method {name} is broken: {entry.broken}")
    if entry.target:
        choice = MethodChoice(entry=entry, given=dict(given or {}), target=describe_target(entry.target, variant, name))
    elif variant and variant not in entry.variants:
        raise UsageError(f"method {name} has no variant {variant!r}", hint=suggest(variant, list(entry.variants)))
    else:
        choice = MethodChoice(entry=entry, variant=variant, given=dict(given or {}))
    known = [option for option in entry.options if not entry.target or option != "target"]
    for option in choice.given:
        if option not in known and (entry.complete or entry.target):
            raise UsageError(f"method {name} has no option {option!r}", hint=suggest(option, known))
    for option, value in choice.options.items():
        if value == REQUIRED:
            raise UsageError(f"method {name} needs the option {option!r}", hint=f"--set {option}=...")
    if not weights:
        return choice
    if entry.reference or not entry.trains:
        raise UsageError(f"method {name} learns nothing and takes no weights", hint="leave out --weights")
    return replace(choice, weights=describe_weights(weights, name))


def choose_named(text: str, where: str, given: Mapping[str, Any] | None = None) -> MethodChoice:
    """Resolve a method that a file names, which may be a stranger's: never one with a target, such as a command line.

    Args:
        text: As for `choose_method`.
        where: What names it, for messages.
        given: Options that the file sets.

    Raises:
        UsageError: As `choose_method`, or the method takes a target.
        MethodError: The method is broken.
    """
    entry = methods().get(text.partition(":")[0])
    if entry is not None and entry.target:
        raise UsageError(
            f"{where} names {text!r}, and a {entry.target} is used only where you name it yourself",
            hint="--method, if you trust it",
        )
    return choose_method(text, given)


def reference_methods() -> list[MethodChoice]:
    """Return the methods whose rows stand in every table."""
    return [MethodChoice(entry=entry) for entry in methods().values() if entry.reference and not entry.broken]


def load_method(choice: MethodChoice) -> Locator:
    """Import a method and make a locator with its options.

    Raises:
        MethodError: The import fails, the class is no locator, or its constructor fails.
        UsageError: The method refuses the value of an option.
    """
    from flbench.locator import Locator

    if choice.ready is not None:
        return choice.ready
    entry = choice.entry
    try:
        kind = getattr(importlib.import_module(entry.module), entry.kind)
        if not issubclass(kind, Locator):
            raise TypeError(f"{entry.kind} does not derive from Locator")
        return kind(**choice.arguments | ({} if choice.target is None else {"target": choice.target.place}))
    except FlbenchError:
        raise
    except Exception as error:
        raise MethodError(f"method {choice.name} cannot be loaded: {type(error).__name__}: {error}") from error


@cache
def protocols() -> Mapping[str, Path]:
    """Return the file of every protocol that ships, by name.

    Raises:
        UsageError: The package of protocols is not installed.
    """
    package = _find("flbench.protocols")
    if package is None or not package.submodule_search_locations:
        raise UsageError("flbench.protocols is not installed", hint="run: pip install -e .")
    paths = [path for folder in package.submodule_search_locations for path in Path(folder).glob("*.toml")]
    return {path.stem: path for path in sorted(paths) if path.name != CLAIMS}


def find_claims(text: str = "") -> Claims:
    """Return the claims that ship, or those of a TOML file.

    Raises:
        UsageError: No such file, or a file that is not valid.
    """
    if text:
        return read_claims(Path(text))
    package = _find("flbench.protocols")
    folders = [] if package is None else list(package.submodule_search_locations or [])
    path = next((Path(folder) / CLAIMS for folder in folders if (Path(folder) / CLAIMS).is_file()), None)
    if path is None:
        raise UsageError("flbench.protocols is not installed", hint="run: pip install -e .")
    return read_claims(path)


def find_protocol(text: str) -> Protocol:
    """Return a protocol by its name, or by the path of a TOML file.

    Raises:
        UsageError: No such protocol or file, or a file that is not valid.
    """
    if text.endswith(".toml"):
        return read_protocol(Path(text))
    path = protocols().get(text)
    if path is None:
        raise UsageError(f"unknown protocol {text!r}", hint=suggest(text, list(protocols())))
    protocol = read_protocol(path)
    if protocol.name != text:
        raise UsageError(f"protocol {path.name} calls itself {protocol.name!r}")
    return protocol


@cache
def dataset_makers() -> Mapping[str, metadata.EntryPoint]:
    """Return the data sets that are made by code, by name."""
    return {point.name: point for point in sorted(metadata.entry_points(group=DATASET_GROUP))}


def load_maker(name: str) -> ModuleType:
    """Import the maker of a data set.

    It is a module with `PROFILES`, `recipe(profile)`, `estimate(profile)`, `make(profile, into, ...)`, `datasheet()`.

    Raises:
        UsageError: Unknown data set, or one that cannot be imported.
    """
    point = dataset_makers().get(name)
    if point is None:
        raise UsageError(f"unknown data set {name!r}", hint=suggest(name, list(dataset_makers())))
    try:
        return point.load()
    except Exception as error:
        raise UsageError(f"data set {name} cannot be loaded: {type(error).__name__}: {error}") from error


@cache
def parsers() -> Mapping[str, metadata.EntryPoint]:
    """Return the parsers that are installed, by name."""
    return {point.name: point for point in sorted(metadata.entry_points(group=PARSER_GROUP))}


def load_parser(name: str) -> Any:
    """Import what stands for a parser: the object of an entry point, or the one that `module:object` names.

    Raises:
        UsageError: Unknown name, or one that cannot be imported.
    """
    point = parsers().get(name)
    if point is None and ":" in name:
        point = metadata.EntryPoint(name, name, PARSER_GROUP)
    if point is None:
        raise UsageError(f"unknown parser {name!r}", hint=suggest(name, list(parsers())))
    try:
        return point.load()
    except Exception as error:
        hint = "a module of this folder is found with PYTHONPATH=." if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"parser {name} cannot be loaded: {type(error).__name__}: {error}", hint=hint) from error
