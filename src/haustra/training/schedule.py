"""The learning rate as a function of how far the training is, by steps or by time."""

import math
from typing import Literal

WARM_UP_SHARE = 0.03
"""Share of the training in which the rate rises from near zero."""


def learning_rate(
    progress: float, *, start: float, end: float, scheduler: Literal["linear", "cosine"]
) -> float:
    """Return the rate at `progress` (0..1): a linear rise, then a fall from `start` to `end`."""
    if progress < WARM_UP_SHARE:
        return start * max(0.01, progress / WARM_UP_SHARE)
    fallen = min(1.0, (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    if scheduler == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return start + (end - start) * fallen
