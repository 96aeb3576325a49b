"""What a warehouse gives to other tools: its samples as one table, and the command to train."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from haustra.core.errors import HaustraError
from haustra.core.files import write_bytes_atomic
from haustra.warehouse.inspection import letterbox_of, read_rows, read_stored
from haustra.warehouse.manifest import resolve_manifest_path
from haustra.warehouse.table import TABLE_SCHEMA

BOXES_TYPE = pa.list_(pa.list_(pa.float64()))
SUMMARY_SCHEMA = pa.schema(
    [
        *TABLE_SCHEMA,
        ("num_boxes", pa.int32()),
        ("boxes_xyxy", BOXES_TYPE),
        ("boxes_source_px", BOXES_TYPE),
    ]
)
"""Columns of a summary: the sample table's, then what its shard stores."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A table that was written."""

    path: Path
    num_samples: int
    num_boxes: int


def _check_target(out: Path, *, folder: Path) -> None:
    if out.suffix not in (".parquet", ".csv"):
        raise HaustraError(f"--out {out}: expected a file name that ends in .parquet or .csv")
    if out.is_dir():
        raise HaustraError(f"--out {out} is a folder; expected a file name")
    if out.resolve().is_relative_to(folder.resolve()):
        raise HaustraError(
            f"--out {out} lies inside the warehouse, which never changes; expected another place"
        )


def export_summary(manifest_path: Path, *, out: Path) -> Summary:
    """Write every sample's row with its stored boxes, whole or not at all.

    Boxes are `x0,y0,x1,y1`: `boxes_xyxy` in 0..1 of the stored image with the digits that make
    the same float32 again, `boxes_source_px` in pixels of the source image to 0.001.

    Args:
        manifest_path: the warehouse's manifest or its folder.
        out: file to write; `.parquet` has the boxes as lists, `.csv` as JSON text.

    Raises:
        HaustraError: `out` is no such name, or the warehouse is damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    _check_target(out, folder=manifest_path.parent)
    stored = read_stored(manifest_path)
    rows = [
        {
            **row,
            "num_boxes": len(boxes),
            "boxes_xyxy": [[float(str(value)) for value in box] for box in boxes],
            "boxes_source_px": letterbox_of(row, manifest=stored.manifest)
            .boxes_to_source(boxes)
            .round(3)
            .tolist(),
        }
        for row, boxes in zip(stored.rows, stored.boxes, strict=True)
    ]
    if out.suffix == ".parquet":
        data = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA), data)
        write_bytes_atomic(out, data=data.getvalue())
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=SUMMARY_SCHEMA.names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            as_text = {name: json.dumps(row[name]) for name in ("boxes_xyxy", "boxes_source_px")}
            writer.writerow(row | as_text)
        write_bytes_atomic(out, data=text.getvalue().encode())
    return Summary(path=out, num_samples=len(rows), num_boxes=sum(map(len, stored.boxes)))


def training_command(manifest_path: Path) -> list[str]:
    """Return the words of the command that trains on a warehouse.

    TinyDet where no stored image has more than one box, else BigDet.

    Raises:
        HaustraError: the manifest or the table is missing or damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    _, rows = read_rows(manifest_path)
    model = "tiny" if all(row["boxes_after"] <= 1 for row in rows) else "big"
    return ["haustra", "train", "--manifest", str(manifest_path), "--model", model]
