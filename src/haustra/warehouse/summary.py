"""Exporting a warehouse's samples as one table, and the command that uses the warehouse next."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from haustra.core.checked import OUTPUT_FILE
from haustra.core.errors import HaustraError, option
from haustra.core.files import write_bytes_atomic
from haustra.core.outputs import check_output
from haustra.core.paths import StrPath, to_path
from haustra.warehouse.format import resolve_manifest_path
from haustra.warehouse.parquet import parquet_bytes
from haustra.warehouse.table import TABLE_SCHEMA, StoredSamples, read_rows

BOXES_TYPE = pa.list_(pa.list_(pa.float64()))
SUMMARY_SCHEMA = pa.schema(
    [
        *TABLE_SCHEMA,
        ("num_boxes", pa.int32()),
        ("boxes_xyxy", BOXES_TYPE),
        ("boxes_source_px", BOXES_TYPE),
    ]
)
"""Columns of a summary: those of the sample table, then the boxes stored in its shard."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A table that was written."""

    path: Path
    num_samples: int
    num_boxes: int


def export_summary(manifest: StrPath, *, out: StrPath) -> Summary:
    """Write every sample's row with its stored boxes, whole or not at all.

    Boxes are `x0,y0,x1,y1`: `boxes_xyxy` in 0..1 of the stored image with the digits that make
    the same float32 again, `boxes_source_px` in pixels of the source image to 0.001.

    Args:
        out: File to write; `.parquet` has the boxes as lists, `.csv` as JSON text.

    Raises:
        HaustraError: `out` has another suffix or is in the warehouse, or the warehouse is damaged.
    """
    out = to_path(out)
    if out.suffix not in (".parquet", ".csv"):
        raise HaustraError(
            f"{option('out', out)}: expected a file name that ends in .parquet or .csv"
        )
    check_output("out", out, kind=OUTPUT_FILE)
    if out.resolve().is_relative_to(resolve_manifest_path(manifest).parent.resolve()):
        raise HaustraError(
            f"{option('out', out)} is inside the warehouse, which never changes; expected another "
            "folder"
        )
    stored = StoredSamples(manifest)
    rows = []
    for row in stored.rows:
        boxes = stored.boxes_of(row)
        boxes_px = stored.manifest.letterbox_of(row).boxes_to_source(boxes)
        stored_boxes = {
            "num_boxes": len(boxes),
            "boxes_xyxy": [[float(str(value)) for value in box] for box in boxes],
            "boxes_source_px": boxes_px.round(3).tolist(),
        }
        rows.append(row | stored_boxes)
    if out.suffix == ".parquet":
        write_bytes_atomic(out, data=parquet_bytes(rows, schema=SUMMARY_SCHEMA))
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=SUMMARY_SCHEMA.names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            as_text = {name: json.dumps(row[name]) for name in ("boxes_xyxy", "boxes_source_px")}
            writer.writerow(row | as_text)
        write_bytes_atomic(out, data=text.getvalue().encode())
    return Summary(path=out, num_samples=len(rows), num_boxes=sum(row["num_boxes"] for row in rows))


def next_command(manifest: StrPath) -> list[str]:
    """Return the words of the command that uses a warehouse next.

    It trains TinyDet where no stored image has more than one box, and BigDet otherwise. Where the
    training split is empty, it evaluates a detector, whose file the user fills in.
    """
    manifest_path = resolve_manifest_path(manifest)
    checked, rows = read_rows(manifest_path)
    if not checked.splits["train"].samples:
        split = "test" if checked.splits["test"].samples else "val"
        words = ["haustra", "eval", "--manifest", str(manifest_path), "--split", split]
        return [*words, "--detector-weights", "CHECKPOINT"]
    model = "tiny" if all(row["boxes_after"] <= 1 for row in rows) else "big"
    return ["haustra", "train", "--manifest", str(manifest_path), "--model", model]
