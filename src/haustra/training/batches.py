"""The batches of an epoch: augmented in threads, and uploaded one batch ahead."""

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from haustra.core.ahead import CpuClock
from haustra.models.losses import DeviceBatch
from haustra.training.augment import (
    Boxes,
    Image,
    ReadSample,
    augment_sample,
    batch_samples,
    mix_strengths,
    resized,
)
from haustra.training.negatives import Negatives
from haustra.training.recipe import AugmentStrength, GrowthSettings, Recipe
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Batch, Split
from haustra.warehouse.order import EpochOrder

MAX_WORKERS = 8


class EpochAugmentation(NamedTuple):
    """How the images of one epoch are augmented."""

    strength: AugmentStrength
    size_wh: tuple[int, int]  # size of the augmented images in pixels


def epoch_augmentation(
    recipe: Recipe, *, size_wh: tuple[int, int], done: float, epoch: int, halfway: float
) -> EpochAugmentation:
    """Return how to augment an epoch.

    Args:
        done: Share of the training (0..1) that is done at the start of the epoch.
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
    negatives: Negatives | None = None,
    first_batch: int = 0,
    clock: CpuClock | None = None,
) -> Generator[tuple[NDArray[np.int64], Batch], None, None]:
    """Yield the sample numbers and the samples of each batch of an epoch.

    The result depends on the split, the order, `seed`, `epoch` and `augmentation` alone.

    Args:
        batch_size: Samples in a batch; the last one may have fewer.
        augmentation: Strength and size; None gives the samples as they are stored.
        clock: Counts the CPU time of loading and augmenting.
    """
    width, height = split.manifest.target_size_wh

    def read(index: int) -> tuple[Image, Boxes]:
        image, boxes = split.view(index)
        return image, boxes.astype(np.float64) * (width, height, width, height)

    def make_sample(position: int) -> tuple[Image, Boxes]:
        index = int(order.samples[position])
        partners = order.windows[order.window_at(position)].members
        rng = np.random.default_rng([seed, epoch, index])
        reader: ReadSample = read
        is_negative = negatives is not None and negatives.takes(position)
        if negatives is not None and is_negative:
            reader = negatives.reader(read, partners=partners, rng=rng)
        if augmentation is None:
            return reader(index)
        strength = augmentation.strength
        return augment_sample(
            resized(reader, size_wh=augmentation.size_wh),
            index,
            partners=partners,
            strength=replace(strength, paste=0.0) if is_negative else strength,
            rng=rng,
        )

    def make_batch(positions: range) -> Batch:
        return batch_samples([make_sample(position) for position in positions])

    return iterate_batches(
        split,
        order=order,
        batch_size=batch_size,
        first_batch=first_batch,
        make_batch=None if augmentation is None and negatives is None else make_batch,
        num_workers=min(MAX_WORKERS, max(1, (os.cpu_count() or 1) // 2)),
        clock=clock,
    )


class Uploader:
    """Copies uint8 batches to the device that trains.

    On a CUDA device a copy from pinned memory runs beside the step before it, on its own stream.
    Other devices need neither.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, batch: Batch) -> DeviceBatch:
        """Begin to copy a batch; call `wait_for` before it is used."""
        # Rows that no image of the batch uses would only cost time.
        rows = np.flatnonzero(batch.mask.any(axis=0))
        used = int(rows[-1]) + 1 if len(rows) else 1
        arrays = (batch.images, batch.boxes_xyxy[:, :used], batch.mask[:, :used].astype(bool))
        tensors = map(torch.from_numpy, arrays)
        if self._stream is None:
            return DeviceBatch(*(tensor.to(self._device) for tensor in tensors))
        with torch.cuda.stream(self._stream):
            # PyTorch's allocator keeps pinned memory until the copy is done, and then reuses it.
            pinned = (tensor.pin_memory() for tensor in tensors)
            return DeviceBatch(*(t.to(self._device, non_blocking=True) for t in pinned))

    def wait_for(self, batch: DeviceBatch) -> DeviceBatch:
        """Make the device's own stream wait for a batch; the CPU does not wait."""
        if self._stream is not None:
            own = torch.cuda.current_stream(self._device)
            own.wait_stream(self._stream)
            for tensor in batch:
                tensor.record_stream(own)
        return batch


def uploaded_batches(
    batches: Generator[tuple[NDArray[np.int64], Batch], None, None], *, uploader: Uploader
) -> Generator[tuple[NDArray[np.int64], DeviceBatch], None, None]:
    """Yield each batch on the device, while the next one is being copied; close `batches`."""
    ready: tuple[NDArray[np.int64], DeviceBatch] | None = None
    with closing(batches):
        for indices, batch in batches:
            if ready is not None:
                # Before the next copy begins: the step waits for its own batch alone.
                ready = (ready[0], uploader.wait_for(ready[1]))
            begun = (indices, uploader.upload(batch))
            if ready is not None:
                yield ready
            ready = begun
        if ready is not None:
            yield ready[0], uploader.wait_for(ready[1])
