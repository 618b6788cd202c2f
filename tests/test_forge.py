"""Behaviour of the forge: who is cast, what is made, and what a stopped making leaves."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import binary_erosion, laplace
from skimage.color import rgb2lab

from flbench.cli import main
from flbench.data.dataset import lacks_other, leaks, read_dataset, select_fit, select_test
from flbench.errors import Interrupted, RunError, UsageError
from flbench.protocol import FitSlice, TestSlice
from flbench.synthetic import casting, forge, profiles
from flbench.synthetic.camera import CAMERAS, photograph, resize_classes, sensor_size
from flbench.synthetic.faces import EDITS, GEOMETRIC_EDITS, render, sample_identity
from flbench.synthetic.finish import finish
from flbench.synthetic.generators import FAMILIES, NATIVE
from flbench.synthetic.identity import SCENERIES
from flbench.synthetic.pairs import FIRST_TRAINING_SEED
from flbench.synthetic.profiles import CATEGORIES, PROFILES, Profile, Split

PLAIN = [profile for profile in PROFILES.values() if not profile.finished]
LARGE = [profile for profile in PLAIN if profile.name != "tiny"]
each_plain = pytest.mark.parametrize("profile", PLAIN, ids=lambda profile: profile.name)
each_large = pytest.mark.parametrize("profile", LARGE, ids=lambda profile: profile.name)

SMALL = Profile(
    "small",
    size=48,
    native=32,
    first_seed=1_000,
    splits={
        "train": Split(10, 4, {"stgan/bald": 6, "stgan/blond_hair": 3, "pggan/entire": 2}),
        "test": Split(3, 2, {"stgan/smile": 3}, guests=2),
    },
)
"""Six chunks, so that a making can be stopped in between."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The profile `tiny`, made in this process."""
    into = tmp_path_factory.mktemp("forge") / "tiny"
    forge.make("tiny", into)
    return into


@pytest.fixture(scope="module")
def rows(folder):
    return read_dataset(folder).manifest


@pytest.fixture
def small(monkeypatch):
    """Two profiles of a few people: `small` and `small-finished`."""
    monkeypatch.setattr(profiles, "PROFILES", small_profiles())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The profile `small`, made without a stop."""
    into = tmp_path_factory.mktemp("forge") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "PROFILES", small_profiles())
        forge.make("small", into)
    return into


def small_profiles():
    return {"small": SMALL, "small-finished": replace(SMALL, name="small-finished", finished=True)}


def pixels(folder, path):
    with Image.open(folder / path) as image:
        return np.array(image)


def content(folder):
    """Every file of a folder and its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_after(count):
    """A progress that presses Ctrl+C when it is told for the `count`th time."""
    calls = []

    def progress(done, total):
        calls.append((done, total))
        if len(calls) == count:
            raise KeyboardInterrupt

    return progress


# Who is cast, by the profiles alone.


def test_the_categories_are_those_of_the_paper_and_the_generators_offer_them():
    assert len(set(CATEGORIES)) == len(CATEGORIES) == 32
    assert set(CATEGORIES) == {f"{name}/{edit}" for name, family in FAMILIES.items() for edit in family.attributes}


@each_large
def test_large_profiles_have_every_category_in_every_split(profile):
    assert list(profile.splits) == ["train", "valid", "test"]
    for names in profile.categories.values():
        assert set(names) == set(CATEGORIES)


@each_plain
def test_profiles_keep_clear_of_the_people_who_trained_the_generators_and_of_each_other(profile):
    groups = (profile.sources, profile.others, profile.guests)
    taken = [group(split) for group in groups for split in profile.splits]
    people = set().union(*taken)
    assert sum(map(len, taken)) == len(people)
    assert max(people) < FIRST_TRAINING_SEED
    for other in PLAIN:
        if other is not profile:
            assert not any(seeds.start in people or seeds[-1] in people for seeds in map(other.seeds, other.splits))


@each_plain
def test_a_test_is_taken_elsewhere_with_another_camera(profile):
    train, valid, test = (profile.settings[split] for split in ("train", "valid", "test"))
    assert train == valid
    assert train.scenery != test.scenery
    assert train.camera != test.camera
    assert {train.scenery, test.scenery} <= set(SCENERIES)
    assert {train.camera, test.camera} <= set(CAMERAS)


@each_plain
def test_guests_are_taken_as_no_photo_beside_fakes(profile):
    guests, test = profile.settings["guests"], profile.settings["test"]
    assert guests.scenery != test.scenery
    assert guests.camera not in {profile.settings[split].camera for split in profile.splits}
    assert guests.scenery in SCENERIES
    assert guests.camera in CAMERAS


@pytest.mark.parametrize(("name", "count"), [("tiny", 8), ("mini", 48), ("standard", 200), ("full", 1_000)])
def test_guests_are_in_the_test_split_only_and_come_last(name, count):
    profile = PROFILES[name]
    assert {split: len(profile.guests(split)) for split in profile.splits} == {"train": 0, "valid": 0, "test": count}
    assert profile.guests("test").start == profile.others("test").stop


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_no_generator_edits_guests(name):
    work = [chunk for chunk in casting.chunks(PROFILES[name]) if chunk.guests]
    assert [seed for chunk in work for seed in chunk.seeds] == list(PROFILES[name].guests("test"))
    assert not any(chunk.fakes for chunk in work)


@each_plain
def test_photos_are_edited_at_a_size_the_generators_were_trained_for(profile):
    assert profile.native == (64 if profile.name == "tiny" else NATIVE)
    assert profile.size >= profile.native


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_as_many_fakes_as_asked_for_or_of_everyone_who_can_be_edited_so(name):
    profile = PROFILES[name]
    for split, wanted in profile.splits.items():
        people = [sample_identity(seed) for seed in profile.sources(split)]
        for category, seeds in casting.cast(profile, split).items():
            able = {person.seed for person in people if casting.applicable(person, category.split("/")[1])}
            assert seeds <= able
            assert len(seeds) == min(wanted.fakes[category], len(able))


def test_the_standard_profile_has_all_the_fakes_it_asks_for():
    profile = PROFILES["standard"]
    for split in profile.splits:
        chosen = casting.cast(profile, split)
        assert {name: len(seeds) for name, seeds in chosen.items()} == dict(profile.splits[split].fakes)


@each_large
def test_there_are_others_enough_that_every_source_gives_fakes_to_a_fit(profile):
    for split in ("train", "valid"):
        assert len(profile.others(split)) >= len(profile.sources(split))


def test_the_sizes_are_those_asked_for():
    standard, full = PROFILES["standard"].splits, PROFILES["full"].splits
    assert set(standard["train"].fakes.values()) == {500}
    assert standard["train"].others >= 500
    assert set(standard["test"].fakes.values()) == {200}
    for split, count in (("train", 5_000), ("valid", 500), ("test", 1_000)):
        assert set(full[split].fakes.values()) == {count}
        assert full[split].others >= count
    assert (PROFILES["full"].size, PROFILES["mini"].size, PROFILES["standard"].size) == (224, 128, 128)


def test_different_categories_do_not_all_use_the_same_people():
    chosen = casting.cast(PROFILES["mini"], "train")
    assert chosen["stgan/black_hair"] != chosen["attgan/black_hair"]
    assert len(chosen["stgan/black_hair"] | chosen["attgan/black_hair"]) > 45


def test_sources_are_taken_in_the_order_of_a_hash():
    profile = PROFILES["mini"]
    order = sorted(profile.sources("train"), key=lambda s: hashlib.sha256(f"stgan/bangs:{s}".encode()).hexdigest())
    able = [s for s in order if not (sample_identity(s).attributes.bald or sample_identity(s).attributes.bangs)]
    assert casting.cast(profile, "train")["stgan/bangs"] == set(able[:30])


def test_chunks_hold_everybody_once():
    profile = PROFILES["mini"]
    work = casting.chunks(profile)
    assert [chunk.number for chunk in work] == list(range(len(work)))
    seeds = [seed for chunk in work for seed in chunk.seeds]
    assert sorted(seeds) == sorted(seed for split in profile.splits for seed in profile.seeds(split))
    assert max(len(chunk.seeds) for chunk in work) == casting.CHUNK
    chosen = {split: casting.cast(profile, split) for split in profile.splits}
    fakes = sum(len(seeds) for by_category in chosen.values() for seeds in by_category.values())
    assert sum(chunk.images for chunk in work) == len(seeds) + fakes


def test_a_profile_is_as_large_as_was_estimated(folder, rows):
    need = profiles.estimate("tiny")
    assert need.images == len(rows)
    sizes = [path.stat().st_size for path in folder.rglob("*.png")]
    blocks = sum(-(-size // 4096) * 4096 for size in sizes)
    assert 0.75 * need.bytes < blocks < 1.25 * need.bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [(3.14e6, "3.1 MB"), (9.96e6, "10 MB"), (161e6, "160 MB"), (994e6, "990 MB"), (996e6, "1.0 GB"), (12.4e9, "12 GB")],
)
def test_amounts_are_written_with_two_digits(size, text):
    assert casting.amount(size) == text


# What is made.


def test_it_is_a_data_set_without_leaks(folder):
    dataset = read_dataset(folder)
    profile = PROFILES["tiny"]
    assert dataset.label == f"synthfaces-tiny v{forge.RECIPE_VERSION}"
    assert leaks(dataset.manifest) == []
    photos = dataset.manifest[dataset.manifest["label"] == "real"]
    assert dict(photos["split"].value_counts()) == {name: len(profile.seeds(name)) for name in profile.splits}
    assert dataset.fingerprint == forge.recipe("tiny")
    for split, categories in profile.categories.items():
        assert (dataset.counts.loc[list(map(str, categories)), split] > 0).all()


def test_fakes_and_real_photos_of_a_fit_show_different_people(folder):
    dataset = read_dataset(folder)
    for split in ("train", "valid"):
        chosen = select_fit(dataset, FitSlice(name="f", categories=("stgan/bald", "pggan/entire")), split)
        others = {f"synthfaces-{seed:06d}" for seed in PROFILES["tiny"].others(split)}
        assert others <= set(chosen.reals["identity"])
        assert not set(chosen.reals["identity"]) & set(chosen.fakes["identity"])
        assert len(chosen.fakes)
    assert not set(dataset.manifest.loc[dataset.manifest["label"] == "fake", "identity"]) & {
        f"synthfaces-{seed:06d}" for split in PROFILES["tiny"].splits for seed in PROFILES["tiny"].others(split)
    }


def test_files_are_what_the_rows_say(folder, rows):
    for row in rows.itertuples():
        assert hashlib.sha256((folder / row.image).read_bytes()).hexdigest() == row.sha256
        assert pixels(folder, row.image).shape == (64, 64, 3)
        classes = pixels(folder, row.parsing)
        assert classes.shape == (64, 64)
        assert classes.max() <= 18
        assert row.mask == ""
        assert row.identity == f"{row.database}-{row.sample_id[:6]}"


def test_guests_are_photos_of_another_database_by_another_camera(folder, rows):
    profile = PROFILES["tiny"]
    guests = rows[rows["database"] != "synthfaces"]
    assert set(guests["database"]) == {"synthphotos"}
    assert set(guests["split"]) == {"test"}
    assert set(guests["label"]) == {"real"}
    assert guests["sample_id"].tolist() == [f"{seed:06d}" for seed in profile.guests("test")]
    people = [sample_identity(seed, "studio") for seed in profile.guests("test")]
    linear, classes = render(people, [person.attributes for person in people], sensor_size(64))
    taken = photograph(linear, profile.guests("test"), 64, "webcam").permute(0, 2, 3, 1).numpy()
    for row, photo, parsing in zip(guests.itertuples(), taken, resize_classes(classes, 64).numpy(), strict=True):
        np.testing.assert_array_equal(pixels(folder, row.image), photo)
        np.testing.assert_array_equal(pixels(folder, row.parsing), parsing)


def test_guests_can_be_told_from_other_photos_by_noise_sharpness_and_colour(folder, rows):
    """On skin, which all show: detail is what SciPy's Laplacian finds, colour the chroma of scikit-image's Lab."""
    detail, chroma = {"synthfaces": [], "synthphotos": []}, {"synthfaces": [], "synthphotos": []}
    for row in rows[(rows["label"] == "real") & (rows["split"] == "test")].itertuples():
        image = pixels(folder, row.image)
        skin = binary_erosion(pixels(folder, row.parsing) == 1)
        detail[row.database].append(np.abs(laplace(image.mean(2)))[skin].mean())
        chroma[row.database].append(np.hypot(*rgb2lab(image)[skin][:, 1:].T).mean())
    assert np.median(detail["synthphotos"]) > 1.5 * np.median(detail["synthfaces"])
    assert np.median(chroma["synthphotos"]) < 0.6 * np.median(chroma["synthfaces"])


def test_only_a_test_of_other_photos_takes_guests(folder):
    dataset = read_dataset(folder)
    fit = FitSlice(name="f", categories=("stgan/bald", "pggan/entire"))
    asked = [("same", "balanced", fit.categories), ("same", "all", fit.categories), ("other", "balanced", ())]
    found = []
    for photos, reals, categories in asked:
        test = TestSlice(name="t", fit="f", categories=categories, photos=photos)
        found.append(select_test(dataset, test, reals, fit))
    assert [set(chosen.reals["database"]) for chosen in found] == [{"synthfaces"}, {"synthfaces"}, {"synthphotos"}]
    assert [len(chosen.reals) for chosen in found[1:]] == [20, 8]
    assert found[2].fakes.empty
    assert not lacks_other(dataset, fit)


def test_nothing_else_lies_in_the_folder(folder, rows):
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {"dataset.toml", "manifest.parquet", *rows["image"], *rows["parsing"]}


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
        if fake.attribute == "age":
            assert look.young
        elif fake.attribute != "entire":
            assert not getattr(look, EDITS[fake.attribute])
            assert not (look.bald and fake.attribute.endswith("_hair"))


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_face_is_none_of_the_edited_ones(seed):
    """StyleGAN makes whole faces and edits: one edit alone would give a fake its own twin under another name."""
    edits = forge._flips("stylegan", "entire", sample_identity(seed))
    assert len(set(edits)) == 2
    assert set(edits) < {"smile", "age", "gender"}
    assert forge._flips("stylegan", "smile", sample_identity(seed)) == ("smile",)


def test_no_two_images_are_the_same(rows):
    assert not rows["sha256"].duplicated().any()


def test_hair_under_a_hat_is_not_edited():
    hatted = next(person for seed in range(500) if (person := sample_identity(seed)).hatted)
    assert not any(casting.applicable(hatted, edit) for edit in ("bald", "bangs", "black_hair", "blond_hair"))
    assert casting.applicable(hatted, "entire")


def test_edits_of_the_shape_have_their_own_parsing_map(folder, rows):
    fakes = rows[(rows["label"] == "fake") & (rows["attribute"] != "entire")]
    for fake in fakes.itertuples():
        assert (fake.parsing != f"parsing/{fake.source}.png") == (fake.attribute in GEOMETRIC_EDITS)
        if fake.attribute == "smile":
            assert (pixels(folder, fake.parsing) == 10).sum() > (
                pixels(folder, f"parsing/{fake.source}.png") == 10
            ).sum()


# Small profiles: enlarging, finishing, stopping.


def test_photos_and_fakes_are_enlarged_alike(small, straight, tmp_path):
    """The reference is the definition, written out as a matrix."""
    profiles.PROFILES["small"] = replace(SMALL, size=32)
    forge.make("small", tmp_path / "native")
    weights = bicubic(32, 48)
    images = read_dataset(tmp_path / "native").manifest["image"]
    assert list(images) == list(read_dataset(straight).manifest["image"])
    for image in images:
        plain = pixels(tmp_path / "native", image).astype(float)
        expected = np.einsum("ij,jkc,lk->ilc", weights, plain, weights).clip(0, 255)
        assert np.abs(pixels(straight, image) - expected).max() <= 0.51


def bicubic(old, new):
    """The matrix that enlarges a row by cubic convolution (Keys 1981, a = -0.5: torch's antialiased one)."""
    weights = np.zeros((new, old))
    for place in range(new):
        centre = (place + 0.5) * old / new - 0.5
        for at in range(old):
            x = abs(at - centre)
            near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            weights[place, at] = near if x < 1 else far if x < 2 else 0
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("workers", "stop"), [(1, 1), (1, 3), (2, 1)])
def test_a_stopped_making_goes_on_and_gives_the_same_bytes(small, straight, tmp_path, workers, stop):
    with pytest.raises(Interrupted, match="run the same command again"):
        forge.make("small", tmp_path / "data", workers=workers, progress=stop_after(stop))
    assert not (tmp_path / "data").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "data.partial" / "images").iterdir()}
    assert kept
    finished = len(list((tmp_path / "data.partial" / forge.ROWS).glob("0*.json")))
    assert finished >= stop
    told = []
    forge.make("small", tmp_path / "data", progress=lambda done, total: told.append((done, total)))
    assert len(told) == 1 + len(casting.chunks(SMALL)) - finished
    assert told[0][0] > 0
    assert told[-1][0] == told[-1][1] == profiles.estimate("small").images
    assert content(tmp_path / "data") == content(straight)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


@pytest.mark.parametrize("damage", ["truncated image", "no parsing map", "half a rows file"])
def test_a_chunk_that_a_kill_left_half_done_is_made_again(small, straight, tmp_path, damage):
    with pytest.raises(Interrupted):
        forge.make("small", tmp_path / "data", progress=stop_after(2))
    partial = tmp_path / "data.partial"
    if damage == "truncated image":
        (partial / "images" / "001001.png").write_bytes(b"\x89PNG")
    elif damage == "no parsing map":
        (partial / "parsing" / "001001.png").unlink()
    else:
        rows = partial / forge.ROWS / "00000.json"
        rows.write_bytes(rows.read_bytes()[:100])
    forge.make("small", tmp_path / "data")
    assert content(tmp_path / "data") == content(straight)


def test_a_changed_recipe_starts_anew(small, tmp_path):
    with pytest.raises(Interrupted):
        forge.make("small", tmp_path / "data", progress=stop_after(1))
    profiles.PROFILES["small"] = replace(SMALL, first_seed=2_000)
    forge.make("small", tmp_path / "data")
    names = {path.name[:6] for path in (tmp_path / "data" / "images").iterdir()}
    assert min(names) == "002000"


def test_a_failure_is_told_and_keeps_what_is_finished(small, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(forge, "file_digest", full)
    with pytest.raises(RunError, match="disk full"):
        forge.make("small", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_too_little_space_is_said_before_anything_is_made(small, tmp_path, monkeypatch):
    monkeypatch.setattr(forge.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=120_000))
    with pytest.raises(RunError, match=r"synthfaces small needs about 0\.\d MB more.* has 0\.1 MB free") as caught:
        forge.make("small", tmp_path / "data")
    assert caught.value.exit_code == 1
    assert list((tmp_path / "data.partial" / "images").iterdir()) == []


def test_finished_images_are_those_of_the_plain_profile_with_noise_and_jpeg(small, straight, tmp_path):
    forge.make("small-finished", tmp_path / "finished")
    plain, finished = read_dataset(straight), read_dataset(tmp_path / "finished")
    assert (finished.about.name, plain.about.name) == ("synthfaces-small-finished", "synthfaces-small")
    assert finished.fingerprint != plain.fingerprint
    assert "JPEG" in finished.about.note
    assert "JPEG" not in plain.about.note
    assert plain.manifest.drop(columns="sha256").equals(finished.manifest.drop(columns="sha256"))
    for row in plain.manifest.itertuples():
        expected = finish(pixels(plain.folder, row.image), int(row.sample_id[:6]))
        assert np.array_equal(pixels(finished.folder, row.image), expected)
        assert np.array_equal(pixels(finished.folder, row.parsing), pixels(plain.folder, row.parsing))


def test_the_command_says_how_much_it_makes_before_it_does(small, tmp_path, monkeypatch):
    monkeypatch.setenv("FLBENCH_HOME", str(tmp_path))
    for words in (["--profile", "small", "--finish"], ["--profile", "small-finished", "--finish"]):
        done = CliRunner().invoke(main, ["data", "make", "synthfaces", *words, "--workers", "1"])
        assert done.exit_code == 0, done.output
        said = f"synthfaces small-finished: {profiles.estimate('small-finished')}"
        assert (said in done.stderr) == (words[1] == "small")
        assert "synthfaces-small-finished v" in done.stdout
    (made,) = (path for path in (tmp_path / "datasets").iterdir() if path.is_dir())
    assert made.name == f"synthfaces-small-finished-{profiles.recipe('small-finished')[:8]}"


def test_the_command_refuses_with_one_line_when_space_is_short(small, tmp_path, monkeypatch):
    monkeypatch.setenv("FLBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(forge.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    done = CliRunner().invoke(main, ["data", "make", "synthfaces", "--profile", "small", "--workers", "1"])
    assert done.exit_code == 1
    assert "error: synthfaces small needs" in done.stderr
    assert "Traceback" not in done.output


def test_every_profile_has_a_finished_variant():
    for profile in PLAIN:
        assert PROFILES[f"{profile.name}-finished"] == replace(profile, name=f"{profile.name}-finished", finished=True)


def test_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="did you mean mini"):
        forge.make("minni", tmp_path / "data")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        forge.make("tiny", tmp_path / "there")


def test_two_makings_at_once_are_refused(small, tmp_path):
    with forge._alone(tmp_path / "data"), pytest.raises(RunError, match="another process"):
        forge.make("small", tmp_path / "data")


def test_the_fingerprint_follows_numbers_and_the_weights_that_are_used(small, monkeypatch, tmp_path):
    recipe = profiles.recipe("small")
    assert recipe != profiles.recipe("small-finished")
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "PROFILES", {"small": replace(SMALL, first_seed=2_000)})
        assert recipe != profiles.recipe("small")
    assert SMALL.generators == ["pggan", "stgan"]
    for name in SMALL.generators:
        (tmp_path / f"{name}.safetensors").write_bytes((profiles.WEIGHTS / f"{name}.safetensors").read_bytes())
    monkeypatch.setattr(profiles, "WEIGHTS", tmp_path)
    assert recipe == profiles.recipe("small")
    (tmp_path / "stgan.safetensors").write_bytes(b"other weights")
    assert recipe != profiles.recipe("small")
