"""Draws boxes, scores and captions on pictures."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections

RGB = tuple[int, int, int]

PREDICTION_RGB: RGB = (80, 255, 120)
TRUTH_RGB: RGB = (70, 170, 255)


def enlarge_for_viewing(
    image_rgb: NDArray[np.uint8], detections: Detections, *, min_side_px: int = 512
) -> tuple[NDArray[np.uint8], Detections]:
    """Enlarge a small picture and its boxes by a whole factor, so that text is readable.

    The longer side stays within eight times `min_side_px`, so a long strip stays a small one.
    """
    factor = -(-min_side_px // min(image_rgb.shape[:2]))
    factor = min(factor, 8 * min_side_px // max(image_rgb.shape[:2]))
    if factor <= 1:
        return image_rgb, detections
    height, width = image_rgb.shape[:2]
    size_wh = (width * factor, height * factor)
    enlarged = cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_CUBIC)
    scaled = replace(detections, boxes_px=detections.boxes_px * factor, image_size_wh=size_wh)
    return np.asarray(enlarged, dtype=np.uint8), scaled


def draw_text(
    image_rgb: NDArray[np.uint8], text: str, *, top_left_xy: tuple[int, int], rgb: RGB
) -> None:
    """Write a line of text on a dark plate into the picture, moved inside it if needed."""
    height, width = image_rgb.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, min(height, width) / 900)
    (text_width, text_height), baseline = cv2.getTextSize(text, font, scale, 1)
    plate_width, plate_height = text_width + 6, text_height + baseline + 4
    x = max(0, min(top_left_xy[0], width - plate_width))
    y = max(0, min(top_left_xy[1], height - plate_height))
    cv2.rectangle(image_rgb, (x, y), (x + plate_width, y + plate_height), (16, 16, 16), -1)
    origin = (x + 3, y + text_height + 2)
    cv2.putText(image_rgb, text, origin, font, scale, rgb, 1, cv2.LINE_AA)


def draw_boxes(
    image_rgb: NDArray[np.uint8],
    detections: Detections,
    *,
    rgb: RGB = PREDICTION_RGB,
    labels: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of the picture with boxes and a text per box (by default the score).

    Args:
        image_rgb: Picture, uint8 [H,W,3].
        detections: Boxes in pixels of that picture.
        labels: One text per box, instead of the scores.
    """
    drawn = image_rgb.copy()
    texts = labels if labels is not None else [f"{score:.2f}" for score in detections.scores]
    thickness = max(1, round(min(drawn.shape[:2]) / 200))
    for box, text in zip(detections.boxes_px, texts, strict=True):
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), rgb, thickness)
        if text:
            draw_text(drawn, text, top_left_xy=(x0, y0 - 16), rgb=rgb)
    return drawn


def sheet_of(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return pictures of one size as one, four in a row."""
    columns = min(4, len(tiles))
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = [np.hstack(filled[start : start + columns]) for start in range(0, len(filled), columns)]
    return np.vstack(rows)
