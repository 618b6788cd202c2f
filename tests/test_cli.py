import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import flbench
from click.testing import Result

from flbench.data.dataset import Dataset
from flbench.options import value_of
from flbench.study import PANEL, Study


@pytest.fixture(scope="module")
def study(boxes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("study")
    options = ["--set", "weights=none", "--set", "decoder_channels=[8,8,8,8,8]", "--max-steps", 2, "--threads", 1]
    words = ["run", "-m", "fakelocator", "-p", "in_gan,cross_attribute", "--data", boxes.folder, "--study", folder]
    return folder, flbench(*words, *options)


def test_run_shows_tables_with_the_reference_rows_and_draws_a_panel(study: tuple[Path, Result]) -> None:
    folder, done = study
    for name in ("fakelocator", "zeros", "ones", "meanmap", "oracle", "in_gan", "cross_attribute", "smile"):
        assert name in done.output
    records = Study(folder).records()
    assert len(records) == 10
    assert {record.status for record in records} == {"ok"}
    for record in records:
        panel = Study(folder).cell_folder(record.cell) / PANEL
        assert panel.exists() != record.method.reference
        if panel.exists():
            assert panel.read_bytes()[:4] == b"\x89PNG"


def test_the_second_run_does_nothing_and_prints_the_same_json(study: tuple[Path, Result], boxes: Dataset) -> None:
    folder, _ = study
    options = ["--set", "weights=none", "--set", "decoder_channels=[8,8,8,8,8]", "--max-steps", 2, "--json"]
    words = ["run", "-m", "fakelocator", "-p", "cross_attribute", "--data", boxes.folder, "--study", folder]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    records = json.loads(flbench(*words, *options).stdout)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert sorted(record["cell"] for record in records) == sorted(
        record.cell for record in Study(folder).records() if record.protocol.name == "cross_attribute"
    )


def test_fit_fits_and_tests_nothing(boxes: Dataset, tmp_path: Path) -> None:
    words = ["fit", "-m", "meanmap", "-p", "in_gan", "--data", boxes.folder, "--study", tmp_path, "--json"]
    (document,) = json.loads(flbench(*words).stdout)
    assert document["method"] == "meanmap"
    assert document["weights"]
    assert Study(tmp_path).records() == []
    assert "meanmap" in flbench(*words[:-1]).output


def test_publish_writes_boards_that_check_finds_right(study: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = study
    boards = tmp_path / "boards"
    done = flbench("publish", "--study", folder, "--into", boards)
    assert "in_gan" in done.output
    assert (boards / "README.md").read_text()
    text = (boards / "boxes" / "cross_attribute.md").read_text()
    assert "fakelocator" in text
    assert "Table 5" in text
    flbench("publish", "--study", folder, "--into", boards, "--check")
    before = {path: path.read_bytes() for path in boards.rglob("*.md")}
    flbench("publish", "--study", folder, "--into", boards)
    assert before == {path: path.read_bytes() for path in boards.rglob("*.md")}
    (boards / "boxes" / "cross_attribute.md").write_text(text + "by hand")
    assert "differ" in flbench("publish", "--study", folder, "--into", boards, "--check", code=1).output


def test_show_knows_methods_protocols_and_cells(study: tuple[Path, Result]) -> None:
    folder, _ = study
    cell = next(record.cell for record in Study(folder).records() if record.method.name == "oracle")
    assert "oracle" in flbench("show", cell, "--study", folder).output
    assert json.loads(flbench("show", cell, "--study", folder, "--json").stdout)["cell"] == cell
    assert json.loads(flbench("show", "in_gan", "--json").stdout)["version"] == 1
    assert json.loads(flbench("show", "zeros", "--json").stdout)["reference"] is True


def test_data_show_and_check(boxes: Dataset, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = flbench("data", "show", "--data", boxes.folder, "--sheet", sheet)
    assert "stgan/smile" in done.output
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    counts = json.loads(flbench("data", "show", "--data", boxes.folder, "--json").stdout)["counts"]
    assert counts["real"] == {"train": 12, "valid": 4, "test": 8}
    assert json.loads(flbench("data", "check", "--data", boxes.folder, "--json").stdout) == []


def test_import_check_and_run_from_folders(boxes: Dataset, tmp_path: Path) -> None:
    for kind, folder in (("real", tmp_path / "real"), ("fake", tmp_path / "fake")):
        folder.mkdir()
        rows = boxes.manifest[(boxes.manifest["label"] == kind) & boxes.manifest["attribute"].isin(["", "blond_hair"])]
        for row in rows.itertuples():
            (folder / f"{row.identity}.png").write_bytes((boxes.folder / row.image).read_bytes())
    into = tmp_path / "mine"
    words = ["--generator", "other", "--attribute", "blond_hair", "--database", "boxes", "--into", into]
    flbench("data", "import", "pairs", "--real", tmp_path / "real", "--fake", tmp_path / "fake", *words)
    flbench("data", "check", "--data", into)
    asked = ["run", "-m", "ones", "-p", "in_gan", "--data", into, "--study", tmp_path / "s", "--json"]
    assert "--map" in flbench(*asked, code=2).output
    records = json.loads(flbench(*asked, "--map", "stgan=other").stdout)
    assert all(record["protocol"]["mapping"] == {"stgan": "other"} for record in records)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "-m", "fakelocater", "-p", "in_gan"], 2, "did you mean fakelocator"),
        (["run", "-m", "zeros", "-p", "in_gam"], 2, "did you mean in_gan"),
        (["run", "-m", "zeros", "-p", "in_gan", "--data", "no/such/folder"], 2, "no data set"),
        (["run", "-m", "zeros", "-p", "in_gan", "--profile", "minii"], 2, "did you mean mini"),
        (["run", "-m", "zeros", "-p", "in_gan", "--set", "x"], 2, "KEY=VALUE"),
        (["run", "-m", "zeros", "-p", "in_gan", "--set", "x=1"], 2, "no option 'x'"),
        (["run", "-m", "zeros", "-p", "in_gan", "--seed", "one"], 2, "whole numbers"),
        (["show", "nothing_of_the_kind"], 2, "nothing is called"),
        (["publish", "--study", "no/such", "--into", "no/boards"], 2, "no record to publish"),
        (["data", "make", "synthfaces", "--profile", "huge"], 2, "no profile"),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_its_exit_code(words: list[str], code: int, said: str) -> None:
    done = flbench(*words, code=code)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_device_that_is_not_there_is_told_before_anything_runs(boxes: Dataset, tmp_path: Path) -> None:
    words = ["run", "-m", "zeros", "-p", "in_gan", "--data", boxes.folder, "--study", tmp_path, "--device", "cuda:99"]
    done = flbench(*words, code=2)
    assert "cuda:99" in done.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1e-3", 1e-3), ("true", True), ("None", None), ("[1, 2]", [1, 2]), ("resnet18", "resnet18"), ("", "")],
)
def test_values_are_json_where_they_are_json(text: str, value: object) -> None:
    assert value_of(text) == value


def test_help_imports_nothing_heavy_and_a_closed_pipe_is_quiet() -> None:
    code = "import sys; from flbench.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    pipe = f"{sys.executable} -P -m flbench list --json | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {pipe}"], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_a_method_that_cannot_be_fitted_fails_its_cells_with_the_reason(boxes: Dataset, tmp_path: Path) -> None:
    words = ["run", "-m", "fakelocator", "--set", "encoder=resnet18", "-p", "in_gan", "--data", boxes.folder]
    done = flbench(*words, "--study", tmp_path, code=3)
    assert "not fitted: weights imagenet of resnet18" in done.stderr
    assert "weights=none" in done.stderr
    records = {record.method.name: record for record in Study(tmp_path).records()}
    assert records.pop("fakelocator").status == "failed"
    assert {record.status for record in records.values()} == {"ok"}
