"""Commands around conditions, plans, claims and conventions, from the first word to the last line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import flbench
from click.testing import Result
from PIL import Image

from flbench.data.dataset import Dataset
from flbench.data.images import read_image
from flbench.protocol import METRICS
from flbench.registry import find_protocol
from flbench.scoring.conventions import CONVENTIONS
from flbench.study import Study

LIGHT = ("--set", "weights=none", "--set", "decoder_channels=[8,8,8,8,8]", "--set", "steps=4", "--threads", "1")


@pytest.fixture(scope="module")
def study(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("study")
    asked = ("-m", "fakelocator", "-p", "in_gan,disorganization", "-c", "jpeg-50", "-c", "blur-1")
    return folder, flbench("run", *asked, "--data", boxes.folder, "--study", folder, *LIGHT)


def test_added_conditions_are_measured_recorded_and_shown(study: tuple[Path, Result]) -> None:
    folder, done = study
    records = Study(folder).records()
    assert {record.protocol.added for record in records} == {("jpeg-50", "blur-1")}
    for record in records:
        same = record.result("blond_hair", "blur-1")
        assert same is not None
        known = [value.value for value in same.gamma.values() if value.value is not None]
        assert known == [100.0] * len(known)
    assert "jpeg-50" in done.output
    assert len(list((folder / "fits").glob("fakelocator*"))) == 1
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg"}
    assert [path for path in (folder / "figures").iterdir() if "gamma" in path.name]


def test_the_record_holds_every_convention_of_the_clean_images(study: tuple[Path, Result]) -> None:
    folder, _ = study
    for record in Study(folder).records():
        for result in record.results:
            asked = record.protocol.name == "in_gan" and result.condition == "clean"
            assert set(result.conventions) <= set(CONVENTIONS)
            assert bool(result.conventions) == asked


def test_a_dry_run_tells_what_is_left_and_does_nothing(boxes: Dataset, tmp_path: Path) -> None:
    words = ("run", "-p", "all", "--data", boxes.folder, "--study", tmp_path / "s", "--dry-run")
    done = flbench(*words)
    assert "left out: universal v1" in done.stderr
    assert "to do" in done.stderr
    assert not (tmp_path / "s").exists()
    document = json.loads(flbench(*words, "--json").stdout)
    assert document["estimate"]["cells"] == document["estimate"]["cells_left"] == len(document["cells"])
    assert document["estimate"]["fits"] == len(document["fits"]) > 0
    assert "universal v1" in document["left_out"]


def test_claims_without_records_name_the_commands_that_measure_them(study: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = study
    page = tmp_path / "claims.md"
    done = flbench("claims", "--study", folder, "--data", "boxes", "--into", page)
    assert "not measured" in done.output
    assert "flbench run --method" in done.output
    assert "flbench run --method" in page.read_text(encoding="utf-8")
    (first, *_) = json.loads(flbench("claims", "--study", folder, "--data", "boxes", "--json").stdout)
    assert first["outcome"] == "not measured"


def test_a_claim_of_ones_own_is_judged(study: tuple[Path, Result], boxes: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    flbench("run", "-m", "zeros", "-p", "disorganization", "--data", boxes.folder, "--study", folder)
    own = tmp_path / "own.toml"
    own.write_text(
        '[[claim]]\nname = "seen"\ntitle = "The oracle sees more than nothing"\nsource = "here"\n'
        '[[claim.check]]\nmetrics = ["coss"]\n'
        'left = { method = "oracle", protocol = "disorganization", test = "blond_hair", condition = "disorganized" }\n'
        'right = { method = "zeros", protocol = "disorganization", test = "blond_hair" }\n',
        encoding="utf-8",
    )
    done = flbench("claims", "--study", folder, "--file", own)
    assert "holds" in done.output
    assert "does not hold" not in done.output


def test_conventions_are_named_and_told(tmp_path: Path) -> None:
    done = flbench("show", "conventions")
    assert "f1/image/fakes/0.5/as-is/0.1" in done.output
    document = json.loads(flbench("show", "conventions", "--json").stdout)
    assert document["conventions"] == dict(CONVENTIONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "-p", "in_gan", "-c", "jpg-50"], "unknown condition 'jpg-50' (did you mean jpeg?)"),
        (["run", "-p", "in_gan", "-c", "blur-4"], "odd number"),
        (["claims", "--data", "x", "--file", "no.toml"], "no.toml"),
        (["run", "-p", "false_alarms", "-m", "zeros"], "has none"),
    ],
)
def test_mistakes_are_told_in_one_line(boxes: Dataset, tmp_path: Path, words: list[str], said: str) -> None:
    data = ["--data", str(boxes.folder)] if words[0] == "run" else []
    done = flbench(*words, *data, "--study", tmp_path, code=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_metric_of_every_protocol_has_a_name() -> None:
    for name in ("false_alarms", "losses", "universal", "cross_gan_matrix"):
        assert set(find_protocol(name).scoring.metrics) <= set(METRICS)


def test_photos_of_another_database_are_imported_and_count_as_false_alarms(boxes: Dataset, tmp_path: Path) -> None:
    reals = boxes.manifest[boxes.manifest["label"] == "real"]
    folders = {name: tmp_path / name for name in ("photos", "fakes", "others")}
    for folder in folders.values():
        folder.mkdir()
    for row in reals.itertuples():
        (folders["photos"] / f"{row.sample_id}.png").write_bytes(boxes.path(row.image).read_bytes())
        fake = boxes.manifest.set_index("sample_id").loc[f"{row.sample_id}-blond_hair", "image"]
        (folders["fakes"] / f"{row.sample_id}.png").write_bytes(boxes.path(fake).read_bytes())
        pixels = 255 - read_image(boxes.path(row.image))
        Image.fromarray(pixels).save(folders["others"] / f"{row.sample_id}.png")
    into = tmp_path / "mine"
    told = ("--generator", "stgan", "--attribute", "blond_hair", "--database", "first", "--fractions", "0.5,0.2,0.3")
    flbench("data", "import", "pairs", "--real", folders["photos"], "--fake", folders["fakes"], *told, "--into", into)
    run = ("run", "-m", "zeros", "-p", "false_alarms", "--data", into, "--study", tmp_path / "s", "--json")
    assert "flbench data import photos" in flbench(*run, code=2).stderr
    more = ("--database", "second", "--fractions", "0,0,1", "--into", into)
    flbench("data", "import", "photos", "--real", folders["others"], *more)
    records = {record["method"]["name"]: record for record in json.loads(flbench(*run).stdout)}
    (result,) = records["ones"]["results"]
    assert (result["fakes"], result["reals"]) == (0, len(reals))
    assert result["metrics"]["false_alarm"]["value"] == 1.0
    assert records["zeros"]["results"][0]["metrics"]["tnr"]["value"] == 1.0
