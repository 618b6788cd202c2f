"""Maps, networks, programs and Python objects of the user's own, held against what the same maps score otherwise."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import flbench
from flbench.cli import main
from flbench.data.batches import Frames
from flbench.data.dataset import Dataset
from flbench.engine.evaluate import run_cell
from flbench.engine.plan import Cell, Request, Unit, make_plan, unit_from_json, unit_to_json
from flbench.engine.runtime import Events, Runtime
from flbench.errors import MethodError, UsageError
from flbench.locator import Locator, Prediction, Unanswered
from flbench.method_file import describe_method
from flbench.methods._answers import read_map
from flbench.methods.command import Command
from flbench.methods.maps import FolderOfMaps
from flbench.methods.ones import Ones
from flbench.methods.onnx import OnnxModel
from flbench.record import Record
from flbench.registry import choose_method, find_protocol
from flbench.study import Study

RUNTIME = Runtime(torch.device("cpu"), 1)
QUIET = Events(lambda event: None)


def planned(dataset: Dataset, method: str, **request) -> Cell:  # type: ignore[no-untyped-def]
    return make_plan(dataset, [(find_protocol("in_gan"), [choose_method(method)])], [0], Request(**request)).cells[0]


def ran(dataset: Dataset, study: Path, cell: Cell) -> Record:
    frames = Frames(dataset, size=int(cell.protocol.size), region=cell.region)
    return run_cell(cell, frames, Study(study), RUNTIME, QUIET)


def save_8(path: Path, truth: np.ndarray) -> None:
    Image.fromarray(np.round(truth * 255).astype(np.uint8)).save(path.with_suffix(".png"))


def save_16(path: Path, truth: np.ndarray) -> None:
    Image.fromarray(np.round(truth * 65535).astype(np.uint16)).save(path.with_suffix(".png"))


def save_npy(path: Path, truth: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), truth)


def write_truth(
    dataset: Dataset, folder: Path, save: Callable[[Path, np.ndarray], None] = save_npy, *, scores: bool = True
) -> list[str]:
    """Write what the oracle says of every sample of the test and valid splits, and return the test fakes of in_gan."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = Frames(dataset, size=32)
    lines = ["sample_id,score"]
    rows = dataset.manifest[dataset.manifest["split"] != "train"]
    for row in rows.itertuples():
        truth = frames.truth(row.sample_id)
        save(folder / row.sample_id, truth)
        lines.append(f"{row.sample_id},{float((truth > 0).any())}")
    if scores:
        (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    return sorted(rows.query("split == 'test' and attribute == 'blond_hair'")["sample_id"])


@pytest.fixture(scope="module")
def oracle(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return ran(boxes, tmp_path_factory.mktemp("oracle"), planned(boxes, "oracle"))


# --- a folder of maps ---------------------------------------------------------------------------------------------


def test_the_oracles_maps_in_a_folder_score_what_the_oracle_scores(
    boxes: Dataset, oracle: Record, tmp_path: Path
) -> None:
    write_truth(boxes, tmp_path / "maps")
    record = ran(boxes, tmp_path / "s", planned(boxes, f"maps:{tmp_path / 'maps'}"))
    assert record.status == "ok"
    assert record.results == oracle.results


@pytest.mark.parametrize(("save", "levels"), [(save_8, 255), (save_16, 65535)])
def test_png_maps_cost_their_rounding_and_no_more(
    boxes: Dataset, tmp_path: Path, save: Callable[[Path, np.ndarray], None], levels: int
) -> None:
    fakes = write_truth(boxes, tmp_path / "maps", save)
    cell = planned(boxes, f"maps:{tmp_path / 'maps'}")
    ran(boxes, tmp_path / "s", cell)
    scores = Study(tmp_path / "s").scores(cell.id).set_index("sample_id")
    frames = Frames(boxes, size=32)
    for sample in fakes:
        truth = frames.truth(sample).astype(np.float64)
        off = np.abs(truth - np.round(truth * levels) / levels)
        assert scores.loc[sample, "mae"] == pytest.approx(off.mean(), abs=1e-7)
        assert scores.loc[sample, "mae"] <= 0.5 / levels + 1e-7
        assert scores.loc[sample, "psnr"] == pytest.approx(min(100, -10 * np.log10((off**2).mean())), abs=0.05)


def rgb(path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path.with_suffix(".png"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: None, "no map for"),
        (rgb, "mode RGB"),
        (lambda path: path.with_suffix(".png").write_bytes(b""), "damaged"),
        (lambda path: path.with_suffix(".npy").write_bytes(b"\x93NUMPY"), "damaged"),
        (lambda path: save_npy(path, np.full((32, 32), np.nan, np.float32)), "NaN or infinity"),
        (lambda path: save_npy(path, np.full((32, 32), 255.0)), "expected 0..1"),
        (lambda path: save_npy(path, np.zeros((32, 32), np.uint8)), "array of uint8"),
        (lambda path: save_npy(path, np.zeros((1, 32, 32))), "expected (height, width)"),
        (lambda path: save_npy(path, np.zeros((0, 4))), "expected (height, width)"),
        (lambda path: (save_npy(path, np.zeros((4, 4))), rgb(path)), "2 maps"),
    ],
)
def test_a_map_that_cannot_be_used_is_unanswered_and_says_why(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    save_npy(tmp_path / "good", np.full((32, 32), 0.5))
    spoil(tmp_path / "bad")
    with pytest.raises(Unanswered) as caught:
        FolderOfMaps(target=str(tmp_path)).predict_named((32, 32), ["bad", "good"], "clean")
    assert list(caught.value.reasons) == [0]
    assert said in caught.value.reasons[0]
    assert torch.equal(caught.value.prediction.fakeness[1], torch.full((32, 32), 0.5))


def claim_size(path: Path) -> None:
    """Write a header that claims 16 GB, and four bytes."""
    with path.with_suffix(".npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (65536, 65536)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"1234")


def zipped(path: Path) -> None:
    with path.with_suffix(".npy").open("wb") as file:
        np.savez(file, a=np.zeros((4, 4)))


def pickled(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.array([[{}]], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (claim_size, "damaged"),
        (zipped, "several arrays"),
        (pickled, "damaged"),
        (lambda path: save_npy(path, np.zeros((9, 9))), "81 pixels, at most 64 are read"),
        (lambda path: Image.new("L", (9, 9)).save(path.with_suffix(".png")), "81 pixels, at most 64 are read"),
        (lambda path: Image.new("L", (8, 8)).save(path.with_suffix(".png")), ""),
    ],
)
def test_a_map_of_a_stranger_is_neither_unpacked_nor_larger_than_the_limit(
    tmp_path: Path, spoil: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flbench.methods._answers.MOST_PIXELS", 64)
    spoil(tmp_path / "map")
    (path,) = tmp_path.iterdir()
    if said:
        with pytest.raises(ValueError, match=said):
            read_map(path)
    else:
        assert read_map(path).shape == (8, 8)


def test_a_missing_map_costs_its_image_alone(boxes: Dataset, tmp_path: Path) -> None:
    fakes = write_truth(boxes, tmp_path / "maps")
    (tmp_path / "maps" / f"{fakes[0]}.npy").unlink()
    cell = planned(boxes, f"maps:{tmp_path / 'maps'}")
    record = ran(boxes, tmp_path / "s", cell)
    scores = Study(tmp_path / "s").scores(cell.id).set_index("sample_id")
    assert scores.loc[fakes[0], "status"] == "error"
    assert scores.loc[fakes[0], "reason"] == f"no map for {fakes[0]}"
    assert (scores["status"] == "ok").sum() == len(scores) - 1
    assert record.status == "partial"
    assert record.results[0].metrics["coss"].failed == 1


def test_a_folder_without_any_of_the_maps_fails_every_image_by_name(boxes: Dataset, tmp_path: Path) -> None:
    save_npy(tmp_path / "other", np.zeros((8, 8)))
    cell = planned(boxes, f"maps:{tmp_path}")
    record = ran(boxes, tmp_path / "s", cell)
    scores = Study(tmp_path / "s").scores(cell.id)
    assert record.status == "partial"
    assert list(scores["reason"]) == [f"no map for {sample}" for sample in scores["sample_id"]]


def test_names_with_a_slash_are_folders_or_two_underscores(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_npy(tmp_path / "a" / "one.x", np.full((4, 4), 0.25))  # with_suffix takes the place of .x: a/one.npy
    save_8(tmp_path / "b__two", np.ones((4, 4)))
    locator = FolderOfMaps(target=str(tmp_path))
    maps, score = locator.predict_named((4, 4), ["a/one", "b/two"], "clean")
    assert score is None
    assert maps.mean(dim=(1, 2)).tolist() == [0.25, 1]
    with pytest.raises(MethodError, match="by names"):
        locator.predict(torch.rand(1, 3, 4, 4))


def test_a_map_of_another_size_is_resized(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(8, dtype=np.float64) / 10, (8, 1))
    save_npy(tmp_path / "x", ramp)
    maps, _ = FolderOfMaps(target=str(tmp_path)).predict_named((4, 4), ["x"], "clean")
    expected = np.array(Image.fromarray(ramp.astype(np.float32)).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(maps[0], expected, atol=1e-6)


def test_a_degraded_image_needs_a_map_of_its_own(boxes: Dataset, tmp_path: Path) -> None:
    fakes = write_truth(boxes, tmp_path / "maps")
    cell = planned(boxes, f"maps:{tmp_path / 'maps'}", conditions=("jpeg-50",))
    ran(boxes, tmp_path / "one", cell)
    scores = Study(tmp_path / "one").scores(cell.id).query("condition == 'jpeg-50'")
    assert set(scores["status"]) == {"error"}
    assert f"no map for {fakes[0]} under jpeg-50" in set(scores["reason"])
    write_truth(boxes, tmp_path / "maps" / "jpeg-50")
    again = planned(boxes, f"maps:{tmp_path / 'maps'}", conditions=("jpeg-50",))
    assert again.id != cell.id
    save_npy(tmp_path / "maps" / "jpeg-50" / fakes[0], np.full((32, 32), 0.75))
    locator = FolderOfMaps(target=str(tmp_path / "maps"))
    assert locator.predict_named((32, 32), fakes[:1], "jpeg-50").fakeness.unique().tolist() == [0.75]
    assert locator.predict_named((32, 32), fakes[:1], "clean").fakeness.mean() < 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sample_id,prob\nx,1\n", "no column 'score'"),
        ("sample_id,score\nx,1.5\n", "line 2: score '1.5'"),
        ("sample_id,score\nx,nan\n", "line 2"),
        ("sample_id,score\nx\n", "line 2"),
    ],
)
def test_damaged_scores_are_told_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    save_npy(tmp_path / "x", np.zeros((4, 4)))
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(MethodError, match=said):
        FolderOfMaps(target=str(tmp_path)).predict_named((4, 4), ["x"], "clean")


def test_a_sample_without_a_score_is_unanswered_where_scores_are_given(tmp_path: Path) -> None:
    for name in "xy":
        save_npy(tmp_path / name, np.ones((4, 4)))
    (tmp_path / "scores.csv").write_text("sample_id,score\ny,0.5\n")
    with pytest.raises(Unanswered) as caught:
        FolderOfMaps(target=str(tmp_path)).predict_named((4, 4), ["x", "y"], "clean")
    assert caught.value.reasons == {0: "no score of x in scores.csv"}
    assert caught.value.prediction.score is not None
    assert caught.value.prediction.score[1] == 0.5


# --- targets ------------------------------------------------------------------------------------------------------


def test_a_record_shows_the_content_and_no_path_and_the_cell_follows_the_content(
    boxes: Dataset, tmp_path: Path
) -> None:
    fakes = write_truth(boxes, tmp_path / "maps")
    cell = planned(boxes, f"maps:{tmp_path / 'maps'}")
    record = ran(boxes, tmp_path / "s", cell)
    assert str(tmp_path) not in record.to_json()
    assert record.method.name.startswith("maps:maps@")
    assert record.method.options["target"].startswith("sha256:")
    shutil.copytree(tmp_path / "maps", tmp_path / "elsewhere" / "maps")
    assert planned(boxes, f"maps:{tmp_path / 'elsewhere' / 'maps'}").id == cell.id
    save_npy(tmp_path / "maps" / fakes[0], np.zeros((32, 32)))
    assert planned(boxes, f"maps:{tmp_path / 'maps'}").id != cell.id


def test_the_fingerprint_of_a_file_is_that_of_its_bytes_and_of_what_is_named_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "a:b\\c"
    folder.mkdir()
    file = folder / "net.onnx"
    file.write_bytes(b"network")
    choice = choose_method(f"onnx:{file}")
    assert choice.options["target"] == f"sha256:{hashlib.sha256(b'network').hexdigest()}"
    assert choice.target is not None
    assert choice.target.place == str(file)
    file.with_name("other.bin").write_bytes(b"no part of it")
    assert choose_method(f"onnx:{file}").options == choice.options
    file.with_name("net.onnx.data").write_bytes(b"weights")
    assert choose_method(f"onnx:{file}").options != choice.options


def test_a_command_line_is_known_by_its_words_and_the_files_they_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool.py").write_text("print()")
    line = f"{shlex.quote(sys.executable)} {{}} --weights={tmp_path}/w --level 3"
    first = choose_method(f"command:{line.format(tmp_path / 'one' / 'tool.py')}")
    assert "tool.py --weights=w --level 3@" in first.name
    assert choose_method(f"command:{line.format(tmp_path / 'two' / 'tool.py')}").options == first.options
    (tmp_path / "two" / "tool.py").write_text("print(1)")
    assert choose_method(f"command:{line.format(tmp_path / 'two' / 'tool.py')}").options != first.options
    assert len(choose_method(f"command:{line.format('x' * 300)}").name) < 90


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("onnx", "needs a file"),
        ("maps:", "needs a folder"),
        ("command: ", "needs a command line"),
        ("onnx:no/such.onnx", "there is no file no/such.onnx"),
        ("maps:no/such", "there is no folder no/such"),
        ("command:no-such-program-here -v", "no program no-such-program-here"),
        ("command:'open", "no closing quotation"),
    ],
)
def test_a_target_that_is_not_there_is_told_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_method(text)


def test_an_empty_folder_and_a_target_as_an_option_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is empty"):
        choose_method(f"maps:{tmp_path}")
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="no option 'target'"):
        choose_method(f"maps:{tmp_path}", {"target": "x"})


def test_a_target_that_changes_between_plan_and_run_stops_the_run(boxes: Dataset, tmp_path: Path) -> None:
    save_npy(tmp_path / "x", np.zeros((4, 4)))
    unit = Unit(fits=(), cells=(planned(boxes, f"maps:{tmp_path}"),))
    document = json.loads(json.dumps(unit_to_json(unit)))
    assert unit_from_json(document).cells[0].method == unit.cells[0].method
    save_npy(tmp_path / "y", np.zeros((4, 4)))
    with pytest.raises(MethodError, match="changed after the run was planned"):
        unit_from_json(document)


def test_an_unknown_kind_of_target_is_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from flbench.locator import Locator\nclass A(Locator):\n    title='a'\n    target='cloud'\n")
    assert "target is 'cloud'" in describe_method("mine", "mine", "", path, "").broken


# --- a command per batch ------------------------------------------------------------------------------------------

TOOL = """
import sys
from pathlib import Path
from PIL import Image

mode, images, maps = sys.argv[1], *map(Path, sys.argv[2:])
files = sorted(images.iterdir())
print("saw", len(files), file=sys.stderr)
if mode == "crash":
    sys.exit("out of luck")
for place, file in enumerate(files):
    red = Image.open(file).split()[0]
    if mode == "lazy" and place == 1:
        continue
    if mode == "small" and place == 1:
        red = red.resize((3, 5))
    red.save(maps / file.name)
if mode == "scores":
    lines = [f"{file.name},{place / 10}" for place, file in enumerate(files)]
    (maps / "scores.csv").write_text("\\n".join(["image,score", *lines]))
"""


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("a tool") / "tool.py"
    path.write_text(TOOL)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))}"


def red(images: Tensor) -> Tensor:
    return images[:, 0]


def test_a_command_scores_what_the_same_function_scores_in_python(boxes: Dataset, tool: str, tmp_path: Path) -> None:
    record = ran(boxes, tmp_path, planned(boxes, f"command:{tool} plain"))
    assert record.status == "ok"
    assert record.results == flbench.evaluate(red, "in_gan", boxes, threads=1).results


def test_a_command_may_give_scores_and_say_where_its_folders_go(tool: str, caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(3, 3, 6, 7)
    maps, score = Command(target=f"{tool} scores {{images}} {{maps}}").predict(images)
    torch.testing.assert_close(maps, (images[:, 0] * 255).round() / 255)
    assert score is not None
    assert score.tolist() == pytest.approx([0, 0.1, 0.2])
    assert "saw 3" in caplog.text


@pytest.mark.parametrize(("mode", "said"), [("lazy", "no map was written"), ("small", "the map is 3x5, its image 7x6")])
def test_an_image_that_a_command_leaves_out_is_unanswered_and_the_others_are_not(
    tool: str, mode: str, said: str
) -> None:
    images = torch.rand(3, 3, 6, 7)
    with pytest.raises(Unanswered) as caught:
        Command(target=f"{tool} {mode}").predict(images)
    assert caught.value.reasons == {1: said}
    torch.testing.assert_close(caught.value.prediction.fakeness[2], (images[2, 0] * 255).round() / 255)


def test_a_command_that_fails_hangs_or_is_gone_says_so(tool: str, caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(RuntimeError, match="ended with code 1: out of luck"):
        Command(target=f"{tool} crash").predict(images)
    assert "out of luck" in caplog.text
    with pytest.raises(TimeoutError, match=r"sh did not end within 0\.2 s: begun"):
        Command(target="sh -c 'echo begun; sleep 60 & wait'", seconds=0.2).predict(images)
    with pytest.raises(MethodError, match="gone cannot be started"):
        Command(target="/no/such/gone").predict(images)
    with pytest.raises(UsageError, match="no time limit"):
        Command(target="sh", seconds=0)


def test_a_command_that_always_fails_fails_its_cell(boxes: Dataset, tmp_path: Path) -> None:
    record = ran(boxes, tmp_path, planned(boxes, "command:sh -c 'echo no luck >&2; exit 3'"))
    assert record.status == "failed"
    assert "fails on the first 5 images: RuntimeError: sh ended with code 3: no luck" in record.reason


# --- a network in an ONNX file ------------------------------------------------------------------------------------


class Session:
    """A stand-in for onnxruntime's session: the map is the red channel, the score its mean."""

    shape: tuple[object, ...] = ("batch", 3, "height", "width")
    scores = True
    fed: list[tuple[int, ...]]

    def __init__(self, path: str, settings: object, providers: list[str]) -> None:
        if Path(path).read_bytes() == b"broken":
            raise RuntimeError(f"Load model from {path} failed\nmore")
        Session.fed = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images", shape=self.shape, type="tensor(float)")]

    def run(self, names: None, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = fed["images"]
        Session.fed.append(images.shape)
        maps = images[:, :1]
        return [maps, maps.mean((1, 2, 3))] if self.scores else [maps[:, 0]]


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in = SimpleNamespace(InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)  # type: ignore[arg-type]
    (tmp_path / "net.onnx").write_bytes(b"network")
    return tmp_path / "net.onnx"


def test_a_network_of_any_size_is_fed_the_images_as_they_are(network: Path) -> None:
    images = torch.rand(3, 3, 5, 7)
    maps, score = OnnxModel(target=str(network)).predict(images)
    assert torch.equal(maps, images[:, 0])
    assert score is not None
    torch.testing.assert_close(score, images[:, 0].mean((1, 2)))
    assert Session.fed == [(3, 3, 5, 7)]


def test_a_fixed_batch_and_size_are_served(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "shape", (2, 3, 4, 4))
    monkeypatch.setattr(Session, "scores", False)
    images = torch.rand(3, 3, 1, 1).expand(3, 3, 6, 8).contiguous()
    maps, score = OnnxModel(target=str(network)).predict(images)
    torch.testing.assert_close(maps, images[:, 0])
    assert score is None
    assert Session.fed == [(2, 3, 4, 4)] * 2


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 3, 4), "one float32 input"), (("b", 3, "h", "w"), "gives .*expected fakeness")]
)
def test_a_network_of_another_kind_is_refused_in_words(
    network: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[object, ...], said: str
) -> None:
    monkeypatch.setattr(Session, "shape", shape)
    monkeypatch.setattr(Session, "run", lambda self, names, fed: [fed["images"]])
    with pytest.raises(MethodError, match=said):
        OnnxModel(target=str(network)).predict(torch.rand(2, 3, 4, 4))


def test_a_damaged_network_and_a_missing_library_say_what_to_do(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network.write_bytes(b"broken")
    with pytest.raises(MethodError, match=r"net\.onnx cannot be used: Load model from net\.onnx failed"):
        OnnxModel(target=str(network)).predict(torch.rand(1, 3, 4, 4))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=r"pip install 'flbench\[onnx\]'"):
        OnnxModel(target=str(network)).predict(torch.rand(1, 3, 4, 4))


class Small(nn.Module):
    """Two convolutions and a pooled score."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.last(self.norm(self.first(images)).relu()).sigmoid()[:, 0]
        return maps, maps.mean(dim=(1, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exported_module_scores_what_it_scores_in_python(boxes: Dataset, tmp_path: Path) -> None:
    for library in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'flbench[onnx]'")
    torch.manual_seed(3)
    module = Small().eval()
    path = tmp_path / "small.onnx"
    free = {"images": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    torch.onnx.export(module, (torch.rand(2, 3, 32, 32),), path, dynamo=True, dynamic_shapes=free, verbose=False)
    cell = planned(boxes, f"onnx:{path}")
    record = ran(boxes, tmp_path / "s", cell)
    assert record.status == "ok"
    expected = flbench.evaluate(module, "in_gan", boxes, study=tmp_path / "p", threads=1)
    one = Study(tmp_path / "s").scores(cell.id).set_index("sample_id")
    two = Study(tmp_path / "p").scores(expected.cell).set_index("sample_id")
    for column in ("score", "coss", "ssim", "mae", "psnr"):
        np.testing.assert_allclose(one[column], two[column], atol=1e-4, rtol=0)


# --- from Python --------------------------------------------------------------------------------------------------


def test_evaluate_and_a_run_from_the_command_line_measure_the_same(boxes: Dataset, tmp_path: Path) -> None:
    write_truth(boxes, tmp_path / "maps", save_8, scores=False)
    words = ["run", "-m", f"maps:{tmp_path / 'maps'}", "-p", "in_gan", "--data", boxes.folder]
    done = CliRunner().invoke(
        main, [str(word) for word in [*words, "--study", tmp_path / "s", "--threads", 1, "--json"]]
    )
    assert done.exit_code == 0, done.output
    records = {record["method"]["name"]: record for record in json.loads(done.stdout)}
    for name, locator in (
        ("ones", Ones()),
        (next(name for name in records if name.startswith("maps:")), FolderOfMaps(target=str(tmp_path / "maps"))),
    ):
        record = flbench.evaluate(locator, find_protocol("in_gan"), boxes, threads=1)
        assert json.loads(record.to_json())["results"] == records[name]["results"]
        assert record.method.distribution == "given from Python"
        assert record.method.name == f"python:{type(locator).__name__}"


def test_a_module_is_fingerprinted_and_left_as_it_was(boxes: Dataset) -> None:
    torch.manual_seed(0)
    module = Small()
    module.norm.eval()
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    first = flbench.evaluate(module, "in_gan", boxes.folder, name="mine")
    assert first.status == "ok"
    assert first.method.name == "python:mine"
    assert first.method.parameters == sum(p.numel() for p in module.parameters())
    assert module.training
    assert module.first.training
    assert not module.norm.training
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == before
    assert flbench.evaluate(module, "in_gan", boxes, name="mine").digest == first.digest
    with torch.no_grad():
        module.last.bias += 1
    other = flbench.evaluate(module, "in_gan", boxes, name="mine")
    assert other.cell != first.cell
    assert other.method.options["weights"] != first.method.options["weights"]


def test_a_function_is_tested_anew_each_time(boxes: Dataset, tmp_path: Path) -> None:
    stages: list[str] = []
    for level in (0.0, 1.0):
        record = flbench.evaluate(
            lambda images, level=level: torch.full_like(images[:, :1], level),
            "in_gan",
            boxes,
            study=tmp_path,
            progress=lambda stage, done, total: stages.append(stage),
        )
        assert record.method.name == "python:function"
        assert record.method.options == {"weights": None}
        assert record.results[0].metrics["false_alarm"].value == level
        assert Study(tmp_path).records() == [record]
    assert "test blond_hair" in stages


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (lambda images: images, "fakeness has shape"),
        (lambda images: None, "expected a tensor"),
        (lambda images: images[:, 0] * 255, "expected 0..1"),
        (lambda images: (images[:, 0], images[:, 0]), "score is"),
        (lambda images: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_function_that_breaks_the_contract_has_a_failed_record(
    boxes: Dataset, predict: Callable[[Tensor], object], said: str
) -> None:
    record = flbench.evaluate(predict, "in_gan", boxes)
    assert record.status == "failed"
    assert said in record.reason


@pytest.mark.parametrize(("thing", "said"), [(Small, "the class Small"), (3, "int is no locator"), (None, "NoneType")])
def test_what_is_no_locator_is_refused(boxes: Dataset, thing: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        flbench.evaluate(thing, "in_gan", boxes)  # type: ignore[arg-type]


def test_no_ordinary_method_is_told_names(boxes: Dataset) -> None:
    told: list[tuple[object, ...]] = []

    class Curious(Locator):
        title = "Curious"

        def predict(self, *given: object) -> Prediction:
            told.append(given)
            images = given[0]
            assert isinstance(images, Tensor)
            return Prediction(images[:, 0])

        def predict_named(self, *given: object) -> Prediction:
            raise AssertionError("only a Replay is asked by name")

    assert flbench.evaluate(Curious(), "in_gan", boxes).status == "ok"
    assert all(len(given) == 1 for given in told)
