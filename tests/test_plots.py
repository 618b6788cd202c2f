from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from factories import make_protocol, make_record, make_scores
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from sklearn.calibration import calibration_curve

from flbench.protocol import Protocol
from flbench.reporting.board import boards
from flbench.reporting.conditions import families, kinds, phrase, telling
from flbench.reporting.curves import draw_gamma, points
from flbench.reporting.dots import draw_dots
from flbench.reporting.drawing import LOOKS, marked, save, settings
from flbench.reporting.heat import blocks, draw_heat
from flbench.reporting.model import FEW, Board, Entry
from flbench.reporting.plots import board_plots, draw_board_figures
from flbench.reporting.reliability import draw_reliability, of_row, reliability

CONDITIONS = ("clean", "jpeg-50", "jpeg-90", "jpeg-10", "blur-3", "blur-9", "disorganized", "lowres-2+jpeg-50")
PLAIN = make_protocol(conditions=CONDITIONS)


def make_board(protocol: Protocol = PLAIN, levels: Mapping[str, float] | None = None, *, people: int = 8) -> Board:
    entries = []
    for number, (method, level) in enumerate((levels or {"good": 0.8, "bad": 0.5, "oracle": 0.95}).items()):
        tests = [test.name for test in protocol.test]
        scores = make_scores(level, tests=tests, conditions=protocol.conditions, people=people, seed=number)
        record = make_record(method, scores, protocol=protocol, reference=method == "oracle")
        entries.append(Entry(record=record, scores=scores))
    (board,) = boards(entries, {protocol.name: protocol})
    return board


def make_matrix(fits: Sequence[str], tests: Mapping[str, Sequence[str]], primary: str = "coss") -> Protocol:
    """A protocol that tests each fit on several categories; a fit is called after its category."""
    document = make_protocol(primary=primary).model_dump(mode="json")
    document["fit"] = [{"name": fit, "categories": [fit]} for fit in fits]
    document["test"] = [
        {"name": f"{fit} to {category}", "fit": fit, "categories": [category]}
        for fit in fits
        for category in tests[fit]
    ]
    return Protocol.model_validate(document)


SQUARE = make_matrix(
    ["stgan/hair", "icgan/hair"], {fit: ["icgan/hair", "stgan/hair"] for fit in ("stgan/hair", "icgan/hair")}
)


def drawn(draw: Callable[[], Figure]) -> Figure:
    with settings():
        figure = draw()
        figure.canvas.draw()
        return figure


# What stands where


def test_conditions_come_by_kind_mildest_first() -> None:
    found = families(CONDITIONS)
    assert [(family.kind, family.names) for family in found] == [
        ("jpeg", ("jpeg-90", "jpeg-50", "jpeg-10")),
        ("blur", ("blur-3", "blur-9")),
        ("disorganized", ("disorganized",)),
        ("other", ("lowres-2+jpeg-50",)),
    ]
    assert (found[0].values, found[0].falling, found[0].identity) == ((90.0, 50.0, 10.0), True, None)
    assert (found[1].values, found[1].falling, found[1].identity) == ((3.0, 9.0), False, 1)
    assert telling(CONDITIONS) == ["clean", "jpeg-10", "blur-9", "disorganized", "lowres-2+jpeg-50"]
    assert kinds(CONDITIONS) == ["jpeg", "blur", "lowres", "disorganized"]


def test_a_condition_of_another_version_is_told_by_its_name() -> None:
    assert families(["clean", "fog-3"])[0][:4] == ("other", "Steps in a row", "", ("fog-3",))
    assert [phrase(name) for name in ("fog-3", "clean", "noise-0.01", "lowres-2+jpeg-50")] == [
        "fog-3",
        "clean",
        "Gaussian noise, variance on [0, 1] 0.01",
        "Low resolution 2, then JPEG 50",
    ]


def test_curves_are_the_gammas_of_the_records() -> None:
    board = make_board()
    (row, *_) = board.placed("ranked")
    result = {r.condition: r for r in row.record.results}
    jpeg, blur, other, _ = families(board.conditions)
    for family, names, start in ((jpeg, jpeg.names, 0), (blur, blur.names, 1), (other, other.names, 0)):
        found = points(row, ["hair"], "psnr", family)
        assert [p.value for p in found[start:]] == [result[name].gamma["psnr"].value for name in names]
        assert [p.low for p in found[start:]] == [result[name].gamma["psnr"].low for name in names]
    assert points(row, ["hair"], "psnr", blur)[0] == (1, 100, 100, 100), "a blur of one pixel changes nothing"
    assert points(row, ["none"], "psnr", blur) == [], "no curve of what was not measured"


def test_gamma_is_drawn_against_native_severities_with_harsher_at_the_right() -> None:
    figure = drawn(lambda: draw_gamma(make_board(), ["hair"], "title"))
    panes = [axes for axes in figure.axes if axes.get_xlabel() == "quality"]
    assert len(panes) == 6, "one for each metric"
    left, right = panes[0].get_xlim()
    assert left > 90 > 10 > right
    assert [text.get_text() for text in panes[0].get_xticklabels()] == ["90", "50", "10"]
    assert [pane.get_ylabel() for pane in panes[:2]] == ["γ of COSS, %", "γ of PSNR, %"]
    lines = [line for line in panes[0].get_lines() if len(line.get_xdata()) == 3]
    board = make_board()
    for line, row in zip(lines, board.placed("ranked"), strict=True):
        assert list(line.get_xdata()) == [90, 50, 10]
        expected = [row.gamma("hair", "coss", f"jpeg-{quality}").value for quality in (90, 50, 10)]
        assert list(line.get_ydata()) == expected
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["good", "bad"]


def test_methods_differ_in_marker_and_line_as_well_as_in_colour() -> None:
    for part in zip(*LOOKS, strict=True):
        assert len({str(value) for value in part}) == len(LOOKS)


def test_a_matrix_holds_every_test_slice_once() -> None:
    board = make_board(SQUARE)
    (block,) = blocks(board)
    assert (block.title, block.fits, block.tests) == ("hair", ("stgan", "icgan"), ("stgan", "icgan"))
    assert {test.name for test in board.tests} == set(block.cells.values())
    assert block.own == {(0, 0), (1, 1)}, "what was fitted on and tested on is on the diagonal"


def test_a_matrix_falls_into_blocks_that_share_nothing() -> None:
    groups = {attribute: [f"{g}/{attribute}" for g in ("stgan", "icgan")] for attribute in ("hair", "smile")}
    fits = [fit for group in groups.values() for fit in group]
    board = make_board(make_matrix(fits, {fit: groups[fit.split("/")[1]] for fit in fits}), {"m": 0.5}, people=4)
    assert [(block.title, len(block.cells)) for block in blocks(board)] == [("hair", 4), ("smile", 4)]
    lone = make_matrix(["stgan/hair", "icgan/smile"], {"stgan/hair": ["a/x", "b/x"], "icgan/smile": ["a/y", "b/y"]})
    (block,) = blocks(make_board(lone, {"m": 0.5}, people=4))
    assert (len(block.fits), len(block.tests), len(block.cells)) == (2, 4, 4), "rows of one are one matrix"


def test_a_protocol_without_a_choice_of_fits_has_no_matrix() -> None:
    assert blocks(make_board()) == []
    diagonal = make_matrix(["a/x", "b/x"], {"a/x": ["a/x"], "b/x": ["b/x"]})
    assert blocks(make_board(diagonal, {"m": 0.5}, people=4)) == []


@pytest.mark.parametrize("primary", ["coss", "mae", "psnr"])
def test_a_matrix_prints_its_values_and_is_lighter_where_they_are_better(primary: str) -> None:
    protocol = make_matrix(
        SQUARE.fit[0].categories + SQUARE.fit[1].categories,
        dict.fromkeys(("stgan/hair", "icgan/hair"), ("stgan/hair", "icgan/hair")),
        primary,
    )
    board = make_board(protocol)
    row = board.placed("ranked")[0]
    axes = drawn(lambda: draw_heat(board, row, "title")).axes[0]
    values = {t.name: row.number(t.name, primary).value for t in board.tests}
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        f"{v:.{2 if primary == 'psnr' else 3}f}" for v in values.values()
    )
    filled = [patch for patch in axes.patches if patch.get_fill()]
    lightness = [np.dot(patch.get_facecolor()[:3], (0.299, 0.587, 0.114)) for patch in filled]
    numbers = [values[name] for name in blocks(board)[0].cells.values()]
    assert np.argmax(lightness) == (np.argmin(numbers) if primary == "mae" else np.argmax(numbers))


def test_dots_stand_at_the_numbers_of_the_board() -> None:
    board = make_board()
    figure = drawn(lambda: draw_dots(board, "title"))
    panes = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panes) == ["COSS ↑", "PSNR ↑", "SSIM ↑", "MAE ↓", "ACC ↑", "AUROC ↑"]
    rows = [*board.placed("ranked"), *board.placed("reference")]
    for title, metric in (("COSS ↑", "coss"), ("ACC ↑", "acc")):
        marks = [line for line in panes[title].get_lines() if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in marks] == [row.number("hair", metric).value for row in rows]
        bars = [
            line for line in panes[title].get_lines() if line.get_marker() == "None" and len(set(line.get_ydata())) == 1
        ][: 2 * len(rows)]
        spans = {tuple(line.get_xdata()) for line in bars}
        assert {(row.number("hair", metric).low, row.number("hair", metric).high) for row in rows} <= spans


def test_a_reference_far_beyond_is_written_at_the_border() -> None:
    board = make_board(levels={"good": 0.3, "bad": 0.2, "oracle": 0.95})
    figure = drawn(lambda: draw_dots(board, "title"))
    pane = next(axes for axes in figure.axes if axes.get_title() == "PSNR ↑")
    value = board.placed("reference")[0].number("hair", "psnr").value
    assert pane.get_xlim()[1] < value
    assert [text.get_text() for text in pane.texts] == [f"{value:.2f} →"]


def test_of_many_slices_means_and_ranges_are_drawn() -> None:
    protocol = make_protocol(tests=[f"t{i}" for i in range(FEW + 2)], reference="t0")
    board = make_board(protocol, people=4)
    row = board.placed("ranked")[0]
    pane = drawn(lambda: draw_dots(board, "title")).axes[0]
    values = [row.number(test, "coss").value for test in board.ranking]
    assert pane.get_lines()[1].get_xdata()[0] == pytest.approx(row.primary.value)
    assert list(pane.get_lines()[0].get_xdata()) == [min(values), max(values)]


# Reliability


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60))
def test_every_image_is_in_one_bin(images: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in images], np.float64)
    fake = np.array([label for _, label in images])
    found = reliability(scores, fake)
    expected = 0.0
    for k in range(10):
        inside = (scores >= k / 10) & ((scores < (k + 1) / 10) | (k == 9))
        assert (found.fakes[k], found.counts[k]) == ((inside & fake).sum(), inside.sum())
        if inside.any():
            expected += inside.sum() / len(scores) * abs(fake[inside].mean() - scores[inside].mean())
    assert found.error == pytest.approx(expected, abs=1e-12)
    assert 0 <= found.error <= 1


def test_reliability_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(200)
    fake = rng.random(200) < scores**2
    found = reliability(scores, fake)
    shares, means = calibration_curve(fake, scores, n_bins=10)
    assert np.allclose(found.shares, shares)
    assert np.allclose(found.scores, means)


def test_a_calibrated_score_has_no_error() -> None:
    fake = np.array([True, False, False, False, True, True, True, False])
    assert reliability(np.repeat([0.25, 0.75], 4), fake).error == 0
    assert reliability(np.array([1.0, 0.0]), np.array([True, False])).error == 0
    assert reliability(np.array([0.0, 1.0]), np.array([True, False])).error == 1


def test_failed_and_degraded_images_have_no_reliability() -> None:
    scores = make_scores(0.7, conditions=("clean", "jpeg-50"), people=10, failed=3)
    (board,) = boards(
        [Entry(record=make_record("m", scores, protocol=PLAIN, flags=["x"]), scores=scores)], {"sample": PLAIN}
    )
    assert of_row(board.rows[0]).counts.sum() == 17
    assert of_row(make_board(levels={"m": 0.5}).rows[0]).counts.sum() == 16


def test_counts_and_error_are_printed() -> None:
    board = make_board()
    figure = drawn(lambda: draw_reliability(board, "title"))
    known = of_row(board.placed("ranked")[0])
    assert figure.axes[0].get_title() == f"good\nECE {known.error:.3f}, {known.counts.sum()} images"
    lower = next(axes for axes in figure.axes if axes.get_ylabel() == "images")
    assert [text.get_text() for text in lower.texts] == [str(count) for count in known.counts if count]


# Files


def test_a_board_has_the_figures_that_say_something() -> None:
    assert [plot.name for plot in board_plots(make_board())] == ["methods", "gamma", "scores"]
    assert [plot.name for plot in board_plots(make_board(make_protocol(), {"m": 0.5}))] == ["scores"]
    names = [plot.name for plot in board_plots(make_board(SQUARE))]
    assert names == ["methods", "matrix-good", "matrix-bad", "scores"]
    two = make_protocol(tests=("hair", "a smile"), conditions=("clean", "blur-3"))
    first, second = [plot.name for plot in board_plots(make_board(two, {"m": 0.5}, people=4))][:2]
    assert first == "gamma-hair"
    assert second.startswith("gamma-a-smile-")


def test_nobody_on_the_board_is_no_figure() -> None:
    record = make_record("m", protocol=PLAIN, status="failed", reason="boom")
    (board,) = boards([Entry(record=record)], {"sample": PLAIN})
    assert board_plots(board) == []


def test_the_same_records_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make_board(make_protocol(conditions=CONDITIONS, metrics=("coss",)), people=4)
    first = draw_board_figures(board, tmp_path / "a")
    monkeypatch.setitem(mpl.rcParams, "font.size", 30.0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    second = draw_board_figures(board, tmp_path / "b")
    assert [path.name for path in first] == [
        f"sample-{name}{suffix}" for name in ("methods", "gamma", "scores") for suffix in (".svg", ".png")
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert mpl.rcParams["font.size"] == 30.0, "the user's settings are left as they were"
    for path in first[1::2]:
        grey = np.asarray(Image.open(path).convert("L"))
        assert grey.min() < 100 < 250 < grey.max()


def test_a_figure_does_not_depend_on_the_files_written_before_it(tmp_path: Path) -> None:
    (plot, *_) = board_plots(make_board(make_protocol(), {"m": 0.5}, people=4))
    alone, both = ([tmp_path / f"{name}{suffix}" for suffix in (".svg", ".png")] for name in ("alone", "both"))
    for file in alone:
        save(plot.draw, [file])
    save(plot.draw, both)
    assert [file.read_bytes() for file in both] == [file.read_bytes() for file in alone]


def test_only_what_shows_other_records_is_drawn_again(tmp_path: Path) -> None:
    protocol = make_protocol()
    board = make_board(protocol, {"m": 0.5}, people=4)
    files = draw_board_figures(board, tmp_path, "x")
    assert draw_board_figures(board, tmp_path, "x") == []
    (plot,) = board_plots(board)
    assert all(marked(path, plot.mark) for path in files)
    files[1].unlink()
    assert draw_board_figures(board, tmp_path, "x") == files
    assert draw_board_figures(make_board(protocol, {"m": 0.6}, people=4), tmp_path, "x") == files


def test_names_are_never_formulas_or_folders(tmp_path: Path) -> None:
    evil = "../a$\\frac{b_^{ 漢 <b>"
    board = make_board(SQUARE, {evil: 0.5}, people=4)
    files = draw_board_figures(board, tmp_path / "out", "x")
    assert len(files) == 4
    assert {path.parent for path in files} == {tmp_path / "out"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
