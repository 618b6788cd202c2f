"""flbench: a benchmark harness for locators of GAN manipulations in face images.

The public API on one screen; names are imported when they are first used, so `import flbench` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flbench.data.dataset import Dataset, read_dataset, write_dataset
    from flbench.data.importers import import_pairs
    from flbench.errors import FlbenchError
    from flbench.evaluation import evaluate
    from flbench.jobs import carry_out, make_dataset, open_dataset, plan_run
    from flbench.locator import Batch, Locator, NeuralLocator, Prediction, Recipe, Reference, Training
    from flbench.prediction import open_locator, predict_images
    from flbench.protocol import Category, Protocol, read_protocol
    from flbench.record import Record, read_record
    from flbench.registry import choose_method, find_protocol
    from flbench.study import Study

_HOMES = {
    "data.dataset": ("Dataset", "read_dataset", "write_dataset"),
    "data.importers": ("import_pairs",),
    "errors": ("FlbenchError",),
    "evaluation": ("evaluate",),
    "jobs": ("carry_out", "make_dataset", "open_dataset", "plan_run"),
    "locator": ("Batch", "Locator", "NeuralLocator", "Prediction", "Recipe", "Reference", "Training"),
    "prediction": ("open_locator", "predict_images"),
    "protocol": ("Category", "Protocol", "read_protocol"),
    "record": ("Record", "read_record"),
    "registry": ("choose_method", "find_protocol"),
    "study": ("Study",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "Category",
    "Dataset",
    "FlbenchError",
    "Locator",
    "NeuralLocator",
    "Prediction",
    "Protocol",
    "Recipe",
    "Record",
    "Reference",
    "Study",
    "Training",
    "carry_out",
    "choose_method",
    "evaluate",
    "find_protocol",
    "import_pairs",
    "make_dataset",
    "open_dataset",
    "open_locator",
    "plan_run",
    "predict_images",
    "read_dataset",
    "read_protocol",
    "read_record",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flbench' has no attribute {name!r}")
    return getattr(import_module(f"flbench.{_HOME_OF[name]}"), name)
