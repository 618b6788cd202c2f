"""Small generators with the upsampling designs of published GANs; every family is one entry of `FAMILIES`.

All of them map (image, difference of attribute vectors) to an edited image. Images are float32 (B, 3, H, W) in [-1, 1]
with H and W divisible by 16; differences are float32 (B, 10) in {-1, 0, 1}, in the order of `identity.ATTRIBUTES`.
A zero difference asks for a reconstruction: what an attribute-free generator would do to the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from flbench.data.manifest import ENTIRE
from flbench.synthetic.editors import STGAN, AttGAN, IcGAN, StarGAN
from flbench.synthetic.identity import ATTRIBUTES
from flbench.synthetic.layers import conv, halve
from flbench.synthetic.profiles import OFFERED
from flbench.synthetic.synthesisers import PGGAN, StyleGAN, StyleGAN2

NATIVE = 128
"""Side of the images that the shipped weights were trained on."""


class Verdict(NamedTuple):
    """What a discriminator says of B images."""

    patches: Tensor
    """float32 (B, 1, H / 8, W / 8): 1 for a photo, 0 for a fake."""
    attributes: Tensor
    """float32 (B, 10): logits of the attributes."""


class Discriminator(nn.Module):
    """Judge patches of 22 pixels, and name the attributes of the whole face; used in training only.

    Source: Isola et al. 2017 (patches), Mao et al. 2017 (least squares); the second head is the attribute classifier
    that STGAN, AttGAN and StarGAN train beside their discriminators.
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            halve(3, width, norm=False), halve(width, 2 * width, norm=False), halve(2 * width, 4 * width, norm=False)
        )
        self.patches = conv(4 * width, 1)
        self.face = nn.Sequential(halve(4 * width, 6 * width, norm=True), halve(6 * width, 6 * width, norm=True))
        self.attributes = nn.Linear(6 * width, len(ATTRIBUTES))

    def forward(self, image: Tensor) -> Verdict:
        """(B, 3, H, W) -> the verdict."""
        features = self.trunk(image)
        return Verdict(self.patches(features), self.attributes(self.face(features).amax((2, 3))))


@dataclass(frozen=True, kw_only=True)
class Family:
    """One generator family: what it stands for, how to build it, and how it is trained.

    Attributes:
        name: How it is called in a manifest.
        title: Name to print.
        paper: Citation of the original.
        upsampling: The operator that enlarges features: `tconv`, `nearest`, `nearest+blur` or `tconv+fir`.
        build: Returns the network.
        steps: Steps of training that the shipped weights had.
        sharpness: Weight of the error at full sharpness, see `losses.region_loss`.
        adversarial: Weight of the discriminator's verdict.
        naming: Weight of its attribute classifier.
        emphasis: How often edits are sampled in training, in place of `pairs.WEIGHTS`, for those that come out faint.
    """

    name: str
    title: str
    paper: str
    upsampling: str
    build: Callable[[], nn.Module]
    steps: int
    sharpness: float = 0.15
    adversarial: float = 0.02
    naming: float = 0.02
    emphasis: Mapping[str, float] = field(default_factory=dict)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Its attributes in the paper's Table 1."""
        return OFFERED[self.name]

    @property
    def learnt(self) -> tuple[str, ...]:
        """The edits it is trained on; one that only makes whole faces learns those that change a whole face."""
        return tuple(name for name in self.attributes if name != ENTIRE) or ("smile", "age", "gender")


_FAMILIES = (
    Family(
        name="stgan",
        title="STGAN (small)",
        paper="Liu et al., CVPR 2019, arXiv 1904.09709",
        upsampling="tconv",
        build=STGAN,
        steps=5000,
        naming=0.2,
    ),
    Family(
        name="attgan",
        title="AttGAN (small)",
        paper="He et al., TIP 2019, arXiv 1711.10678",
        upsampling="tconv",
        build=AttGAN,
        steps=7000,
        naming=0.2,
    ),
    Family(
        name="stargan",
        title="StarGAN (small)",
        paper="Choi et al., CVPR 2018, arXiv 1711.09020",
        upsampling="tconv",
        build=StarGAN,
        steps=4500,
        sharpness=0.5,
        adversarial=0.05,
        naming=0.2,
        emphasis={"age": 8},
    ),
    Family(
        name="icgan",
        title="IcGAN (small)",
        paper="Perarnau et al., NIPS workshop 2016, arXiv 1611.06355",
        upsampling="tconv",
        build=IcGAN,
        steps=4500,
        naming=0.2,
    ),
    Family(
        name="stylegan",
        title="StyleGAN (small, conditional)",
        paper="Karras et al., CVPR 2019, arXiv 1812.04948",
        upsampling="nearest+blur",
        build=StyleGAN,
        steps=1800,
        sharpness=1.0,
        adversarial=0.15,
        naming=0.1,
    ),
    Family(
        name="pggan",
        title="PGGAN (small, conditional)",
        paper="Karras et al., ICLR 2018, arXiv 1710.10196",
        upsampling="nearest",
        build=PGGAN,
        steps=2000,
        sharpness=1.0,
        adversarial=0.15,
        naming=0.1,
    ),
    Family(
        name="stylegan2",
        title="StyleGAN2 (small, conditional)",
        paper="Karras et al., CVPR 2020, arXiv 1912.04958",
        upsampling="tconv+fir",
        build=StyleGAN2,
        steps=1500,
        sharpness=1.0,
        adversarial=0.15,
        naming=0.1,
    ),
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in _FAMILIES}
"""Families by name, in the order of the paper's Table 1."""
