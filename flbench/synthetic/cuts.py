"""Haircuts: what a person's latents mean for a man and for a woman."""

from __future__ import annotations

from dataclasses import dataclass

from flbench.synthetic.identity import Attributes, Hair, Identity


@dataclass(frozen=True)
class Cut:
    """One haircut; lengths in head units."""

    top: float
    """Volume above the skull."""
    side: float
    """Volume beside the head."""
    ends: float
    """The height v at which the hair beside the face ends."""
    cover: float
    """How far the hair lies over temples and cheeks, as a share of the head's width."""
    curl: float
    """0 for strands that run along the cut, 1 for curls without direction."""
    wave: float
    parted: bool
    """Strands fall to both sides of a parting; otherwise they are combed back from the forehead."""
    tail: float
    """0 none, 1 a pony tail behind one shoulder, 2 a bun on the crown."""
    recession: float
    """How far the temples are bare."""
    density: float
    """Coverage of the hair; shorn hair lets the skin shine through."""


def choose_cut(identity: Identity, attributes: Attributes) -> Cut:
    """Return the haircut of one look; of one person, a man and a woman have different ones."""
    hair = identity.hair
    return _men(hair, old=not attributes.young) if attributes.male else _women(hair)


def _men(hair: Hair, *, old: bool) -> Cut:
    volume, kind = hair.volume, hair.cut
    recession = 0.75 * hair.recession + 0.45 * old
    if kind < 0.16:  # shorn
        return Cut(0.026, 0.014, -0.08, 0.12, 0.5, 0.2, False, 0, recession * 0.8, 0.94)
    if kind < 0.46:  # short, combed back or up
        return Cut(volume * 0.95, 0.022, -0.05, 0.07, 0.10, hair.curl, False, 0, recession, 1)
    if kind < 0.72:  # side parting
        return Cut(volume * 0.85, 0.030, -0.03, 0.08, 0.05, hair.curl, True, 0, recession * 0.8, 1)
    if kind < 0.87:  # curls
        return Cut(volume * 1.1, 0.045, -0.02, 0.08, 1.0, 1.0, False, 0, recession * 0.7, 1)
    return Cut(volume, volume * 0.8, 0.25 + 0.4 * hair.length, 0.06, 0.15, 0.4 + hair.curl, True, 0, recession * 0.6, 1)


def _women(hair: Hair) -> Cut:
    volume, kind = hair.volume, hair.cut
    if kind < 0.32:  # long
        return Cut(volume, volume * 0.9, 0.75 + 0.4 * hair.length, 0.09, 0.0, hair.curl, True, 0, 0.1, 1)
    if kind < 0.50:  # long and wavy
        return Cut(volume, volume * 1.6, 0.65 + 0.4 * hair.length, 0.08, 0.25, 1.6, True, 0, 0.1, 1)
    if kind < 0.68:  # bob
        return Cut(volume * 1.1, volume * 1.2, 0.32 + 0.25 * hair.length, 0.10, 0.0, hair.curl, True, 0, 0.1, 1)
    if kind < 0.80:  # curls, up to an afro
        round_off = 0.10 + 0.16 * hair.length
        return Cut(round_off, round_off * 1.15, 0.20 + 0.5 * hair.length, 0.07, 1.0, 1.0, False, 0, 0.1, 1)
    if kind < 0.92:  # tied back
        return Cut(volume * 0.6, 0.022, -0.03, 0.12, 0.0, 0.2, hair.part > 0, 1 if hair.length < 0.6 else 2, 0.15, 1)
    return Cut(volume * 1.2, 0.045, 0.06, 0.07, 0.20, hair.curl, True, 0, 0.1, 1)  # short
