"""The data set: manifest and about in and out, what is refused, and what slices select."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flbench.data.dataset import (
    COLUMNS,
    SPLITS,
    About,
    Dataset,
    lacks_other,
    leaks,
    read_dataset,
    select_fit,
    select_test,
    write_dataset,
)
from flbench.data.manifest import checked
from flbench.errors import DataError, RunError, UsageError
from flbench.protocol import Category, FitSlice, TestSlice

ABOUT = About(name="tiny", version="1", title="Tiny", licence="CC0", size=8)


def photo(name: str, split: str = "train", **values: str) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row.update(sample_id=f"r{name}", image=f"real/{name}.png", label="real", identity=f"p{name}", split=split)
    return row | values


def forged(name: str, attribute: str = "bald", split: str = "train", **values: str) -> dict[str, str]:
    row = photo(name, split) | {"sample_id": f"{attribute}-{name}", "image": f"{attribute}/{name}.png", "label": "fake"}
    return row | {"source": f"r{name}", "generator": "stgan", "attribute": attribute} | values


def table(count: int = 12) -> pd.DataFrame:
    rows = []
    for number in range(count):
        split = SPLITS[number % 3]
        rows += [photo(str(number), split), forged(str(number), "bald", split)]
        if number % 2:
            rows.append(forged(str(number), "smile", split))
    return pd.DataFrame(rows)


def csv_text(rows: list[dict[str, str]]) -> str:
    return pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False)


def csv_dataset(folder: Path, text: str | bytes) -> Path:
    write_dataset(folder, ABOUT, table())
    (folder / "manifest.parquet").unlink()
    (folder / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@settings(max_examples=20)
@given(names=st.lists(words, min_size=1, max_size=6, unique=True), title=st.text(st.characters(codec="utf-8")))
def test_what_was_written_is_read(names: list[str], title: str) -> None:
    manifest = pd.DataFrame([photo(str(n), sample_id=name, identity=name) for n, name in enumerate(names)])
    about = ABOUT.model_copy(update={"title": title, "note": "\x7f\"\\\n'", "categories": ("stgan/bald",)})
    with tempfile.TemporaryDirectory() as folder:
        written = write_dataset(Path(folder), about, manifest)
        read = read_dataset(Path(folder))
    assert read.about == about
    assert read.manifest["sample_id"].tolist() == sorted(names)
    pd.testing.assert_frame_equal(read.manifest, written.manifest)
    assert read.fingerprint == written.fingerprint


def test_csv_with_bom_and_crlf_gives_the_same_data_set(tmp_path: Path) -> None:
    parquet = write_dataset(tmp_path / "a", ABOUT, table())
    text = table().sample(frac=1, random_state=1).to_csv(index=False).replace("\n", "\r\n")
    other = read_dataset(csv_dataset(tmp_path / "b", b"\xef\xbb\xbf" + text.encode()))
    pd.testing.assert_frame_equal(other.manifest, parquet.manifest)
    assert other.fingerprint == parquet.fingerprint


def test_a_csv_manifest_stays_csv(tmp_path: Path) -> None:
    folder = csv_dataset(tmp_path, csv_text([photo("1")]))
    write_dataset(folder, ABOUT, table(3))
    assert not (folder / "manifest.parquet").exists()
    assert len(read_dataset(folder).manifest) == 7


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", ABOUT, table())
    write_dataset(tmp_path / "b", ABOUT, table().iloc[::-1])
    for name in ("dataset.toml", "manifest.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("column", COLUMNS)
def test_the_fingerprint_sees_every_column(tmp_path: Path, column: str) -> None:
    rows = [photo("1"), photo("2"), forged("3", source="r1", mask="m.png")]
    before = write_dataset(tmp_path / "a", ABOUT, pd.DataFrame(rows))
    values = {"source": "r2", "split": "test", "mask": "n.png"}
    rows[2] = photo("3", mask="m.png") if column == "label" else rows[2] | {column: values.get(column, "other")}
    assert write_dataset(tmp_path / "b", ABOUT, pd.DataFrame(rows)).fingerprint != before.fingerprint


def test_the_fingerprint_of_a_recipe_is_the_recipe(tmp_path: Path) -> None:
    about = ABOUT.model_copy(update={"recipe": "abc"})
    assert write_dataset(tmp_path, about, table()).fingerprint == "abc"


def test_the_fingerprint_sees_size_and_polarity_but_no_prose(tmp_path: Path) -> None:
    def of(**update: object) -> str:
        return write_dataset(tmp_path / "x", ABOUT.model_copy(update=update), table()).fingerprint

    assert of(title="other", note="other") == of()
    assert len({of(), of(size=9), of(mask_polarity="fake_is_black")}) == 3


def test_label_categories_and_counts(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ABOUT, table(12))
    assert dataset.label == "tiny v1"
    assert dataset.categories() == [Category("stgan", "bald"), Category("stgan", "smile")]
    # Numbers 0, 3, 6, 9 are train, two of them odd, and so on.
    assert dataset.counts.loc["stgan/bald"].tolist() == [4, 4, 4]
    assert dataset.counts.loc["stgan/smile"].tolist() == [2, 2, 2]
    assert dataset.counts.loc["real"].tolist() == [4, 4, 4]
    assert dataset.counts.columns.tolist() == list(SPLITS)


def refused(tmp_path: Path, *rows: dict[str, str]) -> str:
    with pytest.raises(UsageError) as caught:
        read_dataset(csv_dataset(tmp_path, csv_text(list(rows))))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_fault_34_an_identifier_given_twice_names_both_lines(tmp_path: Path) -> None:
    message = refused(tmp_path, photo("1"), photo("2"), photo("3"), photo("2"))
    assert "'r2'" in message
    assert "line 3" in message
    assert "line 5" in message


@pytest.mark.parametrize("column", ["image", "parsing", "mask"])
@pytest.mark.parametrize(
    "path", ["../../x.png", "/etc/passwd", "a/../../x.png", "a/..", "C:/x.png", "a\\x.png", "a\x00.png"]
)
def test_fault_35_paths_that_lead_outside_are_named_with_their_line(tmp_path: Path, column: str, path: str) -> None:
    rows = [photo("1"), photo("2", **{column: path})]
    if "\x00" in path:
        with pytest.raises(UsageError, match=rf"row 2: {column}"):
            write_dataset(tmp_path, ABOUT, pd.DataFrame(rows))
    else:
        assert f"line 3: {column}" in refused(tmp_path, *rows)


def test_fault_35_dots_inside_a_name_are_no_way_out(tmp_path: Path) -> None:
    folder = csv_dataset(tmp_path, csv_text([photo("1", image="a..b/c...png")]))
    assert read_dataset(folder).manifest["image"].tolist() == ["a..b/c...png"]


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_fault_35_links_that_lead_outside_are_refused(tmp_path: Path, linked: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "2.png").write_bytes(b"x")
    folder = csv_dataset(tmp_path / "data", csv_text([photo("1", image="other/1.png"), photo("2")]))
    if linked == "file":
        (folder / "real").mkdir()
        (folder / "real" / "2.png").symlink_to(tmp_path / "outside" / "2.png")
    else:
        (folder / "real").symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match=r"line 3: image 'real/2.png' is a link that leads outside"):
        read_dataset(folder)


def test_a_link_inside_the_folder_is_fine(tmp_path: Path) -> None:
    folder = csv_dataset(tmp_path, csv_text([photo("1")]))
    (folder / "real").mkdir()
    (folder / "there.png").write_bytes(b"x")
    (folder / "real" / "1.png").symlink_to("../there.png")
    assert len(read_dataset(folder).manifest) == 1


def test_fault_36_names_in_any_script_and_case_work(tmp_path: Path) -> None:
    names = ["Ä", "ä", "A", "a", "😀", "字"]
    folder = csv_dataset(tmp_path, csv_text([photo(name) for name in names]))
    assert set(read_dataset(folder).manifest["image"]) == {f"real/{name}.png" for name in names}


def test_fault_36_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    text = csv_text([photo("1"), photo("ü")]).encode("latin-1")
    with pytest.raises(UsageError, match="line 3"):
        read_dataset(csv_dataset(tmp_path, text))


def test_fault_37_no_rows_is_zero_images(tmp_path: Path) -> None:
    assert "0 images" in refused(tmp_path)
    with pytest.raises(UsageError, match="0 images"):
        write_dataset(tmp_path, ABOUT, table(0).reindex(columns=list(COLUMNS)))


@pytest.mark.parametrize("change", ["short", "long"])
def test_fault_39_a_line_with_the_wrong_number_of_fields_is_named(tmp_path: Path, change: str) -> None:
    lines = csv_text([photo("1"), photo("2"), photo("3")]).splitlines()
    lines[2] = lines[2].rpartition(",")[0] if change == "short" else lines[2] + ",x"
    with pytest.raises(UsageError, match="line 3"):
        read_dataset(csv_dataset(tmp_path, "\n".join(lines)))


def test_lines_are_counted_in_the_file_not_in_rows(tmp_path: Path) -> None:
    lines = csv_text([photo("1"), photo("2", label="maybe")]).splitlines()
    lines.insert(1, "")
    with pytest.raises(UsageError, match=r"line 4: label is 'maybe' \(known: real, fake\)"):
        read_dataset(csv_dataset(tmp_path, "\n".join(lines) + "\n"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (photo("2", split="dev"), "split is 'dev'"),
        (photo("2", identity=""), "identity is empty"),
        (photo("2", sample_id=""), "sample_id is empty"),
        (photo("2", generator="stgan"), "a real image has generator 'stgan'"),
        (photo("2", source="r1"), "a real image has source 'r1'"),
        (forged("2", source="r9"), "source 'r9' is not the sample_id of a real image"),
        (forged("2", source=""), "has no ground truth"),
        (forged("1", generator=""), "generator ''"),
        (forged("1", attribute="a/b"), "attribute 'a/b'"),
        (photo("2", database="a\x1b[31m"), "database 'a\\x1b[31m' has a control character"),
    ],
)
def test_rows_that_cannot_be_are_refused_with_their_line(tmp_path: Path, row: dict[str, str], words: str) -> None:
    message = refused(tmp_path, photo("1"), row)
    assert "manifest.csv, line 3: " in message
    assert words in message


def test_a_fake_without_photo_may_be_entire_or_have_a_mask(tmp_path: Path) -> None:
    rows = [photo("1"), forged("2", "entire", source=""), forged("3", source="", mask="m.png")]
    assert len(read_dataset(csv_dataset(tmp_path, csv_text(rows))).manifest) == 3


def test_missing_unknown_and_repeated_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'mask', 'sha256'"):
        write_dataset(tmp_path, ABOUT, table().drop(columns=["mask", "sha256"]))
    with pytest.raises(UsageError, match=r"unknown column 'identiy'.*identity"):
        write_dataset(tmp_path, ABOUT, table().assign(identiy=""))
    with pytest.raises(UsageError, match="'mask' twice"):
        write_dataset(tmp_path, ABOUT, pd.concat([table(), table()["mask"]], axis=1))


def test_columns_of_numbers_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, ABOUT, table())
    table().assign(identity=1.0).to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(UsageError, match="'identity' holds double"):
        read_dataset(tmp_path)


def test_missing_values_become_empty_strings(tmp_path: Path) -> None:
    rows = table().assign(mask=None, parsing=float("nan"))
    read = write_dataset(tmp_path, ABOUT, rows).manifest
    assert set(read["mask"]) == {""}
    assert set(read_dataset(tmp_path).manifest["parsing"]) == {""}


def test_damaged_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"dataset\.toml cannot be read"):
        read_dataset(tmp_path)
    write_dataset(tmp_path, ABOUT, table())
    content = (tmp_path / "manifest.parquet").read_bytes()
    (tmp_path / "manifest.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="damaged or not Parquet"):
        read_dataset(tmp_path)
    (tmp_path / "manifest.parquet").unlink()
    with pytest.raises(DataError, match=r"has no manifest\.parquet"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"\nversion = "1"\ntitle = ""\nlicence = ""\nsize = "8"\n', "size: "),
        (
            'name = "x"\nversion = "1"\ntitle = ""\nlicence = ""\nsize = 8\nlicense = ""\n',
            "unknown key 'license'.*licence",
        ),
        ('name = "x"\nversion = "1"\ntitle = ""\nlicence = ""\nsize = 8\ncategories = ["a"]\n', "generator/attribute"),
    ],
)
def test_about_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    write_dataset(tmp_path, ABOUT, table())
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(DataError, match=words):
        read_dataset(tmp_path)


def test_two_manifests_are_ambiguous(tmp_path: Path) -> None:
    write_dataset(tmp_path, ABOUT, table())
    (tmp_path / "manifest.csv").write_text(csv_text([photo("1")]))
    with pytest.raises(UsageError, match="both"):
        read_dataset(tmp_path)


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_dataset(tmp_path, ABOUT, table(3)).manifest
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "manifest.parquet":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="disk full while writing manifest"):
        write_dataset(tmp_path, ABOUT, table(9))
    pd.testing.assert_frame_equal(read_dataset(tmp_path).manifest, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.toml", "manifest.parquet"]


FIT = FitSlice(name="f", categories=("stgan/bald", "stgan/smile"))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_disjoint_people_are_every_second_in_hash_order(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ABOUT, table(30))
    people = sorted((f"p{number}" for number in range(0, 30, 3)), key=sha)
    chosen = select_fit(dataset, FIT, "train")
    assert set(chosen.fakes["identity"]) == set(people[0::2])
    assert set(chosen.reals["identity"]) == set(people[1::2])
    assert set(chosen.fakes["split"]) == {"train"}
    assert set(chosen.fakes["attribute"]) == {"bald", "smile"}
    assert chosen.fakes.index.tolist() == list(range(len(chosen.fakes)))


def test_people_without_fakes_are_the_real_ones(tmp_path: Path) -> None:
    """Twelve people in train, five of whom no fake was made: one of the seven others must give photos to make six."""
    never = [photo(f"n{number}") for number in range(5)]
    rows = pd.concat([table(21), pd.DataFrame(never)])
    dataset = write_dataset(tmp_path, ABOUT, rows)
    edited = sorted((f"p{number}" for number in range(0, 21, 3)), key=sha)
    moved = edited[1]
    chosen = select_fit(dataset, FIT, "train")
    assert set(chosen.reals["identity"]) == {f"pn{number}" for number in range(5)} | {moved}
    assert set(chosen.fakes["identity"]) == set(edited) - {moved}


def test_with_enough_people_without_fakes_every_fake_is_learnt_from(tmp_path: Path) -> None:
    never = [photo(f"n{number}") for number in range(9)]
    dataset = write_dataset(tmp_path, ABOUT, pd.concat([table(21), pd.DataFrame(never)]))
    chosen = select_fit(dataset, FIT, "train")
    assert set(chosen.reals["identity"]) == {f"pn{number}" for number in range(9)}
    assert set(chosen.fakes["identity"]) == {f"p{number}" for number in range(0, 21, 3)}


@settings(max_examples=8)
@given(order=st.permutations(list(range(24))), split=st.sampled_from(SPLITS))
def test_selections_do_not_depend_on_the_order_of_rows(order: list[int], split: str) -> None:
    rows = table(24)[lambda t: t["attribute"] != "smile"].reset_index(drop=True)
    doubled = [2 * number + half for number in order for half in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        one = write_dataset(Path(folder) / "a", ABOUT, rows)
        two = write_dataset(Path(folder) / "b", ABOUT, rows.iloc[doubled])
    for a, b in zip(select_fit(one, FIT, split), select_fit(two, FIT, split), strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_people_are_on_the_same_side_for_every_slice(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ABOUT, table(30))
    bald = select_fit(dataset, FitSlice(name="b", categories=("stgan/bald",)), "train")
    smile = select_fit(dataset, FitSlice(name="s", categories=("stgan/smile",)), "train")
    assert not set(bald.fakes["identity"]) & set(smile.reals["identity"])
    assert set(smile.fakes["attribute"]) == {"smile"}


def test_paired_people_are_the_same(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ABOUT, table(30))
    chosen = select_fit(dataset, FitSlice(name="s", categories=("stgan/smile",), people="paired"), "valid")
    odd_valid = {f"p{number}" for number in range(1, 30, 3) if number % 2}
    assert set(chosen.fakes["identity"]) == set(chosen.reals["identity"]) == odd_valid


def test_a_balanced_test_takes_as_many_photos_in_hash_order(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ABOUT, table(30))
    slice_ = TestSlice(name="t", fit="f", categories=("stgan/smile",))
    chosen = select_test(dataset, slice_, "balanced")
    photos = sorted((f"r{number}" for number in range(2, 30, 3)), key=sha)
    assert len(chosen.fakes) == 5
    assert set(chosen.reals["sample_id"]) == set(photos[:5])
    assert set(select_test(dataset, slice_, "all").reals["sample_id"]) == set(photos)
    both = TestSlice(name="t", fit="f", categories=("stgan/smile", "stgan/bald"))
    assert len(select_test(dataset, both, "balanced").reals) == len(photos) < len(chosen.fakes) + 10


def test_a_balanced_test_prefers_photos_of_people_without_fakes(tmp_path: Path) -> None:
    never = [photo(f"n{number}", "test") for number in range(3)]
    dataset = write_dataset(tmp_path, ABOUT, pd.concat([table(30), pd.DataFrame(never)]))
    slice_ = TestSlice(name="t", fit="f", categories=("stgan/smile",))
    chosen = select_test(dataset, slice_, "balanced")
    photos = sorted((f"r{number}" for number in range(2, 30, 3)), key=sha)
    assert len(chosen.fakes) == len(chosen.reals) == 5
    assert set(chosen.reals["sample_id"]) == {"rn0", "rn1", "rn2", *photos[:2]}
    assert len(select_test(dataset, slice_, "all").reals) == 13


ATTRIBUTES = ("bald", "smile", "bangs")
OTHER = TestSlice(name="o", fit="f", photos="other")


@st.composite
def manifests(draw: st.DrawFn, databases: tuple[str, ...] = ("celeba", "ffhq", "lfw")) -> pd.DataFrame:
    """People, each of a database and a split, with a photo and up to three fakes of it; rows in any order."""
    rows = []
    for number in range(draw(st.integers(1, 24))):
        where = {"split": draw(st.sampled_from(SPLITS)), "database": draw(st.sampled_from(databases))}
        rows.append(photo(str(number), **where))
        rows += [forged(str(number), edit, **where) for edit in draw(st.sets(st.sampled_from(ATTRIBUTES)))]
    return pd.DataFrame(draw(st.permutations(rows)))


def in_memory(rows: pd.DataFrame) -> Dataset:
    return Dataset(Path("nowhere"), ABOUT, checked(rows))


def picked(rows: pd.DataFrame, split: str, *attributes: str) -> list[dict[str, str]]:
    """Return the fakes of some attributes in a split; without any, its photos."""
    asked = (row for row in rows.to_dict("records") if row["split"] == split)
    return [row for row in asked if (row["attribute"] in attributes if attributes else row["label"] == "real")]


def names(rows: pd.DataFrame | list[dict[str, str]]) -> list[str]:
    listed = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    return sorted(row["sample_id"] for row in listed)


def before_databases_counted(
    rows: pd.DataFrame, split: str, people: str, count: int | None
) -> tuple[list[str], list[str]]:
    """Return what slices of `FIT` selected when a data set had one database: to test (`count`), or to learn from."""
    fakes, photos = picked(rows, split, "bald", "smile"), picked(rows, split)
    edited = {row["identity"] for row in picked(rows, split, *ATTRIBUTES)}
    if people == "test":
        photos.sort(key=lambda row: (row["identity"] in edited, sha(row["sample_id"])))
        return names(fakes), names(photos[:count])
    if people == "paired":
        kept = {row["identity"] for row in fakes}
        return names(fakes), names([row for row in photos if row["identity"] in kept])
    everyone = {row["identity"] for row in photos}
    gives = everyone - edited
    for place, person in enumerate(sorted(edited, key=sha)):
        if place % 2 and len(gives) < len(everyone) // 2:
            gives.add(person)
    return (
        names([row for row in fakes if row["identity"] not in gives]),
        names([row for row in photos if row["identity"] in gives]),
    )


@pytest.mark.parametrize("database", ["", "celeba"])
@settings(max_examples=30)
@given(data=st.data(), split=st.sampled_from(SPLITS))
def test_with_one_database_selections_are_what_they_were(database: str, data: st.DataObject, split: str) -> None:
    rows = data.draw(manifests((database,)))
    dataset = in_memory(rows)
    for people in ("disjoint", "paired"):
        chosen = select_fit(dataset, FIT.model_copy(update={"people": people}), split)
        assert (names(chosen.fakes), names(chosen.reals)) == before_databases_counted(rows, split, people, None)
    test = TestSlice(name="t", fit="f", categories=FIT.categories)
    for reals, count in (("balanced", len(picked(rows, "test", "bald", "smile"))), ("all", None)):
        chosen = select_test(dataset, test, reals)
        assert (names(chosen.fakes), names(chosen.reals)) == before_databases_counted(rows, "test", "test", count)
    assert select_test(dataset, OTHER, "all", FIT).reals.empty
    assert lacks_other(dataset, FIT)


@settings(max_examples=40)
@given(rows=manifests(), split=st.sampled_from(["train", "valid"]), people=st.sampled_from(["disjoint", "paired"]))
def test_photos_of_a_fit_are_of_the_databases_of_its_fakes(rows: pd.DataFrame, split: str, people: str) -> None:
    fit = FIT.model_copy(update={"people": people})
    chosen = select_fit(in_memory(rows), fit, split)
    offered = picked(rows, split, "bald", "smile")
    if offered:
        assert set(chosen.reals["database"]) <= {row["database"] for row in offered}
    if people == "paired":
        assert names(chosen.fakes) == names(offered)
        assert set(chosen.reals["identity"]) == {row["identity"] for row in offered}
        return
    assert not set(chosen.reals["identity"]) & set(chosen.fakes["identity"])
    for database in {row["database"] for row in offered}:
        own = [row["identity"] for row in picked(rows, split) if row["database"] == database]
        assert (chosen.reals["database"] == database).sum() >= len(own) // 2
        alone = select_fit(in_memory(rows[rows["database"] == database]), fit, split)
        assert names(alone.reals) == names(chosen.reals[chosen.reals["database"] == database])
        assert names(alone.fakes) == names(chosen.fakes[chosen.fakes["database"] == database])


@settings(max_examples=40)
@given(rows=manifests(), reals=st.sampled_from(["balanced", "all"]))
def test_photos_of_a_test_are_of_the_databases_of_its_fakes(rows: pd.DataFrame, reals: str) -> None:
    chosen = select_test(in_memory(rows), TestSlice(name="t", fit="f", categories=("stgan/smile",)), reals)
    fakes = picked(rows, "test", "smile")
    home = {row["database"] for row in fakes}
    photos = [row for row in picked(rows, "test") if row["database"] in home or not home]
    assert names(chosen.fakes) == names(fakes)
    assert set(names(chosen.reals)) <= set(names(photos))
    assert len(chosen.reals) == (min(len(fakes), len(photos)) if reals == "balanced" else len(photos))
    edited = {row["identity"] for row in picked(rows, "test", *ATTRIBUTES)}
    left = [row for row in photos if row["sample_id"] not in names(chosen.reals)]
    if any(person in edited for person in chosen.reals["identity"]):
        assert all(row["identity"] in edited for row in left), "people without fakes come first"


@settings(max_examples=40)
@given(rows=manifests(), reals=st.sampled_from(["balanced", "all"]))
def test_other_photos_are_every_one_of_databases_that_the_fit_did_not_learn_from(
    rows: pd.DataFrame, reals: str
) -> None:
    dataset = in_memory(rows)
    chosen = select_test(dataset, OTHER, reals, FIT)
    learnt = {row["database"] for split in ("train", "valid") for row in picked(rows, split, "bald", "smile")}
    expected = names([row for row in picked(rows, "test") if learnt and row["database"] not in learnt])
    assert chosen.fakes.empty
    assert chosen.fakes.columns.tolist() == list(COLUMNS)
    assert names(chosen.reals) == expected
    assert lacks_other(dataset, FIT) == (not expected)


@settings(max_examples=30)
@given(rows=manifests(), most=st.integers(1, 6), split=st.sampled_from(SPLITS), data=st.data())
def test_no_selection_depends_on_the_order_of_rows(
    rows: pd.DataFrame, most: int, split: str, data: st.DataObject
) -> None:
    shuffled = rows.iloc[data.draw(st.permutations(range(len(rows))))]
    test = TestSlice(name="t", fit="f", categories=FIT.categories)
    fit = FIT.model_copy(update={"per_category": most})
    of_both = []
    for dataset in (in_memory(rows), in_memory(shuffled)):
        selections = [select_fit(dataset, fit, split), select_test(dataset, test, "balanced", fit)]
        of_both.append([*selections, select_test(dataset, OTHER, "all", fit)])
    for one, two in zip(*of_both, strict=True):
        pd.testing.assert_frame_equal(one.fakes, two.fakes)
        pd.testing.assert_frame_equal(one.reals, two.reals)


@settings(max_examples=40)
@given(rows=manifests(), most=st.integers(1, 6), people=st.sampled_from(["disjoint", "paired"]))
def test_every_category_gives_as_many_fakes_as_the_rarest(rows: pd.DataFrame, most: int, people: str) -> None:
    dataset = in_memory(rows)
    fit = FIT.model_copy(update={"people": people})
    every = select_fit(dataset, fit, "train")
    chosen = select_fit(dataset, fit.model_copy(update={"per_category": most}), "train")
    there = {edit: names(every.fakes[every.fakes["attribute"] == edit]) for edit in set(every.fakes["attribute"])}
    share = min([most, *map(len, there.values())])
    expected = [name for listed in there.values() for name in sorted(listed, key=sha)[:share]]
    assert names(chosen.fakes) == sorted(expected)
    if people == "disjoint":
        assert names(chosen.reals) == names(every.reals)
    else:
        assert set(chosen.reals["identity"]) == set(chosen.fakes["identity"])


def test_many_photos_of_one_database_do_not_take_the_photos_of_another() -> None:
    """All people of the first are edited: half of them must give photos, however many the second has."""
    rows = table(30).assign(database="celeba")
    crowd = pd.DataFrame([photo(f"n{number}", database="ffhq") for number in range(50)])
    chosen = select_fit(in_memory(pd.concat([rows, crowd])), FIT, "train")
    assert names(chosen.reals) == names(select_fit(in_memory(rows), FIT, "train").reals)
    assert len(chosen.reals) == 5


def test_a_fake_without_a_database_is_from_where_its_photo_is() -> None:
    rows = [photo("1", "test", database="celeba"), photo("2", "test", database="ffhq"), forged("1", split="test")]
    rows += [photo("3", database="celeba"), forged("3")]
    dataset = in_memory(pd.DataFrame(rows))
    test = TestSlice(name="t", fit="f", categories=("stgan/bald",))
    assert names(select_test(dataset, test, "all").reals) == ["r1"]
    assert names(select_test(dataset, OTHER, "all", FIT).reals) == ["r2"]


def test_a_photo_without_a_database_is_no_other_one() -> None:
    rows = [photo("1", "test"), forged("2", "entire", "test", source="", database="ffhq")]
    rows.append(forged("3", "entire", source="", database="ffhq"))
    dataset = in_memory(pd.DataFrame(rows))
    entire = ("stgan/entire",)
    fit = FitSlice(name="f", categories=entire)
    assert names(select_test(dataset, TestSlice(name="t", fit="f", categories=entire), "all").reals) == ["r1"]
    assert lacks_other(dataset, fit)


def test_other_photos_need_to_know_the_fit() -> None:
    with pytest.raises(ValueError, match="test 'o' takes photos of other databases"):
        select_test(in_memory(table()), OTHER, "all")


def test_fault_38_leaks_name_identities_and_contents_in_several_splits() -> None:
    rows = [
        photo("1", "train", sha256="aa"),
        photo("2", "test", sha256="aa"),
        photo("3", "train", identity="p4", sha256="bb"),
        photo("4", "valid", sha256="cc"),
        photo("5", "train", sha256=""),
        photo("6", "test", sha256=""),
    ]
    found = leaks(pd.DataFrame(rows))
    assert found == ["identity 'p4' is in train and valid", "the same image content (sha256 aa) is in train and test"]
    assert leaks(table()) == []
