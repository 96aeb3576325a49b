"""Evaluation of a detector: its boxes on every frame against the labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections, detections_from_labels
from haustra.core.errors import HaustraError, option
from haustra.core.letterbox import plan_letterbox
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluation.frames import BATCH_SIZE, EvalFrame, FrameSource, FrameWithPixels
from haustra.evaluation.metrics import BoxMetrics, box_metrics
from haustra.evaluation.predictions import StoredPredictions
from haustra.inference.detector import Detector

Image = NDArray[np.uint8]
Boxes = NDArray[np.float64]
ChangeFrame = Callable[[str, Image, Boxes], tuple[Image, Boxes]]
"""Maps a frame's id, its letterboxed image [H,W,3] and its labels [N,4] in pixels of that to an
image of the same size and its labels."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of a set of frames, with the boxes that they were computed from."""

    metrics: BoxMetrics
    truths: list[Detections]  # labeled boxes of each frame
    predictions: list[Detections]  # detections on each frame, at every score
    frames: list[EvalFrame]  # the frames, in the same order


def shuffle_truths(truths: Sequence[Detections], *, seed: int) -> list[Detections]:
    """Give every image the labels of another, as a control that reveals leaking labels.

    The labels move one place along a random cycle, so that none stays. Their boxes are scaled to
    the new image.
    """
    if len(truths) < 2:
        raise HaustraError(
            f"{option('shuffle_labels_seed')}: the split has one sample, so there is no other "
            "label to take"
        )
    cycle = np.random.default_rng(seed).permutation(len(truths))
    shuffled = list(truths)
    for position, target in enumerate(cycle):
        source = truths[cycle[position - 1]]
        size_wh = truths[target].image_size_wh
        scale = np.tile(np.asarray(size_wh) / source.image_size_wh, 2)
        shuffled[target] = detections_from_labels(source.boxes_px * scale, image_size_wh=size_wh)
    return shuffled


def in_batches(
    frames: Iterator[FrameWithPixels],
) -> Iterator[tuple[list[EvalFrame], NDArray[np.uint8]]]:
    """Yield batches of frames and their images, uint8 [B,H,W,3]."""
    while batch := list(islice(frames, BATCH_SIZE)):
        yield [frame for frame, _ in batch], np.stack([pixels for _, pixels in batch])


def detect_changed(
    frames: Iterator[FrameWithPixels], detector: Detector, *, change: ChangeFrame, iou: float
) -> tuple[list[Detections], list[Detections]]:
    """Return the labels and the detections of changed frames, in pixels of the changed images."""
    truths: list[Detections] = []
    predictions: list[Detections] = []
    for batch, images in in_batches(frames):
        size_wh = (images.shape[2], images.shape[1])
        changed = []
        for frame, image in zip(batch, images, strict=True):
            boxes_px = frame.letterbox.boxes_to_target(frame.truth.boxes_px) * np.tile(size_wh, 2)
            pixels, boxes_px = change(frame.sample_id, image, boxes_px)
            changed.append(pixels)
            truths.append(detections_from_labels(boxes_px, image_size_wh=size_wh))
        seen_as_is = plan_letterbox(size_wh, target_size_wh=size_wh)
        predictions += detector.detect_letterboxed(
            np.stack(changed), letterboxes=[seen_as_is] * len(batch), iou=iou
        )
    return truths, predictions


def evaluate_frames(
    source: FrameSource,
    subject: Detector | StoredPredictions,
    *,
    point: OperatingPoint | None = None,
    shuffle_labels_seed: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a detector on frames, with boxes in pixels of the source images.

    Args:
        subject: The detector, or the boxes that one has found.
        shuffle_labels_seed: Seed of a control that measures against the labels of other images.
    """
    point = point or subject.operating_point
    frames: list[EvalFrame] = []
    predictions: list[Detections] = []
    for batch, images in track(
        in_batches(source.read()),
        progress=progress or SilentProgress(),
        description=f"evaluate {source.name}",
        total=-(-len(source) // BATCH_SIZE),
        unit="batches",
    ):
        frames += batch
        if isinstance(subject, Detector):
            boxes = [frame.letterbox for frame in batch]
            predictions += subject.detect_letterboxed(images, letterboxes=boxes, iou=point.iou)
        else:
            predictions += [subject.find(frame, iou=point.iou) for frame in batch]
    if not frames:
        raise HaustraError(
            f"{source.name} holds no usable frame; the first problem: "
            f"{source.problems[0] if source.problems else 'none'}"
        )
    truths = [frame.truth for frame in frames]
    if shuffle_labels_seed is not None:
        truths = shuffle_truths(truths, seed=shuffle_labels_seed)
    return Evaluation(
        metrics=box_metrics(truths, predictions, threshold=point.objectness),
        truths=truths,
        predictions=predictions,
        frames=frames,
    )
