"""Images that are none, are too large, or are not what they seem: one row each, and the run goes on."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import flbench
from click.testing import Result
from ledger import Observed, error_of
from PIL import Image
from small_run import short_run

from flbench.data import decoding
from flbench.data.dataset import Dataset, write_dataset
from flbench.study import SCORES, Study

pytestmark = [
    pytest.mark.usefixtures("here"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning"),
]
RNG = np.random.default_rng(3)
SIDE = 32
Bad = Callable[[Path], object]


class Outcome:
    """What a run of a training-free method says of a data set."""

    def __init__(self, data: Dataset, folder: Path, code: int, *more: object) -> None:
        words = short_run(data, folder)
        study = folder / f"study{len(list(folder.glob('study*')))}"
        asked = ["run", "-m", "highpass", *words[3:7], "--threads", 1, "--study", study, *more]
        self.done: Result = flbench(*asked, code=code)
        (self.record,) = Study(study).records()
        self.rows: pd.DataFrame = pd.read_parquet(study / "cells" / self.record.cell / SCORES)
        self.rows = self.rows[self.rows["condition"] == "clean"].set_index("sample_id")

    def bad(self) -> tuple[str, str]:
        """Status and reason of the one image that failed, after holding that all others are scored."""
        failed = self.rows[self.rows["status"] != "ok"]
        assert len(failed) == 1, failed
        assert self.record.results[0].metrics["coss"].failed == 1
        scored = self.rows[(self.rows["status"] == "ok") & (self.rows["label"] == "fake")]
        assert len(scored) >= 2
        assert scored["coss"].notna().all()
        return str(failed["status"].iloc[0]), str(failed["reason"].iloc[0])


def seen(outcome: Outcome) -> str:
    """Return the row and the summary, as a user meets them."""
    status, reason = outcome.bad()
    assert outcome.record.status == "partial"
    assert outcome.record.reason in outcome.done.stderr
    told = reason if status in reason else f"{status}: {reason}"
    return f"{told}; {outcome.record.reason}"


def header(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is and holds no pixel."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def hold_unreadable(data: Dataset, victim: Path, tmp_path: Path, reason: str, observed: Observed, code: str) -> None:
    """Hold that a run tells one image with its reason, finishes the others, and that `data check` names it too."""
    outcome = Outcome(data, tmp_path, 4)
    observed(seen(outcome), outcome.done.exit_code)
    status, told = outcome.bad()
    assert status == code
    assert reason in told
    assert told.startswith(victim.name), "the file is named"
    assert str(tmp_path) not in told, "its folder is not"
    assert f"images failed (2 {code})" in outcome.record.reason, "one image under two conditions"
    checked = flbench("data", "check", "--data", data.folder, "--json", code=3).stdout
    assert f"{victim.name}: " in checked


@pytest.mark.fault(15, "an image of 0 bytes")
def test_15_an_empty_image(data: Dataset, victim: Path, tmp_path: Path, observed: Observed) -> None:
    victim.write_bytes(b"")
    hold_unreadable(data, victim, tmp_path, "0 bytes", observed, "unreadable")


@pytest.mark.fault(16, "a JPEG that ends early")
def test_16_a_truncated_jpeg(data: Dataset, victim: Path, tmp_path: Path, observed: Observed) -> None:
    Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(victim, format="JPEG")
    victim.write_bytes(victim.read_bytes()[:-60])
    hold_unreadable(data, victim, tmp_path, "truncated", observed, "unreadable")


@pytest.mark.fault(17, "text under the name of an image")
def test_17_text(data: Dataset, victim: Path, tmp_path: Path, observed: Observed) -> None:
    victim.write_text("hello, I am text\n")
    hold_unreadable(data, victim, tmp_path, "not an image", observed, "unreadable")


@pytest.mark.fault(18, "EPS, SVG, PDF and GIF under the name of an image")
@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'></svg>",
        b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    ],
    ids=["eps", "svg", "pdf", "gif"],
)
def test_18_other_formats(data: Dataset, victim: Path, tmp_path: Path, content: bytes, observed: Observed) -> None:
    victim.write_bytes(content)
    hold_unreadable(data, victim, tmp_path, "not an image", observed, "unreadable")


@pytest.mark.fault(19, "an image whose header says 50,000 x 50,000 pixels, and one of 12,000 x 12,000")
@pytest.mark.parametrize("side", [12_000, 50_000])
def test_19_a_bomb(data: Dataset, victim: Path, tmp_path: Path, side: int, observed: Observed) -> None:
    victim.write_bytes(header(side, side))
    hold_unreadable(data, victim, tmp_path, "too_large", observed, "too_large")
    if side == 50_000:
        assert "too_large" in Outcome(data, tmp_path, 4, "--max-pixels", 10**12).bad()[1], "Pillow's limit stays"


@pytest.mark.fault(20, "a whole image of 41 million pixels: refused, and allowed by --max-pixels")
def test_20_a_large_image_needs_a_word(data: Dataset, victim: Path, tmp_path: Path, observed: Observed) -> None:
    Image.new("L", (6400, 6410), 90).save(victim, compress_level=1)
    outcome = Outcome(data, tmp_path, 4)
    assert outcome.bad() == ("too_large", f"{victim.name}: too_large, 6400x6410 is over 40000000 pixels")
    observed(seen(outcome), 4)
    allowed = Outcome(data, tmp_path, 0, "--max-pixels", 42_000_000)
    assert set(allowed.rows["status"]) == {"ok"}
    assert allowed.record.cell != outcome.record.cell, "what was refused before is not taken for done"
    assert Outcome(data, tmp_path, 4).record.cell == outcome.record.cell, "and it holds for the one command only"


def cmyk(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 4), np.uint8), "CMYK").save(path, format="TIFF")


def sixteen(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 65535, (SIDE, SIDE), np.uint16)).save(path)


def palette(path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 3, (SIDE, SIDE), np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(path, transparency=1)


def opaque_palette(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).quantize(8).save(path)


def rgba(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 4), np.uint8), "RGBA").save(path)


def gray(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE), np.uint8)).save(path)


def bits(path: Path) -> None:
    Image.fromarray(RNG.random((SIDE, SIDE)) > 0.5).save(path)


def frames(path: Path) -> None:
    pages = [Image.new("RGB", (SIDE, SIDE), shade) for shade in ("gray", "white")]
    pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:])


def animated(path: Path) -> None:
    pages = [Image.new("RGB", (SIDE, SIDE), shade) for shade in ("gray", "white")]
    pages[0].save(path, save_all=True, append_images=pages[1:])


CMYK = pytest.mark.fault(21, "an image in CMYK")
SIXTEEN = pytest.mark.fault(22, "an image of 16 bits")
PALETTE = pytest.mark.fault(23, "a palette with a transparent entry, a palette, an alpha channel")
GRAY = pytest.mark.fault(24, "a gray image, and one of 1 bit")
FRAMES = pytest.mark.fault(25, "several pages, and an animation: the first counts")


@pytest.mark.parametrize(
    ("form", "word"),
    [
        pytest.param(cmyk, "CMYK", id="21-cmyk", marks=CMYK),
        pytest.param(sixteen, "16 bits", id="22-sixteen-bits", marks=SIXTEEN),
        pytest.param(palette, "transparency", id="23-palette-transparent", marks=PALETTE),
        pytest.param(opaque_palette, "palette", id="23-palette", marks=PALETTE),
        pytest.param(rgba, "transparency", id="23-alpha", marks=PALETTE),
        pytest.param(gray, "gray", id="24-gray", marks=GRAY),
        pytest.param(bits, "black and white", id="24-one-bit", marks=GRAY),
        pytest.param(frames, "several frames", id="25-pages", marks=FRAMES),
        pytest.param(animated, "several frames", id="25-animation", marks=FRAMES),
    ],
)
def test_21_to_25_other_kinds_of_pixels_are_converted_and_counted(
    data: Dataset, victim: Path, tmp_path: Path, form: Bad, word: str, observed: Observed
) -> None:
    """How each is converted is held to the pixel in tests/test_images.py."""
    form(victim)
    outcome = Outcome(data, tmp_path, 0)
    assert set(outcome.rows["status"]) == {"ok"}
    told = flbench("data", "check", "--data", data.folder, code=3)  # the bytes are not those of the manifest
    (note,) = (line for line in told.stderr.splitlines() if line.startswith("note:"))
    assert note == f"note: 1 of {len(data.manifest)} images are converted to 8-bit RGB: 1 {word}"
    observed(f"{note}; the image is scored", 0)


def with_mask(data: Dataset, mask: Image.Image, name: str = "mask.png") -> Dataset:
    """Give every fake of the data set the same mask."""
    (data.folder / "masks").mkdir(exist_ok=True)
    mask.save(data.folder / "masks" / name)
    fakes = data.manifest["label"] == "fake"
    rows = data.manifest.assign(mask=data.manifest["mask"].where(~fakes, f"masks/{name}"))
    about = data.about.model_copy(update={"mask_polarity": "fake_is_white"})
    return write_dataset(data.folder, about, rows)


@pytest.mark.fault(26, "a photo that EXIF turns, with a mask that is not turned; and one that fits the stored pixels")
def test_26_an_exif_orientation(data: Dataset, victim: Path, tmp_path: Path, observed: Observed) -> None:
    data = with_mask(data, Image.new("L", (SIDE, SIDE), 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE + 8, 3), np.uint8))
    wide.save(victim, exif=exif)
    outcome = Outcome(data, tmp_path, 4)
    status, reason = outcome.bad()
    observed(seen(outcome), 4)
    assert (status, reason) == ("mask_mismatch", "mask_mismatch: mask 32x32, image 40x32")
    findings = flbench("data", "check", "--data", data.folder, "--json", code=3).stdout
    assert "has EXIF orientation 6, which is not applied: rotate the pixels" in findings
    Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(victim, exif=exif)
    assert set(Outcome(data, tmp_path, 0).rows["status"]) == {"ok"}, "pixels and mask count as they are stored"


@pytest.mark.fault(27, "images of 1 x 1, 1 x 10,000 and 10,000 x 1 pixels")
@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("method", ["highpass", "ela"])
def test_27_thin_images(
    data: Dataset, victim: Path, tmp_path: Path, shape: tuple[int, int], method: str, observed: Observed
) -> None:
    image = tmp_path / "thin.png"
    Image.fromarray(RNG.integers(0, 255, (*shape, 3), np.uint8)).save(image)
    done = flbench("predict", image, "-m", method, "--into", tmp_path / "maps", "--threads", 1)
    observed("a map of the image's own size, and a row like any other's", done.exit_code)
    assert np.asarray(Image.open(tmp_path / "maps" / "thin-map.png")).shape == shape
    image.rename(victim)
    assert set(Outcome(data, tmp_path, 0).rows["status"]) == {"ok"}


@pytest.mark.fault(28, "a damaged colour profile and damaged EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_28_damaged_metadata(data: Dataset, victim: Path, tmp_path: Path, kind: str, observed: Observed) -> None:
    junk = b"Exif\0\0MM\0*\0\0\xff\xff\x12\x34"
    plain = Image.fromarray(RNG.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    plain.save(victim, format=kind)
    expected = Outcome(data, tmp_path, 0)
    plain.save(victim, format=kind, icc_profile=b"no profile", exif=junk)
    outcome = Outcome(data, tmp_path, 0)
    observed("nothing: both are ignored, and the scores are the same", 0)
    assert outcome.done.stderr == expected.done.stderr
    pd.testing.assert_frame_equal(outcome.rows, expected.rows)


TRICK = """
import os, signal, sys, time
from flbench.data import decoding, images
plain = images._decode
def decode(path, most):
    if path.name == sys.argv[1]:
        time.sleep(3600) if sys.argv[2] == "hang" else os.kill(os.getpid(), signal.SIGSEGV)
    return plain(path, most)
images._decode = decode
decoding.main()
"""


@pytest.mark.fault(29, "a decoder that hangs on an image, and one that crashes")
@pytest.mark.parametrize("how", ["hang", "crash"])
def test_29_a_decoder_that_hangs_or_crashes(
    data: Dataset, victim: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    monkeypatch.setattr(decoding, "COMMAND", [sys.executable, "-P", "-c", TRICK, victim.name, how])
    monkeypatch.setattr(decoding, "SECONDS", 2.0)
    monkeypatch.setattr(decoding, "_idle", [])
    outcome = Outcome(data, tmp_path, 4)
    observed(seen(outcome), outcome.done.exit_code)
    status, reason = outcome.bad()
    said = "its decoder took more than 2 s" if how == "hang" else "its decoder crashed (SIGSEGV)"
    assert (status, reason) == ("unreadable", f"{victim.name}: {said}")
    monkeypatch.setattr(decoding, "_idle", [])
    done = flbench("predict", victim, "-m", "highpass", "--into", tmp_path / "maps", "--threads", 1, code=3)
    assert said in error_of(done.stderr)


def test_an_image_of_the_training_slice_that_cannot_be_read_stops_the_run(data: Dataset, tmp_path: Path) -> None:
    """Fits are never made on less than was asked for."""
    for path in data.manifest.query("split == 'train' and label == 'fake'")["image"]:
        data.path(path).write_bytes(b"")
    said = flbench(*short_run(data, tmp_path), "--study", tmp_path / "s", code=3).stderr
    assert "0 bytes" in error_of(said)
