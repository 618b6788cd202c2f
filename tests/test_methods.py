"""Every method of the repository, the reference rows, and what the neural methods share."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import flbench.methods
from flbench.errors import MethodError, UsageError
from flbench.locator import Batch, Locator, Loss, Recipe, Training, options_of
from flbench.methods import _networks as networks
from flbench.methods.meanmap import MeanMap
from flbench.methods.ones import Ones
from flbench.methods.oracle import Oracle
from flbench.methods.zeros import Zeros

FOLDER = Path(flbench.methods.__path__[0])
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_"))


def method(name: str) -> type[Locator]:
    module = importlib.import_module(f"flbench.methods.{name}")
    kinds = [k for k in vars(module).values() if inspect.isclass(k) and k.__module__ == module.__name__]
    (kind,) = [k for k in kinds if "title" in vars(k)]
    return kind


def titled(name: str) -> list[ast.ClassDef]:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.ClassDef) and "title" in assigned(node)]


def assigned(node: ast.ClassDef) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            found[line.targets[0].id] = line.value
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            found[line.target.id] = line.value
    return found


class Slice(Training):
    """A training slice of given maps; fakes first, then as many real images."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps
        self.seed = 0
        self.size = maps.shape[-1]
        self.device = torch.device("cpu")
        self.attention = False

    def batches(self, *, batch: int = 32) -> Iterator[Batch]:
        count, side = len(self.maps), self.size
        images = torch.rand(2 * count, 3, side, side)
        fakeness = torch.cat([self.maps, torch.zeros_like(self.maps)])
        labels = torch.cat([torch.ones(count), torch.zeros(count)])
        for start in range(0, 2 * count, batch):
            part = slice(start, start + batch)
            yield Batch(images[part], fakeness[part], labels[part], torch.ones_like(fakeness[part]))

    def optimise(self, module: nn.Module, loss: Loss, recipe: Recipe) -> None:
        raise AssertionError("nothing to optimise")


@pytest.mark.parametrize("name", NAMES)
class TestEveryMethod:
    def test_is_listed_without_importing_it(self, name: str) -> None:
        (node,) = titled(name)
        values = assigned(node)
        read = {
            k: ast.literal_eval(values[k])
            for k in ("title", "paper", "licence", "variants", "reference")
            if k in values
        }
        kind = method(name)
        assert read == {k: getattr(kind, k) for k in read}
        assert kind.reference == read.get("reference", False)
        first = (ast.get_docstring(node) or "").splitlines()[0]
        assert 20 < len(first) <= 120
        assert first.endswith(".")

    def test_defaults_are_literals(self, name: str) -> None:
        (node,) = titled(name)
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == "__init__":
                assert not line.args.defaults, "options are keyword-only"
                found = [ast.literal_eval(default) for default in line.args.kw_defaults if default is not None]
                shared = list(Recipe.__dataclass_fields__) if line.args.kwarg else []
                own = {argument.arg for argument in line.args.kwonlyargs}
                found += [getattr(Recipe(), option) for option in shared if option not in own]
                assert found == list(options_of(method(name)).values())
                assert None not in line.args.kw_defaults, "every option has a default"

    def test_variants_are_options(self, name: str) -> None:
        kind = method(name)
        options = options_of(kind)
        for variant, values in kind.variants.items():
            assert set(values) <= set(options), variant
            assert all(values[key] != options[key] or key in {"epochs", "batch", "beta2"} for key in values), variant
            kind(**values)

    def test_every_option_is_described(self, name: str) -> None:
        text = f"{inspect.getdoc(method(name))}\n{inspect.getdoc(Recipe)}"
        for option in options_of(method(name)):
            assert f"\n    {option}: " in text, option


@pytest.mark.parametrize("size", [(1, 1), (31, 57), (64, 64)])
class TestReferences:
    def test_zeros_and_ones(self, size: tuple[int, int]) -> None:
        images = torch.rand(2, 3, *size)
        for kind, value in ((Zeros, 0.0), (Ones, 1.0)):
            prediction = kind().predict(images)
            assert prediction.fakeness.dtype == torch.float32
            assert torch.equal(prediction.fakeness, torch.full((2, *size), value))
            assert prediction.score is None
            assert kind.reference
            assert not kind.trains()

    def test_oracle_returns_the_truth(self, size: tuple[int, int]) -> None:
        truth = torch.rand(3, *size) * 0.9 + 0.1
        truth[1] = 0
        fakeness, score = Oracle().predict_knowing(torch.rand(3, 3, *size), truth)
        assert torch.equal(fakeness, truth)
        assert score is not None
        assert score.tolist() == [1, 0, 1]

    def test_meanmap_is_resized_to_the_images(self, size: tuple[int, int], tmp_path: Path) -> None:
        locator = MeanMap()
        locator.fit(Slice(torch.full((4, 8, 8), 0.25)))
        fakeness, score = locator.predict(torch.rand(2, 3, *size))
        assert fakeness.shape == (2, *size)
        assert torch.allclose(fakeness, torch.tensor(0.25))
        assert score is None


def test_oracle_alone_knows_nothing() -> None:
    with pytest.raises(MethodError, match="not shown"):
        Oracle().predict(torch.rand(1, 3, 8, 8))


class TestMeanMap:
    def test_is_the_mean_over_fakes_only(self) -> None:
        maps = torch.rand(37, 6, 6)  # more than one batch of 32
        locator = MeanMap()
        locator.fit(Slice(maps))
        fakeness, _ = locator.predict(torch.rand(2, 3, 6, 6))
        torch.testing.assert_close(fakeness[1], maps.mean(dim=0))
        assert locator.parameters == 36

    def test_round_trip(self, tmp_path: Path) -> None:
        images = torch.rand(2, 3, 9, 5)
        one, two = MeanMap(), MeanMap()
        one.fit(Slice(torch.rand(3, 8, 8)))
        one.save(tmp_path)
        two.load(tmp_path)
        assert torch.equal(one.predict(images).fakeness, two.predict(images).fakeness)

    def test_nothing_learnt_yet(self, tmp_path: Path) -> None:
        with pytest.raises(MethodError, match="before it was fitted"):
            MeanMap().predict(torch.rand(1, 3, 4, 4))
        with pytest.raises(MethodError, match="nothing to save"):
            MeanMap().save(tmp_path)
        with pytest.raises(MethodError, match="cannot be read"):
            MeanMap().load(tmp_path)

    def test_without_fakes(self) -> None:
        with pytest.raises(MethodError, match="no fake"):
            MeanMap().fit(Slice(torch.zeros(0, 8, 8)))

    @pytest.mark.parametrize(
        "state",
        [{"other": torch.rand(4, 4)}, {"mean": torch.rand(1, 4, 4)}, {"mean": torch.full((4, 4), float("nan"))}],
        ids=["other name", "other shape", "not finite"],
    )
    def test_damaged_file(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file(state, tmp_path / "weights.safetensors")
        with pytest.raises(MethodError, match="does not hold one map"):
            MeanMap().load(tmp_path)


class TestSizes:
    @settings(max_examples=60)
    @given(
        height=st.integers(1, 70),
        width=st.integers(1, 70),
        multiple=st.sampled_from([1, 14, 32]),
        least=st.sampled_from([1, 32]),
    )
    def test_padding_is_the_smallest_and_keeps_the_image(
        self, height: int, width: int, multiple: int, least: int
    ) -> None:
        images = torch.rand(1, 3, height, width)
        padded = networks.pad(images, multiple=multiple, least=least)
        assert torch.equal(padded[..., :height, :width], images)
        for side, own in zip(padded.shape[-2:], (height, width), strict=True):
            smallest = next(n for n in range(max(own, least), 200) if n % multiple == 0)
            assert side == smallest
        assert torch.equal(padded[..., -1, -1], images[..., -1, -1])

    @settings(max_examples=30)
    @given(side=st.integers(1, 40), height=st.integers(1, 40), width=st.integers(1, 40))
    def test_resizing_stays_in_range_and_keeps_constants(self, side: int, height: int, width: int) -> None:
        maps = torch.rand(2, side, side)
        out = networks.resize(maps, (height, width))
        assert out.shape == (2, height, width)
        assert out.min() >= maps.min() - 1e-6
        assert out.max() <= maps.max() + 1e-6
        flat = networks.resize(torch.full((1, side, side), 0.3), (height, width))
        torch.testing.assert_close(flat, torch.full_like(flat, 0.3))

    def test_resizing_is_antialiased(self) -> None:
        stripes = torch.tensor([0.0, 1.0]).repeat(8, 16)[None].reshape(1, 8, 32)
        assert (networks.resize(stripes, (8, 4)) - 0.5).abs().max() < 0.1


class TestShared:
    def test_clamp_lets_the_gradient_through(self) -> None:
        values = torch.tensor([-0.5, 0.25, 2.0], requires_grad=True)
        out = networks.clamp_straight(values)
        assert out.tolist() == [0, 0.25, 1]
        out.sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [1, 1, 1]

    def test_one_image_uses_running_statistics(self) -> None:
        norm = nn.BatchNorm2d(2)
        with networks.steady_norms(norm, torch.zeros(1, 2, 1, 1)):
            norm(torch.ones(1, 2, 1, 1))
        assert norm.training
        assert norm.running_mean is not None
        assert norm.running_mean.tolist() == [0, 0]
        with networks.steady_norms(norm, torch.zeros(2, 2, 1, 1)):
            norm(torch.ones(2, 2, 1, 1))
        assert norm.running_mean.tolist() != [0, 0]

    def test_normalisation_is_the_encoders_own(self) -> None:
        white = torch.ones(1, 3, 1, 1)
        torch.testing.assert_close(networks.Normalise("timm-tf_efficientnet_lite0")(white), torch.ones(1, 3, 1, 1))
        expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        for encoder in ("resnet18", "mit_b0", "no_such_encoder"):
            torch.testing.assert_close(networks.Normalise(encoder)(white).flatten(), expected)
        assert not networks.Normalise("resnet18").state_dict()

    def test_choice_suggests(self) -> None:
        with pytest.raises(UsageError, match=r"loss=dise .*did you mean dice"):
            networks.choose("loss", "dise", ("l1", "dice"))

    def test_hub_is_offline_only_inside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        from huggingface_hub import constants

        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

        def fails() -> None:
            with networks.hub(download=False):
                assert constants.HF_HUB_OFFLINE
                assert os.environ["HF_HUB_OFFLINE"] == "1"
                raise KeyError

        with pytest.raises(KeyError):
            fails()
        assert not constants.HF_HUB_OFFLINE
        assert "HF_HUB_OFFLINE" not in os.environ
        with networks.hub(download=True):
            assert not constants.HF_HUB_OFFLINE

    def test_shipped_weights_of_another_network(self) -> None:
        with pytest.raises(MethodError, match="does not fit"):
            networks.fill_from_shipped(nn.Sequential(nn.Conv2d(3, 16, 3)))
        with pytest.raises(MethodError, match="296 tensors, the encoder 400"):
            networks.fill_from_shipped(nn.Sequential(*[nn.Linear(1, 1) for _ in range(200)]))

    def test_shipped_weights_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(networks, "WEIGHTS_PACKAGE", "flbench-no-such-package")
        with pytest.raises(MethodError, match=r"not installed.*weights=none"):
            networks.shipped_weights()

    def test_damaged_shipped_weights(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_bytes(b"<!DOCTYPE html>")
        monkeypatch.setattr(networks, "shipped_weights", lambda: tmp_path / "w.pth")
        with pytest.raises(MethodError, match=r"w\.pth cannot be read"):
            networks.fill_from_shipped(nn.Linear(1, 1))
