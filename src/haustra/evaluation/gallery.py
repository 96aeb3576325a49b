"""Pictures of evaluated frames with their labels and what was found, side by side."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections
from haustra.core.drawing import PREDICTION_RGB, TRUTH_RGB, draw_boxes, draw_text
from haustra.core.images import write_png
from haustra.core.letterbox import Letterbox
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.frames import FrameSource

NUM_PICTURES = 12
PICTURE_SIDE_PX = 288

Image = NDArray[np.uint8]


def write_gallery(path: Path, *, evaluation: Evaluation, source: FrameSource) -> None:
    """Write pictures of frames spread evenly over all as one PNG, whole or not at all.

    Args:
        path: the PNG file.
        evaluation: what was found, shown at its threshold.
        source: of the evaluated frames.
    """
    tiles = draw_tiles(evaluation, source=source, indices=spread_evenly(evaluation))
    write_png(path, image_rgb=sheet_of(tiles))


def spread_evenly(evaluation: Evaluation, *, count: int = NUM_PICTURES) -> NDArray[np.int64]:
    """Return the numbers of `count` images (fewer if there are fewer) spread over all."""
    last = len(evaluation.truths) - 1
    return np.unique(np.linspace(0, last, count).round().astype(np.int64))


def _to_stored(detections: Detections, *, letterbox: Letterbox) -> Detections:
    """Map detections from the source image to the stored, letterboxed one, in its pixels."""
    size_wh = letterbox.target_size_wh
    boxes = letterbox.boxes_to_target(detections.boxes_px) * np.tile(size_wh, 2)
    return Detections(boxes_px=boxes, scores=detections.scores, image_size_wh=size_wh)


def _draw_tile(image: Image, evaluation: Evaluation, index: int) -> Image:
    """Return one frame with labels (blue) and shown detections (green)."""
    factor = PICTURE_SIDE_PX / image.shape[0]
    tile = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    threshold = evaluation.metrics.at_threshold.threshold
    pair = (evaluation.truths[index], evaluation.predictions[index].above(threshold))
    truth, shown = (
        Detections(
            boxes_px=stored.boxes_px * factor,
            scores=stored.scores,
            image_size_wh=(tile.shape[1], tile.shape[0]),
        )
        for stored in (
            _to_stored(found, letterbox=evaluation.frames[index].letterbox) for found in pair
        )
    )
    drawn = draw_boxes(
        np.asarray(tile, dtype=np.uint8), truth, rgb=TRUTH_RGB, labels=[""] * len(truth)
    )
    drawn = draw_boxes(drawn, shown, rgb=PREDICTION_RGB)
    caption = f"{len(truth)} labelled, {len(shown)} found"
    draw_text(drawn, caption, top_left_xy=(0, drawn.shape[0]), rgb=(235, 235, 235))
    return drawn


def draw_tiles(
    evaluation: Evaluation, *, source: FrameSource, indices: NDArray[np.int64]
) -> list[Image]:
    """Return pictures of some frames with labels and detections, in the order of `indices`."""
    numbers = {evaluation.frames[index].sample_id: int(index) for index in indices}
    drawn = {
        frame.sample_id: _draw_tile(image, evaluation, numbers[frame.sample_id])
        for frame, image in source.read(list(numbers))
    }
    return [drawn[sample_id] for sample_id in numbers]


def sheet_of(tiles: list[Image]) -> Image:
    """Return pictures of one size as one, four in a row."""
    columns = min(4, len(tiles))
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = [np.hstack(filled[start : start + columns]) for start in range(0, len(filled), columns)]
    return np.vstack(rows)
