"""Making samples: a planned frame is checked, decoded and letterboxed into its row of a shard."""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame
from haustra.captures.validation import CheckedFrame, CheckedLabel, FrameProblem, check_frame
from haustra.core.boxes import box_areas
from haustra.core.errors import HaustraError
from haustra.core.letterbox import Letterbox, plan_letterbox
from haustra.core.progress import Progress
from haustra.warehouse.etl_config import parse_target_size
from haustra.warehouse.format import ShardEntry
from haustra.warehouse.plan import ShardPlan, WarehousePlan, digest_image
from haustra.warehouse.shard_stores import Sample

Outcome = CheckedLabel | FrameProblem
"""The result of checking a frame: its boxes, or why it cannot be used."""

Tensors = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]
"""Images [N,H,W,3], boxes [N,M,4] and mask [N,M] of a shard."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Building:
    """A version that is being built."""

    plan: WarehousePlan
    staging: Path
    """Staging folder; the shards go to its `version/shards/`."""
    expected: Mapping[str, ShardEntry]
    """Entries, by content, that the shards must equal; empty for a new version."""
    progress: Progress
    outcomes: dict[str, Outcome]
    """Outcome of each frame that was checked so far, by sample id."""


def check_planned_frame(frame: Frame, *, plan: WarehousePlan) -> CheckedFrame | FrameProblem:
    """Check a frame whose image was digested before.

    Raises:
        HaustraError: The image is no longer what was digested.
    """
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


def make_samples(
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
