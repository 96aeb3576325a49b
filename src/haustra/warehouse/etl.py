"""ETL: from run folders to a content-addressed warehouse.

The plan digests the sources, which gives the version (`plan.py`). If that version exists already,
nothing is done. Otherwise shards of another version or an interrupted ETL are linked (`reuse.py`),
the others are made from decoded, letterboxed frames, the index is written last (`index.py`), and
the folder is renamed.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame
from haustra.captures.validation import FrameProblem
from haustra.core.allocator import keep_freed_memory
from haustra.core.boxes import box_areas
from haustra.core.errors import HaustraError, option
from haustra.core.files import move_folder, remove_abandoned
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress, track
from haustra.warehouse.etl_config import ETLConfig, parse_target_size, parse_threshold
from haustra.warehouse.format import MANIFEST_NAME, ShardEntry, WarehouseManifest, check_warehouse
from haustra.warehouse.index import write_index
from haustra.warehouse.plan import (
    Building,
    Outcome,
    ShardPlan,
    WarehousePlan,
    check_planned_frame,
    letterbox_frame,
    plan_warehouse,
)
from haustra.warehouse.reuse import FinishedShard, record_finished, reuse_shards, staging_folder
from haustra.warehouse.shard_file import write_shard_file
from haustra.warehouse.shard_stores import Sample

Tensors = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]
"""Images [N,H,W,3], boxes [N,M,4] and mask [N,M] of a shard."""


def _note_crops(plan: WarehousePlan) -> tuple[str, ...]:
    cropped = sum(run.manifest.crop is not None for run in plan.runs)
    if cropped in (0, len(plan.runs)):
        return ()
    return (
        f"{cropped} of {len(plan.runs)} runs are cropped to the endoscope's picture: a detector "
        "trained on all of them will not crop",
    )


@dataclass(frozen=True, kw_only=True)
class ETLResult:
    """A warehouse and how it was built."""

    manifest_path: Path
    manifest: WarehouseManifest
    built_shards: int = 0  # shards made from decoded images
    reused_shards: int = 0  # shards taken from another version or an interrupted ETL
    notes: tuple[str, ...] = ()  # lines for the user, such as a split without a group

    @property
    def built(self) -> bool:
        """False where this version existed already."""
        return self.built_shards + self.reused_shards > 0


def _make_sample(frame: Frame, row: Sample, *, plan: WarehousePlan) -> Outcome:
    """Decode a frame and write its letterboxed image and its largest boxes to `row`."""
    decoded = check_planned_frame(frame, plan=plan)
    if isinstance(decoded, FrameProblem):
        return decoded
    letterbox = letterbox_frame(decoded, plan=plan)
    letterbox.apply(decoded.image_rgb, out=row.image)
    by_size = np.argsort(-box_areas(decoded.boxes_px), kind="stable")
    kept = decoded.boxes_px[by_size[: plan.config.max_boxes]]
    row.boxes_xyxy[...], row.mask[...] = 0, 0
    row.boxes_xyxy[: len(kept)] = np.clip(letterbox.boxes_to_target(kept), 0, 1)
    row.mask[: len(kept)] = 1
    return decoded.without_image()


def _make_samples(
    shards: Sequence[ShardPlan], *, plan: WarehousePlan, buffers: Sequence[Tensors]
) -> Generator[Outcome, None, None]:
    """Yield the outcome of each frame of these shards, in order.

    The samples of shard `n` go to `buffers[n % 2]`, which have room for the largest shard: while
    one shard is written, the next is made. A caller that asks for a shard's first frame must be
    done with the shard before it.
    """
    pool = ThreadPoolExecutor(plan.config.jobs)

    def begin(number: int) -> list[Future[Outcome]]:
        rows = zip(shards[number].frames, *buffers[number % 2], strict=False)
        return [
            pool.submit(_make_sample, frame, Sample(image, boxes, mask), plan=plan)
            for frame, image, boxes, mask in rows
        ]

    try:
        begun = begin(0)
        for number in range(1, len(shards) + 1):
            after = begin(number) if number < len(shards) else []
            for future in begun:
                yield future.result()
            begun = after
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(
    shard: ShardPlan, tensors: Tensors, *, sizes_wh: dict[str, tuple[int, int]], building: Building
) -> ShardEntry:
    """Write one shard, whole or not at all."""
    images, boxes, mask = tensors
    path = building.staging / "version" / shard.file
    num_bytes, sha256 = write_shard_file(path, images=images, boxes=boxes, mask=mask)
    entry = ShardEntry(
        file=shard.file,
        split=shard.split,
        num_samples=len(images),
        num_bytes=num_bytes,
        sha256=sha256,
        content=shard.content,
    )
    if building.expected.get(shard.content, entry) != entry:
        raise HaustraError(
            f"{shard.file}: the same captures gave other bytes, so another image library made this "
            "warehouse; expected the one it was built with; move its folder away and run `haustra "
            "etl`"
        )
    record_finished(building.staging, finished=FinishedShard(entry=entry, sizes_wh=sizes_wh))
    return entry


def _make_shards(shards: list[ShardPlan], *, building: Building) -> dict[str, ShardEntry]:
    """Decode the frames of these shards and write them; return the entries by content."""
    if not shards:
        return {}
    config = building.plan.config
    width, height = parse_target_size(config.target_size)
    rows = max(len(shard.frames) for shard in shards)
    # Touching memory for the first time costs more than decoding, so two buffers serve all shards.
    buffers: list[Tensors] = [
        (
            np.empty((rows, height, width, 3), dtype=np.uint8),
            np.empty((rows, config.max_boxes, 4), dtype=np.float32),
            np.empty((rows, config.max_boxes), dtype=np.uint8),
        )
        for _ in range(2)
    ]
    entries = {}
    with closing(_make_samples(shards, plan=building.plan, buffers=buffers)) as making:
        made = track(
            making,
            progress=building.progress,
            description="etl",
            total=sum(len(shard.frames) for shard in shards),
            unit="images",
        )
        for number, shard in enumerate(shards):
            images, boxes, mask = buffers[number % 2]
            sizes_wh: dict[str, tuple[int, int]] = {}
            for row, frame in enumerate(shard.frames):
                outcome = building.outcomes[frame.sample_id] = next(made)
                if isinstance(outcome, FrameProblem):
                    continue
                end = len(sizes_wh)
                if end < row:  # a frame before it was broken: close the gap
                    images[end], boxes[end], mask[end] = images[row], boxes[row], mask[row]
                sizes_wh[frame.sample_id] = outcome.size_wh
            end = len(sizes_wh)
            if end:
                filled = (images[:end], boxes[:end], mask[:end])
                entries[shard.content] = _write_shard(
                    shard, filled, sizes_wh=sizes_wh, building=building
                )
    return entries


def _is_whole(manifest_path: Path, *, manifest: WarehouseManifest) -> bool:
    try:
        return manifest_path.exists() and check_warehouse(manifest_path) == manifest
    except HaustraError:
        return False


def build_version(
    plan: WarehousePlan,
    *,
    folder: Path,
    check: Callable[[WarehouseManifest], None],
    notes: tuple[str, ...],
    progress: Progress,
    expected: dict[str, ShardEntry] | None = None,
) -> ETLResult:
    """Build a planned version as `folder`, reusing the shards that exist beside it.

    An existing folder is replaced. `check` is called with the manifest before, and may raise.
    `expected` holds entries, by content, that the shards must equal.

    Raises:
        HaustraError: No frame is usable, an image changed meanwhile, a shard is not as expected,
            or `check` raises it.
    """
    outcomes: dict[str, Outcome] = {
        frame.sample_id: check_planned_frame(frame, plan=plan)
        for frame in plan.frames
        if plan.image_digests[frame.sample_id] is None
    }
    keep_freed_memory()
    with staging_folder(folder.parent) as staging:
        building = Building(
            plan=plan,
            staging=staging,
            expected=expected or {},
            progress=progress,
            outcomes=outcomes,
        )
        reused = reuse_shards(building, output_root=folder.parent)
        missing = [shard for shard in plan.shards if shard.content not in reused]
        built = _make_shards(missing, building=building)
        manifest = write_index(building, entries=reused | built)
        check(manifest)
        # Where another ETL has finished the same version meanwhile, readers may have it open.
        if not _is_whole(folder / MANIFEST_NAME, manifest=manifest):
            move_folder(staging / "version", target=folder)
    remove_abandoned(folder)
    return ETLResult(
        manifest_path=folder / MANIFEST_NAME,
        manifest=manifest,
        built_shards=len(built),
        reused_shards=len(reused),
        notes=notes,
    )


def _check_thresholds(manifest: WarehouseManifest, *, config: ETLConfig) -> None:
    counts = manifest.validation.total
    num_frames = counts["frames"] - counts["empty_left_out"]
    for name, text, total, noun in (
        ("invalid", config.max_invalid, num_frames, "frames"),
        ("missing", config.max_missing, num_frames, "frames"),
        ("empty", config.max_empty, counts["usable"], "usable frames"),
    ):
        limit, is_share = parse_threshold(text, name=f"max_{name}")
        if counts[name] > (limit * total if is_share else limit):
            raise HaustraError(
                f"{counts[name]} of {total} {noun} are {name}, more than "
                f"{option(f'max_{name}', text)}; run `haustra prune`, repair the captures, or "
                "raise the limit"
            )


def build_warehouse(config: ETLConfig, *, progress: Progress | None = None) -> ETLResult:
    """Build the warehouse of a capture root, unless it exists already.

    Raises:
        HaustraError: There is no run or no usable frame, a threshold is exceeded, or a split file
            is wrong.
    """
    progress = progress or SilentProgress()
    check_outputs(config)
    plan = plan_warehouse(config, progress=progress)
    folder = config.output_root / f"v{plan.version}"
    manifest_path = folder / MANIFEST_NAME
    notes = (*plan.assignment.notes, *_note_crops(plan))
    if manifest_path.exists():
        try:
            manifest = check_warehouse(manifest_path)
        except HaustraError as error:
            notes = (*notes, f"built again, since it was damaged: {error}")
        else:
            _check_thresholds(manifest, config=config)
            return ETLResult(manifest_path=manifest_path, manifest=manifest, notes=notes)
    check = partial(_check_thresholds, config=config)
    return build_version(plan, folder=folder, check=check, notes=notes, progress=progress)
