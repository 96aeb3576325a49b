"""Scores of detectors, the peer's included, on the validation split by haustra's own metrics."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from haustra.core.detections import PredictSlots, Slots
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.evaluation import evaluate_frames
from haustra.evaluation.frames import SplitFrames
from haustra.inference.detector import Detector
from haustra.models.backbone import images_to_input
from haustra.models.detector import SlotDetector
from haustra.warehouse.dataset import Split

NUM_CANDIDATES = 300
"""Number of best boxes of an image that overlap suppression considers."""
DENSE_NMS_IOU = 0.6
SHUFFLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Average precision of one form of one detector on the validation images."""

    ap50: float
    ap75: float
    ap50_95: float
    duplicates: float | None = None
    """Extra detections per labeled polyp at the detector's score threshold."""


def score(
    split: Split,
    predict_slots: PredictSlots,
    *,
    threshold: float,
    shuffle_labels_seed: int | None = None,
) -> Scores:
    """Run a detector over a split and return its scores."""
    detector = Detector(
        predict_slots=predict_slots,
        kind="big",
        caption="measured",
        input_size_wh=split.manifest.target_size_wh,
        # What a detector answers is what is scored: nothing is dropped afterwards.
        operating_point=OperatingPoint(objectness=threshold, iou=1.0),
    )
    metrics = evaluate_frames(
        SplitFrames(split), detector, shuffle_labels_seed=shuffle_labels_seed
    ).metrics
    found = metrics.average_precision
    return Scores(
        ap50=found.ap50 or 0.0,
        ap75=found.ap75 or 0.0,
        ap50_95=found.ap50_95 or 0.0,
        duplicates=metrics.at_threshold.duplicates_per_truth,
    )


def _iou_of_all_pairs(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of every pair within each image, [B,K,K], for [B,K,4]."""
    low = np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=3)
    areas = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=2)
    union = areas[:, :, None] + areas[:, None, :] - overlap
    shares: NDArray[np.float32] = overlap / np.maximum(union, np.float32(1e-9))
    return shares


def suppress_overlaps(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], *, iou: float, num_kept: int
) -> Slots:
    """Keep the best boxes of each image that do not overlap a better one (greedy, as YOLO does).

    Args:
        boxes: Boxes [B,N,4].
        scores: Scores [B,N].
        iou: A box is dropped if its IoU with a kept, better one is larger.
        num_kept: Number of boxes to return per image.

    Returns:
        Boxes [B,num_kept,4] and scores [B,num_kept], highest first; missing boxes are zero.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :NUM_CANDIDATES]
    boxes = np.take_along_axis(boxes, best[..., None], axis=1)
    scores = np.take_along_axis(scores, best, axis=1)
    overlaps = _iou_of_all_pairs(boxes) > iou
    kept = np.ones(scores.shape, dtype=bool)
    for position in range(scores.shape[1]):
        goes = overlaps[:, position, position + 1 :] & kept[:, position, None]
        kept[:, position + 1 :] &= ~goes
    scores = np.where(kept, scores, 0)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :num_kept]
    boxes = np.where(kept[..., None], boxes, 0)
    return np.take_along_axis(boxes, order[..., None], axis=1), np.take_along_axis(
        scores, order, axis=1
    )


def dense_with_suppression(model: SlotDetector) -> PredictSlots:
    """Return the one-to-many head with overlap suppression, to compare the one-to-one head with."""
    model.eval()

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> Slots:
        output = model.dense(images_to_input(torch.from_numpy(images)))
        return suppress_overlaps(
            output.boxes_xyxy.clamp(0, 1).numpy(),
            output.objectness_logits.sigmoid().numpy(),
            iou=DENSE_NMS_IOU,
            num_kept=model.config.num_slots,
        )

    return predict
