"""Verifying a warehouse: all digests, and that manifest, table and shards agree.

Everything is checked, every problem has its own line that names file and row, and nothing is
changed. `haustra etl` and `open_split` check digests only, and stop at the first wrong one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from haustra.core.paths import StrPath
from haustra.core.progress import Progress, SilentProgress, track
from haustra.warehouse.format import (
    MANIFEST_NAME,
    SPLIT_NAMES,
    WarehouseManifest,
    find_damage,
    read_manifest,
    resolve_manifest_path,
)
from haustra.warehouse.parquet import read_parquet
from haustra.warehouse.shard_file import read_layout
from haustra.warehouse.shard_stores import map_file
from haustra.warehouse.table import TABLE_SCHEMA, Row, count_rows

NULLABLE = ("source_name",)  # columns of the table that may hold null


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The checked contents and every problem."""

    manifest_path: Path
    version: str
    num_shards: int
    num_bytes: int  # bytes of all shards; this number and the next three are the manifest's
    num_samples: int
    num_boxes: int
    num_groups: int
    problems: tuple[str, ...]  # one line each; files are named relative to the warehouse folder


def _read_table(path: Path, *, name: str) -> tuple[list[Row] | None, list[str]]:
    """Return the table's rows, or None and the reasons why they cannot be compared."""
    if not path.is_file():
        return None, []
    try:
        table = read_parquet(path.read_bytes())
    except (pa.ArrowException, OSError):
        return None, [f"{name}: it is not a Parquet file; its rows are not compared"]
    problems = []
    for field in TABLE_SCHEMA:
        if field.name not in table.column_names:
            problems.append(f"{name}: column {field.name!r} is missing")
        elif table.schema.field(field.name).type != field.type:
            found = table.schema.field(field.name).type
            problems.append(f"{name}: column {field.name!r} is {found}, expected {field.type}")
        elif field.name not in NULLABLE and table.column(field.name).null_count:
            problems.append(f"{name}: column {field.name!r} holds null")
    if problems:
        return None, [f"{problem}; its rows are not compared" for problem in problems]
    return table.to_pylist(), []


def _name_row(number: int, *, row: Row, manifest: WarehouseManifest) -> str:
    return f"{manifest.table.file} row {number} ({row['sample_id']})"


def _check_places(rows: list[Row], *, manifest: WarehouseManifest) -> Iterator[str]:
    """Check that ids are unique, and that rows match places in the shards one to one."""
    first_row_of_id: dict[str, int] = {}
    first_row_at: dict[tuple[str, int], int] = {}
    entries = {entry.file: entry for entry in manifest.shards}
    for number, row in enumerate(rows):
        where = _name_row(number, row=row, manifest=manifest)
        first = first_row_of_id.setdefault(row["sample_id"], number)
        if first != number:
            yield f"{where}: row {first} has the same sample_id"
        entry = entries.get(row["shard"])
        if entry is None:
            yield f"{where}: shard {row['shard']!r} is not in the manifest"
            continue
        if not 0 <= row["row"] < entry.num_samples:
            yield f"{where}: {entry.file} has {entry.num_samples} rows, none is {row['row']}"
            continue
        first = first_row_at.setdefault((entry.file, row["row"]), number)
        if first != number:
            place = f"{entry.file} row {row['row']}"
            yield f"{where}: row {first} of the table has the same place, {place}"
        if row["split"] != entry.split:
            yield f"{where}: it is in {row['split']}, but its shard is of {entry.split}"
    for file, count in Counter(entry.file for entry in manifest.shards).items():
        if count > 1:
            yield f"{MANIFEST_NAME}: shard {file!r} is listed {count} times"
    for entry in entries.values():
        for index in range(entry.num_samples):
            if (entry.file, index) not in first_row_at:
                yield f"{entry.file} row {index}: no row of {manifest.table.file} names it"


def _check_transforms(rows: list[Row], *, manifest: WarehouseManifest) -> Iterator[str]:
    """Check that scale, offset and box counts of each row follow from the manifest's settings."""
    for number, row in enumerate(rows):
        where = _name_row(number, row=row, manifest=manifest)
        if min(row["source_width"], row["source_height"]) < 1:
            yield f"{where}: source size {row['source_width']}x{row['source_height']}"
            continue
        letterbox = manifest.letterbox_of(row)
        found = (row["scale_x"], row["scale_y"], row["offset_x"], row["offset_y"])
        expected = (*letterbox.scale_xy, *letterbox.offset_xy)
        if found != expected:
            yield f"{where}: scale and offset are {found}, its source size gives {expected}"
        kept = min(row["boxes_before"], manifest.max_boxes)
        if row["boxes_after"] != kept:
            yield (
                f"{where}: boxes_after is {row['boxes_after']}, but {row['boxes_before']} boxes "
                f"with max_boxes {manifest.max_boxes} leave {kept}"
            )


def _check_counts(rows: list[Row], *, manifest: WarehouseManifest) -> Iterator[str]:
    """Check the manifest's counts and that no group is in two splits."""
    for split in SPLIT_NAMES:
        counts = manifest.splits.get(split)
        if counts is None:
            yield f"{MANIFEST_NAME}: it has no counts of split {split!r}"
            continue
        for name, number in count_rows(rows, split=split).items():
            listed = getattr(counts, name)
            if listed != number:
                yield f"{MANIFEST_NAME}: splits.{split}.{name} is {listed}, the table has {number}"
    truncated = sum(row["boxes_before"] - row["boxes_after"] for row in rows)
    if truncated != manifest.truncated_boxes:
        yield (
            f"{MANIFEST_NAME}: truncated_boxes is {manifest.truncated_boxes}, the table has "
            f"{truncated}"
        )
    splits_of_group: defaultdict[str, set[str]] = defaultdict(set)
    for number, row in enumerate(rows):
        where = _name_row(number, row=row, manifest=manifest)
        if row["split"] not in SPLIT_NAMES:
            yield f"{where}: split {row['split']!r} is not one of {', '.join(SPLIT_NAMES)}"
        splits = splits_of_group[row["group_id"]]
        if splits and row["split"] not in splits:
            others = " and ".join(sorted(splits))
            yield f"{where}: group {row['group_id']!r} is in {row['split']} and in {others}"
        splits.add(row["split"])


def _check_left_out(manifest: WarehouseManifest) -> Iterator[str]:
    """Check the manifest's counts of frames that did not become samples."""
    total = manifest.validation.total
    for kind in ("invalid", "missing"):
        named = sum(frame.kind == kind for frame in manifest.quarantined)
        if named != total.get(kind):
            yield (
                f"{MANIFEST_NAME}: validation.total.{kind} is {total.get(kind)}, but quarantined "
                f"names {named}"
            )
    left_out = sum(counts.empty_left_out for counts in manifest.splits.values())
    if left_out != total.get("empty_left_out"):
        yield (
            f"{MANIFEST_NAME}: validation.total.empty_left_out is {total.get('empty_left_out')}, "
            f"but the splits have {left_out}"
        )


def _check_boxes(
    boxes: NDArray[np.float32], mask: NDArray[np.uint8], *, file: str, rows: dict[int, Row]
) -> Iterator[str]:
    """Check one shard's boxes [N,M,4] and mask [N,M]; `rows` are the table's, by shard row."""
    finite = np.isfinite(boxes).all(axis=2)
    used = mask == 1
    faults = {
        "the mask is neither 0 nor 1": mask > 1,
        "a value is not finite": used & ~finite,
        "it leaves 0..1": used & finite & ((boxes < 0) | (boxes > 1)).any(axis=2),
        "it is inverted": used & finite & (boxes[..., 2:] < boxes[..., :2]).any(axis=2),
        "it is masked out but not zero": (mask == 0) & (boxes != 0).any(axis=2),
    }
    for text, places in faults.items():
        for index, slot in np.argwhere(places).tolist():
            box = [round(value, 6) for value in boxes[index, slot].tolist()]
            of_sample = f" ({rows[index]['sample_id']})" if index in rows else ""
            yield f"{file} row {index}{of_sample}: box {slot} {box}: {text}"
    for index, count in enumerate(used.sum(axis=1).tolist()):
        if index in rows and rows[index]["boxes_after"] != count:
            yield (
                f"{file} row {index} ({rows[index]['sample_id']}): {count} boxes in the mask, "
                f"{rows[index]['boxes_after']} in the table"
            )


def _check_shards(
    folder: Path, *, rows: list[Row], manifest: WarehouseManifest, progress: Progress
) -> Iterator[str]:
    rows_of_shard: dict[str, dict[int, Row]] = {}
    for row in rows:
        rows_of_shard.setdefault(row["shard"], {}).setdefault(row["row"], row)
    shards = track(
        manifest.shards, progress=progress, description="verify", total=len(manifest.shards)
    )
    for entry in shards:
        path = folder / entry.file
        damage = find_damage(path, sha256=entry.sha256, num_bytes=entry.num_bytes)
        if damage:
            yield f"{entry.file} {damage}"
        if not path.is_file():
            continue
        data = map_file(path)
        layout = read_layout(data, entry=entry, manifest=manifest)
        if isinstance(layout, str):
            yield f"{entry.file}: {layout}"
        else:
            _, boxes, mask = (place.view(data) for place in layout)
            yield from _check_boxes(
                boxes, mask, file=entry.file, rows=rows_of_shard.get(entry.file, {})
            )


def verify_warehouse(manifest: StrPath, *, progress: Progress | None = None) -> Verification:
    """Check everything that a warehouse says about itself, and find every problem.

    Raises:
        HaustraError: The manifest is missing or cannot be read; the result has all else.
    """
    manifest_path = resolve_manifest_path(manifest)
    checked = read_manifest(manifest_path)
    folder = manifest_path.resolve().parent
    problems = []
    if folder.name != f"v{checked.version}":
        problems.append(
            f"{MANIFEST_NAME}: its version is {checked.version}, but its folder is named "
            f"{folder.name!r}, expected 'v{checked.version}'"
        )
    table_path = folder / checked.table.file
    damage = find_damage(table_path, sha256=checked.table.sha256)
    problems += [f"{checked.table.file} {damage}"] if damage else []
    rows, unreadable = _read_table(table_path, name=checked.table.file)
    problems += unreadable
    problems += _check_left_out(checked)
    if rows is not None:
        problems += _check_places(rows, manifest=checked)
        problems += _check_transforms(rows, manifest=checked)
        problems += _check_counts(rows, manifest=checked)
    problems += _check_shards(
        folder, rows=rows or [], manifest=checked, progress=progress or SilentProgress()
    )
    return Verification(
        manifest_path=manifest_path,
        version=checked.version,
        num_shards=len(checked.shards),
        num_bytes=sum(entry.num_bytes for entry in checked.shards),
        num_samples=sum(counts.samples for counts in checked.splits.values()),
        num_boxes=sum(counts.boxes for counts in checked.splits.values()),
        num_groups=sum(counts.groups for counts in checked.splits.values()),
        problems=tuple(problems),
    )
