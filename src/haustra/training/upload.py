"""Batches on the way to the device that trains: uint8, from pinned memory, one ahead of its step.

On a CUDA card a copy from pinned memory runs beside the step before it, on a stream of its own.
There are two pinned buffers: while one is being copied from, the next batch is put into the other.
Elsewhere the same code copies without either.
"""

from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haustra.warehouse.dataset import Batch

NUM_BUFFERS = 2


class DeviceBatch(NamedTuple):
    """A batch where it is computed. B samples, M boxes at most."""

    images: Tensor
    """uint8 [B,H,W,3]."""
    boxes_xyxy: Tensor
    """float32 [B,M,4]; rows that no image of the batch uses are left out, but for one."""
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
    """Copies batches to a device.

    Args of the constructor:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pinned: list[Tensor | None] = [None] * NUM_BUFFERS
        self._copied: list[Any] = [None] * NUM_BUFFERS
        self._next = 0

    def upload(self, batch: Batch) -> DeviceBatch:
        """Begin to copy a batch; `wait_for` must come before it is used."""
        tensors = _to_tensors(batch)
        if self._stream is None:
            return DeviceBatch(*(tensor.to(self._device) for tensor in tensors))
        place = self._next
        self._next = (place + 1) % NUM_BUFFERS
        if self._copied[place] is not None:
            self._copied[place].synchronize()  # the copy before last has left this buffer
        images = self._put(tensors.images, place=place)
        with torch.cuda.stream(self._stream):
            moved = DeviceBatch(
                images.to(self._device, non_blocking=True),
                # A few hundred bytes, pinned anew each time: PyTorch keeps such memory.
                *(t.pin_memory().to(self._device, non_blocking=True) for t in tensors[1:]),
            )
            self._copied[place] = self._stream.record_event()
        return moved

    def _put(self, images: Tensor, *, place: int) -> Tensor:
        """Copy images into a pinned buffer, and return the part of it that holds them."""
        buffer = self._pinned[place]
        if buffer is None or buffer.numel() < images.numel():
            buffer = torch.empty(images.numel(), dtype=torch.uint8, pin_memory=True)
            self._pinned[place] = buffer
        part = buffer[: images.numel()].view(images.shape)
        return part.copy_(images)

    def wait_for(self, batch: DeviceBatch) -> DeviceBatch:
        """Let the device's own stream wait until a batch is there; the CPU does not wait."""
        if self._stream is not None:
            own = torch.cuda.current_stream(self._device)
            own.wait_stream(self._stream)
            for tensor in batch:
                tensor.record_stream(own)
        return batch


def uploaded_batches(
    batches: Generator[tuple[NDArray[np.int64], Batch], None, None], *, uploader: Uploader
) -> Generator[tuple[NDArray[np.int64], DeviceBatch], None, None]:
    """Yield each batch on the device, while the one after it is already on its way.

    Args:
        batches: sample numbers with their samples; closed in the end.
        uploader: to the device.
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
