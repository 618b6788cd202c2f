"""Weights of a stranger: whatever the file is, nothing in it runs, and nothing is taken that does not fit."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import flbench, run_units_here
from click.testing import Result
from ledger import Observed, error_of
from PIL import Image
from safetensors.torch import save, save_file
from small_run import short_run

from flbench.data.dataset import Dataset
from flbench.methods.noise_residual import NoiseResidual
from flbench.study import Study
from flbench.targets import MARK

OPTIONS = ("--set", "depth=2", "--set", "width=2")
State = dict[str, torch.Tensor]
Look = Callable[..., Result]


class Evil:
    """What a pickle makes of this is the outcome of a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return NoiseResidual(depth=2, width=2).build(pretrained=False).state_dict()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def look(tmp_path: Path, photo: Path) -> Look:
    """Look at a photo with weights from a file; where they are refused, nothing is written and nothing is run."""

    def go(weights: Path | str, code: int = 3) -> Result:
        words = ("-m", "noise_residual", "--weights", weights, *OPTIONS, "--into", tmp_path / "maps", "--threads", 1)
        done = flbench("predict", photo, *words, code=code)
        if code:
            assert not (tmp_path / "maps" / "summary.csv").exists()
            error_of(done.stderr)
        return done

    return go


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint that runs a command when it is unpickled; it must never have."""
    sign = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    torch.save({"layers.0.weight": torch.ones(1), "extra": Evil(sign)}, path)
    yield path
    assert not sign.exists(), "the code in the file was run"


@pytest.mark.fault(
    1, "a checkpoint whose pickle holds code: as torch writes it, in its older format, bare, and as text"
)
@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "text"])
def test_01_a_pickle_with_code(evil: Path, tmp_path: Path, look: Look, form: str, observed: Observed) -> None:
    import pickle

    content = {"a": Evil(tmp_path / "executed")}
    if form == "legacy":
        torch.save(content, evil, _use_new_zipfile_serialization=False)
    elif form in ("bare", "text"):
        evil.write_bytes(pickle.dumps(content["a"], protocol=4 if form == "bare" else 0))
    done = look(evil)
    observed(done)
    assert "refused: file contains code (posix.system)" in done.stderr
    assert "convert it to safetensors" in done.stderr
    assert "weights_only" not in done.stderr, "torch's own advice is to trust the file"


@pytest.mark.fault(2, "the same where the environment tells torch to unpickle everything")
def test_02_a_pickle_with_code_under_a_forcing_environment(evil: Path, photo: Path, observed: Observed) -> None:
    words = ("predict", photo, "-m", "noise_residual", "--weights", evil, *OPTIONS, "--into", photo.parent / "maps")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flbench", *map(str, words)],
        env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    observed(done)
    assert done.returncode == 3, done.stderr
    assert "refused: file contains code (posix.system)" in error_of(done.stderr)


@pytest.mark.fault(3, "a `.pt` cut off at several places, without and with the sha256 it should have")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("known", [False, True])
def test_03_a_truncated_pt(
    state: State, tmp_path: Path, look: Look, share: float, known: bool, observed: Observed
) -> None:
    path = tmp_path / "net.pt"
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    done = look(f"{path}{MARK}{hashlib.sha256(whole).hexdigest()}" if known else path)
    observed(done)
    assert "half-downloaded" in done.stderr
    assert "net.pt" in done.stderr
    assert ("sha256 differs" in done.stderr) == known


@pytest.mark.fault(4, "an empty file")
def test_04_an_empty_file(tmp_path: Path, look: Look, observed: Observed) -> None:
    path = tmp_path / "net.pt"
    path.touch()
    done = look(path)
    observed(done)
    assert "net.pt: 0 bytes" in done.stderr


@pytest.mark.fault(
    5, "something else under the name of a checkpoint: an error page, an archive, a picture, noise, JSON"
)
@pytest.mark.parametrize(
    ("content", "start"),
    [
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "starts with '<!DOCTYPE html>'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "starts with 'version https://'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a checkpoint (starts with"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "not a checkpoint (starts with"),
        (b'{"weights": 1}', "not a checkpoint (starts with"),
        (bytes(range(255, 0, -1)), "not a checkpoint (starts with"),
    ],
    ids=["html", "lfs", "png", "hdf5", "json", "noise"],
)
def test_05_an_error_page(tmp_path: Path, look: Look, content: bytes, start: str, observed: Observed) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    done = look(path)
    observed(done)
    assert start in done.stderr


@pytest.mark.fault(6, "safetensors cut off at several places")
@pytest.mark.parametrize("kept", [12, 200, -1])
def test_06_truncated_safetensors(state: State, tmp_path: Path, look: Look, kept: int, observed: Observed) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(state)[:kept])
    done = look(path)
    observed(done)
    assert "net.safetensors: damaged or half-downloaded" in done.stderr


@pytest.mark.fault(7, "a safetensors header that says it is 2^40 bytes long, or that it holds 2^50 values")
@pytest.mark.parametrize("bomb", ["length", "values"])
def test_07_a_header_bomb(state: State, tmp_path: Path, look: Look, bomb: str, observed: Observed) -> None:
    path = tmp_path / "net.safetensors"
    entry = {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}
    header = json.dumps(dict.fromkeys(state, entry)).encode()
    path.write_bytes(struct.pack("<Q", 2**40 if bomb == "length" else len(header)) + header)
    done = look(path)
    observed(done)
    assert "damaged or half-downloaded" in done.stderr


@pytest.mark.fault(8, "a `.pt` of 2 kB that declares a tensor of 10^10 values")
def test_08_a_giant_expanded_tensor(state: State, tmp_path: Path, look: Look, observed: Observed) -> None:
    key = next(iter(state))
    torch.save(state | {key: torch.zeros(1).expand(10**10)}, tmp_path / "net.pt")
    done = look(tmp_path / "net.pt")
    observed(done)
    assert f"do not fit the model: {key} is (10000000000,), expected {tuple(state[key].shape)}" in done.stderr


@pytest.mark.fault(9, "weights of other shapes: of another width, and of other kinds of number")
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_09_wrong_shapes(state: State, tmp_path: Path, look: Look, form: str, observed: Observed) -> None:
    other = NoiseResidual(depth=2, width=3).build(pretrained=False).state_dict()
    path = tmp_path / f"net.{form}"
    (save_file if form == "safetensors" else torch.save)(other, path)
    done = look(path)
    observed(done)
    assert "do not fit the model: layers.0.weight is (3, 3, 3, 3), expected (2, 3, 3, 3)" in done.stderr
    many = {f"{key}.{i}": tensor.clone() for i in range(3) for key, tensor in other.items()}
    (save_file if form == "safetensors" else torch.save)(many, path)
    said = look(path).stderr
    assert "more" in said
    assert said.count(" is missing") + said.count(" is not expected") == 5
    (save_file if form == "safetensors" else torch.save)({k: v.to(torch.int32) for k, v in state.items()}, path)
    assert "layers.0.weight is int32, expected float32" in look(path).stderr


@pytest.mark.fault(10, "names with the prefix `module.`, and weights inside a dictionary: taken, and noted")
@pytest.mark.parametrize("form", ["safetensors", "pt", "nested"])
def test_10_a_prefix_of_parallel_training(
    state: State, tmp_path: Path, look: Look, form: str, observed: Observed
) -> None:
    plain, path = tmp_path / "plain.safetensors", tmp_path / f"net.{form}"
    save_file(state, plain)
    look(plain, code=0)
    expected = (tmp_path / "maps" / "photo-map.png").read_bytes()
    prefixed = {f"module.{key}": tensor for key, tensor in state.items()}
    if form == "safetensors":
        save_file(prefixed, path)
    else:
        torch.save(prefixed if form == "pt" else {"state_dict": prefixed, "epoch": 3}, path)
    done = look(path, code=0)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
    observed(notes[0], 0)
    assert "the prefix 'module.' is taken off" in notes[-1]
    assert len(notes) == (2 if form == "nested" else 1)
    assert (tmp_path / "maps" / "photo-map.png").read_bytes() == expected


@pytest.mark.fault(11, "a name that is missing, and one too many")
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_11_missing_and_unexpected_names(
    state: State, tmp_path: Path, look: Look, form: str, observed: Observed
) -> None:
    path = tmp_path / f"net.{form}"
    other = {("head.weight" if key == "layers.0.bias" else key): tensor for key, tensor in state.items()}
    (save_file if form == "safetensors" else torch.save)(other, path)
    done = look(path)
    observed(done)
    assert "layers.0.bias is missing; head.weight is not expected" in done.stderr


@pytest.mark.fault(12, "NaN or infinity among the weights")
@pytest.mark.parametrize("form", ["safetensors", "pt"])
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_12_weights_that_are_not_finite(
    state: State, tmp_path: Path, look: Look, form: str, value: float, word: str, observed: Observed
) -> None:
    state["layers.2.bias"][1] = value
    path = tmp_path / f"net.{form}"
    (save_file if form == "safetensors" else torch.save)(state, path)
    done = look(path)
    observed(done)
    assert f"contain {word} in layers.2.bias" in done.stderr


@pytest.mark.fault(13, "a whole file, but not the one whose sha256 was asked for; or one that changes after the plan")
def test_13_another_sha256(
    boxes: Dataset,
    state: State,
    tmp_path: Path,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    observed: Observed,
) -> None:
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    done = look(f"{path}{MARK}{right[::-1]}")
    observed(done, cases=2)
    assert f"sha256 differs, {right[:12]} instead of {right[::-1][:12]}" in done.stderr
    look(f"{path}{MARK}{right.upper()}", code=0)
    from flbench.engine import local

    run_units_here(monkeypatch)
    planned = local._run

    def changed(job: object, *rest: object) -> None:
        save_file({key: tensor + 1 for key, tensor in state.items()}, path)
        planned(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "_run", changed)
    said = flbench(*short_run(boxes, tmp_path), "--weights", path, "--study", tmp_path / "s", code=3).stderr
    assert "net.safetensors: sha256 differs" in error_of(said)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.fault(14, "TorchScript, an exported program, and an archive that torch did not write")
@pytest.mark.parametrize("form", ["script", "exported", "compressed", "npz"])
def test_14_formats_that_hold_programs(state: State, tmp_path: Path, look: Look, form: str, observed: Observed) -> None:
    path = tmp_path / "net.pt2"
    net = torch.nn.Conv2d(3, 1, 1)
    if form == "script":
        torch.jit.trace(net, torch.zeros(1, 3, 4, 4)).save(str(path))
    elif form == "exported":
        torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 4, 4),)), path)
    elif form == "npz":
        np.savez(path.with_suffix(".npz"), **{key: tensor.numpy() for key, tensor in state.items()})
        path.with_suffix(".npz").rename(path)
    else:
        torch.save(state, tmp_path / "net.pt")
        with zipfile.ZipFile(tmp_path / "net.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
    done = look(path)
    observed(done)
    assert "an archive without data.pkl" in done.stderr if form == "npz" else "refused format" in done.stderr


def test_weights_that_fit_stand_for_a_fit_and_are_recorded(
    boxes: Dataset, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run the fit's identity, the record and the board's command say which weights were given."""
    run_units_here(monkeypatch)
    words = [*short_run(boxes, tmp_path), "--study", tmp_path / "s"]
    for number, name in enumerate(("a", "b"), 1):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor * number for key, tensor in state.items()}, path)
        flbench(*words, "--weights", path)
    flbench(*words, "--weights", tmp_path / "a.safetensors")
    records = [r for r in Study(tmp_path / "s").records() if not r.method.reference]
    assert len({tuple(r.method.fits.values()) for r in records}) == len(records) == 2
    digests = {hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest() for name in ("a", "b")}
    assert {record.method.given["given_weights"] for record in records} == {f"sha256:{digest}" for digest in digests}
    assert all("weights were given: not fitted by this protocol" in record.flags for record in records)
    said = flbench(
        "reproduce", records[0].cell, "--study", tmp_path / "s", "--data", boxes.folder, "-p", words[4], code=2
    )
    assert "were given as a file, which no record holds" in said.stderr
    flbench("predict", boxes.folder / "images", "--fit", next(iter(records[0].method.fits.values())), "--study",
            tmp_path / "s", "--into", tmp_path / "maps", "--threads", 1)  # fmt: skip


@pytest.mark.parametrize("words", [["-m", "zeros"], ["-m", "ela"], ["-m", "noise_residual", "--fit", "a"], []])
def test_weights_are_those_of_one_network(tmp_path: Path, photo: Path, words: list[str]) -> None:
    (tmp_path / "net.pt").write_bytes(b"?")
    done = flbench("predict", photo, *words, "--weights", tmp_path / "net.pt", "--into", tmp_path / "maps", code=2)
    assert "weights" in error_of(done.stderr)
