"""Uploads uint8 batches to the device that trains, one batch ahead of its step.

On a CUDA device a copy from pinned memory runs beside the step before it, on its own stream. Other
devices need neither.
"""

from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haustra.warehouse.dataset import Batch


class DeviceBatch(NamedTuple):
    """A batch on the device that trains. B samples, M boxes at most."""

    images: Tensor
    """uint8 [B,H,W,3]."""
    boxes_xyxy: Tensor
    """float32 [B,M,4]; rows that no image of the batch uses are left out, except the first."""
    mask: Tensor
    """bool [B,M]."""


def _to_tensors(batch: Batch) -> DeviceBatch:
    # Rows that no image of the batch uses would only cost time.
    rows = np.flatnonzero(batch.mask.any(axis=0))
    used = int(rows[-1]) + 1 if len(rows) else 1
    return DeviceBatch(
        images=torch.from_numpy(batch.images),
        boxes_xyxy=torch.from_numpy(batch.boxes_xyxy[:, :used]),
        mask=torch.from_numpy(batch.mask[:, :used]).bool(),
    )


class Uploader:
    """Copies batches to a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, batch: Batch) -> DeviceBatch:
        """Begin to copy a batch; call `wait_for` before it is used."""
        tensors = _to_tensors(batch)
        if self._stream is None:
            return DeviceBatch(*(tensor.to(self._device) for tensor in tensors))
        with torch.cuda.stream(self._stream):
            # PyTorch's allocator keeps pinned memory until the copy is done, and then reuses it.
            return DeviceBatch(
                *(t.pin_memory().to(self._device, non_blocking=True) for t in tensors)
            )

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
    """Yield each batch on the device, while the next one is being copied.

    Args:
        batches: Sample numbers with their samples; closed in the end.
        uploader: Copies to the device.
    """
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
