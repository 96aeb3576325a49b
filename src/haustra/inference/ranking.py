"""Ranking of unlabeled images by what their labels would teach a detector (active learning).

Scores of different detectors are compared as confidences: the odds of a score divided by the odds
of the detector's own threshold, so that a box at the threshold has confidence 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.drawing import PREDICTION_RGB, draw_boxes, draw_text, sheet_of
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.letterbox import plan_letterbox
from haustra.core.look_alikes import MAX_DIFFERENCE, thumbnail, unit_vectors
from haustra.core.progress import Progress, track
from haustra.inference.config import InferConfig, RankRule
from haustra.inference.detector import Detector, open_detector

LOOK_ALIKE_S = 1.0  # frames of a video that are nearer in time look alike
NUM_TILES = 12
TILE_SIZE_WH = (288, 288)


@dataclass(frozen=True, kw_only=True)
class RankedImage:
    """An image and its place in the order."""

    image: Path
    rank: int  # from 1
    value: float  # 0: its labels would teach nothing
    looks_like: Path | None  # an image before it; it stands behind all that look like none

    def to_json(self) -> dict[str, Any]:
        """Return rank, value and look-alike as JSON values."""
        like = None if self.looks_like is None else str(self.looks_like)
        return {"rank": self.rank, "value": round(self.value, 6), "looks_like": like}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The images to label, the most instructive first."""

    images: list[RankedImage]
    rule: RankRule
    detectors: list[str]  # files
    num_ranked: int  # images with a value, of which `images` may be the first only
    num_look_alikes: int  # images of all that look like a better one
    unreadable: list[str]  # a message per image
    notes: list[str]  # a line per detector whose threshold is not fitted

    def to_json(self) -> dict[str, Any]:
        """Return everything but the images as JSON values."""
        return {
            "rule": self.rule,
            "detectors": self.detectors,
            "num_ranked": self.num_ranked,
            "num_look_alikes": self.num_look_alikes,
            "notes": self.notes,
        }


def as_confidences(found: Detections, *, threshold: float) -> Detections:
    """Return the detections with scores on a scale that has 0.5 at the detector's threshold."""
    odds = np.clip(threshold, 1e-6, 1 - 1e-6)
    odds /= 1 - odds
    scaled = found.scores / (found.scores + odds * (1 - found.scores))
    return replace(found, scores=np.minimum.accumulate(scaled))  # against rounding


def uncertainty(found: Detections) -> float:
    """Return the sum of the boxes' squared closeness to the threshold.

    A box of confidence c adds (1 - |2c - 1|)^2: 1 at the threshold, next to nothing if the detector
    is sure of it or sees nothing there. Source: C.-A. Brust, C. Käding, J. Denzler, "Active
    Learning for Deep Object Detection", VISAPP 2019: the "1-vs-2" margin, aggregated by sum.
    """
    return float(np.square(1 - np.abs(2 * found.scores - 1)).sum())


def disagreement(one: Detections, other: Detections) -> float:
    """Return the weight of the boxes that two views of one image do not share.

    Boxes weigh their squared confidence, so that many faint ones add little. Two boxes share the
    smaller weight times their IoU; each is matched once, the largest share first. Equal views give
    0, a certain box that only one view has gives 1. Sources: H. S. Seung, M. Opper, H. Sompolinsky,
    "Query by Committee", COLT 1992; for views mirrored as in I. Elezi et al., "Not All Labels Are
    Equal", CVPR 2022.
    """
    weights, others = np.square(one.scores), np.square(other.scores)
    shares = np.minimum.outer(weights, others) * iou_matrix(one.boxes_px, other.boxes_px)
    shared = 0.0
    while shares.size and shares.max() > 0:
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        shared += float(shares[row, column])
        shares[row], shares[:, column] = 0, 0
    return max(0.0, float(weights.sum() + others.sum()) - 2 * shared)


def _detect_mirrored(detector: Detector, image_rgb: NDArray[np.uint8]) -> Detections:
    found = detector.detect(np.ascontiguousarray(image_rgb[:, ::-1]), objectness=0.0)
    boxes = found.boxes_px.copy()
    boxes[:, [0, 2]] = image_rgb.shape[1] - boxes[:, [2, 0]]
    return replace(found, boxes_px=boxes)


def value_of(
    image_rgb: NDArray[np.uint8], *, rule: RankRule, detectors: Sequence[Detector]
) -> float:
    """Return how much the labels of an image would teach, at least 0.

    Args:
        image_rgb: Image, uint8 [H,W,3].
        rule: `uncertain` looks at the first detector; `disagree` compares all of them, or the only
            one with itself on the mirrored image, and takes the mean over the pairs.
        detectors: At their own operating points.
    """
    views = [(detector, detector.detect(image_rgb, objectness=0.0)) for detector in detectors]
    if rule == "disagree" and len(views) == 1:
        views.append((detectors[0], _detect_mirrored(detectors[0], image_rgb)))
    scaled = [
        as_confidences(found, threshold=detector.operating_point.objectness)
        for detector, found in views
    ]
    if rule == "uncertain":
        return uncertainty(scaled[0])
    return float(np.mean([disagreement(one, other) for one, other in combinations(scaled, 2)]))


def find_look_alikes(
    looks: NDArray[np.float32], *, times_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return for each image the first one before it that it looks like, or -1, [N].

    Only images that look like none themselves are compared with.

    Args:
        looks: Thumbnails as `unit_vectors` [N,192].
        times_s: Times in one video [N]; infinite without one.
    """
    found = np.full(len(looks), -1)
    for number, (look, time_s) in enumerate(zip(looks, times_s, strict=True)):
        near = looks[:number] @ look >= 1 - MAX_DIFFERENCE
        near |= (times_s[:number] > time_s - LOOK_ALIKE_S) & (
            times_s[:number] < time_s + LOOK_ALIKE_S
        )
        near &= found[:number] < 0
        if near.any():
            found[number] = near.argmax()
    return found


def rank_images(
    images: Sequence[Path],
    *,
    times_s: Mapping[Path, float],
    config: InferConfig,
    progress: Progress,
) -> Ranking:
    """Order images by value. Those that look like a better one come after all others.

    `times_s` has the times of images that are frames of one video; it is empty without one.
    """
    if config.rank is None or config.detector_weights is None:
        raise AssertionError("rank_images takes settings with a rule and weights")
    detectors = [open_detector(config.detector_weights, kind=config.model, backend=config.backend)]
    detectors += [open_detector(p, backend=config.backend) for p in config.also_detector_weights]
    for detector in detectors:
        detector.operating_point = detector.operating_point.with_flags(iou=config.infer_iou_thresh)
    readable, values, thumbnails, unreadable = [], [], [], []
    for path in track(images, progress=progress, description="rank", total=len(images)):
        try:
            image = read_image_rgb(path)
        except HaustraError as error:
            unreadable.append(str(error))
            continue
        readable.append(path)
        values.append(value_of(image, rule=config.rank, detectors=detectors))
        thumbnails.append(thumbnail(image))
    if not readable:
        raise HaustraError(unreadable[0])
    by_value = np.argsort(-np.array(values), kind="stable")
    times = np.array([times_s.get(path, np.inf) for path in readable])
    like = find_look_alikes(unit_vectors(thumbnails)[by_value], times_s=times[by_value])
    order = np.argsort(like >= 0, kind="stable")
    return Ranking(
        images=[
            RankedImage(
                image=readable[by_value[n]],
                rank=rank,
                value=values[by_value[n]],
                looks_like=None if like[n] < 0 else readable[by_value[like[n]]],
            )
            for rank, n in enumerate(order[: config.rank_count].tolist(), start=1)
        ],
        rule=config.rank,
        detectors=[str(detector.path) for detector in detectors],
        num_ranked=len(readable),
        num_look_alikes=int((like >= 0).sum()),
        unreadable=unreadable,
        notes=[
            f"{detector.path}: threshold {point.objectness:.3g} is {point.origin}, and the order "
            "depends on it; fit it first: haustra eval --fit --fit-by f1"
            for detector in detectors
            if (point := detector.operating_point).fitted is None
        ],
    )


def draw_sheet(found: Sequence[tuple[RankedImage, Detections]]) -> NDArray[np.uint8]:
    """Return the first images with their boxes, rank and value as one picture."""
    tiles = []
    for ranked, detections in found[:NUM_TILES]:
        letterbox = plan_letterbox(detections.image_size_wh, target_size_wh=TILE_SIZE_WH)
        boxes = letterbox.boxes_to_target(detections.boxes_px) * np.tile(TILE_SIZE_WH, 2)
        placed = replace(detections, boxes_px=boxes, image_size_wh=TILE_SIZE_WH)
        tile = draw_boxes(letterbox.apply(read_image_rgb(ranked.image)), placed)
        caption = f"{ranked.rank}: {ranked.value:.2f}"
        draw_text(tile, caption, top_left_xy=(0, TILE_SIZE_WH[1]), rgb=PREDICTION_RGB)
        tiles.append(tile)
    return sheet_of(tiles)
