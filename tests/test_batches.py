from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import HAIR, make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flbench.data import batches
from flbench.data.batches import Frames, Sampler, on_device, to_tensor
from flbench.data.dataset import Dataset, Selection, read_dataset, write_dataset
from flbench.data.images import read_image, read_parsing
from flbench.errors import DataError

CPU = torch.device("cpu")


def test_names_of_one_hash_have_places_of_their_own(boxes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    names = boxes.manifest["sample_id"]
    images = [Frames(boxes, size=8).image(name) for name in names]
    monkeypatch.setattr("flbench.data.batches.hash", lambda _: 7, raising=False)
    same = Frames(boxes, size=8)
    assert all(np.array_equal(same.image(name), image) for name, image in zip(names, images, strict=True))
    with pytest.raises(KeyError, match="nobody"):
        same.image("nobody")


def test_ground_truth_is_eq_4_on_the_pair_and_zero_for_a_photo(boxes: Dataset) -> None:
    frames = Frames(boxes, size=32)
    real = read_image(boxes.folder / "images/p000.png").astype(float)
    fake = read_image(boxes.folder / "images/p000-smile.png").astype(float)
    by_hand = np.abs(real - fake) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(frames.truth("p000-smile"), by_hand, atol=1e-6)
    assert not frames.truth("p000").any()
    assert frames.region("p000") is None


def test_a_region_comes_from_parsing_or_from_the_difference(boxes: Dataset) -> None:
    hair = read_parsing(boxes.folder / "parsing/p000.png") == HAIR
    parsed = Frames(boxes, size=32, region="parsing").region("p000-blond_hair")
    assert parsed is not None
    np.testing.assert_array_equal(parsed, hair)
    difference = Frames(boxes, size=32, region="difference")
    found = difference.region("p000-smile")
    assert found is not None
    assert found[difference.truth("p000-smile") > 0.1].all()
    assert Frames(boxes, size=32).region("p000-smile") is None


def test_an_entire_fake_is_all_ones_and_a_mask_replaces_the_difference(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, people=6, attributes=("smile",))
    rows = dataset.manifest.copy()
    mask = np.zeros((32, 32), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    rows.loc[rows["sample_id"] == "p000-smile", "mask"] = "mask.png"
    rows.loc[rows["sample_id"] == "p001-smile", "attribute"] = "entire"
    polarity = dataset.about.model_copy(update={"mask_polarity": "fake_is_black"})
    frames = Frames(write_dataset(tmp_path, polarity, rows), size=32, region="parsing")
    np.testing.assert_array_equal(frames.truth("p000-smile"), mask == 0)
    assert (frames.truth("p001-smile") == 1).all()
    region = frames.region("p001-smile")
    assert region is not None
    assert region.all()
    Image.fromarray(mask[:16]).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="mask_mismatch"):
        Frames(read_dataset(tmp_path), size=32).truth("p000-smile")


def test_a_batch_mirrors_image_truth_and_attention_together(boxes: Dataset) -> None:
    frames = Frames(boxes, size=32)
    names = ["p000-blond_hair", "p001"]
    plain = frames.batch(names, CPU)
    mirrored = frames.batch(names, CPU, np.array([True, False]))
    for one, other in zip(plain, mirrored, strict=True):
        if one.ndim > 1:
            assert torch.equal(one[0].flip(-1), other[0])
        assert torch.equal(one[1], other[1])
    assert plain.labels.tolist() == [1, 0]
    assert (plain.attention[1] == 1).all(), "a photo has no edited region"
    assert plain.attention[0].min() < 1
    assert plain.images.dtype == torch.float32
    assert 0 <= plain.images.min() <= plain.images.max() <= 1


def test_to_tensor_is_the_image_over_255() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    found = to_tensor(on_device(list(images), CPU)).numpy()
    np.testing.assert_array_equal(found, images.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def test_memory_is_bounded_by_the_cache(boxes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CACHE_BYTES", 5 * 32 * 32 * 3)
    frames = Frames(boxes, size=32)
    names = list(boxes.manifest["sample_id"])
    first = [frames.image(name).copy() for name in names]
    assert len(frames._decoded) == 5
    for name, image in zip(names, first, strict=True):
        np.testing.assert_array_equal(frames.image(name), image)


def selection(fakes: int, reals: int) -> Selection:
    def names(n: int, sign: str) -> pd.DataFrame:
        return pd.DataFrame({"sample_id": [f"{sign}{i}" for i in range(n)]})

    return Selection(names(fakes, "f"), names(reals, "r"))


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(0, 99))
def test_every_round_sees_every_sample_once_and_half_are_fakes(fakes: int, reals: int, batch: int, seed: int) -> None:
    sampler = Sampler(selection(fakes, reals), batch=batch, seed=seed)
    per_step = (batch + 1) // 2
    steps = fakes  # per_step whole rounds
    seen = Counter(name for step in range(steps) for name in sampler.samples(step) if name[0] == "f")
    assert set(seen.values()) == {per_step}
    assert len(seen) == fakes
    assert sum(name[0] == "f" for name in sampler.samples(0)) == per_step
    assert len(sampler.samples(0)) == batch


def test_a_step_is_a_function_of_seed_and_step_alone() -> None:
    one, other = (Sampler(selection(20, 20), batch=8, seed=3) for _ in range(2))
    forwards = [one.samples(step) for step in range(12)]
    backwards = [other.samples(step) for step in reversed(range(12))]
    assert forwards == backwards[::-1]
    assert (one.flips(7, 8) == other.flips(7, 8)).all()
    assert forwards != [Sampler(selection(20, 20), batch=8, seed=4).samples(step) for step in range(12)]
