"""What is compared of two records of one question, and what decides."""

import json

import pytest
from factories import make_protocol, make_record, make_scores

from flbench.record import Convention, Record
from flbench.reporting.reproduction import (
    DIFFERS,
    EQUAL,
    TOLERANCE,
    WITHIN,
    Line,
    Reproduction,
    hold_against,
    reproduction_document,
    reproduction_table,
)

MACHINE = {"machine": "x86_64", "system": "Linux", "instructions": "AVX2", "device": "cpu, 2 threads", "threads": 2}
MACHINE |= {"packages": {"torch": "2.0", "numpy": "2.1"}, "python": "3.11.1", "commit": None}
PROTOCOL = make_protocol(conditions=("clean", "jpeg-50"))
SCORES = make_scores(0.8, conditions=("clean", "jpeg-50"))


def measured(**provenance: object) -> Record:
    conventions = {"f1/0.5": Convention(value=0.5, n=20, undefined=0)}
    record = make_record(scores=SCORES, protocol=PROTOCOL, conventions=conventions, cell="a--1")
    return record.model_copy(update={"provenance": MACHINE | provenance})


def moved(record: Record, metric: str, by: float, *, gamma: bool = False, **count: int) -> Record:
    """Return a record with one value of the last condition changed."""
    result = record.results[-1]
    part = result.gamma if gamma else result.metrics
    old = part[metric]
    assert old.value is not None
    new = {**part, metric: old.model_copy(update={"value": old.value + by} | count)}
    last = result.model_copy(update={"gamma" if gamma else "metrics": new})
    return record.model_copy(update={"results": (*record.results[:-1], last)})


def line(found: Reproduction, what: str) -> Line:
    (one,) = (line for line in found.lines if line.what == what)
    return one


def test_the_same_bits_on_the_same_kind_of_machine() -> None:
    found = hold_against(measured(finished="then"), measured(finished="now"), SCORES, SCORES.sample(frac=1))
    assert found.reproduced
    assert found.tolerance == 0
    assert {one.verdict for one in found.lines} == {EQUAL}
    assert all(one.judged for one in found.lines)
    assert (found.elsewhere, found.notes) == ((), ())
    assert {"coss", "γ", "conventions", "scores of each image", "digest of the weights"} <= {
        o.what for o in found.lines
    }


def test_one_bit_differs_and_is_named() -> None:
    found = hold_against(measured(), moved(measured(), "coss", 1e-12))
    assert not found.reproduced
    assert line(found, "coss").where == "hair, jpeg-50"
    assert line(found, "coss").difference == pytest.approx(1e-12, rel=1e-3)
    assert line(found, "digest of the results").verdict == DIFFERS
    assert "2 of" in found.summary
    assert "coss by 1e-12 (hair, jpeg-50)" in found.summary


@pytest.mark.parametrize(
    "other",
    [{"threads": 1}, {"instructions": "AVX512"}, {"device": "H100"}, {"packages": {"torch": "2.1", "numpy": "2.1"}}],
)
def test_elsewhere_a_tolerance_decides(other: dict[str, object]) -> None:
    here = measured(**other)
    found = hold_against(measured(), moved(here, "coss", 1e-7))
    assert found.tolerance == TOLERANCE
    assert len(found.elsewhere) == 1
    assert found.reproduced
    assert line(found, "coss").verdict == WITHIN
    assert not line(found, "digest of the results").judged
    assert not hold_against(measured(), moved(here, "coss", 1e-5)).reproduced
    assert hold_against(measured(), moved(here, "coss", 1e-5), tolerance=1e-4).reproduced
    assert not hold_against(measured(), moved(here, "coss", 1e-7), tolerance=0).reproduced


def test_the_tolerance_of_decibels_is_a_share() -> None:
    here = measured(threads=1)
    assert line(hold_against(measured(), moved(here, "psnr", 2e-5)), "psnr").verdict == WITHIN
    assert line(hold_against(measured(), moved(here, "psnr", 1e-4)), "psnr").verdict == DIFFERS
    assert line(hold_against(measured(), moved(measured(), "psnr", 1e-9)), "psnr").verdict == DIFFERS


def test_what_a_record_does_not_say_counts_as_another_machine() -> None:
    old = measured()
    old.provenance.pop("instructions")
    assert hold_against(old, measured()).elsewhere == ("instructions not recorded, here AVX2",)


def test_a_count_decides_everywhere_and_gamma_only_where_bits_are_promised() -> None:
    here = measured(threads=1)
    assert line(hold_against(measured(), moved(here, "coss", 0, undefined=1)), "status and counts").where == (
        "coss of hair, jpeg-50"
    )
    assert not hold_against(measured(), moved(here, "coss", 0, undefined=1)).reproduced
    assert hold_against(measured(), moved(here, "coss", 0.1, gamma=True)).reproduced
    assert not hold_against(measured(), moved(measured(), "coss", 0.1, gamma=True)).reproduced


def test_a_value_that_is_undefined_on_one_side_differs() -> None:
    there = measured()
    result = there.results[0]
    gone = result.metrics["acc"].model_copy(update={"value": None})
    other = result.model_copy(update={"metrics": {**result.metrics, "acc": gone}})
    found = hold_against(there, there.model_copy(update={"results": (other, *there.results[1:])}), tolerance=1e9)
    assert line(found, "acc").verdict == DIFFERS
    assert line(found, "acc").difference is None
    assert not found.reproduced
    json.dumps(reproduction_document(found), allow_nan=False)


def test_weights_are_compared_bit_for_bit() -> None:
    there, here = measured(), measured()
    here = here.model_copy(update={"method": here.method.model_copy(update={"weights": "0" * 64})})
    assert [one.what for one in hold_against(there, here).wrong] == ["digest of the weights"]
    assert hold_against(there, here, tolerance=1e-6).reproduced


def test_every_image_is_compared() -> None:
    other = SCORES.copy()
    other.loc[0, "coss"] += 1e-9
    found = line(hold_against(measured(), measured(), SCORES, other), "scores of each image")
    assert (found.verdict, found.values) == (DIFFERS, len(SCORES))
    assert found.where == "coss hair, clean, f-hair-0"
    assert not line(hold_against(measured(), measured(threads=1), SCORES, other), "scores of each image").judged
    for changed, where in (
        (SCORES.drop(columns="coss"), "columns"),
        (SCORES.iloc[1:], "images"),
        (SCORES.assign(status="error"), "status"),
        (SCORES.assign(coss=None).astype({"coss": float}), "coss"),
    ):
        found = line(hold_against(measured(), measured(), SCORES, changed), "scores of each image")
        assert found.verdict == DIFFERS, where
        assert found.where.startswith(where)


def test_notes_tell_versions_and_what_could_not_be_compared() -> None:
    old = measured(packages={"torch": "2.0", "numpy": "1.9"}, python="3.12.0", dirty=True)
    here = measured().model_copy(update={"cell": "a--2"})
    notes = "\n".join(hold_against(old, here).notes)
    for words in ("numpy 1.9, here 2.1", "python 3.12.0", "file of the method", "uncommitted", "no per-image scores"):
        assert words in notes
    assert "torch" not in notes


def test_the_table_says_what_was_compared() -> None:
    table = reproduction_table(hold_against(measured(), moved(measured(), "coss", 1e-3), SCORES, SCORES))
    assert table.title == "a--1: the same bits"
    cells = {row[0].text: [cell.text for cell in row] for group in table.groups for row in group.rows}
    assert cells["coss"][1:] == ["differs", "", "6", "0.001", "hair, jpeg-50"]
    assert cells["psnr"][1] == "equal"
    assert "within 1e-06" in reproduction_table(hold_against(measured(), measured(threads=1))).title
