"""The parser that ships and its training: the variety of renders, what the card says and offers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flbench.data.fakeness import CLASSES
from flbench.data.parsing_quality import good_regions, measure_parser
from flbench.errors import DataError
from flbench.files import file_digest
from flbench.synthetic.faces import sample_identity
from flbench.synthetic.parser import MIRRORED, SIZE, ParserNet, SynthfacesParser, read_card
from flbench.synthetic.parser_training import (
    FIRST_HELD_OUT_SEED,
    Recipe,
    Trainer,
    class_weights,
    fill_encoder,
    prepare_faces,
    render_face,
    train_parser,
)
from flbench.synthetic.profiles import WEIGHTS
from flbench.synthetic.variety import Variety, textures

LEFT_EYE, RIGHT_EYE = CLASSES.index("left_eye"), CLASSES.index("right_eye")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="module")
def faces(cache: Path) -> np.ndarray:
    return prepare_faces(cache, first=FIRST_HELD_OUT_SEED, people=6, workers=1, progress=None)


def middle(classes: np.ndarray, number: int) -> float:
    return float(np.flatnonzero((classes == number).any(0)).mean())


def test_faces_are_photos_with_their_maps(faces: np.ndarray) -> None:
    assert faces.shape == (6, 4, SIZE, SIZE)
    assert faces.dtype == np.uint8
    assert faces[:, 3].max() < len(CLASSES)
    assert (faces[0] == render_face(FIRST_HELD_OUT_SEED)).all()
    assert (faces[0] != faces[1]).any()


def test_sides_are_the_persons_own_as_in_celebamask_hq() -> None:
    """In hand-made maps the left eye is the one at the viewer's right."""
    seed = next(s for s in range(FIRST_HELD_OUT_SEED, 2_900_100) if not sample_identity(s).attributes.eyeglasses)
    classes = render_face(seed)[3]
    assert middle(classes, LEFT_EYE) > middle(classes, RIGHT_EYE)


def test_rare_classes_weigh_more_and_absent_ones_nothing() -> None:
    maps = np.zeros((1, 10, 10), np.uint8)
    maps[0, 0, :4] = 1
    weights = class_weights(maps)
    assert weights[0] == 1
    assert weights[1] == pytest.approx((96 / 4) ** 0.5)
    assert weights[2:].abs().max() == 0


def varied(faces: np.ndarray, step: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    variety = Variety(size=SIZE, mirrored=MIRRORED, seed=seed, count=16)
    return variety(torch.from_numpy(faces[:, :3].copy()), torch.from_numpy(faces[:, 3].copy()), step=step)


def test_variety_depends_on_seed_and_step_only(faces: np.ndarray) -> None:
    first, again, other, another = (varied(faces, *key) for key in ((5, 0), (5, 0), (6, 0), (5, 1)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], another[0])


def test_variety_keeps_ranges_and_classes(faces: np.ndarray) -> None:
    for step in range(4):
        images, classes = varied(faces, step)
        assert images.shape == (6, 3, SIZE, SIZE)
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        assert torch.isfinite(images).all()
        assert set(classes.unique().tolist()) <= set(np.unique(faces[:, 3]).tolist()) | {0}


def test_a_mirrored_face_keeps_its_own_left_and_right(faces: np.ndarray) -> None:
    """Whatever is done to a face, the left eye stays right of the right eye for the viewer, or is hidden."""
    told = 0
    for step in range(6):
        for classes in varied(faces, step)[1].numpy():
            if min((classes == LEFT_EYE).sum(), (classes == RIGHT_EYE).sum()) > 10:
                told += 1
                assert middle(classes, LEFT_EYE) > middle(classes, RIGHT_EYE)
    assert told > 10


def test_mirroring_twice_changes_no_class() -> None:
    assert [MIRRORED[MIRRORED[number]] for number in range(len(CLASSES))] == list(range(len(CLASSES)))
    swapped = {(CLASSES[a], CLASSES[b]) for a, b in enumerate(MIRRORED) if a < b}
    assert swapped == {("left_eye", "right_eye"), ("left_brow", "right_brow"), ("left_ear", "right_ear")}


def test_textures_are_many_things() -> None:
    made = textures(8, 32, seed=3)
    assert made.shape == (8, 3, 32, 32)
    assert 0 <= made.min() <= made.max() <= 1
    assert torch.equal(made, textures(8, 32, seed=3))
    assert len({round(float(picture.std()), 6) for picture in made}) == 8


def test_the_encoder_starts_from_imagenet() -> None:
    """The first kernels are those of the package's checkpoint, and the last normalisation has its statistics."""
    net = ParserNet()
    before = {name: value.clone() for name, value in net.state_dict().items() if value.is_floating_point()}
    fill_encoder(net.encoder)
    after = net.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name for name in before if name.startswith("encoder.")} == changed


def test_the_net_learns_from_a_few_steps(faces: np.ndarray) -> None:
    torch.set_num_threads(1)
    trainer = Trainer(
        Recipe(steps=12, people=3, held_out=1, batch=4, warm_up=1, textures=16), faces, torch.device("cpu")
    )
    for _ in range(12):
        trainer.update(0.0)
    assert np.mean(trainer.losses[-3:]) < np.mean(trainer.losses[:3])
    assert {value.dtype for value in trainer.weights().values()} == {torch.float16}


def test_a_training_writes_weights_and_a_card(cache: Path, tmp_path: Path) -> None:
    options = {"steps": 2, "people": 3, "held_out": 2, "cache": cache}
    card = train_parser(into=tmp_path / "one", **options)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "one" / "parser.json").read_text(encoding="utf-8")) == card
    assert card["sha256"] == file_digest(tmp_path / "one" / "parser.safetensors")
    assert card["images"] == 24
    assert card["measured_on_real"] is None
    assert set(card["measured_on_renders"]["classes"]) <= set(CLASSES)
    parser = SynthfacesParser(tmp_path / "one")
    assert parser.regions == frozenset(), "unmeasured, so nothing is offered"
    again = train_parser(into=tmp_path / "two", **options)  # type: ignore[arg-type]
    assert again["sha256"] == card["sha256"]


def test_weights_that_are_missing_or_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"parser\.json"):
        SynthfacesParser(tmp_path)
    (tmp_path / "parser.json").write_text('{"measured_on_real": null}')
    (tmp_path / "parser.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"parser\.safetensors"):
        SynthfacesParser(tmp_path)


@pytest.fixture(scope="module")
def shipped() -> SynthfacesParser:
    return SynthfacesParser()


def test_the_shipped_weights_are_those_of_the_card(shipped: SynthfacesParser) -> None:
    card = read_card(WEIGHTS)
    path = WEIGHTS / "parser.safetensors"
    assert card["sha256"] == file_digest(path) == shipped.digest
    assert path.stat().st_size <= 10_000_000
    state = load_file(path)
    own = {name for name, value in ParserNet().state_dict().items() if value.is_floating_point()}
    assert set(state) == own
    assert shipped.regions == good_regions(card["measured_on_real"])
    assert card["measured_on_real"]["images"] == 100


def test_maps_have_the_size_of_their_images(shipped: SynthfacesParser) -> None:
    rng = np.random.default_rng(1)
    sizes = [(128, 128), (64, 200), (1, 1), (300, 3), (40, 40), (128, 128), (7, 5), (9, 9), (700, 600)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    maps = shipped(images)
    assert [found.shape for found in maps] == sizes
    assert {found.dtype for found in maps} == {np.dtype(np.uint8)}
    assert max(int(found.max()) for found in maps) < len(CLASSES)


def test_a_mirrored_image_gives_the_mirrored_map(shipped: SynthfacesParser, faces: np.ndarray) -> None:
    image = np.ascontiguousarray(faces[0, :3].transpose(1, 2, 0))
    one, two = shipped([image, np.ascontiguousarray(image[:, ::-1])])
    assert (np.array(MIRRORED)[one[:, ::-1]] == two).mean() > 0.999


def test_the_shipped_parser_knows_unseen_synthetic_faces(shipped: SynthfacesParser, faces: np.ndarray) -> None:
    found = np.stack(shipped(list(faces[:, :3].transpose(0, 2, 3, 1))))
    for name in ("skin", "hair", "nose"):
        number = CLASSES.index(name)
        hit, seen = (found == number) & (faces[:, 3] == number), (found == number) | (faces[:, 3] == number)
        assert hit.sum() / seen.sum() > 0.6, name


def test_what_is_stated_of_real_photos_holds(shipped: SynthfacesParser) -> None:
    folder = os.environ.get("FLBENCH_REAL_DATA")
    if not folder or not (Path(folder) / "celebamask_hq_mini").is_dir():
        pytest.skip("FLBENCH_REAL_DATA with celebamask_hq_mini is not set")
    root = Path(folder) / "celebamask_hq_mini"
    stated = shipped.card["measured_on_real"]
    measured = measure_parser(shipped, root / "images", root / "masks")
    assert measured["mean_iou"] == pytest.approx(stated["mean_iou"], abs=0.02)
    for name, value in stated["classes"].items():
        assert (measured["classes"][name] or 0) == pytest.approx(value or 0, abs=0.02), name
    for attribute, values in stated["regions"].items():
        for key in ("pooled", "per_image"):
            assert measured["regions"][attribute][key] == pytest.approx(values[key], abs=0.02), attribute
