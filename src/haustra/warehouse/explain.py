"""Explaining one sample: its source, its transform, and the reason for its split."""

import difflib
from dataclasses import dataclass, fields

from haustra.core.errors import HaustraError
from haustra.core.letterbox import ResizeMode
from haustra.core.paths import StrPath
from haustra.warehouse.format import SplitName, resolve_manifest_path
from haustra.warehouse.splits import explain_split
from haustra.warehouse.table import StoredSamples

FourNumbers = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class SampleExplanation:
    """Everything that a warehouse stores about one sample."""

    sample_id: str  # `run_id/frame`
    run_id: str
    group_id: str
    split: SplitName
    split_reason: str  # the reason why its group is in this split
    source_name: str | None  # file name before the import; None if it was not imported
    source_image: str  # path of the image inside its run folder
    source_sha256: str
    source_size_wh: tuple[int, int]  # pixels
    target_size_wh: tuple[int, int]  # pixels of the stored image
    resize_mode: ResizeMode
    scale_xy: tuple[float, float]  # stored pixels per source pixel
    offset_xy: tuple[int, int]  # padding at the left and top in stored pixels
    boxes_before: int  # number of usable boxes before `max_boxes` applied
    boxes_after: int  # number of stored boxes
    boxes_xyxy: tuple[FourNumbers, ...]
    """Stored boxes, normalized to the stored image, largest first."""
    boxes_source_px: tuple[FourNumbers, ...]  # the same boxes in pixels of the source image
    shard: str
    row: int


def explain_sample(manifest: StrPath, *, sample_id: str) -> SampleExplanation:
    """Explain one sample of a warehouse, after checking the digests of the table and its shard."""
    stored = StoredSamples(manifest, check_all=False)
    checked = stored.manifest
    row = next((row for row in stored.rows if row["sample_id"] == sample_id), None)
    if row is None:
        names = [row["sample_id"] for row in stored.rows]
        closest = difflib.get_close_matches(sample_id, names) or names[:3]
        raise HaustraError(
            f"{resolve_manifest_path(manifest)} has no sample {sample_id!r}; expected "
            f"run_id/frame, such as {', '.join(closest)}"
        )
    boxes = stored.boxes_of(row)
    boxes_px = checked.letterbox_of(row).boxes_to_source(boxes)
    same = {field.name: row[field.name] for field in fields(SampleExplanation) if field.name in row}
    return SampleExplanation(
        **same,
        split_reason=explain_split(
            row["group_id"], split=row["split"], method=checked.split_method
        ),
        source_size_wh=(row["source_width"], row["source_height"]),
        target_size_wh=checked.target_size_wh,
        resize_mode=checked.resize_mode,
        scale_xy=(row["scale_x"], row["scale_y"]),
        offset_xy=(row["offset_x"], row["offset_y"]),
        boxes_xyxy=tuple(tuple(box) for box in boxes.tolist()),
        boxes_source_px=tuple(tuple(box) for box in boxes_px.tolist()),
    )
