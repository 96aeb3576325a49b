"""Batches of a split in a given order, read ahead in threads."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from haustra.core.ahead import CpuClock, map_ahead
from haustra.warehouse.dataset import Batch, Split
from haustra.warehouse.order import EpochOrder

FETCH_THREADS = 4  # number of threads that fetch or check shards before their samples are read


def iterate_batches(
    split: Split,
    *,
    order: EpochOrder,
    batch_size: int,
    first_batch: int = 0,
    make_batch: Callable[[range], Batch] | None = None,
    num_workers: int = 0,
    clock: CpuClock | None = None,
) -> Generator[tuple[NDArray[np.int64], Batch], None, None]:
    """Yield the sample numbers and samples of each batch.

    The last batch may be smaller; no sample is left out. Shards are loaded in the order of the
    windows, those of the next window while one is read.

    Args:
        first_batch: Number of batches to skip, for a training that is resumed.
        make_batch: Makes a batch from positions in the order; gathers the samples by default.
        num_workers: Number of threads that make the next batches while one is used. With 0 the
            calling thread makes them, which is the fastest way to copy from memory or from the
            page cache. The result does not depend on it.
        clock: Counts the CPU time of loading and making, whichever thread does it.
    """

    def gather(positions: range) -> Batch:
        return split.gather(order.samples[positions.start : positions.stop])

    chunks = [
        range(start, min(start + batch_size, len(order)))
        for start in range(first_batch * batch_size, len(order), batch_size)
    ]
    clock = clock or CpuClock()
    fetching = ThreadPoolExecutor(FETCH_THREADS)

    def entering_windows() -> Iterator[range]:
        """Yield the chunks; the shards of a window begin to load one window earlier."""
        entered = -1
        for chunk in chunks:
            while entered < order.window_at(chunk[-1]):
                entered = max(entered + 1, order.window_at(chunk[0]))
                near = order.windows[max(0, entered - 1) : entered + 2]
                split.store.keep({shard for window in near for shard in window.shards})
                for window in order.windows[entered : entered + 2]:
                    for shard in window.shards:
                        fetching.submit(clock.timed, split.store.load, shard)
            yield chunk

    make = partial(clock.timed, make_batch or gather)
    making = (
        map_ahead(make, entering_windows(), threads=num_workers, num_ahead=num_workers + 1)
        if num_workers
        else (make(chunk) for chunk in entering_windows())
    )
    try:
        with closing(making):
            for chunk, batch in zip(chunks, making, strict=True):
                yield order.samples[chunk.start : chunk.stop], batch
    finally:
        fetching.shutdown(cancel_futures=True)
