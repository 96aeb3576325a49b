"""The sample table, `samples.parquet`: one row per sample."""

from typing import Any

import pyarrow as pa

from haustra.core.letterbox import Letterbox, plan_letterbox
from haustra.warehouse.format import WarehouseManifest

Row = dict[str, Any]
"""One row of the table: column to value."""

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


def letterbox_of(row: Row, *, manifest: WarehouseManifest) -> Letterbox:
    """Return how a sample's source image was mapped to the stored one."""
    return plan_letterbox(
        (row["source_width"], row["source_height"]),
        target_size_wh=manifest.target_size_wh,
        mode=manifest.resize_mode,
    )
