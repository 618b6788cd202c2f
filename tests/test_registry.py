import subprocess
import sys
from pathlib import Path

import pytest

from flbench import registry
from flbench.errors import MethodError, UsageError
from flbench.locator import Locator, options_of
from flbench.method_file import MethodEntry, describe_method
from flbench.registry import MethodChoice, choose_method, load_method, methods

HEAD = "from flbench.locator import Locator\n"


def described(tmp_path: Path, text: str, kind: str = "") -> MethodEntry:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return describe_method("mine", "mine", kind, path, "dist 1")


def test_listing_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; from flbench import registry as r; r.methods(); r.protocols(); r.dataset_makers()\n"
        "print([m for m in ('torch', 'pandas', 'timm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(methods()))
def test_what_is_read_from_the_file_is_what_the_class_says(name: str) -> None:
    entry = methods()[name]
    assert not entry.broken
    locator = load_method(MethodChoice(entry=entry))
    kind = type(locator)
    assert isinstance(locator, Locator)
    assert entry.title == kind.title
    assert entry.paper == kind.paper
    assert entry.licence == kind.licence
    assert entry.reference == kind.reference
    assert entry.trains == kind.trains()
    assert entry.variants == kind.variants
    assert entry.options == options_of(kind)
    assert entry.summary


def test_references_are_the_rows_that_stand_in_every_table() -> None:
    assert {choice.name for choice in registry.reference_methods()} >= {"zeros", "ones", "meanmap", "oracle"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "line 1"),
        (HEAD + "class A(Locator):\n    pass\n", "exactly one class with a title"),
        (HEAD + "class A(Locator):\n    title='a'\nclass B(Locator):\n    title='b'\n", "it has 2"),
        (HEAD + "class A(Locator):\n    title='a'\n    def __init__(self, *, x=Path()):\n        pass\n", "option x"),
    ],
)
def test_a_broken_file_is_a_row_with_its_reason(tmp_path: Path, text: str, words: str) -> None:
    assert words in described(tmp_path, text).broken


def test_a_required_option_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = described(
        tmp_path, HEAD + "class A(Locator):\n    title='a'\n    def __init__(self, *, x):\n        pass\n"
    )
    monkeypatch.setattr(registry, "methods", lambda: {"mine": entry})
    with pytest.raises(UsageError, match="needs the option 'x'"):
        choose_method("mine")
    assert choose_method("mine", {"x": 3}).options == {"x": 3}


def test_a_name_declared_twice_names_both_and_breaks_neither_other(tmp_path: Path) -> None:
    found: dict[str, MethodEntry] = {}
    text = HEAD + "class A(Locator):\n    title='a'\n"
    registry._add(found, described(tmp_path, text))
    registry._add(found, described(tmp_path, text))
    assert "declared twice" in found["mine"].broken
    assert "dist 1" in found["mine"].broken


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("fakelocater", {}, "did you mean fakelocator"),
        ("fakelocator:focl", {}, "did you mean focal"),
        ("fakelocator", {"encodr": "x"}, "did you mean encoder"),
    ],
)
def test_a_typo_is_answered_with_a_suggestion(text: str, given: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_method(text, given)


def test_options_win_over_the_variant_and_the_variant_over_defaults() -> None:
    assert choose_method("fakelocator").options["loss"] == "l1"
    assert choose_method("fakelocator:l2").options["loss"] == "l2"
    assert choose_method("fakelocator:l2", {"loss": "dice"}).options["loss"] == "dice"


def test_a_module_that_cannot_be_imported_is_a_method_error() -> None:
    entry = MethodEntry(name="x", module="no_such_module_here", kind="X")
    with pytest.raises(MethodError, match="ModuleNotFoundError"):
        load_method(MethodChoice(entry=entry))


def test_what_is_said_of_options_is_read_from_the_docstring(tmp_path: Path) -> None:
    text = """
class Mine(Locator):
    \"\"\"Says so.

    Args:
        first: One line
            and another, with a colon: here.
        second: Last.

    Raises:
        third: Not an option.
    \"\"\"

    title = "Mine"

    def __init__(self, *, first=1, second=2, third=3):
        pass
"""
    assert described(tmp_path, text).told == {
        "first": "One line and another, with a colon: here.",
        "second": "Last.",
    }
