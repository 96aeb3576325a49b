"""`Detections`: the boxes of one image with their scores, the one noun that crosses boundaries."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.letterbox import Letterbox

Slots = tuple[NDArray[np.float32], NDArray[np.float32]]
PredictSlots = Callable[[NDArray[np.uint8]], Slots]
"""From letterboxed images uint8 [B,H,W,3] to boxes [B,S,4] in 0..1 of them and scores [B,S]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The boxes found in (or labelled on) one image, ordered by falling score.

    Raises:
        ValueError: shapes, ranges or order do not hold.
    """

    boxes_px: NDArray[np.float64]
    """[N,4] `x0,y0,x1,y1` in pixels of the image, finite, x0 <= x1 and y0 <= y1."""
    scores: NDArray[np.float64]
    """[N] in 0..1, falling; 1 for labels."""
    image_size_wh: tuple[int, int]
    """Width and height of the image in pixels."""

    def __post_init__(self) -> None:
        boxes, scores = self.boxes_px, self.scores
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
            raise ValueError(
                f"expected boxes [N,4] and scores [N], got {boxes.shape} and {scores.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("expected finite boxes and scores")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError("expected x0 <= x1 and y0 <= y1 in every box")
        if ((scores < 0) | (scores > 1)).any():
            raise ValueError("expected scores in 0..1")
        if (np.diff(scores) > 0).any():
            raise ValueError("expected scores ordered from high to low")

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, keep: NDArray[np.bool_]) -> "Detections":
        """Return the detections where `keep` [N] is true, in the same order."""
        return Detections(
            boxes_px=self.boxes_px[keep],
            scores=self.scores[keep],
            image_size_wh=self.image_size_wh,
        )

    def above(self, objectness: float) -> "Detections":
        """Return the detections whose score is at least `objectness` (0..1)."""
        return self.select(self.scores >= objectness)

    def without_overlaps(self, iou: float) -> "Detections":
        """Drop each box that overlaps a kept, better scored one by more than `iou` (0..1)."""
        keep = np.ones(len(self), dtype=bool)
        overlaps = iou_matrix(self.boxes_px, self.boxes_px)
        for index in range(len(self)):
            if keep[index]:
                keep[index + 1 :] &= overlaps[index, index + 1 :] <= iou
        return self.select(keep)


def detections_from_labels(
    boxes_px: NDArray[np.float64], *, image_size_wh: tuple[int, int]
) -> Detections:
    """Return labelled boxes [N,4] in pixels as detections of score 1."""
    boxes = np.asarray(boxes_px, dtype=np.float64).reshape(-1, 4)
    return Detections(boxes_px=boxes, scores=np.ones(len(boxes)), image_size_wh=image_size_wh)


def detections_from_slots(
    boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], *, letterbox: Letterbox
) -> Detections:
    """Turn one image's slots into detections on its source image, clipped to it.

    Args:
        boxes_xyxy: [S,4] normalised to the letterboxed image.
        scores: [S] in 0..1.
        letterbox: how the source image was mapped.
    """
    size_wh = letterbox.source_size_wh
    boxes = np.clip(letterbox.boxes_to_source(boxes_xyxy), 0, np.tile(size_wh, 2))
    # An untrained detector may put x1 left of x0; such a slot is a box of no area.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes_px=boxes[order],
        scores=scores[order].astype(np.float64),
        image_size_wh=size_wh,
    )
