"""Behaviour of the camera, against values computed by hand."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate

from flbench.synthetic import camera as cameras
from flbench.synthetic.camera import CAMERAS, demosaic, encode_srgb, mosaic, photograph, resize_classes, sensor_size
from flbench.synthetic.faces import SCENERIES, render, sample_identity
from flbench.synthetic.measure import spectral_peaks


def test_the_mosaic_keeps_red_green_green_blue():
    rgb = torch.zeros(1, 3, 4, 4)
    rgb[:, 0], rgb[:, 1], rgb[:, 2] = 1, 2, 3
    assert mosaic(rgb)[0, 0, :2, :2].tolist() == [[1, 2], [2, 3]]


def test_demosaicing_restores_what_all_channels_share_linearly():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    ramp = (0.1 + 0.03 * x + 0.02 * y)[None, None]
    restored = demosaic(ramp)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(restored[inner], ramp.expand(1, 3, 12, 12)[inner])


def test_demosaicing_uses_the_published_filters():
    """Green at red and at blue: (2 north + 2 south + 2 west + 2 east + 4 centre - the four two steps away) / 8."""
    plane = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    filters = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
    expected = correlate(plane[0, 0].double().numpy(), filters, mode="mirror")
    green = demosaic(plane)[0, 1].numpy()
    np.testing.assert_allclose(green[0::2, 0::2], expected[0::2, 0::2], atol=1e-6)
    np.testing.assert_allclose(green[1::2, 1::2], expected[1::2, 1::2], atol=1e-6)
    np.testing.assert_array_equal(green[0::2, 1::2], plane[0, 0, 0::2, 1::2])


def test_srgb_at_known_points():
    encoded = encode_srgb(torch.tensor([0.0, 0.0031308, 0.214041, 1.0]))
    torch.testing.assert_close(encoded, torch.tensor([0.0, 0.04045, 0.5, 1.0]), atol=2e-5, rtol=0)


def test_a_photo_depends_on_its_seed_only():
    linear = torch.full((2, 3, 40, 40), 0.3)
    pair = photograph(linear, [1, 2], 32)
    assert pair.dtype == torch.uint8
    assert pair.shape == (2, 3, 32, 32)
    assert not torch.equal(pair[0], pair[1])
    assert torch.equal(photograph(linear[:1], [2], 32)[0], pair[1])


def test_noise_is_stronger_in_bright_areas_in_linear_light():
    """Shot noise grows with light: after the sRGB curve is undone, the bright half must be noisier."""
    linear = torch.cat([torch.full((1, 3, 64, 64), 0.05), torch.full((1, 3, 64, 64), 0.7)])
    photos = photograph(linear, [5, 5], 64).double() / 255
    decoded = ((photos + 0.055) / 1.055) ** 2.4
    assert decoded[1].std() > 2 * decoded[0].std()


@pytest.mark.parametrize("size", [64, 100, 128, 256])
def test_the_sensor_is_even_and_larger(size):
    assert sensor_size(size) % 2 == 0
    assert 1.2 <= sensor_size(size) / size <= 1.3


def test_resized_parsing_maps_hold_no_new_class():
    classes = torch.tensor([[[1, 13], [13, 1]]], dtype=torch.uint8).repeat_interleave(20, 1).repeat_interleave(20, 2)
    small = resize_classes(classes, 32)
    assert small.dtype == torch.uint8
    assert set(small.unique().tolist()) == {1, 13}
    assert small[0, 0, 0] == 1
    assert small[0, 0, -1] == 13


@pytest.fixture(scope="module")
def linear_faces():
    """Return sensor images of 24 people in each scenery."""
    people = {name: [sample_identity(seed, name) for seed in range(24)] for name in SCENERIES}
    return {
        name: render(crowd, [person.attributes for person in crowd], sensor_size(128))[0]
        for name, crowd in people.items()
    }


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("scenery", SCENERIES)
def test_photos_carry_no_trace_of_the_mosaic(linear_faces, scenery, camera):
    """A periodic trace in real photos would stand where the generators leave theirs."""
    peaks = spectral_peaks(photograph(linear_faces[scenery], range(24), 128, camera).numpy())
    assert max(peaks.values()) < 3


def test_two_cameras_differ_in_colour_noise_and_vignetting():
    linear = torch.full((1, 3, 80, 80), 0.2)
    compact, phone = (photograph(linear, [4], 64, camera).float() for camera in ("compact", "phone"))
    assert not torch.equal(compact, phone)
    assert compact[..., :8, :8].mean() / compact[..., 28:36, 28:36].mean() == pytest.approx(1, abs=0.03)
    assert phone[..., :8, :8].mean() < 0.95 * phone[..., 28:36, 28:36].mean()


def test_people_who_train_generators_are_photographed_by_the_first_two():
    """`pairs.photograph_looks` takes the cameras by their place."""
    assert list(CAMERAS)[:2] == ["compact", "phone"]


def test_no_two_cameras_share_their_noise():
    assert len({model.stream for model in CAMERAS.values()}) == len(CAMERAS)


def test_a_camera_that_saves_jpeg_files_gives_what_pillow_reads_from_them(linear_faces, monkeypatch):
    seeds = range(4)
    taken = photograph(linear_faces["studio"][:4], seeds, 128, "webcam").permute(0, 2, 3, 1).numpy()
    lossless = {"webcam": replace(CAMERAS["webcam"], jpeg=0)}
    monkeypatch.setattr(cameras, "CAMERAS", lossless)
    raw = photograph(linear_faces["studio"][:4], seeds, 128, "webcam").permute(0, 2, 3, 1).numpy()
    assert (raw != taken).any()
    for before, after in zip(raw, taken, strict=True):
        file = io.BytesIO()
        Image.fromarray(before).save(file, "JPEG", quality=CAMERAS["webcam"].jpeg)
        np.testing.assert_array_equal(after, np.asarray(Image.open(file)))


def test_a_webcam_is_noisier_paler_and_sharpened_beyond_the_edge():
    """Of one scene, 32 photos: a patch of one colour, and an edge between dark and light."""
    patch = torch.tensor([0.35, 0.2, 0.12])[None, :, None, None].expand(32, 3, 80, 80)
    edge = torch.where(torch.arange(80) < 40, 0.08, 0.4).expand(32, 3, 80, 80)
    noise, colour, halo = {}, {}, {}
    for name in CAMERAS:
        photos = photograph(patch, range(32), 64, name)[..., 16:48, 16:48].double()
        noise[name] = photos.mean(1).flatten(1).std(1).mean()
        colour[name] = photos[:, 0].mean() - photos[:, 2].mean()
        across = photograph(edge, range(32), 64, name)[..., 16:48, :].double().mean((0, 1, 2))
        dark, light = across[20:26].mean(), across[38:44].mean()
        halo[name] = (across[32:36].max() - light) / (light - dark)
    assert noise["webcam"] > 1.5 * max(noise["compact"], noise["phone"])
    assert colour["webcam"] < 0.8 * min(colour["compact"], colour["phone"])
    assert halo["webcam"] > 2 * halo["phone"] > 2 * halo["compact"] > 0


def test_an_unknown_camera_is_refused():
    with pytest.raises(ValueError, match="known: compact, phone"):
        photograph(torch.zeros(1, 3, 20, 20), [0], 16, "pinhole")


@pytest.mark.parametrize("camera", CAMERAS)
def test_without_oversampling_the_mosaic_would_show(camera):
    """The measure itself sees a colour filter array: the same photos at the sensor's own resolution."""
    people = [sample_identity(seed) for seed in range(24)]
    linear, _ = render(people, [person.attributes for person in people], 128)
    peaks = spectral_peaks(photograph(linear, range(24), 128, camera).numpy())
    assert peaks["1/2,1/2"] > 6
