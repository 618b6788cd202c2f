"""Whatever a stranger's file or method holds, flbench reads it or says in its own words what is wrong with it."""

from __future__ import annotations

import copy
import json
import random
import re
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from factories import make_gallery, make_protocol, make_record, make_scores
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mutation import cases, damaged, damaged_text, images

from flbench.data.batches import Example
from flbench.data.dataset import About, read_dataset
from flbench.data.images import orientation, read_gray, read_image, read_parsing
from flbench.data.manifest import COLUMNS
from flbench.engine.predictions import Timer
from flbench.engine.predictor import Predictor
from flbench.engine.runtime import Runtime
from flbench.engine.slices import score_image
from flbench.errors import LONGEST, DataError, FlbenchError, MethodError, UsageError
from flbench.locator import Locator, Prediction
from flbench.protocol import Protocol
from flbench.record import Record, read_record
from flbench.registry import find_protocol, protocols
from flbench.reporting.galleries import read_gallery
from flbench.scoring.metrics import WORST, map_metrics
from flbench.scoring.pixels import pixel_metrics
from flbench.study import read_scores

MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATASET = 'name = "a"\nversion = "1"\ntitle = "t"\nlicence = "l"\nsize = 32\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset.toml").write_text(DATASET)
    return tmp_path


def said(error: FlbenchError, *words: str) -> None:
    """Hold an error to be one line of a length that can be read, and to name what it must."""
    assert "\n" not in str(error)
    assert len(error.message) <= LONGEST
    assert [word for word in words if word not in error.message] == [], error.message


# Manifests

texts = st.text(max_size=8) | st.sampled_from(
    [
        "",
        "real",
        "fake",
        "train",
        "test",
        "stgan",
        "hair",
        "entire",
        "a",
        "b",
        "images/a.png",
        "../a",
        "/a",
        "a\x00b",
        "=1",
    ]
)
tables = st.lists(st.lists(texts, min_size=len(COLUMNS), max_size=len(COLUMNS)), max_size=4)
names = st.permutations(COLUMNS) | st.lists(st.sampled_from([*COLUMNS, "colour", ""]), min_size=1, max_size=14)


def read_or_refused(folder: Path) -> None:
    try:
        manifest = read_dataset(folder).manifest
    except (DataError, UsageError) as error:
        said(error)
        return
    assert list(manifest.columns) == list(COLUMNS)
    assert manifest["sample_id"].is_unique
    assert set(manifest["label"]) <= {"real", "fake"}
    assert not manifest["image"].str.contains(r"(?:^|/)\.\.(?:/|$)|^/").any()


@MANY
@given(columns=names, rows=tables, sign=st.sampled_from([",", ";"]), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_csv_is_a_manifest_or_refused(
    folder: Path, columns: list[str], rows: list[list[str]], sign: str, end: str
) -> None:
    frame = pd.DataFrame([row[: len(columns)] + [""] * (len(columns) - len(row)) for row in rows], columns=columns)
    frame.to_csv(folder / "manifest.csv", index=False, sep=sign, lineterminator=end, errors="replace")
    read_or_refused(folder)


cells = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | texts | st.binary(max_size=4)


@MANY
@given(columns=st.permutations(COLUMNS), data=st.data(), count=st.integers(0, 3))
def test_any_parquet_is_a_manifest_or_refused(
    folder: Path, columns: list[str], data: st.DataObject, count: int
) -> None:
    good = {"label": "real", "split": "test", **dict.fromkeys(("sample_id", "image", "identity"), "a")}
    made = {column: [good.get(column, "")] * count for column in columns}
    for column in data.draw(st.lists(st.sampled_from(COLUMNS), max_size=3)):
        kind = data.draw(
            st.sampled_from([st.text(max_size=3).filter(encodable), st.integers(0, 9), st.floats(), st.binary()])
        )
        made[column] = data.draw(st.lists(st.none() | kind, min_size=count, max_size=count))
    pa.parquet.write_table(pa.table(made), folder / "manifest.parquet")
    read_or_refused(folder)


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


KINDS = {
    "int": [1],
    "float": [1.5],
    "bool": [True],
    "bytes": [b"a"],
    "list": [["a"]],
    "struct": [{"a": "b"}],
    "date": [pd.Timestamp("2020-01-01")],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_another_type_is_named(folder: Path, column: str, kind: str) -> None:
    row = {name: ["a"] for name in COLUMNS} | {column: KINDS[kind]}
    pa.parquet.write_table(pa.table(row), folder / "manifest.parquet")
    with pytest.raises(UsageError, match=rf"manifest.parquet: column '{column}' holds .*, not text"):
        read_dataset(folder)


# Protocols


@cache
def shipped() -> list[bytes]:
    return [path.read_bytes() for _, path in sorted(protocols().items())]


VALUES = (
    "0",
    "-1",
    "1e400",
    "nan",
    "-inf",
    '""',
    '"x"',
    "[]",
    "[[]]",
    "{}",
    "{a = 1}",
    "true",
    "1979-05-27",
    '["a/b"]',
    '["clean", "jpeg-0"]',
)


@MANY
@given(place=st.integers(0, 10_000), which=st.integers(0, 100), value=st.sampled_from(VALUES))
def test_a_protocol_with_another_value_is_valid_or_refused_with_its_line(
    tmp_path: Path, place: int, which: int, value: str
) -> None:
    lines = shipped()[which % len(shipped())].decode().splitlines()
    keys = [
        number for number, line in enumerate(lines) if " = " in line and not line.rstrip().endswith(("[", "{", '"""'))
    ]
    number = keys[place % len(keys)]
    lines[number] = f"{lines[number].partition(' = ')[0]} = {value}"
    path = tmp_path / "x.toml"
    path.write_text("\n".join(lines))
    try:
        protocol = find_protocol(str(path))
    except UsageError as error:
        said(error, "x.toml")
        several = re.search("names an unknown fit|slices are called", error.message)  # no one line contradicts itself
        said(error, *([] if several else ["line"]))
    else:
        assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol
        assert len(protocol.fingerprint) == 64


# Records

numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
leaves = numbers | st.text(max_size=5)
plain = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@cache
def a_record() -> Record:
    scores = make_scores(0.7, people=4, conditions=("clean", "jpeg-50"))
    return make_record(
        "m", scores, protocol=make_protocol(conditions=("clean", "jpeg-50")), given={"a": [1, {"b": None}]}
    )


@MANY
@given(given=st.dictionaries(st.text(max_size=4).filter(encodable), plain, max_size=3), text=st.text(max_size=20))
def test_a_record_survives_the_way_through_json(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    assume(encodable(json.dumps(given, ensure_ascii=False)) and encodable(text))
    method = a_record().method.model_copy(update={"given": given, "title": text})
    record = a_record().model_copy(update={"method": method, "reason": text, "flags": (text,)})
    (tmp_path / "run.json").write_text(record.to_json(), encoding="utf-8", newline="\n")
    again = read_record(tmp_path / "run.json")
    assert again == record
    assert again.digest == record.digest


def places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value of a document."""
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield (*above, key)
        yield from places(value, (*above, key))


@MANY
@given(data=st.data(), how=st.sampled_from(["change", "remove", "add"]), value=plain)
def test_a_changed_record_is_refused_or_is_what_it_says(
    tmp_path: Path, data: st.DataObject, how: str, value: Any
) -> None:
    document = json.loads(a_record().to_json())
    *above, last = data.draw(st.sampled_from(list(places(document))))
    changed = copy.deepcopy(document)
    owner = changed
    for key in above:
        owner = owner[key]
    if how == "remove":
        del owner[last]
    elif how == "add" and isinstance(owner, dict):
        owner[data.draw(st.text(max_size=4))] = value
    else:
        owner[last] = value
    path = tmp_path / "run.json"
    path.write_text(json.dumps(changed))  # in ASCII: a lone half of a sign is a legal escape
    try:
        read = read_record(path)
    except DataError as error:
        said(error, "run.json")
        return
    again = json.loads(read.to_json())
    if how != "remove":
        assert again == changed
    assert len(read.digest) == 64


# What a method may say

dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
shapes = st.sampled_from([(3, 6, 5), (3, 5, 6), (2, 6, 5), (3, 1, 6, 5), (6, 5), (), (3,), (3, 6, 0), (0, 6, 5)])
reals = st.sampled_from([0.0, 0.25, 1.0, 1 + 1e-7, 1.1, -1e-3, 255.0, float("nan"), float("inf"), -float("inf"), 1e-38])


class Says(Locator):
    """Answers with what a test has drawn."""

    title = "Says"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, images: torch.Tensor) -> Any:
        return self.answer


@MANY
@given(data=st.data(), dtype=dtypes, shape=shapes, values=st.lists(reals, min_size=1, max_size=3))
def test_any_tensor_is_an_answer_or_breaks_the_contract(
    tmp_path: Path, data: st.DataObject, dtype: torch.dtype, shape: tuple[int, ...], values: list[float]
) -> None:
    def tensor(shape: tuple[int, ...]) -> torch.Tensor:
        count = int(np.prod(shape))
        made = torch.tensor((values * (count + 1))[:count], dtype=torch.float64)
        made = made if dtype.is_floating_point or dtype.is_complex else made.nan_to_num(0, 1, 0)
        return made.to(dtype).reshape(shape)

    score = data.draw(st.sampled_from([None, tensor((3,)), tensor((3, 1)), tensor(()), 0.5, [0.1, 0.2, 0.3]]))
    answer = data.draw(st.sampled_from([Prediction(tensor(shape), score), tensor(shape), (tensor(shape), score), None]))
    rng = np.random.default_rng(0)
    example = Example(rng.integers(0, 256, (6, 5, 3), np.uint8), rng.random((6, 5), np.float32), None)
    predict = Predictor(Says(answer), "says", Runtime(torch.device("cpu"), 1), tmp_path / "log.txt", Timer())
    try:
        outcomes = predict([example] * 3, ["a", "b", "c"], "clean")
    except MethodError as error:
        said(error, "says")
        return
    assert len(outcomes) == 3
    for outcome in outcomes:
        for label in ("fake", "real"):
            scored = score_image(label, example, outcome)
            assert scored["status"] in ("ok", "bad_output", "error")
            if scored["status"] == "ok":
                assert np.isfinite(scored["score"])


# Metrics

KIND = ("zeros", "ones", "half", "edge", "random", "point")
maps_of = st.tuples(st.sampled_from(KIND), st.sampled_from(KIND), st.sampled_from([None, *KIND]), st.integers(0, 99))
BOUNDS = {"coss": (0, 1), "psnr": (0, 100), "ssim": (-1, 1), "mae": (0, 1)}


def drawn(kind: str, seed: int) -> np.ndarray:
    """Return four maps of a kind; `point` has one pixel, `edge` lies around the level at which maps are binarised."""
    rng = np.random.default_rng(seed)
    made = {
        "zeros": np.zeros((4, 12, 12)),
        "ones": np.ones((4, 12, 12)),
        "half": np.full((4, 12, 12), 0.5),
        "edge": 0.1 + rng.choice([-1e-7, 0, 1e-7], (4, 12, 12)),
        "random": rng.random((4, 12, 12)),
        "point": np.zeros((4, 12, 12)),
    }[kind]
    if kind == "point":
        made[:, 5, 6] = 1
    return made.astype(np.float32)


@MANY
@given(maps_of)
def test_degenerate_maps_are_in_bounds_or_undefined_and_images_do_not_mix(
    kinds: tuple[str, str, str | None, int],
) -> None:
    truth, prediction = drawn(kinds[0], kinds[3]), drawn(kinds[1], kinds[3] + 1)
    region = None if kinds[2] is None else drawn(kinds[2], kinds[3] + 2) >= 0.5

    def measured(order: list[int]) -> dict[str, np.ndarray]:
        inside = None if region is None else region[order]
        return map_metrics(truth[order], prediction[order], inside) | pixel_metrics(
            truth[order], prediction[order], inside
        )

    found = measured([0, 1, 2, 3])
    assert {*found} >= {*WORST}
    counts = np.ones(4, bool) if region is None else region.any((1, 2))
    seen = np.ones_like(truth, bool) if region is None else region
    positive = ((truth >= np.float32(0.1)) & seen).any((1, 2))
    negative = ((truth < np.float32(0.1)) & seen).any((1, 2))
    for name, values in found.items():
        low, high = BOUNDS.get(name, (0, 1))
        defined = values[~np.isnan(values)]
        assert ((defined >= low - 1e-9) & (defined <= high + 1e-9)).all(), name
        assert np.isnan(values[~counts]).all(), f"{name} of no pixel is undefined"
    for name in ("f1", "iou", "pixel_ap"):
        np.testing.assert_array_equal(np.isnan(found[name]), ~positive, name)
    np.testing.assert_array_equal(np.isnan(found["pixel_auroc"]), ~(positive & negative))
    for name in ("coss", "psnr", "mae"):
        np.testing.assert_array_equal(np.isnan(found[name]), ~counts, name)
    order = [2, 0, 3, 1]
    for name, values in measured(order).items():
        np.testing.assert_array_equal(values, found[name][order], name)


# Damaged files; a longer run of the same: see `mutation`

Read = Callable[[Path], object]


def read_damaged(
    corpus: list[bytes], path: Path, readers: list[Read], *, count: int, text: bool, seed: int = 7
) -> Counter[str]:
    """Read so many damaged files, and count what came of them; only flbench's own errors may."""
    outcomes: Counter[str] = Counter()

    def how(content: bytes, rng: random.Random) -> bytes:
        return damaged_text(content.decode(), rng) if text else damaged(content, rng)

    for content in cases(seed, corpus, how, count):
        path.write_bytes(content)
        for read in readers:
            try:
                read(path)
                outcomes["read"] += 1
            except (DataError, UsageError) as error:
                said(error)
                outcomes["refused"] += 1
    return outcomes


def test_damaged_images_are_images_or_refused_in_bounded_memory(tmp_path: Path) -> None:
    corpus = list(images(random.Random(7)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    readers = [read_image, read_gray, read_parsing, orientation]
    outcomes = read_damaged(corpus, tmp_path / "x.png", readers, count=300, text=False)
    assert min(outcomes["read"], outcomes["refused"]) > 100, "neither harmless nor hopeless"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024, "KiB"


def test_damaged_protocols_are_protocols_or_refused(tmp_path: Path) -> None:
    outcomes = read_damaged(
        shipped(), tmp_path / "x.toml", [lambda path: find_protocol(str(path))], count=300, text=True
    )
    assert outcomes["read"] > 3
    assert outcomes["refused"] > 100


def test_damaged_descriptions_of_data_sets_are_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(",".join(COLUMNS) + "\na,a.png,real,,,,d,p,test,,,\n")
    corpus = [(DATASET + 'categories = ["stgan/hair", "stgan/smile"]\nmask_polarity = "fake_is_white"\n').encode()]
    outcomes = read_damaged(corpus, tmp_path / "dataset.toml", [lambda _: read_dataset(tmp_path)], count=300, text=True)
    assert outcomes["read"] > 3
    assert outcomes["refused"] > 100


def test_damaged_records_are_records_or_refused(tmp_path: Path) -> None:
    corpus = [a_record().to_json().encode()]
    outcomes = read_damaged(corpus, tmp_path / "x", [lambda path: read_record(path).digest], count=300, text=True)
    assert outcomes["read"] > 3
    assert outcomes["refused"] > 100


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_damaged_manifests_are_manifests_or_refused(folder: Path, form: str) -> None:
    row = dict.fromkeys(COLUMNS, "") | {"label": "real", "split": "test", "database": "d"}
    frame = pd.DataFrame([row | {"sample_id": f"s{i}", "image": f"é{i}.png", "identity": f"p{i}"} for i in range(3)])
    path = folder / f"manifest.{form}"
    frame.to_csv(path, index=False) if form == "csv" else frame.to_parquet(path, index=False)
    outcomes = read_damaged([path.read_bytes()], path, [lambda _: read_dataset(folder)], count=200, text=False)
    assert outcomes["read"] > 0
    assert outcomes["refused"] > 100


# What was found so, each in words of its own now


@pytest.mark.parametrize("text", ["x = " + "[" * 3000, "size = " + "9" * 5000, "\x80", "a" * 5000 + " = 1"])
def test_found_descriptions(folder: Path, text: str) -> None:
    (folder / "dataset.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    said(caught.value)


@pytest.mark.parametrize("text", ["x = " + "[" * 3000, "version = " + "9" * 5000, "a" * 5000 + " = 1"])
def test_found_protocols(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        find_protocol(str(tmp_path / "x.toml"))
    said(caught.value)


@pytest.mark.parametrize("size", [0, -1, 1_000_000])
def test_found_a_protocol_of_no_size_or_of_a_huge_one(tmp_path: Path, size: int) -> None:
    text, count = re.subn(r"(?m)^size = .*$", f"size = {size}", protocols()["in_gan"].read_text())
    assert count == 1
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.toml, line \d+: size"):
        find_protocol(str(tmp_path / "x.toml"))


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"\\ud800"', "[" * 3000, "9" * 5000, '{"x": "\\udfff"}'])
def test_found_records(tmp_path: Path, value: str) -> None:
    text = a_record().to_json().replace('"options": {', f'"options": {{"x": {value},')
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("was", "becomes"), [('"seed": 0', '"seed": "0"'), ('"fakes": 4', '"fakes": 4.0'), ('"fakes": 4', '"fakes": true')]
)
def test_found_numbers_of_records_that_are_no_numbers(tmp_path: Path, was: str, becomes: str) -> None:
    text = a_record().to_json()
    assert was in text
    (tmp_path / "run.json").write_text(text.replace(was, becomes))
    with pytest.raises(DataError, match="not valid"):
        read_record(tmp_path / "run.json")


def test_found_a_csv_whose_head_is_no_utf8(folder: Path) -> None:
    (folder / "manifest.csv").write_bytes(b"sample_id,\xffimage\na,b\n")
    with pytest.raises(UsageError, match="line 1"):
        read_dataset(folder)


def test_found_a_parquet_whose_text_is_no_utf8(folder: Path) -> None:
    rows = {column: pa.array([b"\xff\xfe"]).cast(pa.binary()).view(pa.string()) for column in COLUMNS}
    pa.parquet.write_table(pa.table(rows), folder / "manifest.parquet")
    with pytest.raises(DataError, match="damaged"):
        read_dataset(folder)


def without(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    return scores.drop(columns=column)


FOUND = {
    "no column label": lambda scores: without(scores, "label"),
    "no column score": lambda scores: without(scores, "score"),
    "no column test, condition, sample_id": lambda scores: scores[["coss"]],
    "no numbers in column 'coss'": lambda scores: scores.assign(coss="x"),
    "an image twice": lambda scores: pd.concat([scores, scores]),
}


@pytest.mark.parametrize("words", FOUND)
def test_found_scores_that_no_board_can_be_made_of(tmp_path: Path, words: str) -> None:
    FOUND[words](make_scores(0.7, people=4)).to_parquet(tmp_path / "images.parquet", index=False)
    with pytest.raises(DataError, match=re.escape(words)):
        read_scores(tmp_path, hint="")


def test_found_scores_whose_description_for_pandas_is_damaged(tmp_path: Path) -> None:
    make_scores(0.7, people=4).to_parquet(tmp_path / "images.parquet", index=False)
    table = pa.parquet.read_table(tmp_path / "images.parquet")
    pa.parquet.write_table(
        table.replace_schema_metadata({"pandas": '{"index_columns": []}'}), tmp_path / "images.parquet"
    )
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(tmp_path, hint="")


def test_found_a_gallery_of_another_kind_of_zip(tmp_path: Path) -> None:
    path = make_gallery(tmp_path / "gallery.npz", size=8)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 255  # the version needed to extract the first array
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_gallery(path)


def test_what_a_data_set_says_keeps_its_fields() -> None:
    """The corpus above names keys of the description: they are still its keys."""
    assert {"categories", "mask_polarity", "size"} <= set(About.model_fields)
