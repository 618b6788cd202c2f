"""FakeLocator: an encoder-decoder that paints the fakeness map at full resolution."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flbench.errors import MethodError, UsageError, suggest
from flbench.locator import Batch, NeuralLocator, Prediction, Recipe, Training

from ._networks import (
    Normalise,
    check_input_size,
    choose,
    clamp_straight,
    fill_from_shipped,
    has_shipped_weights,
    hub,
    pad,
    resize,
    size_of,
    steady_norms,
    weights_missing,
)

LIMITING = ("after", "before")
LOSSES = ("l1", "l2", "dice", "focal")
_FIVE_WIDTHS = ("unet", "unetplusplus", "manet")
_NARROW = (128, 64, 32, 16, 16)


class FakeLocator(NeuralLocator):
    """Encoder-decoder that paints a gray-scale fakeness map at full resolution, with a real/fake head.

    The map is M = sigmoid(decoder(encoder(image))); ground truth is the gray difference of photo and fake, zeros for a
    photo, ones for a wholly synthetic image. The default is a light network that learns within minutes on a CPU;
    `paper` has the paper's network and optimiser. The paper starts from a DeepLabV3 trained whole, decoder included, on
    COCO with Pascal VOC's classes, as torchvision publishes it; here the encoder alone starts from ImageNet.

    Losses of a map M against the truth T, means over pixels unless noted, over all images of a batch:
        l1: |M - T|
        l2: (M - T)^2
        dice: 1 - (2 sum(M T) + 1) / (sum(M^2) + sum(T^2) + 1), per image; squares in the denominator, since without
            them the minimum does not lie at M = T when T is gray.
        focal: -T (1 - M)^g log M - (1 - T) M^g log(1 - M), the focal loss of Lin et al. 2017 with T as the weight of
            the two classes. Its minimum lies at M = T for T in {0, 1/2, 1} only.
    The loss of the whole is `map_weight` x the map's loss + `score_weight` x the cross-entropy of the head.

    With `face_parsing`, the encoder's feature maps are multiplied channel by channel with the face attention map while
    fitting; a white map stands for it when predicting. A photo has no edited region and thus no map of its own:
    it borrows the maps of the batch's fakes, as otherwise a white map would say "real" and nothing else were learnt.

    Args:
        architecture: Any architecture of segmentation-models-pytorch.
        encoder: Any of its encoders; `tu-<name>` is timm's.
        weights: Where the encoder starts: "imagenet", "none" (at random) or another name that smp knows.
        download: Whether weights may be fetched over the network; those of tf_efficientnet_lite0 are installed with
            flbench, all others come from the Hugging Face hub or its local cache.
        decoder_channels: Five widths for Unet, UnetPlusPlus and MAnet; None: narrow ones there, smp's elsewhere.
        limiting: Where the sigmoid is. "after": after the decoder. "before": on the feature maps that go from the
            encoder to the decoder; the decoder's output is then clamped to [0, 1], with the gradient let through.
        classifier: Whether there is a real/fake head, on the pooled feature maps of all encoder stages.
        loss: "l1", "l2", "dice" or "focal".
        focal_gamma: Exponent g of the focal loss.
        map_weight: Weight of the map's loss.
        score_weight: Weight of the head's loss.
        face_parsing: Whether face attention maps are used while fitting.
        input_size: Side in pixels that images are resized to for the network, and the map back; None: their own.
        **recipe: The options of `flbench.recipe.Recipe`.
    """

    title = "FakeLocator"
    paper = "Huang et al., FakeLocator: Robust Localization of GAN-Based Face Manipulations, arXiv 2001.09598"
    licence = "Apache-2.0; ImageNet weights of tf_efficientnet_lite0: Apache-2.0"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "architecture": "DeepLabV3",
            "encoder": "resnet101",
            "input_size": 224,
            "steps": None,
            "epochs": 10.0,
            "batch": 8,
            "lr": 1e-4,
            "beta1": 0.99,
            "beta2": 0.999,
            "weight_decay": 1e-7,
            "schedule": "constant",
            "flip": False,
        },
        "fp": {"face_parsing": True},
        "no-classifier": {"classifier": False},
        "l2": {"loss": "l2"},
        "dice": {"loss": "dice"},
        "focal": {"loss": "focal"},
    }

    def __init__(
        self,
        *,
        architecture: str = "Unet",
        encoder: str = "timm-tf_efficientnet_lite0",
        weights: str = "imagenet",
        download: bool = False,
        decoder_channels: Sequence[int] | None = None,
        limiting: str = "after",
        classifier: bool = True,
        loss: str = "l1",
        focal_gamma: float = 2.0,
        map_weight: float = 5.0,
        score_weight: float = 0.3,
        face_parsing: bool = False,
        input_size: int | None = None,
        **recipe: Any,
    ) -> None:
        super().__init__(recipe=Recipe(**recipe))
        self.architecture = architecture
        self.encoder = encoder
        self.weights = weights
        self.download = download
        self.decoder_channels = _decoder_channels(architecture, decoder_channels)
        self.limiting = choose("limiting", limiting, LIMITING)
        self.classifier = classifier
        self.map_loss = choose("loss", loss, LOSSES)
        self.focal_gamma = focal_gamma
        self.map_weight = map_weight
        self.score_weight = score_weight
        self.face_parsing = face_parsing
        self.input_size = check_input_size(input_size)

    def build(self, *, pretrained: bool) -> nn.Module:
        """Return the network, its encoder filled with the weights that the options ask for if `pretrained` is true.

        Raises:
            MethodError: Unknown architecture or encoder, a pair that smp cannot join, or weights that cannot be had.
        """
        segmenter = self._segmenter(None)
        if pretrained and self.weights != "none":
            if self.weights == "imagenet" and has_shipped_weights(self.encoder):
                fill_from_shipped(segmenter.encoder)
            else:
                segmenter = self._pretrained()
        # PAN halves the deepest feature map three times more.
        least = max(128 if self.architecture.lower() == "pan" else 32, self.input_size or 0)
        given: dict[str, Any] = {"limiting": self.limiting, "classifier": self.classifier, "least": least}
        try:
            network = _Network(segmenter, Normalise(self.encoder), **given)
        except AssertionError as error:  # timm's transformers with windows are made for images of one size
            hint = "set input_size to the size that it was made for"
            raise MethodError(f"encoder {self.encoder} takes no images of this size: {error}", hint=hint) from error
        # channels_last is faster on a CPU, but mobileone's backward pass aborts the process with it (torch 2.15).
        return network if "mobileone" in self.encoder else network.to(memory_format=torch.channels_last)

    def fit(self, training: Training) -> None:
        """Build the network and let the harness optimise it.

        Raises:
            MethodError: Face parsing is asked for and the training slice has no parsing map: nothing would differ.
        """
        if self.face_parsing and not training.attention:
            hint = "add parsing maps to the data set, or fit without face_parsing"
            raise MethodError(
                "fakelocator with face_parsing needs parsing maps, the training slice has none", hint=hint
            )
        super().fit(training)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of the map's loss and the head's.

        A module in evaluation mode gets the white map, so that states are judged by what they will do when predicting.
        """
        images, truth, attention = batch.images, batch.fakeness, borrowed(batch.attention, batch.labels)
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images, truth, attention = resize(images, size), resize(truth, size), resize(attention, size)
        maps, logits = module(images, attention if self.face_parsing and module.training else None)
        total = self.map_weight * map_loss(self.map_loss, maps.float(), truth, gamma=self.focal_gamma)
        if logits is not None:
            head = F.binary_cross_entropy_with_logits(logits.float(), batch.labels)
            total = total + self.score_weight * head
        return total

    def forward(self, module: nn.Module, images: Tensor) -> Prediction:
        """Return maps of the images' own size, and the head's probabilities if there is a head."""
        size = size_of(images)
        own = size if self.input_size is None else (self.input_size, self.input_size)
        maps, logits = module(resize(images, own))
        maps = resize(maps.float(), size).clamp(0, 1)
        return Prediction(maps, None if logits is None else logits.float().sigmoid())

    def _segmenter(self, weights: str | None) -> Any:
        """Return smp's model without a head.

        Raises:
            MethodError: Unknown architecture or encoder, or a pair that smp cannot join.
        """
        import segmentation_models_pytorch as smp

        options: dict[str, Any] = {}
        if self.decoder_channels is not None:
            options["decoder_channels"] = self.decoder_channels
        if self.architecture.lower() == "dpt":
            options["dynamic_img_size"] = True
        known = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
        if self.architecture.lower() not in known:
            hint = suggest(self.architecture.lower(), known)
            raise MethodError(f"architecture {self.architecture} is not in segmentation-models-pytorch", hint=hint)
        with warnings.catch_warnings():
            # smp would have `timm-` encoders replaced by `tu-` ones, which differ in padding and widths.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            try:
                return smp.create_model(
                    self.architecture, encoder_name=self.encoder, encoder_weights=weights, classes=1, **options
                )
            except KeyError as error:
                if weights is not None:
                    raise
                near = get_close_matches(self.encoder, smp.encoders.get_encoder_names(), n=2)
                hint = f"did you mean {' or '.join(near)}?" if near else "one of its encoders, or tu-<timm model>"
                message = f"encoder {self.encoder} is not in segmentation-models-pytorch"
                raise MethodError(message, hint=hint) from error
            except Exception as error:
                if weights is not None:
                    raise
                message = f"{self.architecture} cannot be built on {self.encoder}: {error}"
                raise MethodError(message, hint="choose another encoder or architecture") from error

    def _pretrained(self) -> Any:
        """Return smp's model with weights from the hub or its cache.

        Raises:
            MethodError: The weights do not exist or cannot be had.
        """
        import timm

        if self.encoder.startswith("tu-"):
            name = self.encoder.removeprefix("tu-")
            # timm itself only logs a warning and starts at random where a model has no weights.
            if self.weights != "imagenet" or not timm.is_model_pretrained(name):
                hint = "name the weights in the encoder, tu-<model>.<tag>, with weights=imagenet; or set weights=none"
                raise MethodError(f"timm has no weights {self.weights} for {name}", hint=hint)
        try:
            with hub(download=self.download):
                return self._segmenter(self.weights)
        except KeyError as error:
            hint = "set weights=none for a random start"
            raise MethodError(f"weights {self.weights} of {self.encoder}: {error.args[0]}", hint=hint) from error
        except Exception as error:  # the hub raises its own, httpx's and the system's errors
            raise weights_missing(self.weights, self.encoder, error, download=self.download) from error


class _Network(nn.Module):
    """The segmentation network between normalisation and limiting layer, with the head.

    Args:
        segmenter: smp's model: encoder, decoder and segmentation head are taken from it.
        normalise: What the encoder expects.
        limiting: See `FakeLocator`.
        classifier: Whether to have a head.
        least: Smallest side in pixels that the segmenter can take.
    """

    def __init__(self, segmenter: Any, normalise: nn.Module, *, limiting: str, classifier: bool, least: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.segmenter: Any = segmenter
        self.limiting = limiting
        self.least = least
        # 32 suits every convolutional encoder, dilated ones too; a transformer's patches may ask for another step.
        stride = segmenter.encoder.output_stride
        self.multiple = 32 if 32 % stride == 0 else stride
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(self._channels(), 1)) if classifier else None

    def forward(self, images: Tensor, attention: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return maps (B, H, W) in [0, 1] and logits (B,) of images (B, 3, H, W) in [0, 1].

        Args:
            images: Of any size; the sides are padded for the network and cropped back.
            attention: float (B, H, W), multiplied with the encoder's feature maps; None: white, nothing is multiplied.
        """
        height, width = images.shape[-2:]
        padded = pad(self.normalise(images), multiple=self.multiple, least=self.least)
        if attention is not None:
            attention = pad(attention.unsqueeze(1), multiple=self.multiple, least=self.least)
        with steady_norms(self, images):
            features, others = self._features(padded)
            scaled = [self._attend(f, attention) if f is not padded else f for f in features]
            maps = self.segmenter.segmentation_head(self.segmenter.decoder(scaled, *others))
        maps = maps[:, 0, :height, :width]
        maps = maps.sigmoid() if self.limiting == "after" else clamp_straight(maps)
        if self.head is None:
            return maps, None
        pooled = [_pool(f, attention) for f in scaled if f is not padded]
        return maps, self.head(torch.cat(pooled, dim=1)).squeeze(1)

    def _features(self, images: Tensor) -> tuple[Sequence[Tensor], Sequence[Any]]:
        """Return the encoder's feature maps, and what transformer encoders give besides."""
        output = self.segmenter.encoder(images)
        return (output[0], output[1:]) if isinstance(output, tuple) else (output, ())

    def _attend(self, features: Tensor, attention: Tensor | None) -> Tensor:
        """Limit feature maps if the limiting layer is here, then multiply each channel with the attention map."""
        limited = features.sigmoid() if self.limiting == "before" else features
        return limited if attention is None else limited * resize(attention, size_of(features))

    @torch.no_grad()
    def _channels(self) -> int:
        """Return the number of channels of all feature maps together, learnt from a blank image."""
        self.segmenter.eval()
        side = max(self.least, 2 * self.multiple)
        blank = torch.zeros(1, 3, side, side)
        features, _ = self._features(blank)
        self.segmenter.train()
        return sum(f.shape[1] for f in features if f is not blank)


def map_loss(kind: str, maps: Tensor, truth: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the scalar loss of maps against the truth, both (B, H, W) in [0, 1]; formulas: see `FakeLocator`."""
    if kind == "l1":
        return (maps - truth).abs().mean()
    if kind == "l2":
        return (maps - truth).square().mean()
    if kind == "dice":
        both = (maps * truth).sum(dim=(1, 2))
        each = maps.square().sum(dim=(1, 2)) + truth.square().sum(dim=(1, 2))
        return (1 - (2 * both + 1) / (each + 1)).mean()
    fake = maps.clamp_min(1e-6)
    real = (1 - maps).clamp_min(1e-6)
    return -(truth * real**gamma * fake.log() + (1 - truth) * fake**gamma * real.log()).mean()


def borrowed(attention: Tensor, labels: Tensor) -> Tensor:
    """Give the real images (label 0) the attention maps (B, H, W) of the batch's fakes, in turn."""
    fakes = labels > 0.5
    if not fakes.any():
        return attention
    lent = attention[fakes]
    reals = (~fakes).nonzero().squeeze(1)
    result = attention.clone()
    result[reals] = lent[torch.arange(len(reals), device=lent.device) % len(lent)]
    return result


def _pool(features: Tensor, attention: Tensor | None) -> Tensor:
    """Return the mean of each channel, weighted by the attention map, so that its area does not change the scale."""
    if attention is None:
        return features.mean(dim=(2, 3))
    weight = resize(attention, size_of(features)).sum(dim=(2, 3))
    return features.sum(dim=(2, 3)) / weight.clamp_min(1.0)


def _decoder_channels(architecture: str, channels: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the decoder's widths, or None where smp's are kept.

    Raises:
        UsageError: Widths for an architecture that takes none, or not five of them.
    """
    if architecture.lower() not in _FIVE_WIDTHS:
        if channels is not None:
            raise UsageError(f"decoder_channels has no meaning for {architecture}", hint="leave it out")
        return None
    if channels is None:
        return _NARROW
    if len(channels) != 5:
        raise UsageError(f"decoder_channels={list(channels)} needs five numbers", hint="such as 128,64,32,16,16")
    return tuple(int(c) for c in channels)
