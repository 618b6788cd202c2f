"""Parsers, and filling in the maps of a data set: what is written, kept, refused, and what a protocol may score in."""

from __future__ import annotations

import sys
import tomllib
import types
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from builders import make_dataset
from PIL import Image

from flbench import jobs, registry
from flbench.data.batches import Frames
from flbench.data.dataset import Dataset, read_dataset, write_dataset
from flbench.data.fakeness import CLASSES, REGIONS, region_of
from flbench.data.images import read_parsing
from flbench.data.inspection import check_dataset
from flbench.data.parsers import CallableParser, FolderParser, OnnxParser, parser_from
from flbench.data.parsing import PALETTE, Filled, file_stem, fill_parsing
from flbench.data.parsing_quality import LEAST_PER_IMAGE, LEAST_POOLED, good_regions, measure_parser
from flbench.engine.plan import Request, make_plan
from flbench.errors import DataError, FlbenchError, UsageError

HAIR, SKIN, MOUTH = 13, 1, 10
HAIR_ONLY = frozenset({"black_hair", "blond_hair", "brown_hair"})


def bands(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Parse as the builder of test data sets paints: hair above, skin, a mouth."""
    maps = []
    for image in images:
        height = len(image)
        classes = np.full(image.shape[:2], SKIN, np.uint8)
        classes[: height * 12 // 32] = HAIR
        classes[height * 22 // 32 : height * 28 // 32] = MOUTH
        maps.append(classes)
    return maps


def parser(parse: Any = bands, **said: Any) -> CallableParser:
    """Return a parser that says something about itself."""
    wrapped = types.FunctionType(parse.__code__, parse.__globals__, parse.__name__)
    wrapped.__dict__.update(said)
    return CallableParser(wrapped, name="bands")


@pytest.fixture
def bare(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", people=6, parsing=False)


def filled(dataset: Dataset, made: Any, **options: Any) -> tuple[Filled, Dataset]:
    report = fill_parsing(dataset, made, **options)
    return report, read_dataset(dataset.folder)


def test_every_image_without_a_map_gets_one(bare: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    report, dataset = filled(bare, parser(), progress=lambda *counts: seen.append(counts))
    assert report == Filled("bands", tuple(sorted(REGIONS)), 30, 0, [])
    assert seen[-1] == (30, 30)
    assert (dataset.manifest["parsing"] != "").all()
    for path in dataset.manifest["parsing"]:
        assert (read_parsing(dataset.path(path)) == bands([np.zeros((32, 32, 3))])[0]).all()
        with Image.open(dataset.path(path)) as image:
            assert image.mode == "P"
            assert bytes(image.getpalette() or [])[:57] == PALETTE
    assert dataset.parsed(dataset.manifest[dataset.manifest["label"] == "fake"]).all()
    assert check_dataset(dataset) == []


def test_the_regions_are_those_of_the_maps(bare: Dataset) -> None:
    _, dataset = filled(bare, parser())
    frames = Frames(dataset, size=32, region="parsing")
    region = frames.region("p000-blond_hair")
    assert region is not None
    assert region[:12].all()
    assert not region[12:].any()


def test_maps_that_are_there_are_kept(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, people=3)
    before = dataset.manifest.set_index("sample_id")["parsing"]
    report, dataset = filled(dataset, parser(regions=HAIR_ONLY))
    after = dataset.manifest.set_index("sample_id")["parsing"]
    assert (report.added, report.kept) == (12, 3)
    assert (after[before != ""] == before[before != ""]).all()
    # The photos have maps that no parser made, so every region can still be scored.
    assert dataset.parsed(dataset.manifest[dataset.manifest["label"] == "fake"]).all()


def test_the_data_set_says_who_made_the_maps_and_is_another_one(bare: Dataset) -> None:
    _, dataset = filled(bare, parser(regions=HAIR_ONLY))
    assert (dataset.about.parser, dataset.about.parsed_attributes) == ("bands", tuple(sorted(HAIR_ONLY)))
    assert (bare.about.version, dataset.about.version) == ("1", "2")
    _, again = filled(dataset, parser(regions=HAIR_ONLY), replace=True)
    _, other = filled(dataset, parser(lambda images: [np.ones(i.shape[:2], np.uint8) for i in images]), replace=True)
    assert bare.fingerprint != dataset.fingerprint == again.fingerprint != other.fingerprint
    _, wider = filled(dataset, parser(), replace=True)
    assert wider.fingerprint != dataset.fingerprint


def test_without_a_parser_the_fingerprint_is_what_it_was(bare: Dataset) -> None:
    plain = bare.about.model_copy(update={"parsed_attributes": ("smile",)})
    assert Dataset(bare.folder, plain, bare.manifest).fingerprint == bare.fingerprint


def test_a_region_that_the_parser_does_not_find_cannot_be_scored(bare: Dataset) -> None:
    _, dataset = filled(bare, parser(regions=HAIR_ONLY))
    fakes = dataset.manifest[dataset.manifest["label"] == "fake"]
    assert (dataset.parsed(fakes) == fakes["attribute"].isin(HAIR_ONLY)).all()
    frames = Frames(dataset, size=32, region="parsing")
    assert frames.attention("p000-smile").min() == 1
    assert frames.attention("p000-blond_hair").min() == 0
    with pytest.raises(DataError, match="no parsing map"):
        frames.region("p000-smile")

    from flbench.protocol import Protocol

    def plan(asked: Protocol, **request: Any) -> Any:
        return make_plan(dataset, [(asked, [registry.choose_method("zeros")])], (0,), Request(**request))

    protocol = registry.find_protocol("cross_attribute")
    region = protocol.model_copy(update={"scoring": protocol.scoring.model_copy(update={"over": "region"})})
    with pytest.raises(UsageError) as error:
        plan(region)
    assert "parser bands, which is not good enough for smile" in str(error.value)
    assert "--region difference" in error.value.hint
    assert plan(region, region="difference").cells[0].region == "difference"


@pytest.mark.parametrize("name", ["../../up", "a/../b", "..", "/root", "sp ace", "ü" * 200, "x" * 300, "a%2Fb", "a:b"])
def test_no_sample_leads_outside(bare: Dataset, name: str) -> None:
    rows = bare.manifest.iloc[:1].assign(sample_id=name)
    dataset = write_dataset(bare.folder, bare.about, rows)
    _, dataset = filled(dataset, parser())
    path = dataset.path(dataset.manifest["parsing"].iloc[0])
    assert path.resolve().parent == (dataset.folder / "parsing" / "_bands").resolve()
    assert path.is_file()


def test_two_samples_never_share_a_file() -> None:
    names = ["a/b", "a%2Fb", "a_b", "a b", "x" * 300, "x" * 301, ".", ".."]
    assert len({file_stem(name) for name in names}) == len(names)
    assert all("/" not in file_stem(name) and len(file_stem(name)) < 200 for name in names)


def test_a_folder_that_is_a_link_outside_is_refused(bare: Dataset, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bare.folder / "parsing").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads outside"):
        fill_parsing(bare, parser())
    assert list((tmp_path / "elsewhere").iterdir()) == []


class Stopping:
    """A parser that is stopped after some batches, and counts what it is asked for."""

    name, regions, note = "stopping", None, ""

    def __init__(self, after: int, digest: str) -> None:
        self.left, self.digest, self.asked = after, digest, 0

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(images)
        return bands(images)


@pytest.mark.parametrize(("digest", "asked"), [("0123456789ab", 14), ("", 30)])
def test_what_is_stopped_leaves_the_data_set_and_goes_on(bare: Dataset, digest: str, asked: int) -> None:
    manifest = (bare.folder / "manifest.parquet").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fill_parsing(bare, Stopping(2, digest))
    assert (bare.folder / "manifest.parquet").read_bytes() == manifest
    assert read_dataset(bare.folder).fingerprint == bare.fingerprint
    second = Stopping(-1, digest)
    report, dataset = filled(bare, second)
    assert (second.asked, report.added) == (asked, 30)
    assert check_dataset(dataset) == []


def test_maps_of_another_parser_are_replaced_on_demand_only(bare: Dataset) -> None:
    _, dataset = filled(bare, parser())
    other = parser(lambda images: [np.full(i.shape[:2], 13, np.uint8) for i in images], name="other")
    with pytest.raises(UsageError, match="has maps of the parser bands"):
        fill_parsing(dataset, other)
    _, dataset = filled(dataset, other, replace=True)
    assert dataset.about.parser == "other"
    assert dataset.manifest["parsing"].str.startswith("parsing/_other/").all()
    assert list(dataset.folder.glob("parsing/_bands/*.png")) == []


def test_what_is_kept_of_an_earlier_version_limits_what_can_be_scored(bare: Dataset) -> None:
    parts = bare.manifest[bare.manifest["sample_id"].str.startswith(("p000", "p001"))]
    _, dataset = filled(write_dataset(bare.folder, bare.about, parts), parser(regions=HAIR_ONLY))
    done = dataset.manifest.set_index("sample_id")["parsing"]
    more = bare.manifest.assign(parsing=[done.get(sample, "") for sample in bare.manifest["sample_id"]])
    _, dataset = filled(write_dataset(bare.folder, dataset.about, more), parser(regions={"smile", "blond_hair"}))
    assert dataset.about.parsed_attributes == ("blond_hair",)
    _, dataset = filled(dataset, parser(regions={"smile", "blond_hair"}), replace=True)
    assert dataset.about.parsed_attributes == ("blond_hair", "smile")


def test_a_finished_map_of_another_image_is_made_again(bare: Dataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill_parsing(bare, Stopping(2, "0123456789ab"))
    rows = bare.manifest.assign(sha256=["f" * 64, *bare.manifest["sha256"][1:]])
    second = Stopping(-1, "0123456789ab")
    filled(write_dataset(bare.folder, bare.about, rows), second)
    assert second.asked == 15


def test_replacing_never_removes_a_map_that_no_parser_made(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", people=2)
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.full((32, 32), 13, np.uint8)).save(masks / "p000.png")
    report, after = filled(dataset, FolderParser(masks), replace=True)
    assert (report.added, len(report.skipped)) == (1, 9)
    rows = after.manifest.set_index("sample_id")["parsing"]
    assert rows["p001"] == "parsing/p001.png"
    assert after.path("parsing/p000.png").is_file()


def test_a_data_set_made_by_a_recipe_is_refused(bare: Dataset) -> None:
    dataset = write_dataset(bare.folder, bare.about.model_copy(update={"recipe": "0" * 64}), bare.manifest)
    with pytest.raises(UsageError, match="made by a recipe"):
        fill_parsing(dataset, parser())


def test_an_unreadable_image_is_left_out_and_told(bare: Dataset) -> None:
    (bare.folder / "images" / "p003.png").write_bytes(b"no image")
    report, dataset = filled(bare, parser())
    assert report.added == 29
    assert [name for name, _ in report.skipped] == ["p003"]
    assert dataset.manifest.set_index("sample_id").loc["p003", "parsing"] == ""


@pytest.mark.parametrize(
    ("parse", "said"),
    [
        (lambda images: [], "0 maps for 8 images"),
        (lambda images: [np.zeros((3, 3), np.uint8) for _ in images], r"\(3, 3\), its image \(32, 32\)"),
        (lambda images: [np.full(i.shape[:2], 19, np.uint8) for i in images], "class 19"),
        (lambda images: [np.full(i.shape[:2], -1) for i in images], "class -1"),
        (lambda images: [np.zeros(i.shape[:2]) for i in images], "float64"),
        (lambda images: list(images), r"uint8 \(32, 32, 3\)"),
        (lambda images: 1 / 0, "ZeroDivisionError"),
        (lambda images: None, "TypeError"),
    ],
)
def test_a_parser_that_is_wrong_is_named(bare: Dataset, parse: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"bands.*{said}"):
        fill_parsing(bare, parser(parse))
    assert read_dataset(bare.folder).fingerprint == bare.fingerprint


def masks_of(dataset: Dataset, folder: Path, names: Sequence[str], shape: tuple[int, int] = (32, 32)) -> Path:
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(bands([np.zeros((*shape, 3))])[0]).save(path)
    return folder


def test_a_folder_gives_its_maps_by_name(bare: Dataset, tmp_path: Path) -> None:
    folder = masks_of(bare, tmp_path / "masks", ["p000", "p001-smile", "deep/p002"])
    report, dataset = filled(bare, FolderParser(folder))
    rows = dataset.manifest.set_index("sample_id")["parsing"]
    assert set(rows[rows != ""].index) == {"p000", "p001-smile"}
    assert report.added == 2
    assert ("p002", "the folder has no map of its name") in report.skipped
    assert set(dataset.about.parsed_attributes) == set(REGIONS)


def test_a_name_alone_is_the_photo_not_its_fake(tmp_path: Path) -> None:
    folder = masks_of(None, tmp_path, ["007", "stargan/bald/celeba/008", "celeba/stargan/bald/009"])  # type: ignore[arg-type]
    parser = FolderParser(folder)
    assert parser.find("celeba/007", "images/celeba/real/007.jpg", real=True) == folder / "007.png"
    assert parser.find("stargan/bald/celeba/007", "images/celeba/stargan/bald/007.png", real=False) is None
    assert parser.find("stargan/bald/celeba/008", "images/celeba/stargan/bald/008.png", real=False) is not None
    assert parser.find("x", "images/celeba/stargan/bald/009.png", real=False) is not None
    assert parser.find("../007", "images/../../007.png", real=False) is None


def test_a_map_of_another_size_is_fitted_and_one_of_another_shape_refused(bare: Dataset, tmp_path: Path) -> None:
    masks_of(bare, tmp_path / "masks", ["p000"], (64, 64))
    masks_of(bare, tmp_path / "masks", ["p001"], (64, 32))
    Image.fromarray(np.full((32, 32), 19, np.uint8)).save(tmp_path / "masks" / "p002.png")
    (tmp_path / "masks" / "p003.png").write_bytes(b"no image")
    report, dataset = filled(bare, FolderParser(tmp_path / "masks"))
    assert report.added == 1
    path = dataset.manifest.set_index("sample_id").loc["p000", "parsing"]
    assert (read_parsing(dataset.path(path)) == bands([np.zeros((32, 32, 3))])[0]).all()
    reasons = dict(report.skipped)
    assert "32x64, its image 32x32" in reasons["p001"]
    assert "class 19" in reasons["p002"]
    assert "not an image" in reasons["p003"]


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            FolderParser(folder)


class Session:
    """A stand-in for onnxruntime's session: the mean of a pixel's colours decides between skin and hair."""

    shape: ClassVar[list[Any]] = [1, 3, "height", "width"]
    answer: ClassVar[Any] = None

    def __init__(self, path: str, providers: list[str]) -> None:
        assert providers == ["CPUExecutionProvider"]
        self.fed: list[np.ndarray] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image", shape=self.shape)]

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        image = feed["image"]
        self.fed.append(image)
        if self.answer is not None:
            return [self.answer]
        scores = np.zeros((1, 19, *image.shape[2:]), np.float32)
        scores[:, SKIN] = 0.5
        scores[:, HAIR] = image.mean(1)
        return [scores]


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))  # type: ignore[arg-type]
    (tmp_path / "net.onnx").write_bytes(b"network")
    return tmp_path / "net.onnx"


def half_white(height: int = 6, width: int = 8) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2] = 255
    return image


def test_a_network_is_fed_rgb_in_unit_range(network: Path) -> None:
    parser = OnnxParser(network)
    found = parser([half_white()])[0]
    assert (found[:3] == HAIR).all()
    assert (found[3:] == SKIN).all()
    fed = parser.session.fed[0]
    assert (fed.shape, fed.dtype, fed.min(), fed.max()) == ((1, 3, 6, 8), np.float32, 0, 1)
    assert parser.name == "net"
    assert len(parser.digest) == 64


def test_a_network_of_a_fixed_size_gets_it(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "shape", [1, 3, 12, 12])
    parser = OnnxParser(network)
    assert parser([half_white()])[0].shape == (6, 8)
    assert parser.session.fed[0].shape == (1, 3, 12, 12)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.zeros((1, 18, 6, 8)), r"\(1, 18, 6, 8\)"),
        (np.zeros((1, 6, 8), np.float32), "float32"),
        (np.zeros((2, 6, 8), np.int64), r"\(2, 6, 8\)"),
        (np.full((1, 6, 8), 19), "class 19"),
        (np.full((1, 6, 8), 300), "class 300"),
    ],
)
def test_a_network_that_answers_otherwise_is_told(
    network: Path, monkeypatch: pytest.MonkeyPatch, answer: np.ndarray, said: str
) -> None:
    monkeypatch.setattr(Session, "answer", answer)
    with pytest.raises(DataError, match=f"net.onnx.*{said}"):
        OnnxParser(network)([half_white()])


def test_a_network_may_answer_classes(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "answer", np.full((1, 3, 4), 13, np.int64))
    found = OnnxParser(network)([half_white()])[0]
    assert found.dtype == np.uint8
    assert found.shape == (6, 8)
    assert (found == 13).all()


def test_a_network_of_another_input_is_refused(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "shape", [1, 1, 12, 12])
    with pytest.raises(UsageError, match=r"net\.onnx takes image"):
        OnnxParser(network)


def test_without_onnxruntime_one_line_says_how_to_get_it(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"pip install 'flbench\[onnx\]'"):
        jobs.open_parser(f"onnx:{network}")


def test_parsers_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def parse(images):\n    return [image[..., 0] // 20 for image in images]\n\nnumber = 3\n"
    (tmp_path / "own_parser.py").write_text(code)
    (tmp_path / "broken_parser.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        metadata.EntryPoint("mine", "own_parser:parse", registry.PARSER_GROUP),
        metadata.EntryPoint("broken", "broken_parser:parse", registry.PARSER_GROUP),
    ]
    monkeypatch.setattr(registry, "parsers", lambda: {point.name: point for point in points})
    image = np.full((2, 2, 3), 60, np.uint8)
    assert (jobs.open_parser("mine")([image])[0] == 3).all()
    assert jobs.open_parser("mine").name == "mine"
    assert jobs.open_parser("own_parser:parse").name == "parse"
    with pytest.raises(UsageError, match="broken cannot be loaded: ModuleNotFoundError"):
        jobs.open_parser("broken")
    with pytest.raises(UsageError, match="did you mean mine"):
        jobs.open_parser("mien")
    with pytest.raises(UsageError, match="no callable"):
        jobs.open_parser("own_parser:number")


def test_an_entry_point_may_be_a_class_or_a_folder(tmp_path: Path) -> None:
    class Ready:
        name, regions, digest, note = "ready", {"bald"}, "abc", "a note"

        def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
            return bands(images)

    made = parser_from(Ready, "given")
    assert (made.name, made.regions, made.digest, made.note) == ("ready", {"bald"}, "abc", "a note")
    masks_of(None, tmp_path, ["a"])  # type: ignore[arg-type]
    assert isinstance(parser_from(str(tmp_path), "given"), FolderParser)
    with pytest.raises(UsageError, match="regions is a string"):
        parser(regions="bald")
    with pytest.raises(UsageError, match="cannot be called"):
        parser(name="a/b")


def test_the_shipped_parser_is_declared() -> None:
    document = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    value = document["project"]["entry-points"][registry.PARSER_GROUP]["synthfaces"]
    assert metadata.EntryPoint("synthfaces", value, registry.PARSER_GROUP).load().name == "synthfaces"


def test_ious_are_those_of_another_implementation(tmp_path: Path) -> None:
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(5)
    truths = [rng.integers(0, 5, (6, 7), dtype=np.uint8) for _ in range(10)]
    founds = [
        np.where(rng.random((6, 7)) < 0.6, truth, rng.integers(0, 5, (6, 7))).astype(np.uint8) for truth in truths
    ]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, truth in enumerate(truths):
        Image.fromarray(np.repeat(truth[:, :, None], 3, 2)).save(tmp_path / "images" / f"{number:02d}.png")
        Image.fromarray(truth).save(tmp_path / "masks" / f"{number:02d}.png")
    answers = iter(founds)
    measured = measure_parser(lambda images: [next(answers) for _ in images], tmp_path / "images", tmp_path / "masks")
    flat = [np.concatenate([array.ravel() for array in arrays]) for arrays in (truths, founds)]
    wanted = jaccard_score(*flat, labels=range(5), average=None)
    np.testing.assert_allclose([measured["classes"][name] for name in CLASSES[:5]], wanted, atol=1e-4)
    assert measured["classes"]["hair"] is None
    assert measured["mean_iou"] == pytest.approx(wanted.mean(), abs=1e-4)
    skins = [[region_of("pale_skin", array).ravel() for array in arrays] for arrays in (truths, founds)]
    found = measured["regions"]["pale_skin"]
    assert found["pooled"] == pytest.approx(jaccard_score(*map(np.concatenate, skins)), abs=1e-4)
    per_image = np.mean([jaccard_score(*pair) for pair in zip(*skins, strict=True)])
    assert (found["per_image"], found["n"]) == (pytest.approx(per_image, abs=1e-4), 10)
    assert measured["regions"]["bald"] == {"pooled": 0.0, "per_image": 0.0, "n": 0}


def test_a_region_is_offered_where_both_measures_are_good_enough() -> None:
    def region(pooled: float, per_image: float) -> dict[str, float]:
        return {"pooled": pooled, "per_image": per_image, "n": 100}

    measured = {
        "regions": {
            "bald": region(LEAST_POOLED, LEAST_PER_IMAGE),
            "smile": region(0.99, LEAST_PER_IMAGE - 0.01),
            "bangs": region(LEAST_POOLED - 0.01, 0.99),
        }
    }
    assert good_regions(measured) == {"bald", "entire"}


def test_photos_without_masks_cannot_measure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photo"):
        measure_parser(bands, tmp_path, tmp_path)


def test_the_command_fills_in_and_says_so(bare: Dataset, tmp_path: Path) -> None:
    import json

    from click.testing import CliRunner

    from flbench.cli import main

    folder = masks_of(bare, tmp_path / "masks", list(bare.manifest["sample_id"]))
    done = CliRunner().invoke(main, ["data", "parse", str(bare.folder), "--parser", f"folder:{folder}", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["added"] == 30
    again = CliRunner().invoke(main, ["data", "parse", str(bare.folder), "--parser", f"folder:{folder}"])
    assert "0 parsing maps by folder, 30 kept" in again.stdout
    assert isinstance(read_dataset(bare.folder).manifest, pd.DataFrame)


def test_a_wrong_parser_is_an_error_not_a_crash(bare: Dataset) -> None:
    with pytest.raises(FlbenchError):
        jobs.parse_dataset(bare.folder, "nonsense:thing")
