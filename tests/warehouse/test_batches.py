from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haustra.training.batches import EpochAugmentation, training_batches
from haustra.training.recipe import FULL
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import Split, open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.order import EpochOrder, epoch_order
from scenes import write_captures

_folders: list[TemporaryDirectory[str]] = []


@cache
def split_with(samples_per_shard: int) -> Split:
    """Open 27 samples of three runs in shards of this size."""
    _folders.append(TemporaryDirectory())
    folder = Path(_folders[-1].name)
    write_captures(folder / "captures", num_runs=3, frames_per_run=9, size_wh=(32, 32))
    config = ETLConfig(
        captures=folder / "captures",
        output_root=folder / "warehouse",
        target_size="32",
        max_boxes=2,
        split="1,0,0",
        samples_per_shard=samples_per_shard,
    )
    return open_split(build_warehouse(config).manifest_path, split="train")


def collect(
    split: Split,
    *,
    order: EpochOrder,
    batch_size: int,
    first_batch: int = 0,
    num_workers: int = 0,
) -> tuple[list[int], list[bytes]]:
    """Return the numbers and the bytes of all samples in the order in which they come."""
    numbers: list[int] = []
    data: list[bytes] = []
    for indices, batch in iterate_batches(
        split,
        order=order,
        batch_size=batch_size,
        first_batch=first_batch,
        num_workers=num_workers,
    ):
        assert len(indices) == len(batch.images) == len(batch.boxes_xyxy) == len(batch.mask)
        numbers += indices.tolist()
        data += [
            image.tobytes() + boxes.tobytes() + mask.tobytes()
            for image, boxes, mask in zip(*batch, strict=True)
        ]
    return numbers, data


@settings(max_examples=60, deadline=None)
@given(
    samples_per_shard=st.integers(1, 10),
    window_size=st.integers(1, 30),
    batch_size=st.integers(1, 30),
    num_workers=st.integers(0, 8),
    seed=st.integers(0, 100),
)
def test_each_sample_comes_once_in_the_same_order_for_any_number_of_workers(
    samples_per_shard: int, window_size: int, batch_size: int, num_workers: int, seed: int
) -> None:
    split = split_with(samples_per_shard)
    order = epoch_order(split.shard_sizes, seed=seed, epoch=0, window_size=window_size)
    numbers, data = collect(split, order=order, batch_size=batch_size, num_workers=num_workers)
    assert numbers == order.samples.tolist()
    assert sorted(numbers) == list(range(27))
    without_workers = collect(split, order=order, batch_size=batch_size)
    assert (numbers, data) == without_workers
    stored = [b"".join(array.tobytes() for array in sample) for sample in split]
    assert data == [stored[number] for number in numbers]


@settings(max_examples=60, deadline=None)
@given(
    samples_per_shard=st.integers(1, 10),
    window_size=st.integers(1, 30),
    batch_size=st.integers(1, 30),
    num_done=st.integers(0, 30),
    workers=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 100),
)
def test_an_epoch_goes_on_where_it_was_left(
    samples_per_shard: int,
    window_size: int,
    batch_size: int,
    num_done: int,
    workers: tuple[int, int],
    seed: int,
) -> None:
    split = split_with(samples_per_shard)
    order = epoch_order(split.shard_sizes, seed=seed, epoch=3, window_size=window_size)
    whole = collect(split, order=order, batch_size=batch_size, num_workers=workers[0])
    # The seed, the epoch and the number of batches done are all that a position needs.
    again = epoch_order(split.shard_sizes, seed=seed, epoch=3, window_size=window_size)
    rest = collect(
        split, order=again, batch_size=batch_size, first_batch=num_done, num_workers=workers[1]
    )
    skipped = min(27, num_done * batch_size)
    assert rest == (whole[0][skipped:], whole[1][skipped:])


def test_augmented_batches_go_on_where_they_were_left() -> None:
    split = split_with(4)
    order = epoch_order(split.shard_sizes, seed=5, epoch=1, window_size=9)

    def batches(first_batch: int) -> list[bytes]:
        made = training_batches(
            split,
            order=order,
            batch_size=4,
            seed=5,
            epoch=1,
            augmentation=EpochAugmentation(FULL, (32, 32)),
            first_batch=first_batch,
        )
        return [batch.images.tobytes() + batch.boxes_xyxy.tobytes() for _, batch in made]

    assert batches(3) == batches(0)[3:]


def test_mosaics_take_samples_of_their_own_window_only(monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_with(3)
    order = epoch_order(split.shard_sizes, seed=0, epoch=0, window_size=6)
    touched: list[int] = []

    def recorded(self: Split, index: int) -> tuple[np.ndarray, np.ndarray]:
        touched.append(index)
        return original(self, index)

    original = Split.view
    monkeypatch.setattr(Split, "view", recorded)
    for number, window in enumerate(order.windows):
        alone = EpochOrder(samples=order.samples[: window.stop], windows=order.windows)
        touched.clear()
        for _ in training_batches(
            split,
            order=alone,
            batch_size=1,
            seed=0,
            epoch=0,
            augmentation=EpochAugmentation(FULL, (32, 32)),
            first_batch=window.start,
        ):
            pass
        assert touched, number
        assert set(touched) <= set(window.members.tolist())


def test_an_error_in_a_worker_reaches_the_reader() -> None:
    split = split_with(5)
    order = epoch_order(split.shard_sizes, seed=0, epoch=0)

    def fail(positions: range) -> None:
        raise ValueError(f"at {positions.start}")

    with pytest.raises(ValueError, match="at 0"):
        next(iterate_batches(split, order=order, batch_size=2, make_batch=fail))  # type: ignore[arg-type]
