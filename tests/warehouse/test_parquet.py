import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from haustra.warehouse.parquet import parquet_bytes, read_parquet

SCHEMA = pa.schema([("name", pa.string()), ("count", pa.int32())])
ROWS = [{"name": f"row {n}", "count": n} for n in range(1000)]

COUNT_THREADS = """
import os, sys
import pyarrow.compute
from haustra.warehouse.parquet import parquet_bytes, read_parquet
before = len(os.listdir("/proc/self/task"))
with open(sys.argv[1], "rb") as file:
    table = read_parquet(file.read(), columns=sys.argv[2:] or None)
parquet_bytes(table.to_pylist(), schema=table.schema)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_rows_are_read_back() -> None:
    data = parquet_bytes(ROWS, schema=SCHEMA)
    assert read_parquet(data).to_pylist() == ROWS
    assert read_parquet(data, columns=["count"]).to_pydict() == {"count": list(range(1000))}


@pytest.mark.parametrize("columns", [[], ["count"]])
def test_no_thread_is_started_that_could_outlive_the_interpreter(
    tmp_path: Path, columns: list[str]
) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet_bytes(ROWS, schema=SCHEMA))
    command = [sys.executable, "-c", COUNT_THREADS, str(path), *columns]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((pa.ArrowException, OSError)):
        read_parquet(data)
