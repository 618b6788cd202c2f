"""The renderer: an identity and its attributes become linear-light pixels and an exact parsing map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flbench.data.fakeness import CLASSES
from flbench.synthetic import backdrop, body, clothes, features, hair, scene, skin
from flbench.synthetic.fields import Frame
from flbench.synthetic.identity import (
    ATTRIBUTES,
    EDITS,
    GEOMETRIC_EDITS,
    HAIR_COLOURS,
    SCENERIES,
    Attributes,
    Identity,
    sample_identity,
)
from flbench.synthetic.profiles import RENDERER_VERSION

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "EDITS",
    "GEOMETRIC_EDITS",
    "HAIR_COLOURS",
    "RENDERER_VERSION",
    "SCENERIES",
    "Attributes",
    "Identity",
    "render",
    "sample_identity",
]


@torch.no_grad()
def render(identities: Sequence[Identity], attributes: Sequence[Attributes], size: int) -> tuple[Tensor, Tensor]:
    """Render faces. Two renders of one identity differ only where an attribute does: all noise belongs to the identity.

    Every face is painted by itself, so a batch gives the same bits as its faces one by one.

    Args:
        identities: B people.
        attributes: What each of them looks like here; `identity.attributes` for the photo itself.
        size: Side of the square picture in pixels.

    Returns:
        Linear-light RGB, float32 (B, 3, size, size), mostly in [0, 1] and at most 1.6; and the parsing map, uint8
        (B, size, size), with CelebAMask-HQ class numbers.
    """
    painted = [_render_one(identity, look, size) for identity, look in zip(identities, attributes, strict=True)]
    rgb, classes = zip(*painted, strict=True)
    return torch.stack(rgb), torch.stack(classes)


def _render_one(identity: Identity, attributes: Attributes, size: int) -> tuple[Tensor, Tensor]:
    """Paint one face from back to front."""
    face = scene.Scene(identity, attributes, Frame(size, identity.pose))
    strands = hair.comb(face)
    backdrop.paint_background(face)
    hair.paint_back_hair(face, strands)
    body.paint_neck(face)
    clothes.paint_cloth(face)
    body.paint_ears(face)
    skin.paint_face(face)
    features.paint_mouth(face)
    features.paint_eyes(face)
    features.paint_brows(face)
    features.paint_mustache(face)
    hair.paint_top_hair(face, strands)
    hair.paint_bangs(face, strands)
    clothes.paint_hat(face, strands.outline)
    features.paint_eyeglasses(face)
    return face.canvas.rgb.clamp_(0, 1.6), face.canvas.classes
