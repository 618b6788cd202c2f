"""The manifest of a data set: one row per image, read from Parquet or CSV, and checked before anything uses it."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from flbench.errors import DataError, UsageError, suggest
from flbench.files import replacing

COLUMNS = (
    "sample_id",
    "image",
    "label",
    "source",
    "generator",
    "attribute",
    "database",
    "identity",
    "split",
    "parsing",
    "mask",
    "sha256",
)
"""Columns of a manifest, all strings; an empty string means none."""

LABELS = ("real", "fake")
SPLITS = ("train", "valid", "test")
ENTIRE = "entire"
"""The attribute of an image that is synthetic as a whole: no source photo, ground truth all ones."""

MANIFESTS = ("manifest.parquet", "manifest.csv")

PIECE = 1 << 14
"""Rows that are written as JSON together: the text of all of them would take more memory than they do."""

_PATHS = ("image", "parsing", "mask")
_OUTSIDE = r"^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)|\\"
_CONTROL = r"[\x00-\x1f\x7f]"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
"""How generators, attributes and databases may be called."""


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read and check the manifest of a folder.

    Returns:
        Columns `COLUMNS`, all strings, sorted by `sample_id`, index 0..n-1.

    Raises:
        DataError: There is no manifest, or it is damaged.
        UsageError: It does not hold together; names the line.
    """
    found = [name for name in MANIFESTS if (folder / name).exists()]
    if not found:
        raise DataError(f"data set {folder} has no {MANIFESTS[0]}", hint="make or import it again")
    if len(found) == 2:
        raise UsageError(f"data set {folder} has both {found[0]} and {found[1]}", hint="remove the one not meant")
    path = folder / found[0]

    def place(row: int) -> str:
        return f"{path.name}, line {_line(path, row)}" if path.suffix == ".csv" else f"{path.name}, row {row + 1}"

    rows = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    _check_rows(rows, place)
    _check_links(folder, rows, place)
    rows = canonical(rows)
    pa.default_memory_pool().release_unused()  # else what checking took would be held until the end
    return rows


def checked(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return a manifest made in memory as `read_manifest` would return it; missing values become empty strings.

    Raises:
        UsageError: It does not hold together; names the row.
    """
    _check_columns(list(manifest.columns), "the manifest")
    rows = manifest[list(COLUMNS)].astype(object)
    rows = rows.where(rows.notna(), "").astype(str).reset_index(drop=True)
    _check_rows(rows, lambda row: f"the manifest, row {row + 1}")
    return canonical(rows)


def write_manifest(folder: Path, rows: pd.DataFrame) -> None:
    """Write checked rows in the format the folder already has, Parquet if it has none; equal rows give equal bytes.

    Raises:
        RunError: The folder cannot be written; the old manifest is intact.
    """
    is_csv = (folder / MANIFESTS[1]).exists() and not (folder / MANIFESTS[0]).exists()
    with replacing(folder / MANIFESTS[1 if is_csv else 0]) as temporary:
        if is_csv:
            rows.to_csv(temporary, index=False, lineterminator="\n")
        else:
            schema = pa.schema([(column, pa.string()) for column in COLUMNS])
            table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
            pa.parquet.write_table(table.replace_schema_metadata(None), temporary)


def canonical(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by `sample_id` and number them from zero."""
    return rows.sort_values("sample_id", kind="stable", ignore_index=True)


def among(names: pd.Series, others: Iterable[str]) -> pd.Series:
    """Return which of some names are among others; `isin` of pandas makes an object of every one of these."""
    known = pa.array(others, pa.large_string())
    found = pa.compute.is_in(pa.array(names, pa.large_string()), value_set=known)
    return pd.Series(found.to_numpy(zero_copy_only=False), index=names.index, dtype=bool)


def texts(rows: pd.DataFrame) -> Iterator[str]:
    """Yield, a piece at a time, every column as `json.dumps` writes it as a list."""
    for column in COLUMNS:
        yield "["
        for start in range(0, len(rows), PIECE):
            piece = json.dumps(rows[column].iloc[start : start + PIECE].tolist(), ensure_ascii=True)[1:-1]
            yield f", {piece}" if start else piece
        yield "]"


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pa.parquet.read_table(path)
        table.validate(full=True)
        names = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or not Parquet: {error}", hint="make or import it again") from error
    _check_columns(names, path.name)
    return _to_strings(table.select(COLUMNS), path)


def _read_csv(path: Path) -> pd.DataFrame:
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False, quoted_strings_can_be_null=False
    )
    try:
        table = pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
        names = table.column_names
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}{_bad_line(path)}: {str(error).splitlines()[0]}") from error
    _check_columns(names, path.name)
    return _to_strings(table.select(COLUMNS), path)


def _to_strings(table: pa.Table, path: Path) -> pd.DataFrame:
    columns = {}
    for column in COLUMNS:
        kind = table.schema.field(column).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_null(value)):
            raise UsageError(f"{path.name}: column {column!r} holds {kind}, not text", hint="write it as strings")
        columns[column] = table.column(column).cast(pa.string()).fill_null("")
    return pa.table(columns).to_pandas().astype(str)


def _line(path: Path, row: int) -> int:
    """Return the line of a CSV file on which data row `row` ends, counted from one."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        filled = (reader.line_num for fields in reader if fields)
        for number, line in enumerate(filled):
            if number == row + 1:
                return line
    return 0


def _bad_line(path: Path) -> str:
    """Return ", line N" for the first line of a CSV file that is not text or has too many or too few fields."""
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f", line {number} (not UTF-8)"
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        width = len(next(reader, []))
        for fields in reader:
            if fields and len(fields) != width:
                return f", line {reader.line_num}"
    return ""


def _check_columns(names: list[str], where: str) -> None:
    absent = [column for column in COLUMNS if column not in names]
    if absent:
        hint = "a column without content may be empty, but must be there"
        raise UsageError(f"{where} has no column {', '.join(map(repr, absent))}", hint=hint)
    unknown = [str(name) for name in names if name not in COLUMNS]
    if unknown:
        raise UsageError(f"{where} has an unknown column {unknown[0]!r}", hint=suggest(unknown[0], list(COLUMNS)))
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise UsageError(f"{where} has the column {twice[0]!r} twice")


def _check_rows(rows: pd.DataFrame, place: Callable[[int], str]) -> None:
    """Refuse rows that do not hold together; `place` turns a row number into words."""
    if rows.empty:
        raise UsageError("the data set has 0 images", hint="import or make some first")

    def refuse(wrong: Any, message: str, column: str, hint: str = "") -> None:
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise UsageError(f"{place(row)}: {message.format(rows[column].iloc[row])}", hint=hint)

    for column in COLUMNS:
        refuse(rows[column].str.contains(_CONTROL, regex=True), f"{column} {{!r}} has a control character", column)
    for column in ("sample_id", "image", "identity"):
        hint = "where nothing is known, each photo is one person" if column == "identity" else ""
        refuse(rows[column] == "", f"{column} is empty", column, hint)
    again = rows["sample_id"].duplicated()
    if again.any():
        row = int(again.to_numpy().argmax())
        name = rows["sample_id"].iloc[row]
        first = int((rows["sample_id"] == name).to_numpy().argmax())
        raise UsageError(f"sample_id {name!r} is given twice: {place(first)} and {place(row)}")
    for column, known in (("label", LABELS), ("split", SPLITS)):
        refuse(~rows[column].isin(known), f"{column} is {{!r}}", column, f"known: {', '.join(known)}")
    for column in _PATHS:
        message = f"{column} {{!r}} leads outside the folder or is no relative POSIX path"
        refuse(rows[column].str.contains(_OUTSIDE, regex=True), message, column)
    real = rows["label"] == "real"
    for column in ("generator", "attribute", "source"):
        refuse(real & (rows[column] != ""), f"a real image has {column} {{!r}}", column, "leave it empty")
    for column in ("generator", "attribute"):
        odd = [name for name in rows.loc[~real, column].unique() if not NAME.fullmatch(name)]
        hint = "letters, digits and _ . + - only"
        refuse(~real & rows[column].isin(odd), f"{column} {{!r}} of a fake cannot be a name", column, hint)
    unknown = (rows["source"] != "") & ~among(rows["source"], rows.loc[real, "sample_id"])
    refuse(unknown, "source {!r} is not the sample_id of a real image", "source")
    blind = ~real & (rows["source"] == "") & (rows["mask"] == "") & (rows["attribute"] != ENTIRE)
    refuse(blind, "fake {!r} has no ground truth", "sample_id", f"give a source, a mask, or attribute {ENTIRE!r}")


def _check_links(folder: Path, rows: pd.DataFrame, place: Callable[[int], str]) -> None:
    """Refuse symbolic links that lead outside the folder, reading each folder once rather than each file."""
    root = folder.resolve()

    def outside(path: str) -> bool:
        return not (folder / path).resolve().is_relative_to(root)

    for column in _PATHS:
        paths = rows[column].tolist()
        wrong: set[str] = set()
        for parent in {path.rpartition("/")[0] for path in paths if path}:
            if not (folder / parent).is_dir():
                continue
            if outside(parent):
                wrong.add(parent)
            with os.scandir(folder / parent) as entries:
                links = [f"{parent}/{entry.name}".removeprefix("/") for entry in entries if entry.is_symlink()]
            wrong.update(link for link in links if outside(link))
        if not wrong:
            continue
        for row, path in enumerate(paths):
            if path and (path in wrong or path.rpartition("/")[0] in wrong):
                raise UsageError(f"{place(row)}: {column} {path!r} is a link that leads outside")
