"""The training batches of one epoch, augmented in threads while the step before them computes."""

import os
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from haustra.training.augment import (
    Boxes,
    Image,
    augment_sample,
    batch_samples,
    mix_strengths,
    resized,
)
from haustra.training.recipe import AugmentStrength, GrowthSettings, Recipe
from haustra.training.upload import DeviceBatch
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Batch, Split
from haustra.warehouse.order import EpochOrder

Item = TypeVar("Item")
WaitedBatch = tuple[tuple[NDArray[np.int64], Batch | DeviceBatch], float]
"""Sample numbers and samples of a batch, and the seconds that a step waited for it."""

MAX_WORKERS = 8


class EpochAugmentation(NamedTuple):
    """How the images of one epoch are augmented."""

    strength: AugmentStrength
    size_wh: tuple[int, int]
    """Size of the augmented images in pixels."""


def epoch_augmentation(
    recipe: Recipe, *, size_wh: tuple[int, int], done: float, epoch: int, halfway: float
) -> EpochAugmentation:
    """Return how to augment an epoch.

    Args:
        recipe: The recipe of the training.
        size_wh: Size of the stored images.
        done: Share of the training (0..1) that is done at the start of the epoch.
        epoch: The epoch, counted from 0.
        halfway: Share that is done in the middle of the epoch; 1 gives images of the stored size.
    """
    settings, growth = recipe.augmentation, recipe.growth
    if done >= 1 - settings.light_share:
        return EpochAugmentation(settings.light, size_wh)
    share = min(1.0, epoch / settings.easy_epochs)
    strength = mix_strengths(settings.easy, settings.full, share=share)
    grown = min(1.0, halfway / growth.share)
    resolution = growth.first_resolution + (1 - growth.first_resolution) * grown
    smaller = np.rint(np.array(size_wh) * resolution / growth.side_step_px).astype(int)
    smaller = np.maximum(1, smaller) * growth.side_step_px
    if (smaller >= size_wh).any():
        return EpochAugmentation(strength, size_wh)
    return EpochAugmentation(strength, (int(smaller[0]), int(smaller[1])))


def mean_share_of_pixels(growth: GrowthSettings) -> float:
    """Return the pixels of an average image of a training, as a share of the stored size's."""
    # The mean of a square whose side grows linearly.
    first = growth.first_resolution
    while_growing = (first**2 + first + 1) / 3
    return growth.share * while_growing + 1 - growth.share


def training_batches(
    split: Split,
    *,
    order: EpochOrder,
    batch_size: int,
    seed: int,
    epoch: int,
    augmentation: EpochAugmentation | None,
    first_batch: int = 0,
) -> Generator[tuple[NDArray[np.int64], Batch], None, None]:
    """Yield the sample numbers and the samples of each batch of an epoch.

    The result depends on the split, the order, `seed`, `epoch` and `augmentation` alone.

    Args:
        split: The training split.
        order: Order of its samples in this epoch.
        batch_size: Samples in a batch; the last one may have fewer.
        seed: Seed of the training.
        epoch: The epoch, counted from 0.
        augmentation: Strength and size; None gives the samples as they are stored.
        first_batch: Batches to leave out at the beginning.
    """
    width, height = split.manifest.target_size_wh

    def read(index: int) -> tuple[Image, Boxes]:
        image, boxes = split.view(index)
        return image, boxes.astype(np.float64) * (width, height, width, height)

    def augmented(positions: range, chosen: EpochAugmentation) -> Batch:
        samples = []
        for position in positions:
            index = int(order.samples[position])
            samples.append(
                augment_sample(
                    resized(read, size_wh=chosen.size_wh),
                    index,
                    partners=order.windows[order.window_at(position)].members,
                    strength=chosen.strength,
                    rng=np.random.default_rng([seed, epoch, index]),
                )
            )
        return batch_samples(samples)

    return iterate_batches(
        split,
        order=order,
        batch_size=batch_size,
        first_batch=first_batch,
        make_batch=None if augmentation is None else partial(augmented, chosen=augmentation),
        num_workers=min(MAX_WORKERS, max(1, (os.cpu_count() or 1) // 2)),
    )


def with_waits(items: Generator[Item, None, None]) -> Generator[tuple[Item, float], None, None]:
    """Yield each item with the seconds of waiting for it; close `items` in the end."""
    with closing(items):
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            yield item, time.perf_counter() - started
