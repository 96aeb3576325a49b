from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from haustra.training.batches import Uploader, uploaded_batches
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
    """Yield batches with their numbers, and record which were asked for; -1 when closed."""
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


def test_every_tensor_is_copied_from_pinned_memory_on_the_stream_of_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As much of the CUDA path as a CPU can run: the order of the calls, and the bytes.
    events: list[str] = []

    @contextmanager
    def stream(name: str) -> Iterator[None]:
        events.append(f"begin {name}")
        yield
        events.append(f"end {name}")

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        events.append("pin")
        return tensor

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    uploader = Uploader(CPU)
    uploader._stream = "copies"
    moved = uploader.upload(batch_of(0))
    np.testing.assert_array_equal(moved.images.numpy(), batch_of(0).images)
    assert events == ["begin copies", "pin", "pin", "pin", "end copies"]
