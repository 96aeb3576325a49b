"""Deciding which frames and boxes are usable, and counting the others.

A box that leaves its image is clipped and counted. An inverted, empty or non-finite box is
rejected. A bad label file or image rejects the frame. Each rejection is named.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, Run
from haustra.captures.schema import PolypLabel
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
    file: str  # the file at fault, inside its run folder
    kind: ProblemKind
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedLabel:
    """A usable frame's boxes inside its image, without its pixels."""

    frame: Frame
    size_wh: tuple[int, int]  # width and height of the image in pixels
    boxes_px: NDArray[np.float64]  # [N,4] `x0,y0,x1,y1` in pixels, clipped to the image
    labels: tuple[PolypLabel, ...]  # the label of each box
    num_clipped: int
    box_problems: tuple[str, ...]

    @property
    def lesion_ids(self) -> tuple[str | None, ...]:
        """The lesion of each box."""
        return tuple(label.lesion_id for label in self.labels)


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
    label, file = frame.label, f"labels/{frame.label_path.name}"

    def problem(kind: ProblemKind, reason: str) -> FrameProblem:
        return FrameProblem(frame=frame, file=file, kind=kind, reason=reason)

    if frame.problem is not None:
        return problem("invalid", frame.problem)
    if label is None:
        raise AssertionError("a frame without a problem has a label")
    if not label.image_present:
        return problem(
            "without_image", f"{frame.sample_id}: the label says that no image was taken"
        )
    if frame.image_path is None:
        raise AssertionError("a frame whose image is present has an image path or a problem")
    file = label.image  # the image is at fault from here on
    name = f"{frame.run_id}/{file}"
    try:
        data = frame.image_path.read_bytes()
        image = decode_image_rgb(data, name=name)
    except FileNotFoundError:
        return problem("missing", f"{name} does not exist")
    except OSError as error:
        return problem("invalid", f"{name} cannot be read: {error.strerror}")
    except HaustraError as error:
        return problem("invalid", str(error))
    checked = check_label(frame, size_wh=(image.shape[1], image.shape[0]))
    return CheckedFrame(**vars(checked), image_rgb=image, image_digest=digest_bytes(data))


def check_label(frame: Frame, *, size_wh: tuple[int, int]) -> CheckedLabel:
    """Check the boxes of a frame with a label, whose image of this size is known to be whole."""
    if frame.label is None:
        raise AssertionError("a frame whose image was decoded has a label")
    boxes: list[CheckedBox] = []
    labels: list[PolypLabel] = []
    problems = [f"{frame.sample_id}: {reason}" for reason in frame.label.rejected]
    for index, polyp in enumerate(frame.label.labels):
        checked = _check_box(polyp, size_wh=size_wh)
        if isinstance(checked, str):
            problems.append(f"{frame.sample_id}: label {index}: {checked}")
        else:
            boxes.append(checked)
            labels.append(polyp)
    return CheckedLabel(
        frame=frame,
        size_wh=size_wh,
        boxes_px=np.array([box.box_px for box in boxes], dtype=np.float64).reshape(-1, 4),
        labels=tuple(labels),
        num_clipped=sum(box.clipped for box in boxes),
        box_problems=tuple(problems),
    )


def _check_box(polyp: PolypLabel, *, size_wh: tuple[int, int]) -> CheckedBox | str:
    box_px = polyp.bbox_px
    if box_px is None:  # otherwise `bbox_px` wins
        box_px = polyp.bbox_norm
        if box_px is None:
            return "it has neither bbox_px nor bbox_norm"
        if is_four_numbers(box_px):
            box_px = [value * size_wh[index % 2] for index, value in enumerate(box_px)]
    return check_box_px(box_px, size_wh=size_wh)


def keeps_negative(sample_id: str, *, ratio: float) -> bool:
    """Return whether a frame without a box stays: its name's SHA-256, in 0..1, is below `ratio`.

    The share is met on average, a larger one only adds frames, and no other frame matters.
    """
    # A float holds each of the 2**52 values of 13 hexadecimal digits exactly.
    return int(digest_bytes(sample_id.encode())[:13], 16) < ratio * 2**52


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
    empty_left_out: int = 0  # negatives that `empty_ratio` leaves out; their images were not opened
    empty: int = 0  # usable frames without a box: the negatives
    boxes: int = 0
    clipped_boxes: int = 0
    rejected_boxes: int = 0
    unlabelled_images: int = 0
    quarantined: list[FrameProblem] = field(default_factory=list)  # the invalid and missing frames
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
