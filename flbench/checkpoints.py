"""Read weights that somebody else wrote: nothing in the file is carried out, and nothing is taken that does not fit.

What the file is, is told from its first bytes, not from its name. Safetensors, and what `torch.save` wrote as long as
it holds tensors in plain containers; anything that would need code to be read is refused before it is unpickled.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from flbench.errors import MethodError
from flbench.files import file_digest

SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Names of types in a safetensors header."""

NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "params", "params_ema")
"""Under which key training scripts keep the weights, beside what else they save."""

MOST_PICKLE = 64 * 2**20
"""Bytes of the list of tensors in a file of `torch.save`, at most: a network has thousands of names, not millions."""

_PREFIX = "module."
_CONVERT = "convert it to safetensors on a machine where you trust it, or ask its authors to"
_AGAIN = "fetch it again and compare its sha256 with the one published"
_PLAIN = re.compile(
    r"collections\.OrderedDict|torch\.(\w+Storage|Size|device|dtype|Tensor|float\d+|bfloat16|u?int\d+|bool)"
    r"|torch\.storage\.\w+Storage|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
)


class Checkpoint(NamedTuple):
    """Weights that fit a model.

    Attributes:
        state: Name to tensor, with exactly the names and shapes of the model, finite, on the CPU.
        notes: What was done to make them fit, a sentence each.
    """

    state: dict[str, Tensor]
    notes: list[str]


def read_checkpoint(path: Path, *, expected: Mapping[str, Tensor], sha256: str = "") -> Checkpoint:
    """Read weights from safetensors, or from what `torch.save` wrote, for a model of which names and shapes are known.

    A prefix `module.` before every name, as parallel training leaves it, is taken off and noted; so is a dictionary
    around the weights. Names, shapes and kinds of number are compared before a value is looked at.

    Args:
        path: The file.
        expected: The model's `state_dict`.
        sha256: What the file's must be; "" for any.

    Raises:
        MethodError: The file is missing, empty, damaged, no checkpoint, holds code, is another one than asked for, or
            its names, shapes, types or values do not fit; names the file and the first five differences.
    """
    try:
        with path.open("rb") as file:
            kind = _kind(file, path)
        if sha256 and (found := file_digest(path)) != sha256:
            other = f"{found[:12]} instead of {sha256[:12]}"
            raise MethodError(f"weights {path.name}: sha256 differs, {other}: damaged or half-downloaded", hint=_AGAIN)
        read = _read_safetensors if kind == "safetensors" else _read_torch
        return read(path, expected)
    except OSError as error:
        raise MethodError(f"weights {path.name} cannot be read: {error.strerror or error}") from error


def _kind(file: BufferedReader, path: Path) -> str:
    """Return "safetensors" or "torch" by the content, after holding it to what both must have."""
    head = file.read(512)
    size = path.stat().st_size
    if not head:
        raise MethodError(f"weights {path.name}: 0 bytes", hint=_AGAIN)
    if head.startswith(b"PK\x03\x04"):
        _hold_zip(path)
        return "torch"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        file.seek(0)
        _hold_plain(file, path)
        return "torch"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and not head[:8].decode("latin-1").isprintable():  # a length, not eight letters
        if length > size - 8:
            raise MethodError(
                f"weights {path.name}: damaged or half-downloaded, a header of {length} bytes in a file of {size}",
                hint=_AGAIN,
            )
        return "safetensors"
    if re.match(rb"\(?c[\w.]+\n[\w.]+\n", head) and (code := _code_in(BytesIO(head))):  # a pickle written as text
        raise _holds_code(path, code)
    text = head[:32].decode("utf-8", "replace").split("\n")[0].strip()
    shown = "".join(sign if sign.isprintable() else "?" for sign in text)[:16]
    raise MethodError(f"weights {path.name}: not a checkpoint (starts with {shown!r})", hint=_AGAIN)


def _hold_zip(path: Path) -> None:
    """Refuse an archive that is not one of `torch.save`, or whose list of tensors asks for more than tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if any(name.startswith("code/") or name == "constants.pkl" for name in names):
                raise _refused(path, "a TorchScript program")
            if any(name.endswith(("exported_program.json", "archive_format")) or name == "models" for name in names):
                raise _refused(path, "an exported program (.pt2)")
            if "data.pkl" not in names:
                raise MethodError(f"weights {path.name}: not a checkpoint (an archive without data.pkl)", hint=_AGAIN)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _refused(path, "a compressed archive, which torch never writes")
            listed = entries[names.index("data.pkl")]
            if listed.file_size > MOST_PICKLE:
                raise _refused(path, f"a list of tensors of {listed.file_size} bytes")
            with archive.open(listed) as file:
                _hold_plain(file, path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path) from error


def _hold_plain(file: IO[bytes], path: Path) -> None:
    """Refuse a pickle that names anything but tensors and plain containers."""
    code = _code_in(file)
    if code:
        raise _holds_code(path, code)


def _code_in(file: IO[bytes]) -> str:
    """Return what a file's pickles would import beyond tensors and plain containers, "" for nothing; none is run."""
    found: dict[str, None] = {}
    try:
        for _ in range(5):  # the older format of torch is five pickles in a row, then bytes
            found.update(dict.fromkeys(_imports(file)))
    except Exception:
        pass
    return ", ".join(name for name in found if not _PLAIN.fullmatch(name))


def _imports(file: IO[bytes]) -> Iterator[str]:
    """Yield the dotted names that one pickle would import."""
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:]) or "unknown"
        elif isinstance(argument, str):
            texts.append(argument)


def _holds_code(path: Path, code: str) -> MethodError:
    return MethodError(f"weights {path.name}: refused: file contains code ({code[:200]})", hint=_CONVERT)


def _refused(path: Path, what: str) -> MethodError:
    return MethodError(f"weights {path.name}: refused format, {what}", hint=_CONVERT)


def _damaged(path: Path) -> MethodError:
    return MethodError(f"weights {path.name}: damaged or half-downloaded", hint=_AGAIN)


def _read_safetensors(path: Path, expected: Mapping[str, Tensor]) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            names, notes = _bare(slices)
            shapes = {
                name: (tuple(slices[key].get_shape()), SAFETENSORS.get(slices[key].get_dtype()))
                for name, key in names.items()
            }
            _hold_fitting(path, shapes, expected)
            state = {name: file.get_tensor(key) for name, key in names.items()}
    except SafetensorError as error:
        raise _damaged(path) from error
    return Checkpoint(_finite(path, state), notes)


def _read_torch(path: Path, expected: Mapping[str, Tensor]) -> Checkpoint:
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises: it has no common base, and advises to trust the file
        raise _damaged(path) from error
    notes = []
    if isinstance(saved, Mapping) and (key := next((key for key in NESTED if _is_state(saved.get(key))), "")):
        saved = saved[key]
        notes.append(f"weights {path.name}: those under {key!r} are taken")
    if not _is_state(saved):
        raise MethodError(f"weights {path.name}: not a checkpoint (no names with tensors)", hint="save a state_dict")
    names, more = _bare(saved)
    shapes = {name: (tuple(saved[key].shape), saved[key].dtype) for name, key in names.items()}
    _hold_fitting(path, shapes, expected)
    odd = next((n for n, k in names.items() if saved[k].layout != torch.strided or saved[k].device.type != "cpu"), "")
    if odd:
        raise MethodError(f"weights {path.name} do not fit the model: {odd} is not a dense tensor")
    state = {name: saved[key].detach().contiguous() for name, key in names.items()}  # no larger than the model's
    return Checkpoint(_finite(path, state), notes + more)


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def _bare(names: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return every name without the prefix that parallel training leaves, with the name it has in the file."""
    if names and all(str(name).startswith(_PREFIX) for name in names):
        return {name.removeprefix(_PREFIX): name for name in names}, [f"the prefix {_PREFIX!r} is taken off its names"]
    return {str(name): name for name in names}, []


def _hold_fitting(
    path: Path, found: Mapping[str, tuple[tuple[int, ...], torch.dtype | None]], expected: Mapping[str, Tensor]
) -> None:
    """Compare names, shapes and kinds of number with a model's."""
    wrong = [f"{key} is missing" for key in expected if key not in found]
    wrong += [f"{key} is not expected" for key in found if key not in expected]
    for key in (key for key in expected if key in found):
        shape, kind = found[key]
        own = expected[key]
        if shape != tuple(own.shape):
            wrong.append(f"{key} is {shape}, expected {tuple(own.shape)}")
        elif kind is None or kind.is_floating_point != own.dtype.is_floating_point or kind.is_complex:
            wrong.append(
                f"{key} is {str(kind).removeprefix('torch.')}, expected {str(own.dtype).removeprefix('torch.')}"
            )
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise MethodError(
            f"weights in {path.name} do not fit the model: {'; '.join(wrong[:5])}{more}",
            hint="are they of this method, with these options?",
        )


def _finite(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise MethodError(f"weights in {path.name} contain {what} in {key}", hint=_AGAIN)
    return state
