"""Conditions: names that are read and written alike, what is refused, and what a reader is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flbench.condition import CLEAN, KINDS, Condition, Step, describe, parse_condition
from flbench.errors import UsageError

SEVERITIES = {
    "jpeg": st.integers(1, 100),
    "blur": st.integers(0, 127).map(lambda half: 2 * half + 1),
    "noise": st.floats(0, 1),
    "lowres": st.integers(1, 64),
    "disorganized": st.none(),
}
steps = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: SEVERITIES[kind].map(lambda value: Step(kind, None if value is None else float(value)))
)
conditions = st.lists(steps, max_size=4).map(lambda chain: Condition(tuple(chain)))


@given(condition=conditions)
def test_a_condition_is_read_back_from_its_name(condition: Condition) -> None:
    assert parse_condition(condition.name) == condition
    assert parse_condition(f" {condition.name.replace('+', ' + ')} ") == condition


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("clean", "clean"),
        ("jpeg-50", "jpeg-50"),
        ("jpeg-050.0", "jpeg-50"),
        ("noise-0.010", "noise-0.01"),
        ("noise-1e-2", "noise-0.01"),
        ("noise-0.00001", "noise-1e-05"),
        ("noise-0.123456789", "noise-0.123456789"),
        ("noise-0", "noise-0"),
        ("noise--0", "noise-0"),
        ("noise--0.0", "noise-0"),
        ("disorganized", "disorganized"),
        ("lowres-2 + jpeg-50", "lowres-2+jpeg-50"),
        ("jpeg-50+lowres-2", "jpeg-50+lowres-2"),
    ],
)
def test_equal_conditions_have_one_name(written: str, name: str) -> None:
    assert parse_condition(written).name == name


def test_zero_has_no_sign() -> None:
    assert repr(parse_condition("noise--0").steps[0].value) == "0.0"


def test_clean_is_no_step() -> None:
    assert parse_condition(CLEAN) == Condition(())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown condition '' (known: blur, clean, disorganized, jpeg, lowres, noise)"),
        ("jpg-50", "unknown condition 'jpg-50' (did you mean jpeg?)"),
        ("jpeg-50+", "unknown condition 'jpeg-50+' (known: blur, clean, disorganized, jpeg, lowres, noise)"),
        ("clean+jpeg-50", "condition 'clean+jpeg-50': clean stands alone (leave clean out)"),
        ("jpeg", "condition 'jpeg': jpeg needs a quality (such as jpeg-50)"),
        ("blur-", "condition 'blur-': blur needs a kernel size in pixels (such as blur-5)"),
        ("noise", "condition 'noise': noise needs a variance on [0, 1] (such as noise-0.01)"),
        ("lowres-half", "condition 'lowres-half': lowres needs a reduction per side (such as lowres-2)"),
        ("disorganized-2", "condition 'disorganized-2': disorganized has no severity (write disorganized)"),
        ("disorganized-", "condition 'disorganized-': disorganized has no severity (write disorganized)"),
        ("blur-5+blur-4", "'blur-5+blur-4': the kernel size in pixels of blur is an odd number from 1 to 255"),
        ("jpeg-50.5", "the quality of jpeg is a whole number from 1 to 100 (such as jpeg-50)"),
        ("noise-1.5", "the variance on [0, 1] of noise is a number from 0 to 1 (such as noise-0.01)"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_condition(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind, known in KINDS.items() if known.axis])
@pytest.mark.parametrize("severity", ["nan", "inf", "-inf", "Infinity", "1e999", "-1", "-0.5", "1e9"])
def test_severities_are_finite_and_in_range(kind: str, severity: str) -> None:
    with pytest.raises(UsageError, match=f"of {kind} is an? .*number from"):
        parse_condition(f"{kind}-{severity}")


@pytest.mark.parametrize("kind", [kind for kind, known in KINDS.items() if known.axis])
def test_severities_end_where_they_are_said_to(kind: str) -> None:
    known = KINDS[kind]
    for inside in (known.low, known.high, float(known.example)):
        assert parse_condition(f"{kind}-{inside:g}").steps == (Step(kind, inside),)
    for outside in (known.low - 1, known.high + 1 + known.odd):
        with pytest.raises(UsageError):
            parse_condition(f"{kind}-{outside:g}")


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("clean", True),
        ("blur-1", True),
        ("noise-0", True),
        ("lowres-1+blur-1", True),
        ("blur-3", False),
        ("noise-0.001", False),
        ("jpeg-100", False),
        ("jpeg-1", False),
        ("disorganized", False),
        ("blur-1+jpeg-50", False),
    ],
)
def test_identity_is_known_without_looking_at_pixels(text: str, identity: bool) -> None:
    assert parse_condition(text).is_identity is identity


def test_a_condition_in_words_names_every_severity_in_order() -> None:
    assert describe(Condition()) == "left as it is"
    words = describe(parse_condition("lowres-4+noise-0.02+jpeg-35"))
    assert words.index("1/4") < words.index("0.02") < words.index("quality 35")
    assert words.count(", then ") == 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_in_words_has_its_symbol_where_a_condition_has_its_severity(kind: str) -> None:
    known = KINDS[kind]
    name = f"{kind}-{known.example}" if known.axis else kind
    before, _, after = known.does.partition("{}")
    assert known.sentence == (f"{before}{known.symbol}{after}" if known.axis else before)
    assert describe(parse_condition(name)) == (f"{before}{known.example}{after}" if known.axis else before)
    assert bool(known.axis) == bool(known.symbol) == bool(known.example) == ("{}" in known.does)
    assert "{" not in known.sentence


def test_reading_names_imports_nothing_heavy() -> None:
    heavy = {"numpy", "scipy", "PIL", "torch", "pandas"}
    code = f"import sys, flbench.condition; sys.exit(', '.join({heavy!r} & sys.modules.keys()) or 0)"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
