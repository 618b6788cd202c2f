"""Ratios of benchmarks, their limits, and the comparison that fails when one gets worse; on times made up by hand."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import performance  # noqa: E402


def one(name: str, seconds: float, group: str = "ssim", *, timer: str = "process_time", **told: object) -> dict:  # type: ignore[type-arg]
    param = name.partition("[")[2].rstrip("]") or None
    stats, options = {"median": seconds}, {"timer": timer}
    return {"group": group, "name": name, "param": param, "extra_info": told, "options": options, "stats": stats}


def raw(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    cpu = {"brand_raw": "A processor", "count": 2, "flags": ["x"]}
    machine = {"node": "a-host", "system": "Linux", "python_version": "3.11.7", "cpu": cpu, "release": "6.1"}
    return {"machine_info": machine | {"versions": {"numpy": "2.4"}}, "benchmarks": [*benchmarks]}


def summary(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    return performance.summary(raw(*benchmarks))


def rows(*benchmarks: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in summary(*benchmarks)["rows"]}


PAIR = one("test_ssim", 0.2), one("test_by_loop", 0.8, reference="scikit-image")


def test_a_ratio_is_the_median_by_that_of_the_reference() -> None:
    found = rows(*PAIR, one("test_faster", 0.1))
    assert {name: row["ratio"] for name, row in found.items()} == {
        "test_ssim": 0.25,
        "test_by_loop": 1.0,
        "test_faster": 0.125,
    }
    assert found["test_ssim"]["ms"] == 200
    assert [found[name]["what"] for name in ("test_by_loop", "test_faster")] == ["scikit-image", "faster"]


def test_each_parameter_has_its_own_reference() -> None:
    found = rows(
        one("test_ssim[128]", 0.4),
        one("test_ssim[64]", 0.1),
        one("test_loop[64]", 0.2, reference="loop"),
        one("test_loop[128]", 0.5, reference="loop"),
    )
    assert list(found) == ["test_ssim[64]", "test_loop[64]", "test_ssim[128]", "test_loop[128]"]
    assert [row["ratio"] for row in found.values()] == [0.5, 1.0, 0.8, 1.0]
    assert found["test_loop[64]"]["what"] == "loop [64]"


def test_a_reference_without_a_parameter_is_that_of_all() -> None:
    found = rows(one("test_run[torch]", 0.9), one("test_run[onnx]", 0.6), one("test_forward", 1.2, reference="forward"))
    assert [found[f"test_run[{name}]"]["ratio"] for name in ("torch", "onnx")] == [0.75, 0.5]


def test_times_are_per_image_where_a_round_does_several() -> None:
    found = rows(one("test_ssim", 0.2, images=100), one("test_loop", 0.1, reference="loop", images=10))
    assert [row["ms"] for row in found.values()] == [2, 10]
    assert found["test_ssim"]["ratio"] == 0.2
    with pytest.raises(ValueError, match="must both say how many images"):
        summary(one("test_ssim", 0.2, images=100), PAIR[1])


def test_a_group_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'ssim' has no reference for test_ssim: set benchmark.extra_info"):
        summary(PAIR[0])
    with pytest.raises(ValueError, match="no reference for test_ssim"):
        summary(one("test_ssim", 0.2, limit=0.5, limit_ms=300))
    with pytest.raises(ValueError, match=r"no reference for test_ssim\[128\]"):
        summary(one("test_ssim[128]", 0.2), one("test_loop[64]", 0.2, reference="loop"))
    assert rows(one("test_start", 0.2, "start", limit_ms=300))["test_start"]["ratio"] is None


def test_two_references_and_no_group_are_refused() -> None:
    with pytest.raises(ValueError, match="two references: test_by_loop and test_other"):
        summary(*PAIR, one("test_other", 0.3, reference="other"))
    with pytest.raises(ValueError, match="test_ssim is in no group"):
        summary(one("test_ssim", 0.2, ""))


def test_limits_are_of_ratios_and_of_milliseconds() -> None:
    def held(**limits: float) -> bool | None:
        return performance.holds(rows(one("test_ssim", 0.2, **limits), PAIR[1])["test_ssim"])

    assert held() is None
    assert held(limit=0.25) is held(limit_ms=200) is held(limit=0.3, limit_ms=300) is True
    assert held(limit=0.24) is held(limit_ms=199) is held(limit=0.3, limit_ms=100) is False


def test_the_table_says_what_holds_on_what_and_not_where() -> None:
    start = one("test_start", 0.31, "start", timer="perf_counter", limit_ms=300)
    text = performance.table(summary(one("test_ssim", 0.2, limit=0.3, images=10), PAIR[1] | reference(10), start))
    assert "| ssim | ssim | CPU | 20 per image | 0.25 | ≤ 0.3 | yes |" in text
    assert "|  | scikit-image | CPU | 80 per image | 1 (reference) |  |  |" in text
    assert "| start | start | wall | 310 |  | ≤ 300 ms | **no** |" in text
    assert "Measured on A processor, 2 cores, Linux; python 3.11.7, numpy 2.4." in text
    assert "a-host" not in json.dumps(summary(*PAIR))


def reference(images: int) -> dict[str, Any]:
    return {"extra_info": {"reference": "scikit-image", "images": images}}


def slower(document: dict[str, Any], factor: float) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for row in changed["rows"]:
        if not row["reference"]:
            row["ratio"] *= factor
    return changed


@pytest.mark.parametrize(
    ("factor", "worse", "better"), [(1.0, 0, 0), (1.14, 0, 0), (1.16, 1, 0), (0.9, 0, 0), (0.5, 0, 1)]
)
def test_a_ratio_may_get_worse_by_fifteen_percent(factor: float, worse: int, better: int) -> None:
    before = summary(*PAIR)
    moved = performance.compare(before, slower(before, factor))
    assert (len(moved.worse), len(moved.better), moved.others) == (worse, better, [])
    for sentence in (*moved.worse, *moved.better):
        assert re.fullmatch(r"ssim: test_ssim 0\.25 → \d\.\d+ \([+-]\d+ %\)", sentence)


def test_times_may_differ_where_ratios_do_not() -> None:
    before, now = (summary(one("test_ssim", 0.2 * f), one("test_by_loop", 0.8 * f, reference="loop")) for f in (1, 3))
    assert performance.compare(before, now) == ([], [], [], set())


def test_what_is_new_missing_or_measured_elsewhere_is_told() -> None:
    before, now = summary(*PAIR, one("test_old", 0.2)), summary(*PAIR, one("test_new", 0.2))
    now["machine"]["numpy"] = "3.0"
    assert performance.compare(before, now) == (
        [],
        [],
        [
            "ssim: test_new is new",
            "ssim: test_old is missing",
            "the committed ratios are of another machine or other versions: numpy",
        ],
        set(),
    )


def test_what_has_no_reference_is_held_against_its_limit() -> None:
    quick, slow = (summary(one("test_start", seconds, "start", limit_ms=300)) for seconds in (0.1, 0.31))
    assert performance.compare(slow, quick).worse == []
    assert performance.compare(quick, slow).worse == ["start: test_start takes 310 ms, and its limit is 300 ms"]


@pytest.mark.parametrize(("times", "worse", "runs"), [((0.3, 0.29, 0.2), 0, 2), ((0.3, 0.29, 0.31), 1, 2)])
def test_what_is_worse_by_chance_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, times: tuple[float, ...], worse: int, runs: int
) -> None:
    def measured(seconds: float) -> dict[str, Any]:
        named = [row | {"fullname": f"file.py::{row['name']}"} for row in (one("test_ssim", seconds), PAIR[1])]
        return raw(*named, one("test_start", 0.1, "start", limit_ms=300) | {"fullname": "file.py::test_start"})

    def measure(args: list[str], targets: list[str]) -> dict[str, Any]:
        asked.append(targets)
        return measured(times[len(asked)])

    asked: list[list[str]] = []
    monkeypatch.setattr(performance, "measure", measure)
    committed = performance.summary(measured(0.2))
    assert len(performance.compared(measured(times[0]), committed, again=True).worse) == worse
    assert asked == [["file.py::test_ssim", "file.py::test_by_loop"]] * runs
    assert len(performance.compared(measured(times[0]), committed, again=False).worse) == 1


def test_the_command_fails_and_names_what_got_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, committed, gpu = (tmp_path / name for name in ("raw.json", "performance.json", "gpu.json"))
    monkeypatch.setattr(performance, "COMMITTED", committed)
    monkeypatch.setattr(performance, "ON_GPU", gpu)
    gpu.write_text(json.dumps(summary(*PAIR, one("test_on_gpu", 0.4))), encoding="utf-8")
    monkeypatch.setattr(performance, "PAGE", tmp_path / "performance.md")

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(performance.main, ["--from", str(file), *words])
        return done.exit_code, done.output

    file.write_text(json.dumps(raw(*PAIR)), encoding="utf-8")
    assert run("--write")[0] == 0
    page = performance.PAGE.read_text("utf-8")
    for kept in (committed, gpu):
        assert performance.table(json.loads(kept.read_text(encoding="utf-8"))) in page
    assert run("--compare")[0] == 0
    file.write_text(json.dumps(raw(one("test_ssim", 0.3), PAIR[1])), encoding="utf-8")
    code, output = run("--compare")
    assert code == 1
    assert "worse: ssim: test_ssim 0.25 → 0.375 (+50 %)" in output
    file.write_text(json.dumps(raw(PAIR[0])), encoding="utf-8")
    code, output = run()
    assert code == 1
    assert "Error: group 'ssim' has no reference for test_ssim" in output
    assert run("--write", "-k", "ssim")[0] == 2


def test_benchmarks_of_a_gpu_are_files_of_their_own() -> None:
    assert performance.benchmarks(gpu=True) == ["tests/benchmarks/test_on_gpu.py"]
    assert "tests/benchmarks/test_on_gpu.py" not in performance.benchmarks(gpu=False)
    assert len(performance.benchmarks(gpu=False)) >= 6
