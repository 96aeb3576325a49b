"""The sample table, `samples.parquet`, and reading a warehouse to inspect it.

Digests are checked first, so that reports describe what was built.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from haustra.core.errors import HaustraError
from haustra.core.paths import StrPath
from haustra.warehouse.dataset import open_warehouse
from haustra.warehouse.format import WarehouseManifest, check_warehouse, resolve_manifest_path
from haustra.warehouse.remote import Folder
from haustra.warehouse.shard_stores import Sample, ShardStore, StoreConfig

Row = dict[str, Any]  # one row of the table: column to value

TABLE_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("run_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),
        ("frame", pa.string()),
        ("source_name", pa.string()),
        ("source_image", pa.string()),
        ("source_sha256", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("scale_x", pa.float64()),
        ("scale_y", pa.float64()),
        ("offset_x", pa.int32()),
        ("offset_y", pa.int32()),
        ("boxes_before", pa.int32()),
        ("boxes_after", pa.int32()),
        ("shard", pa.string()),
        ("row", pa.int32()),
    ]
)
"""Columns of the table."""


def read_rows(manifest: StrPath) -> tuple[WarehouseManifest, list[Row]]:
    """Read the manifest and the sample table, whose digest is checked; no shard is opened."""
    warehouse = open_warehouse(resolve_manifest_path(manifest))
    checked, rows = warehouse.manifest, warehouse.table.to_pylist()
    table_path = warehouse.location.name_of(checked.table.file)
    size_of_shard = {entry.file: entry.num_samples for entry in checked.shards}
    for row in rows:
        if not 0 <= row["row"] < size_of_shard.get(row["shard"], 0):
            raise HaustraError(
                f"{table_path}: sample {row['sample_id']!r} is in {row['shard']} row {row['row']}, "
                "which the manifest does not have; `haustra warehouse verify` names all problems"
            )
    return checked, rows


def count_rows(rows: list[Row], *, split: str) -> dict[str, int]:
    """Return the numbers of a split's samples, boxes, samples without a box, and groups."""
    members = [row for row in rows if row["split"] == split]
    return {
        "samples": len(members),
        "boxes": sum(row["boxes_after"] for row in members),
        "empty": sum(row["boxes_after"] == 0 for row in members),
        "groups": len({row["group_id"] for row in members}),
    }


class StoredSamples:
    """The samples of a warehouse, read one by one.

    Args:
        check_all: Check all digests first, instead of a shard's when it is first read.
    """

    def __init__(self, manifest: StrPath, *, check_all: bool = True) -> None:
        path = resolve_manifest_path(manifest)
        if check_all:
            check_warehouse(path)
        self.manifest, self.rows = read_rows(path)
        self._number_of_shard = {entry.file: n for n, entry in enumerate(self.manifest.shards)}
        self._store = ShardStore(
            Folder(path=path.parent),
            entries=self.manifest.shards,
            manifest=self.manifest,
            config=StoreConfig(verify=not check_all),
        )

    def read(self, row: Row) -> Sample:
        """Return the sample of a row, whose arrays must not be changed."""
        return self._store.sample(self._number_of_shard[row["shard"]], row["row"])

    def boxes_of(self, row: Row) -> NDArray[np.float32]:
        """Return a sample's boxes [n,4], normalized to the stored image, largest first."""
        _, boxes, mask = self.read(row)
        kept: NDArray[np.float32] = boxes[mask == 1]
        return kept
