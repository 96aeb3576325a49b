"""ETL: from run folders to a content-addressed warehouse.

First the sources are digested, which gives the version and the content of every shard; where that
version stands already, nothing is done. Else shards that another version or an interrupted ETL has
are linked, the others are made from decoded, letterboxed frames, the manifest is written last, and
the folder is renamed.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from haustra.captures.negatives import keeps_negative
from haustra.captures.reader import Frame, Run, read_runs
from haustra.captures.validation import (
    CheckedLabel,
    FrameProblem,
    ValidationSummary,
)
from haustra.core.ahead import map_ahead
from haustra.core.allocator import keep_freed_memory
from haustra.core.boxes import box_areas
from haustra.core.digests import digest_file, digest_json
from haustra.core.errors import HaustraError
from haustra.core.files import move_folder, remove_abandoned, write_text_atomic, writing_file
from haustra.core.letterbox import PAD_VALUE, Letterbox, plan_letterbox
from haustra.core.progress import Progress, SilentProgress, track
from haustra.warehouse.etl_config import ETLConfig, parse_target_size, parse_threshold
from haustra.warehouse.format import (
    CLASS_NAMES,
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    SPLIT_NAMES,
    TABLE_NAME,
    QuarantinedFrame,
    ShardEntry,
    SourceEntry,
    SplitCounts,
    SplitName,
    TableEntry,
    Validation,
    WarehouseManifest,
    manifest_to_text,
)
from haustra.warehouse.manifest import check_warehouse
from haustra.warehouse.shard_file import write_shard_file
from haustra.warehouse.shards import (
    FinishedShard,
    ShardPlan,
    check_planned_frame,
    digest_image,
    find_finished,
    label_boxes,
    plan_shards,
    recheck_frames,
    record_finished,
    take_finished,
)
from haustra.warehouse.splits import (
    SplitAssignment,
    parse_ratios,
    split_by_file,
    split_by_ratios,
    split_by_rule,
)
from haustra.warehouse.staging import staging_folder
from haustra.warehouse.table import TABLE_SCHEMA


@dataclass(frozen=True, kw_only=True)
class ETLResult:
    """Where the warehouse is and what it holds."""

    manifest_path: Path
    manifest: WarehouseManifest
    built: bool
    """False where this version stood already."""
    built_shards: int
    """Shards made from decoded images."""
    reused_shards: int
    """Shards taken from another version or an interrupted ETL."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class WarehousePlan:
    """What a version will hold, known before any image is decoded."""

    captures: Path
    runs: tuple[Run, ...]
    frames: tuple[Frame, ...]
    """Every frame of the runs that is not left out, ordered by split, run and name."""
    left_out: tuple[Frame, ...]
    """Frames without a box that `--empty-ratio` leaves out; their images are not opened."""
    image_digests: dict[str, str | None]
    """SHA-256 of each frame's image file by sample id; None where there is none to read."""
    assignment: SplitAssignment
    version: str
    shards: tuple[ShardPlan, ...]


_Outcome = CheckedLabel | FrameProblem


def _is_left_out(frame: Frame, *, ratio: float) -> bool:
    """Tell whether a frame is a negative by its label file and is not to be kept."""
    label = frame.label
    is_negative = frame.problem is None and label and label.image_present and not label.labels
    return bool(is_negative) and not keeps_negative(frame.sample_id, ratio=ratio)


def _assign_splits(groups: set[str], *, config: ETLConfig) -> SplitAssignment:
    if config.split_file is not None:
        return split_by_file(groups, path=config.split_file)
    if config.split_rule is not None:
        return split_by_rule(groups, rule=config.split_rule)
    return split_by_ratios(groups, ratios=parse_ratios(config.split))


def plan_warehouse(
    config: ETLConfig, *, assignment: SplitAssignment | None = None, progress: Progress
) -> WarehousePlan:
    """Read all labels, digest all images, and plan the version and its shards.

    Args:
        config: of the ETL.
        assignment: the split of every group, in place of the one that `config` describes.
        progress: where to tell how far it is.

    Raises:
        HaustraError: no run, no labelled frame, or a split file is wrong.
    """
    runs = read_runs(config.captures)
    frames = [frame for run in runs for frame in run.frames]
    if not frames:
        raise HaustraError(
            f"{config.captures} holds no labelled frame; make some with `haustra datagen` or "
            "`haustra import`"
        )
    assignment = assignment or _assign_splits({frame.group_id for frame in frames}, config=config)
    split_of_group = assignment.split_of_group
    frames.sort(key=lambda f: (SPLIT_NAMES.index(split_of_group[f.group_id]), f.run_id, f.name))
    left_out = [frame for frame in frames if _is_left_out(frame, ratio=config.empty_ratio)]
    if len(left_out) == len(frames):
        raise HaustraError(
            f"--empty-ratio {config.empty_ratio} leaves out all {len(frames)} frames of "
            f"{config.captures}, which have no box; expected a larger share, such as 1"
        )
    names_left_out = {frame.sample_id for frame in left_out}
    frames = [frame for frame in frames if frame.sample_id not in names_left_out]
    digesting = map_ahead(digest_image, frames, threads=config.jobs, num_ahead=4 * config.jobs)
    digests = list(
        track(digesting, progress=progress, description="digest", total=len(frames), unit="images"),
    )
    image_digests = {frame.sample_id: digest for frame, digest in zip(frames, digests, strict=True)}
    transform = {
        "format_version": FORMAT_VERSION,
        "target_size_wh": parse_target_size(config.target_size),
        "resize_mode": config.resize_mode,
        "pad_value": PAD_VALUE,
        "max_boxes": config.max_boxes,
    }
    layout = {
        "order": ["split", "run_id", "frame"],
        "samples_per_shard": config.samples_per_shard,
        "split_method": assignment.method,
        "empty_ratio": config.empty_ratio,
        "left_out": [[frame.sample_id, split_of_group[frame.group_id]] for frame in left_out],
    }
    origins = [[_source_entry(run).model_dump(), run.unlabelled] for run in runs]
    rows = [
        [
            frame.sample_id,
            frame.group_id,
            split_of_group[frame.group_id],
            image_digests[frame.sample_id],
            frame.problem,
            frame.label
            and [
                frame.label.image,
                frame.label.source_name,
                frame.label.image_present,
                label_boxes(frame),
            ],
        ]
        for frame in frames
    ]
    return WarehousePlan(
        captures=config.captures,
        runs=tuple(runs),
        frames=tuple(frames),
        left_out=tuple(left_out),
        image_digests=image_digests,
        assignment=assignment,
        version=digest_json([transform, layout, origins, rows])[:16],
        shards=tuple(
            plan_shards(
                frames,
                image_digests=image_digests,
                split_of_group=split_of_group,
                samples_per_shard=config.samples_per_shard,
                transform=transform,
            )
        ),
    )


def _check_thresholds(counts: dict[str, int], *, config: ETLConfig) -> None:
    num_frames = counts["frames"] - counts["empty_left_out"]
    for name, text, of, of_text in (
        ("invalid", config.max_invalid, num_frames, "frames"),
        ("missing", config.max_missing, num_frames, "frames"),
        ("empty", config.max_empty, counts["usable"], "usable frames"),
    ):
        limit, is_share = parse_threshold(text, flag=f"--max-{name}")
        allowed = limit * of if is_share else limit
        if counts[name] > allowed:
            raise HaustraError(
                f"{counts[name]} of {of} {of_text} are {name}, more than "
                f"--max-{name} {text}; run `haustra prune`, mend the captures, or raise the limit"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """A frame whose letterboxed image stands in its row of the shard."""

    checked: CheckedLabel
    boxes: NDArray[np.float64]
    """[N,4] normalised to the target image, at most `max_boxes`, largest first."""


def _plan_letterbox(checked: CheckedLabel, *, config: ETLConfig) -> Letterbox:
    return plan_letterbox(
        checked.size_wh,
        target_size_wh=parse_target_size(config.target_size),
        mode=config.resize_mode,
    )


def _make_sample(
    frame: Frame,
    row: NDArray[np.uint8],
    *,
    image_digests: dict[str, str | None],
    config: ETLConfig,
) -> _Sample | FrameProblem:
    """Decode a frame and write its letterboxed image to `row`, uint8 [H,W,3]."""
    decoded = check_planned_frame(frame, image_digest=image_digests[frame.sample_id])
    if isinstance(decoded, FrameProblem):
        return decoded
    letterbox = _plan_letterbox(decoded, config=config)
    letterbox.apply(decoded.image_rgb, out=row)
    largest_first = np.argsort(-box_areas(decoded.boxes_px), kind="stable")[: config.max_boxes]
    return _Sample(
        checked=decoded.without_image(),
        boxes=np.clip(letterbox.boxes_to_target(decoded.boxes_px[largest_first]), 0, 1),
    )


def _make_samples(
    plans: list[ShardPlan],
    *,
    make: Callable[[Frame, NDArray[np.uint8]], _Sample | FrameProblem],
    buffers: NDArray[np.uint8],
    threads: int,
) -> Generator[_Sample | FrameProblem, None, None]:
    """Yield what becomes of each frame, in order.

    A shard's images go to one of the two buffers [2,N,H,W,3], in turns: while one shard is
    written, the next is made. Whoever asks for a shard's first frame is done with the shard before.
    """
    pool = ThreadPoolExecutor(threads)

    def begin(number: int) -> list[Future[_Sample | FrameProblem]]:
        frames = plans[number].frames
        rows = buffers[number % 2, : len(frames)]
        return [pool.submit(make, frame, row) for frame, row in zip(frames, rows, strict=True)]

    try:
        begun = begin(0)
        for number in range(1, len(plans) + 1):
            after = begin(number) if number < len(plans) else []
            for future in begun:
                yield future.result()
            begun = after
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(
    samples: list[_Sample],
    *,
    images: NDArray[np.uint8],
    plan: ShardPlan,
    folder: Path,
    config: ETLConfig,
) -> ShardEntry:
    """Write one shard, whole or not at all."""
    boxes = np.zeros((len(samples), config.max_boxes, 4), dtype=np.float32)
    mask = np.zeros((len(samples), config.max_boxes), dtype=np.uint8)
    for row, sample in enumerate(samples):
        boxes[row, : len(sample.boxes)] = sample.boxes
        mask[row, : len(sample.boxes)] = 1
    num_bytes, sha256 = write_shard_file(folder / plan.file, images=images, boxes=boxes, mask=mask)
    return ShardEntry(
        file=plan.file,
        split=plan.split,
        num_samples=len(samples),
        num_bytes=num_bytes,
        sha256=sha256,
        content=plan.content,
    )


def _build_shards(
    plans: list[ShardPlan],
    *,
    image_digests: dict[str, str | None],
    staging: Path,
    outcomes: dict[str, _Outcome],
    expected: dict[str, ShardEntry],
    config: ETLConfig,
    progress: Progress,
) -> dict[str, ShardEntry]:
    """Decode the frames of these shards and write them; return the entries by content."""
    if not plans:
        return {}
    width, height = parse_target_size(config.target_size)
    num_rows = max(len(plan.frames) for plan in plans)
    # Memory that is touched for the first time costs more than decoding: two buffers serve all.
    buffers = np.empty((2, num_rows, height, width, 3), dtype=np.uint8)
    make = partial(_make_sample, image_digests=image_digests, config=config)
    entries = {}
    making = _make_samples(plans, make=make, buffers=buffers, threads=config.jobs)
    with closing(making):
        total = sum(len(plan.frames) for plan in plans)
        made = track(making, progress=progress, description="etl", total=total, unit="images")
        for number, plan in enumerate(plans):
            images = buffers[number % 2]
            samples: list[_Sample] = []
            for row, frame in enumerate(plan.frames):
                item = next(made)
                if isinstance(item, FrameProblem):
                    outcomes[frame.sample_id] = item
                    continue
                outcomes[frame.sample_id] = item.checked
                if len(samples) < row:  # a frame before it was broken: close the gap
                    images[len(samples)] = images[row]
                samples.append(item)
            if not samples:
                continue
            entry = _write_shard(
                samples,
                images=images[: len(samples)],
                plan=plan,
                folder=staging / "version",
                config=config,
            )
            if expected.get(plan.content, entry) != entry:
                raise HaustraError(
                    f"{plan.file}: the same captures gave other bytes, so another image library "
                    "made this warehouse; expected the one it was built with; move its folder "
                    "away and run `haustra etl`"
                )
            entries[plan.content] = entry
            sizes_wh = {s.checked.frame.sample_id: s.checked.size_wh for s in samples}
            record_finished(staging, finished=FinishedShard(entry=entry, sizes_wh=sizes_wh))
    return entries


def _reuse_shards(
    plan: WarehousePlan,
    *,
    output_root: Path,
    staging: Path,
    outcomes: dict[str, _Outcome],
    expected: dict[str, ShardEntry],
    config: ETLConfig,
    progress: Progress,
) -> dict[str, ShardEntry]:
    """Link the shards that were made before; return their entries by content."""
    wanted = {shard.content: shard for shard in plan.shards}
    entries: dict[str, ShardEntry] = {}

    def take(finished: FinishedShard, *, folder: Path) -> list[_Outcome] | None:
        shard = wanted[finished.entry.content]
        if expected.get(shard.content, finished.entry).sha256 != finished.entry.sha256:
            return None
        checked = recheck_frames(shard, image_digests=plan.image_digests, finished=finished)
        target = staging / "version" / shard.file
        if checked is None or not take_finished(finished, folder=folder, target=target):
            return None
        return checked

    contents = set(wanted)
    for folder, offered in find_finished(output_root, contents=contents):
        taking = map_ahead(
            partial(take, folder=folder), offered, threads=config.jobs, num_ahead=2 * config.jobs
        )
        taken = track(
            taking, progress=progress, description="reuse", total=len(offered), unit="shards"
        )
        for finished, checked in zip(offered, taken, strict=True):
            if checked is None:
                continue
            shard = wanted[finished.entry.content]
            contents.discard(shard.content)
            # The same frames may have been in another split there.
            entries[shard.content] = finished.entry.model_copy(
                update={"file": shard.file, "split": shard.split}
            )
            outcomes.update({item.frame.sample_id: item for item in checked})
    return entries


def _table_row(
    checked: CheckedLabel,
    *,
    image_digest: str | None,
    split: SplitName,
    shard: str,
    row: int,
    config: ETLConfig,
) -> dict[str, Any]:
    frame, letterbox = checked.frame, _plan_letterbox(checked, config=config)
    return {
        "sample_id": frame.sample_id,
        "run_id": frame.run_id,
        "group_id": frame.group_id,
        "split": split,
        "frame": frame.name,
        "source_name": (frame.label and frame.label.source_name) or None,
        "source_image": frame.label.image if frame.label else None,
        "source_sha256": image_digest,
        "source_width": checked.size_wh[0],
        "source_height": checked.size_wh[1],
        "scale_x": letterbox.scale_xy[0],
        "scale_y": letterbox.scale_xy[1],
        "offset_x": letterbox.offset_xy[0],
        "offset_y": letterbox.offset_xy[1],
        "boxes_before": len(checked.boxes_px),
        "boxes_after": min(len(checked.boxes_px), config.max_boxes),
        "shard": shard,
        "row": row,
    }


def _table_rows(
    plan: WarehousePlan, *, outcomes: dict[str, _Outcome], config: ETLConfig
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shard in plan.shards:
        checked = [outcomes[frame.sample_id] for frame in shard.frames]
        stored = [item for item in checked if isinstance(item, CheckedLabel)]
        rows.extend(
            _table_row(
                item,
                image_digest=plan.image_digests[item.frame.sample_id],
                split=shard.split,
                shard=shard.file,
                row=row,
                config=config,
            )
            for row, item in enumerate(stored)
        )
    return rows


def _count_split(
    rows: list[dict[str, Any]], *, split: SplitName, plan: WarehousePlan
) -> SplitCounts:
    split_of_group = plan.assignment.split_of_group
    members = [row for row in rows if row["split"] == split]
    return SplitCounts(
        samples=len(members),
        boxes=sum(row["boxes_after"] for row in members),
        empty=sum(row["boxes_after"] == 0 for row in members),
        empty_left_out=sum(split_of_group[frame.group_id] == split for frame in plan.left_out),
        groups=len({row["group_id"] for row in members}),
    )


def _source_entry(run: Run) -> SourceEntry:
    return SourceEntry(
        run_id=run.run_id,
        source=run.manifest.source,
        dataset=run.manifest.dataset,
        licence=run.manifest.licence,
        citation=run.manifest.citation,
    )


def _validate(
    plan: WarehousePlan, *, outcomes: dict[str, _Outcome]
) -> tuple[Validation, list[QuarantinedFrame]]:
    """Count every frame in order, the runs' summaries in the order of the runs."""
    summaries = {run.run_id: ValidationSummary() for run in plan.runs}
    for run in plan.runs:
        summaries[run.run_id].add_unlabelled(run)
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
            {
                "sample_id": problem.frame.sample_id,
                "file": problem.file,
                "kind": problem.kind,
                "reason": problem.reason,
            }
        )
        for problem in total.quarantined
    ]
    return validation, quarantined


def _write_table_and_manifest(
    plan: WarehousePlan,
    *,
    folder: Path,
    entries: dict[str, ShardEntry],
    outcomes: dict[str, _Outcome],
    config: ETLConfig,
) -> WarehouseManifest:
    validation, quarantined = _validate(plan, outcomes=outcomes)
    rows = _table_rows(plan, outcomes=outcomes, config=config)
    if not rows:
        reasons = [frame.reason for frame in quarantined]
        raise HaustraError(
            f"{plan.captures}: none of {len(plan.frames)} frames is usable; the first problem: "
            f"{(reasons or ['every label says that no image was taken'])[0]}"
        )
    with writing_file(folder / TABLE_NAME) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=TABLE_SCHEMA), temporary)
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
        splits={name: _count_split(rows, split=name, plan=plan) for name in SPLIT_NAMES},
        shards=[entries[shard.content] for shard in plan.shards if shard.content in entries],
        table=TableEntry(file=TABLE_NAME, sha256=digest_file(folder / TABLE_NAME)),
        sources=[_source_entry(run) for run in plan.runs],
        validation=validation,
        quarantined=quarantined,
    )
    write_text_atomic(folder / MANIFEST_NAME, text=manifest_to_text(manifest))
    return manifest


def _is_whole(manifest_path: Path, *, manifest: WarehouseManifest) -> bool:
    try:
        return manifest_path.exists() and check_warehouse(manifest_path) == manifest
    except HaustraError:
        return False


def build_version(
    plan: WarehousePlan,
    *,
    folder: Path,
    config: ETLConfig,
    check: Callable[[WarehouseManifest], None],
    notes: tuple[str, ...],
    progress: Progress,
    expected: dict[str, ShardEntry] | None = None,
) -> ETLResult:
    """Build a planned version as `folder`, with every shard beside it that can be used again.

    Args:
        plan: what to build.
        folder: the version's folder; what stands there is replaced.
        config: that the plan was made with.
        check: called with the manifest before the folder gets its name; may raise.
        notes: for the result.
        progress: where to tell how far it is.
        expected: shards by content that must come out just so.

    Raises:
        HaustraError: no frame is usable, an image changed meanwhile, a shard is not as expected,
            or `check` raises it.
    """
    outcomes: dict[str, _Outcome] = {
        frame.sample_id: check_planned_frame(frame, image_digest=None)
        for frame in plan.frames
        if plan.image_digests[frame.sample_id] is None
    }
    output_root = folder.parent
    keep_freed_memory()
    with staging_folder(output_root) as staging:
        reused = _reuse_shards(
            plan,
            output_root=output_root,
            staging=staging,
            outcomes=outcomes,
            expected=expected or {},
            config=config,
            progress=progress,
        )
        built = _build_shards(
            [shard for shard in plan.shards if shard.content not in reused],
            image_digests=plan.image_digests,
            staging=staging,
            outcomes=outcomes,
            expected=expected or {},
            config=config,
            progress=progress,
        )
        manifest = _write_table_and_manifest(
            plan,
            folder=staging / "version",
            entries=reused | built,
            outcomes=outcomes,
            config=config,
        )
        check(manifest)
        # Where another ETL has finished the same version meanwhile, readers may have it open.
        if not _is_whole(folder / MANIFEST_NAME, manifest=manifest):
            move_folder(staging / "version", target=folder)
    remove_abandoned(folder)
    return ETLResult(
        manifest_path=folder / MANIFEST_NAME,
        manifest=manifest,
        built=True,
        built_shards=len(built),
        reused_shards=len(reused),
        notes=notes,
    )


def build_warehouse(config: ETLConfig, *, progress: Progress | None = None) -> ETLResult:
    """Build the warehouse of a capture root, or find that it stands already.

    Raises:
        HaustraError: no run, no usable frame, a threshold is passed, or a split file is wrong.
    """
    progress = progress or SilentProgress()
    plan = plan_warehouse(config, progress=progress)
    folder = config.output_root / f"v{plan.version}"
    manifest_path = folder / MANIFEST_NAME
    notes = plan.assignment.notes

    def check(manifest: WarehouseManifest) -> None:
        _check_thresholds(manifest.validation.total, config=config)

    if manifest_path.exists():
        try:
            manifest = check_warehouse(manifest_path)
        except HaustraError as error:
            notes = (*notes, f"built again, since it was damaged: {error}")
        else:
            check(manifest)
            return ETLResult(
                manifest_path=manifest_path,
                manifest=manifest,
                built=False,
                built_shards=0,
                reused_shards=0,
                notes=notes,
            )
    return build_version(
        plan, folder=folder, config=config, check=check, notes=notes, progress=progress
    )
