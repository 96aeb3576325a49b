"""ETL: from run folders to a content-addressed warehouse.

First the sources are digested, which gives the version; where that version stands already, nothing
is done. Else frames are decoded, letterboxed and written shard by shard into a temporary folder,
the manifest last, and the folder is renamed.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from haustra.captures.reader import Frame, Run, read_runs
from haustra.captures.validation import (
    CheckedFrame,
    FrameProblem,
    ValidationSummary,
    check_frames,
)
from haustra.core.boxes import box_areas
from haustra.core.digests import digest_file, digest_json
from haustra.core.errors import HaustraError
from haustra.core.files import building_folder, write_text_atomic
from haustra.core.letterbox import PAD_VALUE, Letterbox, ResizeMode, plan_letterbox
from haustra.core.progress import Progress, SilentProgress, track
from haustra.core.ranges import check_whole_number
from haustra.warehouse.format import (
    CLASS_NAMES,
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    SPLIT_NAMES,
    TABLE_NAME,
    ShardEntry,
    SourceEntry,
    SplitCounts,
    SplitName,
    TableEntry,
    Validation,
    WarehouseManifest,
)
from haustra.warehouse.reading import check_warehouse
from haustra.warehouse.splits import (
    SplitAssignment,
    parse_ratios,
    parse_rule,
    split_by_file,
    split_by_ratios,
    split_by_rule,
)

TABLE_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("run_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),
        ("frame", pa.string()),
        ("source_name", pa.string()),
        ("source_image", pa.string()),
        ("source_sha256", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("scale_x", pa.float64()),
        ("scale_y", pa.float64()),
        ("offset_x", pa.int32()),
        ("offset_y", pa.int32()),
        ("boxes_before", pa.int32()),
        ("boxes_after", pa.int32()),
        ("shard", pa.string()),
        ("row", pa.int32()),
    ]
)
"""Columns of `samples.parquet`."""


@dataclass(frozen=True, kw_only=True)
class ETLConfig:
    """Settings of `haustra etl`."""

    captures: Path = Path("captures_filtered")
    """Capture root to read, or one run folder."""
    output_root: Path = Path("artifacts/tensor_warehouse")
    """Where the folder v<version> is made."""
    target_size: str = "384"
    """Size of the stored images in pixels: one number for a square, or WIDTHxHEIGHT."""
    resize_mode: ResizeMode = "letterbox"
    """Keep the aspect ratio and pad, or stretch."""
    max_boxes: int = 16
    """Boxes stored per image at most; of more, the largest stay."""
    split: str = "0.8,0.1,0.1"
    """Shares of train,val,test; groups are never cut."""
    split_file: Path | None = None
    """JSON file that lists the groups of each split, in place of --split."""
    split_rule: str | None = None
    """Rule in place of --split: sha256:5 puts a group in val if its sha256 modulo 5 is 0."""
    max_invalid: str = "0.1"
    """Fail if more frames are invalid: a count such as 20, or a share such as 0.1 or 10%."""
    max_missing: str = "0.1"
    """Fail if more frames lack their image: a count or a share."""
    max_empty: str = "1.0"
    """Fail if more usable frames have no box: a count or a share."""
    samples_per_shard: int = 256
    """Samples in a shard file at most."""
    jobs: int = 2
    """Threads that decode."""

    def __post_init__(self) -> None:
        parse_target_size(self.target_size)
        for flag, number in (
            ("--max-boxes", self.max_boxes),
            ("--samples-per-shard", self.samples_per_shard),
            ("--jobs", self.jobs),
        ):
            check_whole_number(flag, number, low=1)
        parse_ratios(self.split)
        if self.split_rule is not None:
            parse_rule(self.split_rule)
        if self.split_rule is not None and self.split_file is not None:
            raise HaustraError("--split-rule and --split-file: expected one of them")
        for flag, text in (
            ("--max-invalid", self.max_invalid),
            ("--max-missing", self.max_missing),
            ("--max-empty", self.max_empty),
        ):
            parse_threshold(text, flag=flag)


@dataclass(frozen=True, kw_only=True)
class ETLResult:
    """Where the warehouse is and what it holds."""

    manifest_path: Path
    manifest: WarehouseManifest
    built: bool
    """False where this version stood already."""
    notes: tuple[str, ...]


def parse_target_size(text: str) -> tuple[int, int]:
    """Parse `384` or `640x480` to width and height in pixels.

    Raises:
        HaustraError: anything else, or a side that is not a positive multiple of 32.
    """
    parts = text.lower().split("x")
    sides = (parts[0], parts[-1]) if len(parts) <= 2 else ("", "")
    if not all(side.isdecimal() and int(side) > 0 and int(side) % 32 == 0 for side in sides):
        raise HaustraError(
            f"--target-size {text!r}: expected a positive multiple of 32, such as 384, or "
            "WIDTHxHEIGHT"
        )
    return int(sides[0]), int(sides[1])


def parse_threshold(text: str, *, flag: str) -> tuple[float, bool]:
    """Parse a count (`20`) or share (`0.1`, `10%`); the second value tells a share.

    Raises:
        HaustraError: neither.
    """
    if text.isdecimal():
        return float(text), False
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise HaustraError(
            f"{flag} {text!r}: expected a count such as 20, or a share from 0 to 1 such as 0.1 "
            "or 10%"
        )
    return share, True


def _assign_splits(groups: set[str], *, config: ETLConfig) -> SplitAssignment:
    if config.split_file is not None:
        return split_by_file(groups, path=config.split_file)
    if config.split_rule is not None:
        return split_by_rule(groups, rule=config.split_rule)
    return split_by_ratios(groups, ratios=parse_ratios(config.split))


def _digest_image(frame: Frame) -> str | None:
    try:
        return digest_file(frame.image_path) if frame.image_path and not frame.problem else None
    except OSError:
        return None


def _content_version(
    runs: list[Run],
    frames: list[Frame],
    *,
    assignment: SplitAssignment,
    config: ETLConfig,
    progress: Progress,
) -> str:
    """Digest all that decides the warehouse's bytes: sources, labels, splits, transform, format."""
    with ThreadPoolExecutor(config.jobs) as pool:
        digests = list(
            track(
                pool.map(_digest_image, frames),
                progress=progress,
                description="digest",
                total=len(frames),
            )
        )
    rows = [
        [
            frame.sample_id,
            frame.group_id,
            assignment.split_of_group[frame.group_id],
            digest,
            frame.problem,
            frame.label
            and [
                frame.label.image,
                frame.label.source_name,
                frame.label.image_present,
                [[polyp.bbox_px, polyp.bbox_norm] for polyp in frame.label.labels],
            ],
        ]
        for frame, digest in zip(frames, digests, strict=True)
    ]
    transform = {
        "format_version": FORMAT_VERSION,
        "target_size_wh": parse_target_size(config.target_size),
        "resize_mode": config.resize_mode,
        "pad_value": PAD_VALUE,
        "max_boxes": config.max_boxes,
        "samples_per_shard": config.samples_per_shard,
        "split_method": assignment.method,
    }
    origins = [[_source_entry(run).model_dump(), run.unlabelled] for run in runs]
    return digest_json([transform, origins, rows])[:16]


def _check_thresholds(counts: dict[str, int], *, config: ETLConfig) -> None:
    for name, text, of, of_text in (
        ("invalid", config.max_invalid, "frames", "frames"),
        ("missing", config.max_missing, "frames", "frames"),
        ("empty", config.max_empty, "usable", "usable frames"),
    ):
        limit, is_share = parse_threshold(text, flag=f"--max-{name}")
        allowed = limit * counts[of] if is_share else limit
        if counts[name] > allowed:
            raise HaustraError(
                f"{counts[name]} of {counts[of]} {of_text} are {name}, more than "
                f"--max-{name} {text}; run `haustra prune`, mend the captures, or raise the limit"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    checked: CheckedFrame
    split: SplitName
    letterbox: Letterbox
    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    """[N,4] normalised to the target image, at most `max_boxes`, largest first."""


def _to_sample(checked: CheckedFrame, *, split: SplitName, config: ETLConfig) -> _Sample:
    letterbox = plan_letterbox(
        checked.size_wh,
        target_size_wh=parse_target_size(config.target_size),
        mode=config.resize_mode,
    )
    largest_first = np.argsort(-box_areas(checked.boxes_px), kind="stable")[: config.max_boxes]
    return _Sample(
        checked=checked,
        split=split,
        letterbox=letterbox,
        image=letterbox.apply(checked.image_rgb),
        boxes=np.clip(letterbox.boxes_to_target(checked.boxes_px[largest_first]), 0, 1),
    )


class _ShardBuilder:
    """Fills one shard's arrays; `write` puts them on disk."""

    def __init__(self, *, split: SplitName, config: ETLConfig) -> None:
        width, height = parse_target_size(config.target_size)
        capacity = config.samples_per_shard
        self.split = split
        self.num_samples = 0
        self._images = np.empty((capacity, height, width, 3), dtype=np.uint8)
        self._boxes = np.zeros((capacity, config.max_boxes, 4), dtype=np.float32)
        self._mask = np.zeros((capacity, config.max_boxes), dtype=np.uint8)

    def add(self, sample: _Sample) -> None:
        row, num_boxes = self.num_samples, len(sample.boxes)
        self._images[row] = sample.image
        self._boxes[row, :num_boxes] = sample.boxes
        self._mask[row, :num_boxes] = 1
        self.num_samples += 1

    def write(self, folder: Path, *, index: int) -> ShardEntry:
        file = f"shards/shard_{index:05d}.safetensors"
        tensors: dict[str, NDArray[Any]] = {
            "images": self._images[: self.num_samples],
            "boxes": self._boxes[: self.num_samples],
            "mask": self._mask[: self.num_samples],
        }
        save_file(tensors, folder / file)
        return ShardEntry(
            file=file,
            split=self.split,
            num_samples=self.num_samples,
            num_bytes=(folder / file).stat().st_size,
            sha256=digest_file(folder / file),
        )


def _table_row(sample: _Sample, *, shard: str, row: int) -> dict[str, Any]:
    checked, letterbox = sample.checked, sample.letterbox
    frame = checked.frame
    return {
        "sample_id": frame.sample_id,
        "run_id": frame.run_id,
        "group_id": frame.group_id,
        "split": sample.split,
        "frame": frame.name,
        "source_name": (frame.label and frame.label.source_name) or None,
        "source_image": frame.label.image if frame.label else None,
        "source_sha256": checked.image_digest,
        "source_width": checked.size_wh[0],
        "source_height": checked.size_wh[1],
        "scale_x": letterbox.scale_xy[0],
        "scale_y": letterbox.scale_xy[1],
        "offset_x": letterbox.offset_xy[0],
        "offset_y": letterbox.offset_xy[1],
        "boxes_before": len(checked.boxes_px),
        "boxes_after": len(sample.boxes),
        "shard": shard,
        "row": row,
    }


def _write_shards(
    checked_frames: Iterator[CheckedFrame | FrameProblem],
    *,
    folder: Path,
    split_of_group: dict[str, SplitName],
    summaries: dict[str, ValidationSummary],
    config: ETLConfig,
) -> tuple[list[ShardEntry], list[dict[str, Any]]]:
    """Write all shards; frames must come ordered by split."""
    shards: list[ShardEntry] = []
    rows: list[dict[str, Any]] = []
    builder: _ShardBuilder | None = None
    for checked in checked_frames:
        summaries[checked.frame.run_id].add(checked)
        if isinstance(checked, FrameProblem):
            continue
        split = split_of_group[checked.frame.group_id]
        if builder and (builder.split != split or builder.num_samples == config.samples_per_shard):
            shards.append(builder.write(folder, index=len(shards)))
            builder = None
        if builder is None:
            builder = _ShardBuilder(split=split, config=config)
        sample = _to_sample(checked, split=split, config=config)
        shard_name = f"shards/shard_{len(shards):05d}.safetensors"
        rows.append(_table_row(sample, shard=shard_name, row=builder.num_samples))
        builder.add(sample)
    if builder:
        shards.append(builder.write(folder, index=len(shards)))
    return shards, rows


def _count_split(rows: list[dict[str, Any]], *, split: SplitName) -> SplitCounts:
    members = [row for row in rows if row["split"] == split]
    return SplitCounts(
        samples=len(members),
        boxes=sum(row["boxes_after"] for row in members),
        empty=sum(row["boxes_after"] == 0 for row in members),
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


def build_warehouse(config: ETLConfig, *, progress: Progress | None = None) -> ETLResult:
    """Build the warehouse of a capture root, or find that it stands already.

    Raises:
        HaustraError: no run, no usable frame, a threshold is passed, or a split file is wrong.
    """
    progress = progress or SilentProgress()
    runs = read_runs(config.captures)
    frames = [frame for run in runs for frame in run.frames]
    if not frames:
        raise HaustraError(
            f"{config.captures} holds no labelled frame; make some with `haustra datagen` or "
            "`haustra import`"
        )
    assignment = _assign_splits({frame.group_id for frame in frames}, config=config)
    split_of_group = assignment.split_of_group
    frames.sort(key=lambda f: (SPLIT_NAMES.index(split_of_group[f.group_id]), f.sample_id))
    version = _content_version(
        runs, frames, assignment=assignment, config=config, progress=progress
    )
    folder = config.output_root / f"v{version}"
    manifest_path = folder / MANIFEST_NAME
    notes = assignment.notes
    if manifest_path.exists():
        try:
            manifest = check_warehouse(manifest_path)
        except HaustraError as error:
            notes = (*notes, f"built again, since it was damaged: {error}")
        else:
            _check_thresholds(manifest.validation.total, config=config)
            return ETLResult(
                manifest_path=manifest_path, manifest=manifest, built=False, notes=notes
            )
    summaries = {run.run_id: ValidationSummary() for run in runs}
    for run in runs:
        summaries[run.run_id].add_unlabelled(run)
    with building_folder(folder, overwrite=True) as building:
        (building / "shards").mkdir()
        shards, rows = _write_shards(
            track(
                check_frames(frames, threads=config.jobs),
                progress=progress,
                description="etl",
                total=len(frames),
            ),
            folder=building,
            split_of_group=split_of_group,
            summaries=summaries,
            config=config,
        )
        total = ValidationSummary()
        for summary in summaries.values():
            total.merge(summary)
        if not rows:
            raise HaustraError(
                f"{config.captures}: none of {len(frames)} frames is usable; the first problem: "
                f"{(total.problems or ['every label says that no image was taken'])[0]}"
            )
        _check_thresholds(total.counts(), config=config)
        table = pa.Table.from_pylist(rows, schema=TABLE_SCHEMA)
        pq.write_table(table, building / TABLE_NAME)
        manifest = WarehouseManifest(
            format=FORMAT_NAME,
            format_version=FORMAT_VERSION,
            version=version,
            target_size_wh=parse_target_size(config.target_size),
            resize_mode=config.resize_mode,
            max_boxes=config.max_boxes,
            truncated_boxes=sum(row["boxes_before"] - row["boxes_after"] for row in rows),
            class_names=list(CLASS_NAMES),
            split_method=assignment.method,
            splits={name: _count_split(rows, split=name) for name in SPLIT_NAMES},
            shards=shards,
            table=TableEntry(file=TABLE_NAME, sha256=digest_file(building / TABLE_NAME)),
            sources=[_source_entry(run) for run in runs],
            validation=Validation(
                total=total.counts(),
                runs={run_id: summary.counts() for run_id, summary in summaries.items()},
                problems=total.problems,
            ),
        )
        write_text_atomic(building / MANIFEST_NAME, text=manifest.model_dump_json(indent=2) + "\n")
    return ETLResult(manifest_path=manifest_path, manifest=manifest, built=True, notes=notes)
