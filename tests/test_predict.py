"""A locator on one's own images: held against the same steps taken by hand with PIL, numpy and the bare module."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from flbench import registry
from flbench.cli import main
from flbench.data.batches import Frames
from flbench.data.dataset import Dataset
from flbench.engine.fit import make_fit
from flbench.engine.plan import Request, make_plan
from flbench.engine.runtime import Events, Runtime
from flbench.errors import UsageError
from flbench.locator import Batch, Locator, NeuralLocator, Prediction, Recipe
from flbench.prediction import enlarged, find_images, open_locator, predict_images
from flbench.registry import choose_method, find_protocol
from flbench.study import Study


class Tiny(NeuralLocator):
    """One convolution, for tests."""

    title = "Tiny"

    def __init__(self, *, steps: int = 2) -> None:
        super().__init__(recipe=Recipe(steps=steps))

    def build(self, *, pretrained: bool) -> nn.Module:
        return nn.Conv2d(3, 1, 3, padding=1)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return (module(batch.images)[:, 0].sigmoid() - batch.fakeness).abs().mean()

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        return Prediction(module(images)[:, 0].sigmoid())


class Red(Locator):
    """The red channel, NaN for a black image, for tests."""

    title = "Red"

    def predict(self, images: Tensor) -> Prediction:
        maps = images[:, 0]
        return Prediction(maps.where(images.sum(dim=(1, 2, 3), keepdim=True)[..., 0] > 0, torch.nan), maps.mean((1, 2)))


@pytest.fixture(scope="module")
def study(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study with two fits of `tiny` with different seeds; `tiny` and `red` are methods meanwhile."""
    mine = {
        name: registry.MethodEntry(name=name, module=__name__, kind=kind, title=kind, trains=trains, options=options)
        for name, kind, trains, options in (("tiny", "Tiny", True, {"steps": 2}), ("red", "Red", False, {}))
    }
    known = {**registry.methods(), **mine}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "methods", lambda: known)
        store = Study(tmp_path_factory.mktemp("study"))
        plan = make_plan(boxes, [(find_protocol("in_gan"), [choose_method("tiny")])], [0, 1], Request())
        for fit in plan.fits:
            make_fit(fit, Frames(boxes, size=32), store, Runtime(torch.device("cpu"), 1), Events(lambda event: None))
        yield store


@pytest.fixture(scope="module")
def fits(study: Study) -> list[str]:
    return sorted(path.name for path in (study.folder / "fits").iterdir())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures of several sizes, formats and depths."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name, (height, width) in {"a.png": (50, 80), "a.bmp": (32, 32), "more/b.png": (1, 1), "c.PNG": (90, 7)}.items():
        Image.fromarray(rng.integers(1, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def flbench(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def by_hand(path: Path, weights: nn.Module) -> tuple[np.ndarray, float]:
    """Return map and score of an image as the documentation says that they come about."""
    image = Image.open(path).convert("RGB")
    fed = image if image.size == (32, 32) else image.resize((32, 32), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(np.array(fed)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        small = weights(tensor)[0, 0].sigmoid().numpy()
    score = float(np.sort(small.ravel())[-math.ceil(0.05 * small.size) :].mean(dtype=np.float64))
    return np.array(Image.fromarray(small).resize(image.size, Image.Resampling.BILINEAR)), score


def test_maps_scores_and_areas_are_those_of_the_steps_by_hand(
    study: Study, fits: list[str], images: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    module = nn.Conv2d(3, 1, 3, padding=1)
    module.load_state_dict(load_file(study.fit_folder(fits[1]) / "weights.safetensors"))
    words = [
        "predict",
        images,
        "--method",
        "tiny",
        "--fit",
        fits[1],
        "--study",
        study.folder,
        "--into",
        tmp_path / "out",
    ]
    done = flbench(*words, "--threads", 1, "--json")
    said = json.loads(done.stdout)
    assert [Path(one["image"]).relative_to(images).as_posix() for one in said] == [
        "a.bmp",
        "a.png",
        "c.PNG",
        "more/b.png",
    ]
    assert [one["map"] for one in said] == ["a-map.png", "a-2-map.png", "c-map.png", "more/b-map.png"]
    for one in said:
        fakeness, score = by_hand(Path(one["image"]), module)
        with Image.open(tmp_path / "out" / one["map"]) as file:
            assert file.mode == "L"
            assert file.size == (one["width"], one["height"]) == Image.open(one["image"]).size
            assert np.abs(np.asarray(file, float) / 255 - fakeness).max() <= 0.5 / 255 + 1e-5
        assert one["score"] == pytest.approx(score, abs=1e-6)
        assert one["marked"] == pytest.approx((fakeness >= 0.5).mean(), abs=1e-9)
        with Image.open(tmp_path / "out" / one["overlay"]) as file:
            assert (file.mode, file.size) == ("RGB", (one["width"], one["height"]))
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], float(row["score"]), float(row["marked"])) for row in rows] == [
        (one["image"], one["score"], one["marked"]) for one in said
    ]


def test_the_overlay_is_gray_where_nothing_is_marked_and_bright_where_all_is(study: Study, tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :, 1] = 200
    pixels[:, 4:, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    flbench("predict", tmp_path / "x.png", "-m", "red", "--study", study.folder, "--into", tmp_path / "out")
    laid = np.asarray(Image.open(tmp_path / "out" / "x-overlay.png"))
    left, right = laid[0, 0].astype(int), laid[0, 7].astype(int)
    assert np.ptp(left) == 0
    assert left[0] == round(0.7 * 0.587 * 200)
    assert np.ptp(right) > 20
    assert right.mean() > left.mean() + 40
    assert np.asarray(Image.open(tmp_path / "out" / "x-map.png")).tolist() == [[0] * 4 + [255] * 4] * 4


def test_results_in_the_same_folder_are_not_taken_for_images(study: Study, images: Path) -> None:
    words = ["predict", images, "-m", "red", "--study", study.folder, "--into", images / "out", "--size", 16]
    first = flbench(*words)
    assert "red" in first.stdout
    before = {path: path.read_bytes() for path in (images / "out").rglob("*") if path.is_file()}
    assert flbench(*words).stdout == first.stdout
    assert {path: path.read_bytes() for path in (images / "out").rglob("*") if path.is_file()} == before
    assert len(before) == 9


def test_a_file_counts_once_however_often_it_is_named(images: Path, tmp_path: Path) -> None:
    found = find_images([images / "a.png", images, images / "more" / ".." / "a.png"], tmp_path / "out")
    assert [name for _, name in found] == ["a", "a-2", "c", "more/b"]


def test_one_bad_image_is_a_row_with_its_reason_and_the_rest_is_there(
    study: Study, images: Path, tmp_path: Path
) -> None:
    (images / "empty.png").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(images / "black.png")
    words = ["predict", images, "-m", "red", "--study", study.folder, "--into", tmp_path / "out"]
    done = flbench(*words, code=4)
    assert "2 of 6 images could not be predicted" in done.stderr
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    assert rows["empty.png"]["reason"] == "empty.png: 0 bytes"
    assert rows["black.png"]["reason"] == "NaN or infinity"
    assert rows["black.png"]["score"] == ""
    assert not rows["a.png"]["reason"]
    words[1] = images / "empty.png"
    assert "no image could be predicted" in flbench(*words, code=3).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing says what is to look"),
        (["-m", "tiny"], "has 2 that may be meant, fit of tiny"),
        (["--fit", "tiny"], "has 2 that may be meant, fit 'tiny'"),
        (["--fit", "nosuch"], "has no fit 'nosuch'"),
        (["-m", "fakelocator"], "has no fit of fakelocator"),
        (["-m", "red", "--fit", "s0"], "learns nothing and has no fit"),
        (["-m", "tiny", "--fit", "s0", "--size", "8"], "the size of the fit, 32 px"),
        (["-m", "ones"], "is a reference row"),
        (["-m", "no_such_method"], "unknown method"),
        (["-m", "red", "no/such.png"], "no image or folder no/such.png"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    study: Study, images: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = flbench("predict", images, *words, "--study", study.folder, "--into", tmp_path / "out", code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_fit_is_found_by_a_part_of_its_name_and_must_be_of_the_method(study: Study, fits: list[str]) -> None:
    assert open_locator(fit="--s1--", study=study).fit == fits[1]
    assert open_locator("tiny", fit="--s0--", study=study).fit == fits[0]
    with pytest.raises(UsageError, match=f"fit {fits[0]} is of tiny, not of fakelocator"):
        open_locator("fakelocator", fit=fits[0], study=study)


def test_a_fit_of_a_stranger_cannot_start_a_program(
    study: Study, fits: list[str], images: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "study"
    shutil.copytree(study.fit_folder(fits[0]), strange / "fits" / fits[0])
    path = strange / "fits" / fits[0] / "fit.json"
    line = f"command:{sys.executable} -c \"open('{tmp_path / 'started'}', 'w')\""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": line, "options": {}}))
    words = ("--fit", fits[0], "--study", strange, "--into", tmp_path / "out")
    assert "is used only where you name it yourself" in flbench("predict", images, *words, code=2).stderr
    assert not (tmp_path / "started").exists()


def test_maps_of_samples_say_nothing_of_other_images(study: Study, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in no data set"):
        open_locator(f"maps:{images}", study=study)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="none has no images"):
        find_images([tmp_path / "none"], tmp_path / "out")


def test_what_is_said_of_an_image_does_not_depend_on_the_others(study: Study, images: Path, tmp_path: Path) -> None:
    ready = open_locator(fit="--s0--", study=study)
    stages: list[tuple[str, int, int]] = []
    together = predict_images([images], tmp_path / "all", ready, progress=lambda *told: stages.append(told))
    assert stages == [("predict", place, 4) for place in (1, 2, 3, 4)]
    (alone,) = predict_images([images / "a.png"], tmp_path / "one", ready)
    (same,) = [one for one in together if one.image == alone.image]
    assert (alone.score, alone.marked) == (same.score, same.marked)
    assert (tmp_path / "one" / alone.map).read_bytes() == (tmp_path / "all" / same.map).read_bytes()


@settings(max_examples=30)
@given(side=st.integers(1, 20), height=st.integers(1, 40), width=st.integers(1, 40), level=st.floats(0, 1, width=32))
def test_a_map_brought_to_another_size_stays_in_its_range(side: int, height: int, width: int, level: float) -> None:
    flat = enlarged(np.full((side, side), level, np.float32), (height, width))
    assert flat.shape == (height, width)
    np.testing.assert_allclose(flat, level, atol=1e-6)
    rough = np.random.default_rng(side).random((side, side), np.float32)
    made = enlarged(rough, (height, width))
    assert made.min() >= rough.min() - 1e-6
    assert made.max() <= rough.max() + 1e-6


def test_export_writes_a_file_that_says_the_same(study: Study, fits: list[str], images: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    words = ("export", "--fit", fits[0], "--study", study.folder, "--into", file, "--json")
    document = json.loads(flbench(*words).stdout)
    assert document["fit"] == fits[0]
    assert 0 <= document["difference"] < 1e-5
    flbench("predict", images, "--fit", fits[0], "--study", study.folder, "--into", tmp_path / "one")
    flbench("predict", images, "--method", f"onnx:{file}", "--size", 32, "--into", tmp_path / "two")
    for map_ in (tmp_path / "one").glob("*-map.png"):
        with Image.open(map_) as one, Image.open(tmp_path / "two" / map_.name) as two:
            assert np.abs(np.asarray(one, int) - np.asarray(two, int)).max() <= 1


def test_export_of_what_is_no_network_is_refused(study: Study, tmp_path: Path) -> None:
    said = flbench("export", "--method", "red", "--study", study.folder, "--into", tmp_path / "red.onnx", code=2)
    assert "method red is no fitted network" in said.stderr
    assert not list(tmp_path.iterdir())
