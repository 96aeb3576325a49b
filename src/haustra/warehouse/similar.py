"""Merging groups whose images look alike before the split, and the note that advises it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, Run
from haustra.core.ahead import map_ahead
from haustra.core.errors import HaustraError
from haustra.core.images import check_image, read_image_bytes
from haustra.core.look_alikes import merge_look_alikes, thumbnail
from haustra.core.progress import Progress, track


def _thumbnail_of(frame: Frame) -> NDArray[np.uint8]:
    if frame.image_path is not None:
        with suppress(HaustraError):  # it is named when the frame is checked
            data = read_image_bytes(frame.image_path)
            return thumbnail(check_image(data, name=frame.sample_id).image_rgb)
    return thumbnail(np.zeros((1, 1, 3), dtype=np.uint8))  # black looks like no other


def merge_similar_groups(runs: Sequence[Run], *, jobs: int, progress: Progress) -> list[Run]:
    """Return the runs with one group for all groups that hold images which look alike."""
    frames = [frame for run in runs for frame in run.frames]
    thumbnails = track(
        map_ahead(_thumbnail_of, frames, threads=jobs, num_ahead=4 * jobs),
        progress=progress,
        description="shrink",
        total=len(frames),
        unit="images",
    )
    merged = merge_look_alikes(
        [frame.group_id for frame in frames],
        list(thumbnails),
        runs=[frame.run_id for frame in frames],
        progress=progress,
    )

    def of_merged(frame: Frame) -> Frame:
        return replace(frame, group_id=merged.get(frame.group_id, frame.group_id))

    return [replace(run, frames=tuple(map(of_merged, run.frames))) for run in runs]


def note_similar(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return a note on images that look alike, by their import, and are groups of their own."""
    counts = [
        (run.manifest.import_result or {}).get("similar_images", 0)
        for run in runs
        if len({frame.group_id for frame in run.frames}) == len(run.frames)
    ]
    if not any(counts):
        return ()
    return (
        f"{sum(counts)} images look like another one of their import, and may be in another split; "
        "--group-by similar keeps them together",
    )
