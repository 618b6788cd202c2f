"""The conformance checks: what is right passes, and each rule that is broken is found by its own check."""

from __future__ import annotations

import importlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import broken_locators
import numpy as np
import pytest
import torch
from broken_locators import BREAKS
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flbench import registry
from flbench.checks import CHECKS, Result, check_method
from flbench.cli import main
from flbench.errors import UsageError
from flbench.locator import Prediction
from flbench.looks import FLIPPED, differs
from flbench.trial import SHOWN, SIDE, MadeTraining, changed, make_images, untouched, world

REAL = [entry for entry in registry.methods().values() if not entry.broken and not entry.target]
LIGHT = {"frozen_vit": {"encoder": "vit_tiny_patch16_224", "input_size": 64}}  # its own takes ten seconds
SLOW = {check.name for check in CHECKS if check.slow}


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution that brings the broken locators, under the names of their classes."""
    site = tmp_path_factory.mktemp("site")
    info = site / "broken_locators-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-locators\nVersion: 1.0\n")
    kinds = [name for name, kind in vars(broken_locators).items() if hasattr(kind, "title")]
    lines = [f"{name} = broken_locators:{name}" for name in kinds]
    (info / "entry_points.txt").write_text("\n".join(["[flbench.methods]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parent}")
        registry.methods.cache_clear()
        yield
    importlib.invalidate_caches()
    registry.methods.cache_clear()


def quick(method: str) -> list[Result]:
    return check_method(method, fresh_process=False)


def failed(results: list[Result]) -> dict[str, str]:
    return {result.check: result.what for result in results if result.status == "failed"}


class TestWhatIsRight:
    @pytest.mark.parametrize("method", ["Good", "Good:steep", "Fitted", "Net"])
    def test_passes(self, method: str) -> None:
        results = quick(method)
        assert failed(results) == {}
        assert [result.check for result in results] == [check.name for check in CHECKS if not check.slow]
        assert sum(result.status == "ok" for result in results) >= 19

    @pytest.mark.parametrize("entry", REAL, ids=lambda entry: entry.name)
    def test_every_method_of_the_repository_passes(self, entry: registry.MethodEntry) -> None:
        given: dict[str, object] = dict(LIGHT.get(entry.name, {}))
        if "weights" in entry.options:  # some would have to be downloaded
            given["weights"] = "none"
        assert failed(check_method(registry.choose_method(entry.name, given), fresh_process=False)) == {}

    def test_what_is_not_asked_of_a_method_is_skipped_with_the_reason(self) -> None:
        skipped = {result.check: result.what for result in quick("Good") if result.status == "skipped"}
        assert skipped == {
            "fit": "nothing to fit",
            "files": "nothing to fit",
            "no training data": "nothing to fit",
            "score": "the protocol derives the score from the map",
        }

    def test_one_that_declines_everything_here_is_not_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
        found = {result.check: result for result in check_method("frozen_vit", fresh_process=False)}
        assert "declines every protocol here" in found["fit"].what
        assert found["prediction"].status == "skipped"
        assert "failed" not in {result.status for result in found.values()}

    def test_options_reach_the_method(self) -> None:
        found = failed(check_method(registry.choose_method("Good", {"power": -1.0}), fresh_process=False))
        assert set(found) == {"range", "finite"}, "1 / 0"

    def test_unknown_method(self) -> None:
        with pytest.raises(UsageError, match=r"unknown method 'Goot'.*did you mean Good"):
            quick("Goot")


class TestWhatIsBroken:
    @pytest.mark.parametrize("method", BREAKS)
    def test_is_found_by_its_check_alone(self, method: str) -> None:
        check, said = BREAKS[method]
        before = world()
        results = quick(method)
        assert changed(before, world()) == []
        found = failed(results)
        assert set(found) == {check}
        assert said in found[check]
        (mend,) = [result.mend for result in results if result.mend]
        assert mend == next(known.mend for known in CHECKS if known.name == check)

    def test_every_check_has_a_locator_that_breaks_it(self) -> None:
        assert {check for check, _ in BREAKS.values()} == {check.name for check in CHECKS} - SLOW

    def test_what_rests_on_a_failed_check_is_skipped_and_says_so(self) -> None:
        results = quick("KeepsChannel")
        place = [result.check for result in results].index("shape")
        assert {result.status for result in results[place + 1 :]} == {"skipped"}
        assert {result.what for result in results[place + 1 :]} == {"mend 'shape' first"}

    def test_a_fresh_process_tells_what_this_one_hides(self) -> None:
        results = check_method("HereOnly")
        assert failed(results) == {"fresh process": "a fresh process failed: RuntimeError: this is another process"}


def test_names_differ_and_texts_are_one_line() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert "\n" not in check.holds + check.mend
        assert len(check.mend) > 20
        assert not check.mend.endswith(".")


class TestCommand:
    def test_says_what_to_mend_and_ends_with_3(self) -> None:
        done = CliRunner().invoke(main, ["check", "KeepsChannel,NoLocator"])
        assert done.exit_code == 3
        assert "failed" in done.stdout
        assert "to mend: drop the channel" in re.sub(r"\s+", " ", done.stdout)
        assert "failed: KeepsChannel: shape; NoLocator: loads" in re.sub(r"\s+", " ", done.stderr)

    def test_json(self) -> None:
        done = CliRunner().invoke(main, ["check", "NoLocator", "--json"])
        (row,) = json.loads(done.stdout)
        assert row["method"] == "NoLocator"
        assert row["checks"][0]["status"] == "failed"
        assert [check["check"] for check in row["checks"]] == [check.name for check in CHECKS]

    def test_set(self) -> None:
        done = CliRunner().invoke(main, ["check", "Good", "--set", "powr=2"])
        assert done.exit_code == 2
        assert "did you mean power" in done.stderr


class TestDiffers:
    one = Prediction(torch.full((2, 4, 4), 0.25), torch.tensor([0.1, 0.2]))

    def test_equal_and_close(self) -> None:
        near = Prediction(self.one.fakeness + 9e-5, self.one.score)
        assert differs(self.one, self.one, tolerance=0) == ""
        assert differs(self.one, near) == ""
        assert "in 32 of 32 values" in differs(self.one, near, tolerance=0)

    def test_one_pixel_counts(self) -> None:
        other = self.one.fakeness.clone()
        other[1, 2, 3] += 0.5
        assert "up to 0.5 in 1 of 32" in differs(self.one, Prediction(other, self.one.score))

    def test_nan_is_nan(self) -> None:
        nan = Prediction(torch.full((1, 2, 2), float("nan")))
        assert differs(nan, nan, tolerance=0) == ""
        assert differs(nan, Prediction(torch.zeros(1, 2, 2))) != ""

    def test_scores(self) -> None:
        assert "score differs" in differs(self.one, Prediction(self.one.fakeness, torch.tensor([0.1, 0.3])))
        assert "has none" in differs(self.one, Prediction(self.one.fakeness))

    @settings(max_examples=30)
    @given(flips=st.integers(0, 20))
    def test_few_pixels_may_flip_at_a_threshold(self, flips: int) -> None:
        left = torch.zeros(1, 100, 100)
        right = left.clone()
        right.view(-1)[:flips] = 1
        assert (differs(Prediction(left), Prediction(right)) == "") == (flips <= FLIPPED * 10_000)
        assert (differs(Prediction(left), Prediction(right), tolerance=0) == "") == (flips == 0)


class TestTrial:
    def test_truth_is_the_gray_difference_inside_the_box(self) -> None:
        images, truth = make_images(4, (40, 64))
        assert images.shape == (4, 3, 40, 64)
        assert 0 <= images.min() <= images.max() <= 1
        assert (truth[2:] == 0).all(), "photos"
        inside = torch.zeros(40, 64, dtype=torch.bool)
        inside[10:20, 16:48] = True
        assert (truth[:2, ~inside] == 0).all()
        board = 0.1 + 0.05 * torch.from_numpy(np.indices((40, 64)).sum(0) % 2).float()
        torch.testing.assert_close(truth[0][inside], board[inside])

    def test_images_are_the_same_for_the_same_seed(self) -> None:
        assert torch.equal(make_images(3).images, SHOWN.images)
        assert not torch.equal(make_images(3, seed=1).images, SHOWN.images)

    def test_slice_is_half_fakes_and_whole(self) -> None:
        batches = list(MadeTraining(6).batches(batch=4))
        assert [len(batch.images) for batch in batches] == [4, 2]
        labels = torch.cat([batch.labels for batch in batches])
        assert labels.tolist() == [1, 1, 1, 0, 0, 0]
        for batch in batches:
            assert ((batch.fakeness > 0).flatten(1).any(1) == (batch.labels > 0)).all()
            assert batch.attention.shape == batch.fakeness.shape == (len(batch.labels), SIDE, SIDE)
            assert (batch.attention[batch.labels == 0] == 1).all()

    def test_a_batch_that_is_changed_changes_no_other(self) -> None:
        training = MadeTraining()
        first = next(training.batches())
        kept = first.images.clone()
        first.images.zero_()
        assert torch.equal(next(training.batches()).images, kept)

    def test_world_is_noticed_and_given_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        before = world()
        expected = torch.rand(3), np.random.rand(3), random.random()
        with untouched():
            torch.set_default_dtype(torch.float64)
            os.chdir(tmp_path)
            torch.set_grad_enabled(False)
            torch.rand(2), np.random.rand(2), random.random()
            assert len(changed(before, world())) == 6
        assert "the working folder" not in changed(before, world())
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
        with untouched():
            inside = torch.rand(3)
        assert torch.equal(torch.rand(3), inside)
        assert expected[0].shape == inside.shape
