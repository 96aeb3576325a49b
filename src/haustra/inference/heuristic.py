"""A color and shape heuristic for users without weights. It is not a trained detector.

It looks for a round region that is redder or brighter than its surroundings, and its caption says
that it is a heuristic. Its scores are contrasts, not probabilities.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Slots
from haustra.core.letterbox import PAD_VALUE
from haustra.inference.detector import Detector

WORKING_SIDE_PX = 192
BLOB_SIGMAS_PX = (8.0, 14.0, 24.0)
"""Sizes of the blobs that are looked for, on the letterboxed image."""
SCORE_CONTRAST = 12.0  # contrast, in units of 8-bit Lab, that scores 0.5


def heuristic_detector() -> Detector:
    """Return a detector that finds blobs by difference of Gaussians on redness and brightness."""
    return Detector(
        predict_slots=_find_blobs,
        kind="heuristic",
        caption="HEURISTIC (no weights): color and shape only",
        input_size_wh=(WORKING_SIDE_PX, WORKING_SIDE_PX),
    )


def _find_blobs(images: NDArray[np.uint8]) -> Slots:
    boxes = np.zeros((len(images), len(BLOB_SIGMAS_PX), 4), dtype=np.float32)
    scores = np.zeros(boxes.shape[:2], dtype=np.float32)
    for row, image in enumerate(images):
        # The border of the padding would be the strongest contrast.
        ys, xs = np.nonzero((image != PAD_VALUE).any(axis=2))
        if not len(ys):
            continue
        top, left = ys.min(), xs.min()
        lab = cv2.cvtColor(image[top : ys.max() + 1, left : xs.max() + 1], cv2.COLOR_RGB2LAB)
        # Redness sets a polyp apart from mucosa; brightness sets apart what bulges to the light.
        response = lab[:, :, 1].astype(np.float32) + 0.3 * lab[:, :, 0].astype(np.float32)
        for slot, sigma in enumerate(BLOB_SIGMAS_PX):
            inner = cv2.GaussianBlur(response, (0, 0), sigma)
            contrast = inner - cv2.GaussianBlur(response, (0, 0), 2 * sigma)
            _, peak, _, (x, y) = cv2.minMaxLoc(contrast)
            if peak > 0:
                center, half = np.array([left + x, top + y]), 1.8 * sigma
                size_wh = (image.shape[1], image.shape[0])
                boxes[row, slot] = np.concatenate([center - half, center + half]) / (size_wh * 2)
                scores[row, slot] = peak / (peak + SCORE_CONTRAST)
    return boxes, scores
