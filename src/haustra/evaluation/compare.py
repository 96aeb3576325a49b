"""Two detectors on the same frames: paired differences with bootstrap intervals.

Both are measured on the same draws of groups, so what makes frames hard for both cancels out
(Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from haustra.core.detections import Detections
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluation.bootstrap import (
    Interval,
    draw_groups,
    match_images,
    members_of_groups,
    percentile_interval,
)

METRICS = ("ap50", "ap75", "ap50_95", "precision", "recall", "f1")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of both detectors."""

    metric: str
    a: float
    b: float
    difference: float
    """Of B minus A."""
    interval: Interval
    """95 % interval of the difference."""
    share_b_better: float
    """Share of the draws in which B is better, half of the ties counted."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Detector B against detector A."""

    num_images: int
    num_groups: int
    num_resamples: int
    seed: int
    differences: list[Difference]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def compare_detectors(
    truths: Sequence[Detections],
    predictions_a: Sequence[Detections],
    predictions_b: Sequence[Detections],
    *,
    groups: Sequence[str],
    thresholds: tuple[float, float],
    num_resamples: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two detectors on the same labelled frames, at least one box among them.

    Args:
        truths: labelled boxes, one entry per image.
        predictions_a: of one detector, in the same order, at every score.
        predictions_b: of the other.
        groups: of each image; they are drawn whole, with replacement.
        thresholds: score of A and of B for precision, recall and F1.
        num_resamples: draws, at least 1; one without any labelled box is left out.
        seed: of the draws.
        progress: where to show how far it is.
    """
    matched = [
        match_images(truths, predictions, threshold=threshold)
        for predictions, threshold in zip((predictions_a, predictions_b), thresholds, strict=True)
    ]
    members = members_of_groups(groups)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in track(
        range(num_resamples),
        progress=progress or SilentProgress(),
        description="compare",
        total=num_resamples,
    ):
        images = draw_groups(members, rng=rng)
        a, b = (each.measure(images) for each in matched)
        draws.append([b[name] - a[name] for name in METRICS])
    drawn = np.array(draws)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    every = np.arange(len(truths))
    whole_a, whole_b = (each.measure(every) for each in matched)
    return Comparison(
        num_images=len(truths),
        num_groups=len(members),
        num_resamples=num_resamples,
        seed=seed,
        differences=[
            Difference(
                metric=name,
                a=whole_a[name],
                b=whole_b[name],
                difference=whole_b[name] - whole_a[name],
                interval=percentile_interval(drawn[:, column]),
                share_b_better=float(
                    (drawn[:, column] > 0).mean() + (drawn[:, column] == 0).mean() / 2
                ),
            )
            for column, name in enumerate(METRICS)
        ],
    )
