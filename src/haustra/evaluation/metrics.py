"""Box metrics over a set of images: COCO's average precision, and counts at one threshold.

Average precision comes from `faster-coco-eval`, which implements the COCO protocol; the tests
compare it with `pycocotools`. Counts at a threshold use one-to-one matching, best score first. So
a second box on the same polyp is a false positive and is also counted as a duplicate.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.errors import needs_extra

MATCH_IOU = 0.5
COCO_STATS = (
    *("ap50_95", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100"),
)
"""The first numbers of a COCO evaluation, in its order."""


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """COCO average precision, each in 0..1, or None where nothing of that kind is labeled."""

    ap50: float | None
    ap75: float | None
    ap50_95: float | None
    ap_small: float | None  # AP50-95 of objects under 32x32 pixels of the source image
    ap_medium: float | None
    ap_large: float | None  # AP50-95 of objects of at least 96x96 pixels
    ar_1: float | None  # average recall with at most one detection an image
    ar_10: float | None  # average recall with at most ten detections an image
    ar_100: float | None


@dataclass(frozen=True, kw_only=True)
class ThresholdMetrics:
    """Counts over all images at one score threshold and IoU 0.5."""

    threshold: float
    precision: float | None  # None where no box is shown
    recall: float | None  # None where no polyp is labeled
    f1: float | None  # None where no polyp is labeled
    true_positives: int
    false_positives: int
    false_negatives: int
    duplicates_per_truth: float | None
    """Extra detections that overlap a polyp that is already found by IoU 0.5, per labeled polyp."""
    mean_matched_iou: float | None  # None where no box matches
    empty_images_with_detection: int
    empty_images: int


@dataclass(frozen=True, kw_only=True)
class BoxMetrics:
    """All metrics of boxes."""

    num_images: int
    num_truths: int
    average_precision: AveragePrecision
    at_threshold: ThresholdMetrics

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def _coco_entries(images: Sequence[Detections]) -> list[dict[str, Any]]:
    found = (image.to_coco(image_id=number) for number, image in enumerate(images, start=1))
    return list(chain.from_iterable(found))


def to_coco(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return labels and detections as COCO's JSON values, with image ids from 1."""
    ground_truth: dict[str, Any] = {
        "info": {},
        "categories": [{"id": 1, "name": "polyp"}],
        "images": [
            {"id": i, "width": t.image_size_wh[0], "height": t.image_size_wh[1]}
            for i, t in enumerate(truths, start=1)
        ],
        "annotations": [
            entry | {"id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
            for number, entry in enumerate(_coco_entries(truths), start=1)
        ],
    }
    return ground_truth, _coco_entries(predictions)


def evaluate_by_coco(
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    *,
    areas: Sequence[tuple[float, float]] | None = None,
) -> Any:
    """Return an accumulated `COCOeval_faster` of images with at least one labeled box.

    Args:
        areas: Smallest and largest area of each class of boxes, in pixels; COCO's by default.
    """
    with needs_extra("train", needed_for="evaluation"):
        from faster_coco_eval import COCO, COCOeval_faster
    ground_truth, detections = to_coco(truths, predictions)
    if not detections:
        # COCO's loader refuses an empty list, so a box without an area stands for nothing found.
        detections = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0], "score": 0.0}]
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO(ground_truth)
        evaluation = COCOeval_faster(truth_set, truth_set.loadRes(detections), "bbox")
        if areas is not None:
            evaluation.params.areaRng = [list(area) for area in areas]
            evaluation.params.areaRngLbl = [str(number) for number in range(len(areas))]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def average_precision(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> AveragePrecision:
    """Compute COCO average precision; boxes in pixels of the source images.

    Args:
        truths: Labeled boxes, one entry per image.
        predictions: Detections on the same images in the same order, at every score.

    Raises:
        ValueError: The two differ in length.
        MissingExtraError: `faster-coco-eval` is not installed.
    """
    if len(truths) != len(predictions):
        raise ValueError(f"expected as many predictions as truths, got {len(predictions)}")
    if not any(map(len, truths)):
        return AveragePrecision(**dict.fromkeys(AveragePrecision.__annotations__))
    evaluation = evaluate_by_coco(truths, predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    values = dict(zip(COCO_STATS, evaluation.stats.tolist(), strict=False))
    # COCO writes -1 where there is no truth of that size.
    return AveragePrecision(**{name: v if v >= 0 else None for name, v in values.items()})


def match_detections(
    truth: Detections, prediction: Detections, *, iou: float = MATCH_IOU
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """Match one image's detections to its labels, best score first, each label once.

    Returns:
        Number of the matching label or -1 [N], unmatched detections that duplicate a found label
        [N], and IoU of each match or 0 [N].
    """
    overlaps = iou_matrix(prediction.boxes_px, truth.boxes_px)
    matched = np.full(len(prediction), -1, dtype=np.int64)
    duplicate = np.zeros(len(prediction), dtype=bool)
    matched_iou = np.zeros(len(prediction))
    taken = np.zeros(len(truth), dtype=bool)
    for index in range(len(prediction)):
        close = overlaps[index] >= iou
        free = np.where(close & ~taken, overlaps[index], -1.0)
        if (free >= 0).any():
            best = int(free.argmax())
            matched[index], matched_iou[index], taken[best] = best, free[best], True
        else:
            duplicate[index] = bool(close.any())
    return matched, duplicate, matched_iou


def ranked_matches(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores of all detections, highest first, and whether each matches; both [K].

    Of equal scores, the earlier image's comes first.
    """
    scores, hits = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for truth, prediction in zip(truths, predictions, strict=True):
        matched, _, _ = match_detections(truth, prediction)
        scores.append(prediction.scores)
        hits.append(matched >= 0)
    every = np.concatenate(scores)
    order = np.argsort(-every, kind="stable")
    return every[order], np.concatenate(hits)[order]


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """One image at one score threshold and IoU 0.5."""

    hits: int
    misses: int
    false_alarms: int  # number of detections without a match, duplicates included
    duplicates: int
    matched_iou: float  # sum of the IoU over the hits


def count_at_threshold(
    truth: Detections, prediction: Detections, *, threshold: float
) -> ImageCounts:
    """Count one image's detections of at least a score (0..1) at IoU 0.5."""
    shown = prediction.above(threshold)
    matched, duplicate, matched_iou = match_detections(truth, shown)
    found = int((matched >= 0).sum())
    return ImageCounts(
        hits=found,
        misses=len(truth) - found,
        false_alarms=len(shown) - found,
        duplicates=int(duplicate.sum()),
        matched_iou=float(matched_iou.sum()),
    )


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def precision_recall_f1(
    *, hits: int, misses: int, false_alarms: int
) -> tuple[float | None, float | None, float | None]:
    """Return precision, recall and their harmonic mean.

    Precision is None where nothing is shown, the others where nothing is labeled.
    """
    num_truths = hits + misses
    f1 = 2 * hits / (hits + num_truths + false_alarms) if num_truths else None
    return _ratio(hits, hits + false_alarms), _ratio(hits, num_truths), f1


def threshold_metrics(
    truths: Sequence[Detections], predictions: Sequence[Detections], *, threshold: float
) -> ThresholdMetrics:
    """Count at a score threshold (0..1) and IoU 0.5, over all images."""
    counts = [
        count_at_threshold(truth, prediction, threshold=threshold)
        for truth, prediction in zip(truths, predictions, strict=True)
    ]
    hits = sum(image.hits for image in counts)
    misses = sum(image.misses for image in counts)
    false_alarms = sum(image.false_alarms for image in counts)
    empty = [image for truth, image in zip(truths, counts, strict=True) if not len(truth)]
    precision, recall, f1 = precision_recall_f1(hits=hits, misses=misses, false_alarms=false_alarms)
    return ThresholdMetrics(
        threshold=threshold,
        precision=precision,
        recall=recall,
        f1=f1,
        true_positives=hits,
        false_positives=false_alarms,
        false_negatives=misses,
        duplicates_per_truth=_ratio(sum(image.duplicates for image in counts), hits + misses),
        mean_matched_iou=_ratio(sum(image.matched_iou for image in counts), hits),
        empty_images_with_detection=sum(image.false_alarms > 0 for image in empty),
        empty_images=len(empty),
    )


def box_metrics(
    truths: Sequence[Detections], predictions: Sequence[Detections], *, threshold: float
) -> BoxMetrics:
    """Compute all box metrics; arguments and errors are those of `average_precision`.

    Detections of a score (0..1) of at least `threshold` count in `at_threshold`.
    """
    return BoxMetrics(
        num_images=len(truths),
        num_truths=sum(len(truth) for truth in truths),
        average_precision=average_precision(truths, predictions),
        at_threshold=threshold_metrics(truths, predictions, threshold=threshold),
    )
