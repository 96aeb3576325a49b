"""Paired differences of two detectors on the same frames, with bootstrap intervals.

Both are measured on the same draws of groups, so that frames that are hard for both cancel out
(Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """B minus A."""
    interval: Interval
    """95 % interval of the difference."""
    share_b_better: float
    """Share of the draws in which B is better; a tie counts as half."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences of detector B from detector A."""

    num_images: int
    num_groups: int
    num_resamples: int
    seed: int
    differences: list[Difference]


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
    """Compare two detectors on the same labeled frames, which have at least one box.

    Args:
        truths: Labeled boxes, one entry per image.
        predictions_a: Detections of A, in the same order, at every score.
        predictions_b: Detections of B.
        groups: Group of each image. Groups are drawn whole, with replacement.
        thresholds: Score thresholds of A and of B for precision, recall and F1.
        num_resamples: Number of draws, at least 1. A draw without a labeled box is left out.
        seed: Seed of the draws.
        progress: Receives the progress.
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
