"""The floors and manners of the code, read from its syntax trees: nothing here imports what it judges."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted([*ROOT.glob("flbench/**/*.py"), *ROOT.glob("methods/**/*.py")])
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]
each_module = pytest.mark.parametrize("path", MODULES, ids=NAMES)

CONTRACT = (
    "checkpoints",
    "claims",
    "compiled",
    "condition",
    "documents",
    "errors",
    "files",
    "locator",
    "method_file",
    "protocol",
    "recipe",
    "record",
    "store",
    "targets",
)
FLOOR = dict.fromkeys(CONTRACT, 0) | {
    "anonymous": 1,
    "data": 1,
    "scoring": 1,
    "registry": 1,
    "study": 1,
    "trial": 1,
    "engine": 2,
    "looks": 2,
    "probing": 2,
    "reporting": 2,
    "selftest": 2,
    "stale": 2,
    "synthetic": 2,
    "checks": 3,
    "doctor": 3,
    "evaluation": 3,
    "footprint": 3,
    "jobs": 3,
    "prediction": 3,
    "reproduce": 3,
    "scaffold": 3,
    "console": 4,
    "streams": 4,
    "cli": 4,
    "cli_data": 4,
    "cli_doctor": 4,
    "cli_plugins": 4,
    "cli_predict": 4,
    "cli_reproduce": 4,
    "cli_show": 4,
    "options": 4,
    "__main__": 4,
}
COMMANDS = {
    "cli",
    "cli_data",
    "cli_doctor",
    "cli_plugins",
    "cli_predict",
    "cli_reproduce",
    "cli_show",
    "options",
    "__main__",
}
TERMINAL = {"console", "streams", *COMMANDS}
PRINTERS = {"flbench/cli_show.py", "flbench/console.py", "flbench/streams.py"}
UNSAFE = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "yaml"}
CARRIES_OUT = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "os.startfile",
    "runpy.run_path",
    "runpy.run_module",
    "pty.spawn",
}
UNPACKS = {"torch.save", "torch.hub.load", "torch.jit.load", "torch.export.load", "torch.package.PackageImporter"}
MOST_LINES = 400


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that may run: what stands under `if TYPE_CHECKING` does not."""
    yield node
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for other in child.orelse:
                yield from running(other)
        else:
            yield from running(child)


def imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names of all imports, lazy ones too; `from a import b` gives `a.b`, since `b` may be a module."""
    for node in running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[0] == "flbench" else ("flbench", *parts[:-1]))


def rooms_imported(path: Path) -> set[str]:
    """Rooms of flbench that a module imports; "" for the package itself."""
    names = [name.split(".") for name in imports(tree_of(path), package_of(path))]
    known = {*FLOOR, "methods", "protocols"}
    return {parts[1] if len(parts) > 1 and parts[1] in known else "" for parts in names if parts[0] == "flbench"}


def room_of(path: Path) -> str:
    """Room that a module of `flbench/` stands in; "" for the package itself."""
    first = path.relative_to(ROOT / "flbench").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def broken_floors(room: str, imported: set[str]) -> list[str]:
    """What is wrong with a room that imports others."""
    wrong = []
    for other in imported - {room, ""}:
        if other in {"methods", "protocols"}:
            wrong.append(f"{room} imports {other}, which only the registry may load, by name")
        elif FLOOR[other] > FLOOR[room]:
            wrong.append(f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})")
        elif FLOOR[other] == FLOOR[room] and not {room, other} <= TERMINAL and not {room, other} <= {*CONTRACT}:
            wrong.append(f"{room} and {other} stand on one floor and must not know each other")
    return sorted(wrong)


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in MODULES if path.is_relative_to(ROOT / "flbench")} - {""}
    assert rooms <= set(FLOOR), "a new room: give it a floor here and in the design"


@each_module
def test_imports_go_down(path: Path) -> None:
    imported = rooms_imported(path)
    if not path.is_relative_to(ROOT / "flbench"):
        assert imported <= {*CONTRACT, "methods"}, "a method knows the contract, its own helpers, and nothing else"
    elif room_of(path):
        assert broken_floors(room_of(path), imported) == []


def test_boards_are_made_of_records_alone() -> None:
    for path in (ROOT / "flbench" / "reporting").glob("*.py"):
        outside = rooms_imported(path) - {*CONTRACT, "reporting", "scoring", "study", ""}
        assert not outside, f"{path.name} imports {sorted(outside)}"
        assert "locator" not in rooms_imported(path), path.name


def test_the_floors_are_really_held() -> None:
    """The judge itself: samples of what it must let pass and must catch."""
    assert broken_floors("engine", {"engine", "data", "scoring", "study", "record", "errors"}) == []
    assert broken_floors("cli", {"console", "jobs", "engine"}) == []
    assert broken_floors("engine", {"reporting"}) == [
        "engine and reporting stand on one floor and must not know each other"
    ]
    assert broken_floors("data", {"scoring"}) == ["data and scoring stand on one floor and must not know each other"]
    assert broken_floors("data", {"engine"}) == ["data (floor 1) imports engine (floor 2)"]
    assert len(broken_floors("engine", {"methods", "cli"})) == 2
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from flbench.cli import main\n"
        "else:\n    import flbench.data.images\n"
        "def late():\n    from . import scoring\n    from ..study import Study\n"
    )
    assert list(imports(tree, "flbench.engine")) == [
        "typing.TYPE_CHECKING",
        "flbench.data.images",
        "flbench.engine.scoring",
        "flbench.study.Study",
    ]


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is not a docstring."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    prose |= {  # prose below an attribute
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


# Names that are words too count only where they stand alone, as a key would.
WORDS = {"zeros", "ones", "oracle", "degradations", "disorganization", "universal"}
# Protocols that are called after what is a key of its own here; they count where a name is compared with them.
TERMS = {"blur", "command", "jpeg", "losses", "maps", "noise", "onnx"}


def named(tree: ast.AST, known: set[str]) -> list[tuple[int, str]]:
    """Line and name of every method or protocol that a module names."""
    pattern = re.compile(r"(?<![\w.-])(" + "|".join(map(re.escape, sorted(known - TERMS))) + r")(?![\w-])")
    wrong = []
    for line, text in strings(tree):
        hits = {name for name in pattern.findall(text) if name not in WORDS or text.split(":")[0] == name}
        wrong += [(line, name) for name in hits]
    for node in ast.walk(tree):
        asks = ast.unparse(node.subject) if isinstance(node, ast.Match) else ""
        if isinstance(node, ast.Compare):
            asks = " ".join(ast.unparse(side) for side in (node.left, *node.comparators))
        if re.search(r"\.name\b|\b(protocol|method)\b", asks):
            parts = node.cases if isinstance(node, ast.Match) else [node]
            values = {
                leaf.value for part in parts for leaf in ast.walk(getattr(part, "pattern", part)) if is_text(leaf)
            }
            wrong += [(node.lineno, name) for name in values & TERMS & known]
    return sorted(wrong)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_method_or_protocol_is_named() -> None:
    known = {path.stem for path in (ROOT / "methods").glob("[a-z]*.py")}
    known |= {path.stem for path in (ROOT / "protocols").glob("*.toml")} - {"claims"}
    assert known
    wrong = []
    for path in (ROOT / "flbench").rglob("*.py"):
        wrong += [f"{path.relative_to(ROOT)}:{line} names {name}" for line, name in named(tree_of(path), known)]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = 'our_gan'", ["our_gan"]),
        ("x = 'see our_gan:paper'", ["our_gan"]),
        ("x = 'your_gan'", []),
        ("x = 'a map of zeros'", []),
        ("x = {'zeros': 1}", ["zeros"]),
        ("x = {'noise': 1}", []),
        ("if kind == 'noise': pass", []),
        ("if protocol.name == 'noise': pass", ["noise"]),
        ("if record.protocol.name in ('blur', 'noise'): pass", ["blur", "noise"]),
        ("match protocol.name:\n    case 'blur': pass", ["blur"]),
        ("match step.kind:\n    case 'blur': pass", []),
    ],
)
def test_names_are_found_where_they_are_names(code: str, found: list[str]) -> None:
    assert [name for _, name in named(ast.parse(code), {"our_gan", "zeros", "noise", "blur"})] == found


@each_module
def test_only_the_console_prints(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() in PRINTERS:
        return
    tree = tree_of(path)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"print", "pprint", "sys.stdout.write", "sys.stderr.write", "click.echo", "click.secho"}
    talkers = {"rich", "tqdm"} | (set() if path.stem in COMMANDS else {"click"})
    assert not {name.split(".")[0] for name in imports(tree, package_of(path))} & talkers


def unsafe(tree: ast.Module, package: str) -> list[str]:
    """What in a module could run code from a file."""
    wrong = [f"imports {name}" for name in imports(tree, package) if name.split(".")[0] in UNSAFE]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        name = ast.unparse(node.func)
        if name in {"torch.load", "load"} and keywords.get("weights_only") is not True:
            wrong.append(f"line {node.lineno}: {name} without weights_only=True")
        pickles = any(k.arg == "allow_pickle" and keywords.get(k.arg) is not False for k in node.keywords)
        pickles |= name in {"np.load", "numpy.load"} and len(node.args) > 1  # its third is allow_pickle
        if pickles or name in UNPACKS or name.endswith(("read_pickle", "to_pickle")):
            wrong.append(f"line {node.lineno}: {name} reads or writes pickles or programs")
        if name in CARRIES_OUT or name.startswith(("os.exec", "os.spawn")) or keywords.get("shell", False) is not False:
            wrong.append(f"line {node.lineno}: {name} carries out a text")
    return wrong


EXAMPLES = sorted(ROOT.glob("examples/**/*.py"))


@pytest.mark.parametrize("path", [*MODULES, *EXAMPLES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    package = package_of(path) if path in MODULES else ""
    assert unsafe(tree_of(path), package) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=None)",
        "import torch\ntorch.load('x', weights_only=flag)",
        "from torch import load\nload('x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "np.load('x', None, True)",
        "import yaml\nyaml.load(text)",
        "torch.jit.load('x')",
        "torch.hub.load('a/b', 'c')",
        "frame.to_pickle('x')",
        "os.execv('x', [])",
        "runpy.run_path('x')",
        "pd.read_pickle('x')",
        "torch.save(x, 'x')",
        "eval(text)",
        "exec(compile(text, 'x', 'exec'))",
        "os.system(line)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_what_could_run_code_is_caught(code: str) -> None:
    assert unsafe(ast.parse(code), "flbench") != []


def test_what_is_safe_passes() -> None:
    code = (
        "import torch, numpy as np\ntorch.load('x', weights_only=True)\nnp.load('x', allow_pickle=False)\njson.load(f)"
    )
    assert unsafe(ast.parse(code), "flbench") == []


@each_module
def test_a_module_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, "split it by purpose"


@each_module
def test_what_is_public_says_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    silent = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    silent += [node.name for node in public if not ast.get_docstring(node)]
    assert silent == []


@pytest.mark.parametrize("word", ["--help", "list", "--version"])
def test_commands_that_only_tell_import_nothing_heavy(word: str) -> None:
    heavy = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "pandas", "scipy", "skimage", "matplotlib")
    code = (
        f"import sys, flbench.cli; flbench.cli.main([{word!r}], standalone_mode=False); "
        f"sys.exit(', '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout
    assert done.returncode == 0, done.stderr
