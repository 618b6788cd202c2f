"""Behaviour of the forge on the smallest profile."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from flbench.data.dataset import leaks, missing, read_dataset
from flbench.errors import RunError, UsageError
from flbench.synthetic import forge, profiles
from flbench.synthetic.faces import EDITS, GEOMETRIC_EDITS, sample_identity
from flbench.synthetic.pairs import FIRST_TRAINING_SEED


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The profile `tiny`, made in this process."""
    into = tmp_path_factory.mktemp("forge") / "tiny"
    forge.make("tiny", into)
    return into


@pytest.fixture(scope="module")
def rows(folder):
    return read_dataset(folder).manifest


def pixels(folder, path):
    with Image.open(folder / path) as image:
        return np.array(image)


def test_it_is_a_data_set_without_leaks(folder):
    dataset = read_dataset(folder)
    assert dataset.label == f"synthfaces-tiny v{forge.RECIPE_VERSION}"
    assert leaks(dataset.manifest) == []
    assert dict(dataset.manifest[dataset.manifest["label"] == "real"]["split"].value_counts()) == {
        "train": 24,
        "test": 16,
        "valid": 8,
    }
    assert dataset.fingerprint == forge.recipe("tiny")
    for split, categories in forge.PROFILES["tiny"].categories.items():
        assert missing(dataset, categories, split) == []


def test_files_are_what_the_rows_say(folder, rows):
    for row in rows.itertuples():
        assert hashlib.sha256((folder / row.image).read_bytes()).hexdigest() == row.sha256
        assert pixels(folder, row.image).shape == (64, 64, 3)
        classes = pixels(folder, row.parsing)
        assert classes.shape == (64, 64)
        assert classes.max() <= 18
        assert row.mask == ""
        assert row.database == "synthfaces"


def test_the_checksum_can_be_recomputed_from_the_files(folder, rows):
    total = hashlib.sha256()
    for row in rows.sort_values("sample_id").itertuples():
        digest = hashlib.sha256(pixels(folder, row.image).tobytes()).hexdigest()
        total.update(f"{row.sample_id}:{digest}\n".encode())
    assert read_dataset(folder).about.pixels == total.hexdigest()


def test_pixels_are_those_recorded_for_this_kind_of_machine(folder):
    import torch

    expected = forge.expected_pixels("tiny")
    about = read_dataset(folder).about
    assert expected is not None
    assert expected["recipe"] == about.recipe
    if (expected["machine"], expected["torch"]) != (forge.machine_kind(), torch.__version__):
        pytest.skip(f"recorded on {expected['machine']} with torch {expected['torch']}")
    assert expected["pixels"] == about.pixels


def test_two_workers_make_the_same_pixels(folder, tmp_path):
    forge.make("tiny", tmp_path / "again", workers=2)
    assert read_dataset(tmp_path / "again").about == read_dataset(folder).about
    assert (
        read_dataset(tmp_path / "again")
        .manifest.drop(columns="sha256")
        .equals(read_dataset(folder).manifest.drop(columns="sha256"))
    )


def test_every_fake_differs_from_its_photo_and_shows_the_same_person(folder, rows):
    photos = rows[rows["label"] == "real"].set_index("sample_id")
    fakes = rows[(rows["label"] == "fake") & (rows["attribute"] != "entire")]
    for fake in fakes.itertuples():
        photo = photos.loc[fake.source]
        assert (fake.identity, fake.split) == (photo["identity"], photo["split"])
        difference = np.abs(pixels(folder, fake.image).astype(int) - pixels(folder, photo["image"]))
        assert (difference.max(-1) > 0).mean() > 0.5
    assert (rows.loc[rows["attribute"] == "entire", "source"] == "").all()


def test_nobody_is_given_an_attribute_they_have(rows):
    for fake in rows[rows["label"] == "fake"].itertuples():
        look = sample_identity(int(fake.sample_id[:6])).attributes
        assert fake.attribute == "entire" or not getattr(look, EDITS[fake.attribute])
        assert not (look.bald and fake.attribute.endswith("_hair"))


def test_edits_of_the_shape_have_their_own_parsing_map(folder, rows):
    fakes = rows[(rows["label"] == "fake") & (rows["attribute"] != "entire")]
    for fake in fakes.itertuples():
        own = fake.parsing != f"parsing/{fake.source}.png"
        assert own == (fake.attribute in GEOMETRIC_EDITS)
        if fake.attribute == "smile":
            assert (pixels(folder, fake.parsing) == 10).sum() > (
                pixels(folder, f"parsing/{fake.source}.png") == 10
            ).sum()


@pytest.mark.parametrize("profile", forge.PROFILES.values(), ids=lambda profile: profile.name)
def test_profiles_keep_clear_of_the_people_who_trained_the_generators(profile):
    splits = [set(profile.seeds(split)) for split in profile.people]
    assert sum(map(len, splits)) == len(set.union(*splits))
    assert max(map(max, splits)) < FIRST_TRAINING_SEED
    for categories in profile.categories.values():
        assert set(profile.categories["train"]) <= set(profile.categories["test"])
        assert len(categories) == len(set(categories))


def test_profiles_serve_the_cross_attribute_protocol():
    for profile in forge.PROFILES.values():
        assert "stgan/blond_hair" in profile.categories["train"]
        assert {f"stgan/{name}" for name in ("black_hair", "blond_hair", "brown_hair", "smile")} <= set(
            profile.categories["test"]
        )


def test_a_failure_leaves_nothing_behind(tmp_path):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forge.make("tiny", tmp_path / "data", progress=fail)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_what_a_killed_making_left_is_cleared(tmp_path):
    (tmp_path / "data.partial" / "images").mkdir(parents=True)
    (tmp_path / "data.partial" / "images" / "old.png").touch()
    forge.make("tiny", tmp_path / "data")
    assert not (tmp_path / "data.partial").exists()
    assert not (tmp_path / "data" / "images" / "old.png").exists()


def test_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="did you mean mini"):
        forge.make("minni", tmp_path / "data")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        forge.make("tiny", tmp_path / "there")


def test_two_makings_at_once_are_refused(tmp_path):
    with forge._alone(tmp_path / "data"), pytest.raises(RunError, match="another process"):
        forge.make("tiny", tmp_path / "data")


def test_the_fingerprint_follows_numbers_and_weights(monkeypatch, tmp_path):
    from dataclasses import replace

    recipe = profiles.recipe("tiny")
    changed = {"tiny": replace(profiles.PROFILES["tiny"], first_seed=2_000)}
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "PROFILES", changed)
        assert recipe != profiles.recipe("tiny")
    assert recipe == profiles.recipe("tiny")
    for name in ("stgan", "pggan"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(profiles, "WEIGHTS", tmp_path)
    assert recipe != profiles.recipe("tiny")
