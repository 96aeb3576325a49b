"""Deciding which frames and boxes are usable, and counting the others.

A box that leaves its image is clipped and counted. An inverted, empty or non-finite box is
rejected. A bad label file or image rejects the frame. Each rejection is named.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, Run
from haustra.core.ahead import map_ahead
from haustra.core.boxes import CheckedBox, check_box_px, is_four_numbers
from haustra.core.digests import digest_bytes
from haustra.core.errors import HaustraError
from haustra.core.images import decode_image_rgb

ProblemKind = Literal["invalid", "missing", "without_image"]
"""invalid: bad label or image. missing: no image file. without_image: no image was taken."""


@dataclass(frozen=True, kw_only=True)
class FrameProblem:
    """A frame that cannot be used, and the reason."""

    frame: Frame
    file: str
    """The file at fault, inside its run folder."""
    kind: ProblemKind
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedLabel:
    """A usable frame's boxes inside its image, without its pixels."""

    frame: Frame
    size_wh: tuple[int, int]
    """Width and height of the image in pixels."""
    boxes_px: NDArray[np.float64]
    """[N,4] `x0,y0,x1,y1` in pixels, clipped to the image."""
    lesion_ids: tuple[str | None, ...]
    num_clipped: int
    box_problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedFrame(CheckedLabel):
    """A usable frame with its decoded image and its boxes inside that image."""

    image_rgb: NDArray[np.uint8]
    """Image, uint8 [H,W,3]."""
    image_digest: str
    """SHA-256 of the image file's bytes."""

    def without_image(self) -> CheckedLabel:
        """Return the frame without its pixels, which take much memory."""
        values = {item.name: getattr(self, item.name) for item in fields(CheckedLabel)}
        return CheckedLabel(**values)


def check_frame(frame: Frame) -> CheckedFrame | FrameProblem:
    """Read and decode a frame's image and check its boxes against it."""
    label_file = f"labels/{frame.label_path.name}"
    if frame.problem is not None:
        return FrameProblem(frame=frame, file=label_file, kind="invalid", reason=frame.problem)
    label, image_path = frame.label, frame.image_path
    if label is None:
        raise AssertionError("a frame without a problem has a label")
    if not label.image_present:
        reason = f"{frame.sample_id}: the label says that no image was taken"
        return FrameProblem(frame=frame, file=label_file, kind="without_image", reason=reason)
    if image_path is None:
        raise AssertionError("a frame whose image is present has an image path or a problem")
    name = f"{frame.run_id}/{label.image}"
    try:
        data = image_path.read_bytes()
    except FileNotFoundError:
        reason = f"{name} does not exist"
        return FrameProblem(frame=frame, file=label.image, kind="missing", reason=reason)
    except OSError as error:
        reason = f"{name} cannot be read: {error.strerror}"
        return FrameProblem(frame=frame, file=label.image, kind="invalid", reason=reason)
    try:
        image = decode_image_rgb(data, name=name)
    except HaustraError as error:
        return FrameProblem(frame=frame, file=label.image, kind="invalid", reason=str(error))
    checked = check_label(frame, size_wh=(image.shape[1], image.shape[0]))
    return CheckedFrame(**vars(checked), image_rgb=image, image_digest=digest_bytes(data))


def check_label(frame: Frame, *, size_wh: tuple[int, int]) -> CheckedLabel:
    """Check the boxes of a frame with a label, whose image is known to be whole.

    Args:
        frame: The frame.
        size_wh: Width and height of its image in pixels.
    """
    if frame.label is None:
        raise AssertionError("a frame whose image was decoded has a label")
    boxes: list[tuple[float, float, float, float]] = []
    lesion_ids: list[str | None] = []
    problems: list[str] = []
    num_clipped = 0
    for index, polyp in enumerate(frame.label.labels):
        checked: CheckedBox | str = "it has neither bbox_px nor bbox_norm"
        if polyp.bbox_px is not None or polyp.bbox_norm is not None:
            box_px = _box_in_pixels(polyp.bbox_px, polyp.bbox_norm, size_wh=size_wh)
            checked = check_box_px(box_px, size_wh=size_wh)
        if isinstance(checked, str):
            problems.append(f"{frame.sample_id}: label {index}: {checked}")
            continue
        boxes.append(checked.box_px)
        lesion_ids.append(polyp.lesion_id)
        num_clipped += checked.clipped
    return CheckedLabel(
        frame=frame,
        size_wh=size_wh,
        boxes_px=np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        lesion_ids=tuple(lesion_ids),
        num_clipped=num_clipped,
        box_problems=tuple(problems),
    )


def _box_in_pixels(bbox_px: Any, bbox_norm: Any, *, size_wh: tuple[int, int]) -> Any:
    """Return the box in pixels; `bbox_px` wins, and a malformed `bbox_norm` is passed on."""
    if bbox_px is not None or bbox_norm is None:
        return bbox_px
    if not is_four_numbers(bbox_norm):
        return bbox_norm
    width, height = size_wh
    x0, y0, x1, y1 = bbox_norm
    return [x0 * width, y0 * height, x1 * width, y1 * height]


def check_frames(
    frames: Iterable[Frame], *, threads: int = 2
) -> Iterator[CheckedFrame | FrameProblem]:
    """Yield `check_frame` of each frame in order; threads decode a few frames ahead."""
    return map_ahead(check_frame, frames, threads=threads, num_ahead=4 * threads)


@dataclass(kw_only=True)
class ValidationSummary:
    """Counts of a run, or of all runs. Every frame is in exactly one of the first five."""

    usable: int = 0
    invalid: int = 0
    missing: int = 0
    without_image: int = 0
    empty_left_out: int = 0
    """Negatives that `empty_ratio` leaves out; their images were not opened."""
    empty: int = 0
    """Usable frames without a box: the negatives."""
    boxes: int = 0
    clipped_boxes: int = 0
    rejected_boxes: int = 0
    unlabelled_images: int = 0
    quarantined: list[FrameProblem] = field(default_factory=list)
    """The invalid and missing frames."""
    problems: list[str] = field(default_factory=list)
    """One line per rejected box or unlabeled image."""

    @property
    def frames(self) -> int:
        """Number of label files."""
        return self.usable + self.invalid + self.missing + self.without_image + self.empty_left_out

    def add(self, checked: CheckedLabel | FrameProblem) -> None:
        """Count one checked frame."""
        if isinstance(checked, FrameProblem):
            setattr(self, checked.kind, getattr(self, checked.kind) + 1)
            if checked.kind != "without_image":
                self.quarantined.append(checked)
            return
        self.usable += 1
        self.empty += len(checked.boxes_px) == 0
        self.boxes += len(checked.boxes_px)
        self.clipped_boxes += checked.num_clipped
        self.rejected_boxes += len(checked.box_problems)
        self.problems.extend(checked.box_problems)

    def add_unlabeled(self, run: Run) -> None:
        """Count the images of a run that no label mentions."""
        self.unlabelled_images += len(run.unlabeled)
        self.problems.extend(
            f"{run.run_id}/images/{name} has no label file" for name in run.unlabeled
        )

    def merge(self, other: "ValidationSummary") -> None:
        """Add another summary to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def counts(self) -> dict[str, int]:
        """Return every number by name."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return {"frames": self.frames, **numbers}
