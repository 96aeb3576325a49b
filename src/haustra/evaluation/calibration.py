"""Calibration: the distance between the scores of boxes and the shares of them that are right.

Seven of ten boxes with a score of 0.7 should be right.
A box is right if it matches a label at IoU 0.5, each label once. The expected calibration error is
that of Guo et al. 2017, On Calibration of Modern Neural Networks, and for boxes of Küppers et al.
2020, Multivariate Confidence Calibration for Object Detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haustra.core.detections import Detections
from haustra.evaluation.metrics import ranked_matches

NUM_BINS = 10
LEAST_SCORE = 0.05
"""Least score that counts. Slots below it say that there is nothing, and so many would hide all
other errors."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The boxes whose score lies in low..high."""

    low: float
    high: float
    count: int
    mean_score: float | None  # None for a bin without boxes
    share_right: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Distance between the scores of boxes and the shares of them that are right."""

    num_boxes: int  # boxes with a score of at least 0.05
    expected_error: float | None
    """Mean of |mean score - share right| over the boxes' bins; None without any box."""
    largest_error: float | None  # |mean score - share right| of the worst bin
    bins: list[ReliabilityBin]
    right_counts: list[int]  # number of right boxes by bin
    wrong_counts: list[int]


def calibrate(truths: Sequence[Detections], predictions: Sequence[Detections]) -> Calibration:
    """Sort detections of score 0.05 and up into ten bins of equal width."""
    shown = [prediction.above(LEAST_SCORE) for prediction in predictions]
    score, is_right = ranked_matches(truths, shown)
    bin_of = np.minimum((score * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(bin_of, minlength=NUM_BINS)
    rights = np.bincount(bin_of, weights=is_right, minlength=NUM_BINS).astype(int)
    sums = np.bincount(bin_of, weights=score, minlength=NUM_BINS)
    is_filled = counts > 0
    mean_scores, shares = (each[is_filled] / counts[is_filled] for each in (sums, rights))
    errors = np.abs(mean_scores - shares)
    return Calibration(
        num_boxes=len(score),
        expected_error=(
            float(np.average(errors, weights=counts[is_filled])) if len(score) else None
        ),
        largest_error=float(errors.max()) if len(score) else None,
        bins=[
            ReliabilityBin(
                low=number / NUM_BINS,
                high=(number + 1) / NUM_BINS,
                count=count,
                mean_score=total / count if count else None,
                share_right=hits / count if count else None,
            )
            for number, (count, hits, total) in enumerate(
                zip(counts.tolist(), rights.tolist(), sums.tolist(), strict=True)
            )
        ],
        right_counts=rights.tolist(),
        wrong_counts=(counts - rights).tolist(),
    )
