"""Writing a version's index: the sample table, then the manifest, which makes it complete."""

from collections import Counter
from collections.abc import Mapping

from haustra.captures.validation import CheckedLabel, ValidationSummary
from haustra.core.digests import digest_file
from haustra.core.errors import HaustraError
from haustra.core.files import write_bytes_atomic, write_text_atomic
from haustra.warehouse.etl_config import parse_target_size
from haustra.warehouse.format import (
    CLASS_NAMES,
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    SPLIT_NAMES,
    TABLE_NAME,
    QuarantinedFrame,
    ShardEntry,
    SplitCounts,
    TableEntry,
    Validation,
    WarehouseManifest,
    manifest_to_text,
)
from haustra.warehouse.parquet import parquet_bytes
from haustra.warehouse.plan import (
    Building,
    Outcome,
    ShardPlan,
    WarehousePlan,
    letterbox_frame,
    source_entry,
)
from haustra.warehouse.table import TABLE_SCHEMA, Row, count_rows


def _table_row(checked: CheckedLabel, *, plan: WarehousePlan, shard: ShardPlan, row: int) -> Row:
    frame, letterbox = checked.frame, letterbox_frame(checked, plan=plan)
    return {
        "sample_id": frame.sample_id,
        "run_id": frame.run_id,
        "group_id": frame.group_id,
        "split": shard.split,
        "frame": frame.name,
        "source_name": (frame.label and frame.label.source_name) or None,
        "source_image": frame.label.image if frame.label else None,
        "source_sha256": plan.image_digests[frame.sample_id],
        "source_width": checked.size_wh[0],
        "source_height": checked.size_wh[1],
        "scale_x": letterbox.scale_xy[0],
        "scale_y": letterbox.scale_xy[1],
        "offset_x": letterbox.offset_xy[0],
        "offset_y": letterbox.offset_xy[1],
        "boxes_before": len(checked.boxes_px),
        "boxes_after": min(len(checked.boxes_px), plan.config.max_boxes),
        "shard": shard.file,
        "row": row,
    }


def _table_rows(plan: WarehousePlan, *, outcomes: Mapping[str, Outcome]) -> list[Row]:
    rows = []
    for shard in plan.shards:
        checked = [outcomes[frame.sample_id] for frame in shard.frames]
        stored = [item for item in checked if isinstance(item, CheckedLabel)]
        rows += [_table_row(item, plan=plan, shard=shard, row=n) for n, item in enumerate(stored)]
    return rows


def _summarize(
    plan: WarehousePlan, *, outcomes: Mapping[str, Outcome]
) -> tuple[Validation, list[QuarantinedFrame]]:
    """Count every frame in order, with the runs' summaries in the order of the runs."""
    summaries = {run.run_id: ValidationSummary() for run in plan.runs}
    for run in plan.runs:
        summaries[run.run_id].add_unlabeled(run)
    for frame in plan.frames:
        summaries[frame.run_id].add(outcomes[frame.sample_id])
    for frame in plan.left_out:
        summaries[frame.run_id].empty_left_out += 1
    total = ValidationSummary()
    for summary in summaries.values():
        total.merge(summary)
    validation = Validation(
        total=total.counts(),
        runs={run_id: summary.counts() for run_id, summary in summaries.items()},
        problems=total.problems,
    )
    quarantined = [
        QuarantinedFrame.model_validate(
            {name: getattr(problem, name) for name in ("file", "kind", "reason")}
            | {"sample_id": problem.frame.sample_id}
        )
        for problem in total.quarantined
    ]
    return validation, quarantined


def write_index(building: Building, *, entries: Mapping[str, ShardEntry]) -> WarehouseManifest:
    """Write `samples.parquet`, then `manifest.json`; `entries` are the shards' by content."""
    plan, folder = building.plan, building.staging / "version"
    validation, quarantined = _summarize(plan, outcomes=building.outcomes)
    rows, config = _table_rows(plan, outcomes=building.outcomes), plan.config
    if not rows:
        reasons = [frame.reason for frame in quarantined]
        raise HaustraError(
            f"{config.captures}: none of {len(plan.frames)} frames is usable; the first problem: "
            f"{(reasons or ['every label says that no image was taken'])[0]}"
        )
    write_bytes_atomic(folder / TABLE_NAME, data=parquet_bytes(rows, schema=TABLE_SCHEMA))
    left_out = Counter(plan.assignment.split_of_group[frame.group_id] for frame in plan.left_out)
    splits = {
        name: SplitCounts(**count_rows(rows, split=name), empty_left_out=left_out[name])
        for name in SPLIT_NAMES
    }
    manifest = WarehouseManifest(
        format=FORMAT_NAME,
        format_version=FORMAT_VERSION,
        version=plan.version,
        target_size_wh=parse_target_size(config.target_size),
        resize_mode=config.resize_mode,
        max_boxes=config.max_boxes,
        samples_per_shard=config.samples_per_shard,
        empty_ratio=config.empty_ratio,
        truncated_boxes=sum(row["boxes_before"] - row["boxes_after"] for row in rows),
        class_names=list(CLASS_NAMES),
        split_method=plan.assignment.method,
        splits=splits,
        shards=[entries[shard.content] for shard in plan.shards if shard.content in entries],
        table=TableEntry(file=TABLE_NAME, sha256=digest_file(folder / TABLE_NAME)),
        sources=[source_entry(run) for run in plan.runs],
        validation=validation,
        quarantined=quarantined,
    )
    write_text_atomic(folder / MANIFEST_NAME, text=manifest_to_text(manifest))
    return manifest
