"""The sample table, `samples.parquet`: one row per sample."""

import pyarrow as pa

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
"""Columns of `samples.parquet`."""
