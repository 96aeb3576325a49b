"""The order of samples in an epoch: a pure function of shard sizes, a seed and the epoch.

Shards are shuffled and grouped into windows of a bounded number of samples, and the samples of each
window are shuffled together. So a reader needs the shards of one window at a time. A warehouse that
fits into one window is shuffled as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_WINDOW = 8192
"""Number of samples that are shuffled together: 3.6 GB at 384x384, dozens of procedures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Samples that are shuffled together, and the shards that hold them."""

    start: int
    """Position in the order of its first sample."""
    stop: int
    """Position after its last sample."""
    shards: tuple[int, ...]
    """Numbers of its shards."""
    members: NDArray[np.int64]
    """[stop - start] numbers of its samples, in ascending order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochOrder:
    """The order of the samples of an epoch."""

    samples: NDArray[np.int64]
    """[N] every sample number once."""
    windows: tuple[Window, ...]
    """Windows in order; they cover all positions."""

    def __len__(self) -> int:
        return len(self.samples)

    def window_at(self, position: int) -> int:
        """Return the number of the window that holds a position."""
        starts = [window.start for window in self.windows]
        return int(np.searchsorted(starts, position, side="right")) - 1


def _windows(
    shards: Sequence[int], *, shard_sizes: NDArray[np.int64], window_size: int
) -> tuple[Window, ...]:
    """Group shards, in this order, into windows of at most `window_size` samples, or one shard."""
    firsts = np.concatenate([[0], np.cumsum(shard_sizes)])
    parts: list[list[int]] = []
    filled = 0
    for shard in shards:
        size = int(shard_sizes[shard])
        if not parts or filled + size > window_size:
            parts.append([])
            filled = 0
        parts[-1].append(shard)
        filled += size
    windows, start = [], 0
    for part in parts:
        members = np.concatenate([np.arange(firsts[s], firsts[s + 1]) for s in sorted(part)])
        windows.append(
            Window(start=start, stop=start + len(members), shards=tuple(part), members=members)
        )
        start += len(members)
    return tuple(windows)


def epoch_order(
    shard_sizes: Sequence[int], *, seed: int, epoch: int, window_size: int = DEFAULT_WINDOW
) -> EpochOrder:
    """Shuffle the samples of shards.

    Args:
        shard_sizes: Number of samples in each shard; samples are numbered through all shards.
        seed: Seed of the training.
        epoch: Epoch, counted from 0.
        window_size: Largest number of samples to shuffle together; a larger shard is a window of
            its own.
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    rng = np.random.default_rng([seed, epoch])
    shards: Sequence[int] = range(len(sizes))
    if sizes.sum() > window_size:
        shards = rng.permutation(len(sizes)).tolist()
    windows = _windows(shards, shard_sizes=sizes, window_size=window_size)
    shuffled = [window.members[rng.permutation(len(window.members))] for window in windows]
    return EpochOrder(
        samples=np.concatenate([np.zeros(0, dtype=np.int64), *shuffled]), windows=windows
    )
