"""Batches of a split in an order that is a pure function of its size, a seed and the epoch."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from haustra.warehouse.reading import Batch, Split


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return each sample number once, [num_samples], shuffled by (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples).astype(np.int64)


def iterate_batches(
    split: Split, *, order: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield the sample numbers and samples of each batch; the next is read while one is used.

    The last batch is smaller where the order does not divide evenly; no sample is left out.
    """
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(split.gather, chunk) for chunk in chunks[:2]]
        for position, chunk in enumerate(chunks):
            batch = ahead.pop(0).result()
            if position + 2 < len(chunks):
                ahead.append(pool.submit(split.gather, chunks[position + 2]))
            yield chunk, batch
