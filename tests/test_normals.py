"""Normally distributed numbers against numpy's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from flbench.data.normals import normals


def by_numpy(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count, np.float32)


@pytest.mark.parametrize("seed", [*range(16), 2**128 - 1])
def test_millions_are_numpys_to_the_bit(seed: int) -> None:
    expected = by_numpy(seed, 1 << 21)
    np.testing.assert_array_equal(normals(seed, 1 << 21).view(np.uint32), expected.view(np.uint32))
    assert (np.abs(expected) > 3.6541528).sum() > 400, "the tail was met often"


def test_few_are_numpys_and_where_more_words_are_needed_than_thought_they_are_drawn() -> None:
    for seed in range(3000):
        count = seed % 300
        found = normals(seed, count)
        assert found.shape == (count,)
        np.testing.assert_array_equal(found.view(np.uint32), by_numpy(seed, count).view(np.uint32))
