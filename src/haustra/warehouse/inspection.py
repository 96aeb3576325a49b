"""Reading a warehouse to inspect it: the table's rows, all boxes, or single images.

The boxes of 100,000 samples are a few megabytes, so they are read whole; images are read one by
one. Digests are checked first, so that reports describe what was built.
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
from haustra.core.paths import StrPath
from haustra.warehouse.format import WarehouseManifest, check_file
from haustra.warehouse.manifest import check_warehouse, read_manifest, resolve_manifest_path
from haustra.warehouse.table import Row


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSamples:
    """A checked warehouse: its manifest, and every sample's row and boxes, in table order."""

    manifest_path: Path
    manifest: WarehouseManifest
    rows: list[Row]
    boxes: list[NDArray[np.float32]]
    """[n,4] of each sample, normalized to the stored image, largest first."""


def read_rows(manifest: StrPath) -> tuple[WarehouseManifest, list[Row]]:
    """Read the manifest and the sample table, whose digest is checked; no shard is opened.

    Raises:
        HaustraError: The manifest or the table is missing or damaged, or a row of the table names
            a place that no shard has.
    """
    manifest_path = resolve_manifest_path(manifest)
    checked = read_manifest(manifest_path)
    path = manifest_path.parent / checked.table.file
    check_file(path, sha256=checked.table.sha256)
    rows = pq.read_table(path).to_pylist()
    size_of_shard = {entry.file: entry.num_samples for entry in checked.shards}
    for row in rows:
        if not 0 <= row["row"] < size_of_shard.get(row["shard"], 0):
            raise HaustraError(
                f"{path}: sample {row['sample_id']!r} is in {row['shard']} row {row['row']}, "
                "which the manifest does not have; `haustra warehouse verify` names all problems"
            )
    return checked, rows


def read_boxes(path: Path, *, rows: list[int]) -> list[NDArray[np.float32]]:
    """Read the boxes [n,4] of these rows of a shard, but not its images."""
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


def read_stored(manifest: StrPath) -> StoredSamples:
    """Read every sample's row and boxes, after checking the digests of the table and all shards.

    Raises:
        HaustraError: The manifest, the table or a shard is missing or damaged.
    """
    manifest_path = resolve_manifest_path(manifest)
    check_warehouse(manifest_path)
    checked, rows = read_rows(manifest_path)
    boxes = [np.zeros((0, 4), dtype=np.float32)] * len(rows)
    for shard, positions in rows_by_shard(rows).items():
        found = read_boxes(
            manifest_path.parent / shard, rows=[rows[position]["row"] for position in positions]
        )
        for position, of_sample in zip(positions, found, strict=True):
            boxes[position] = of_sample
    return StoredSamples(manifest_path=manifest_path, manifest=checked, rows=rows, boxes=boxes)
