"""Speed of everything but the model, from files to per-image scores, beside the loop that one writes first.

The loop is written out with PIL, scikit-image and scikit-learn and decodes each image again for each condition; it must
give the same scores. The locator is a stand-in of no cost, so what is measured is decoding, degrading and scoring.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
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
from flbench.engine.slices import score_image

SIDE = 224
PAIRS = 6
CONDITIONS = [
    *(f"jpeg-{quality}" for quality in (90, 80, 70, 60, 50)),
    *(f"blur-{size}" for size in (3, 5, 7, 9, 15)),
    *(f"lowres-{ratio}" for ratio in (2, 3, 4, 6, 8)),
    *("disorganized", "jpeg-40", "blur-11", "lowres-5", "jpeg-30"),
]
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


def by_flbench(dataset: Dataset) -> list[list[float]]:
    frames = Frames(dataset, size=SIDE)
    found = []
    for text in CONDITIONS:
        condition = parse_condition(text)
        for place in range(PAIRS):
            example = frames.example(f"fake{place}", condition)
            scores = score_image("fake", example, (said(example.image), None))
            found.append([scores[name] for name in METRICS])
    return found


def by_hand(dataset: Dataset) -> list[list[float]]:
    found = []
    for text in CONDITIONS:
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
        places = np.arange(int(value)) - int(value) // 2
        taps = np.exp(-0.5 * (places / (0.3 * ((int(value) - 1) / 2 - 1) + 0.8)) ** 2)
        blurred = image.astype(float)
        for axis in (0, 1):
            blurred = correlate1d(blurred, taps / taps.sum(), axis=axis, mode="mirror")
        return np.rint(blurred).astype(np.uint8)

    return change if kind != "disorganized" else lambda image: image


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


@pytest.mark.benchmark(group="everything but the model: 20 conditions, 8 metrics, 224 px")
def test_everything_but_the_model(benchmark: BenchmarkFixture, pairs: Dataset) -> None:
    assert len(benchmark.pedantic(by_flbench, (pairs,), rounds=3, warmup_rounds=1)) == PAIRS * len(CONDITIONS)


@pytest.mark.benchmark(group="everything but the model: 20 conditions, 8 metrics, 224 px")
def test_everything_but_the_model_by_hand(benchmark: BenchmarkFixture, pairs: Dataset) -> None:
    benchmark.extra_info["reference"] = "PIL, scikit-image, scikit-learn"
    expected = np.array(benchmark.pedantic(by_hand, (pairs,), rounds=1))
    alike = np.repeat([text != "disorganized" for text in CONDITIONS], PAIRS)  # the loop leaves those as they are
    np.testing.assert_allclose(np.array(by_flbench(pairs))[alike], expected[alike], atol=2e-3)
