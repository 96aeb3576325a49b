"""Evaluating a detector on a split: predictions of every image against its labels.

The detector is any callable from a batch of images to slots, so nothing here knows a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haustra.core.detections import (
    Detections,
    PredictSlots,
    detections_from_labels,
    detections_from_slots,
)
from haustra.core.errors import HaustraError
from haustra.core.letterbox import Letterbox
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluate.metrics import BoxMetrics, box_metrics
from haustra.warehouse.loader import iterate_batches
from haustra.warehouse.order import stored_order
from haustra.warehouse.reading import Split


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of a split with what they were computed from, in sample order."""

    metrics: BoxMetrics
    truths: list[Detections]
    predictions: list[Detections]


def _truths(split: Split, *, letterboxes: Sequence[Letterbox]) -> list[Detections]:
    batch_size = 256
    truths: list[Detections] = []
    for start in range(0, len(split), batch_size):
        stop = min(start + batch_size, len(split))
        batch = split.gather(np.arange(start, stop))
        for letterbox, boxes, mask in zip(
            letterboxes[start:stop], batch.boxes_xyxy, batch.mask, strict=True
        ):
            boxes_px = letterbox.boxes_to_source(boxes[mask.astype(bool)])
            truths.append(detections_from_labels(boxes_px, image_size_wh=letterbox.source_size_wh))
    return truths


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


def evaluate_split(
    split: Split,
    *,
    predict_slots: PredictSlots,
    threshold: float,
    batch_size: int = 32,
    shuffle_labels_seed: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a detector over a split and compute its metrics, boxes in pixels of the source images.

    Args:
        split: of a warehouse.
        predict_slots: the detector.
        threshold: score for precision, recall and F1.
        batch_size: images at a time.
        shuffle_labels_seed: evaluate against the labels of other images, as a control.
        progress: where to show how far it is.
    """
    letterboxes = split.letterboxes()
    truths = _truths(split, letterboxes=letterboxes)
    if shuffle_labels_seed is not None:
        truths = shuffle_truths(truths, seed=shuffle_labels_seed)
    predictions: list[Detections] = []
    batches = iterate_batches(split, order=stored_order(split.shard_sizes), batch_size=batch_size)
    for indices, batch in track(
        batches,
        progress=progress or SilentProgress(),
        description=f"evaluate {split.name}",
        total=-(-len(split) // batch_size),
    ):
        boxes, scores = predict_slots(batch.images)
        predictions += [
            detections_from_slots(boxes[row], scores[row], letterbox=letterboxes[index])
            for row, index in enumerate(indices)
        ]
    return Evaluation(
        metrics=box_metrics(truths, predictions, threshold=threshold),
        truths=truths,
        predictions=predictions,
    )
