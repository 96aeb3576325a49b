"""Images of a dataset and the content of their annotations, as its reader yields them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.captures.schema import SplitName
from haustra.core.field_of_view import BoxPx


@dataclass(frozen=True, kw_only=True)
class SourceBox:
    """One box of a dataset."""

    box_px: Any
    """`x0,y0,x1,y1` in pixels as the dataset states it, not checked yet."""
    class_name: Any
    """Class as the dataset states it; None and an empty one become `(none)`."""
    lesion_id: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of `PolypTruth` that the dataset states, such as `size_mm`."""


@dataclass(kw_only=True)
class Annotation:
    """The content of one image's annotation."""

    boxes: list[SourceBox] = field(default_factory=list)
    size_wh: tuple[int, int] = (0, 0)
    """Width and height that the annotation states for its image; 0 where it states none."""
    rejected: list[str] = field(default_factory=list)
    """A reason for each box that could not be read as one."""
    hints: list[str] = field(default_factory=list)
    """Remarks; equal ones of all images are counted and become one note."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceFrame:
    """An image of a dataset and where its annotation is."""

    path: Path
    """The image file, or the video that the image is from."""
    name: str
    """Path of the image inside the dataset, with forward slashes."""
    annotation: Any
    """Input of the reader, such as a path; None without an annotation."""
    source: str
    """Name of the annotation's file in messages."""
    image_rgb: NDArray[np.uint8] | None = None
    """The decoded frame, uint8 [H,W,3], if `path` is a video."""
    seconds: float | None = None
    """Time since its video began, if it is known."""
    is_labeled: bool = True
    """False for a frame that nobody has looked at: it gets no label file."""


@dataclass(frozen=True, kw_only=True)
class SourceRun:
    """The images of a dataset that become one run."""

    frames: Iterable[SourceFrame]  # in the order of the run
    total: int | None = None  # number of frames, as far as known; None to count them
    name: str = ""  # name inside the dataset, such as `train`; empty for a run of all
    group: str | None = None
    """Patient or sequence of all its images, unless the settings give another."""
    frame_rate_hz: float | None = None  # of a video, unless the settings give one
    split: SplitName | None = None  # split that the dataset states
    field_of_view: BoxPx | None = None  # that of a video, where it is to be cropped
    notes: Sequence[str] = ()
    """Notes that come first in the result; they may grow while the frames are read."""
    problems: Sequence[str] = ()
    """Mistakes that the importer found; the frames are checked for more."""

    @property
    def num_frames(self) -> int:
        """Number of frames, as far as known."""
        return len(list(self.frames)) if self.total is None else self.total


Read = Callable[[Any, tuple[int, int]], Annotation]
"""Reader: returns the content of a frame's annotation for an image of this width and height."""


def read_as_is(annotation: Annotation, _size_wh: tuple[int, int]) -> Annotation:
    """Return an annotation that its importer has read already."""
    return annotation
