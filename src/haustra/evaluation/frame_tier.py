"""Frames: polyps that are flagged on the frames that show one, and alarms on clean frames.

The numbers come from `true-colon`, the code of the TRUE-Colon protocol (Doerrich et al. 2026,
https://arxiv.org/abs/2608.13711). Its rule for "flagged" is any overlap with a label (IoU > 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.errors import needs_extra
from haustra.evaluation.metrics import to_coco

FLAGGED_IOU = 0.0  # IoU above which a box touches a label (TRUE-Colon)
LEAST_THRESHOLD = 1e-9  # a threshold of 0 would flag frames without a detection, whose score is 0
FEW_CLEAN_FRAMES = 22
"""With fewer clean frames the false-positive rate is a guess.

At the rate of 4.5 % that TRUE-Colon matches detectors at, fewer than 22 frames hold less than one
flagged frame on average (22 x 0.045 = 0.99), so such a rate looks like zero. Where none of n
frames is flagged, the 95 % upper bound of the rate is about 3/n, still 14 % at 22 (Hanley and
Lippman-Hand 1983, If Nothing Goes Wrong, Is Everything All Right?, JAMA 249).
"""


def import_true_colon() -> Any:
    """Return the package `true_colon`, or name the extra that installs it."""
    with needs_extra("train", needed_for="evaluation"):
        import true_colon
    return true_colon


def _to_true_colon(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return labels and detections as true-colon takes them: as COCO, with image ids as text."""
    labels, detections = to_coco(truths, predictions)
    for image in labels["images"]:
        image["id"] = str(image["id"])
    for entry in (*labels["annotations"], *detections):
        entry["image_id"] = str(entry["image_id"])
    return labels, detections


def touches(shown: Detections, truth: Detections) -> NDArray[np.bool_]:
    """Return which of N shown boxes touch which of M labels of the same image, [N,M]."""
    return np.asarray(iou_matrix(shown.boxes_px, truth.boxes_px) > FLAGGED_IOU)


@dataclass(frozen=True, kw_only=True)
class FrameTier:
    """Flagged frames, among those that show a polyp and among the clean ones."""

    threshold: float
    num_lesion_frames: int
    num_clean_frames: int
    true_positives: int  # number of lesion frames with a shown box that touches a label
    false_positives: int  # number of clean frames with a shown box
    sensitivity: float | None
    """Share of the lesion frames that are flagged; None without a lesion frame."""
    false_positive_rate: float | None
    """Share of the clean frames that are flagged; None without a clean frame."""
    specificity: float | None
    precision: float | None  # None where no frame is flagged
    f1: float | None  # None without a lesion frame, as is `f2`
    f2: float | None


@dataclass(frozen=True, kw_only=True)
class FrocCurves:
    """FROC and AFROC on true-colon's shared grid of thresholds, all [G]."""

    thresholds: list[float]
    sensitivity: list[float]  # share of the labeled boxes that are touched
    false_boxes_per_image: list[float]  # False boxes per image, the axis of FROC
    flagged_clean_share: list[float] | None
    """Share of the clean frames with a box, the axis of AFROC; None without a clean frame."""


def frame_scores(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> tuple[list[float], list[float]]:
    """Return one score per lesion frame and per clean frame: the highest that would flag it."""
    labels, detections = _to_true_colon(truths, predictions)
    found: tuple[list[float], list[float]] = import_true_colon().per_frame_max_scores(
        labels, detections, iou_thr=FLAGGED_IOU
    )
    return found


def frame_tier(
    truths: Sequence[Detections], predictions: Sequence[Detections], *, threshold: float
) -> FrameTier:
    """Count flagged frames at a score threshold above 0."""
    scores = frame_scores(truths, predictions)
    found = import_true_colon().compute_frame_metrics(
        {}, [], iou_thr=FLAGGED_IOU, conf=max(threshold, LEAST_THRESHOLD), scores=scores
    )
    has_lesions, has_clean = bool(scores[0]), bool(scores[1])
    return FrameTier(
        threshold=threshold,
        num_lesion_frames=len(scores[0]),
        num_clean_frames=len(scores[1]),
        true_positives=found.tp,
        false_positives=found.fp,
        sensitivity=found.tpr if has_lesions else None,
        false_positive_rate=found.fpr if has_clean else None,
        specificity=found.specificity if has_clean else None,
        precision=found.precision if found.tp + found.fp else None,
        f1=found.f1 if has_lesions else None,
        f2=found.f2 if has_lesions else None,
    )


def few_clean_frames_note(frames: FrameTier) -> str | None:
    """Return a warning where the clean frames are too few for a false-positive rate."""
    count = frames.num_clean_frames
    if count >= FEW_CLEAN_FRAMES:
        return None
    if not count:
        return "there is no clean frame, so the false-positive rate is not known"
    note = f"{count} clean frames are too few for a false-positive rate: use {FEW_CLEAN_FRAMES}"
    if frames.false_positives:
        return f"{note} or more"
    bound = 1 - 0.05 ** (1 / count)
    return f"{note} or more (none flagged of {count} also fits a rate of {bound:.0%})"


def froc_curves(truths: Sequence[Detections], predictions: Sequence[Detections]) -> FrocCurves:
    """Compute FROC and AFROC over all labeled boxes."""
    true_colon = import_true_colon()
    labels, detections = _to_true_colon(truths, predictions)
    settings = {
        "iou_thr": FLAGGED_IOU,
        "conf_thresholds": true_colon.DEFAULT_CONF_GRID,
        "prepared": true_colon.prepare_froc_inputs(labels, detections),
    }
    froc = true_colon.compute_froc_curve(labels, detections, **settings)
    afroc = true_colon.compute_afroc_curve(labels, detections, **settings)
    return FrocCurves(
        thresholds=froc.conf_thresholds,
        sensitivity=froc.tpr_loc,
        false_boxes_per_image=froc.fp_per_image,
        flagged_clean_share=afroc.fpf if afroc.n_neg_images else None,
    )
