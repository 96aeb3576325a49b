"""Finding near-duplicates across splits: images that look alike by a perceptual hash.

Splits by group cannot detect a procedure that was imported twice, under two names or from two
datasets. The hash detects it, also after another resizing, compression or brightness. It does not
detect a flip, a rotation or a crop. A pair that it names need not be a duplicate: look at both.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from haustra.core.checked import CheckedSettings, CountFromOne, Whole
from haustra.core.look_alikes import HASH_BITS, near_pairs, perceptual_hash
from haustra.core.paths import StrPath
from haustra.core.progress import Progress, SilentProgress, track
from haustra.warehouse.format import SPLIT_NAMES, SplitName
from haustra.warehouse.table import Row, StoredSamples


@dataclass(frozen=True, kw_only=True)
class AuditConfig(CheckedSettings):
    """Settings of `haustra warehouse audit`."""

    max_distance: Annotated[Whole, Field(ge=0, le=HASH_BITS)] = 6
    """Largest number of the 64 bits in which two hashes may differ; 0 finds nearly equal images."""
    max_pairs: CountFromOne = 1000
    """Largest number of pairs to name, nearest first; all are counted."""


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two images of different splits that look alike."""

    distance: int  # bits in which their hashes differ, 0 to 64
    split_a: SplitName
    sample_a: str
    split_b: SplitName
    sample_b: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Images that look alike across splits."""

    num_images: int
    num_pairs: int  # number of all pairs within the distance
    pairs: tuple[NearPair, ...]  # the nearest of them, nearest first


def _hash_image(row: Row, *, stored: StoredSamples) -> NDArray[np.bool_]:
    """Return the hash of a stored image without its padding."""
    letterbox = stored.manifest.letterbox_of(row)
    (left, top), (width, height) = letterbox.offset_xy, letterbox.resized_size_wh
    return perceptual_hash(stored.read(row).image[top : top + height, left : left + width])


def audit_warehouse(
    manifest: StrPath, *, config: AuditConfig | None = None, progress: Progress | None = None
) -> Audit:
    """Find images that look alike in different splits, after checking all digests."""
    config = config or AuditConfig()
    stored = StoredSamples(manifest)
    rows = stored.rows
    tracked = track(
        rows, progress=progress or SilentProgress(), description="hash", total=len(rows)
    )
    hashes = np.array([_hash_image(row, stored=stored) for row in tracked])
    split_of_row = np.array([row["split"] for row in rows])
    num_pairs = 0
    nearest = np.zeros((0, 3), dtype=np.int64)  # distance, row of a, row of b
    for split_a, split_b in combinations(SPLIT_NAMES, 2):
        rows_a, rows_b = (np.flatnonzero(split_of_row == name) for name in (split_a, split_b))
        for index_a, index_b, distances in near_pairs(
            hashes[rows_a], hashes[rows_b], max_distance=config.max_distance
        ):
            num_pairs += len(distances)
            found = np.stack([distances, rows_a[index_a], rows_b[index_b]], axis=1)
            nearest = np.concatenate([nearest, found])
            order = np.lexsort((nearest[:, 2], nearest[:, 1], nearest[:, 0]))
            nearest = nearest[order[: config.max_pairs]]
    return Audit(
        num_images=len(rows),
        num_pairs=num_pairs,
        pairs=tuple(
            NearPair(
                distance=distance,
                split_a=rows[row_a]["split"],
                sample_a=rows[row_a]["sample_id"],
                split_b=rows[row_b]["split"],
                sample_b=rows[row_b]["sample_id"],
            )
            for distance, row_a, row_b in nearest.tolist()
        ),
    )
