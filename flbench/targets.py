"""What stands behind the colon of a method that takes a target: a file, a folder or a command line, with its content.

A record is read elsewhere, so it shows names and fingerprints of content, never a path. A path may hold any sign, a
colon or a backslash too. Nothing here imports torch.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from flbench.errors import MethodError, UsageError
from flbench.files import file_digest, files_below
from flbench.protocol import fingerprint

MARK = "#sha256="
"""Between the path of a file of weights and the digits of its sha256, as pip has it."""

BROUGHT = "given_weights"
"""Among the options of a record: the sha256 of weights that were given instead of a fit."""

LONGEST = 60
"""Letters of a label, at most."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        place: Absolute path, or the command line as it was typed.
        label: Its name, without a path.
        digest: sha256 of its content, as hexadecimal digits: the bytes of a file and of those beside it that carry its
            name with a further suffix (`net.onnx.data`); names and bytes of a folder's files; the words of a command
            line, with the bytes of the program and of every file that a word names.
    """

    place: str
    label: str
    digest: str


def describe_target(kind: str, text: str, method: str) -> Target:
    """Return a target with its fingerprint.

    Args:
        kind: One of `KINDS`.
        text: What stands behind the colon.
        method: Name of the method, for messages.

    Raises:
        UsageError: Nothing stands there, or what stands there does not exist or cannot be read.
    """
    if not text.strip():
        raise UsageError(f"method {method} needs a {kind}", hint=f"--method {method}:{kind.upper().replace(' ', '_')}")
    try:
        found = KINDS[kind](text, method)
    except OSError as error:
        raise UsageError(f"method {method}: {error.filename or text} cannot be read: {error.strerror}") from error
    # The label becomes part of the name of a folder.
    return found if len(found.label) <= LONGEST else replace(found, label=found.label[: LONGEST - 1] + "…")


def describe_weights(text: str, method: str) -> Target:
    """Return a file of weights that the user names, with the sha256 of its bytes.

    Args:
        text: The path; behind it `#sha256=` and the digits that the file must have, if they are known.
        method: Name of the method, for messages.

    Raises:
        UsageError: There is no such file.
        MethodError: It has another sha256 than the one asked for.
    """
    place, _, asked = text.partition(MARK)
    path = Path(place)
    if not path.is_file():
        raise UsageError(f"weights for {method}: there is no file {place}", hint="check the path")
    digest = file_digest(path)
    if asked and digest != asked.lower():
        raise MethodError(
            f"weights {path.name}: sha256 differs, {digest[:12]} instead of {asked[:12]}: damaged, half-downloaded, or "
            "another file",
            hint="fetch it again",
        )
    return Target(place=str(path.resolve()), label=path.name, digest=digest)


def weights_again(brought: object) -> str:
    """Return what to give `--weights` for those that a record names as `sha256:` and digits."""
    return f"FILE{MARK}{str(brought).removeprefix('sha256:')}"


def split_command(line: str) -> list[str]:
    """Return the words of a command line by the shell's rules for quotes; no shell ever runs it.

    Raises:
        UsageError: A quote is not closed.
    """
    try:
        return shlex.split(line, posix=os.name != "nt")
    except ValueError as error:
        raise UsageError(f"command line {line!r}: {str(error).lower()}") from error


def _file(text: str, method: str) -> Target:
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"method {method}: there is no file {text}", hint="check the path")
    beside = sorted(file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}.") and file.is_file())
    digest = file_digest(path)
    if beside:
        digest = fingerprint([digest, [[file.name.removeprefix(path.name), file_digest(file)] for file in beside]])
    return Target(place=str(path.resolve()), label=path.name, digest=digest)


def _folder(text: str, method: str) -> Target:
    path = Path(text)
    if not path.is_dir():
        raise UsageError(f"method {method}: there is no folder {text}", hint="check the path")
    names = files_below(path)
    if not names:
        raise UsageError(f"method {method}: the folder {text} is empty", hint="check the path")
    digest = fingerprint([[name, file_digest(path / name)] for name in names])
    return Target(place=str(path.resolve()), label=path.resolve().name, digest=digest)


def _command(text: str, method: str) -> Target:
    words = split_command(text)
    program = shutil.which(words[0])
    if program is None:
        raise UsageError(f"method {method}: there is no program {words[0]}", hint="a path, or a name on the PATH")
    plain = [_without_path(word) for word in words]
    named = [Path(program), *(Path(word.rpartition("=")[2]) for word in words[1:])]
    digest = fingerprint([plain, [file_digest(file) for file in named if _there(file) and file.is_file()]])
    return Target(place=text, label=" ".join(plain), digest=digest)


def _without_path(word: str) -> str:
    """Return a word of a command line with `/folder/name` or `--key=/folder/name` cut to the name."""
    key, sign, value = word.rpartition("=")
    path = PurePath(value)
    return f"{key}{sign}{path.name}" if path.is_absolute() or _there(Path(value)) else word


def _there(path: Path) -> bool:
    """Return whether a path exists; a word that can be no path, such as one too long, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


KINDS: dict[str, Callable[[str, str], Target]] = {"file": _file, "folder": _folder, "command line": _command}
"""What a target may be: the values of `Locator.target`."""
