"""`haustra etl`."""

import shlex
from typing import Annotated

from haustra.cli.terminal import (
    Flags,
    Json,
    build_progress,
    long_table_lines,
    print_result,
    problem_lines,
    table_lines,
)
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import SplitCounts, WarehouseManifest
from haustra.warehouse.summary import next_command

COUNTS = (
    *("frames", "usable", "empty", "empty_left_out", "invalid", "missing", "without_image"),
    *("boxes", "clipped_boxes", "rejected_boxes", "unlabelled_images"),
)


def validation_lines(manifest: WarehouseManifest) -> list[str]:
    """Return the validation summary per run and in total, and the first problems."""
    validation = manifest.validation
    table = long_table_lines(
        ["run", *(name.replace("_", " ") for name in COUNTS)],
        rows={run: [counts[name] for name in COUNTS] for run, counts in validation.runs.items()},
        total=[validation.total[name] for name in COUNTS],
    )
    reasons = [frame.reason for frame in manifest.quarantined]
    return table + problem_lines(reasons + validation.problems)


def split_lines(manifest: WarehouseManifest) -> list[str]:
    """Return the counts of each split."""
    return table_lines(
        ["split", *(name.replace("_", " ") for name in SplitCounts.model_fields)],
        rows=[
            [name, *(str(number) for _, number in counts)]
            for name, counts in manifest.splits.items()
        ],
    )


def etl(*, config: Annotated[ETLConfig | None, Flags] = None, as_json: Json = False) -> None:
    """Build the tensor warehouse: validate, split by group, letterbox, write shards."""
    result = build_warehouse(config or ETLConfig(), progress=build_progress(as_json=as_json))
    manifest = result.manifest
    value = {
        "manifest": result.manifest_path,
        "built": result.built,
        "built_shards": result.built_shards,
        "reused_shards": result.reused_shards,
        "notes": result.notes,
        "version": manifest.version,
        "splits": {name: counts.model_dump() for name, counts in manifest.splits.items()},
        "validation": manifest.validation.model_dump(),
        "quarantined": [frame.model_dump() for frame in manifest.quarantined],
    }
    lines = [*validation_lines(manifest), *split_lines(manifest)]
    if manifest.truncated_boxes:
        lines.append(
            f"{manifest.truncated_boxes} box(es) left out by --max-boxes {manifest.max_boxes}: "
            "the smallest of their images"
        )
    print_result(
        value,
        *lines,
        *result.notes,
        f"built {result.manifest_path}: {result.built_shards} shard(s) made, "
        f"{result.reused_shards} reused"
        if result.built
        else f"nothing to do: {result.manifest_path} has this content already",
        f"next: {shlex.join(next_command(result.manifest_path))}",
        as_json=as_json,
    )
