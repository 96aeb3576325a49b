"""A training that has not enough memory, and the batch size that would fit."""

import gc
import re
from typing import TYPE_CHECKING

import numpy as np
import torch

from haustra.core.allocator import release_freed_memory
from haustra.core.errors import HaustraError, option
from haustra.warehouse.dataset import Batch

if TYPE_CHECKING:
    from haustra.training.training import Training

PHRASES = "can't allocate memory|not enough memory|out of memory|could not create a memory"
"""Messages of PyTorch's allocators, and of oneDNN under them, when there is no memory left."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that the memory does not suffice."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        # oneDNN, without room for its code. Longer texts that begin like this have other causes.
        or text == "could not create a primitive"
        or re.search(PHRASES, text) is not None
    )


def _try_step(training: "Training", *, batch_size: int) -> None:
    """Compute loss and gradient of full-size images, the costliest part of a step."""
    manifest = training.split.manifest
    width, height = manifest.target_size_wh
    images = np.zeros((batch_size, height, width, 3), dtype=np.uint8)
    mask = np.ones((batch_size, manifest.max_boxes), dtype=np.uint8)
    boxes_xyxy = np.full((*mask.shape, 4), (0.3, 0.3, 0.7, 0.7), dtype=np.float32)
    batch = Batch(images, boxes_xyxy, mask)
    try:
        training.backward(batch)
    finally:
        training.replicas.zero_grad()


def try_largest_step(training: "Training") -> None:
    """Fail now if memory would fail later, when the images have grown, or compiling fails.

    The training does not change.

    Raises:
        RuntimeError, MemoryError: See `is_out_of_memory`.
    """
    statistics = {name: value.clone() for name, value in training.model.named_buffers()}
    _try_step(training, batch_size=training.config.batch_size)
    for name, value in training.model.named_buffers():
        value.copy_(statistics[name])
    training.replicas.send_statistics()


def largest_fitting_batch_size(training: "Training") -> int | None:
    """Return the largest half, quarter, ... of the batch size that fits, or None.

    Each is tried. The weights do not change, but the running statistics do: the training cannot
    continue after it.
    """
    size = training.config.batch_size // 2
    while size:
        gc.collect()
        release_freed_memory()  # oneDNN's code does not come from the heap, but needs room too
        try:
            _try_step(training, batch_size=size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
        size //= 2
    return None


def out_of_memory_error(training: "Training") -> HaustraError:
    """Return the error of a training whose step had not enough memory, with what would fit."""
    width, height = training.split.manifest.target_size_wh
    config = training.config
    shown = option("batch_size", config.batch_size)
    text = f"out of memory with {shown} at {width}x{height}; "
    with torch.enable_grad():
        size = largest_fitting_batch_size(training)
    if size is None:
        return HaustraError(
            f"{text}not even one image fits in what is left; free memory, or build a warehouse "
            "of smaller images with `haustra etl --target-size`"
        )
    accumulate = config.accumulate * (config.batch_size // size)
    return HaustraError(
        f"{text}{option('batch_size', size)} fits here, and with "
        f"{option('accumulate', accumulate)} each step sees as many images as before"
    )
