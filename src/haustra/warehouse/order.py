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

    start: int  # position in the order of its first sample
    stop: int  # position after its last sample
    shards: tuple[int, ...]  # numbers of its shards
    members: NDArray[np.int64]  # [stop - start] numbers of its samples, in ascending order


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochOrder:
    """The order of the samples of an epoch."""

    samples: NDArray[np.int64]  # [N] every sample number once
    windows: tuple[Window, ...]  # windows in order; they cover all positions

    def __len__(self) -> int:
        return len(self.samples)

    def window_at(self, position: int) -> int:
        """Return the number of the window that holds a position."""
        starts = [window.start for window in self.windows]
        return int(np.searchsorted(starts, position, side="right")) - 1


def epoch_order(
    shard_sizes: Sequence[int], *, seed: int, epoch: int, window_size: int = DEFAULT_WINDOW
) -> EpochOrder:
    """Shuffle the samples of shards.

    Args:
        shard_sizes: Number of samples in each shard; samples are numbered through all shards.
        epoch: Epoch, counted from 0.
        window_size: Largest number of samples to shuffle together; a larger shard is a window of
            its own.
    """
    rng = np.random.default_rng([seed, epoch])
    shards: Sequence[int] = range(len(shard_sizes))
    if sum(shard_sizes) > window_size:
        shards = rng.permutation(len(shard_sizes)).tolist()
    parts: list[list[int]] = []
    room = 0
    for shard in shards:
        if not parts or shard_sizes[shard] > room:
            parts.append([])
            room = window_size
        parts[-1].append(shard)
        room -= shard_sizes[shard]
    ends = np.cumsum((0, *shard_sizes))
    windows: list[Window] = []
    samples = [np.zeros(0, dtype=np.int64)]
    for part in parts:
        members = np.concatenate([np.arange(ends[s], ends[s + 1]) for s in sorted(part)])
        start = windows[-1].stop if windows else 0
        windows.append(
            Window(start=start, stop=start + len(members), shards=tuple(part), members=members)
        )
        samples.append(members[rng.permutation(len(members))])
    return EpochOrder(samples=np.concatenate(samples), windows=tuple(windows))
