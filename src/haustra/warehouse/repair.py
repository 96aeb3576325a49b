"""Repairing a damaged warehouse from the captures that it was built from.

Only broken or missing shards are made again, and the table if it is broken. The result is the
warehouse that the manifest describes, to the byte, or nothing changes.
"""

from pathlib import Path

from haustra.captures.reader import read_runs
from haustra.core.errors import HaustraError, option
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress, SilentProgress
from haustra.warehouse.etl import ETLResult, build_version
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import (
    SplitName,
    WarehouseManifest,
    check_warehouse,
    find_damage,
    read_manifest,
    resolve_manifest_path,
)
from haustra.warehouse.parquet import read_parquet
from haustra.warehouse.plan import plan_warehouse
from haustra.warehouse.splits import BY_DATASET, BY_SIMILAR, SplitAssignment


def _config_of(
    manifest: WarehouseManifest, *, captures: Path, output_root: Path, jobs: int
) -> ETLConfig:
    """Return the settings of the ETL that made a warehouse, as far as its manifest has them."""
    width, height = manifest.target_size_wh
    method, _, value = manifest.split_method.removesuffix(BY_SIMILAR).partition(" ")
    return ETLConfig(
        captures=captures,
        output_root=output_root,
        target_size=f"{width}x{height}",
        resize_mode=manifest.resize_mode,
        max_boxes=manifest.max_boxes,
        samples_per_shard=manifest.samples_per_shard,
        empty_ratio=manifest.empty_ratio,
        split={"ratios": value, BY_DATASET: BY_DATASET}.get(method, ETLConfig.split),
        split_rule=value if method == "rule" else None,
        group_by="similar" if manifest.split_method.endswith(BY_SIMILAR) else None,
        jobs=jobs,
    )


def _assignment_in_table(manifest_path: Path, *, manifest: WarehouseManifest) -> SplitAssignment:
    """Return the split of every group of a warehouse that was split by a file."""
    path = manifest_path.parent / manifest.table.file
    damage = find_damage(path, sha256=manifest.table.sha256)
    if damage:
        raise HaustraError(
            f"{path} {damage}; the split of each group is stored only there and in the split file; "
            f"run `haustra etl` with the same {option('split_file')}, which makes only what is "
            "broken"
        )
    columns = read_parquet(path.read_bytes(), columns=["group_id", "split"]).to_pydict()
    split_of_group: dict[str, SplitName] = dict(
        zip(columns["group_id"], columns["split"], strict=True)
    )
    return SplitAssignment(split_of_group=split_of_group, method=manifest.split_method)


def repair_warehouse(
    manifest: StrPath, *, captures: StrPath, jobs: int = 2, progress: Progress | None = None
) -> ETLResult:
    """Make a warehouse's broken or missing shards and table again; its manifest must be whole.

    Returns:
        The result of an ETL; `built` is False where nothing was broken.

    Raises:
        HaustraError: The manifest is damaged, or the captures no longer give the same content.
    """
    progress, captures = progress or SilentProgress(), to_path(captures)
    manifest_path = resolve_manifest_path(manifest)
    expected = read_manifest(manifest_path)
    try:
        check_warehouse(manifest_path)
    except HaustraError as error:
        damage = str(error)
    else:
        return ETLResult(manifest_path=manifest_path, manifest=expected)
    folder = manifest_path.parent
    config = _config_of(expected, captures=captures, output_root=folder.parent, jobs=jobs)
    changed = HaustraError(
        f"{captures} no longer gives the content of {manifest_path} (version {expected.version}); "
        "expected the captures that it was built from; build a new version with `haustra etl`"
    )
    assignment = None
    if expected.split_method == "file":
        assignment = _assignment_in_table(manifest_path, manifest=expected)
        groups = {frame.group_id for run in read_runs(captures) for frame in run.frames}
        if not groups <= assignment.split_of_group.keys():
            raise changed
    plan = plan_warehouse(config, assignment=assignment, progress=progress)
    if plan.version != expected.version:
        raise changed

    def check(rebuilt: WarehouseManifest) -> None:
        if rebuilt != expected:
            raise HaustraError(
                f"{manifest_path}: the same captures gave another table, so another version of "
                "haustra or pyarrow made this warehouse; expected the one it was built with; move "
                "its folder away and run `haustra etl`"
            )

    return build_version(
        plan,
        folder=folder,
        check=check,
        notes=(damage,),
        progress=progress,
        expected={entry.content: entry for entry in expected.shards},
    )
