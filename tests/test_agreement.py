import json
import math
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from factories import make_protocol, make_record, make_scores, write_cell

from flbench.cli import main
from flbench.protocol import Protocol
from flbench.record import Record, Value
from flbench.record import Result as Measured
from flbench.registry import find_protocol
from flbench.reporting.agreement import Agreement, Comparison, agreement_document, agreements
from flbench.reporting.agreement_tables import agreement_markdown, agreement_tables, sides, summary, values, verdicts
from flbench.reporting.model import Entry

PROTOCOL = make_protocol(metrics=("coss", "mae"))
LEFT, RIGHT = "garden", "street"


def told(method: str, dataset: str, coss: float | None, *, half: float | None = None, **more: object) -> Entry:
    """Return a cell without per-image scores: a value, and an interval of half a width on either side."""
    value = Value(value=coss)
    if coss is not None and half is not None:
        value = Value(value=coss, low=coss - half, high=coss + half)
    mae = Value(value=None if coss is None else 1 - coss)
    result = Measured(
        test="hair",
        condition="clean",
        categories=("stgan/hair",),
        fakes=9,
        reals=9,
        metrics={"coss": value, "mae": mae},
    )
    record = make_record(method, protocol=PROTOCOL, dataset=dataset, **more)  # type: ignore[arg-type]
    return Entry(record=record.model_copy(update={"results": (result,)}))


def scored(method: str, dataset: str, level: float, *, noise: float = 0.0, **more: object) -> Entry:
    """Return a cell with per-image scores around a level; what is hard is the same for all methods."""
    seed = more.get("seed", 0)
    scores = make_scores(level, noise=noise, seed=len(method) + int(str(seed)))
    record = make_record(method, scores, protocol=PROTOCOL, dataset=dataset, **more)  # type: ignore[arg-type]
    return Entry(record=record, scores=scores)


def both(left: Mapping[str, float | None], right: Mapping[str, float | None], **more: float) -> list[Entry]:
    """Return hand-made cells on both data sets."""
    return [told(name, LEFT, value, **more) for name, value in left.items()] + [
        told(name, RIGHT, value, **more) for name, value in right.items()
    ]


def compared(entries: Sequence[Entry], protocol: Protocol = PROTOCOL) -> Agreement:
    (agreement,) = agreements(entries, {protocol.name: protocol}, resamples=200)
    return agreement


def by(agreement: Agreement, metric: str = "coss") -> Comparison:
    (found,) = [comparison for comparison in agreement.comparisons if comparison.metric == metric]
    return found


def test_order_tau_and_pairs_are_those_worked_out_by_hand() -> None:
    left = {"a": 0.90, "b": 0.70, "c": 0.50, "d": 0.48}
    right = {"a": 0.80, "b": 0.60, "c": 0.70, "d": 0.20}
    found = by(compared(both(left, right, half=0.04)))
    assert [(line.method, line.places) for line in found.lines] == [
        ("a", (1, 1)),
        ("b", (2, 3)),
        ("c", (3, 2)),
        ("d", (4, 4)),
    ]
    verdicts = {(pair.first, pair.second): pair.verdict for pair in found.pairs}
    assert verdicts == {
        ("a", "b"): "agree",
        ("a", "c"): "agree",  # [.86, .94] over [.46, .54]; [.76, .84] over [.66, .74]
        ("a", "d"): "agree",
        ("b", "c"): "opposite",
        ("b", "d"): "agree",
        ("c", "d"): "undecided",  # [.46, .54] and [.44, .52] touch on the left
    }
    tally = found.tally(references=False)
    assert tally.tau == pytest.approx((5 - 1) / 6)
    assert (tally.methods, tally.agree, tally.opposite, tally.undecided) == (4, 4, 1, 1)


def test_less_is_better_for_some_metrics() -> None:
    found = by(compared(both({"a": 0.9, "b": 0.7, "c": 0.4}, {"a": 0.2, "b": 0.9, "c": 0.4})), "mae")
    assert {line.method: line.places for line in found.lines} == {"a": (1, 3), "b": (2, 1), "c": (3, 2)}
    assert found.tally(references=False).tau == pytest.approx((1 - 2) / 3)


def test_equal_values_share_a_place_and_count_in_tau_b() -> None:
    found = by(compared(both({"a": 0.9, "b": 0.7, "c": 0.7, "d": 0.5}, {"a": 0.9, "b": 0.8, "c": 0.6, "d": 0.6})))
    assert [line.places for line in found.lines] == [(1, 1), (2, 2), (2, 3), (4, 3)]
    # Four pairs agree, none disagrees; one pair is tied on either side: 4 / sqrt((6 - 1) (6 - 1)).
    assert found.tally(references=False).tau == pytest.approx(0.8)


def test_orders_without_any_difference_have_no_tau() -> None:
    found = by(compared(both({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1})))
    assert found.tally(references=False).tau is None
    assert found.lines[0].places == (1, 1)
    assert found.lines[1].places == (1, 2)


def test_tau_is_that_of_counting_every_pair() -> None:
    rng = random.Random(3)
    for _ in range(10):
        names = "abcdefg"
        left, right = ({name: rng.randrange(1, 5) / 10 for name in names} for _ in range(2))
        score, ours, theirs = 0, 0, 0
        for one, other in combinations(names, 2):
            first = (left[one] > left[other]) - (left[one] < left[other])
            second = (right[one] > right[other]) - (right[one] < right[other])
            score, ours, theirs = score + first * second, ours + first**2, theirs + second**2
        found = by(compared(both(left, right))).tally(references=False)
        assert found.tau == pytest.approx(score / math.sqrt(ours * theirs))


@pytest.mark.parametrize("lacking", [{}, {"mae": Value(value=None, undefined=9)}], ids=["absent", "undefined"])
def test_a_value_on_one_data_set_only_is_shown_and_counts_for_nothing(lacking: dict[str, Value]) -> None:
    left = {"a": 0.9, "b": 0.7, "c": 0.5}
    entries = both(left, left, half=0.01)
    odd = entries[4].record
    result = odd.results[0]
    gone = result.model_copy(update={"metrics": {"coss": result.metrics["coss"]} | lacking})
    entries[4] = Entry(record=odd.model_copy(update={"results": (gone,)}))
    agreement = compared(entries)
    assert by(agreement, "coss").tally(references=False).methods == 3
    found = by(agreement, "mae")
    assert [(line.method, line.places) for line in found.lines] == [("a", (1, 1)), ("c", (2, 2)), ("b", None)]
    assert found.tally(references=False).methods == 2
    assert len(found.pairs) == 1
    shown = [[cell.text for cell in row] for row in values(agreement, found).groups[0].rows]
    assert shown[2] == ["b", "0.300", "–", "–", "–"]


def test_a_paired_bootstrap_tells_apart_what_intervals_cannot() -> None:
    entries = [scored(*cell) for cell in (("a", LEFT, 0.62), ("b", LEFT, 0.60), ("a", RIGHT, 0.45), ("b", RIGHT, 0.42))]
    (pair,) = by(compared(entries)).pairs
    assert (pair.first, pair.second, pair.verdict) == ("a", "b", "agree")
    numbers = by(compared(entries)).lines
    assert numbers[0].numbers[0].low < numbers[1].numbers[0].high  # type: ignore[operator]
    without = [Entry(record=entry.record) for entry in entries]
    agreement = compared(without)
    assert [pair.verdict for pair in by(agreement).pairs] == ["undecided"]
    assert agreement.unpaired == (("a", "b"), ("a", "b"))
    assert (
        "unpaired",
        "a and b on garden v1: no per-image scores, so told apart only by intervals that do not touch",
    ) in (verdicts(agreement, by(agreement)))


def test_what_one_data_set_leaves_open_is_undecided() -> None:
    close = [scored("a", RIGHT, 0.5, noise=0.2), scored("bbbb", RIGHT, 0.5, noise=0.2)]
    for clear in ([("a", 0.9), ("bbbb", 0.1)], [("a", 0.1), ("bbbb", 0.9)]):
        (pair,) = by(compared([*(scored(name, LEFT, level) for name, level in clear), *close])).pairs
        assert pair.verdict == "undecided"
        assert (pair.first, pair.second) == (("a", "bbbb") if clear[0][1] > 0.5 else ("bbbb", "a"))


def test_the_opposite_way_is_named_by_the_better_one_on_the_first_data_set() -> None:
    entries = [scored("a", LEFT, 0.3), scored("b", LEFT, 0.6), scored("a", RIGHT, 0.6), scored("b", RIGHT, 0.3)]
    agreement = compared(entries)
    for metric in ("coss", "mae"):
        assert ("opposite", "b better than a on garden v1, worse on street v1") in verdicts(
            agreement, by(agreement, metric)
        )
        assert by(agreement, metric).tally(references=False).tau == pytest.approx(-1)


def test_seeds_count_by_their_mean() -> None:
    # By its mean of .60 the first loses to .61, though its first seed would win.
    cells = ((0.70, 0), (0.50, 1))
    entries = [scored("seeded", side, level, seed=seed) for side in (LEFT, RIGHT) for level, seed in cells]
    entries += [scored("single", LEFT, 0.61), scored("single", RIGHT, 0.61)]
    entries += [
        scored("twice", side, level, seed=seed) for side in (LEFT, RIGHT) for level, seed in ((0.7, 0), (0.4, 1))
    ]
    found = by(compared(entries))
    assert [(line.method, line.places) for line in found.lines] == [
        ("single", (1, 1)),
        ("seeded", (2, 2)),
        ("twice", (3, 3)),
    ]
    single, seeded, _ = (line.numbers[0] for line in found.lines)
    assert seeded.value == pytest.approx(single.value - 0.01)  # type: ignore[operator]
    assert seeded.std == pytest.approx(0.2 / math.sqrt(2))
    assert [(pair.first, pair.second, pair.verdict) for pair in found.pairs] == [
        ("single", "seeded", "agree"),
        ("single", "twice", "agree"),
        ("seeded", "twice", "agree"),
    ]


def test_a_seed_without_scores_leaves_its_method_to_intervals() -> None:
    entries = [scored(*cell) for cell in (("a", LEFT, 0.9), ("b", LEFT, 0.5), ("a", RIGHT, 0.9))]
    entries += [scored("b", RIGHT, 0.5), Entry(record=scored("b", RIGHT, 0.5, seed=1).record)]
    agreement = compared(entries)
    assert agreement.unpaired == ((), ("b",))
    assert [pair.verdict for pair in by(agreement).pairs] == ["undecided"]  # several seeds have no interval


def test_reference_rows_are_marked_and_counted_apart() -> None:
    entries = both({"a": 0.6, "b": 0.4}, {"a": 0.3, "b": 0.4}, half=0.01)
    for side, value in ((LEFT, 0.9), (RIGHT, 0.8)):
        entries.append(told("best", side, value, half=0.01, reference=True))
    agreement = compared(entries)
    found = by(agreement)
    assert [(line.method, line.reference, line.places) for line in found.lines] == [
        ("a", False, (2, 3)),
        ("b", False, (3, 2)),
        ("best", True, (1, 1)),
    ]
    alone, with_them = found.tally(references=False), found.tally(references=True)
    assert (alone.tau, alone.agree, alone.opposite) == (pytest.approx(-1), 0, 1)
    assert (with_them.tau, with_them.agree, with_them.opposite) == (pytest.approx(1 / 3), 2, 1)
    label, rows = values(agreement, found).groups[1]
    assert label == "Reference rows"
    assert [cell.text for cell in rows[0]] == ["best (reference)", "0.900 [.890, .910]", "1", "0.800 [.790, .810]", "1"]


def test_a_mapped_run_is_compared_and_told() -> None:
    mapping = {"stgan": "stargan"}
    entries = [told(name, LEFT, level) for name, level in (("a", 0.5), ("b", 0.4))]
    entries += [told(name, RIGHT, level, mapping=mapping) for name, level in (("a", 0.5), ("b", 0.4))]
    agreement = compared(entries)
    rows = [[cell.text for cell in row] for row in sides(agreement).groups[0].rows]
    assert rows == [
        ["garden v1", "hair", "stgan/hair", "9", "9", "–"],
        ["street v1", "hair", "stargan/hair", "9", "9", "stgan replaced by stargan"],
    ]
    assert by(agreement).tally(references=False).tau == pytest.approx(1)
    assert agreement_document(agreement)["data"][1]["mapping"] == mapping


def test_equally_mapped_runs_come_first() -> None:
    mapping = {"stgan": "stargan"}
    entries = [told("a", LEFT, 0.5), told("a", LEFT, 0.5, mapping=mapping), told("a", RIGHT, 0.5, mapping=mapping)]
    found = agreements(entries, {PROTOCOL.name: PROTOCOL})
    assert [[bool(board.key.mapping) for board in agreement.boards] for agreement in found] == [
        [True, True],
        [False, True],
    ]


def test_only_one_version_of_one_protocol_on_two_data_sets_is_compared() -> None:
    later = make_protocol(version=2, metrics=("coss", "mae"))
    other = told("a", RIGHT, 0.5).record
    newer = other.model_copy(
        update={"protocol": other.protocol.model_copy(update={"version": 2, "fingerprint": later.fingerprint})}
    )
    one = [told("a", LEFT, 0.5), told("b", LEFT, 0.4)]
    assert agreements(one, {PROTOCOL.name: PROTOCOL}) == []
    assert agreements([*one, Entry(record=newer)], {PROTOCOL.name: later}) == []


def test_versions_of_a_data_set_are_two_data_sets() -> None:
    agreement = compared([told("a", LEFT, 0.5), told("a", LEFT, 0.5, dataset_version="2")])
    assert agreement.labels == ("garden v1", "garden v2")


def test_what_cannot_be_compared_is_told() -> None:
    entries = both({"a": 0.5, "here": 0.4}, {"a": 0.5, "there": 0.4})
    entries += [
        told("a", LEFT, 0.6, given={"lr": 0.1}),
        told("quick", RIGHT, 0.4, flags=["trial: at most 2 steps on hair"]),
    ]
    assert compared(entries).left_out == (
        ("quick on street v1", "trial: at most 2 steps on hair"),
        ("a (lr=0.1) on garden v1", "no row with these options on street v1"),
        ("here on garden v1", "no row with these options on street v1"),
        ("there on street v1", "no row with these options on garden v1"),
    )


def test_the_summary_adds_up_the_slices() -> None:
    protocol = make_protocol(tests=("hair", "smile"), metrics=("coss",))
    entries = []
    for side, levels in ((LEFT, (0.6, 0.4)), (RIGHT, (0.6, 0.4))):
        for method, level in zip("ab", levels, strict=True):
            scores = make_scores(level, tests=("hair", "smile"), noise=0)
            if side == RIGHT:  # on the smile alone the order is the other way round
                scores.loc[scores["test"] == "smile", "coss"] = 1 - scores.loc[scores["test"] == "smile", "coss"]
            record = make_record(method, scores, protocol=protocol, dataset=side)
            entries.append(Entry(record=record, scores=scores))
    agreement = compared(entries, protocol)
    (row, with_references) = [[cell.text for cell in group.rows[0]] for group in summary(agreement).groups]
    assert row == ["COSS ↑", "methods", "0.00", "1", "1", "0"]
    assert with_references[2:] == row[2:]


def some() -> list[Entry]:
    entries = [scored(name, side, level) for side in (LEFT, RIGHT) for name, level in (("a", 0.5), ("b|c", 0.4))]
    return [*entries, *(scored("d", side, 0.7, seed=seed) for side in (LEFT, RIGHT) for seed in (0, 1))]


def test_the_text_depends_neither_on_order_nor_on_the_run() -> None:
    entries = some()
    expected = agreement_markdown([compared(entries)])
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        assert agreement_markdown([compared(entries)]) == expected
    assert "b\\|c" in expected
    assert not any(line.endswith(" ") for line in expected.splitlines())
    assert expected.index("### COSS") < expected.index("### MAE") < expected.index("## Pairs in sample v1")


def test_the_terminal_has_the_summary_last_and_the_document_has_all_numbers() -> None:
    agreement = compared(some())
    assert agreement_tables([agreement])[-1].title == "Pairs in sample v1: garden v1 and street v1"
    document = json.loads(json.dumps(agreement_document(agreement), allow_nan=False))
    assert document["summary"]["coss"]["methods"]["agree"] == 3
    assert document["comparisons"][0]["lines"][0]["places"] == [1, 1]
    assert {pair["verdict"] for pair in document["comparisons"][0]["pairs"]} == {"agree"}


IN_GAN = find_protocol("in_gan")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for side, levels in ((LEFT, (0.6, 0.4)), (RIGHT, (0.3, 0.5))):
        for method, level in zip(("alpha", "beta"), levels, strict=True):
            scores = make_scores(level, tests=("blond_hair",), noise=0)
            cell = f"{method}--{side}"
            record: Record = make_record(method, scores, protocol=IN_GAN, dataset=side, cell=cell)
            write_cell(folder / "cells" / cell, record, scores)
    return folder


def flbench(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["agree", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    assert "Traceback" not in done.output
    return done


def test_the_command_shows_writes_and_prints_the_same_numbers(study: Path, tmp_path: Path) -> None:
    done = flbench("--study", study, "--into", tmp_path / "deep" / "agreement.md")
    assert "in_gan v1: garden v1 and street v1" in done.output
    text = (tmp_path / "deep" / "agreement.md").read_text(encoding="utf-8")
    assert "alpha better than beta on garden v1, worse on street v1" in text
    (document,) = json.loads(flbench("--study", study, "--protocol", "in_gan", "--json").stdout)
    assert document["summary"]["coss"]["methods"]["opposite"] == 1
    assert document["summary"]["coss"]["methods"]["tau"] == pytest.approx(-1)


def test_scores_that_are_gone_leave_intervals(study: Path, tmp_path: Path) -> None:
    for path in study.glob("cells/*/run.json"):
        write_cell(tmp_path / "cells" / path.parent.name, Record.model_validate_json(path.read_text(encoding="utf-8")))
    (document,) = json.loads(flbench("--study", tmp_path, "--json").stdout)
    assert [side["unpaired"] for side in document["data"]] == [["alpha", "beta"]] * 2
    assert document["summary"]["coss"]["methods"]["opposite"] == 1  # far enough apart for intervals to clear


def test_errors_say_in_one_line_what_to_do(study: Path, tmp_path: Path) -> None:
    assert "no record to compare" in flbench("--study", tmp_path / "none", code=2).output
    assert "no record of cross_attribute" in flbench("--study", study, "-p", "cross_attribute", code=2).output
    assert "unknown protocol" in flbench("--study", study, "-p", "no_such", code=2).output
    cell = f"alpha--{LEFT}"
    write_cell(tmp_path / "cells" / cell, Record.model_validate_json((study / "cells" / cell / "run.json").read_text()))
    output = flbench("--study", tmp_path, code=2).output
    assert "only in_gan on garden" in output
    assert "run the same protocol with --data A and --data B first" in output
    assert len(output.strip().splitlines()) == 1
