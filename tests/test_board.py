from __future__ import annotations

import random

import pandas as pd
import pytest
from factories import make_protocol, make_record, make_scores

from flbench.protocol import Protocol
from flbench.record import Value
from flbench.reporting.board import boards, merged
from flbench.reporting.model import Board, Entry, Key
from flbench.scoring.statistics import summarise

SAMPLE = make_protocol()
SLICES = ("near", "hair", "smile")
SEVERAL = make_protocol("several", tests=SLICES, reference="near", over="region")


def entry(method: str, level: float, protocol: Protocol = SAMPLE, *, scored: bool = True, **told: object) -> Entry:
    failed = told.pop("failed", 0)
    names = [test.name for test in protocol.test if test.name not in told.get("missing", ())]
    scores = make_scores(
        level, tests=names, conditions=protocol.conditions, failed=failed, seed=len(method) + told.get("seed", 0)
    )
    record = make_record(method, scores, protocol=protocol, **told)
    return Entry(record=record, scores=scores if scored else None)


def one(entries: list[Entry], protocol: Protocol = SAMPLE, **how: bool) -> Board:
    (board,) = boards(entries, {protocol.name: protocol}, **how)
    return board


def test_rows_are_ranked_by_the_primary_metric_with_ties() -> None:
    board = one([entry("worse", 0.3), entry("even", 0.8), entry("equal", 0.8), entry("worst", 0.1)])
    assert {row.method for row in board.rows[:2]} == {"even", "equal"}
    assert [row.method for row in board.rows[2:]] == ["worse", "worst"]
    assert [row.rank for row in board.rows] == ["1–2", "1–2", "3", "4"]


def test_a_metric_where_less_is_better_ranks_the_other_way() -> None:
    protocol = make_protocol(primary="mae")
    board = one([entry("bad", 0.3, protocol), entry("good", 0.8, protocol)], protocol)
    assert [(row.method, row.rank) for row in board.rows] == [("good", "1"), ("bad", "2")]


def test_the_order_of_the_records_does_not_matter() -> None:
    entries = [entry(name, level) for name, level in [("a", 0.5), ("bb", 0.5), ("ccc", 0.9), ("dddd", 0.2)]]
    entries += [entry("top", 1.0, reference=True), entry("no", 0.4, status="partial", reason="half is missing")]
    expected = one(entries)
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        shuffled = one(entries)
        assert [(r.method, r.rank, r.place, r.primary) for r in shuffled.rows] == [
            (r.method, r.rank, r.place, r.primary) for r in expected.rows
        ]


def test_reference_rows_have_no_rank_and_take_none() -> None:
    board = one([entry("method", 0.5), entry("oracle", 0.99, reference=True), entry("zeros", 0.01, reference=True)])
    assert [(row.method, row.place, row.rank) for row in board.rows] == [
        ("method", "ranked", "1"),
        ("oracle", "reference", ""),
        ("zeros", "reference", ""),
    ]


@pytest.mark.parametrize("status", ["partial", "failed", "skipped"])
def test_what_is_not_ok_stands_below_the_line_with_its_reason(status: str) -> None:
    board = one([entry("fine", 0.2), entry("odd", 0.9, status=status, reason="because")])
    assert [(row.method, row.place, row.reason) for row in board.rows] == [
        ("fine", "ranked", ""),
        ("odd", "unranked", "because"),
    ]


def test_without_scores_there_is_no_rank() -> None:
    (row,) = one([entry("bare", 0.9, scored=False)]).rows
    assert row.place == "unranked"
    assert "per-image scores" in row.reason
    (row,) = one([entry("bare", 0.9, scored=False)], rank=False).rows
    assert (row.place, row.rank) == ("ranked", "")


def test_a_protocol_with_other_content_ranks_nothing() -> None:
    changed = make_protocol(primary="psnr")
    (board,) = boards([entry("method", 0.5)], {"sample": changed})
    assert board.protocol is None
    assert board.rows[0].place == "unranked"
    assert "fingerprint" in board.rows[0].reason


def test_several_slices_rank_by_the_mean_over_all_but_the_reference() -> None:
    board = one([entry("flat", 0.6, SEVERAL)], SEVERAL)
    (row,) = board.rows
    assert board.ranking == ["hair", "smile"]
    values = [row.number(test, "coss").value for test in board.ranking]
    assert row.primary.value == pytest.approx(sum(values) / 2)
    assert row.primary.low < row.primary.value < row.primary.high


def test_the_interval_of_a_mean_over_equal_slices_is_that_of_the_pooled_images() -> None:
    (found,) = one([(whole := entry("flat", 0.6, SEVERAL))], SEVERAL).rows
    pooled = whole.scores[whole.scores["test"] != "near"].assign(test="pooled")
    pooled["sample_id"] = whole.scores["test"] + pooled["sample_id"]
    expected = summarise(pooled, ["coss"])["coss"]
    assert found.primary.value == pytest.approx(expected.value)
    assert found.primary.low == pytest.approx(expected.low, abs=1e-9)
    assert found.primary.high == pytest.approx(expected.high, abs=1e-9)


def test_only_reference_slices_rank_by_themselves() -> None:
    protocol = make_protocol(reference="hair")
    assert one([entry("method", 0.5, protocol)], protocol).ranking == ["hair"]


def test_seeds_become_mean_and_standard_deviation() -> None:
    values = [Value(value=0.2, low=0.1, high=0.3, n=4, failed=1), Value(value=0.4, n=4, failed=2)]
    number = merged(values, 2)
    assert number.value == pytest.approx(0.3)
    assert number.std == pytest.approx(0.2 / 2**0.5)
    assert (number.low, number.failed) == (None, 3)
    assert merged([*values, Value(value=None)], 3).value is None


def test_seeds_share_a_row_and_options_do_not() -> None:
    board = one([entry("m", 0.5, seed=1), entry("m", 0.5, seed=0), entry("m", 0.5, given={"lr": 0.1})])
    assert {(row.method, row.seeds) for row in board.rows} == {("m", (0, 1)), ("m (lr=0.1)", (0,))}


def test_a_bad_seed_stands_alone_below_the_line() -> None:
    board = one([entry("m", 0.5), entry("m", 0.5, seed=1, status="failed", reason="boom")])
    assert [(row.place, row.seeds) for row in board.rows] == [("ranked", (0,)), ("unranked", (1,))]


def test_the_newer_record_of_the_same_thing_is_shown() -> None:
    old = entry("m", 0.2, cell="a", finished="2026-01-01T00:00:00+00:00")
    new = entry("m", 0.8, cell="b", finished="2026-02-01T00:00:00+00:00")
    failed = entry("m", 0.8, cell="c", finished="2026-03-01T00:00:00+00:00", status="failed", reason="boom")
    board = one([new, failed, old])
    assert [row.record.cell for row in board.rows] == ["b"]
    assert board.shadowed == 2


def test_a_trial_is_listed_and_never_ranked() -> None:
    board = one([entry("m", 0.5), entry("m", 0.6, cell="t", flags=["trial: at most 20 steps"])])
    assert [(row.place, row.reason) for row in board.rows] == [
        ("ranked", ""),
        ("unranked", "trial: at most 20 steps"),
    ]


def test_other_categories_and_regions_have_boards_of_their_own() -> None:
    entries = [
        entry("m", 0.5, SEVERAL),
        entry("m", 0.5, SEVERAL, mapping={"stgan": "stargan"}),
        entry("m", 0.5, SEVERAL, region="difference"),
        entry("m", 0.5, SEVERAL, missing=("smile",), status="partial", reason="not in the data set: smile"),
        entry("m", 0.5, SEVERAL, dataset_version="2"),
    ]
    made = boards(entries, {"several": SEVERAL})
    assert len(made) == 5
    assert [board.key.as_written for board in made].count(True) == 2
    said = {board.key.departures for board in made}
    assert said == {"", "stgan replaced by stargan", "region from difference", "without smile"}
    mapped = next(board for board in made if board.key.mapping)
    assert mapped.tests[0].categories == ("stargan/near",)


def test_a_slice_that_no_row_has_does_not_keep_a_board_from_ranking() -> None:
    told = {"missing": ("smile",), "status": "partial", "reason": "not in the data set: smile"}
    (board,) = boards(
        [entry("m", 0.5, SEVERAL, **told), entry("bad", 0.9, SEVERAL, failed=5, **told)], {"several": SEVERAL}
    )
    assert [(row.method, row.place) for row in board.rows] == [("m", "ranked"), ("bad", "unranked")]
    assert board.ranking == ["hair"]


def test_flags_and_failures_are_noted() -> None:
    (row,) = one([entry("m", 0.5, failed=2, flags=["collapsed: flat"])]).rows
    assert row.notes == ("collapsed: flat", "hair: 2 failed images counted with the worst value")


def test_an_image_that_failed_under_one_seed_is_paired_as_failed() -> None:
    good, bad = entry("m", 0.8), entry("m", 0.8, seed=1)
    torn = bad.scores.copy()
    torn.loc[torn["label"] == "fake", ["status", "coss"]] = ["error", None]
    board = one([good, Entry(record=bad.record, scores=torn), entry("low", 0.3)])
    # Under seed 1 every fake failed, so in the pairs the first row is worth 0 and leads nobody by much.
    assert [row.method for row in board.rows] == ["m", "low"]
    assert board.rows[0].rank == "1"
    assert pd.isna(torn["coss"]).any()


def test_keys_say_what_departs() -> None:
    key = Key.of(make_record("m", protocol=SEVERAL, mapping={"stgan": "a", "attgan": "b"}, missing=["x", "y"]))
    assert key.departures == "attgan replaced by b; stgan replaced by a; without x and y"
    assert not key.as_written


def test_added_conditions_have_a_board_of_their_own() -> None:
    told = [
        entry("m", 0.5),
        entry("m", 0.5, added=["blur-5", "jpeg-50"]),
        entry("mm", 0.5, added=["jpeg-50", "blur-5"]),
    ]
    plain, more = sorted(boards(told, {"sample": SAMPLE}), key=lambda board: board.key.added)
    assert (plain.key.departures, plain.key.as_written) == ("", True)
    assert (more.key.departures, more.key.as_written) == ("with blur-5 and jpeg-50 added", False)
    assert len(more.rows) == 2


def test_gamma_is_taken_from_the_record_and_averaged_over_seeds() -> None:
    protocol = make_protocol(conditions=("clean", "jpeg-50"))
    first, second = entry("m", 0.5, protocol), entry("m", 0.7, protocol, seed=1)
    of = [found.record.result("hair", "jpeg-50").gamma["psnr"] for found in (first, second)]
    (row,) = one([first], protocol).rows
    assert row.gamma("hair", "psnr", "jpeg-50") == merged(of[:1], 1)
    assert row.gamma("hair", "psnr", "clean") is None
    (row,) = one([first, second], protocol).rows
    number = row.gamma("hair", "psnr", "jpeg-50")
    assert number.value == pytest.approx((of[0].value + of[1].value) / 2)
    assert number.std == pytest.approx(abs(of[0].value - of[1].value) / 2**0.5)


@pytest.mark.parametrize("metric", ["acc", "auroc", "tpr", "tnr", "false_alarm", "psnr", "mae"])
def test_the_mean_of_every_metric_over_slices_has_its_interval(metric: str) -> None:
    protocol = make_protocol("means", tests=("hair", "smile"), metrics=(metric,), primary=metric)
    found = entry("m", 0.55, protocol)
    (row,) = one([found], protocol).rows
    values = [found.record.result(test).metrics[metric].value for test in ("hair", "smile")]
    assert row.primary.value == pytest.approx(sum(values) / 2)
    assert row.primary.low <= row.primary.value <= row.primary.high
    if metric != "auroc":  # of equally large slices, the mean is that of all images together
        pooled = found.scores.assign(test="pooled", sample_id=found.scores["test"] + found.scores["sample_id"])
        expected = summarise(pooled, [metric])[metric]
        assert (row.primary.low, row.primary.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_metric_whose_scores_are_not_there_has_a_mean_without_interval() -> None:
    protocol = make_protocol("means", tests=("hair", "smile"))
    found = entry("m", 0.55, protocol)
    bare = Entry(record=found.record, scores=found.scores.drop(columns="coss"))
    (row,) = one([bare], protocol).rows
    assert row.primary.value is not None
    assert row.primary.low is None


def test_photos_of_other_databases_rank_by_false_alarms() -> None:
    document = make_protocol(metrics=("false_alarm", "tnr"), primary="false_alarm").model_dump(mode="json")
    document["test"] = [{"name": "elsewhere", "fit": "hair", "photos": "other"}]
    protocol = Protocol.model_validate(document)
    entries = []
    for method, level in (("noisy", 0.3), ("quiet", 0.9)):
        scores = make_scores(level, tests=("elsewhere",))
        scores = scores[scores["label"] == "real"]
        entries.append(Entry(record=make_record(method, scores, protocol=protocol), scores=scores))
    board = one(entries, protocol)
    assert [(row.method, row.rank) for row in board.rows] == [("quiet", "1"), ("noisy", "2")]
    assert (board.tests[0].categories, board.tests[0].fakes, board.tests[0].fit) == ((), 0, "hair")
    (untold,) = boards(entries, {})
    assert [(test.name, test.categories) for test in untold.tests] == [("elsewhere", ())]


def test_many_notes_of_one_kind_are_one() -> None:
    tests = [f"t{i}" for i in range(5)]
    protocol = make_protocol("many", tests=tests)
    (row,) = one([entry("m", 0.5, protocol, failed=2)], protocol).rows
    assert row.notes == ("10 failed images counted with the worst value, in 5 of 5 test slices and conditions",)
