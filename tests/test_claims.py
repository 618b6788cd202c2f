"""Claims: the reader, the bootstrap against a plain loop over people, verdicts with known answers, what ships."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import make_protocol, make_record, make_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from flbench import registry
from flbench.claims import Check, Claims, Quantity, read_claims
from flbench.documents import line_of
from flbench.errors import UsageError
from flbench.protocol import Protocol
from flbench.reporting.claim_tables import checks, claim_tables, claims_markdown, described, overview
from flbench.reporting.claims import Terms, Verdict, claims_document, commands, judge, outcome
from flbench.reporting.model import Entry
from flbench.scoring.comparison import Margin, margin, paired_difference
from flbench.scoring.statistics import summarise

FEW = 300  # resamples
RESAMPLED = 20  # by the plain loop

# --- the reader ---------------------------------------------------------------------------------------------------

TEXT = """
[[claim]]
name = "first"
title = "First"
source = "Table 1"

[[claim.check]]
metrics = ["coss"]
left = { method = "a", protocol = "p", test = "t" }
right = { method = "b", protocol = "p", test = "t" }

[[claim]]
name = "second"
title = "Second"
source = "Table 2"

[[claim.check]]
metrics = ["psnr"]
left = { method = "a", protocol = "p", test = "t" }
offset = 20.0

[[claim.check]]
metrics = ["ssim", "acc"]
left = { method = "a", protocol = "p", test = ["t", "u"], condition = "noise-0.010" }
factor = 2.0

[claim.check.right]
method = "b"
protocol = "q"
test = "mean"
"""


def read(tmp_path: Path, text: str) -> Claims:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return read_claims(path)


def test_a_file_becomes_claims(tmp_path: Path) -> None:
    first, second = read(tmp_path, TEXT).claim
    assert (first.name, second.name) == ("first", "second")
    assert first.check[0].factor == 1.0
    assert first.check[0].relation == ">="
    number, ratio = second.check
    assert (number.right, number.offset) == (None, 20.0)
    assert ratio.left == Quantity(method="a", protocol="p", test=("t", "u"), condition=("noise-0.01",))
    assert ratio.right == Quantity(method="b", protocol="q", test=("mean",), condition=("clean",))
    assert read(tmp_path, TEXT).protocols == ("p", "q")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('name = "second"', 'nam = "second"', 13, "'claim.nam', did you mean name"),
        ("factor = 2.0", "facter = 2.0", 25, "did you mean factor"),
        ("factor = 2.0", 'factor = "2"', 25, "claim.check.factor"),
        ("factor = 2.0", "factor = 0.0", 25, "greater than 0"),
        ("factor = 2.0", "factor = nan", 25, "claim.check.factor"),
        ('"p", test = ["t", "u"]', '"p", tests = ["t", "u"]', 24, "did you mean test"),
        ("noise-0.010", "fog-3", 24, "fog-3"),
        ('["t", "u"]', '["t", "t"]', 24, "'t' is there twice"),
        ('["t", "u"]', "[]", 24, "claim.check.left.test"),
        ('["ssim", "acc"]', '["ssim", "ac"]', 23, "did you mean"),
        ('protocol = "q"', 'protokol = "q"', 29, "did you mean protocol"),
        ("offset = 20.0", "factor = 20.0", 17, "a right side, or an offset"),
        ("offset = 20.0", "offset = 20.0\nfactor = 2.0", 17, "there is none"),
        ("factor = 2.0", 'relation = ">"', 25, "claim.check.relation"),
        ("factor = 2.0", 'relation = ">="\nwithin = 0.1', 22, "not both"),
        ('method = "b", protocol = "p"', 'method = "a", protocol = "p"', 7, "the same"),
        ('"second"', '"first"', None, "two claims are called 'first'"),
        ('source = "Table 2"', "", 12, "claim.source"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int | None, words: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(UsageError) as caught:
        read(tmp_path, TEXT.replace(old, new))
    assert words in caught.value.message
    assert caught.value.message.startswith(f"mine.toml, line {line}: " if line else "mine.toml: ")


def test_a_margin_in_decibels_stands_alone() -> None:
    side = {"protocol": "p", "test": "t"}
    sides = {"left": {"method": "a"} | side, "right": {"method": "b"} | side}
    Check.model_validate({"metrics": ["psnr"], "within": 1.0} | sides)
    Check.model_validate({"metrics": ["coss", "psnr"]} | sides)
    with pytest.raises(ValueError, match="decibels"):
        Check.model_validate({"metrics": ["coss", "psnr"], "within": 1.0} | sides)


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda path: None, "cannot be read"), (lambda path: path.write_text("a = ["), "not valid TOML")],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "x.toml")
    with pytest.raises(UsageError, match=words):
        read_claims(tmp_path / "x.toml")


def test_lines_are_found_by_place_and_not_by_first_mention() -> None:
    text = "a = 1\n[[x]]\nk = 1\n[x.y]\nk = 2\n[[x.z]]\n[[x]] # second\nk = 3\n[[x.z]]\n[[x.z]]\nk = { in = 4 }\n"
    places = [("a",), ("x", 0, "k"), ("x", 0, "y", "k"), ("x", 1, "k"), ("x", 1, "z", 1, "k", "in"), ("x", 1, "gone")]
    assert [line_of(text, place) for place in places] == [1, 3, 5, 8, 11, 7]
    assert line_of(text, ("b",)) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"p", test = "t" }\noffset', '"r", test = "t" }\noffset', "'r' is no protocol"),
        ('"p", test = "t" }\noffset', '"p", test = "v" }\noffset', "'v' is no test slice of p"),
        ('"noise-0.010"', '"jpeg-50"', "'jpeg-50' is no condition of p"),
        ('["psnr"]', '["iou"]', "'iou' is no metric of p"),
        ('method = "b"\n', 'method = "c"\n', "'c' is no method"),
    ],
)
def test_claims_speak_of_what_there_is(tmp_path: Path, old: str, new: str, words: str) -> None:
    known = {
        "p": make_protocol("p", tests=("t", "u"), conditions=("clean", "noise-0.01")),
        "q": make_protocol("q", tests=("t",)),
    }
    read(tmp_path, TEXT).against(known, ["a", "b"])
    assert TEXT.count(old) == 1
    with pytest.raises(UsageError, match=words):
        read(tmp_path, TEXT.replace(old, new)).against(known, ["a", "b"])


# --- the bootstrap ------------------------------------------------------------------------------------------------


def table(
    people: Sequence[int], *, seed: int, lift: float = 0.0, test: str = "t", photos: int = 2, undefined: int = 0
) -> pd.DataFrame:
    """Score table with `photos` real photos and fakes of each person; what is hard belongs to the person."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in people:
        hard = np.random.default_rng(person).normal(0, 0.1)
        for photo in range(photos):
            for label in ("real", "fake"):
                value = float(np.clip(0.5 + lift + hard + rng.normal(0, 0.05), 0, 1))
                score = float(np.clip((0.45 + lift if label == "fake" else 0.4) + hard + rng.normal(0, 0.2), 0, 1))
                number = value if label == "fake" and len(rows) // 2 >= undefined else math.nan
                rows.append(
                    {"test": test, "condition": "clean", "sample_id": f"{label}-{person}-{photo}"}
                    | {"identity": f"person {person}", "label": label, "status": "ok", "score": round(score, 1)}
                    | {"coss": number, "psnr": 40 * number}
                )
    return pd.DataFrame(rows)


NUMBERS: dict[str, Callable[[pd.DataFrame], float]] = {
    "coss": lambda t: t["coss"].mean(),
    "acc": lambda t: ((t["score"] >= 0.5) == (t["label"] == "fake")).mean(),
    "auroc": lambda t: roc_auc_score(t["label"] == "fake", t["score"]),
}


def loop(
    left: Sequence[pd.DataFrame], right: Sequence[pd.DataFrame], metric: str, factor: float, offset: float, seed: int
) -> tuple[float, float, float]:
    """Value and interval by drawing people one resample at a time, with everything a person has on either side."""
    number = NUMBERS[metric]
    names = sorted(set(pd.concat([*left, *right])["identity"]))
    owned = [[(images, images.groupby("identity").indices) for images in side] for side in (left, right)]

    def above(drawn: Sequence[str]) -> float:
        sides = []
        for side in owned:
            parts = []
            for images, rows in side:
                kept = [row for name in drawn for row in rows.get(name, ())]
                parts.append(number(images.iloc[kept]))
            sides.append(sum(parts) / len(parts) if parts else 0.0)
        return sides[0] - (factor * sides[1] + offset)

    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(names), (RESAMPLED, len(names)))
    replicates = [above([names[person] for person in people]) for people in drawn]
    return above(names), *np.percentile(replicates, [2.5, 97.5])


@pytest.mark.parametrize("metric", NUMBERS)
@pytest.mark.parametrize("sides", ["same images", "other people", "several tables", "no right side"])
def test_margins_agree_with_a_plain_loop_over_people(metric: str, sides: str) -> None:
    left, right = {
        "same images": ([table(range(14), seed=1, lift=0.1)], [table(range(14), seed=2)]),
        "other people": ([table(range(12), seed=1, undefined=3)], [table(range(6, 20), seed=2, photos=3)]),
        "several tables": (
            [table(range(12), seed=1), table(range(4, 14), seed=2, photos=1)],
            [table(range(16), seed=3), table(range(9), seed=4), table(range(2, 11), seed=5)],
        ),
        "no right side": ([table(range(12), seed=1)], []),
    }[sides]
    found = margin(left, right, metric, factor=1.3, offset=0.07, resamples=RESAMPLED, seed=5)
    assert found[2:] == pytest.approx(loop(left, right, metric, 1.3, 0.07, 5))
    assert found.left == pytest.approx(np.mean([NUMBERS[metric](part) for part in left]))
    assert (found.right is None) == (not right)
    if right:
        assert found.right == pytest.approx(np.mean([NUMBERS[metric](part) for part in right]))


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from(sorted(NUMBERS)))
def test_on_the_same_images_a_margin_is_the_paired_difference(seed: int, metric: str) -> None:
    a, b = table(range(8), seed=seed, lift=0.05), table(range(8), seed=seed + 1)
    expected = paired_difference(a, b, metric, resamples=50)
    found = margin([a], [b], metric, resamples=50)
    assert found[2:] == pytest.approx((expected.value, expected.low, expected.high))


def test_without_a_right_side_a_margin_is_the_value_and_its_interval_above_the_offset() -> None:
    a = table(range(9), seed=3)
    expected = summarise(a.assign(ssim=0.0, mae=0.0, false_alarm=0.0), ["coss"], resamples=60)["coss"]
    found = margin([a], [], "coss", offset=0.25, resamples=60)
    assert found[2:] == pytest.approx((expected.value - 0.25, expected.low - 0.25, expected.high - 0.25))


def test_what_is_hard_for_both_sides_cancels() -> None:
    a = table(range(30), seed=1, photos=1)
    found = margin([a.assign(coss=a["coss"] + 0.01)], [a], "coss", resamples=FEW)
    assert found[2:] == pytest.approx((0.01, 0.01, 0.01))
    alone = summarise(a.assign(ssim=0.0, mae=0.0, false_alarm=0.0), ["coss"], resamples=FEW)["coss"]
    assert alone.high - alone.low > 0.03


def test_the_order_of_rows_changes_no_bit() -> None:
    a, b = table(range(9), seed=1), table(range(4, 12), seed=2)
    shuffled = (part.sample(frac=1, random_state=7) for part in (a, b))
    assert margin([a], [b], "auroc", resamples=50) == margin(*([part] for part in shuffled), "auroc", resamples=50)


def test_what_cannot_be_measured_has_no_margin() -> None:
    a = table(range(6), seed=1)
    nothing = margin([a], [a.assign(coss=math.nan)], "coss", resamples=20)
    assert nothing == Margin(pytest.approx(a["coss"].mean()), None, None, None, None)
    assert margin([a, a.iloc[:0]], [a], "coss", resamples=20).value is None
    alone = margin([a], [table([99], seed=2)], "coss", resamples=20)
    assert alone.value is not None
    assert (alone.low, alone.high) == (None, None)
    with pytest.raises(ValueError, match="no table"):
        margin([], [a], "coss")
    with pytest.raises(ValueError, match="twice"):
        margin([a], [pd.concat([a, a])], "coss")
    with pytest.raises(UsageError, match="unknown metric"):
        margin([a], [a], "cos")


def test_a_failed_image_costs_the_worst_on_its_side_only() -> None:
    a = table(range(6), seed=1)
    torn = a.assign(status=np.where((a["label"] == "fake") & (a["identity"] == "person 3"), "error", "ok"))
    fakes = a[a["label"] == "fake"]
    lost = fakes.loc[fakes["identity"] == "person 3", "coss"].sum() / len(fakes)
    assert margin([torn], [a], "coss", resamples=20).value == pytest.approx(-lost)


# --- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "low", "high", "expected"),
    [
        ({}, 0.1, 0.2, "holds"),
        ({}, -0.2, -0.1, "does not hold"),
        ({}, -0.1, 0.1, "undecided"),
        ({}, 0.0, 0.1, "undecided"),
        ({}, -0.1, 0.0, "undecided"),
        ({}, 0.0, 0.0, "undecided"),
        ({}, None, None, "undecided"),
        ({"relation": "<="}, -0.2, -0.1, "holds"),
        ({"relation": "<="}, 0.1, 0.2, "does not hold"),
        ({"relation": "<="}, -0.1, 0.2, "undecided"),
        ({"within": 0.02}, -0.01, 0.01, "holds"),
        ({"within": 0.02}, 0.0, 0.0, "holds"),
        ({"within": 0.02}, 0.01, 0.03, "undecided"),
        ({"within": 0.02}, -0.05, 0.05, "undecided"),
        ({"within": 0.02}, 0.03, 0.04, "does not hold"),
        ({"within": 0.02}, -0.04, -0.03, "does not hold"),
    ],
)
def test_an_interval_decides_if_it_lies_wholly_on_one_side(
    how: dict, low: float | None, high: float | None, expected: str
) -> None:
    asked = {"metrics": ["coss"], "left": {"method": "a", "protocol": "p", "test": "t"}, "offset": 0.5}
    value = None if low is None or high is None else (low + high) / 2
    assert outcome(Check.model_validate(asked | how), Margin(0.5, None, value, low, high)) == expected


NEAR = make_protocol("near")
FAR = make_protocol("far", tests=("hair", "smile", "age"), reference="hair", conditions=("clean", "jpeg-50"))
KNOWN = {"near": NEAR, "far": FAR}


def entry(method: str, level: float, protocol: Protocol = NEAR, *, scored: bool = True, **told: object) -> Entry:
    """A cell whose COSS is around a level; every condition costs 0.05 more than the one before."""
    names = [test.name for test in protocol.test]
    scores = make_scores(level, tests=names, conditions=protocol.conditions, seed=len(method) + told.get("seed", 0))
    cell = told.pop("cell", f"{method}-{protocol.name}-{told.get('seed', 0)}")
    record = make_record(method, scores, protocol=protocol, cell=cell, **told)
    return Entry(record=record, scores=scores if scored else None)


def side(method: str, protocol: str = "near", test: object = "hair", **more: object) -> dict:
    return {"method": method, "protocol": protocol, "test": test, **more}


def claims_of(*found: dict) -> Claims:
    checks = [{"metrics": ["coss"]} | check for check in found]
    return Claims.model_validate({"claim": [{"name": "c", "title": "C", "source": "S", "check": checks}]})


def verdict(entries: Sequence[Entry], *found: dict) -> Verdict:
    (made,) = judge(claims_of(*found), entries, KNOWN, data="faces", resamples=FEW)
    return made


BETTER = {"left": side("a"), "right": side("b")}


@pytest.mark.parametrize(
    ("levels", "check", "expected"),
    [
        ((0.8, 0.3), {}, "holds"),
        ((0.3, 0.8), {}, "does not hold"),
        ((0.5, 0.5), {}, "undecided"),
        ((0.8, 0.3), {"factor": 2.0}, "holds"),
        ((0.8, 0.6), {"factor": 2.0}, "does not hold"),
        ((0.8, 0.4), {"factor": 2.0}, "undecided"),
        ((0.8, 0.3), {"offset": 0.3}, "holds"),
        ((0.8, 0.3), {"offset": 0.7}, "does not hold"),
        ((0.8, 0.3), {"relation": "<="}, "does not hold"),
        ((0.5, 0.5), {"within": 0.1}, "holds"),
        ((0.8, 0.5), {"within": 0.1}, "does not hold"),
        ((0.6, 0.5), {"within": 0.1}, "undecided"),
        ((0.8, 0.3), {"metrics": ["coss", "psnr", "ssim"]}, "holds"),
        ((0.8, 0.3), {"metrics": ["mae"]}, "does not hold"),
        ((0.8, 0.3), {"metrics": ["mae"], "relation": "<="}, "holds"),
        ((0.6, 0.1), {"metrics": ["acc"]}, "holds"),  # a fake's score is 0.4 + COSS / 2, a real photo's 0.3
        ((0.1, 0.6), {"metrics": ["acc", "tpr"]}, "does not hold"),
        ((0.9, 0.3), {"metrics": ["auroc"]}, "undecided"),  # both are perfect
    ],
)
def test_verdicts_with_known_answers(levels: tuple[float, float], check: dict, expected: str) -> None:
    made = verdict([entry("a", levels[0]), entry("b", levels[1])], BETTER | check)
    assert made.outcome == expected
    assert {finding.outcome for finding in made.findings} == {expected}
    assert len(made.findings) == len(check.get("metrics", ["coss"]))


def test_the_numbers_of_a_verdict_are_those_of_the_records() -> None:
    a, b = entry("a", 0.8), entry("b", 0.3)
    (finding,) = verdict([a, b], BETTER | {"factor": 2.0, "offset": 0.1, "metrics": ["psnr"]}).findings
    values = [e.record.result("hair").metrics["psnr"].value for e in (a, b)]
    assert finding.margin.left == pytest.approx(values[0])
    assert finding.margin.right == pytest.approx(values[1])
    assert finding.margin.value == pytest.approx(values[0] - (2 * values[1] + 0.1))
    assert finding.margin.low < finding.margin.value < finding.margin.high


def test_auroc_is_pooled_and_told_apart() -> None:
    good, bad = entry("a", 0.8), entry("b", 0.8)
    mixed = bad.scores.assign(score=np.random.default_rng(0).uniform(size=len(bad.scores)))
    made = verdict([good, Entry(record=bad.record, scores=mixed)], BETTER | {"metrics": ["auroc"]})
    assert made.outcome == "holds"
    assert made.findings[0].margin.left == 1.0
    expected = roc_auc_score(mixed["label"] == "fake", mixed["score"])
    assert made.findings[0].margin.right == pytest.approx(expected)


def test_sides_may_stand_in_other_protocols_slices_and_conditions() -> None:
    entries = [entry("a", 0.5), entry("a", 0.7, FAR)]
    far = entries[1].record
    value = {(r.test, r.condition): r.metrics["coss"].value for r in far.results}
    made = verdict(
        entries,
        {"left": side("a", "far", "smile"), "right": side("a")},
        {"left": side("a", "far", "mean"), "right": side("a")},
        {"left": side("a", "far", ["hair", "age"], condition=["clean", "jpeg-50"]), "right": side("a")},
        {"left": side("a", "far", "age", condition="jpeg-50"), "factor": 0.9, "right": side("a", "far", "age")},
        {"left": side("a", "far", "age", condition="jpeg-50"), "relation": "<=", "right": side("a", "far", "age")},
        {"left": side("a", "far", "hair"), "offset": 0.9},
    )
    lefts = [finding.margin.left for finding in made.findings]
    assert lefts[0] == pytest.approx(value["smile", "clean"])
    assert lefts[1] == pytest.approx((value["smile", "clean"] + value["age", "clean"]) / 2)
    four = [value[test, condition] for test in ("hair", "age") for condition in ("clean", "jpeg-50")]
    assert lefts[2] == pytest.approx(sum(four) / 4)
    said = [finding.outcome for finding in made.findings]
    assert said == ["holds", "holds", "holds", "holds", "holds", "does not hold"]
    assert made.outcome == "does not hold"
    assert made.protocols == {"far": "far v1", "near": "near v1"}


def test_only_reference_slices_are_the_mean_by_themselves() -> None:
    protocol = make_protocol("near", reference="hair")
    assert Quantity(method="a", protocol="near", test="mean").tests(protocol) == ("hair",)
    assert Quantity(method="a", protocol="far", test="mean").tests(FAR) == ("smile", "age")


@pytest.mark.parametrize("metric", ["coss", "acc"])
def test_seeds_count_as_their_mean(metric: str) -> None:
    seeds = [entry("a", level, seed=k) for k, level in enumerate((0.1, 0.3, 0.8))]
    made = verdict([*seeds, entry("b", 0.2)], BETTER | {"metrics": [metric]})
    values = [e.record.result("hair").metrics[metric].value for e in seeds]
    assert made.findings[0].margin.left == pytest.approx(sum(values) / 3)
    assert [row.seeds for row in made.rows] == [(0, 1, 2), (0,)]


def test_the_order_of_the_records_does_not_matter() -> None:
    entries = [entry("a", 0.5, seed=k) for k in range(3)] + [entry("b", 0.5), entry("a", 0.7, FAR)]
    entries += [entry("b", 0.9, cell="old", finished="2025-01-01T00:00:00+00:00")]
    expected = claims_document([verdict(entries, BETTER)])
    for k in range(3):
        random.Random(k).shuffle(entries)
        assert claims_document([verdict(entries, BETTER)]) == expected


def test_the_newest_record_of_a_method_counts() -> None:
    old = entry("a", 0.2, cell="old", finished="2025-01-01T00:00:00+00:00")
    failed = entry("a", 0.2, cell="x", finished="2027-01-01T00:00:00+00:00", status="failed", reason="boom")
    assert verdict([old, failed, entry("a", 0.9), entry("b", 0.5)], BETTER).outcome == "holds"
    # The same method with other defaults is another row of a board, and again the newest counts.
    wide = entry("a", 0.1, cell="wide", finished="2027-01-01T00:00:00+00:00")
    options = wide.record.method.model_copy(update={"options": {"width": 16}})
    wide = Entry(record=wide.record.model_copy(update={"method": options}), scores=wide.scores)
    assert verdict([wide, entry("a", 0.9), entry("b", 0.5)], BETTER).outcome == "does not hold"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (None, "no record"),
        ({"status": "partial", "reason": "half of it"}, "partial: half of it"),
        ({"status": "failed", "reason": "boom"}, "failed: boom"),
        ({"flags": ["trial: at most 20 steps"]}, "trial: at most 20 steps"),
        ({"mapping": {"stgan": "stargan"}}, "departs from the protocol: stgan replaced by stargan"),
        ({"region": "difference"}, "departs from the protocol: region from difference"),
        ({"given": {"lr": 0.1}}, "only as b (lr=0.1)"),
        ({"scored": False}, "no per-image scores"),
        ({"protocol": make_protocol("near", version=2)}, "only for near v2"),
    ],
)
def test_what_does_not_count_is_not_measured_and_says_why(told: dict | None, reason: str) -> None:
    entries = [entry("a", 0.8), entry("z", 0.1), *([] if told is None else [entry("b", 0.3, **told)])]
    made = verdict(entries, BETTER)
    assert made.outcome == "not measured"
    assert made.findings[0].margin is None
    assert [(gap.method, gap.protocol) for gap in made.gaps] == [("b", "near")]
    assert made.gaps[0].reason.startswith(reason)
    assert commands([made]) == ["flbench run --method b --protocol near --data faces"]


def test_on_other_categories_only_runs_with_the_same_map_count() -> None:
    terms = Terms((("stgan", "stargan"),), "difference")
    told = {"mapping": {"stgan": "stargan"}, "region": "difference"}
    plain = [entry("a", 0.3), entry("b", 0.8)]
    mapped = [entry("a", 0.8, **told), entry("b", 0.3, **told)]
    (made,) = judge(claims_of(BETTER), [*plain, *mapped], KNOWN, terms=terms, resamples=FEW)
    assert made.outcome == "holds"
    (missing,) = judge(claims_of(BETTER), plain, KNOWN, terms=terms, resamples=FEW)
    assert missing.outcome == "not measured"
    assert commands([missing]) == [
        "flbench run --method a,b --protocol near --data faces --map stgan=stargan --region difference"
    ]
    assert "--map stgan=stargan" in claims_markdown([made])


def test_records_of_one_version_of_the_data_set_count() -> None:
    new = entry("a", 0.8, dataset_version="2", finished="2027-01-01T00:00:00+00:00")
    data = new.record.dataset.model_copy(update={"fingerprint": "e" * 64})
    new = Entry(record=new.record.model_copy(update={"dataset": data}), scores=new.scores)
    made = verdict([new, entry("b", 0.3)], BETTER)
    assert made.dataset.version == "2"
    assert [gap.reason for gap in made.gaps] == ["only on version 1 of the data set, dddddddd"]


def test_another_data_set_is_not_looked_at() -> None:
    entries = [entry("a", 0.8), entry("b", 0.3, dataset="others", cell="b-others")]
    assert verdict(entries, BETTER).gaps[0].reason == "no record"
    with pytest.raises(UsageError, match="faces and others"):
        judge(claims_of(BETTER), entries, KNOWN)
    with pytest.raises(UsageError, match="no record"):
        judge(claims_of(BETTER), [], KNOWN)
    (named,) = judge(claims_of(BETTER), [], KNOWN, data="faces")
    assert (named.outcome, named.dataset) == ("not measured", None)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"a": 0.8, "b": 0.3}, "not measured"),
        ({"a": 0.3, "b": 0.8}, "does not hold"),  # whatever the missing check would say
        ({"a": 0.5, "b": 0.5}, "not measured"),
        ({"a": 0.8, "b": 0.3, "c": 0.3}, "holds"),
        ({"a": 0.8, "b": 0.3, "c": 0.8}, "undecided"),
        ({"a": 0.8, "b": 0.3, "c": 0.95}, "does not hold"),
    ],
)
def test_a_claim_holds_if_all_of_its_checks_do(levels: dict[str, float], expected: str) -> None:
    entries = [entry(name, level) for name, level in levels.items()]
    assert verdict(entries, BETTER, {"left": side("a"), "right": side("c")}).outcome == expected


def test_claims_are_checked_against_the_protocols_first() -> None:
    with pytest.raises(UsageError, match="'nowhere' is no protocol"):
        verdict([entry("a", 0.5)], {"left": side("a", "nowhere"), "offset": 0.1})


# --- in print -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (BETTER | {"factor": 1.8}, "COSS, near v1, hair: a ≥ 1.8 × b"),
        (BETTER | {"within": 0.02}, "COSS, near v1, hair: a within 0.02 of b"),
        (BETTER | {"offset": -0.5, "relation": "<="}, "COSS, near v1, hair: a ≤ b - 0.5"),
        ({"left": side("a"), "offset": 0.9}, "COSS, near v1, hair: a ≥ 0.9"),
        (
            {"left": side("a", "far", condition="jpeg-50"), "factor": 0.9, "right": side("a", "far")},
            "COSS, a, far v1, hair: jpeg-50 ≥ 0.9 × clean",
        ),
        (
            {"left": side("a", "far", condition="jpeg-50"), "offset": 0.9},
            "COSS, far v1, hair, jpeg-50: a ≥ 0.9",
        ),
        (
            {"left": side("a", "far", ["hair", "age"]), "right": side("a", "near")},
            "COSS, a: far v1, mean of hair and age ≥ near v1, hair",
        ),
        (
            {"left": side("a", "far", "mean"), "right": side("b", "far", "mean")},
            "COSS, far v1, mean over the slices that rank: a ≥ b",
        ),
    ],
)
def test_a_check_in_words_says_once_what_both_sides_share(check: dict, expected: str) -> None:
    made = verdict([], check)
    assert described(made.findings[0], made) == expected


def test_tables_show_every_claim_its_numbers_and_what_is_missing() -> None:
    a, b = entry("a", 0.8), entry("b", 0.3, flags=["collapsed: flat maps"])
    made = verdict([a, b], BETTER | {"metrics": ["psnr"]}, {"left": side("a"), "right": side("c", "far")})
    (line,) = overview([made]).groups[0].rows
    assert [cell.text for cell in line] == ["C", "S", "not measured", "1 of 2"]
    measured, missing = checks(made).groups[0].rows
    found = made.findings[0].margin
    assert [cell.value for cell in measured[1:4]] == [found.left, found.right, found.value]
    assert measured[3].text == f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    assert [cell.text for cell in missing[1:]] == ["–", "–", "–", "not measured"]
    tables = claim_tables([made])
    assert [t.title for t in tables] == [
        "Claims on faces v1, fingerprint dddddddddddd",
        "not measured: C",
        "Records behind the numbers",
        "Not measured",
    ]
    assert [[cell.text for cell in row] for row in tables[2].groups[0].rows] == [
        ["a", "near v1", "0", "–"],
        ["b", "near v1", "0", "collapsed: flat maps"],
    ]
    assert [cell.text for cell in tables[3].groups[0].rows[0]] == ["c", "far", "no record"]


def test_one_command_measures_all_that_a_protocol_lacks() -> None:
    made = verdict([], BETTER, {"left": side("a", "far"), "right": side("b")}, {"left": side("a:x y"), "offset": 0.1})
    assert commands([made, made]) == [
        "flbench run --method 'a,b,a:x y' --protocol near --data faces",
        "flbench run --method a --protocol far --data faces",
    ]


def test_markdown_is_whole_and_safe() -> None:
    claims = claims_of(BETTER).model_dump(mode="json", exclude_defaults=True)
    claims["claim"][0] |= {"title": "A | <b>", "reported": "1 * 2 * 3"}
    made = judge(Claims.model_validate(claims), [entry("a", 0.8), entry("b", 0.3)], KNOWN, resamples=FEW)
    text = claims_markdown(made)
    assert r"### A \| &lt;b&gt;" in text
    assert r"**Holds.** S: 1 \* 2 \* 3" in text
    assert "| COSS, near v1, hair: a ≥ b | 0." in text
    assert "To measure" not in text
    assert "- `flbench run --method a,b --protocol near --data faces`" in claims_markdown([verdict([], BETTER)])


def test_the_document_is_json_with_every_number() -> None:
    made = [verdict([entry("a", 0.8), entry("b", 0.3)], BETTER, {"left": side("c"), "offset": 0.1})]
    (document,) = json.loads(json.dumps(claims_document(made), allow_nan=False))
    assert document["outcome"] == "not measured"
    assert document["data"] == {"name": "faces", "version": "1", "fingerprint": "d" * 64}
    assert document["records"] == ["a-near-0", "b-near-0"]
    assert document["checks"][0]["measured"] == made[0].findings[0].margin._asdict()
    assert document["checks"][1]["measured"] is None
    assert document["checks"][0]["left"] == {
        "method": "a",
        "protocol": "near",
        "test": ["hair"],
        "condition": ["clean"],
    }
    assert document["missing"] == [{"method": "c", "protocol": "near", "reason": "no record"}]
    assert document["commands"] == ["flbench run --method c --protocol near --data faces"]


# --- what ships ---------------------------------------------------------------------------------------------------


def test_the_claims_that_ship_name_only_what_there_is() -> None:
    methods = registry.methods().values()
    names = {entry.name for entry in methods} | {f"{entry.name}:{v}" for entry in methods for v in entry.variants}
    claims = registry.find_claims()
    claims.against({name: registry.find_protocol(name) for name in registry.protocols()}, names)
    assert len(claims.claim) >= 9
    assert all(claim.reported for claim in claims.claim)


# The paper's numbers, by protocol and test slice or method: COSS, PSNR, SSIM, ACC.
TABLE_2 = {
    "attention_map": (0.5008, 5.17, 0.1591, 1.0),
    "fakelocator:no-classifier": (0.9271, 22.54, 0.7533, None),
    "fakelocator": (0.8887, 22.83, 0.7823, 0.994),
    "fakelocator:l2": (0.9228, 23.09, 0.7497, 1.0),
    "fakelocator:dice": (0.7633, 12.89, 0.3585, 0.990),
    "fakelocator:focal": (0.3988, 20.79, 0.3301, 0.984),
}
TABLE_3 = {"stgan/bald": (0.9014, 27.51, 0.8572, 0.9985)}
TABLE_4 = {
    "bald: stgan/bald": (0.8887, 22.83, 0.7823, 0.994),
    "bald: attgan/bald": (0.8141, 21.46, 0.6688, 0.973),
    "bald: attgan/black_hair": (0.6932, 22.84, 0.3966, 0.513),
    "bald: attgan/eyeglasses": (0.6950, 23.52, 0.4168, 0.519),
    "smile: stgan/smile": (0.8844, 35.49, 0.9218, 1.0),
    "smile: stylegan/smile": (0.6176, 20.85, 0.5571, 0.588),
    "smile: stylegan/age": (0.3141, 18.59, 0.4958, 0.593),
    "smile: stylegan/gender": (0.6470, 16.50, 0.4301, 0.588),
}
TABLE_5 = {
    "fakelocator": {"black_hair": 0.237, "brown_hair": 0.588, "smile": 0.448},
    "fakelocator:fp": {"black_hair": 0.67, "brown_hair": 0.859, "smile": 0.752},
}


def reported(quantity: Quantity, test: str, metric: str) -> float:
    place = ("coss", "psnr", "ssim", "acc").index(metric)
    if quantity.protocol == "cross_attribute":
        assert metric == "acc"
        return TABLE_5[quantity.method][test]
    tables = {"losses": TABLE_2.get(quantity.method), "universal": TABLE_3.get(test), "cross_gan": TABLE_4.get(test)}
    return tables[quantity.protocol][place]


def test_the_papers_own_numbers_pass_every_check_that_it_has_numbers_for() -> None:
    checked = 0
    for claim in registry.find_claims().claim:
        for check in claim.check:
            if {quantity.protocol for quantity in check.quantities} & {
                "disorganization",
                "degradations",
                "binary_maps",
            }:
                continue  # figures without numbers
            for metric in check.metrics:
                left, right = (np.mean([reported(q, t, metric) for t in q.test]) for q in check.quantities)
                above = left - (check.factor * right + check.offset)
                assert outcome(check, Margin(left, right, above, above, above)) == "holds", (claim.name, metric)
                checked += 1
    assert checked == 3 + 12 + 3 + 6 + 5 + 3 + 4
