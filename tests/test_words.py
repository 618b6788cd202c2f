from __future__ import annotations

import shlex
from itertools import pairwise

import pytest
from factories import make_protocol, make_record
from hypothesis import given
from hypothesis import strategies as st

from flbench.condition import KINDS
from flbench.protocol import METRICS, Protocol
from flbench.reporting.words import (
    Number,
    arrow,
    categories,
    clean,
    command,
    condition_definitions,
    condition_words,
    count,
    definitions,
    describe,
    full,
    link,
    listing,
    plain,
    seconds,
    share,
)


@pytest.mark.parametrize(
    ("number", "metric", "text"),
    [
        (Number(value=0.4123, low=0.398, high=0.4271), "coss", "0.412 [.398, .427]"),
        (Number(value=22.834, low=22.1, high=23.509), "psnr", "22.83 [22.10, 23.51]"),
        (Number(value=1.0, low=0.99999, high=1.0), "acc", "1.000 [1.000, 1.000]"),
        (Number(value=-0.0001, low=-0.25, high=0.1), "ssim", "0.000 [-.250, .100]"),
        (Number(value=0.5, std=0.0126), "coss", "0.500 ± .013"),
        (Number(value=0.5), "coss", "0.500"),
        (Number(value=None), "coss", "–"),
        (None, "coss", "–"),
    ],
)
def test_numbers_have_fixed_decimals(number: Number | None, metric: str, text: str) -> None:
    assert full(number, metric) == text
    assert plain(number, metric) == text.split(" [")[0]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (850, "850"),
        (999, "999"),
        (1000, "1.00 k"),
        (12_400, "12.4 k"),
        (999_499, "999 k"),
        (58_623_000, "58.6 M"),
    ],
)
def test_parameters_have_three_digits(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.00423, "0.0042"),
        (0.0996, "0.10"),
        (1.26, "1.3"),
        (9.96, "10"),
        (61.4, "61"),
        (217, "220"),
    ],
)
def test_seconds_have_two_digits(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x07link\x1b]8;;\x07", "link"),
        ("a\nb\tc\r", "a b c"),
        ("left\u202eright\u200b", "leftright"),
        ("caf\udce9", "caf\ufffd"),
        ("\x07bell\x9b31m", "bell31m"),
    ],
)
def test_control_characters_are_stripped(text: str, kept: str) -> None:
    assert clean(text) == kept


@given(st.text())
def test_clean_text_is_one_encodable_line(text: str) -> None:
    line = clean(text)
    assert line.encode("utf-8").decode() == line
    assert len(line.splitlines()) <= 1
    assert clean(line) == line
    assert line.isprintable()


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "ftp://x.org", "http://", "https://x.org/a b", "x.org", "http://x)(y"]
)
def test_only_web_addresses_are_links(text: str) -> None:
    assert link(text) == ""
    assert link("https://arxiv.org/abs/2001.09598") == "https://arxiv.org/abs/2001.09598"


def test_the_command_is_read_back_by_a_shell() -> None:
    record = make_record(
        "evil; rm -rf $HOME",
        protocol=make_protocol(over="region"),
        given={"lr": 0.001, "weights": None, "loss": "l2", "tag": "1", "flip": False},
        mapping={"stgan/hair": "stargan/hair"},
        missing=["smile"],
        region="difference",
        added=["jpeg-50", "lowres-2+jpeg-50"],
    )
    words = shlex.split(command(record, (0, 1)))
    assert words[:4] == ["flbench", "run", "--method", "evil; rm -rf $HOME"]
    sets = [value for option, value in pairwise(words) if option == "--set"]
    assert sets == ["flip=false", "loss=l2", "lr=0.001", 'tag="1"', "weights=null"]
    assert words[words.index("--seed") + 1] == "0,1"
    assert words[words.index("--map") + 1] == "stgan/hair=stargan/hair"
    assert words[words.index("--region") + 1] == "difference"
    assert [value for option, value in pairwise(words) if option == "--condition"] == ["jpeg-50", "lowres-2+jpeg-50"]
    assert words[-1] == "--allow-missing"


def test_a_protocol_is_said_in_words() -> None:
    said = dict(describe(make_protocol(over="region", conditions=("clean", "jpeg-50")), region="difference"))
    assert "stgan/hair" in said["Fitted on"]
    assert "difference of real and fake" in said["Scored over"]
    assert said["Conditions"] == "clean; JPEG (quality 50); ground truth: the map of the undegraded fake"
    assert "1 %" in said["Failures"]
    assert "ACC and AUROC" in said["Real photos"]


def test_a_list_is_joined_as_one_speaks() -> None:
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_gamma_has_its_interval() -> None:
    assert share(Number(value=97.34, low=95.06, high=99.9)) == "97.3 % [95.1, 99.9]"
    assert share(Number(value=100.0, low=100.0, high=100.0)) == "100.0 % [100.0, 100.0]"
    assert share(Number(value=97.34, std=1.24)) == "97.3 % ± 1.2"
    assert share(Number(value=97.34)) == "97.3 %"
    assert share(Number(value=None)) == share(None) == ""


def test_every_metric_and_degradation_is_defined() -> None:
    assert [name for name, _ in definitions(list(METRICS))] == list(METRICS.values())
    assert {arrow(metric) for metric in ("mae", "false_alarm")} == {"↓"}
    examples = {
        "jpeg": "jpeg-5",
        "blur": "blur-5",
        "noise": "noise-0.1",
        "lowres": "lowres-2",
        "disorganized": "disorganized",
    }
    assert set(examples) == set(KINDS)
    assert len(condition_definitions(list(examples.values()))) == len(KINDS)
    assert condition_definitions(["clean"]) == []
    assert [name for name, _ in condition_definitions(["lowres-2+jpeg-50"])] == [
        "JPEG (jpeg)",
        "Low resolution (lowres)",
    ]


def test_conditions_are_said_in_native_units() -> None:
    said = condition_words(["clean", "jpeg-50", "jpeg-90", "disorganized", "noise-0.01", "lowres-2+jpeg-50", "fog-3"])
    assert said == (
        "clean; JPEG (quality 90 and 50); Disorganized; Gaussian noise (variance on [0, 1] 0.01); "
        "Low resolution 2, then JPEG 50; fog-3"
    )


def test_what_a_fit_learns_is_said() -> None:
    document = make_protocol(metrics=["false_alarm", "tnr"], primary="false_alarm").model_dump(mode="json")
    many = [f"stgan/a{i}" for i in range(4)] + ["icgan/b"]
    document["fit"] = [
        {"name": "all", "categories": many, "per_category": 2000, "binarised": 0.1, "people": "paired"},
        *({"name": name, "categories": [name]} for name in ("stgan/x", "icgan/x")),
    ]
    document["test"] = [{"name": "elsewhere", "fit": "all", "photos": "other"}]
    said = dict(describe(Protocol.model_validate(document)))
    assert said["Fitted on"] == (
        "stgan/x and icgan/x (each: its fakes; real photos of other people) and all (fakes of stgan: a0, a1, a2, a3; "
        "icgan: b; the real photos of the same people; equally many fakes of each category, at most 2,000; "
        "maps thresholded at 0.1)"
    )
    assert said["Real photos"] == (
        "elsewhere: every photo of other databases than those fitted on, and no fake; "
        "they count for False alarm and TNR"
    )


def test_few_categories_are_named_in_full() -> None:
    assert categories(["a/x", "b/y"]) == "a/x and b/y"
