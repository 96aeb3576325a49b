"""Scores by the size of polyps relative to the picture.

COCO's classes of size count pixels of the source image, so a frame at another resolution is in
another class. Here a polyp's size is the square root of its box's share of the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from haustra.core.boxes import box_areas
from haustra.core.detections import Detections
from haustra.evaluation.metrics import evaluate_by_coco, match_detections

SIZE_LIMITS = (0.0, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class SizeScore:
    """Scores of the polyps of one size; None where there is none."""

    low: float  # smallest size, 0..1
    high: float  # sizes are below it; the last class includes it
    num_truths: int
    recall: float | None = None  # at IoU 0.5 and the threshold
    ap50: float | None = None
    ap75: float | None = None
    ap50_95: float | None = None


def size_tier(
    truths: Sequence[Detections], predictions: Sequence[Detections], *, threshold: float
) -> list[SizeScore]:
    """Score the labeled boxes of each size, the smallest first.

    As with COCO's sizes, a detection without a match counts in the class of its own size.
    """
    hits, scaled_truths, scaled_predictions = [np.zeros(0, dtype=bool)], [], []
    for truth, prediction in zip(truths, predictions, strict=True):
        matched, _, _ = match_detections(truth, prediction.above(threshold))
        hits.append(np.isin(np.arange(len(truth)), matched))
        # In this unit each picture has an area of 1, however many pixels it has.
        unit_px = math.sqrt(math.prod(truth.image_size_wh))
        scaled_truths.append(replace(truth, boxes_px=truth.boxes_px / unit_px))
        scaled_predictions.append(replace(prediction, boxes_px=prediction.boxes_px / unit_px))
    areas = np.concatenate([np.zeros(0), *(box_areas(each.boxes_px) for each in scaled_truths)])
    is_found = np.concatenate(hits)
    # COCO's ranges include both ends.
    ranges = [(low**2, float(np.nextafter(high**2, 0))) for low, high in pairwise(SIZE_LIMITS)]
    ranges[-1] = (ranges[-1][0], math.inf)
    precisions = None
    if len(areas):
        evaluation = evaluate_by_coco(scaled_truths, scaled_predictions, areas=ranges)
        # Its axes are IoU from 0.50 to 0.95, recall, category, size, and detections an image.
        precisions = evaluation.eval["precision"][:, :, 0, :, -1].mean(axis=1)
    scores = []
    for number, (low, high) in enumerate(pairwise(SIZE_LIMITS)):
        least, most = ranges[number]
        chosen = (areas >= least) & (areas <= most)
        score = SizeScore(low=low, high=high, num_truths=int(chosen.sum()))
        if precisions is not None and chosen.any():
            by_iou = precisions[:, number]
            score = replace(
                score,
                recall=float(is_found[chosen].mean()),
                ap50=float(by_iou[0]),
                ap75=float(by_iou[5]),
                ap50_95=float(by_iou.mean()),
            )
        scores.append(score)
    return scores
