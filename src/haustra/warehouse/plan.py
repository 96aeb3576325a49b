"""Planning a version: its frames, splits and shards, known before any image is decoded.

All labels are read and all images digested. The digests give the version, and the content of every
shard: a digest of all that decides the shard's bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from haustra.captures.reader import Frame, Run, read_runs
from haustra.captures.validation import (
    CheckedFrame,
    CheckedLabel,
    FrameProblem,
    check_frame,
    keeps_negative,
)
from haustra.core.ahead import map_ahead
from haustra.core.digests import digest_bytes, digest_json
from haustra.core.errors import HaustraError, option
from haustra.core.letterbox import PAD_VALUE, Letterbox, plan_letterbox
from haustra.core.progress import Progress, track
from haustra.warehouse.etl_config import ETLConfig, parse_target_size
from haustra.warehouse.format import FORMAT_VERSION, SPLIT_NAMES, ShardEntry, SourceEntry, SplitName
from haustra.warehouse.similar import merge_similar_groups, note_similar
from haustra.warehouse.splits import (
    BY_DATASET,
    BY_SIMILAR,
    SplitAssignment,
    note_unused_splits,
    parse_ratios,
    split_by_dataset,
    split_by_file,
    split_by_ratios,
    split_by_rule,
)

Outcome = CheckedLabel | FrameProblem
"""The result of checking a frame: its boxes, or why it cannot be used."""

ImageDigests = Mapping[str, str | None]
"""SHA-256 of each frame's image file by sample id; None where there is no readable file."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The frames that become one shard, unless their images turn out to be broken."""

    content: str
    """SHA-256 of the transform and of each frame's id, image digest and boxes as labeled."""
    split: SplitName
    frames: tuple[Frame, ...]
    """Frames of one run, in order; their image files exist, but are not decoded yet."""

    @property
    def file(self) -> str:
        """Path of the shard inside its version's folder."""
        return f"shards/{self.content[:16]}.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class WarehousePlan:
    """Everything that a version will hold, except what decoding its images may reveal."""

    config: ETLConfig
    runs: tuple[Run, ...]
    frames: tuple[Frame, ...]
    """Every frame of the runs that is not left out, ordered by split, run and name."""
    left_out: tuple[Frame, ...]
    """Frames without a box that `empty_ratio` leaves out; their images are not opened."""
    image_digests: ImageDigests
    assignment: SplitAssignment
    version: str
    shards: tuple[ShardPlan, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Building:
    """A version that is being built."""

    plan: WarehousePlan
    staging: Path  # staging folder; the shards go to its `version/shards/`
    expected: Mapping[str, ShardEntry]
    """Entries, by content, that the shards must equal; empty for a new version."""
    progress: Progress
    outcomes: dict[str, Outcome]  # outcome of each frame that was checked so far, by sample id


def source_entry(run: Run) -> SourceEntry:
    """Return where a run came from, for the manifest."""
    return SourceEntry.model_validate(
        {name: getattr(run.manifest, name) for name in SourceEntry.model_fields}
        | {"run_id": run.run_id}
    )


def digest_image(frame: Frame) -> str | None:
    """Return the SHA-256 of a frame's image file, or None where there is no readable file."""
    if frame.problem or not frame.image_path or not (frame.label and frame.label.image_present):
        return None
    try:
        return digest_bytes(frame.image_path.read_bytes())
    except OSError:
        return None


def check_planned_frame(frame: Frame, *, plan: WarehousePlan) -> CheckedFrame | FrameProblem:
    """Check a frame whose image was digested before."""
    checked = check_frame(frame)
    found = checked.image_digest if isinstance(checked, CheckedFrame) else digest_image(frame)
    if found != plan.image_digests[frame.sample_id]:
        raise HaustraError(
            f"{frame.sample_id}: its image changed while the ETL read it; expected captures that "
            "stay as they are; run `haustra etl` again, which continues"
        )
    return checked


def letterbox_frame(checked: CheckedLabel, *, plan: WarehousePlan) -> Letterbox:
    """Return how a frame's image is mapped to the stored one."""
    return plan_letterbox(
        checked.size_wh,
        target_size_wh=parse_target_size(plan.config.target_size),
        mode=plan.config.resize_mode,
    )


def _label_boxes(frame: Frame) -> list[list[Any]]:
    """Return a frame's boxes as its label file has them: `[bbox_px, bbox_norm]` of each."""
    return [[polyp.bbox_px, polyp.bbox_norm] for polyp in frame.label.labels] if frame.label else []


def _is_left_out(frame: Frame, *, ratio: float) -> bool:
    """Return True for a frame without a box, by its label file, that is not to be kept."""
    label = frame.label
    has_boxes = label and (label.labels or label.rejected)
    is_negative = frame.problem is None and label and label.image_present and not has_boxes
    return bool(is_negative) and not keeps_negative(frame.sample_id, ratio=ratio)


def _assign_splits(runs: Sequence[Run], *, config: ETLConfig) -> SplitAssignment:
    groups = {frame.group_id for run in runs for frame in run.frames}
    if config.split == BY_DATASET:
        assignment = split_by_dataset(runs)
    else:
        assignment = _make_splits(groups, config=config)
        assignment = replace(assignment, notes=assignment.notes + note_unused_splits(runs))
    if config.group_by is None:
        return replace(assignment, notes=assignment.notes + note_similar(runs))
    return replace(assignment, method=assignment.method + BY_SIMILAR)


def _make_splits(groups: set[str], *, config: ETLConfig) -> SplitAssignment:
    if config.split_file is not None:
        return split_by_file(groups, path=config.split_file)
    if config.split_rule is not None:
        return split_by_rule(groups, rule=config.split_rule)
    return split_by_ratios(groups, ratios=parse_ratios(config.split))


def _plan_shards(
    frames: Sequence[Frame],
    *,
    image_digests: ImageDigests,
    split_of_group: Mapping[str, SplitName],
    samples_per_shard: int,
    transform: dict[str, Any],
) -> Iterator[ShardPlan]:
    """Cut frames with an image, ordered by split, run and name, into shards of one run and split.

    `transform` is all else that decides a shard's bytes.
    """
    present = [frame for frame in frames if image_digests[frame.sample_id] is not None]
    for (split, _), members in groupby(
        present, key=lambda f: (split_of_group[f.group_id], f.run_id)
    ):
        run = tuple(members)
        for start in range(0, len(run), samples_per_shard):
            chunk = run[start : start + samples_per_shard]
            samples = [[f.sample_id, image_digests[f.sample_id], _label_boxes(f)] for f in chunk]
            content = digest_json([transform, samples])
            yield ShardPlan(content=content, split=split, frames=chunk)


def _digest_images(frames: Sequence[Frame], *, jobs: int, progress: Progress) -> ImageDigests:
    digesting = map_ahead(digest_image, frames, threads=jobs, num_ahead=4 * jobs)
    digests = track(
        digesting, progress=progress, description="digest", total=len(frames), unit="images"
    )
    return {frame.sample_id: digest for frame, digest in zip(frames, digests, strict=True)}


def _frame_content(frame: Frame, *, split: SplitName, image_digest: str | None) -> list[Any]:
    """Return all of a frame that the version depends on, as a JSON value."""
    names = ("image", "source_name", "image_present")
    label = frame.label and [*(getattr(frame.label, n) for n in names), _label_boxes(frame)]
    return [frame.sample_id, frame.group_id, split, image_digest, frame.problem, label]


def plan_warehouse(
    config: ETLConfig, *, assignment: SplitAssignment | None = None, progress: Progress
) -> WarehousePlan:
    """Read all labels, digest all images, and plan the version and its shards.

    `assignment` is the split of every group, instead of the one that `config` describes.
    """
    runs = read_runs(config.captures)
    frames = [frame for run in runs for frame in run.frames]
    if not frames:
        raise HaustraError(
            f"{config.captures} holds no labeled frame; make some with `haustra datagen` or "
            "`haustra import`"
        )
    if config.group_by is not None:
        runs = merge_similar_groups(runs, jobs=config.jobs, progress=progress)
        frames = [frame for run in runs for frame in run.frames]
    assignment = assignment or _assign_splits(runs, config=config)
    split_of_group = assignment.split_of_group
    frames.sort(key=lambda f: (SPLIT_NAMES.index(split_of_group[f.group_id]), f.run_id, f.name))
    left_out = [frame for frame in frames if _is_left_out(frame, ratio=config.empty_ratio)]
    if len(left_out) == len(frames):
        raise HaustraError(
            f"{option('empty_ratio', config.empty_ratio)} leaves out all {len(frames)} frames of "
            f"{config.captures}, which have no box; expected a larger share, such as 1"
        )
    names_left_out = {frame.sample_id for frame in left_out}
    frames = [frame for frame in frames if frame.sample_id not in names_left_out]
    image_digests = _digest_images(frames, jobs=config.jobs, progress=progress)
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
    origins = [[source_entry(run).model_dump(exclude_defaults=True), run.unlabeled] for run in runs]
    contents = [
        _frame_content(f, split=split_of_group[f.group_id], image_digest=image_digests[f.sample_id])
        for f in frames
    ]
    return WarehousePlan(
        config=config,
        runs=tuple(runs),
        frames=tuple(frames),
        left_out=tuple(left_out),
        image_digests=image_digests,
        assignment=assignment,
        version=digest_json([transform, layout, origins, contents])[:16],
        shards=tuple(
            _plan_shards(
                frames,
                image_digests=image_digests,
                split_of_group=split_of_group,
                samples_per_shard=config.samples_per_shard,
                transform=transform,
            )
        ),
    )
