"""Behaviour of the generator families and of the weights that are shipped."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d

import flbench.synthetic
from flbench.errors import UsageError
from flbench.synthetic.faces import ATTRIBUTES, sample_identity
from flbench.synthetic.generators import FAMILIES, NATIVE
from flbench.synthetic.layers import (
    STYLE,
    AdaptiveNorm,
    LowPass,
    ModulatedConv,
    SelectiveTransferUnit,
    UpConv,
    pixel_norm,
)
from flbench.synthetic.measure import apply, gray, spectral_peaks
from flbench.synthetic.pairs import FIRST_TRAINING_SEED, photograph_looks
from flbench.synthetic.profiles import PROFILES
from flbench.synthetic.synthesisers import Filtered
from flbench.synthetic.training import load_generator, recipe_of

WEIGHTS = Path(flbench.synthetic.__file__).parent / "weights"
UNSEEN = range(500, 532)


@pytest.fixture(scope="module")
def people():
    """Photos uint8 (32, 3, 128, 128) and attribute vectors of people that trained no generator."""
    assert UNSEEN.stop < FIRST_TRAINING_SEED
    photos = np.concatenate([photograph_looks(seed, NATIVE, lambda look: [look]) for seed in UNSEEN])
    vectors = np.stack([sample_identity(seed).attributes.vector() for seed in UNSEEN])
    return torch.from_numpy(photos), vectors


def card_of(family):
    return json.loads((WEIGHTS / f"{family}.json").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_does_not_depend_on_its_batch(family):
    torch.manual_seed(1)
    generator = FAMILIES[family].build().eval()
    images, differences = torch.rand(3, 3, 32, 32) * 2 - 1, torch.eye(len(ATTRIBUTES))[:3]
    with torch.no_grad():
        alone = torch.cat([generator(images[i : i + 1], differences[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(generator(images, differences), alone, atol=1e-5, rtol=1e-4)


def test_the_families_cover_table_1():
    """The paper's Table 1: 32 categories of seven generators."""
    hair = {"bald", "bangs", "black_hair", "blond_hair", "brown_hair"}
    assert {name: set(family.attributes) for name, family in FAMILIES.items()} == {
        "stgan": hair | {"eyeglasses", "male", "mustache", "smile"},
        "attgan": hair | {"eyeglasses", "male", "smile"},
        "stargan": {"black_hair", "blond_hair", "brown_hair", "gender", "age"},
        "icgan": {"bald", "bangs", "eyeglasses", "smile"},
        "stylegan": {"smile", "age", "gender", "entire"},
        "pggan": {"entire"},
        "stylegan2": {"entire"},
    }
    assert sum(len(family.attributes) for family in FAMILIES.values()) == 32


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


@pytest.mark.parametrize(("taps", "gain"), [((1, 2, 1), 1.0), ((1, 3, 3, 1), 4.0)])
def test_the_low_pass_is_the_binomial_filter(taps, gain):
    image = torch.rand(1, 2, 9, 9)
    blurred = LowPass(taps, gain=gain, shrink=True)(image)
    kernel = gain * np.outer(taps, taps) / sum(taps) ** 2
    for channel in range(2):
        expected = convolve2d(image[0, channel].numpy(), kernel, mode="valid")
        np.testing.assert_allclose(blurred[0, channel].numpy(), expected, atol=1e-5)


def test_the_low_pass_removes_a_checkerboard_and_keeps_a_constant():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((rows + columns) % 2 * 2 - 1).float()[None, None]
    blurred = LowPass((1, 2, 1))(board + 0.25)
    torch.testing.assert_close(blurred[..., 1:-1, 1:-1], torch.full((1, 1, 6, 6), 0.25))


def test_a_modulated_convolution_scales_its_weights():
    """Reference: scale and normalise the weights of every sample by the paper's equations 1 and 3, then convolve."""
    torch.manual_seed(2)
    layer, x, style = ModulatedConv(3, 4, up=False, seed=0), torch.randn(2, 3, 6, 6), torch.randn(2, STYLE)
    scale = layer.modulate(style)
    for sample in range(2):
        weight = layer.weight * scale[sample][None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        padded = F.pad(x[sample : sample + 1], (1, 1, 1, 1), mode="replicate")
        expected = 1.4 * F.leaky_relu(F.conv2d(padded, weight), 0.2)
        torch.testing.assert_close(layer(x, style)[sample : sample + 1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [lambda: ModulatedConv(2, 3, up=True, seed=0), lambda: Filtered()])
def test_filtered_upsampling_leaves_no_frame_and_no_grid(build):
    torch.manual_seed(3)
    layer = build()
    arguments = (torch.ones(1, STYLE),) if isinstance(layer, ModulatedConv) else ()
    with torch.no_grad():
        output = layer(torch.full((1, 2, 5, 5), 0.7), *arguments)
    assert output.shape[2:] == (10, 10)
    assert (output.amax((2, 3)) - output.amin((2, 3))).max() < 1e-5


def test_filtered_upsampling_keeps_the_place():
    """A bright pixel must come out centred on the four pixels that stand for it."""
    spot = torch.zeros(1, 1, 7, 7)
    spot[0, 0, 3, 2] = 1
    spread = Filtered()(spot)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    assert (spread * rows).sum() / spread.sum() == pytest.approx(6.5)
    assert (spread * columns).sum() / spread.sum() == pytest.approx(4.5)


def test_adaptive_normalisation_takes_mean_and_deviation_from_the_style():
    torch.manual_seed(4)
    norm, style = AdaptiveNorm(3), torch.randn(2, STYLE)
    scale, shift = norm.affine(style).chunk(2, 1)
    made = norm(torch.randn(2, 3, 32, 32) * 5 + 2, style)
    torch.testing.assert_close(made.mean((2, 3)), shift, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.std((2, 3), correction=0), (1 + scale).abs(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_weights_are_those_of_their_card(family):
    path, card = WEIGHTS / f"{family}.safetensors", card_of(family)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["upsampling"] == FAMILIES[family].upsampling
    assert card["parameters"] == sum(value.numel() for value in FAMILIES[family].build().parameters())
    assert card["edits_learnt"] == list(FAMILIES[family].learnt)
    assert card["emphasis"] == dict(FAMILIES[family].emphasis)
    assert card["recipe"] == asdict(recipe_of(family))


def test_all_weights_together_stay_small():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 25e6


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_only_edits_that_were_learnt_are_offered(profile):
    """An edit whose M is not at least twice as strong in its region as outside is no task for a locator."""
    for category in {category for names in profile.categories.values() for category in names}:
        family, attribute = category.split("/")
        assert attribute in FAMILIES[family].attributes
        assert attribute == "entire" or card_of(family)["edits"][attribute]["ratio"] >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reconstruction_stays_near_the_photo(family, people):
    photos, vectors = people
    plain = apply(load_generator(family), photos, torch.zeros(len(vectors), len(ATTRIBUTES)))
    assert plain.dtype == torch.uint8
    error = np.abs(plain.numpy().astype(float) - photos.numpy()).mean()
    assert 0.5 < error < 20


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_is_stronger_than_the_generator_s_noise(family, people):
    photos, vectors = people
    edit = next(name for name in ("bald", "gender") if name in FAMILIES[family].learnt)
    looks = [sample_identity(seed).attributes for seed in UNSEEN]
    difference = np.stack([look.edit(edit).vector() for look in looks]) - vectors
    generator = load_generator(family)
    edited = apply(generator, photos, torch.from_numpy(difference)).numpy().astype(float)
    plain = apply(generator, photos, torch.zeros(len(vectors), len(ATTRIBUTES))).numpy().astype(float)
    photo = photos.numpy()
    assert gray(np.abs(edited - photo)).mean() > 1.1 * gray(np.abs(plain - photo)).mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_upsampling_leaves_its_trace(family, people):
    """A transposed convolution leaves a grid up to the diagonal, nearest-neighbour upsampling a peak on the axes.

    A low-pass filter after the transposed convolution takes the grid away.
    """
    photos, vectors = people
    peaks = spectral_peaks(apply(load_generator(family), photos, torch.zeros(len(vectors), len(ATTRIBUTES))).numpy())
    upsampling = FAMILIES[family].upsampling
    if upsampling == "tconv":
        assert peaks["1/2,1/2"] >= 10
    else:
        assert peaks["1/2,1/2"] < 4
    if upsampling == "nearest":
        assert peaks["1/2,0"] >= 5


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
