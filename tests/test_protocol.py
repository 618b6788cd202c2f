from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flbench.errors import UsageError
from flbench.protocol import Category, Protocol, fingerprint, read_protocol
from flbench.registry import find_protocol, protocols


def document(**changes: object) -> dict:
    base = {
        "name": "mine",
        "version": 1,
        "title": "Mine",
        "question": "?",
        "paper": "none",
        "fit": [{"name": "a", "categories": ["stgan/bald"]}],
        "test": [{"name": "t", "fit": "a", "categories": ["stgan/bald", "attgan/bald"]}],
        "scoring": {"over": "whole", "metrics": ["coss"], "primary": "coss"},
    }
    return base | changes


@pytest.mark.parametrize("name", sorted(protocols()))
def test_shipped_protocols_are_valid_and_say_what_they_decide(name: str) -> None:
    protocol = find_protocol(name)
    assert protocol.name == name
    assert protocol.question
    assert protocol.notes, "what the paper leaves unsaid must be said"
    assert all(set(row.values) <= {"acc", "coss", "psnr", "ssim"} for row in protocol.reported)


def test_an_unknown_key_is_an_error_with_line_and_suggestion(tmp_path: Path) -> None:
    text = protocols()["in_gan"].read_text().replace("primary =", "primry =")
    path = tmp_path / "x.toml"
    path.write_text(text)
    line = next(i for i, row in enumerate(text.splitlines(), 1) if row.startswith("primry"))
    with pytest.raises(UsageError) as caught:
        read_protocol(path)
    assert f"line {line}" in str(caught.value)
    assert "primary" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test": [{"name": "t", "fit": "b", "categories": ["x/y"]}]}, "unknown fit"),
        ({"fit": [{"name": "a", "categories": ["bald"]}]}, "generator/attribute"),
        ({"conditions": ["jpeg-50"]}, "clean"),
        ({"scoring": {"over": "whole", "metrics": ["cos"], "primary": "cos"}}, "coss"),
        ({"scoring": {"over": "whole", "metrics": ["coss"], "primary": "psnr"}}, "not among"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Protocol.model_validate(document(**changes))


def test_the_fingerprint_sees_numbers_and_not_prose() -> None:
    base = Protocol.model_validate(document())
    prose = Protocol.model_validate(document(title="Other", notes=["n"], question="!"))
    other = Protocol.model_validate(document(test=[{"name": "t", "fit": "a", "categories": ["stgan/smile"]}]))
    assert base.fingerprint == prose.fingerprint
    assert base.fingerprint != other.fingerprint


def test_mapping_prefers_the_category_over_the_generator() -> None:
    protocol = Protocol.model_validate(document())
    mapped = protocol.mapped({"stgan": "stargan", "attgan/bald": "icgan/smile"})
    assert mapped.test[0].categories == ("stargan/bald", "icgan/smile")
    assert mapped.fit[0].categories == ("stargan/bald",)
    assert protocol.mapped({}) is protocol


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=6))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(content: dict) -> None:
    backwards = dict(reversed(list(content.items())))
    assert fingerprint(content) == fingerprint(backwards)


@pytest.mark.parametrize("text", ["", "/", "a/", "/b", "a/b/c", "ab"])
def test_a_category_needs_two_parts(text: str) -> None:
    with pytest.raises(ValueError, match="generator/attribute"):
        Category.parse(text)
