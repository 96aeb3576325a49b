"""Memory of a training: what it took at most, what there is, and which batch size would fit."""

import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from haustra.core.allocator import release_freed_memory
from haustra.core.errors import HaustraError, option
from haustra.warehouse.dataset import Batch

if TYPE_CHECKING:
    from haustra.training.training import Training

PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not create a memory",
)
"""How PyTorch's allocators, and oneDNN under them, say that there is none left."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that the memory does not suffice."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or text == "could not create a primitive"  # oneDNN, without room for its code; longer
        # texts that begin like this say what it cannot do at all
        or any(phrase in text for phrase in PHRASES)
    )


def peak_memory_bytes() -> int:
    """Return the most memory that this process had in use at one time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes() -> int | None:
    """Return the memory that programs can still take; None where the system does not tell."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    fields = dict(line.split(":") for line in path.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _try_step(training: "Training", *, batch_size: int) -> None:
    """Compute loss and gradient of images of the full size, the costliest part of a step."""
    manifest = training.split.manifest
    width, height = manifest.target_size_wh
    box = (0.3, 0.3, 0.7, 0.7)
    batch = Batch(
        images=np.zeros((batch_size, height, width, 3), dtype=np.uint8),
        boxes_xyxy=np.full((batch_size, manifest.max_boxes, 4), box, dtype=np.float32),
        mask=np.ones((batch_size, manifest.max_boxes), dtype=np.uint8),
    )
    training.loss_terms(batch)["loss"].backward()  # type: ignore[no-untyped-call]


def try_largest_step(training: "Training") -> None:
    """Fail now if memory fails later, where the images of a training grow. Nothing of it moves.

    Raises:
        RuntimeError, MemoryError: `is_out_of_memory` tells whether it is that.
    """
    statistics = {name: value.clone() for name, value in training.model.named_buffers()}
    _try_step(training, batch_size=training.config.batch_size)
    training.optimizer.zero_grad()
    for name, value in training.model.named_buffers():
        value.copy_(statistics[name])


def _fits(training: "Training", *, batch_size: int) -> bool:
    try:
        _try_step(training, batch_size=batch_size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        training.optimizer.zero_grad()
    return True


def largest_fitting_batch_size(training: "Training") -> int | None:
    """Return the largest half, quarter, ... of the batch size that fits, tried out; None if none.

    The weights do not move, but the running statistics do: the training cannot go on after it.
    """
    size = training.config.batch_size // 2
    while size:
        gc.collect()
        release_freed_memory()  # oneDNN's code does not come from the heap, but needs room too
        if _fits(training, batch_size=size):
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
