"""Explaining one sample: where it came from, what was done to it, and why it is in its split."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from haustra.core.errors import HaustraError
from haustra.core.letterbox import ResizeMode
from haustra.warehouse.format import SplitName
from haustra.warehouse.inspection import letterbox_of, read_boxes, read_rows
from haustra.warehouse.manifest import check_file, resolve_manifest_path
from haustra.warehouse.splits import explain_split

NUM_CLOSEST = 3

FourNumbers = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class SampleExplanation:
    """All that a warehouse knows about one sample."""

    sample_id: str
    """`run_id/frame`."""
    run_id: str
    group_id: str
    split: SplitName
    split_reason: str
    """Why its group is in this split."""
    source_name: str | None
    """File name before the import; None if it was not imported."""
    source_image: str
    """Path of the image inside its run folder."""
    source_sha256: str
    source_size_wh: tuple[int, int]
    """Pixels."""
    target_size_wh: tuple[int, int]
    """Pixels of the stored image."""
    resize_mode: ResizeMode
    scale_xy: tuple[float, float]
    """Stored pixels per source pixel."""
    offset_xy: tuple[int, int]
    """Padding at the left and top in stored pixels."""
    boxes_before: int
    """Usable boxes before `--max-boxes`."""
    boxes_after: int
    """Boxes stored."""
    boxes_xyxy: tuple[FourNumbers, ...]
    """Stored boxes, normalised to the stored image, largest first."""
    boxes_source_px: tuple[FourNumbers, ...]
    """The same in pixels of the source image, through the inverse of the letterbox."""
    shard: str
    row: int


def explain_sample(manifest_path: Path, *, sample_id: str) -> SampleExplanation:
    """Explain one sample of a warehouse; the table's and the sample's shard's digest are checked.

    Raises:
        HaustraError: no such sample, or the manifest, the table or the shard is damaged.
    """
    manifest_path = resolve_manifest_path(manifest_path)
    manifest, rows = read_rows(manifest_path)
    row = next((row for row in rows if row["sample_id"] == sample_id), None)
    if row is None:
        names = [row["sample_id"] for row in rows]
        closest = difflib.get_close_matches(sample_id, names, n=NUM_CLOSEST) or names
        raise HaustraError(
            f"{manifest_path} has no sample {sample_id!r}; expected run_id/frame, such as "
            f"{', '.join(closest[:NUM_CLOSEST])}"
        )
    shard_path = manifest_path.parent / row["shard"]
    digest_of_shard = {entry.file: entry.sha256 for entry in manifest.shards}
    check_file(shard_path, sha256=digest_of_shard[row["shard"]])
    (boxes,) = read_boxes(shard_path, rows=[row["row"]])
    boxes_px = letterbox_of(row, manifest=manifest).boxes_to_source(boxes)
    return SampleExplanation(
        sample_id=sample_id,
        run_id=row["run_id"],
        group_id=row["group_id"],
        split=row["split"],
        split_reason=explain_split(
            row["group_id"], split=row["split"], method=manifest.split_method
        ),
        source_name=row["source_name"],
        source_image=row["source_image"],
        source_sha256=row["source_sha256"],
        source_size_wh=(row["source_width"], row["source_height"]),
        target_size_wh=manifest.target_size_wh,
        resize_mode=manifest.resize_mode,
        scale_xy=(row["scale_x"], row["scale_y"]),
        offset_xy=(row["offset_x"], row["offset_y"]),
        boxes_before=row["boxes_before"],
        boxes_after=row["boxes_after"],
        boxes_xyxy=tuple(tuple(box) for box in boxes.tolist()),
        boxes_source_px=tuple(tuple(box) for box in boxes_px.tolist()),
        shard=row["shard"],
        row=row["row"],
    )
