"""Speed of everything but the model, from files to per-image scores, beside the loop that one writes first.

The loop is written out with PIL, scikit-image and scikit-learn and decodes each image again for each condition; it must
give the same scores. The locator is a stand-in of no cost, so what is measured is decoding, degrading and scoring.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import cpu_of_all
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import correlate1d, gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from flbench.condition import parse_condition
from flbench.data.batches import Frames
from flbench.data.dataset import About, Dataset, write_dataset
from flbench.data.manifest import COLUMNS
from flbench.engine.predictions import Answer
from flbench.engine.runtime import Runtime
from flbench.engine.slices import score_image

SIDE = 224
PAIRS = 8
CONDITIONS = [
    *(f"jpeg-{quality}" for quality in (90, 80, 70, 60, 50)),
    *(f"blur-{size}" for size in (3, 5, 7, 9, 15)),
    *(f"noise-{variance}" for variance in (0.001, 0.002, 0.005, 0.01, 0.02)),
    *(f"lowres-{ratio}" for ratio in (2, 3, 4, 6, 8)),
]
FEW = CONDITIONS[::7]
GROUP = "everything but the model: 20 conditions, 8 metrics, 224 px"
METRICS = ("coss", "psnr", "ssim", "mae", "pixel_auroc", "pixel_ap", "f1", "iou")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pairs of photo and fake as PNG files."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = []
    for place in range(PAIRS):
        photo = gaussian_filter(rng.random((SIDE, SIDE, 3)), (3, 3, 0))
        photo = (photo - photo.min()) / np.ptp(photo)
        fake = np.clip(photo + rng.normal(0, 0.02, photo.shape), 0, 1)
        fake[60:150, 40:160] = 1 - fake[60:150, 40:160]
        for label, pixels in (("real", photo), ("fake", fake)):
            name = f"{label}{place}"
            Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{name}.png")
            row = dict.fromkeys(COLUMNS, "")
            row |= {"sample_id": name, "image": f"{name}.png", "label": label, "split": "test", "identity": str(place)}
            if label == "fake":
                row |= {"generator": "stgan", "attribute": "smile", "source": f"real{place}"}
            rows.append(row)
    about = About(name="pairs", version="1", size=SIDE, title="Pairs", licence="CC0-1.0")
    return write_dataset(folder, about, pd.DataFrame(rows))


def said(image: np.ndarray) -> np.ndarray:
    """Return what the stand-in says of an image: its gray values, which cost nothing and have few ties."""
    return (image @ np.float32([0.299, 0.587, 0.114]) / np.float32(255)).astype(np.float32)


def by_flbench(dataset: Dataset, conditions: list[str]) -> list[list[float]]:
    frames = Frames(dataset, size=SIDE, on_disk=True)
    found = []
    for text in conditions:
        condition = parse_condition(text)
        for place in range(PAIRS):
            example = frames.example(f"fake{place}", condition)
            scores = score_image("fake", example, Answer(said(example.image), None))
            found.append([scores[name] for name in METRICS])
    return found


def by_hand(dataset: Dataset, conditions: list[str]) -> list[list[float]]:
    found = []
    for text in conditions:
        change = changed(text)
        for place in range(PAIRS):
            photo = np.asarray(Image.open(dataset.folder / f"real{place}.png").convert("RGB"))
            fake = np.asarray(Image.open(dataset.folder / f"fake{place}.png").convert("RGB"))
            difference = np.abs(photo.astype(float) - fake.astype(float)) @ [0.299, 0.587, 0.114] / 255
            found.append(scored(difference, said(change(fake)).astype(float)))
    return found


def changed(text: str) -> Callable[[np.ndarray], np.ndarray]:
    kind, _, value = text.partition("-")

    def change(image: np.ndarray) -> np.ndarray:
        if kind == "jpeg":
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=int(value), subsampling="4:2:0")
            return np.asarray(Image.open(file))
        if kind == "lowres":
            small = Image.fromarray(image).resize((round(SIDE / int(value)),) * 2, Image.Resampling.BILINEAR)
            return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        if kind == "noise":
            noisy = image / 255 + np.random.default_rng(0).normal(0, float(value) ** 0.5, image.shape)
            return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
        places = np.arange(int(value)) - int(value) // 2
        taps = np.exp(-0.5 * (places / (0.3 * ((int(value) - 1) / 2 - 1) + 0.8)) ** 2)
        blurred = image.astype(float)
        for axis in (0, 1):
            blurred = correlate1d(blurred, taps / taps.sum(), axis=axis, mode="mirror")
        return np.rint(blurred).astype(np.uint8)

    return change


def scored(truth: np.ndarray, fakeness: np.ndarray) -> list[float]:
    marked, called = (truth >= 0.1).ravel(), (fakeness >= 0.5).ravel()
    return [
        cosine_similarity([truth.ravel()], [fakeness.ravel()])[0, 0],
        peak_signal_noise_ratio(truth, fakeness, data_range=1.0),
        structural_similarity(truth, fakeness, data_range=1.0),
        np.abs(truth - fakeness).mean(),
        roc_auc_score(marked, fakeness.ravel()),
        average_precision_score(marked, fakeness.ravel()),
        f1_score(marked, called),
        jaccard_score(marked, called),
    ]


@pytest.mark.benchmark(group=GROUP, timer=cpu_of_all)
def test_everything_but_the_model(
    benchmark: BenchmarkFixture, pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Each round finds an empty cache folder: decoding and keeping what is decoded is part of it."""
    Runtime.set_up("cpu", 1)
    homes = (tmp_path / str(number) for number in itertools.count())
    conditions = CONDITIONS if full else FEW
    images = PAIRS * len(conditions)
    benchmark.extra_info |= {"what": "flbench", "images": images, "limit": 0.06, "limit_ms": 2.5}

    def fresh() -> tuple[tuple[Dataset, list[str]], dict[str, object]]:
        monkeypatch.setenv("FLBENCH_HOME", str(next(homes)))
        return (pairs, conditions), {}

    assert len(benchmark.pedantic(by_flbench, setup=fresh, rounds=5 if full else 1)) == images


@pytest.mark.benchmark(group=GROUP, timer=cpu_of_all)
def test_everything_but_the_model_by_hand(benchmark: BenchmarkFixture, pairs: Dataset, full: bool) -> None:
    conditions = CONDITIONS if full else FEW
    benchmark.extra_info |= {"reference": "PIL, scikit-image, scikit-learn", "images": PAIRS * len(conditions)}
    expected = np.array(benchmark.pedantic(by_hand, (pairs, conditions), rounds=3 if full else 1))
    alike = np.repeat([not text.startswith("noise") for text in conditions], PAIRS)  # the loop draws other noise
    np.testing.assert_allclose(np.array(by_flbench(pairs, conditions))[alike], expected[alike], atol=2e-3)
