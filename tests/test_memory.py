"""Testing many images takes hardly more memory than testing few: what stays of each is a row of names and numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from builders import make_dataset

from flbench.data.dataset import Dataset, write_dataset

FEW, MANY = 40, 440
"""How often the images of the test split are in the manifest."""

MOST = 1500
"""Bytes that an image may cost; 600 to 700 were measured. Its pixels are 3,072 bytes and its map is 4,096."""

RUN = """
import resource, sys
from pathlib import Path
from flbench.data.dataset import read_dataset
from flbench.engine.local import Machine, run_plan
from flbench.engine.plan import Request, make_plan
from flbench.registry import choose_method, find_protocol
from flbench.study import Study

data, folder = map(Path, sys.argv[1:])
plan = make_plan(read_dataset(data), [(find_protocol("in_gan"), [choose_method("laplacian")])], [0], Request())
run_plan(plan, Study(folder), Machine(device="cpu", threads=1), lambda event: None)
(record,) = Study(folder).records()
assert record.status == "ok", record.reason
(result,) = record.results
print(result.fakes + result.reals, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def run_on(dataset: Dataset, study: Path, times: int) -> tuple[int, int]:
    """Test a method; return on how many images, and the bytes that its process had at most.

    Args:
        dataset: Its manifest is written anew: the images of the test split are in it so many more times.
        study: Where the record goes.
        times: How often.
    """
    rows = [dataset.manifest]
    for number in range(times):
        copy = dataset.manifest[dataset.manifest["split"] == "test"].copy()
        for name in ("sample_id", "source"):
            copy[name] = copy[name].where(copy[name] == "", f"{number:03d}-" + copy[name])
        rows.append(copy)
    write_dataset(dataset.folder, dataset.about, pd.concat(rows))
    command = [sys.executable, "-P", "-c", RUN, str(dataset.folder), str(study)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images, most = map(int, done.stdout.split())
    return images, most


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is counted in other units")
def test_memory_hardly_grows_with_the_images(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", people=24, attributes=("blond_hair",), parsing=False)
    few, least = run_on(dataset, tmp_path / "few", FEW)
    many, most = run_on(dataset, tmp_path / "many", MANY)
    assert many > 10 * few > 6000
    assert (most - least) / (many - few) < MOST
