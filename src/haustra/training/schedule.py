"""The learning rate as a function of the share of the training that is done."""

import math
from typing import Literal


def learning_rate(
    done: float,
    *,
    start: float,
    end: float,
    scheduler: Literal["linear", "cosine"],
    warm_up_share: float,
) -> float:
    """Return the rate at share `done` (0..1): a linear rise, then a fall from `start` to `end`."""
    if done < warm_up_share:
        return start * max(0.01, done / warm_up_share)
    fallen = min(1.0, (done - warm_up_share) / (1 - warm_up_share))
    if scheduler == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return start + (end - start) * fallen
