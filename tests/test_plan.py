import json
from dataclasses import replace
from pathlib import Path

import pytest
from builders import make_dataset
from factories import make_record

from flbench.data.dataset import Dataset
from flbench.engine.plan import Plan, Request, _units, is_done, make_plan, unit_from_json, unit_to_json
from flbench.errors import UsageError
from flbench.jobs import plan_run
from flbench.protocol import Protocol
from flbench.registry import choose_method, find_protocol, reference_methods
from flbench.study import Study


def plan(dataset: Dataset, methods: list[str], protocols: list[str], seeds: tuple[int, ...] = (0,), **request) -> Plan:  # type: ignore[no-untyped-def]
    chosen = [choose_method(name) for name in methods]
    return make_plan(dataset, [(find_protocol(p), chosen) for p in protocols], seeds, Request(**request))


def test_protocols_share_the_fit_they_both_need(boxes: Dataset) -> None:
    made = plan(boxes, ["fakelocator"], ["in_gan", "cross_attribute"])
    assert len(made.fits) == 1
    assert len(made.cells) == 2
    assert len(made.units) == 1
    assert {fit for cell in made.cells for fit in cell.fits.values()} == {made.fits[0].id}


def test_each_seed_and_each_set_of_options_is_a_fit_of_its_own(boxes: Dataset) -> None:
    made = plan(boxes, ["fakelocator", "fakelocator:l2"], ["in_gan"], (0, 1, 2))
    assert len(made.fits) == len(made.cells) == len(made.units) == 6
    assert len({cell.id for cell in made.cells}) == 6


def test_references_share_one_process_and_the_training_free_have_no_seeds(boxes: Dataset) -> None:
    made = make_plan(boxes, [(find_protocol("in_gan"), reference_methods())], (0, 1), Request())
    assert len(made.units) == 1
    assert sum(cell.method.name == "zeros" for cell in made.cells) == 1
    assert sum(cell.method.name == "meanmap" for cell in made.cells) == 2


def test_identifiers_do_not_depend_on_the_order_asked_for(boxes: Dataset) -> None:
    one = plan(boxes, ["fakelocator", "zeros"], ["in_gan", "cross_attribute"], (0, 1))
    other = plan(boxes, ["zeros", "fakelocator"], ["cross_attribute", "in_gan"], (1, 0))
    assert {cell.id for cell in one.cells} == {cell.id for cell in other.cells}


def test_everything_that_decides_a_number_changes_the_identifier(boxes: Dataset, tmp_path: Path) -> None:
    other = make_dataset(tmp_path, people=30)
    asked = [
        plan(boxes, ["fakelocator"], ["cross_attribute"]),
        plan(boxes, ["fakelocator"], ["cross_attribute"], cap=3),
        plan(boxes, ["fakelocator"], ["cross_attribute"], region="difference"),
        plan(boxes, ["fakelocator"], ["cross_attribute"], (1,)),
        plan(boxes, ["fakelocator"], ["cross_attribute"], mapping={"stgan/smile": "stgan/black_hair"}),
        plan(other, ["fakelocator"], ["cross_attribute"]),
    ]
    assert len({made.cells[0].id for made in asked}) == len(asked)


def test_a_missing_category_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, attributes=("blond_hair", "black_hair"))
    with pytest.raises(UsageError, match=r"stgan/brown_hair, stgan/smile.*allow-missing"):
        plan(dataset, ["zeros"], ["cross_attribute"])
    made = plan(dataset, ["zeros"], ["cross_attribute"], allow_missing=True)
    assert made.cells[0].missing == ("brown_hair", "smile")
    assert [test.name for test in made.cells[0].protocol.test] == ["blond_hair", "black_hair"]


def test_a_missing_fit_category_cannot_be_left_out_but_mapped(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, generator="stargan")
    with pytest.raises(UsageError, match=r"fits on stgan/blond_hair.*--map"):
        plan(dataset, ["zeros"], ["in_gan"], allow_missing=True)
    made = plan(dataset, ["zeros"], ["in_gan"], mapping={"stgan": "stargan"})
    assert made.cells[0].mapping == {"stgan": "stargan"}
    assert made.cells[0].origin == find_protocol("in_gan").fingerprint


def test_a_region_protocol_without_parsing_maps_stops_or_takes_the_difference(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, parsing=False)
    with pytest.raises(UsageError, match="--region difference"):
        plan(dataset, ["zeros"], ["cross_attribute"])
    assert plan(dataset, ["zeros"], ["cross_attribute"], region="difference").cells[0].region == "difference"
    assert plan(dataset, ["zeros"], ["in_gan"]).cells[0].region == ""


def test_a_unit_survives_the_way_to_another_process(boxes: Dataset) -> None:
    asked = [(find_protocol("cross_attribute"), [choose_method("fakelocator:l2", {"steps": 3})])]
    made = make_plan(boxes, asked, (1,), Request(cap=2))
    for unit in made.units:
        assert unit_from_json(json.loads(json.dumps(unit_to_json(unit)))) == unit


def test_what_is_done_is_not_open(boxes: Dataset, tmp_path: Path) -> None:
    made = plan(boxes, ["fakelocator"], ["in_gan"])
    study = Study(tmp_path)
    assert made.open(study) == made.units
    folder = study.fit_folder(made.fits[0].id)
    folder.mkdir(parents=True)
    (folder / "fit.json").write_text("{}")
    (left,) = made.open(study)
    assert left.cells == made.units[0].cells


def test_units_are_the_connected_pieces_of_cells_and_fits(boxes: Dataset) -> None:
    base = plan(boxes, ["fakelocator"], ["in_gan"]).cells[0]
    fits = {name: replace(plan(boxes, ["fakelocator"], ["in_gan"]).fits[0], id=name) for name in "abcde"}
    needs = [{"x": "a"}, {"x": "b"}, {"x": "c"}, {"x": "a", "y": "b"}, {"x": "d"}, {"x": "b", "y": "e"}]
    cells = [replace(base, id=str(number), fits=need) for number, need in enumerate(needs)]
    pieces = {
        frozenset(fit.id for fit in unit.fits): sorted(cell.id for cell in unit.cells) for unit in _units(fits, cells)
    }
    assert pieces == {
        frozenset("abe"): ["0", "1", "3", "5"],
        frozenset("c"): ["2"],
        frozenset("d"): ["4"],
    }


def test_added_conditions_make_another_cell_and_share_the_fit(boxes: Dataset) -> None:
    plain = plan(boxes, ["fakelocator"], ["in_gan"])
    added = plan(boxes, ["fakelocator"], ["in_gan"], conditions=("jpeg-50", "noise-0.010"))
    assert added.cells[0].added == ("jpeg-50", "noise-0.01")
    assert added.cells[0].id != plain.cells[0].id
    assert added.cells[0].origin == plain.cells[0].origin
    assert [fit.id for fit in added.fits] == [fit.id for fit in plain.fits]
    assert unit_from_json(json.loads(json.dumps(unit_to_json(added.units[0])))) == added.units[0]


def test_degradation_protocols_need_no_fit_of_their_own(boxes: Dataset) -> None:
    names = ["in_gan", "cross_attribute", "disorganization", "jpeg", "blur", "noise", "low_resolution", "degradations"]
    made = plan(boxes, ["fakelocator"], names)
    assert len(made.fits) == 1
    assert len(made.cells) == len(names)


def test_a_binary_fit_and_a_gray_one_are_two(boxes: Dataset) -> None:
    made = plan(boxes, ["fakelocator"], ["in_gan", "binary_maps"])
    assert len(made.fits) == 2


def test_photos_of_another_database_must_be_there(boxes: Dataset) -> None:
    with pytest.raises(UsageError, match="has none"):
        plan(boxes, ["zeros"], ["false_alarms"])


def test_protocols_that_cannot_run_are_left_out_where_all_are_asked(boxes: Dataset) -> None:
    asked = [find_protocol("in_gan"), find_protocol("universal")]
    made = plan_run(boxes, asked, [], [0], Request(), lenient=True)
    assert {cell.protocol.name for cell in made.cells} == {"in_gan"}
    assert list(made.left_out) == ["universal v1"]
    assert {cell.method.name for cell in made.cells} >= {"fakelocator", "attention_map", "zeros", "oracle"}
    with pytest.raises(UsageError, match="universal v1 fits on"):
        plan_run(boxes, asked, [], [0], Request())
    with pytest.raises(UsageError, match="no protocol can run"):
        plan_run(boxes, asked[1:], [], [0], Request(), lenient=True)


def test_without_a_method_the_rows_of_the_papers_table_are_compared(boxes: Dataset) -> None:
    names = {cell.method.name for cell in plan_run(boxes, [bald()], [], [0], Request(), references=False).cells}
    assert names == set(find_protocol("losses").methods)
    silent = find_protocol("in_gan").model_copy(update={"methods": ()})
    with pytest.raises(UsageError, match="names no methods"):
        plan_run(boxes, [silent], [], [0], Request())


def bald() -> Protocol:
    """The protocol of Table 2 on the category that the boxes have."""
    return find_protocol("losses").mapped({"stgan/bald": "stgan/blond_hair"})


@pytest.mark.parametrize("name", ["command:no-such-program --flag", "onnx:/etc/hostname", "maps:.", "command"])
def test_a_protocol_cannot_start_a_program_or_name_a_file(boxes: Dataset, name: str) -> None:
    """A protocol may be a stranger's: what stands behind a colon is the user's alone to name."""
    strange = find_protocol("in_gan").model_copy(update={"methods": ("zeros", name)})
    with pytest.raises(UsageError, match=r"in_gan.* names .* only where you name it yourself \(--method"):
        plan_run(boxes, [strange], [], [0], Request(), references=True)
    assert plan_run(boxes, [strange], [choose_method("ones")], [0], Request(), references=False).cells


@pytest.mark.parametrize(("status", "done"), [("ok", True), ("partial", True), ("failed", False), ("skipped", False)])
def test_what_failed_or_was_skipped_is_tried_again(status: str, done: bool) -> None:
    assert is_done(make_record().model_copy(update={"status": status})) is done
    assert not is_done(None)
