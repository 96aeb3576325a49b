"""Finding near-duplicates across splits: images that look alike as thumbnails.

Splits by group cannot detect a procedure that was imported twice, under two names or from two
datasets. The thumbnails detect it, also after another resizing, compression or brightness, but not
a flip, a rotation or a crop. A pair that is named need not be a duplicate: look at both.
"""

from dataclasses import dataclass
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from haustra.core.checked import CheckedSettings, CountFromOne
from haustra.core.look_alikes import each_alike, thumbnail, unit_vectors
from haustra.core.paths import StrPath
from haustra.core.progress import Progress, SilentProgress, track
from haustra.warehouse.format import SPLIT_NAMES, SplitName
from haustra.warehouse.table import Row, StoredSamples


@dataclass(frozen=True, kw_only=True)
class AuditConfig(CheckedSettings):
    """Settings of `haustra warehouse audit`."""

    max_pairs: CountFromOne = 1000
    """Largest number of pairs to name, nearest first; all are counted."""


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two images of different splits that look alike."""

    difference: float  # 1 - correlation of their thumbnails
    split_a: SplitName
    sample_a: str
    split_b: SplitName
    sample_b: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Images that look alike across splits."""

    num_images: int
    num_pairs: int  # number of all pairs that look alike
    pairs: tuple[NearPair, ...]  # the nearest of them, nearest first


def _thumbnail_of(row: Row, *, stored: StoredSamples) -> NDArray[np.uint8]:
    """Return the thumbnail of a stored image without its padding."""
    letterbox = stored.manifest.letterbox_of(row)
    (left, top), (width, height) = letterbox.offset_xy, letterbox.resized_size_wh
    return thumbnail(stored.read(row).image[top : top + height, left : left + width])


def audit_warehouse(
    manifest: StrPath, *, config: AuditConfig | None = None, progress: Progress | None = None
) -> Audit:
    """Find images that look alike in different splits, after checking all digests."""
    config, progress = config or AuditConfig(), progress or SilentProgress()
    stored = StoredSamples(manifest)
    rows = stored.rows
    tracked = track(rows, progress=progress, description="shrink", total=len(rows))
    looks = unit_vectors([_thumbnail_of(row, stored=stored) for row in tracked])
    split_of = np.array([SPLIT_NAMES.index(row["split"]) for row in rows])
    num_pairs = 0
    nearest = list[tuple[float, int, int]]()  # difference, row of a, row of b
    for one, others in each_alike(looks, progress=progress):
        pairs = []
        for other in others[split_of[others] != split_of[one]].tolist():
            row_a, row_b = sorted((one, other), key=lambda row: int(split_of[row]))
            pairs.append((max(0.0, round(1 - float(looks[one] @ looks[other]), 4)), row_a, row_b))
        num_pairs += len(pairs)
        nearest = nsmallest(config.max_pairs, nearest + pairs) if pairs else nearest
    return Audit(
        num_images=len(rows),
        num_pairs=num_pairs,
        pairs=tuple(
            NearPair(
                difference=difference,
                split_a=rows[row_a]["split"],
                sample_a=rows[row_a]["sample_id"],
                split_b=rows[row_b]["split"],
                sample_b=rows[row_b]["sample_id"],
            )
            for difference, row_a, row_b in nearest
        ),
    )
