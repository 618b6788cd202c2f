"""Speed of scoring beside the libraries that the tests trust, each pair on the same maps in one process.

Run with `make bench`; the ratio of two rows of a group is the result, absolute times are the machine's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from flbench.scoring.metrics import auroc, map_metrics, ssim
from flbench.scoring.statistics import summarise

IMAGES = 16


@pytest.fixture(scope="module", params=[64, 128, 224])
def maps(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (IMAGES, request.param, request.param)
    truth = gaussian_filter(rng.random(shape), (0, 2, 2)).astype(np.float32)
    return truth, np.clip(truth + rng.normal(0, 0.05, shape), 0, 1).astype(np.float32)


@pytest.mark.benchmark(group="ssim of 16 maps")
def test_ssim(benchmark: BenchmarkFixture, maps: tuple[np.ndarray, np.ndarray]) -> None:
    benchmark.extra_info["images"] = IMAGES
    values = benchmark(ssim, *maps)
    assert values.shape == (IMAGES,)


@pytest.mark.benchmark(group="ssim of 16 maps")
def test_ssim_scikit_image(benchmark: BenchmarkFixture, maps: tuple[np.ndarray, np.ndarray]) -> None:
    benchmark.extra_info.update(reference="scikit-image", images=IMAGES)

    def loop() -> list[float]:
        return [
            structural_similarity(t.astype(float), p.astype(float), data_range=1.0) for t, p in zip(*maps, strict=True)
        ]

    values = benchmark(loop)
    np.testing.assert_allclose(values, ssim(*maps), atol=1e-6)


@pytest.mark.benchmark(group="every map metric of 16 maps")
def test_map_metrics(benchmark: BenchmarkFixture, maps: tuple[np.ndarray, np.ndarray]) -> None:
    benchmark.extra_info["images"] = IMAGES
    assert len(benchmark(map_metrics, *maps)) == 4


@pytest.mark.benchmark(group="every map metric of 16 maps")
def test_map_metrics_scikit(benchmark: BenchmarkFixture, maps: tuple[np.ndarray, np.ndarray]) -> None:
    benchmark.extra_info.update(reference="scikit-image, scikit-learn", images=IMAGES)

    def loop() -> list[tuple[float, ...]]:
        return [
            (
                cosine_similarity([t.ravel()], [p.ravel()])[0, 0],
                peak_signal_noise_ratio(t, p, data_range=1.0),
                structural_similarity(t, p, data_range=1.0),
                np.abs(t - p).mean(),
            )
            for t, p in zip(*(m.astype(float) for m in maps), strict=True)
        ]

    values = np.array(benchmark(loop)).T
    np.testing.assert_allclose(values, list(map_metrics(*maps).values()), atol=1e-6)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    people, labels = np.repeat(np.arange(1000), 2), np.tile(["fake", "real"], 1000)
    fake = labels == "fake"
    table = pd.DataFrame({"identity": people.astype(str), "label": labels, "status": "ok"})
    table["sample_id"] = labels + table["identity"]
    table["test"] = table["condition"] = "clean"
    table["score"] = np.clip(np.where(fake, 0.6, 0.4) + 0.2 * rng.normal(size=2000), 0, 1).round(3)
    for name in ("coss", "psnr", "ssim", "mae"):
        table[name] = np.where(fake, rng.random(2000), np.nan)
    table["false_alarm"] = np.where(fake, np.nan, rng.random(2000))
    return table


@pytest.mark.benchmark(group="auroc of 2,000 images")
def test_auroc(benchmark: BenchmarkFixture, scores: pd.DataFrame) -> None:
    fake = (scores["label"] == "fake").to_numpy()
    assert 0.5 < benchmark(auroc, scores["score"].to_numpy(), fake) < 1


@pytest.mark.benchmark(group="auroc of 2,000 images")
def test_auroc_scikit_learn(benchmark: BenchmarkFixture, scores: pd.DataFrame) -> None:
    benchmark.extra_info["reference"] = "scikit-learn"
    fake = (scores["label"] == "fake").to_numpy()
    value = benchmark(roc_auc_score, fake, scores["score"].to_numpy())
    assert value == pytest.approx(auroc(scores["score"].to_numpy(), fake), abs=1e-12)


@pytest.mark.benchmark(group="2,000 resamples of 1,000 people")
def test_summarise(benchmark: BenchmarkFixture, scores: pd.DataFrame) -> None:
    benchmark.extra_info["what"] = "nine metrics, AUROC among them"
    values = benchmark(summarise, scores, ("acc", "coss", "psnr", "ssim", "mae", "auroc"))
    assert values["auroc"].low < values["auroc"].value < values["auroc"].high


@pytest.mark.benchmark(group="2,000 resamples of 1,000 people")
def test_one_column_by_loop(benchmark: BenchmarkFixture, scores: pd.DataFrame) -> None:
    """One metric only; `summarise` does nine, one of them the AUROC."""
    benchmark.extra_info["reference"] = "one mean by a loop"
    values = scores["coss"].dropna().to_numpy()

    def loop() -> tuple[float, ...]:
        rng = np.random.default_rng(0)
        means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(2000)]
        return tuple(np.percentile(means, (2.5, 97.5)))

    ours = summarise(scores, ("coss",))["coss"]
    assert benchmark(loop) == pytest.approx((ours.low, ours.high), abs=0.003)
