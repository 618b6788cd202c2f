from __future__ import annotations

import io
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import make_protocol, make_record, make_scores, write_cell
from PIL import Image

from flbench.errors import DataError
from flbench.record import Convention, Record, read_record
from flbench.reporting import plots
from flbench.reporting.drawing import MARK, marked
from flbench.reporting.publish import publish, render, stale

PROTOCOL = make_protocol()
KNOWN = {"sample": PROTOCOL}


def picture() -> bytes:
    """Return a PNG of smooth colours with a little noise, as photographs have."""
    y, x = np.mgrid[0:96, 0:96] / 96
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    pixels = (255 * np.stack([x, y, (x + y) / 2], axis=2) + noise).clip(0, 255).astype(np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


PICTURE = picture()


@pytest.fixture(autouse=True)
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are marked and not drawn: test_plots.py draws them."""

    def save(draw: object, files: list[Path], mark: str) -> None:
        for file in files:
            file.write_text(f"{MARK} {mark}", encoding="utf-8")

    monkeypatch.setattr(plots, "save", save)


def make_cell(
    folder: Path, method: str = "alpha", level: float = 0.7, *, panel: bytes = b"", cases: bytes = b"", **told: object
) -> tuple[Record, Path]:
    scores = make_scores(level, people=6, seed=len(method))
    record = make_record(method, scores, **told)
    return record, write_cell(folder / record.cell, record, scores, panel=panel, cases=cases)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_records_scores_and_boards_are_written(tmp_path: Path) -> None:
    record, folder = make_cell(tmp_path / "study", cell="one")
    into = tmp_path / "boards"
    written = publish([(record, folder)], KNOWN, into)
    cell = into / "faces/sample-v1/one"
    assert (cell / "images.parquet").read_bytes() == (folder / "images.parquet").read_bytes()
    assert read_record(cell / "run.json") == record
    assert written == sorted(path for path in into.rglob("*") if path.is_file())
    assert "alpha" in (into / "faces/sample.md").read_text(encoding="utf-8")
    assert "faces/sample.md" in (into / "README.md").read_text(encoding="utf-8")


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path / "study", name) for name in ("a", "bb", "ccc")]
    publish(cells, KNOWN, tmp_path / "boards")
    before = contents(tmp_path / "boards")
    random.Random(0).shuffle(cells)
    assert publish(cells, KNOWN, tmp_path / "boards") == []
    assert contents(tmp_path / "boards") == before
    publish(cells[:1], KNOWN, tmp_path / "other")
    publish(cells[1:], KNOWN, tmp_path / "other")
    assert contents(tmp_path / "other") == before


def test_a_clone_renders_the_same_bytes(tmp_path: Path) -> None:
    publish([make_cell(tmp_path / "study", name) for name in ("a", "bb")], KNOWN, tmp_path / "boards")
    clone = shutil.copytree(tmp_path / "boards", tmp_path / "clone")
    shutil.rmtree(tmp_path / "study")
    for protocols in (KNOWN, {}, {"sample": make_protocol(version=2, primary="psnr")}):
        texts = render(clone, protocols)
        assert {path: (clone / path).read_bytes() for path in texts} == {path: t.encode() for path, t in texts.items()}
        assert stale(clone, protocols) == []


def test_stale_boards_are_found(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    publish([make_cell(tmp_path / "study")], KNOWN, into)
    board, left = into / "faces/sample.md", into / "faces/gone.md"
    left.write_bytes(board.read_bytes())
    board.write_text("edited", encoding="utf-8")
    assert stale(into, KNOWN) == [left, board]
    publish([], KNOWN, into)
    assert stale(into, KNOWN) == []
    assert not left.exists()


def test_what_someone_wrote_beside_the_boards_stays(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    notes = into / "faces/notes.md"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine", encoding="utf-8")
    publish([make_cell(tmp_path / "study")], KNOWN, into)
    assert notes.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_newer_record_of_the_same_cell_replaces_the_older(tmp_path: Path, first: str) -> None:
    cells = {
        "old": make_cell(tmp_path / "a", level=0.3, cell="one", finished="2026-01-01T00:00:00+00:00"),
        "new": make_cell(tmp_path / "b", level=0.9, cell="one", finished="2026-01-02T00:00:00+00:00"),
    }
    for name in (first, *({"old", "new"} - {first})):
        publish([cells[name]], KNOWN, tmp_path / "boards")
    assert read_record(tmp_path / "boards/faces/sample-v1/one/run.json") == cells["new"][0]
    publish([cells["new"], cells["old"]], KNOWN, tmp_path / "once")
    assert contents(tmp_path / "once") == contents(tmp_path / "boards")


def test_panels_are_shown_only_where_the_data_may_be(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    target = into / "faces/sample-v1/one/panel.webp"
    publish([make_cell(tmp_path / "a", panel=PICTURE, cell="one", publishable=True)], KNOWN, into)
    assert target.exists()
    assert "panel.webp" in (into / "faces/sample.md").read_text(encoding="utf-8")
    later = "2026-05-01T00:00:00+00:00"
    publish([make_cell(tmp_path / "b", panel=PICTURE, cell="one", finished=later)], KNOWN, into)
    assert not target.exists()
    assert "panel.webp" not in (into / "faces/sample.md").read_text(encoding="utf-8")


def test_best_and_worst_cases_go_with_the_panel(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    publish([make_cell(tmp_path / "a", panel=PICTURE, cases=PICTURE, cell="one", publishable=True)], KNOWN, into)
    assert (into / "faces/sample-v1/one/cases.webp").exists()
    assert "/one/cases.webp)" in (into / "faces/sample.md").read_text(encoding="utf-8")
    publish([make_cell(tmp_path / "b", panel=PICTURE, cases=PICTURE, cell="two")], KNOWN, into)
    assert not (into / "faces/sample-v1/two/cases.webp").exists()


def test_a_published_panel_is_lighter_and_looks_the_same(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    cell = make_cell(tmp_path / "a", panel=PICTURE, cell="one", publishable=True)
    written = publish([cell], KNOWN, into)
    panel = into / "faces/sample-v1/one/panel.webp"
    assert panel in written
    assert panel.stat().st_size < len(PICTURE) / 2
    with Image.open(panel) as shown, Image.open(io.BytesIO(PICTURE)) as drawn:
        assert np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(drawn, int)).mean() < 6
    assert publish([cell], KNOWN, into) == []


def test_a_damaged_panel_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"picture .*panel\.png cannot be read"):
        publish([make_cell(tmp_path / "a", panel=b"png", cell="one", publishable=True)], KNOWN, tmp_path / "boards")


def test_figures_stand_beside_their_board(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    publish([make_cell(tmp_path / "study", name) for name in ("a", "bb")], KNOWN, into)
    figures = sorted(path.name for path in into.glob("faces/*.*g"))
    assert figures == [f"sample-{name}.{kind}" for name in ("methods", "scores") for kind in ("png", "svg")]
    text = (into / "faces/sample.md").read_text(encoding="utf-8")
    assert "](sample-methods.svg)" in text
    assert "[PNG](sample-methods.png)" in text


def test_figures_are_judged_by_their_mark(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    publish([make_cell(tmp_path / "study", name) for name in ("a", "bb")], KNOWN, into)
    kept, other, gone = (into / f"faces/sample-methods.{kind}" for kind in ("svg", "png", "svg"))
    kept.write_bytes(kept.read_bytes() + b"other bytes of the same records")
    assert stale(into, KNOWN) == []
    assert publish([], KNOWN, into) == []
    other.write_text(f"{MARK} of other records", encoding="utf-8")
    assert stale(into, KNOWN) == [other]
    gone.unlink()
    assert stale(into, KNOWN) == [other, gone]
    assert publish([], KNOWN, into) == [other, gone]
    assert stale(into, KNOWN) == []


def test_left_over_figures_go_and_those_of_others_stay(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    publish([make_cell(tmp_path / "study", name) for name in ("a", "bb")], KNOWN, into)
    left, mine = into / "faces/gone-scores.svg", into / "faces/mine.png"
    left.write_text(f"{MARK} x", encoding="utf-8")
    mine.write_bytes(b"\x89PNG of someone")
    assert stale(into, KNOWN) == [left]
    publish([], KNOWN, into)
    assert (left.exists(), mine.exists()) == (False, True)
    publish([make_cell(tmp_path / "later", name, finished="2027-01-01") for name in ("a", "bb")], KNOWN, into)
    assert all(marked(path) for path in into.glob("faces/sample-*.svg"))


def test_conventions_are_a_page_beside_the_board(tmp_path: Path) -> None:
    into = tmp_path / "boards"
    page = into / "faces/sample-conventions.md"
    number = {"f1/image/fakes/0.5/as-is/0.1": Convention(value=0.5, n=6, undefined=0)}
    publish([make_cell(tmp_path / "a", conventions=number, cell="one")], KNOWN, into)
    assert "[the board](sample.md)" in page.read_text(encoding="utf-8")
    assert "(sample-conventions.md)" in (into / "faces/sample.md").read_text(encoding="utf-8")
    assert stale(into, KNOWN) == []
    publish([make_cell(tmp_path / "b", cell="one", finished="2026-05-01T00:00:00+00:00")], KNOWN, into)
    assert not page.exists()


def test_versions_and_departures_have_files_of_their_own(tmp_path: Path) -> None:
    second = make_protocol(version=2)
    cells = [
        make_cell(tmp_path, cell="a"),
        make_cell(tmp_path, cell="b", protocol=second),
        make_cell(tmp_path, cell="c", protocol=second, mapping={"stgan/hair": "stargan/hair"}),
        make_cell(tmp_path, cell="d", protocol=second, region="difference"),
        make_cell(tmp_path, cell="e", protocol=second, dataset_version="2"),
        make_cell(tmp_path, cell="f", protocol=second, dataset_version="2", added=["jpeg-50", "lowres-2+jpeg-50"]),
    ]
    into = tmp_path / "boards"
    publish(cells[:1], KNOWN, into)
    publish(cells, {"sample": second}, into)
    names = {path.relative_to(into).as_posix() for path in into.glob("*/*.md")}
    assert names == {
        "faces/sample.md",
        "faces/sample-v1-data-v1.md",
        "faces/sample-data-v1-stgan.hair=stargan.hair.md",
        "faces/sample-data-v1-difference.md",
        "faces/sample-data-v1.md",
        "faces/sample-with-jpeg-50-lowres-2+jpeg-50.md",
    }
    old = (into / "faces/sample-v1-data-v1.md").read_text(encoding="utf-8")
    assert "| 1 | alpha |" in old, "an old version is ranked by the protocol stored beside its records"


def test_boards_never_share_a_file(tmp_path: Path) -> None:
    edited = make_protocol(primary="psnr")  # same version, other content
    into = tmp_path / "boards"
    publish([make_cell(tmp_path, cell="a"), make_cell(tmp_path, "beta", cell="b", protocol=edited)], KNOWN, into)
    assert len(list(into.glob("faces/sample-*.md"))) == 2


@pytest.mark.parametrize("cell", ["../x", "a/b", ".hidden", "a\\b", "a\nb"])
def test_a_cell_cannot_leave_its_folder(tmp_path: Path, cell: str) -> None:
    scores = make_scores(0.5, people=4)
    record = make_record("m", scores, cell=cell)
    folder = write_cell(tmp_path / "study/x", record, scores)
    with pytest.raises(DataError, match="cannot be the name of a folder"):
        publish([(record, folder)], KNOWN, tmp_path / "boards")
    assert not (tmp_path / "boards").exists()


def test_a_data_set_cannot_leave_the_leaderboards(tmp_path: Path) -> None:
    publish([make_cell(tmp_path / "study", dataset="../../x y")], KNOWN, tmp_path / "boards")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["boards", "study"]
    (home,) = [path.name for path in (tmp_path / "boards").iterdir() if path.is_dir()]
    assert home.startswith("x-y-")


def test_missing_and_damaged_scores_are_told(tmp_path: Path) -> None:
    record, folder = make_cell(tmp_path / "study", cell="one")
    into = tmp_path / "boards"
    publish([(record, folder)], KNOWN, into)
    (into / "faces/sample-v1/one/images.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"images\.parquet"):
        render(into, KNOWN)
    scores = pd.read_parquet(folder / "images.parquet")
    scores.drop(columns=record.protocol.primary).to_parquet(into / "faces/sample-v1/one/images.parquet")
    with pytest.raises(DataError, match=f"have no column {record.protocol.primary}"):
        render(into, KNOWN)
    (folder / "images.parquet").unlink()
    with pytest.raises(DataError, match=r"no images\.parquet"):
        publish([(record, folder)], KNOWN, tmp_path / "other")


def test_an_empty_folder_has_an_empty_index(tmp_path: Path) -> None:
    assert publish([], KNOWN, tmp_path / "boards") == [tmp_path / "boards/README.md"]
    assert "No record is published yet." in render(tmp_path / "boards", KNOWN)["README.md"]


def test_the_committed_boards_are_what_their_records_give() -> None:
    from flbench.registry import find_protocol
    from flbench.registry import protocols as shipped

    home = Path(__file__).parent.parent / "leaderboards"
    assert list(home.glob("*/*/*/run.json"))
    assert stale(home, {name: find_protocol(name) for name in shipped()}) == []
