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
from haustra.warehouse.etl_config import ETLConfig, parse_target_size
from haustra.warehouse.format import ShardEntry
from haustra.warehouse.plan import ShardPlan, WarehousePlan, digest_image

Outcome = CheckedLabel | FrameProblem
"""The result of checking a frame: its boxes, or why it cannot be used."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A frame whose letterboxed image is in its row of the shard."""

    checked: CheckedLabel
    boxes_xyxy: NDArray[np.float64]
    """[N,4] normalized to the stored image, at most `max_boxes`, largest first."""


def check_planned_frame(frame: Frame, *, image_digest: str | None) -> CheckedFrame | FrameProblem:
    """Check a frame whose image was digested before.

    Raises:
        HaustraError: The image is no longer what was digested.
    """
    checked = check_frame(frame)
    found = checked.image_digest if isinstance(checked, CheckedFrame) else digest_image(frame)
    if found != image_digest:
        raise HaustraError(
            f"{frame.sample_id}: its image changed while the ETL read it; expected captures that "
            "stay as they are; run `haustra etl` again, which continues"
        )
    return checked


def letterbox_frame(checked: CheckedLabel, *, config: ETLConfig) -> Letterbox:
    """Return how a frame's image is mapped to the stored one."""
    return plan_letterbox(
        checked.size_wh,
        target_size_wh=parse_target_size(config.target_size),
        mode=config.resize_mode,
    )


def _make_sample(
    frame: Frame, row: NDArray[np.uint8], *, image_digest: str | None, config: ETLConfig
) -> Sample | FrameProblem:
    """Decode a frame and write its letterboxed image to `row`, uint8 [H,W,3]."""
    decoded = check_planned_frame(frame, image_digest=image_digest)
    if isinstance(decoded, FrameProblem):
        return decoded
    letterbox = letterbox_frame(decoded, config=config)
    letterbox.apply(decoded.image_rgb, out=row)
    largest_first = np.argsort(-box_areas(decoded.boxes_px), kind="stable")[: config.max_boxes]
    return Sample(
        checked=decoded.without_image(),
        boxes_xyxy=np.clip(letterbox.boxes_to_target(decoded.boxes_px[largest_first]), 0, 1),
    )


def make_samples(
    shards: Sequence[ShardPlan], *, plan: WarehousePlan, buffers: NDArray[np.uint8]
) -> Generator[Sample | FrameProblem, None, None]:
    """Yield the sample or the problem of each frame of these shards, in order.

    The images of shard `n` go to `buffers[n % 2]`: while one shard is written, the next is made.
    A caller that asks for a shard's first frame must be done with the shard before it.

    Args:
        shards: Shards of the plan.
        plan: The planned version.
        buffers: uint8 [2,N,H,W,3], with room for the largest shard.
    """
    pool = ThreadPoolExecutor(plan.config.jobs)

    def begin(number: int) -> list[Future[Sample | FrameProblem]]:
        return [
            pool.submit(
                _make_sample,
                frame,
                row,
                image_digest=plan.image_digests[frame.sample_id],
                config=plan.config,
            )
            for frame, row in zip(shards[number].frames, buffers[number % 2], strict=False)
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
