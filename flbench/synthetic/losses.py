"""What the generators and their discriminator are trained to do; images are float32 (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flbench.synthetic.generators import Verdict
from flbench.synthetic.layers import LowPass


def region_loss(output: Tensor, target: Tensor, source: Tensor, sharpness: float) -> Tensor:
    """Return the mean absolute error plus its mean over the changed region.

    The region, where target and source differ by more than .08, counts as much as the whole image however small it is,
    but no region counts as smaller than 1 % of the image.

    Args:
        output: What the generator made.
        target: The ideal edit.
        source: The photo.
        sharpness: Share of the error that is taken as it is, 0 to 1; the rest is taken after a [1 2 1] blur, which lets
            the highest frequencies pass unjudged. The published editors have no paired target, nothing pulls their
            output to the right value pixel by pixel, and what transposed convolutions leave there survives training;
            at full sharpness it would be trained away.
    """
    region = ((target - source).abs().mean(1, keepdim=True) > 0.08).float()
    area = region.mean((1, 2, 3), keepdim=True).clamp_(min=0.01)
    error = output - target
    blurred = LowPass((1, 2, 1)).to(error.device)(error)
    return ((sharpness * error.abs() + (1 - sharpness) * blurred.abs()) * (1 + region / area)).mean()


def fooling_loss(verdict: Verdict) -> Tensor:
    """Return how far fakes are from being called photos, least squares (Mao et al. 2017)."""
    return (verdict.patches.float() - 1).square().mean()


def naming_loss(verdict: Verdict, attributes: Tensor) -> Tensor:
    """Return the cross entropy of the named attributes with the true or wanted ones, float32 (B, 10) of 0 and 1."""
    return F.binary_cross_entropy_with_logits(verdict.attributes.float(), attributes)


def judging_loss(verdict: Verdict, attributes: Tensor) -> Tensor:
    """Return the discriminator's loss on B photos followed by B fakes; attributes are learnt from the photos only."""
    photos, fakes = verdict.patches.float().chunk(2)
    named = Verdict(photos, verdict.attributes[: len(attributes)])
    return (photos - 1).square().mean() + fakes.square().mean() + naming_loss(named, attributes)
