"""Behaviour of the renderer and of attributes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion, label

from flbench.synthetic.faces import (
    ATTRIBUTES,
    CLASSES,
    EDITS,
    GEOMETRIC_EDITS,
    HAIR_COLOURS,
    SCENERIES,
    Attributes,
    render,
    sample_identity,
)

SIZE = 96


def draw(seed, look=None):
    identity = sample_identity(seed)
    rgb, classes = render([identity], [look or identity.attributes], SIZE)
    return rgb[0], classes[0].numpy()


def changed(seed, before, after):
    """Return where two looks of one person differ at all, and both parsing maps."""
    first, first_classes = draw(seed, before)
    second, second_classes = draw(seed, after)
    return (first != second).any(0).numpy(), first_classes, second_classes


PLAIN = Attributes(male=True, brown_hair=True)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_always_gives_the_same_pixels(seed):
    first, second = draw(seed), draw(seed)
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_a_batch_gives_the_same_bits_as_single_faces():
    people = [sample_identity(seed) for seed in (3, 4, 5)]
    rgb, classes = render(people, [person.attributes for person in people], SIZE)
    for index, seed in enumerate((3, 4, 5)):
        alone, alone_classes = draw(seed)
        assert torch.equal(rgb[index], alone)
        assert np.array_equal(classes[index].numpy(), alone_classes)


def test_rendering_leaves_global_random_states_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw(11)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_pixels_are_finite_linear_light():
    rgb, _ = draw(2)
    assert rgb.shape == (3, SIZE, SIZE)
    assert rgb.dtype == torch.float32
    assert torch.isfinite(rgb).all()
    assert rgb.min() >= 0
    assert rgb.max() <= 1.6


@pytest.mark.parametrize("seed", range(20, 28))
def test_the_parsing_map_is_laid_out_like_a_face(seed):
    look = Attributes(brown_hair=True, smile=True)
    _, classes = draw(seed, look)
    assert classes.dtype == np.uint8
    middle = {}
    for name in (
        "left_eye",
        "right_eye",
        "left_brow",
        "right_brow",
        "nose",
        "mouth",
        "upper_lip",
        "lower_lip",
        "hair",
        "neck",
    ):
        rows, columns = np.nonzero(classes == CLASSES.index(name))
        assert len(rows) > 3, name
        middle[name] = rows.mean(), columns.mean()
    assert middle["left_eye"][1] < middle["nose"][1] < middle["right_eye"][1]
    assert middle["left_brow"][0] < middle["left_eye"][0] < middle["nose"][0]
    assert middle["nose"][0] < middle["upper_lip"][0] < middle["mouth"][0] < middle["lower_lip"][0] < middle["neck"][0]
    assert classes[0, 0] == CLASSES.index("background")


@pytest.mark.parametrize("colour", ["black_hair", "blond_hair"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hair_colour_changes_hair_and_brows_only(colour, seed):
    difference, before, after = changed(seed, PLAIN, PLAIN.edit(colour))
    assert np.array_equal(before, after)
    hairy = np.isin(before, [CLASSES.index(name) for name in ("hair", "left_brow", "right_brow")])
    assert difference[hairy].mean() > 0.95
    assert not difference[~binary_dilation(hairy, iterations=4)].any()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eyeglasses_change_a_band_around_the_eyes(seed):
    difference, before, after = changed(seed, PLAIN, PLAIN.edit("eyeglasses"))
    glasses = after == CLASSES.index("eyeglasses")
    assert not (before == CLASSES.index("eyeglasses")).any()
    assert glasses.sum() > 50
    assert np.array_equal(before[~glasses], after[~glasses])
    shadowed = binary_dilation(glasses, iterations=9)
    assert not difference[~shadowed].any()


@pytest.mark.parametrize(("edit", "bound"), [("smile", 0.75), ("mustache", 0.10), ("bangs", 0.5), ("bald", 0.7)])
def test_an_edit_changes_something_but_never_the_corners(edit, bound):
    difference, _, _ = changed(5, PLAIN, PLAIN.edit(edit))
    assert 0.002 < difference.mean() < bound
    assert not difference[:4, :4].any()
    assert not difference[:4, -4:].any()


def test_a_bald_head_has_skin_where_hair_was():
    _, before, after = changed(6, PLAIN, PLAIN.edit("bald"))
    hair = CLASSES.index("hair")
    assert (after == hair).sum() < 0.2 * (before == hair).sum()
    assert (after == CLASSES.index("skin")).sum() > (before == CLASSES.index("skin")).sum()


@pytest.mark.parametrize("edit", sorted(GEOMETRIC_EDITS - {"mustache"}))
def test_geometric_edits_change_the_parsing_map(edit):
    _, before, after = changed(8, PLAIN, PLAIN.edit(edit))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("look", [PLAIN, Attributes(black_hair=True)])
@pytest.mark.parametrize("seed", range(30, 36))
def test_loose_strands_do_not_speckle_the_parsing_map(seed, look):
    _, classes = draw(seed, look)
    pieces, count = label(classes == CLASSES.index("hair"))
    sizes = np.sort(np.bincount(pieces.ravel())[1:])
    assert count <= 6
    assert sizes[sizes < 6].sum() < 0.02 * sizes.sum()


@pytest.mark.parametrize("seed", range(3))
def test_a_scenery_changes_the_background_only(seed):
    studio, outdoor = (sample_identity(seed, scenery) for scenery in SCENERIES)
    assert studio == sample_identity(seed)
    assert replace(outdoor, scenery="studio") == studio
    first, classes = render([studio], [studio.attributes], SIZE)
    second, same = render([outdoor], [outdoor.attributes], SIZE)
    assert torch.equal(classes, same)
    background = (classes[0] == 0).numpy()
    difference = (first != second)[0].any(0).numpy()
    assert difference[background].mean() > 0.95
    assert not difference[binary_erosion(~background, iterations=6)].any()


def test_a_hat_hides_hair_above_its_edge():
    identity = sample_identity(12)
    worn = replace(identity, surroundings=replace(identity.surroundings, hat=0.0))
    bare = replace(identity, surroundings=replace(identity.surroundings, hat=1.0))
    _, with_hat = render([worn], [PLAIN], SIZE)
    _, without = render([bare], [PLAIN], SIZE)
    hat, hair = (CLASSES.index(name) for name in ("hat", "hair"))
    assert (with_hat == hat).sum() > 100
    assert not (without == hat).any()
    assert (with_hat == hair).sum() < (without == hair).sum()


def test_an_unknown_scenery_is_refused():
    with pytest.raises(ValueError, match="known: studio, outdoor"):
        sample_identity(0, "moon")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(ATTRIBUTES), st.booleans()), max_size=12))
def test_no_sequence_of_changes_breaks_an_exclusion(changes):
    look = Attributes()
    for name, value in changes:
        look = look.set(name, value)
        assert getattr(look, name) is value
        assert sum(getattr(look, colour) for colour in HAIR_COLOURS) <= 1
        assert not (look.bald and look.bangs)


@settings(max_examples=40)
@given(st.integers(0, 2**40))
def test_sampled_attributes_respect_the_exclusions(seed):
    look = sample_identity(seed).attributes
    assert sum(getattr(look, colour) for colour in HAIR_COLOURS) <= 1
    assert not (look.bald and look.bangs)
    assert look.male or not (look.bald or look.mustache)


def test_the_vector_follows_the_names():
    vector = Attributes(blond_hair=True, smile=True, young=False).vector()
    assert vector.dtype == np.float32
    assert [name for name, value in zip(ATTRIBUTES, vector, strict=True) if value] == ["blond_hair", "smile"]


def test_age_flips_young_and_the_rest_flip_themselves():
    assert Attributes().edit("age") == Attributes(young=False)
    assert set(EDITS) - {"age", "gender"} == set(ATTRIBUTES) - {"young"}
    assert (
        Attributes(smile=True).edit("gender")
        == Attributes(smile=True).edit("male")
        == Attributes(smile=True, male=True)
    )
    assert Attributes(black_hair=True).edit("blond_hair") == Attributes(blond_hair=True)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="known: bald"):
        Attributes().set("beard", True)
    with pytest.raises(ValueError, match="no edit"):
        Attributes().edit("young")
