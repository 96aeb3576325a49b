"""The training batches of one epoch, augmented in threads while the step before them computes."""

import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from haustra.training.augment import (
    EASY,
    FULL,
    LIGHT,
    AugmentStrength,
    Boxes,
    Image,
    augment_sample,
    batch_samples,
    mix_strengths,
)
from haustra.training.upload import DeviceBatch
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Batch, Split
from haustra.warehouse.order import EpochOrder

Item = TypeVar("Item")
WaitedBatch = tuple[tuple[NDArray[np.int64], Batch | DeviceBatch], float]
"""The numbers of a batch's samples, the samples, and the seconds that they were waited for."""

FIRST_RESOLUTION, GROWING_SHARE = 0.5, 0.6
"""A training begins with images this much smaller, which have grown to their own size when this
share of it is done: more of them in the same time (Tan and Le 2021, EfficientNetV2)."""
EASY_EPOCHS = 50
"""The first epoch augments by EASY, this one and all after it by FULL, those between in between."""
LIGHT_SHARE = 0.3
"""The last share of a training sees frames nearly as they are (YOLOX and YOLO26 end likewise).
Half as long a share costs 0.01 of AP50 and of AP50-95 after 27 minutes (dev/lab_log.md)."""
MAX_WORKERS = 8


def strength_at(done: float, *, epoch: int, halfway: float) -> AugmentStrength:
    """Return how strongly to augment an epoch, and how large its images are.

    A frame that comes for the first time teaches as it is; one that was seen dozens of times
    teaches only what is changed about it.

    Args:
        done: how much of the training is done when the epoch begins, 0..1.
        epoch: counted from 0.
        halfway: the same for its middle; 1 gives images of the full size.
    """
    if done >= 1 - LIGHT_SHARE:
        return LIGHT
    grown = min(1.0, halfway / GROWING_SHARE)
    strength = mix_strengths(EASY, FULL, share=min(1.0, epoch / EASY_EPOCHS))
    return replace(strength, resolution=FIRST_RESOLUTION + (1 - FIRST_RESOLUTION) * grown)


def mean_share_of_pixels() -> float:
    """Return how many pixels an average image of a training has, as a share of the full size's."""
    # The mean of a square that grows in a line.
    while_growing = (FIRST_RESOLUTION**2 + FIRST_RESOLUTION + 1) / 3
    return GROWING_SHARE * while_growing + 1 - GROWING_SHARE


def training_batches(
    split: Split,
    *,
    order: EpochOrder,
    batch_size: int,
    seed: int,
    epoch: int,
    strength: AugmentStrength | None,
    first_batch: int = 0,
) -> Generator[tuple[NDArray[np.int64], Batch], None, None]:
    """Yield the sample numbers and the samples of each batch of an epoch.

    A function of the split, the order, `seed`, `epoch` and `strength` alone.

    Args:
        split: the training split.
        order: of its samples in this epoch.
        batch_size: samples at a time.
        seed: of the training.
        epoch: counted from 0.
        strength: of the augmentation; None gives the samples as they are stored.
        first_batch: batches to leave out at the beginning.
    """
    width, height = split.manifest.target_size_wh

    def read(index: int) -> tuple[Image, Boxes]:
        image, boxes = split.view(index)
        return image, boxes.astype(np.float64) * (width, height, width, height)

    def augmented(positions: range) -> Batch:
        if strength is None:
            raise AssertionError("asked only where there is a strength")
        samples = []
        for position in positions:
            index = int(order.samples[position])
            samples.append(
                augment_sample(
                    read,
                    index,
                    partners=order.windows[order.window_at(position)].members,
                    strength=strength,
                    rng=np.random.default_rng([seed, epoch, index]),
                )
            )
        return batch_samples(samples)

    return iterate_batches(
        split,
        order=order,
        batch_size=batch_size,
        first_batch=first_batch,
        make_batch=None if strength is None else augmented,
        num_workers=min(MAX_WORKERS, max(1, (os.cpu_count() or 1) // 2)),
    )


def with_waits(items: Generator[Item, None, None]) -> Generator[tuple[Item, float], None, None]:
    """Yield each item with the seconds that it was waited for; close `items` in the end."""
    with closing(items):
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            yield item, time.perf_counter() - started
