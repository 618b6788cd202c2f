from __future__ import annotations

import shlex
from itertools import pairwise

import pytest
from factories import make_protocol, make_record
from hypothesis import given
from hypothesis import strategies as st

from flbench.reporting.words import Number, clean, command, count, describe, full, link, listing, plain, seconds


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
    )
    words = shlex.split(command(record, (0, 1)))
    assert words[:4] == ["flbench", "run", "--method", "evil; rm -rf $HOME"]
    sets = [value for option, value in pairwise(words) if option == "--set"]
    assert sets == ["flip=false", "loss=l2", "lr=0.001", 'tag="1"', "weights=null"]
    assert words[words.index("--seed") + 1] == "0,1"
    assert words[words.index("--map") + 1] == "stgan/hair=stargan/hair"
    assert words[words.index("--region") + 1] == "difference"
    assert words[-1] == "--allow-missing"


def test_a_protocol_is_said_in_words() -> None:
    said = dict(describe(make_protocol(over="region", conditions=("clean", "jpeg-50")), region="difference"))
    assert "stgan/hair" in said["Fitted on"]
    assert "difference of real and fake" in said["Scored over"]
    assert said["Conditions"].startswith("clean and jpeg-50")
    assert "1 %" in said["Failures"]
    assert "ACC and AUROC" in said["Real photos"]


def test_a_list_is_joined_as_one_speaks() -> None:
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
