"""The training batches of one epoch, augmented in threads while the step before them computes."""

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from haustra.train.augment import (
    FULL,
    LIGHT,
    AugmentStrength,
    Boxes,
    Image,
    augment_sample,
    batch_samples,
)
from haustra.warehouse.loader import epoch_order, iterate_batches
from haustra.warehouse.reading import Batch, Split

LIGHT_SHARE = 0.15
"""The last share of a training sees frames nearly as they are (YOLOX and YOLO26 end likewise)."""
MAX_WORKERS = 8


def strength_at(done: float) -> AugmentStrength:
    """Return how strongly to augment when a training is `done` (0..1)."""
    return FULL if done < 1 - LIGHT_SHARE else LIGHT


def training_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    strength: AugmentStrength | None,
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield the sample numbers and the samples of each batch of an epoch.

    A function of the split, `seed`, `epoch` and `strength` alone.

    Args:
        split: the training split.
        batch_size: samples at a time.
        seed: of the training.
        epoch: counted from 0.
        strength: of the augmentation; None gives the samples as they are stored.
    """
    width, height = split.manifest.target_size_wh

    def read(index: int) -> tuple[Image, Boxes]:
        sample = split.gather(np.array([index]))
        boxes = sample.boxes_xyxy[0][sample.mask[0].astype(bool)].astype(np.float64)
        return sample.images[0], boxes * (width, height, width, height)

    def augmented(indices: NDArray[np.int64]) -> Batch:
        if strength is None:
            raise AssertionError("asked only where there is a strength")
        return batch_samples(
            [
                augment_sample(
                    read,
                    int(index),
                    num_samples=len(split),
                    strength=strength,
                    rng=np.random.default_rng([seed, epoch, int(index)]),
                )
                for index in indices
            ]
        )

    return iterate_batches(
        split,
        order=epoch_order(len(split), seed=seed, epoch=epoch),
        batch_size=batch_size,
        make_batch=None if strength is None else augmented,
        num_workers=min(MAX_WORKERS, max(1, (os.cpu_count() or 1) // 2)),
    )
