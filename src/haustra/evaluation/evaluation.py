"""Evaluating a detector on frames: predictions of every frame against its labels.

The detector is any callable from a batch of images to slots, so nothing here knows a model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import (
    Detections,
    PredictSlots,
    detections_from_labels,
    detections_from_slots,
)
from haustra.core.errors import HaustraError
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluation.frames import (
    BATCH_SIZE,
    EvalFrame,
    FrameSource,
    FrameWithPixels,
    SplitFrames,
)
from haustra.evaluation.metrics import BoxMetrics, box_metrics
from haustra.warehouse.dataset import Split

PredictFrames = Callable[[list[EvalFrame], NDArray[np.uint8]], list[Detections]]
"""From frames and their images uint8 [B,H,W,3] to the detections of each, at every score."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of a set of frames with what they were computed from, in order."""

    metrics: BoxMetrics
    truths: list[Detections]
    predictions: list[Detections]
    frames: list[EvalFrame] = field(default_factory=list)

    def with_threshold(self, threshold: float) -> "Evaluation":
        """Return the same at another score threshold (0..1)."""
        metrics = box_metrics(self.truths, self.predictions, threshold=threshold)
        return replace(self, metrics=metrics)


def shuffle_truths(truths: Sequence[Detections], *, seed: int) -> list[Detections]:
    """Give every image the labels of another: the control that shows whether labels leak.

    The labels move one place along a random cycle, so none stays; boxes are rescaled to the image
    that they come to.

    Raises:
        HaustraError: there is only one image.
    """
    if len(truths) < 2:
        raise HaustraError(
            "--shuffle-labels-seed: the split has one sample, so there is no other label to take"
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
    frames: Iterator[FrameWithPixels], *, batch_size: int
) -> Iterator[tuple[list[EvalFrame], NDArray[np.uint8]]]:
    """Yield frames and their images uint8 [B,H,W,3], so many at a time."""
    while batch := list(islice(frames, batch_size)):
        yield [frame for frame, _ in batch], np.stack([pixels for _, pixels in batch])


def frame_predictor(predict_slots: PredictSlots) -> PredictFrames:
    """Return a detector as a function from frames to detections on their source images."""

    def predict(frames: list[EvalFrame], images: NDArray[np.uint8]) -> list[Detections]:
        boxes, scores = predict_slots(images)
        return [
            detections_from_slots(boxes[row], scores[row], letterbox=frame.letterbox)
            for row, frame in enumerate(frames)
        ]

    return predict


def evaluate_frames(
    source: FrameSource,
    *,
    predict: PredictFrames,
    threshold: float,
    batch_size: int = BATCH_SIZE,
    shuffle_labels_seed: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a detector over frames and compute its metrics, boxes in pixels of the source images.

    Args:
        source: of the frames.
        predict: the detector.
        threshold: score for precision, recall and F1.
        batch_size: images at a time.
        shuffle_labels_seed: evaluate against the labels of other images, as a control.
        progress: where to show how far it is.

    Raises:
        HaustraError: no frame can be used.
    """
    frames: list[EvalFrame] = []
    predictions: list[Detections] = []
    for batch, images in track(
        in_batches(source.read(), batch_size=batch_size),
        progress=progress or SilentProgress(),
        description=f"evaluate {source.name}",
        total=-(-len(source) // batch_size),
        unit="batches",
    ):
        frames += batch
        predictions += predict(batch, images)
    if not frames:
        raise HaustraError(
            f"{source.name} holds no usable frame; the first problem: "
            f"{source.problems[0] if source.problems else 'none'}"
        )
    truths = [frame.truth for frame in frames]
    if shuffle_labels_seed is not None:
        truths = shuffle_truths(truths, seed=shuffle_labels_seed)
    return Evaluation(
        metrics=box_metrics(truths, predictions, threshold=threshold),
        truths=truths,
        predictions=predictions,
        frames=frames,
    )


def evaluate_split(
    split: Split,
    *,
    predict_slots: PredictSlots,
    threshold: float,
    batch_size: int = BATCH_SIZE,
    shuffle_labels_seed: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a detector over a warehouse's split; arguments as of `evaluate_frames`."""
    return evaluate_frames(
        SplitFrames(split),
        predict=frame_predictor(predict_slots),
        threshold=threshold,
        batch_size=batch_size,
        shuffle_labels_seed=shuffle_labels_seed,
        progress=progress,
    )
