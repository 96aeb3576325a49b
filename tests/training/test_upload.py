from collections.abc import Generator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from haustra.training.upload import Uploader, uploaded_batches
from haustra.warehouse.dataset import Batch

CPU = torch.device("cpu")


def batch_of(seed: int, *, size: int = 3, boxes: int = 2) -> Batch:
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, 5), dtype=np.uint8)
    mask[0, :boxes] = 1
    return Batch(
        rng.integers(0, 256, (size, 8, 6, 3), dtype=np.uint8),
        rng.random((size, 5, 4), dtype=np.float32),
        mask,
    )


def numbered(
    batches: list[Batch], asked: list[int]
) -> Generator[tuple[NDArray[np.int64], Batch], None, None]:
    """Batches with their number, and a record of which were asked for; -1 when closed."""
    try:
        for number, batch in enumerate(batches):
            asked.append(number)
            yield np.array([number]), batch
    finally:
        asked.append(-1)


def test_every_batch_arrives_in_order_and_unchanged() -> None:
    batches = [batch_of(0), batch_of(1, size=1), batch_of(2)]
    arrived = list(uploaded_batches(numbered(batches, []), uploader=Uploader(CPU)))
    assert [int(indices[0]) for indices, _ in arrived] == [0, 1, 2]
    for (_, moved), batch in zip(arrived, batches, strict=True):
        assert moved.images.dtype == torch.uint8
        np.testing.assert_array_equal(moved.images.numpy(), batch.images)
        np.testing.assert_array_equal(moved.boxes_xyxy.numpy(), batch.boxes_xyxy[:, :2])
        assert moved.mask.dtype == torch.bool
        np.testing.assert_array_equal(moved.mask.numpy(), batch.mask[:, :2].astype(bool))


def test_the_next_batch_is_on_its_way_while_one_is_used() -> None:
    asked: list[int] = []
    arriving = uploaded_batches(
        numbered([batch_of(n) for n in range(4)], asked), uploader=Uploader(CPU)
    )
    next(arriving)
    assert asked == [0, 1]
    next(arriving)
    assert asked == [0, 1, 2]
    arriving.close()
    assert asked == [0, 1, 2, -1]


def test_a_batch_without_a_box_keeps_one_row() -> None:
    moved = Uploader(CPU).upload(batch_of(0, boxes=0))
    assert moved.boxes_xyxy.shape == (3, 1, 4)
    assert not moved.mask.any()


class FakeStream:
    """Notes the order of what a CUDA stream would be asked."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.copies = 0

    def record_event(self) -> "FakeStream":
        self.copies += 1
        self.events.append(f"copy {self.copies}")
        return self

    def synchronize(self) -> None:
        self.events.append("wait for a buffer")

    def __enter__(self) -> None:
        """As `torch.cuda.stream` does."""

    def __exit__(self, *_: object) -> None:
        """As `torch.cuda.stream` does."""


def test_two_pinned_buffers_take_turns_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a CPU can show of the pinned path: which buffer, in which order, with whose bytes.
    events: list[str] = []
    stream = FakeStream(events)
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "stream", lambda _: stream)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **more: empty(*size, **more))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    uploader = Uploader(CPU)
    uploader._stream = stream
    batches = [batch_of(0), batch_of(1), batch_of(2, size=2), batch_of(3, size=4)]
    for batch in batches:
        moved = uploader.upload(batch)
        np.testing.assert_array_equal(moved.images.numpy(), batch.images)
    assert events == [
        "copy 1",
        "copy 2",
        "wait for a buffer",
        "copy 3",
        "wait for a buffer",
        "copy 4",
    ]
    small, large = (buffer.numel() for buffer in uploader._pinned if buffer is not None)
    assert (small, large) == (3 * 8 * 6 * 3, 4 * 8 * 6 * 3)  # grown where a batch was larger
