"""Parquet tables as bytes, read and written without threads and without paths.

`pq.read_table` starts threads that can outlive the interpreter, which then ends with SIGABRT.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(data: bytes, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table that the bytes of a Parquet file hold, or some of its columns.

    Raises:
        pyarrow.ArrowException: They are not a Parquet file.
        OSError: They are a damaged one.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(columns=columns, use_threads=False)


def parquet_bytes(rows: Sequence[Mapping[str, Any]], *, schema: pa.Schema) -> bytes:
    """Return rows as the bytes of a Parquet file."""
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), data)
    return data.getvalue()
