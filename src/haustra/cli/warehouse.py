"""`haustra warehouse verify | explain | diff | repair | export | command | audit`."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from haustra.cli.terminal import Flags, Json, build_progress, print_result
from haustra.core.checked import Count, CountFromOne
from haustra.core.errors import HaustraError, option
from haustra.warehouse.audit import AuditConfig, audit_warehouse
from haustra.warehouse.diff import WarehouseDiff, diff_warehouses
from haustra.warehouse.explain import SampleExplanation, explain_sample
from haustra.warehouse.repair import repair_warehouse
from haustra.warehouse.summary import export_summary, next_command
from haustra.warehouse.verify import verify_warehouse

app = App(name="warehouse")

Manifest = Annotated[Path, Parameter(help="The warehouse's manifest.json, or its folder.")]


@app.command(name="verify")
def verify(manifest: Manifest, /, *, as_json: Json = False) -> None:
    """Check all digests, and that manifest, table and shards agree; every problem is named."""
    found = verify_warehouse(manifest, progress=build_progress(as_json=as_json))
    summary = (
        f"verified {found.manifest_path}: {found.num_shards} shard(s) of "
        f"{found.num_bytes / 1e6:.1f} MB and the table have their digests, and agree "
        f"on {found.num_samples} samples, {found.num_boxes} boxes and {found.num_groups} groups"
    )
    print_result(asdict(found), *(found.problems or [summary]), as_json=as_json)
    if found.problems:
        raise HaustraError(
            f"{found.manifest_path} has {len(found.problems)} problem(s); expected none; "
            "repair it from its captures with `haustra warehouse repair`"
        )


@app.command(name="repair")
def repair(
    manifest: Manifest, /, *, captures: Path, jobs: CountFromOne = 2, as_json: Json = False
) -> None:
    """Make the broken or missing shards and the table again; the manifest must be whole.

    Args:
        captures: The capture root that the warehouse was built from, wherever it is now.
        jobs: Number of threads that decode.
    """
    result = repair_warehouse(
        manifest, captures=captures, jobs=jobs, progress=build_progress(as_json=as_json)
    )
    print_result(
        {
            "manifest_path": result.manifest_path,
            "repaired": result.built,
            "built_shards": result.built_shards,
            "reused_shards": result.reused_shards,
        },
        f"repaired {result.manifest_path}: {result.built_shards} shard(s) made again, "
        f"{result.reused_shards} kept"
        if result.built
        else f"{result.manifest_path} is whole; nothing to repair",
        as_json=as_json,
    )


def _format_boxes(boxes: Sequence[Sequence[float]], *, digits: int) -> str:
    texts = (", ".join(f"{value:.{digits}f}" for value in box) for box in boxes)
    return " ".join(f"[{text}]" for text in texts) or "none"


def _explanation_lines(found: SampleExplanation) -> list[str]:
    source, target = ("x".join(map(str, s)) for s in (found.source_size_wh, found.target_size_wh))
    named = f", before the import {found.source_name}" if found.source_name else ""
    scale, offset = found.scale_xy, found.offset_xy
    return [
        f"{found.sample_id}",
        f"source     {found.source_image} of run {found.run_id}{named}",
        f"           {source}, sha256 {found.source_sha256}",
        f"transform  {found.resize_mode} to {target}: scale {scale[0]:g}, {scale[1]:g}, "
        f"offset {offset[0]}, {offset[1]}",
        f"boxes      {found.boxes_before} usable, {found.boxes_after} stored",
        f"           0..1 of the stored image: {_format_boxes(found.boxes_xyxy, digits=4)}",
        f"           source pixels: {_format_boxes(found.boxes_source_px, digits=1)}",
        f"group      {found.group_id}",
        f"split      {found.split}: {found.split_reason}",
        f"stored in  {found.shard} row {found.row}",
    ]


@app.command(name="explain")
def explain(manifest: Manifest, sample: str, /, *, as_json: Json = False) -> None:
    """Show the source of one sample, its transform, and the reason for its split.

    Args:
        sample: The sample's id, run_id/frame.
    """
    found = explain_sample(manifest, sample_id=sample)
    print_result(asdict(found), *_explanation_lines(found), as_json=as_json)


def _diff_lines(found: WarehouseDiff, *, max_names: int) -> list[str]:
    lines = [
        f"A v{found.version_a}: {found.num_a} samples",
        f"B v{found.version_b}: {found.num_b} samples",
    ]
    if found.finds_nothing:
        same_version = found.version_a == found.version_b
        lines.append(
            "equal: the same samples, labels, pixels, splits, settings and sources"
            if same_version
            else "equal samples, labels, pixels, splits, settings and sources; the versions "
            "differ by something else, such as unusable frames or how shards are cut"
        )
        return lines
    kinds = {
        "added": found.added,
        "removed": found.removed,
        "relabeled": found.relabelled,
        "changed pixels": found.changed_pixels,
        "moved": tuple(f"{name}: {a} -> {b}" for name, a, b in found.moved),
        "regrouped": tuple(f"{name}: {a} -> {b}" for name, a, b in found.regrouped),
        "setting": tuple(f"{name}: {a} -> {b}" for name, (a, b) in found.settings.items()),
        "source": found.sources,
    }
    lines.append(
        f"{found.num_same} samples the same, {len(found.added)} added, {len(found.removed)} "
        f"removed, {len(found.relabelled)} relabeled, {len(found.changed_pixels)} with "
        f"changed pixels, {len(found.moved)} moved between splits, {len(found.regrouped)} "
        f"regrouped; {len(found.settings)} settings and {len(found.sources)} sources differ"
    )
    for kind, names in kinds.items():
        lines += [f"{kind}: {name}" for name in names[:max_names]]
        if len(names) > max_names:
            lines.append(f"{kind}: ... and {len(names) - max_names} more")
    return lines


@app.command(name="diff")
def diff(a: Path, b: Path, /, *, max_names: Count = 20, as_json: Json = False) -> None:
    """Compare two warehouses by sample: added, removed, relabeled, changed pixels, moved.

    Args:
        a: The first warehouse's manifest.json, or its folder.
        b: The second warehouse's manifest.json, or its folder.
        max_names: Largest number of names to print per kind; --json has all.
    """
    found = diff_warehouses(a, b)
    value = asdict(found) | {"equal": found.finds_nothing}
    print_result(value, *_diff_lines(found, max_names=max_names), as_json=as_json)


@app.command(name="export")
def export(manifest: Manifest, /, *, out: Path, as_json: Json = False) -> None:
    """Write every sample's row, split, box count and boxes as one Parquet or CSV file.

    Args:
        out: File to write: .parquet has the boxes as lists, .csv as JSON text.
    """
    done = export_summary(manifest, out=out)
    line = f"wrote {done.path}: {done.num_samples} samples with {done.num_boxes} boxes"
    print_result(asdict(done), line, as_json=as_json)


@app.command(name="command")
def command(manifest: Manifest, /, *, as_json: Json = False) -> None:
    """Print the command that trains on a warehouse: tiny if no image has two boxes, else big.

    If the training split is empty, print the command that evaluates a detector.
    """
    words = next_command(manifest)
    print_result({"command": words}, shlex.join(words), as_json=as_json)


@app.command(name="audit")
def audit(
    manifest: Manifest,
    /,
    *,
    config: Annotated[AuditConfig | None, Flags] = None,
    strict: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
) -> None:
    """Name images of different splits that look alike; flipped and rotated ones are not found.

    Args:
        strict: Fail if there is any such pair.
    """
    found = audit_warehouse(manifest, config=config, progress=build_progress(as_json=as_json))
    lines = [
        f"difference {pair.difference:.4f}: {pair.split_a} {pair.sample_a}, "
        f"{pair.split_b} {pair.sample_b}"
        for pair in found.pairs
    ]
    if found.num_pairs > len(found.pairs):
        lines.append(f"... and {found.num_pairs - len(found.pairs)} more")
    total = f"{found.num_images} images, {found.num_pairs} pair(s) across splits look alike"
    print_result(asdict(found), *lines, total, as_json=as_json)
    if strict and found.num_pairs:
        raise HaustraError(
            f"{found.num_pairs} pair(s) of images in different splits look alike; expected none "
            f"with {option('strict')}; give each pair one group, or remove one of the two, and run "
            "`haustra etl` again"
        )
