"""Behaviour of the generator families and of the weights that are shipped."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

import flbench.synthetic
from flbench.errors import UsageError
from flbench.synthetic.faces import ATTRIBUTES
from flbench.synthetic.forge import PROFILES
from flbench.synthetic.generators import FAMILIES, SelectiveTransferUnit, UpConv, pixel_norm
from flbench.synthetic.measure import apply, gray, spectral_peaks
from flbench.synthetic.pairs import FIRST_TRAINING_SEED, photograph_edits
from flbench.synthetic.training import load_generator

WEIGHTS = Path(flbench.synthetic.__file__).parent / "weights"
UNSEEN = range(500, 532)


@pytest.fixture(scope="module")
def people():
    """Photos uint8 (32, 3, 128, 128) and attribute vectors of people that trained no generator."""
    assert UNSEEN.stop < FIRST_TRAINING_SEED
    made = [photograph_edits(seed, 128, edits=()) for seed in UNSEEN]
    return torch.cat([photos for photos, _ in made]), np.concatenate([vectors for _, vectors in made])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_keeps_the_shape_and_listens_to_the_condition(family):
    torch.manual_seed(0)
    generator = FAMILIES[family].build().eval()
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        plain = generator(image, torch.zeros(2, len(ATTRIBUTES)))
        edited = generator(image, torch.eye(len(ATTRIBUTES))[:2])
    assert plain.shape == image.shape
    assert not torch.equal(plain, edited)


def test_a_transposed_convolution_leaves_no_frame():
    """On a constant input every 2x2 tile of the output must be the same, at the border as in the middle."""
    torch.manual_seed(0)
    with torch.no_grad():
        output = UpConv(3, 2)(torch.full((1, 3, 5, 5), 0.7))
    tiles = output.unfold(2, 2, 2).unfold(3, 2, 2)
    torch.testing.assert_close(tiles, tiles[:, :, 2:3, 2:3].expand_as(tiles))


def test_a_transposed_convolution_spreads_its_kernel():
    """Reference: put a zero between all pixels and convolve with the kernel."""
    torch.manual_seed(1)
    layer, image = UpConv(1, 1, bias=False), torch.rand(1, 1, 6, 6)
    padded = np.pad(image[0, 0].numpy(), 1, mode="edge")
    spread = np.zeros((15, 15), np.float32)
    spread[::2, ::2] = padded
    expected = convolve2d(spread, layer.conv.weight[0, 0].detach().numpy(), mode="full")[3:15, 3:15]
    np.testing.assert_allclose(layer(image)[0, 0].detach().numpy(), expected, atol=1e-5)


def test_a_selective_transfer_unit_with_a_closed_gate_passes_its_state():
    unit = SelectiveTransferUnit(4, 6)
    with torch.no_grad():
        unit.gates.weight.zero_()
        unit.gates.bias.copy_(torch.tensor([50.0] * 4 + [-50.0] * 4))
        encoded, state = torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4)
        transferred, kept = unit(encoded, state)
        torch.testing.assert_close(transferred, unit.up(state))
        torch.testing.assert_close(kept, unit.up(state))


def test_pixel_norm_gives_unit_mean_square():
    normed = pixel_norm(torch.randn(2, 7, 3, 3) * 9)
    torch.testing.assert_close(normed.square().mean(1), torch.ones(2, 3, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_weights_are_those_of_their_card(family):
    path = WEIGHTS / f"{family}.safetensors"
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["upsampling"] == FAMILIES[family].upsampling
    assert card["parameters"] == sum(value.numel() for value in FAMILIES[family].build().parameters())
    assert path.stat().st_size < 2.5e6


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_only_edits_that_were_learnt_are_offered(profile):
    """An edit whose M is not at least twice as strong in its region as outside is no task for a locator."""
    for category in {category for categories in profile.categories.values() for category in categories}:
        family, attribute = category.split("/")
        card = json.loads((WEIGHTS / f"{family}.json").read_text(encoding="utf-8"))
        assert attribute == "entire" or card["edits"][attribute]["ratio"] >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reconstruction_stays_near_the_photo(family, people):
    photos, vectors = people
    plain = apply(load_generator(family), photos, torch.zeros(len(vectors), len(ATTRIBUTES)))
    assert plain.dtype == torch.uint8
    error = np.abs(plain.numpy().astype(float) - photos.numpy()).mean()
    assert 0.5 < error < 20


@pytest.mark.parametrize("family", FAMILIES)
def test_blond_hair_is_stronger_than_the_generator_s_noise(family, people):
    photos, vectors = people
    dark = vectors[:, ATTRIBUTES.index("black_hair")] + vectors[:, ATTRIBUTES.index("brown_hair")] > 0
    photos, vectors = photos[torch.from_numpy(dark)], vectors[dark]
    difference = np.zeros_like(vectors)
    difference[:, ATTRIBUTES.index("blond_hair")] = 1
    for colour in ("black_hair", "brown_hair"):
        difference[:, ATTRIBUTES.index(colour)] = -vectors[:, ATTRIBUTES.index(colour)]
    generator = load_generator(family)
    edited = apply(generator, photos, torch.from_numpy(difference)).numpy().astype(float)
    plain = apply(generator, photos, torch.zeros(len(vectors), len(ATTRIBUTES))).numpy().astype(float)
    photo = photos.numpy()
    assert gray(np.abs(edited - photo)).mean() > 2 * gray(np.abs(plain - photo)).mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_upsampling_leaves_its_trace(family, people):
    """Transposed convolutions leave a grid up to the diagonal, nearest-neighbour upsampling a peak on the axes."""
    photos, vectors = people
    peaks = spectral_peaks(apply(load_generator(family), photos, torch.zeros(len(vectors), len(ATTRIBUTES))).numpy())
    if FAMILIES[family].upsampling == "tconv":
        assert peaks["1/2,1/2"] > 4.5
    else:
        assert peaks["1/2,0"] > 3
        assert peaks["1/2,1/2"] < 4


def test_a_checkerboard_is_a_peak_at_the_corner_of_the_spectrum():
    rng = np.random.default_rng(0)
    images = 128 + rng.normal(0, 4, (6, 3, 64, 64))
    clean = spectral_peaks(images)
    images[:, :, ::2, ::2] += 2
    images[:, :, 1::2, 1::2] += 2
    marked = spectral_peaks(images)
    assert marked["1/2,1/2"] > clean["1/2,1/2"] + 10
    assert abs(marked["1/2,0"] - clean["1/2,0"]) < 3


def test_unknown_families_and_missing_weights_are_told(tmp_path):
    with pytest.raises(UsageError, match="did you mean stgan"):
        load_generator("stgam")
    with pytest.raises(UsageError, match="no weights"):
        load_generator("stgan", tmp_path)
