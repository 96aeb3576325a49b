"""Finding near-duplicates across splits: images that look alike by a perceptual hash.

Splits by group cannot detect a procedure that was imported twice, under two names or from two
datasets. The hash detects it, also after another resizing, compression or brightness. It does not
detect a flip, a rotation or a crop. A pair that it names need not be a duplicate: look at both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from haustra.core.checked import CheckedSettings, CountFromOne, Whole
from haustra.core.paths import StrPath
from haustra.core.progress import Progress, SilentProgress, track
from haustra.warehouse.format import SPLIT_NAMES, SplitName
from haustra.warehouse.table import Row, StoredSamples

HASH_BITS = 64
BLOCK_SIZE = 1024
"""Hashes of each side that are compared at once: a million distances, 9 MiB with their bits."""


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


def perceptual_hash(image_rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the 64 bits of an image's DCT hash: the low frequencies that exceed their median.

    The image, uint8 [H,W,3], is shrunk to 32x32 gray pixels. The hash uses the 8x8 lowest
    frequencies of its cosine transform, without those that are constant along an axis. Source: C.
    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section
    3.2.1.
    """
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Rounding gives zeros for a flat image instead of the signs of rounding errors.
    low = np.asarray(cv2.dct(small))[1:9, 1:9].round(2).ravel()
    return np.asarray(low > np.median(low))


def near_pairs(
    hashes_a: NDArray[np.bool_], hashes_b: NDArray[np.bool_], *, max_distance: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, block by block, the pairs of hashes [N,64] and [M,64] within a Hamming distance.

    Yields:
        Indices into `hashes_a`, indices into `hashes_b` and distances, [num_pairs] each.
    """
    words_a, words_b = (
        np.packbits(bits, axis=1).view(np.uint64).ravel() for bits in (hashes_a, hashes_b)
    )
    for start_a in range(0, len(words_a), BLOCK_SIZE):
        block_a = words_a[start_a : start_a + BLOCK_SIZE, None]
        for start_b in range(0, len(words_b), BLOCK_SIZE):
            distances = np.bitwise_count(block_a ^ words_b[start_b : start_b + BLOCK_SIZE])
            index_a, index_b = np.nonzero(distances <= max_distance)
            yield index_a + start_a, index_b + start_b, distances[index_a, index_b].astype(np.int64)


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
