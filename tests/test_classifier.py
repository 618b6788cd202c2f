"""The attribute classifier: what it is trained on, that it learns and reads, that what ships is what its card says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

import flbench.synthetic
from flbench.errors import UsageError
from flbench.files import file_digest
from flbench.synthetic import classifier as judging
from flbench.synthetic.classifier import (
    CAMERAS_KNOWN,
    FIRST_CLASSIFIER_SEED,
    HELD_OUT_SEED,
    AttributeClassifier,
    Portraits,
    Recipe,
    accuracy,
    augmented,
    draw_look,
    fit,
    load_classifier,
    portraits,
    read_attributes,
    train_classifier,
)
from flbench.synthetic.faces import ATTRIBUTES, HAIR_COLOURS, RENDERER_VERSION
from flbench.synthetic.identity import SCENERIES
from flbench.synthetic.pairs import FIRST_TRAINING_SEED
from flbench.synthetic.profiles import PROFILES

WEIGHTS = Path(flbench.synthetic.__file__).parent / "weights"


@pytest.fixture(scope="module")
def people() -> Portraits:
    return portraits(HELD_OUT_SEED, 24)


@pytest.fixture(scope="module")
def shipped() -> AttributeClassifier:
    return load_classifier()


def test_what_ships_is_what_its_card_says(shipped: AttributeClassifier) -> None:
    path = WEIGHTS / "classifier.safetensors"
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == file_digest(path)
    assert card["renderer"] == RENDERER_VERSION
    assert card["parameters"] == sum(value.numel() for value in shipped.parameters()) <= 500_000
    assert path.stat().st_size <= 1_000_000
    assert tuple(card["attributes"]) == ATTRIBUTES
    assert (tuple(card["sceneries"]), tuple(card["cameras"])) == (SCENERIES, CAMERAS_KNOWN)
    assert min(card["accuracy"].values()) >= 0.95
    assert Recipe(**card["recipe"]) == Recipe()


def test_it_reads_people_it_has_never_seen(shipped: AttributeClassifier, people: Portraits) -> None:
    """Half of the people stand outdoors, half are taken with each camera; a coin would reach .5."""
    told = accuracy(shipped, people)
    assert np.mean(list(told.values())) > 0.95
    assert min(told.values()) > 0.75
    chances = read_attributes(shipped, people.images.transpose(0, 2, 3, 1))
    right = ((chances > 0.5) == (people.attributes > 0.5)).mean(0)
    no_hair_colour = [place for place, name in enumerate(ATTRIBUTES) if name not in HAIR_COLOURS]
    assert [told[ATTRIBUTES[place]] for place in no_hair_colour] == pytest.approx(right[no_hair_colour], abs=1e-4)


def test_an_edit_turns_its_reading(shipped: AttributeClassifier) -> None:
    """The same people with and without eyeglasses, nothing else changed."""
    place = ATTRIBUTES.index("eyeglasses")
    readings = []
    for worn in (True, False):
        photos = []
        for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 8):
            look = draw_look(seed).set("eyeglasses", worn)
            linear, _ = judging.render([judging.sample_identity(seed)], [look], judging.sensor_size(128))
            photos.append(judging.photograph(linear, [seed], 128).permute(0, 2, 3, 1))
        readings.append(read_attributes(shipped, torch.cat(photos).numpy())[:, place])
    assert (readings[0] > readings[1]).all()
    assert (readings[0] - readings[1]).mean() > 0.8


def test_nobody_of_a_data_set_or_a_generator_s_training_is_asked() -> None:
    last = max(max(profile.seeds("test")) for profile in PROFILES.values())
    assert last < FIRST_TRAINING_SEED < FIRST_CLASSIFIER_SEED - 1_000_000
    assert FIRST_CLASSIFIER_SEED + Recipe().people <= HELD_OUT_SEED


def test_looks_are_drawn_independently() -> None:
    looks = np.stack([draw_look(seed).vector() for seed in range(4000)])
    shares = dict(zip(ATTRIBUTES, looks.mean(0), strict=True))
    assert all(0.15 < share < 0.55 for share in shares.values())
    related = np.corrcoef(looks, rowvar=False)
    excluding = {frozenset({"bald", "bangs"})} | {
        frozenset({one, other}) for one in HAIR_COLOURS for other in HAIR_COLOURS if one != other
    }
    for first, one in enumerate(ATTRIBUTES):
        for second, other in enumerate(ATTRIBUTES[:first]):
            if frozenset({one, other}) not in excluding:
                assert abs(related[first, second]) < 0.06, (one, other)


def test_photos_show_both_sceneries_and_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def photograph(linear: torch.Tensor, seeds: list[int], size: int, camera: str) -> torch.Tensor:
        seen.add((linear.shape[0], camera))
        return torch.zeros(1, 3, size, size, dtype=torch.uint8)

    def sample(seed: int, scenery: str) -> str:
        seen.add(scenery)
        return scenery

    monkeypatch.setattr(judging, "photograph", photograph)
    monkeypatch.setattr(judging, "sample_identity", sample)
    monkeypatch.setattr(judging, "render", lambda people, looks, size: (torch.zeros(1, 3, size, size), None))
    portraits(FIRST_CLASSIFIER_SEED, 4)
    assert seen == {*SCENERIES, *((1, camera) for camera in CAMERAS_KNOWN)}


def test_softening_is_seeded_and_stays_an_image(people: Portraits) -> None:
    images = people.images[:16]
    first, second = (augmented(images, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert not torch.equal(first, augmented(images, np.random.default_rng(5)))


def test_a_blur_is_a_gaussian(people: Portraits) -> None:
    images = torch.from_numpy(people.images[:2]).float()
    blurred = judging._blurred(images, torch.tensor([0.7, 1.2])).numpy()
    for image, sigma, result in zip(people.images[:2].astype(float), (0.7, 1.2), blurred, strict=True):
        expected = gaussian_filter(image, (0, sigma, sigma), mode="mirror", radius=(0, 4, 4))
        np.testing.assert_allclose(result, expected, atol=1e-2)


def test_the_hair_colour_of_someone_bald_is_not_asked_for() -> None:
    attributes = torch.zeros(2, len(ATTRIBUTES))
    attributes[0, ATTRIBUTES.index("bald")] = 1
    logits = torch.randn(2, len(ATTRIBUTES), generator=torch.Generator().manual_seed(0))
    changed = logits.clone()
    changed[0, ATTRIBUTES.index("blond_hair")] += 3
    assert torch.equal(judging._loss(logits, attributes), judging._loss(changed, attributes))
    changed[1, ATTRIBUTES.index("blond_hair")] += 3
    assert judging._loss(changed, attributes) > judging._loss(logits, attributes)
    asked = [F.binary_cross_entropy_with_logits(logits[1], attributes[1], reduction="none")]
    kept = [place for place, name in enumerate(ATTRIBUTES) if name not in HAIR_COLOURS]
    asked.append(F.binary_cross_entropy_with_logits(logits[0, kept], attributes[0, kept], reduction="none"))
    assert judging._loss(logits, attributes).item() == pytest.approx(torch.cat(asked).mean().item(), rel=1e-5)


def test_the_same_recipe_gives_the_same_weights(people: Portraits) -> None:
    recipe = Recipe(steps=2, batch=2)
    first, second, other = fit(recipe, people), fit(recipe, people), fit(replace(recipe, seed=1), people)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.state_dict()["head.2.weight"], other.state_dict()["head.2.weight"])


def test_it_learns(people: Portraits) -> None:
    trained, blank = fit(Recipe(steps=12, batch=8, warm_up=3, rate=1e-3), people), AttributeClassifier().eval()
    images, asked = torch.from_numpy(people.images).float() / 255, torch.from_numpy(people.attributes)
    with torch.no_grad():
        assert judging._loss(trained(images), asked) < judging._loss(blank(images), asked) - 0.01


def test_a_training_writes_weights_and_card(tmp_path: Path) -> None:
    recipe = Recipe(people=6, held_out=4, steps=2, batch=4)
    card = train_classifier(into=tmp_path, recipe=recipe)
    assert json.loads((tmp_path / "classifier.json").read_text(encoding="utf-8")) == card
    assert card["sha256"] == file_digest(tmp_path / "classifier.safetensors")
    assert set(card["accuracy"]) == set(card["accuracy_blurred"]) == set(ATTRIBUTES)
    assert load_classifier(tmp_path).training is False


def test_images_of_another_size_are_read_too(shipped: AttributeClassifier, people: Portraits) -> None:
    images = people.images[:6].transpose(0, 2, 3, 1)
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    assert np.abs(read_attributes(shipped, larger) - read_attributes(shipped, images)).mean() < 0.1
    assert read_attributes(shipped, images[:0]).shape == (0, len(ATTRIBUTES))


def test_missing_and_foreign_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights"):
        load_classifier(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "classifier.safetensors")
    with pytest.raises(UsageError, match="does not fit"):
        load_classifier(tmp_path)
    weights = load_file(WEIGHTS / "classifier.safetensors")
    save_file(weights | {"head.2.bias": torch.zeros(3)}, tmp_path / "classifier.safetensors")
    with pytest.raises(UsageError, match="does not fit"):
        load_classifier(tmp_path)
