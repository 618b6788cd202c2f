"""`flbench new method`: what is written works at once; and the page that tells how runs as it is printed."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import flbench.methods
from flbench import registry, scaffold
from flbench.checks import CHECKS, check_method
from flbench.cli import main
from flbench.data.dataset import Dataset
from flbench.errors import UsageError
from flbench.scaffold import write_method

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
CODE = [text for language, text in BLOCKS if language == "python"]
LINES = [line for language, text in BLOCKS if not language for line in text.splitlines()]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout whose `methods/` is part of flbench's, for this process and those it starts."""
    root = tmp_path / "checkout"
    (root / "methods").mkdir(parents=True)
    monkeypatch.setattr(scaffold, "checkout", lambda: root)
    before = set(sys.modules)
    flbench.methods.__path__.append(str(root / "methods"))
    registry.methods.cache_clear()
    yield root
    flbench.methods.__path__.remove(str(root / "methods"))
    for name in set(sys.modules) - before:
        if name.startswith("flbench.methods."):
            del sys.modules[name]
            delattr(flbench.methods, name.rpartition(".")[2])
    registry.methods.cache_clear()
    importlib.invalidate_caches()


def refresh() -> None:
    registry.methods.cache_clear()
    importlib.invalidate_caches()


def failed(method: str) -> list[str]:
    return [f"{r.check}: {r.what}" for r in check_method(method, fresh_process=False) if r.status == "failed"]


@pytest.mark.parametrize("network", [False, True], ids=["formula", "network"])
class TestWritten:
    def test_is_listed_and_keeps_the_contract(self, network: bool, checkout: Path) -> None:
        written = write_method("odd_glow", network=network)
        assert written.files == (checkout / "methods/odd_glow.py", checkout / "tests/test_odd_glow.py")
        refresh()
        entry = registry.methods()["odd_glow"]
        assert (entry.broken, entry.kind, entry.title) == ("", "OddGlow", "Odd glow")
        assert entry.trains == network
        assert entry.complete
        assert failed("odd_glow") == []
        assert failed("odd_glow:wide") == []

    def test_code_is_in_the_style_of_the_repository(self, network: bool, checkout: Path) -> None:
        ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if ruff is None:
            pytest.skip("ruff is not installed")
        shutil.copy(ROOT / "pyproject.toml", checkout)
        (checkout / "flbench").mkdir()
        write_method("a_method_with_quite_a_long_name", network=network)
        for words in (["check", "--no-cache"], ["format", "--diff", "--no-cache"]):
            done = subprocess.run([ruff, *words, "."], cwd=checkout, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def test_distribution_registers_what_it_holds(self, network: bool, tmp_path: Path) -> None:
        written = write_method("odd_glow", network=network, into=tmp_path / "odd")
        assert {path.name for path in written.files} == {
            "flbench_odd_glow.py",
            "test_flbench_odd_glow.py",
            "pyproject.toml",
        }
        project = tomllib.loads((tmp_path / "odd/pyproject.toml").read_text(encoding="utf-8"))
        (name, place) = next(iter(project["project"]["entry-points"]["flbench.methods"].items()))
        module, _, kind = place.partition(":")
        assert name == "odd_glow"
        tree = ast.parse((tmp_path / "odd" / f"{module}.py").read_text(encoding="utf-8"))
        assert kind in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        assert project["tool"]["setuptools"]["py-modules"] == [module]
        test = (tmp_path / "odd" / f"test_{module}.py").read_text(encoding="utf-8")
        assert f"from {module} import {kind}\n" in test
        assert written.commands[0] == f"pip install --editable {tmp_path / 'odd'}"


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("Glow Spots", "such as glow_spots"),
            ("glow-spots", "such as glow_spots"),
            ("3glow", "such as glow"),
            ("_glow", "such as glow"),
            ("glow_", "such as glow"),
            ("class", "such as my_method"),
            ("../../etc", "such as etc"),
            ("", "such as my_method"),
        ],
    )
    def test_names_that_cannot_be(self, name: str, hint: str, checkout: Path) -> None:
        with pytest.raises(UsageError, match=hint):
            write_method(name)
        assert list(checkout.rglob("*.py")) == []

    @settings(max_examples=40)
    @given(name=st.text(max_size=12))
    def test_a_suggestion_can_be_a_name(self, name: str) -> None:
        try:
            scaffold._check_name(name)
        except UsageError as error:
            if error.hint.startswith("such as "):
                scaffold._check_name(error.hint.removeprefix("such as "))
        else:
            assert name.isidentifier()

    @pytest.mark.parametrize("name", ["zeros", "all"])
    def test_names_that_are_taken(self, name: str, checkout: Path) -> None:
        with pytest.raises(UsageError, match="already"):
            write_method(name)

    def test_nothing_is_overwritten_and_nothing_half_written(self, checkout: Path) -> None:
        (checkout / "tests").mkdir()
        kept = checkout / "tests/test_odd_glow.py"
        kept.write_text("mine")
        with pytest.raises(UsageError, match=r"test_odd_glow\.py exists already"):
            write_method("odd_glow")
        assert kept.read_text() == "mine"
        assert not (checkout / "methods/odd_glow.py").exists()

    def test_outside_of_a_checkout(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        class Spec:
            submodule_search_locations = (str(tmp_path / "site-packages/flbench/methods"),)

        monkeypatch.setattr(scaffold.importlib.util, "find_spec", lambda name: Spec())
        with pytest.raises(UsageError, match="--into DIR"):
            scaffold.checkout()


def test_what_to_do_next_can_be_typed(checkout: Path) -> None:
    assert write_method("odd_glow").commands == (
        "flbench check odd_glow",
        f"pytest {checkout / 'tests/test_odd_glow.py'}",
        "flbench run --method odd_glow --protocol in_gan --profile tiny",
    )


def test_this_checkout_is_found() -> None:
    assert scaffold.checkout() == ROOT


class TestPage:
    def test_every_line_runs_in_its_order(
        self, checkout: Path, boxes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A fresh process finds the file through the entry point of a distribution that points at it."""
        programs = [shlex.split(line)[0] for line in LINES]
        assert programs == ["flbench", "flbench", "pytest", "flbench"]
        monkeypatch.chdir(checkout)
        for line in LINES:
            words = shlex.split(line)
            if words[0] == "pytest":
                assert pytest.main([*words[1:], "-q", "-p", "no:cacheprovider", f"--rootdir={checkout}"]) == 0
                continue
            if words[1] == "run":
                place = words.index("--profile")
                words[place : place + 2] = ["--data", str(boxes.folder), "--study", str(tmp_path / "study")]
            done = CliRunner().invoke(main, words[1:])
            assert done.exit_code == 0, done.output
            if words[1] == "new":
                register(checkout, tmp_path / "site", "bright_texture", monkeypatch)
            if words[1] == "run":
                assert "Bright texture" in done.stdout or "bright_texture" in done.stdout
        assert (checkout / "methods/bright_texture.py").exists()

    @pytest.mark.parametrize("place", range(len(CODE)))
    def test_every_method_keeps_the_contract(self, place: int, checkout: Path) -> None:
        (checkout / "methods" / f"of_the_page_{place}.py").write_text(f'"""A block."""\n\n{CODE[place]}')
        refresh()
        assert failed(f"of_the_page_{place}") == []
        for variant in registry.methods()[f"of_the_page_{place}"].variants:
            assert failed(f"of_the_page_{place}:{variant}") == []

    def test_there_are_methods_on_it(self) -> None:
        assert len(CODE) == 2

    def test_its_table_is_the_suite(self) -> None:
        rows = re.findall(r"^\| `(.+?)` \| (.+?) \|$", PAGE, re.MULTILINE)
        assert rows == [(check.name, check.holds) for check in CHECKS]

    def test_its_failure_is_what_is_said(self) -> None:
        (block,) = (text for language, text in BLOCKS if language == "text")
        mend = next(check.mend for check in CHECKS if check.name == "shape")
        assert f"to mend: {mend}" in " ".join(block.split())

    def test_its_links_lead_somewhere(self) -> None:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
            assert (ROOT / "docs" / target).exists(), target

    def test_commands_in_its_text_exist(self) -> None:
        for words in re.findall(r"`flbench ([a-z ]+)", PAGE):
            command: click.Command = main
            for word in words.split():
                if isinstance(command, click.Group):
                    command = command.commands[word]
            assert command is not main


def register(checkout: Path, site: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes find a file of `methods/` as they find a plugin; this one finds it by its folder."""
    info = site / "page-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: page\nVersion: 1.0\n")
    kind = name.title().replace("_", "")
    (info / "entry_points.txt").write_text(f"[flbench.methods]\n{name} = {name}:{kind}\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{checkout / 'methods'}")
    refresh()
