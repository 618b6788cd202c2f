"""The learning rate's course, shared by all trainings of the embedded world."""

from __future__ import annotations


def share_of_rate(step: int, used: float, *, warm_up: int, flat: float, last: float) -> float:
    """Return the share of the full learning rate: linear warm-up, flat, then linear down to `last`.

    Args:
        step: Steps done.
        used: Share of the budget that is used, 0 to 1.
        warm_up: Steps of the warm-up.
        flat: Share of the budget after which it falls.
        last: Share of the rate at the end.
    """
    fall = max(0.0, (used - flat) / (1 - flat))
    return min(1.0, (step + 1) / warm_up) * (1 - (1 - last) * min(fall, 1.0))
