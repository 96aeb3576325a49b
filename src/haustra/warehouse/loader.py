"""Batches of a split in an order that is a pure function of its size, a seed and the epoch."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from haustra.warehouse.reading import Batch, Split


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return each sample number once, [num_samples], shuffled by (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples).astype(np.int64)


def iterate_batches(
    split: Split,
    *,
    order: NDArray[np.int64],
    batch_size: int,
    make_batch: Callable[[NDArray[np.int64]], Batch] | None = None,
    num_workers: int = 1,
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield the sample numbers and samples of each batch; the next are made while one is used.

    The last batch is smaller where the order does not divide evenly; no sample is left out.

    Args:
        split: of a warehouse.
        order: sample numbers.
        batch_size: samples at a time.
        make_batch: from sample numbers to a batch, called in threads; `split.gather` by default.
        num_workers: threads that make batches; the result does not depend on it.
    """
    make = make_batch or split.gather
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    num_ahead = num_workers + 1
    with ThreadPoolExecutor(num_workers) as pool:
        ahead = [pool.submit(make, chunk) for chunk in chunks[:num_ahead]]
        for position, chunk in enumerate(chunks):
            batch = ahead.pop(0).result()
            if position + num_ahead < len(chunks):
                ahead.append(pool.submit(make, chunks[position + num_ahead]))
            yield chunk, batch
