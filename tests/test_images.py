"""Decoding: one rule for every kind of file, and one kind of error for every way to be broken."""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from builders import flbench
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flbench.data.dataset import Dataset
from flbench.data.images import orientation, read_gray, read_image, read_parsing, resize, resize_classes, shape_of
from flbench.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "x.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png(width: int, height: int, depth: int, kind: int, data: bytes = b"") -> bytes:
    """Write a PNG by hand: bit depth and colour type that Pillow cannot write, or a size that nobody can hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.webp", "named.jpg"])
def test_lossless_formats_give_back_their_pixels_whatever_their_name(tmp_path: Path, name: str) -> None:
    kind = {"x.webp": "WEBP", "named.jpg": "PNG"}.get(name)
    path = saved(tmp_path, Image.fromarray(COLOUR), name, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = read_image(path)
    np.testing.assert_array_equal(image, COLOUR)
    assert image.dtype == np.uint8
    image[0, 0] = 0  # writable


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLOUR), "x.jpg", quality=70)
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))


def test_fault_21_cmyk_by_formula(tmp_path: Path) -> None:
    inks = RNG.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(inks, "CMYK"), "x.tif")
    cmyk = inks.astype(float)
    expected = (255 - cmyk[:, :, :3]) * (255 - cmyk[:, :, 3:]) / 255
    assert np.abs(read_image(path) - expected).max() <= 1


def test_fault_22_sixteen_bits_keep_the_high_byte(tmp_path: Path) -> None:
    gray = RNG.integers(0, 65536, (4, 5), dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(gray))
    np.testing.assert_array_equal(read_image(path), np.repeat((gray // 256)[:, :, None], 3, axis=2))
    colour = RNG.integers(0, 65536, (3, 4, 3), dtype=np.uint16)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in colour)
    path.write_bytes(png(4, 3, 16, 2, lines))
    np.testing.assert_array_equal(read_image(path), colour // 256)


def test_fault_23_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[0, 0] = (10, 20, 30, 0)
    pixels[0, 1] = (10, 20, 30, 255)
    image = read_image(saved(tmp_path, Image.fromarray(pixels, "RGBA")))
    alpha = pixels[:, :, 3:] / 255
    assert np.abs(image - (pixels[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 1].tolist() == [10, 20, 30]


def test_fault_23_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = saved(tmp_path, image, transparency=1)
    assert read_image(path).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_fault_24_gray_is_repeated_and_one_bit_is_black_or_white(tmp_path: Path) -> None:
    gray = COLOUR[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(saved(tmp_path, Image.fromarray(gray))), expected)
    bits = gray > 127
    image = read_image(saved(tmp_path, Image.fromarray(bits)))
    np.testing.assert_array_equal(image[:, :, 1], bits * 255)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_fault_25_of_several_frames_the_first_counts(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    options = {"lossless": True} if name == "x.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 2
    assert set(read_image(path).ravel()) == {10}


def test_fault_26_exif_orientation_is_not_applied_but_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(read_image(path), COLOUR)
    assert orientation(path) == 6
    assert orientation(saved(tmp_path, Image.fromarray(COLOUR), "y.png")) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1)])
def test_fault_27_thin_images_are_read_and_resized(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = read_image(saved(tmp_path, Image.fromarray(pixels)))
    np.testing.assert_array_equal(image, pixels)
    assert resize(image, 16).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_fault_28_damaged_exif_and_colour_profile_are_ignored(tmp_path: Path, name: str) -> None:
    flat = np.full((16, 16, 3), 90, np.uint8)
    options = {"lossless": True} if name == "x.webp" else {}
    junk = b"Exif\0\0MM\0*\0\0\xff\xff\x12\x34"
    path = saved(tmp_path, Image.fromarray(flat), name, icc_profile=b"no profile", exif=junk, **options)
    np.testing.assert_array_equal(read_image(path), flat)
    assert orientation(path) == 1


def refused(path: Path, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, **options)
    assert caught.value.exit_code == 3
    assert str(path.parent) not in str(caught.value)  # reasons are published; places are not
    assert str(caught.value).startswith(path.name)
    return str(caught.value)


def test_fault_15_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    assert "0 bytes" in refused(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_fault_16_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_fault_16_a_truncated_jpeg_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.full((64, 64, 3), 9, np.uint8)), "x.jpg")
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am text",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'></svg>",
        b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    ],
)
def test_faults_17_and_18_other_files_called_jpg(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert "not an image" in refused(tmp_path / "x.jpg")


def test_faults_19_and_20_too_many_pixels_name_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(50_000, 50_000, 8, 2))
    assert "too_large" in refused(path)
    path.write_bytes(png(12_000, 12_000, 8, 2))
    assert "too_large, 12000x12000 is over 40000000 pixels" in refused(path)
    # Allowed by the limit, it fails for what it is: a header without pixels.
    assert "too_large" not in refused(path, max_pixels=144_000_000)


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLOUR))
    assert read_image(path, max_pixels=63).shape == (9, 7, 3)
    assert "7x9 is over 62 pixels" in refused(path, max_pixels=62)


@pytest.mark.parametrize("said", ["many", "4e7", "0", "-5", "9" * 5000])
def test_a_limit_that_is_no_number_is_a_mistake_of_the_user(
    said: str, boxes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLBENCH_MAX_PIXELS", said)
    for words in (["run", "-m", "highpass", "-p", "in_gan", "--dry-run"], ["data", "check"]):
        done = flbench(*words, "--data", boxes.folder, code=2)
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: FLBENCH_MAX_PIXELS is {said[:40]!r}, no number of pixels (a whole number, ")
    assert flbench("run", "-m", "highpass", "-p", "in_gan", "--dry-run", "--max-pixels", 10**7, "--data", boxes.folder)


def test_fault_30_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "x.png").endswith("missing")
    (tmp_path / "y.png").mkdir()
    refused(tmp_path / "y.png")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_an_eight_bit_meaning_are_refused(tmp_path: Path, mode: str) -> None:
    assert f"mode {mode}" in refused(saved(tmp_path, Image.new(mode, (3, 3), 7), "x.tif"))


@settings(max_examples=120)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF"]))
def test_damaged_bytes_give_an_image_or_a_data_error(data: st.DataObject, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        Image.fromarray(COLOUR).save(path, format=kind)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            image = read_image(path, max_pixels=1_000_000)
        except DataError:
            return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


def test_a_parsing_map_is_its_indices_and_never_its_colours(tmp_path: Path) -> None:
    classes = RNG.integers(0, 19, (6, 5), dtype=np.uint8)
    palette = Image.fromarray(classes, "P")
    palette.putpalette(list(RNG.integers(0, 256, 57)))
    np.testing.assert_array_equal(read_parsing(saved(tmp_path, palette)), classes)
    np.testing.assert_array_equal(read_parsing(saved(tmp_path, Image.fromarray(classes))), classes)
    with pytest.raises(DataError, match="parsing map of mode RGB"):
        read_parsing(saved(tmp_path, Image.fromarray(COLOUR)))
    with pytest.raises(DataError, match="missing"):
        read_parsing(tmp_path / "none.png")


def test_a_mask_is_its_gray_value(tmp_path: Path) -> None:
    gray = COLOUR[:, :, 0]
    np.testing.assert_array_equal(read_gray(saved(tmp_path, Image.fromarray(gray))), gray)
    np.testing.assert_array_equal(read_gray(saved(tmp_path, Image.fromarray(gray > 99))), (gray > 99) * 255)
    colour = read_gray(saved(tmp_path, Image.fromarray(COLOUR)))
    assert np.abs(colour - COLOUR @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert read_gray(saved(tmp_path, palette)).tolist() == [[0, 255]]


def test_resize_is_pillows_and_does_nothing_at_the_right_size() -> None:
    image = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert resize(image, 20) is image
    expected = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(image, 8), expected)


def test_resize_does_not_alias() -> None:
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.abs(resize(board, 16).astype(int) - 127).max() <= 2


@settings(max_examples=30)
@given(value=st.integers(0, 255), height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40))
def test_a_constant_image_stays_constant(value: int, height: int, width: int, size: int) -> None:
    image = resize(np.full((height, width, 3), value, np.uint8), size)
    assert image.shape == (size, size, 3)
    assert set(image.ravel()) == {value}


@settings(max_examples=30)
@given(seed=st.integers(0, 99), size=st.integers(1, 50))
def test_resized_classes_are_classes_that_were_there(seed: int, size: int) -> None:
    classes = np.random.default_rng(seed).choice([0, 1, 13, 18], (12, 17)).astype(np.uint8)
    assert set(resize_classes(classes, size).ravel()) <= set(classes.ravel())
    square = classes[:, :12]
    assert resize_classes(square, 12) is square
    np.testing.assert_array_equal(resize_classes(square, 24), square.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_the_shape_of_an_image_is_that_of_its_pixels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    told = {"exif": exif} if kind != "BMP" else {}
    Image.new("RGB", (9, 5)).save(path, format=kind, **told)
    assert shape_of(path) == read_image(path).shape[:2]
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="not an image"):
        shape_of(path)
