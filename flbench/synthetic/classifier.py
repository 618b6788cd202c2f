"""An independent judge of edits: a small network that reads the ten attributes off a face, trained on renders alone.

It has never seen a fake, so what it says about one does not come from the generators' traces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flbench.errors import UsageError
from flbench.files import atomic_write, file_digest, write_json
from flbench.synthetic.camera import CAMERAS, photograph, sensor_size
from flbench.synthetic.faces import ATTRIBUTES, HAIR_COLOURS, RENDERER_VERSION, Attributes, render, sample_identity
from flbench.synthetic.identity import SCENERIES
from flbench.synthetic.profiles import WEIGHTS
from flbench.synthetic.workers import pool, steady

NAME = "classifier"
SIZE = 64
"""Side of the images that the network reads; others are brought to it. So small, no sensor noise or upsampling grid is
left to read."""

PHOTO_SIZE = 128
"""Side of the photos that it is trained on, before they are brought to `SIZE`."""

FIRST_CLASSIFIER_SEED = 3_000_000
"""Identities from this seed on train the classifier: nobody of a data set, nobody who trained a generator."""

HELD_OUT_SEED = 3_900_000
"""Identities from this seed on measure it."""

CAMERAS_KNOWN = tuple(CAMERAS)[:2]
"""Cameras that photograph both: those of the photos beside fakes, not that of guests."""

_LOOK_STREAM = 9110
_AUGMENT_STREAM = 9111
_CHUNK = 40
_ODDS = {"male": 0.5, "young": 0.5, "smile": 0.5, "eyeglasses": 0.4, "mustache": 0.4, "bald": 0.2, "bangs": 0.4}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the machine."""

    people: int = 4000
    held_out: int = 600
    steps: int = 1500
    batch: int = 32
    seed: int = 0
    rate: float = 3e-3
    warm_up: int = 100
    weight_decay: float = 1e-4
    half_precision: bool = True


class Portraits(NamedTuple):
    """Photos of rendered people.

    Attributes:
        images: uint8 (N, 3, SIZE, SIZE).
        attributes: float32 (N, 10), zeros and ones in the order of `ATTRIBUTES`.
    """

    images: np.ndarray
    attributes: np.ndarray


class AttributeClassifier(nn.Module):
    """Four halvings, two of them followed by a second convolution, then one linear layer; one logit per attribute."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for place, width in enumerate(widths):
            kernel = 3 if place else 5
            layers += [nn.Conv2d(before, width, kernel, 2, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            if place > 1:
                layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        cells = (SIZE // 2 ** len(widths)) ** 2
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(before * cells, len(ATTRIBUTES)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 10) of images float32 (B, 3, SIZE, SIZE) in [0, 1]."""
        return self.head(self.body(images * 4 - 2))


@torch.no_grad()
def read_attributes(classifier: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return how sure the classifier is of each attribute.

    Args:
        classifier: As `load_classifier` returns it.
        images: uint8 (N, H, W, 3), any size.

    Returns:
        float32 (N, 10) in [0, 1], in the order of `ATTRIBUTES`; above .5 means present.
    """
    chances = []
    with steady():
        for start in range(0, len(images), 32):
            batch = _reduced(torch.from_numpy(images[start : start + 32].copy()).permute(0, 3, 1, 2))
            chances.append(torch.sigmoid(classifier(batch.float().div_(255))).numpy())
    return np.concatenate(chances) if chances else np.zeros((0, len(ATTRIBUTES)), np.float32)


def _reduced(images: Tensor) -> Tensor:
    """Bring images uint8 (B, 3, H, W) to uint8 (B, 3, SIZE, SIZE)."""
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    reduced = F.interpolate(images.float(), (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return reduced.round_().clamp_(0, 255).to(torch.uint8)


def load_classifier(folder: Path | None = None) -> AttributeClassifier:
    """Load the classifier for the CPU in float32.

    Args:
        folder: Where `classifier.safetensors` lies; the shipped weights if None.

    Raises:
        UsageError: There are no weights, or they do not fit.
    """
    path = (folder or WEIGHTS) / f"{NAME}.safetensors"
    if not path.is_file():
        raise UsageError("the attribute classifier has no weights", hint="flbench data train-classifier, or reinstall")
    classifier = AttributeClassifier()
    state = {name: value.float() for name, value in load_file(path).items()}
    try:
        missing = classifier.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UsageError(f"{path.name} does not fit the attribute classifier", hint="train it again") from error
    if missing.unexpected_keys or any(not name.endswith("num_batches_tracked") for name in missing.missing_keys):
        raise UsageError(f"{path.name} does not fit the attribute classifier", hint="train it again")
    return classifier.eval().requires_grad_(False)


def draw_look(seed: int) -> Attributes:
    """Draw attributes independently of each other, so that none can be guessed from another.

    Only `bald` and `bangs` exclude each other; of black, blond, brown and none of them each is as likely.
    """
    rng = np.random.Generator(np.random.PCG64([_LOOK_STREAM, seed]))
    drawn = {name: bool(rng.random() < odds) for name, odds in _ODDS.items()}
    drawn["bangs"] &= not drawn["bald"]
    colour = (*HAIR_COLOURS, None)[rng.integers(4)]
    return Attributes(**drawn, **({colour: True} if colour else {}))


def portraits(first: int, count: int, *, workers: int = 1, progress: Progress | None = None) -> Portraits:
    """Photograph people in drawn looks, every scenery with every camera in turn.

    Args:
        first: Seed of the first of them.
        count: How many, one photo each.
        workers: Processes; 1 renders in this one.
        progress: Called with one line now and then.
    """
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    chunks = [range(start, min(start + _CHUNK, first + count)) for start in range(first, first + count, _CHUNK)]
    for seeds, made in zip(chunks, _rendered(chunks, workers), strict=True):
        images[seeds.start - first : seeds.stop - first] = made
        if progress and (seeds.stop - first) % (10 * _CHUNK) == 0:
            progress(f"rendered {seeds.stop - first} of {count} people")
    return Portraits(images, np.stack([draw_look(seed).vector() for seed in range(first, first + count)]))


def _rendered(chunks: list[range], workers: int) -> Iterator[np.ndarray]:
    if workers <= 1:
        for seeds in chunks:
            with steady():
                made = _photograph(seeds)
            yield made
        return
    with pool(workers) as executor:
        for job in [executor.submit(_photograph, seeds) for seeds in chunks]:
            yield job.result()


def _photograph(seeds: range) -> np.ndarray:
    """Return the photos of a few people, uint8 (N, 3, SIZE, SIZE)."""
    images = []
    for seed in seeds:
        scenery = SCENERIES[seed % len(SCENERIES)]
        camera = CAMERAS_KNOWN[seed // len(SCENERIES) % len(CAMERAS_KNOWN)]
        linear, _ = render([sample_identity(seed, scenery)], [draw_look(seed)], sensor_size(PHOTO_SIZE))
        images.append(_reduced(photograph(linear, [seed], PHOTO_SIZE, camera)))
    return torch.cat(images).numpy()


def augmented(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Soften and disturb photos as a generator, a codec or another framing would.

    Mirrored or not, moved by up to 2 pixels, brighter or darker by a fifth, blurred by up to .8 pixels, noisy, and a
    third of them saved as JPEG of quality 50 to 95.

    Args:
        images: uint8 (B, 3, S, S).
        rng: Decides all of it.

    Returns:
        float32 (B, 3, S, S) in [0, 1].
    """
    made = []
    for image in images:
        flipped, shift = rng.random() < 0.5, rng.integers(-2, 3, 2)
        moved = np.roll(image[:, :, ::-1] if flipped else image, shift, axis=(1, 2))
        quality = int(rng.integers(50, 96)) if rng.random() < 1 / 3 else 0
        made.append(_as_jpeg(moved, quality) if quality else moved)
    count, side = len(made), images.shape[-1]
    batch = torch.from_numpy(np.stack(made)).float().div_(255)
    soft, noisy = rng.random(count) < 0.6, rng.random(count) < 0.5
    batch[soft] = _blurred(batch[soft], torch.from_numpy(rng.uniform(0.2, 0.8, soft.sum())).float())
    gains = rng.uniform(0.8, 1.25, (count, 1, 1, 1)) * rng.uniform(0.95, 1.05, (count, 3, 1, 1))
    batch *= torch.from_numpy(gains).float()
    grains = torch.from_numpy(rng.standard_normal((noisy.sum(), 3, side, side), dtype=np.float32))
    batch[noisy] += grains * torch.from_numpy(rng.uniform(0, 0.03, (noisy.sum(), 1, 1, 1))).float()
    return batch.clamp_(0, 1)


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    store = BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(store, "JPEG", quality=quality)
    with Image.open(store) as opened:
        return np.asarray(opened.convert("RGB")).transpose(2, 0, 1)


def _blurred(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each image (B, 3, S, S) by its own Gaussian of `sigmas` (B,) pixels."""
    count, _, side, _ = images.shape
    taps = torch.arange(-4.0, 5.0)
    kernels = torch.exp(-0.5 * (taps / sigmas[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)
    planes = F.pad(images, (4, 4, 4, 4), mode="reflect").reshape(1, 3 * count, side + 8, side + 8)
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=3 * count)
    return F.conv2d(planes, kernels[:, None, None, :], groups=3 * count).reshape(images.shape)


def _loss(logits: Tensor, attributes: Tensor) -> Tensor:
    """Return the binary cross-entropy; the hair colour of someone bald is not asked for."""
    asked = torch.ones_like(attributes)
    colours = [ATTRIBUTES.index(name) for name in HAIR_COLOURS]
    asked[:, colours] = 1 - attributes[:, [ATTRIBUTES.index("bald")]]
    return F.binary_cross_entropy_with_logits(logits, attributes, asked, reduction="sum") / asked.sum()


def fit(
    recipe: Recipe, people: Portraits, *, threads: int = 1, progress: Progress | None = None
) -> AttributeClassifier:
    """Train a classifier; on one machine the same recipe, people and number of threads give the same weights."""
    with torch.random.fork_rng(devices=[]), steady(threads):
        torch.manual_seed(recipe.seed)
        classifier = AttributeClassifier().train()
        optimiser = torch.optim.AdamW(classifier.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
        order, losses = np.empty(0, int), []
        for step in range(recipe.steps):
            rng = np.random.Generator(np.random.PCG64([_AUGMENT_STREAM, recipe.seed, step]))
            if len(order) < recipe.batch:
                order = np.concatenate([order, rng.permutation(len(people.images))])
            chosen, order = order[: recipe.batch], order[recipe.batch :]
            warm = min(1.0, (step + 1) / recipe.warm_up)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * warm * (0.01 + 0.99 * (1 + np.cos(np.pi * step / recipe.steps)) / 2)
            images = augmented(people.images[chosen], rng)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half_precision):
                logits = classifier(images)
            loss = _loss(logits.float(), torch.from_numpy(people.attributes[chosen]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if progress and (step + 1) % 200 == 0:
                progress(f"{NAME} step {step + 1} of {recipe.steps}, loss {np.mean(losses[-200:]):.4f}")
    return classifier.eval()


def accuracy(classifier: nn.Module, people: Portraits, *, blur: float = 0.0) -> dict[str, float]:
    """Return the share of people whose attribute is read right; hair colours over those who have hair.

    Args:
        classifier: The classifier.
        people: Photos and attributes.
        blur: Standard deviation, in pixels of `SIZE`, by which the photos are blurred before: soft fakes are, too.
    """
    images = people.images
    if blur:
        soft = _blurred(torch.from_numpy(images).float(), torch.full((len(images),), blur))
        images = soft.round_().to(torch.uint8).numpy()
    right = (read_attributes(classifier, images.transpose(0, 2, 3, 1)) > 0.5) == (people.attributes > 0.5)
    haired = people.attributes[:, ATTRIBUTES.index("bald")] < 0.5
    shares = {}
    for place, name in enumerate(ATTRIBUTES):
        asked = haired if name in HAIR_COLOURS else np.ones(len(right), bool)
        shares[name] = round(float(right[asked, place].mean()), 4)
    return shares


def train_classifier(
    *,
    into: Path,
    recipe: Recipe | None = None,
    workers: int = 1,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render people, train the classifier and write `classifier.safetensors` (float16) with its card.

    Args:
        into: Folder for weights and card.
        recipe: What decides the weights; the shipped one if None.
        workers: Rendering processes.
        threads: torch threads of the training.
        progress: Called with one line now and then.

    Returns:
        The card; its accuracies are those of the weights as written, on people it was not trained on.

    Raises:
        RunError: The folder cannot be written.
    """
    recipe = recipe or Recipe()
    people = portraits(FIRST_CLASSIFIER_SEED, recipe.people, workers=workers, progress=progress)
    begun = time.process_time()
    trained = fit(recipe, people, threads=threads, progress=progress)
    seconds = time.process_time() - begun
    weights = {name: value for name, value in trained.state_dict().items() if value.is_floating_point()}
    path = into / f"{NAME}.safetensors"
    atomic_write(path, lambda to: save_file({name: value.half().contiguous() for name, value in weights.items()}, to))
    unseen = portraits(HELD_OUT_SEED, recipe.held_out, workers=workers)
    classifier = load_classifier(into)
    card = {
        "title": "Attribute classifier",
        "data": "photos of flbench's own procedural faces; no photograph of a person, no fake",
        "identities": f"seeds {FIRST_CLASSIFIER_SEED} to {FIRST_CLASSIFIER_SEED + recipe.people - 1}",
        "held_out": f"seeds {HELD_OUT_SEED} to {HELD_OUT_SEED + recipe.held_out - 1}",
        "renderer": RENDERER_VERSION,
        "sceneries": list(SCENERIES),
        "cameras": list(CAMERAS_KNOWN),
        "attributes": list(ATTRIBUTES),
        "parameters": sum(value.numel() for value in classifier.parameters()),
        "recipe": asdict(recipe),
        "threads": threads,
        "cpu_seconds": round(seconds),
        "accuracy": accuracy(classifier, unseen),
        "accuracy_blurred": accuracy(classifier, unseen, blur=0.5),
        "sha256": file_digest(path),
        "torch": torch.__version__,
    }
    write_json(into / f"{NAME}.json", card)
    return json.loads((into / f"{NAME}.json").read_text(encoding="utf-8"))
