"""What is shipped: the list of packages, and a wheel that works far away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]


SAFE = {
    "filelock": "3.20.1",  # CVE-2025-68146: a lock file that is a link empties what it leads to
    "jinja2": "3.1.6",  # CVE-2025-27516: a template leaves its sandbox
    "numpy": "1.22",  # CVE-2021-41496: a buffer that overflows
    "onnx": "1.16",  # CVE-2024-27318: external data outside the model's folder
    "pillow": "11.3",  # CVE-2025-48379: a heap that overflows; earlier ones before that
    "pyarrow": "14.0.1",  # CVE-2023-47248: Parquet and Arrow files that run code
    "pydantic": "2.4",  # CVE-2024-3772: an address that takes for ever to check
    "setuptools": "78.1.1",  # CVE-2025-47273: a package that is written outside its folder
    "torch": "2.6",  # CVE-2025-32434: weights_only=True that runs code all the same
}
"""The first version without a flaw that was published; `make audit` asks for those that were found since."""


def test_lower_bounds_leave_out_versions_that_are_known_to_be_unsafe() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    texts = project["project"]["dependencies"] + project["build-system"]["requires"]
    texts += [text for extra in project["project"]["optional-dependencies"].values() for text in extra]
    asked = [Requirement(text) for text in texts]
    assert {requirement.name for requirement in asked} >= set(SAFE)
    for requirement in asked:
        if requirement.name in SAFE:
            (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
            assert Version(bound) >= Version(SAFE[requirement.name]), requirement.name


def shipped_files() -> set[str]:
    """Paths in the wheel of all files in the package's folders."""
    files = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                files.add(f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}")
    return files


def test_packages_are_the_folders_on_disk() -> None:
    on_disk = {
        Path(name).parent.as_posix().replace("/", ".") for name in shipped_files() if name.endswith("/__init__.py")
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(on_disk)


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command with more environment variables; a failure shows its output and not the environment."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join(str(part) for part in command)
        pytest.fail(f"{words} gave {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that no `build/` of the checkout leaks into it and none is left behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    out = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-isolation"] if has_setuptools() else []
    run(sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", out, cwd=copy)
    (built,) = out.glob("*.whl")
    return built


def has_setuptools() -> bool:
    """Whether setuptools is there and new enough, so that building needs no network."""
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        return False


def test_wheel_holds_every_file_and_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert inside == shipped_files()
    assert any(name.startswith("flbench/methods/") and name.endswith(".py") for name in inside)
    assert any(name.startswith("flbench/protocols/") and name.endswith(".toml") for name in inside)


def test_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        text = archive.read(licence).decode()
    assert "Apache License" in text
    assert "Version 2.0" in text
    assert len(text.splitlines()) > 200


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The `flbench` command of the wheel, a folder far from the checkout, and the folder the wheel is installed in.

    That folder is for PYTHONPATH, ahead of any other installation; dependencies are those of the running environment.
    """
    target = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target / "bin" / "flbench", tmp_path_factory.mktemp("away"), target


def test_installed_wheel_is_what_runs(installed: tuple[Path, Path, Path]) -> None:
    _, away, site = installed
    code = "import flbench.methods, flbench.protocols; print(flbench.__file__, flbench.methods.__file__)"
    for path in run(sys.executable, "-c", code, cwd=away, PYTHONPATH=str(site)).split():
        assert Path(path).is_relative_to(site)


def test_installed_wheel_lists_every_method_and_protocol(installed: tuple[Path, Path, Path]) -> None:
    command, away, site = installed
    listing = json.loads(run(command, "list", "--json", cwd=away, PYTHONPATH=str(site)))
    methods = {entry["name"]: entry for entry in listing["methods"]}
    assert set(methods) >= {path.stem for path in (ROOT / "methods").glob("[a-z]*.py")}
    assert not [entry for entry in methods.values() if entry["broken"]]
    shipped = {path.stem for path in (ROOT / "protocols").glob("*.toml")}
    assert {p["name"] for p in listing["protocols"]} == shipped - {"claims"}
    (data,) = listing["data"]
    assert data["name"] == "synthfaces"
    assert {"tiny", "mini", "standard", "full", "mini-finished"} <= set(data["profiles"])


def test_installed_wheel_runs(installed: tuple[Path, Path, Path]) -> None:
    command, away, site = installed
    options = ["--method", "zeros", "--protocol", "in_gan", "--data", "synthfaces", "--profile", "tiny"]
    records = json.loads(run(command, "run", *options, "--study", "study", "--json", cwd=away, PYTHONPATH=str(site)))
    assert {record["method"]["name"]: record["status"] for record in records}["zeros"] == "ok"
    assert len(list((away / "study").rglob("run.json"))) == len(records)
