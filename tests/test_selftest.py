"""The answers by hand: that they are right, and that a wrong metric is found."""

from collections.abc import Mapping

import numpy as np
import pytest

from flbench.scoring.metrics import map_metrics
from flbench.scoring.pixels import pixel_metrics
from flbench.selftest import MAP_ANSWERS, MAPS, wrong_answers


def test_every_answer_is_right_here() -> None:
    wrong, count = wrong_answers()
    assert wrong == []
    assert count > 40


def test_every_metric_has_an_answer_that_is_neither_its_best_nor_its_worst() -> None:
    answers = [answer for known in MAP_ANSWERS for answer in known.answers.items()]
    for metric, ends in {
        "coss": (0, 1),
        "psnr": (0, 100),
        "ssim": (0, 1),
        "mae": (0, 1),
        "f1": (0, 1),
        "iou": (0, 1),
        "pixel_auroc": (0, 1),
    }.items():
        assert any(name == metric and value == value and value not in ends for name, value in answers), metric


@pytest.mark.parametrize("metric", ["coss", "psnr", "ssim", "mae"])
def test_a_wrong_map_metric_is_found(metric: str) -> None:
    def off(truth: np.ndarray, prediction: np.ndarray) -> Mapping[str, np.ndarray]:
        found = map_metrics(truth, prediction)
        return found | {metric: found[metric] + 1e-6}

    wrong, _ = wrong_answers(maps=off)
    assert wrong
    assert all(sentence.startswith(metric) for sentence in wrong)


@pytest.mark.parametrize("metric", ["f1", "iou", "pixel_auroc"])
def test_undefined_taken_for_zero_is_found(metric: str) -> None:
    def off(truth: np.ndarray, prediction: np.ndarray) -> Mapping[str, np.ndarray]:
        found = pixel_metrics(truth, prediction)
        return found | {metric: np.nan_to_num(found[metric])}

    wrong, _ = wrong_answers(pixels=off)
    assert wrong
    assert all(sentence.startswith(metric) and sentence.endswith("by hand nan") for sentence in wrong)


def test_a_wrong_auroc_of_images_is_found() -> None:
    wrong, _ = wrong_answers(images=lambda scores, fakes: 0.5)
    assert len(wrong) == 3


def test_maps_are_what_they_are_called() -> None:
    assert {name: float(made.sum()) for name, made in MAPS.items()} == {
        "black": 0,
        "white": 64,
        "gray": 32,
        "left": 32,
        "right": 32,
        "corner": 16,
    }
