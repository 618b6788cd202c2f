from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flbench.data.batches import Frames
from flbench.data.dataset import Dataset
from flbench.engine.fit import SliceTraining, make_fit, rate, step_seed, weights_digest
from flbench.engine.plan import Fit, Request, make_plan
from flbench.engine.runtime import Events, Runtime
from flbench.errors import Interrupted, MethodError, RunError
from flbench.locator import Batch, Recipe
from flbench.registry import choose_method, find_protocol
from flbench.study import CHECKPOINT, Study

RUNTIME = Runtime(torch.device("cpu"), 1)


class Tiny(nn.Module):
    """A convolution with everything that could break resuming: batch norm, dropout, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).sigmoid()[:, 0]


def loss(module: nn.Module, batch: Batch) -> Tensor:
    return (module(batch.images) - batch.fakeness).abs().mean()


def planned(dataset: Dataset, method: str = "fakelocator", **options: Any) -> Fit:
    plan = make_plan(dataset, [(find_protocol("in_gan"), [choose_method(method, options)])], [0], Request())
    return plan.fits[0]


def training(dataset: Dataset, folder: Path, events: Events | None = None) -> SliceTraining:
    folder.mkdir(exist_ok=True)
    return SliceTraining(
        Frames(dataset, size=32), planned(dataset), RUNTIME, folder, events or Events(lambda event: None)
    )


def optimised(
    dataset: Dataset, folder: Path, recipe: Recipe, events: Events | None = None
) -> tuple[Tiny, SliceTraining]:
    torch.manual_seed(5)
    module = Tiny()
    run = training(dataset, folder, events)
    run.optimise(module, loss, recipe)
    return module, run


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


RECIPE = Recipe(steps=23, batch=4, lr=1e-2, checks=5, patience=None)


@pytest.mark.parametrize("stop", [1, 5, 11, 20])
def test_a_stopped_fit_goes_on_to_the_same_bits(boxes: Dataset, tmp_path: Path, stop: int) -> None:
    whole, _ = optimised(boxes, tmp_path / "whole", RECIPE)

    def stopper(event: dict[str, Any]) -> None:
        if event["stage"] == "fit" and event["done"] == stop:
            events.stopping = True

    events = Events(stopper)
    with pytest.raises(Interrupted):
        optimised(boxes, tmp_path / "cut", RECIPE, events)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    torch.manual_seed(99)
    resumed, run = optimised(boxes, tmp_path / "cut", RECIPE)
    assert run.history.step == 23
    assert same(whole, resumed)


def test_a_damaged_checkpoint_is_told_and_the_fit_starts_again(boxes: Dataset, tmp_path: Path) -> None:
    whole, _ = optimised(boxes, tmp_path / "whole", RECIPE)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / CHECKPOINT).write_bytes(b"\x10" * 50)
    told: list[str] = []
    events = Events(lambda event: told.append(event["text"]) if event["event"] == "warning" else None)
    again, _ = optimised(boxes, tmp_path / "cut", RECIPE, events)
    assert same(whole, again)
    assert "damaged" in told[0]


def test_the_best_state_on_valid_is_kept_and_patience_stops_early(boxes: Dataset, tmp_path: Path) -> None:
    values = iter([0.5, 0.2, 0.3, 0.4, 0.9, 0.9])
    states: list[dict[str, Tensor]] = []

    def scripted(module: nn.Module, batch: Batch) -> Tensor:
        return loss(module, batch)

    run = training(boxes, tmp_path / "f")

    def look(module: nn.Module, *_: object) -> float:
        states.append({name: value.clone() for name, value in module.state_dict().items()})
        return next(values)

    run._valid_loss = look  # type: ignore[method-assign,assignment]
    module = Tiny()
    run.optimise(module, scripted, Recipe(steps=60, batch=4, checks=6, patience=2))
    assert run.history.stopped
    assert run.history.step == 40
    assert run.history.best_step == 20
    assert all(torch.equal(a, b) for a, b in zip(states[1].values(), module.state_dict().values(), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_fit(boxes: Dataset, tmp_path: Path, bad: float) -> None:
    def broken(module: nn.Module, batch: Batch) -> Tensor:
        return loss(module, batch) * bad

    with pytest.raises(MethodError, match="at step 0"):
        training(boxes, tmp_path / "f").optimise(Tiny(), broken, RECIPE)


def test_epochs_are_passes_over_the_fakes(boxes: Dataset, tmp_path: Path) -> None:
    run = training(boxes, tmp_path / "f")
    run.optimise(Tiny(), loss, Recipe(steps=None, epochs=2, batch=4))
    assert run.history.step == 2 * round(len(run.slice.fakes) / 2)


def test_the_training_slice_shows_different_people_as_real_and_fake(boxes: Dataset, tmp_path: Path) -> None:
    run = training(boxes, tmp_path / "f")
    assert len(run.slice.fakes) > 0
    assert not set(run.slice.fakes["identity"]) & set(run.slice.reals["identity"])
    labels = torch.cat([batch.labels for batch in run.batches(batch=3)])
    assert labels.tolist() == [1] * len(run.slice.fakes) + [0] * len(run.slice.reals)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 1 / 10), (9, 1.0), (50, 1.0), (99, 1.0), (100, 1.0), (150, 0.515), (200, 0.03)]
)
def test_the_falling_schedule_by_hand(step: int, value: float) -> None:
    assert rate(step, 200, "falling") == pytest.approx(value)
    assert rate(step, 200, "constant") == 1.0


def test_steps_have_seeds_of_their_own() -> None:
    assert len({step_seed(seed, step) for seed in range(20) for step in range(50)}) == 1000
    assert all(0 <= step_seed(seed, 1) < 2**63 for seed in range(20))


def test_a_finished_fit_is_found_and_its_digest_is_that_of_its_files(boxes: Dataset, tmp_path: Path) -> None:
    study = Study(tmp_path)
    fit = planned(boxes, "meanmap")
    events = Events(lambda event: None)
    first = make_fit(fit, Frames(boxes, size=32), study, RUNTIME, events)
    assert first["weights"] == weights_digest(study.fit_folder(fit.id))
    before = study.fit_folder(fit.id).stat().st_mtime_ns
    assert make_fit(fit, Frames(boxes, size=32), study, RUNTIME, events) == first
    assert study.fit_folder(fit.id).stat().st_mtime_ns == before


class Flat(nn.Module):
    """A network whose map is one number everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1,), -9.0))


def test_a_collapsed_fit_is_told(boxes: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flbench.engine import fit as room
    from flbench.locator import NeuralLocator, Prediction

    class Constant(NeuralLocator):
        title = "Constant"

        def build(self, *, pretrained: bool) -> nn.Module:
            return Flat()

        def loss(self, module: nn.Module, batch: Batch) -> Tensor:
            return module.bias.sum() * 0

        def forward(self, module: nn.Module, images: Tensor) -> Prediction:
            return Prediction(torch.zeros(len(images), *images.shape[-2:]) + module.bias.sigmoid())

    monkeypatch.setattr(room, "load_method", lambda choice: Constant(recipe=Recipe(steps=2, batch=2)))
    document = make_fit(planned(boxes), Frames(boxes, size=32), Study(tmp_path), RUNTIME, Events(lambda event: None))
    assert document["collapsed"]


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (RuntimeError("no such layer"), MethodError, "fitting fakelocator failed: RuntimeError: no such layer"),
        (OSError(28, "No space left on device"), RunError, "disk full"),
        (MethodError("own words"), MethodError, "^own words$"),
    ],
)
def test_what_a_method_raises_becomes_one_line_and_its_traceback_a_log(
    boxes: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    raised: Exception,
    kind: type[Exception],
    words: str,
) -> None:
    from flbench.engine import fit as room
    from flbench.locator import Locator, Prediction

    class Moody(Locator):
        title = "Moody"

        def fit(self, training: Any) -> None:
            if not isinstance(raised, OSError):
                raise raised

        def save(self, folder: Path) -> None:
            raise raised

        def predict(self, images: Tensor) -> Prediction:
            raise AssertionError

    monkeypatch.setattr(room, "load_method", lambda choice: Moody())
    fit = planned(boxes)
    study = Study(tmp_path)
    with pytest.raises(kind, match=words):
        make_fit(fit, Frames(boxes, size=32), study, RUNTIME, Events(lambda event: None))
    assert study.fit(fit.id) is None
    log = study.fit_folder(fit.id) / "log.txt"
    assert log.exists() == isinstance(raised, RuntimeError)
