"""A colour and shape heuristic for those who have no weights yet. It is no trained detector.

It looks for a round region that is redder or brighter than its surroundings, and says in its
caption that it is a heuristic. Its scores are contrasts, not probabilities.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections

WORKING_SIDE_PX = 192
BLOB_SIGMAS_PX = (8.0, 14.0, 24.0)
"""Sizes that are looked for, on the working image."""
SCORE_CONTRAST = 12.0
"""Contrast, in units of 8-bit Lab, that scores 0.5."""


class HeuristicDetector:
    """Finds blobs by difference of Gaussians on redness and brightness."""

    @property
    def caption(self) -> str:
        """Says that no trained detector was at work."""
        return "HEURISTIC (no weights): colour and shape only"

    def detect(self, image_rgb: NDArray[np.uint8], *, objectness: float, iou: float) -> Detections:
        """Return blobs whose score is at least `objectness`, without overlaps above `iou`."""
        height, width = image_rgb.shape[:2]
        factor = WORKING_SIDE_PX / max(height, width)
        small = cv2.resize(image_rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
        # Redness tells mucosa apart; brightness tells what bulges towards the light.
        response = lab[:, :, 1] + 0.3 * lab[:, :, 0]
        boxes, scores = [], []
        for sigma in BLOB_SIGMAS_PX:
            inner = cv2.GaussianBlur(response, (0, 0), sigma)
            contrast = inner - cv2.GaussianBlur(response, (0, 0), 2 * sigma)
            _, peak, _, (x, y) = cv2.minMaxLoc(contrast)
            if peak <= 0:
                continue
            half = 1.8 * sigma
            box = np.array([x - half, y - half, x + half, y + half]) / factor
            boxes.append(np.clip(box, 0, [width, height, width, height]))
            scores.append(peak / (peak + SCORE_CONTRAST))
        order = np.argsort(-np.asarray(scores), kind="stable")
        found = Detections(
            boxes_px=np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[order],
            scores=np.asarray(scores, dtype=np.float64)[order],
            image_size_wh=(width, height),
        )
        return found.above(objectness).without_overlaps(iou)
