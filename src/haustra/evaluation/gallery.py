"""Pictures of evaluated frames with their labels and what was found: which ones, and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import box_areas
from haustra.core.detections import Detections
from haustra.core.drawing import (
    PREDICTION_RGB,
    TRUTH_RGB,
    draw_boxes,
    draw_text,
    sheet_of,
)
from haustra.core.images import write_png
from haustra.core.paths import StrPath
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.frames import EvalFrame, FrameSource
from haustra.evaluation.metrics import match_detections

NUM_PICTURES = 12
NUM_MISTAKES = 8
NEAR_FRAMES = 15  # frames of a run that are less far apart look alike
PICTURE_SIDE_PX = 288

Image = NDArray[np.uint8]


def write_gallery(path: StrPath, *, evaluation: Evaluation, source: FrameSource) -> None:
    """Write pictures of frames spread evenly over all as one PNG, whole or not at all."""
    tiles = draw_tiles(evaluation, source=source, indices=spread_evenly(evaluation))
    write_png(Path(path), image_rgb=sheet_of(list(tiles.values())))


def spread_evenly(evaluation: Evaluation, *, count: int = NUM_PICTURES) -> list[int]:
    """Return the numbers of `count` images (fewer if there are fewer) spread over all."""
    last = len(evaluation.truths) - 1
    return sorted({round(number) for number in np.linspace(0, last, count).tolist()})


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Images that show how a detector does, by their number."""

    hit: int | None
    """An image with a polyp that is found and as few mistakes as any; of several such images the
    median one by its best score."""
    misses: list[int]  # images with the largest missed polyps, the largest first
    false_alarms: list[int]  # images with the false boxes of the highest scores, the highest first

    def titles(self) -> dict[int, str]:
        """Return one image of each kind that there is, all different, with its title."""
        hits = [] if self.hit is None else [self.hit]
        titles: dict[int, str] = {}
        kinds = {"A hit": hits, "A miss": self.misses, "A false box": self.false_alarms}
        for title, indices in kinds.items():
            unused = [index for index in indices if index not in titles]
            titles |= dict.fromkeys(unused[:1], title)
        return titles


def choose_examples(evaluation: Evaluation, *, count: int = NUM_MISTAKES) -> Examples:
    """Choose a typical hit and the worst `count` mistakes of each kind, at IoU 0.5.

    A second box on a polyp that is found is a duplicate, not a false alarm. Of frames that follow
    each other in time, only the worst is taken.
    """
    threshold = evaluation.metrics.at_threshold.threshold
    hits: list[tuple[int, float, int]] = []
    missed: list[tuple[float, int]] = []
    alarmed: list[tuple[float, int]] = []
    pairs = zip(evaluation.truths, evaluation.predictions, strict=True)
    for index, (truth, prediction) in enumerate(pairs):
        shown = prediction.above(threshold)
        matched, duplicate, _ = match_detections(truth, shown)
        shares = box_areas(truth.boxes_px) / np.prod(truth.image_size_wh)
        left = np.delete(shares, matched[matched >= 0])
        if len(left):
            missed.append((float(left.max()), index))
        wrong = shown.scores[(matched < 0) & ~duplicate]
        if len(wrong):
            alarmed.append((float(wrong.max()), index))
        if (matched >= 0).any():
            num_mistakes = len(left) + int((matched < 0).sum())
            hits.append((num_mistakes, float(shown.scores.max()), index))
    cleanest = sorted(hit for hit in hits if hit[0] == min(hits)[0])
    return Examples(
        hit=cleanest[len(cleanest) // 2][-1] if cleanest else None,
        misses=_worst(missed, evaluation=evaluation, count=count),
        false_alarms=_worst(alarmed, evaluation=evaluation, count=count),
    )


def _worst(found: list[tuple[float, int]], *, evaluation: Evaluation, count: int) -> list[int]:
    frames = evaluation.frames
    chosen: list[int] = []
    for _, index in sorted(found, reverse=True):
        if len(chosen) == count:
            break
        if not any(_look_alike(frames[index], frames[other]) for other in chosen):
            chosen.append(index)
    return chosen


def _look_alike(one: EvalFrame, other: EvalFrame) -> bool:
    """Return whether two frames of one run are close in time."""
    if one.number is None or other.number is None or one.run_id != other.run_id:
        return False
    return abs(one.number - other.number) < NEAR_FRAMES


def _draw_tile(image: Image, evaluation: Evaluation, index: int, *, side_px: int) -> Image:
    """Return one frame with labels (blue) and shown detections (green)."""
    factor = side_px / image.shape[0]
    tile = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    size_wh = (tile.shape[1], tile.shape[0])

    def on_tile(found: Detections) -> Detections:
        boxes = evaluation.frames[index].letterbox.boxes_to_target(found.boxes_px)
        return replace(found, boxes_px=boxes * np.tile(size_wh, 2), image_size_wh=size_wh)

    truth = on_tile(evaluation.truths[index])
    shown = on_tile(evaluation.predictions[index].above(evaluation.metrics.at_threshold.threshold))
    drawn = draw_boxes(
        np.asarray(tile, dtype=np.uint8), truth, rgb=TRUTH_RGB, labels=[""] * len(truth)
    )
    drawn = draw_boxes(drawn, shown, rgb=PREDICTION_RGB)
    caption = f"{len(truth)} labeled, {len(shown)} found"
    draw_text(drawn, caption, top_left_xy=(0, drawn.shape[0]), rgb=(235, 235, 235))
    return drawn


def draw_tiles(
    evaluation: Evaluation,
    *,
    source: FrameSource,
    indices: Sequence[int],
    side_px: int = PICTURE_SIDE_PX,
) -> dict[int, Image]:
    """Return pictures of some frames with labels and detections by number, as in `indices`."""
    numbers = {evaluation.frames[index].sample_id: index for index in indices}
    drawn = {
        numbers[frame.sample_id]: _draw_tile(
            image, evaluation, numbers[frame.sample_id], side_px=side_px
        )
        for frame, image in source.read(list(numbers))
    }
    return {index: drawn[index] for index in numbers.values()}
