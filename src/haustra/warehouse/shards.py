"""Shards by content: which frames make one, and finding one that was made before.

A shard holds frames of one run and one split. Its `content` is a digest of all that decides its
bytes, known before any image is decoded. So a shard that any version under the same output root
holds already, or that an interrupted ETL finished, is linked in place of being made again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from haustra.captures.reader import Frame
from haustra.captures.validation import (
    CheckedFrame,
    CheckedLabel,
    FrameProblem,
    check_frame,
    check_label,
)
from haustra.core.digests import digest_bytes, digest_file, digest_json, is_sealed, seal_json
from haustra.core.errors import HaustraError
from haustra.core.files import link_or_copy, read_json, write_json_atomic
from haustra.warehouse.format import MANIFEST_NAME, ShardEntry, SplitName
from haustra.warehouse.manifest import read_manifest
from haustra.warehouse.staging import STAGING_NAME

_RECORD_SEAL = "record_sha256"
"""Field of a finished shard's record that holds the digest of all others."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The frames that become one shard, unless their images turn out to be broken."""

    content: str
    """SHA-256 of the transform and of each frame's id, image digest and boxes as labelled."""
    split: SplitName
    frames: tuple[Frame, ...]
    """Of one run, in order; their images are there, but not yet decoded."""

    @property
    def file(self) -> str:
        """Path of the shard inside its version's folder."""
        return f"shards/{self.content[:16]}.safetensors"


class FinishedShard(BaseModel):
    """A shard that was made before, with all that its samples' rows need beyond the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entry: ShardEntry
    sizes_wh: dict[str, tuple[int, int]]
    """Width and height of each sample's source image in pixels by sample id, in row order."""


def digest_image(frame: Frame) -> str | None:
    """Return the SHA-256 of a frame's image file, or None where there is none to read."""
    if frame.problem or not frame.image_path or not (frame.label and frame.label.image_present):
        return None
    try:
        return digest_bytes(frame.image_path.read_bytes())
    except OSError:
        return None


def check_planned_frame(frame: Frame, *, image_digest: str | None) -> CheckedFrame | FrameProblem:
    """Check a frame whose image was digested before.

    Raises:
        HaustraError: the image is no longer what was digested.
    """
    checked = check_frame(frame)
    found = checked.image_digest if isinstance(checked, CheckedFrame) else digest_image(frame)
    if found != image_digest:
        raise HaustraError(
            f"{frame.sample_id}: its image changed while the ETL read it; expected captures that "
            "stay as they are; run `haustra etl` again, which continues"
        )
    return checked


def plan_shards(
    frames: Sequence[Frame],
    *,
    image_digests: Mapping[str, str | None],
    split_of_group: Mapping[str, SplitName],
    samples_per_shard: int,
    transform: dict[str, Any],
) -> list[ShardPlan]:
    """Cut the frames into shards of one run and one split each.

    Args:
        frames: ordered by split, run and name.
        image_digests: SHA-256 of each frame's image by sample id; a frame without one is left out.
        split_of_group: the split of every group.
        samples_per_shard: frames in a shard at most.
        transform: all else that decides a shard's bytes, as a JSON value.
    """
    there = [frame for frame in frames if image_digests[frame.sample_id] is not None]
    plans = []
    for (split, _), members in groupby(there, key=lambda f: (split_of_group[f.group_id], f.run_id)):
        run = list(members)
        for start in range(0, len(run), samples_per_shard):
            chunk = tuple(run[start : start + samples_per_shard])
            samples = [
                [frame.sample_id, image_digests[frame.sample_id], label_boxes(frame)]
                for frame in chunk
            ]
            content = digest_json([transform, samples])
            plans.append(ShardPlan(content=content, split=split, frames=chunk))
    return plans


def label_boxes(frame: Frame) -> list[list[Any]]:
    """Return a frame's boxes as its label file has them: `[bbox_px, bbox_norm]` of each."""
    return [[polyp.bbox_px, polyp.bbox_norm] for polyp in frame.label.labels] if frame.label else []


def _finished_in_version(manifest_path: Path, *, contents: set[str]) -> list[FinishedShard]:
    try:
        manifest = read_manifest(manifest_path)
    except HaustraError:  # damaged, of another format, or no warehouse
        return []
    entries = {entry.file: entry for entry in manifest.shards if entry.content in contents}
    table_path = manifest_path.parent / manifest.table.file
    if not entries or not table_path.is_file():
        return []
    if digest_file(table_path) != manifest.table.sha256:
        return []
    columns = ["shard", "sample_id", "source_width", "source_height"]
    table = pq.read_table(table_path, columns=columns).to_pydict()
    sizes: dict[str, dict[str, tuple[int, int]]] = {file: {} for file in entries}
    for file, sample_id, width, height in zip(*(table[name] for name in columns), strict=True):
        if file in sizes:
            sizes[file][sample_id] = (width, height)
    return [
        FinishedShard(entry=entry, sizes_wh=sizes[file])
        for file, entry in entries.items()
        if len(sizes[file]) == entry.num_samples
    ]


def _finished_in_staging(folder: Path, *, contents: set[str]) -> list[FinishedShard]:
    finished = []
    for path in sorted(folder.glob("finished/*.json")):
        if path.stem not in contents:
            continue
        try:
            value = read_json(path, what="a shard's record")
            # The shard's own digest says nothing of the sizes and the content that stand beside it.
            if isinstance(value, dict) and is_sealed(value, field=_RECORD_SEAL):
                del value[_RECORD_SEAL]
                found = FinishedShard.model_validate(value)
                finished += [found] if found.entry.content == path.stem else []
        except (HaustraError, ValidationError):  # gone by now, or not ours
            continue
    return finished


def find_finished(
    output_root: Path, *, contents: set[str]
) -> Iterator[tuple[Path, list[FinishedShard]]]:
    """Yield each folder below `output_root` that has some of these shards, and which.

    Whoever takes a shard from `contents` need not be offered it again. Nothing is checked yet.
    """
    for manifest_path in sorted(output_root.glob(f"*/{MANIFEST_NAME}")):
        finished = _finished_in_version(manifest_path, contents=contents)
        if finished:
            yield manifest_path.parent, finished
    for folder in sorted(output_root.glob(f"{STAGING_NAME}/*")):
        finished = _finished_in_staging(folder, contents=contents)
        if finished:
            yield folder / "version", finished


def record_finished(staging: Path, *, finished: FinishedShard) -> None:
    """Write down that a shard in `staging/version` is whole, so that another ETL can take it."""
    write_json_atomic(
        staging / "finished" / f"{finished.entry.content}.json",
        value=seal_json(finished.model_dump(mode="json"), field=_RECORD_SEAL),
    )


def recheck_frames(
    plan: ShardPlan, *, image_digests: Mapping[str, str | None], finished: FinishedShard
) -> list[CheckedLabel | FrameProblem] | None:
    """Check a finished shard's frames as an ETL does, without decoding the images it holds.

    Only the frames that it left out, whose images did not decode, are opened again: to name what
    is wrong with them. Returns None where the shard does not fit the plan.
    """
    sizes = finished.sizes_wh
    checked: list[CheckedLabel | FrameProblem] = [
        check_label(frame, size_wh=sizes[frame.sample_id])
        if frame.sample_id in sizes
        else check_planned_frame(frame, image_digest=image_digests[frame.sample_id])
        for frame in plan.frames
    ]
    if any(isinstance(item, CheckedFrame) for item in checked):
        return None
    stored = [item.frame.sample_id for item in checked if isinstance(item, CheckedLabel)]
    return checked if stored == list(sizes) else None


def take_finished(finished: FinishedShard, *, folder: Path, target: Path) -> bool:
    """Link a finished shard of a version's folder to `target` and check its bytes there.

    A hard link shares its bytes with the old file: shards are never changed in place. Returns
    False, and leaves nothing, where the shard is gone or damaged.
    """
    entry = finished.entry
    try:
        link_or_copy(folder / entry.file, target=target)
        if target.stat().st_size == entry.num_bytes and digest_file(target) == entry.sha256:
            return True
    except (FileNotFoundError, PermissionError):
        pass
    target.unlink(missing_ok=True)
    return False
