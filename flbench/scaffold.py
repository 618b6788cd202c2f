"""Write the first version of a method: a file that runs as it is, and a test beside it."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template

from flbench.errors import UsageError
from flbench.files import write_text
from flbench.registry import find_protocol, methods, protocols

FORMULA = Template('''\
"""$title: say here what the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from flbench.locator import Locator, Prediction


class $kind(Locator):
    """Marks pixels amid strong second differences: upsampling leaves a texture there that no camera makes.

    Replace this text, which `flbench list` and `flbench show` print, and `predict` with your own.

    Args:
        window: Side in pixels, odd, of the square over which the texture is averaged.
        scale: Mean absolute second difference, of values in [0, 1], that gives a fakeness of 0.63.
    """

    title = "$title"
    paper = "unpublished"
    licence = "Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"wide": {"window": 31}}

    def __init__(self, *, window: int = 9, scale: float = 0.05) -> None:
        self.window = window
        self.scale = scale

    def predict(self, images: Tensor) -> Prediction:
        """Return 1 - exp(-texture / scale) for images (B, 3, H, W) in [0, 1]."""
        texture = (images - _mean(images, 3)).abs().mean(dim=1, keepdim=True)
        return Prediction(1 - (-_mean(texture, self.window) / self.scale).exp().squeeze(1))


def _mean(images: Tensor, window: int) -> Tensor:
    """Return the mean over a square window, the border repeated outward."""
    side = window // 2
    return F.avg_pool2d(F.pad(images, (side, side, side, side), mode="replicate"), window, stride=1)
''')

NETWORK = Template('''\
"""$title: say here what the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from flbench.locator import Batch, NeuralLocator, Prediction, Recipe


class $kind(NeuralLocator):
    """Marks what a small convolutional network has learnt to take for fake.

    Replace this text, which `flbench list` and `flbench show` print, and the network with your own. Loop, devices,
    checkpoints, early stop and resuming are the harness's.

    Args:
        width: Channels of the hidden layers.
        **recipe: How the harness fits it, the options of `flbench.recipe.Recipe`.
    """

    title = "$title"
    paper = "unpublished"
    licence = "Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"wide": {"width": 32}}

    def __init__(self, *, width: int = 16, **recipe: Any) -> None:
        super().__init__(recipe=Recipe(**recipe))
        self.width = width

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network; there are no pretrained weights to load."""
        return nn.Sequential(
            nn.Conv2d(3, self.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, self.width, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(self.width, 1, 3, padding=4, dilation=4),
        )

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the mean absolute difference of map and ground truth."""
        return (self.forward(module, batch.images).fakeness - batch.fakeness).abs().mean()

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return the maps of images (B, 3, H, W) in [0, 1]."""
        return Prediction(module(images).squeeze(1).float().sigmoid())
''')

TEST = Template('''\
"""$title keeps the contract. Add tests of what it computes, against values known by hand."""

from __future__ import annotations

import pytest
${torch}
from flbench.checks import CHECKS, check_method
from flbench.locator import Locator
${gap}from $module import $kind


def test_it_is_a_locator_that_says_what_it_is() -> None:
    assert issubclass($kind, Locator)
    assert $kind.title


@pytest.mark.parametrize("method", ["$name", "$name:wide"])
def test_it_keeps_the_contract(method: str) -> None:
    results = check_method(method, fresh_process=False)  # the command `flbench check` starts a fresh process too
    assert len(results) >= len(CHECKS) - 1
    assert [f"{result.check}: {result.what} -> {result.mend}" for result in results if result.status == "failed"] == []
$more''')

MORE = """

def test_a_flat_image_has_no_texture() -> None:
    assert $kind().predict(torch.full((1, 3, 20, 30), 0.5)).fakeness.abs().max() < 1e-5
"""

PROJECT = Template("""\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "flbench-$dashed"
version = "0.1.0"
description = "A method for flbench"
requires-python = ">=3.11"
dependencies = ["flbench"]

[project.entry-points."flbench.methods"]
$name = "$module:$kind"

[tool.setuptools]
py-modules = ["$module"]
""")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written, and what to do next.

    Attributes:
        files: Paths of the files, the method first.
        commands: Lines to be typed.
    """

    files: tuple[Path, ...]
    commands: tuple[str, ...]


def write_method(name: str, *, network: bool = False, into: Path | None = None) -> Written:
    """Write a method and its test: into a checkout's `methods/` and `tests/`, or as a distribution into a folder.

    Args:
        name: How the method is addressed: lower case, digits, underscores.
        network: A network to be fitted instead of a formula.
        into: Folder of a distribution of its own; None: the checkout that flbench runs from.

    Raises:
        UsageError: The name cannot be one or is taken, a file exists, or flbench does not run from a checkout.
        RunError: The folder cannot be written.
    """
    _check_name(name)
    kind = "".join(part.capitalize() for part in name.split("_"))
    title = name.replace("_", " ").capitalize()
    module = f"flbench_{name}" if into is not None else f"flbench.methods.{name}"
    words = {"name": name, "kind": kind, "title": title, "module": module, "dashed": name.replace("_", "-")}
    formula = NETWORK if network else FORMULA
    more = "" if network else Template(MORE).substitute(words)
    parts = {"more": more, "torch": "" if network else "import torch\n", "gap": "" if into is None else "\n"}
    texts = {"method": formula.substitute(words), "test": TEST.substitute(words, **parts)}
    if into is not None:
        texts["project"] = PROJECT.substitute(words)
        paths = {
            "method": into / f"{module}.py",
            "test": into / f"test_{module}.py",
            "project": into / "pyproject.toml",
        }
    else:
        root = checkout()
        paths = {"method": root / "methods" / f"{name}.py", "test": root / "tests" / f"test_{name}.py"}
    for path in paths.values():
        if path.exists():
            raise UsageError(f"{path} exists already", hint="choose another name or folder; nothing was written")
    for part, path in paths.items():
        write_text(path, texts[part])
    install = () if into is None else (f"pip install --editable {shlex.quote(str(into))}",)
    run = f"flbench run --method {name} --protocol {_smallest()} --profile tiny"
    test = f"pytest {shlex.quote(str(paths['test']))}"
    return Written(files=tuple(paths.values()), commands=(*install, f"flbench check {name}", test, run))


def _check_name(name: str) -> None:
    """Raise if a method cannot be called `name`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name.endswith("_"):
        made = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")
        hint = f"such as {made}" if made and not keyword.iskeyword(made) else "such as my_method"
        raise UsageError(f"{name!r} cannot be a method's name: lower case, digits and underscores only", hint=hint)
    if name == "all" or name in methods():
        raise UsageError(f"a method is called {name!r} already", hint="choose another name; see flbench list methods")


def _smallest() -> str:
    """Return the protocol with the fewest fits, slices and conditions, then the most metrics: a good first run."""
    read = [find_protocol(name) for name in protocols()]
    size = {p.name: (len(p.fit), len(p.test), len(p.conditions), -len(p.scoring.metrics), len(p.methods)) for p in read}
    return min(size, key=lambda name: size[name])


def checkout() -> Path:
    """Return the folder of the checkout that flbench runs from.

    Raises:
        UsageError: It runs from an installed wheel.
    """
    spec = importlib.util.find_spec("flbench.methods")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    for folder in folders:
        if folder.name == "methods" and (folder.parent / "pyproject.toml").is_file():
            return folder.parent
    raise UsageError("flbench does not run from a checkout", hint="--into DIR writes a distribution of its own")
