"""Differences between an exported detector and its checkpoint, and their latencies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Slots
from haustra.core.progress import Progress
from haustra.evaluation.evaluation import evaluate_frames
from haustra.evaluation.frames import SplitFrames
from haustra.evaluation.metrics import AveragePrecision
from haustra.inference.detector import Detector
from haustra.warehouse.dataset import Split

COMPARED_SCORE = 0.05
"""Lowest score of the slots that are compared. Slots below it are noise whose order is unstable."""
PX_PER_SCORE = 100.0
"""Pixels of a box that weigh as much as a score difference of 1, when slots are paired. Boxes alone
do not identify a slot, since two slots may both cover the image."""
SLOTS_PER_TIPPING = 500
"""Number of slots of which one may have another score. Where two candidates have equal scores,
rounding decides which of them excludes the other, and the scores around them jump."""
LATENCY_ROUNDS = 50


@dataclass(frozen=True, kw_only=True)
class SplitAnswers:
    """Slots of a detector on every image of a split."""

    average_precision: AveragePrecision
    slots: list[Slots]  # boxes [S,4] in 0..1 and scores [S] of each image


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Differences of one detector's slots from those of a reference.

    The first three are None if no slot has `COMPARED_SCORE`, the others if no polyp is labeled.
    """

    max_box_shift_px: float | None
    """Largest shift of a side of a box, in pixels of the letterboxed image."""
    median_box_shift_px: float | None
    score_shift: float | None
    """Largest shift of a score, except for one slot in `SLOTS_PER_TIPPING`."""
    ap50_loss: float | None  # AP50 of the reference minus AP50 of this detector
    ap50_95_loss: float | None


def answer_split(
    split: Split, detector: Detector, *, progress: Progress | None = None
) -> SplitAnswers:
    """Run a detector over a split and keep its slots and its average precision."""
    slots: list[Slots] = []

    def predict(images: NDArray[np.uint8]) -> Slots:
        boxes, scores = detector.predict_slots(images)
        slots.extend(zip(boxes, scores, strict=True))
        return boxes, scores

    recording = replace(detector, predict_slots=predict)
    evaluation = evaluate_frames(SplitFrames(split), recording, progress=progress)
    return SplitAnswers(average_precision=evaluation.metrics.average_precision, slots=slots)


def _shifts(found: Slots, sought: Slots, *, size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Return the shifts [n,2], in pixels and in score, from each slot to the most similar one.

    Slots are sorted by score, and two with almost equal scores may swap, so that positions do not
    identify them.
    """
    boxes, scores = found
    others, other_scores = sought
    seen = scores >= COMPARED_SCORE
    distances = np.abs((boxes[seen, None] - others[None]) * np.tile(size_wh, 2)).max(axis=2)
    score_distances = np.abs(scores[seen, None] - other_scores[None])
    nearest = (distances + PX_PER_SCORE * score_distances).argmin(axis=1)
    rows = np.arange(len(nearest))
    return np.stack([distances[rows, nearest], score_distances[rows, nearest]], axis=1)


def compare_answers(
    answers: SplitAnswers, *, reference: SplitAnswers, size_wh: tuple[int, int]
) -> Difference:
    """Compare slots of at least `COMPARED_SCORE` in both directions, and average precision.

    `size_wh` is the width and height of the letterboxed images, in pixels.
    """
    shifts = np.concatenate(
        [
            _shifts(found, sought, size_wh=size_wh)
            for one, other in zip(answers.slots, reference.slots, strict=True)
            for found, sought in ((one, other), (other, one))
        ]
    )
    has_slots = len(shifts) > 0
    ours, theirs = answers.average_precision, reference.average_precision
    return Difference(
        max_box_shift_px=float(shifts[:, 0].max()) if has_slots else None,
        median_box_shift_px=float(np.median(shifts[:, 0])) if has_slots else None,
        score_shift=_largest_but_tipped(shifts[:, 1]) if has_slots else None,
        ap50_loss=_loss(theirs.ap50, ours.ap50),
        ap50_95_loss=_loss(theirs.ap50_95, ours.ap50_95),
    )


def _loss(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _largest_but_tipped(shifts: NDArray[np.float64]) -> float:
    if np.isnan(shifts).any():
        return float("nan")
    # Each slot was compared in both directions.
    may_tip = len(shifts) // (2 * SLOTS_PER_TIPPING)
    return float(np.sort(shifts)[-1 - 2 * may_tip])


def median_latencies_ms(
    detectors: Sequence[Detector], *, image: NDArray[np.uint8], rounds: int = LATENCY_ROUNDS
) -> list[float]:
    """Time detectors in turns on one image uint8 [H,W,3], so that load of the machine hits all."""
    seconds = np.zeros((rounds, len(detectors)))
    for detector in detectors:
        detector.predict_slots(image[None])
    for row in seconds:
        for position, detector in enumerate(detectors):
            started = time.perf_counter()
            detector.predict_slots(image[None])
            row[position] = time.perf_counter() - started
    return [float(value) for value in np.median(seconds, axis=0) * 1000]
