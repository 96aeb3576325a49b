"""What a warehouse stores, for those who inspect it: the table's rows, and boxes or single images.

Boxes of 100,000 samples are a few megabytes, so they are read whole; images are read one by one.
`read_stored` checks every digest first, so that what is reported is what was built.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import safe_open

from haustra.core.errors import HaustraError
from haustra.core.letterbox import Letterbox, plan_letterbox
from haustra.warehouse.format import WarehouseManifest
from haustra.warehouse.manifest import (
    check_file,
    check_warehouse,
    read_manifest,
    resolve_manifest_path,
)

Row = dict[str, Any]
"""One row of `samples.parquet`: column to value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSamples:
    """A checked warehouse: its manifest, and every sample's row and boxes, in table order."""

    manifest_path: Path
    manifest: WarehouseManifest
    rows: list[Row]
    boxes: list[NDArray[np.float32]]
    """[n,4] of each sample, normalised to the stored image, largest first."""


def read_rows(manifest_path: Path) -> tuple[WarehouseManifest, list[Row]]:
    """Read the manifest and the sample table, whose digest is checked; no shard is opened.

    Raises:
        HaustraError: the manifest or the table is missing or damaged, or a row of the table names
            a place that no shard has.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    manifest = read_manifest(manifest_path)
    path = manifest_path.parent / manifest.table.file
    check_file(path, sha256=manifest.table.sha256)
    rows = pq.read_table(path).to_pylist()
    size_of_shard = {entry.file: entry.num_samples for entry in manifest.shards}
    for row in rows:
        if not 0 <= row["row"] < size_of_shard.get(row["shard"], 0):
            raise HaustraError(
                f"{path}: sample {row['sample_id']!r} lies in {row['shard']} row {row['row']}, "
                "which the manifest does not have; `haustra warehouse verify` names all problems"
            )
    return manifest, rows


def read_boxes(path: Path, *, rows: list[int]) -> list[NDArray[np.float32]]:
    """Read the boxes [n,4] of these rows of a shard; its images are not touched."""
    with safe_open(path, framework="numpy") as shard:
        boxes, mask = shard.get_tensor("boxes"), shard.get_tensor("mask")
    return [boxes[row][mask[row] == 1] for row in rows]


@contextmanager
def open_images(path: Path) -> Iterator[Any]:
    """Yield a shard's `images` [N,H,W,3]; indexing it reads that image alone."""
    with safe_open(path, framework="numpy") as shard:
        yield shard.get_slice("images")


def rows_by_shard(rows: list[Row]) -> dict[str, list[int]]:
    """Return the positions in `rows` of each shard's samples, shards in order of appearance."""
    positions: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        positions.setdefault(row["shard"], []).append(position)
    return positions


def read_stored(manifest_path: Path) -> StoredSamples:
    """Read every sample's row and boxes, after checking the digests of the table and all shards.

    Raises:
        HaustraError: the manifest, the table or a shard is missing or damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    check_warehouse(manifest_path)
    manifest, rows = read_rows(manifest_path)
    boxes = [np.zeros((0, 4), dtype=np.float32)] * len(rows)
    for shard, positions in rows_by_shard(rows).items():
        found = read_boxes(
            manifest_path.parent / shard, rows=[rows[position]["row"] for position in positions]
        )
        for position, of_sample in zip(positions, found, strict=True):
            boxes[position] = of_sample
    return StoredSamples(manifest_path=manifest_path, manifest=manifest, rows=rows, boxes=boxes)


def letterbox_of(row: Row, *, manifest: WarehouseManifest) -> Letterbox:
    """Return how a sample's source image was mapped to the stored one."""
    return plan_letterbox(
        (row["source_width"], row["source_height"]),
        target_size_wh=manifest.target_size_wh,
        mode=manifest.resize_mode,
    )
