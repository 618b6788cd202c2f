"""Behaviour of the generator training: schedule, loss, batches, resuming."""

import json

import numpy as np
import pytest
import torch

from flbench.errors import UsageError
from flbench.synthetic.faces import ATTRIBUTES
from flbench.synthetic.generators import FAMILIES, Verdict
from flbench.synthetic.losses import fooling_loss, judging_loss, region_loss
from flbench.synthetic.pairs import Faces, prepare_faces, sample_pairs
from flbench.synthetic.training import Recipe, learning_rate, recipe_of, train_generator

PEOPLE, SIZE = 8, 32
EDITS = FAMILIES["stgan"].learnt


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of eight rendered people."""
    folder = tmp_path_factory.mktemp("faces")
    prepare_faces(folder, people=PEOPLE, size=SIZE, workers=1)
    return folder


@pytest.fixture(scope="module")
def faces(cache):
    return prepare_faces(cache, people=PEOPLE, size=SIZE, workers=1)


def test_the_rate_warms_up_stays_and_falls():
    recipe = Recipe(family="stgan", steps=1000)
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(1e-5)
    assert learning_rate(recipe, 99, 0.1) == pytest.approx(1e-3)
    assert learning_rate(recipe, 600, 0.6) == pytest.approx(1e-3)
    assert learning_rate(recipe, 800, 0.8) == pytest.approx(1e-3 * (1 - 0.97 * 0.5))
    assert learning_rate(recipe, 1000, 1.0) == pytest.approx(3e-5)


def test_the_region_counts_as_much_as_the_image():
    """The left half changes by .4 and the output misses all of it: .4 in the region, and half of that in the image.

    Blurring smears the edge between the halves without losing any of the error inside the picture.
    """
    source = torch.zeros(1, 3, 8, 8)
    target = source.clone()
    target[..., :4] = 0.4
    sharp, blurred_inside = 0.4, 0.4 * (8 * 3 + 8 * 0.75) / 32
    in_region = 0.3 * sharp + 0.7 * blurred_inside
    assert region_loss(source, target, source, 0.3).item() == pytest.approx(0.2 + in_region, rel=1e-5)


def test_without_a_change_the_loss_is_the_mean_error():
    image = torch.rand(2, 3, 8, 8)
    assert region_loss(image + 0.25, image, image, 0.3).item() == pytest.approx(0.25, rel=1e-5)


def test_a_checkerboard_costs_little():
    """Without sharpness nothing but the discriminator pulls at the highest frequencies."""
    image, board = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    board[..., ::2, ::2] = -1
    board[..., 1::2, 1::2] = -1
    assert region_loss(image + 0.1 * board, image, image, 0.0) < 0.2 * region_loss(image + 0.1, image, image, 0.0)
    assert region_loss(image + 0.1 * board, image, image, 1.0).item() == pytest.approx(0.1)


def test_the_discriminator_s_losses_by_hand():
    patches = torch.tensor([1.0, 0.5, 0.0, 1.0]).view(4, 1, 1, 1)
    verdict = Verdict(patches, torch.zeros(4, 10))
    attributes = torch.zeros(2, 10)
    assert fooling_loss(verdict).item() == pytest.approx((0 + 0.25 + 1 + 0) / 4)
    expected = (0 + 0.25) / 2 + (0 + 1) / 2 + np.log(2)
    assert judging_loss(verdict, attributes).item() == pytest.approx(expected, rel=1e-6)


def test_batches_depend_on_seed_and_step_only(faces):
    first = sample_pairs(faces, range(PEOPLE), EDITS, 6, seed=1, step=5)
    again = sample_pairs(faces, range(PEOPLE), EDITS, 6, seed=1, step=5)
    other = sample_pairs(faces, range(PEOPLE), EDITS, 6, seed=1, step=6)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_pairs_change_the_image_if_and_only_if_the_attributes_differ(faces):
    unchanged = 0
    for step in range(30):
        sources, targets, differences, wanted = sample_pairs(faces, range(PEOPLE), EDITS, 8, seed=0, step=step)
        assert sources.min() >= -1
        assert sources.max() <= 1
        assert set(wanted.unique().tolist()) <= {0.0, 1.0}
        for source, target, difference in zip(sources, targets, differences, strict=True):
            same = not difference.any()
            unchanged += same
            assert torch.equal(source, target) == same
            assert difference.abs().sum() <= 3
    assert 15 <= unchanged <= 60


def test_small_edits_are_drawn_more_often(faces):
    counts = np.zeros(len(ATTRIBUTES))
    for step in range(80):
        counts += sample_pairs(faces, range(PEOPLE), EDITS, 8, seed=2, step=step)[2].abs().sum(0).numpy()
    assert counts[ATTRIBUTES.index("eyeglasses")] > 1.5 * counts[ATTRIBUTES.index("male")]


def test_a_resumed_training_gives_the_same_weights(cache, tmp_path):
    options = {"steps": 4, "people": PEOPLE, "size": SIZE, "cache": cache, "checkpoint_every": 2}
    straight = train_generator("pggan", into=tmp_path / "straight", **options)
    (tmp_path / "resumed").mkdir()
    _train_two_steps(tmp_path / "resumed", options)
    resumed = train_generator("pggan", into=tmp_path / "resumed", **options)
    assert resumed["steps"] == straight["steps"] == 4
    assert resumed["sha256"] == straight["sha256"]


def _train_two_steps(folder, options):
    """Leave the checkpoint of a training that was stopped after its second step."""
    from flbench.synthetic import training

    recipe = recipe_of("pggan", steps=4, people=PEOPLE, size=SIZE)
    faces = prepare_faces(options["cache"], people=PEOPLE, size=SIZE, workers=1)
    torch.set_num_threads(1)
    trainer = training._Trainer(recipe, torch.device("cpu"))
    for step in range(2):
        trainer.update(faces, range(0, PEOPLE - PEOPLE // 4), step / 4)
    trainer.save(folder / "pggan.checkpoint.safetensors")


def test_the_card_says_what_was_done(cache, tmp_path):
    card = train_generator("stgan", into=tmp_path, steps=2, people=PEOPLE, size=SIZE, cache=cache)
    assert json.loads((tmp_path / "stgan.json").read_text(encoding="utf-8")) == card
    assert card["images"] == 16
    assert card["recipe"]["held_out"] == 2
    assert card["edits"]
    assert set(card["edits"]) <= set(EDITS)
    assert not (tmp_path / "stgan.checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_recipe_is_refused(cache, tmp_path):
    _train_two_steps(tmp_path, {"cache": cache})
    with pytest.raises(UsageError, match="another recipe"):
        train_generator("pggan", into=tmp_path, steps=9, people=PEOPLE, size=SIZE, cache=cache)


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no generator family"):
        train_generator("biggan", into=tmp_path)


def test_an_emphasised_edit_is_sampled_more_and_as_it_is_asked_for() -> None:
    attributes = np.zeros((1, 1 + len(ATTRIBUTES), len(ATTRIBUTES)), np.float32)
    attributes[0, :, ATTRIBUTES.index("young")] = 1
    for index in range(len(ATTRIBUTES)):
        attributes[0, 1 + index, index] = 1 - attributes[0, 1 + index, index]
    faces = Faces(np.zeros((1, 1 + len(ATTRIBUTES), 3, 16, 16), np.uint8), attributes)

    def changes(emphasis: dict[str, float]) -> tuple[float, float]:
        """Share of pairs that change age, and of those the share that takes youth away."""
        drawn = [
            sample_pairs(faces, range(1), ["smile", "age"], 50, seed=0, step=step, emphasis=emphasis).difference
            for step in range(20)
        ]
        youth = torch.cat(drawn)[:, ATTRIBUTES.index("young")]
        return float((youth != 0).float().mean()), float((youth < 0).sum() / (youth != 0).sum())

    share, older = changes({})
    assert share == pytest.approx(0.85 * 0.5, abs=0.05)
    assert older == pytest.approx(0.5, abs=0.07)
    share, older = changes({"age": 9})
    assert share == pytest.approx(0.85 * 0.75, abs=0.05)
    assert older == pytest.approx(0.75, abs=0.06)
