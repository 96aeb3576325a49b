"""Sources of frames: folders of images, run folders, video files, cameras and streams.

    with open_source("clip.mp4") as source:
        for frame in source:
            show(frame.image_rgb)

The simulator as a source is in `haustra.view.simulator_source`.
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, read_run
from haustra.captures.validation import check_label
from haustra.core.detections import Detections, detections_from_labels
from haustra.core.errors import HaustraError, option
from haustra.core.images import list_images, read_image_rgb
from haustra.core.paths import StrPath

DEFAULT_FRAME_RATE_HZ = 10.0
"""Frame rate of image folders, and of runs and videos that do not state one."""
MAX_FRAMES_SKIPPED = 30
"""Longest jump forward in a video that decodes the frames between instead of seeking."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceFrame:
    """One frame of a source."""

    number: int
    """Position in the source, from 0."""
    image_rgb: NDArray[np.uint8]
    """Image, uint8 RGB [H,W,3]."""
    seconds: float
    """Time since the beginning of the source."""
    captured_at: float = field(default_factory=time.monotonic)
    """`time.monotonic()` when the frame became available."""
    truth: Detections | None = None
    """Labeled boxes; None where the frame has no label."""


class Source(Protocol):
    """A sequence of frames, read in order by iterating or by number with `read`.

    A seekable source holds `num_frames` frames that can be read in any order. Any other source is
    live: each `read` waits for a new frame.
    """

    name: str
    """Name shown to the user."""
    seekable: bool
    num_frames: int | None
    """Number of frames; None for a live source."""
    frame_rate_hz: float | None
    """Frames per second to show it at; None for as many as arrive."""
    in_time_order: bool = True
    """False for images that do not follow each other in time."""
    pausable: bool = False
    """True for a live source that makes no frames while nobody reads."""

    def read(self, number: int) -> SourceFrame:
        """Return frame `number`; a live source returns its next frame under that number.

        Raises:
            HaustraError: The frame cannot be read, or the live source has ended.
        """
        ...

    def close(self) -> None:
        """Release the file or device."""
        return  # not abstract: a source may hold nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[SourceFrame]:
        numbers = count() if self.num_frames is None else range(self.num_frames)
        return map(self.read, numbers)


class ImageFolder(Source):
    """The images of a folder by name, or those of a run folder with their labels.

    Args:
        folder: The folder.
        setting: Name of the setting that gave the folder, for messages.

    Raises:
        HaustraError: It holds no image, or its run manifest is malformed.
    """

    seekable = True
    frame_rate_hz: float

    def __init__(self, folder: StrPath, *, setting: str = "source") -> None:
        path = Path(folder)
        is_run = (path / "labels").is_dir() and (path / "images").is_dir()
        self.images = list_images(path / "images" if is_run else path)
        if not self.images:
            raise HaustraError(
                f"{option(setting, path)}: the folder holds no image (PNG, JPEG, BMP, TIFF or WebP)"
            )
        self.name, self.frame_rate_hz = path.resolve().name, DEFAULT_FRAME_RATE_HZ
        self.num_frames = len(self.images)
        self.in_time_order = False
        self._labeled: dict[Path, Frame] = {}
        if is_run:
            run = read_run(path)
            self.name = run.run_id
            self.frame_rate_hz = run.manifest.frame_rate_hz or DEFAULT_FRAME_RATE_HZ
            self.in_time_order = run.manifest.time_order_rate_hz is not None
            self._labeled = {
                frame.image_path: frame
                for frame in run.frames
                if frame.label is not None and frame.image_path is not None
            }

    def read(self, number: int) -> SourceFrame:
        """Return a frame."""
        image = read_image_rgb(self.images[number])
        truth = None
        frame = self._labeled.get(self.images[number].resolve())
        if frame is not None:
            size_wh = (image.shape[1], image.shape[0])
            checked = check_label(frame, size_wh=size_wh)
            truth = detections_from_labels(checked.boxes_px, image_size_wh=size_wh)
        return SourceFrame(
            number=number,
            image_rgb=image,
            seconds=number / self.frame_rate_hz,
            truth=truth,
        )


class VideoFile(Source):
    """A video file that OpenCV decodes. Reading is fastest in order.

    Args:
        path: The file.
        setting: Name of the setting that gave the path, for messages.

    Raises:
        HaustraError: The file does not exist or cannot be decoded.
    """

    seekable = True
    frame_rate_hz: float
    num_frames: int
    """Number of frames as stated in the file, which may be a few more than can be decoded."""

    def __init__(self, path: StrPath, *, setting: str = "source") -> None:
        self._path = Path(path)
        self.name = self._path.name
        if not self._path.is_file():
            raise HaustraError(
                f"{option(setting, self._path)}: expected a video file; it does not exist"
            )
        self._video = cv2.VideoCapture(str(self._path))
        self.num_frames = int(self._video.get(cv2.CAP_PROP_FRAME_COUNT))
        if not self._video.isOpened() or self.num_frames < 1:
            raise HaustraError(
                f"{option(setting, self._path)}: expected a video that OpenCV decodes"
            )
        self.frame_rate_hz = self._video.get(cv2.CAP_PROP_FPS) or DEFAULT_FRAME_RATE_HZ
        self._next = 0

    def read(self, number: int) -> SourceFrame:
        """Return a frame.

        Raises:
            HaustraError: The file ends before it or is damaged there.
        """
        if not self._next <= number <= self._next + MAX_FRAMES_SKIPPED:
            self._video.set(cv2.CAP_PROP_POS_FRAMES, number)
            self._next = number
        while self._next < number:
            self._video.grab()
            self._next += 1
        done, image_bgr = self._video.read()
        self._next += 1
        if not done:
            raise HaustraError(f"{self._path} ends or is damaged at frame {number}")
        return SourceFrame(
            number=number,
            image_rgb=_to_rgb(image_bgr),
            seconds=number / self.frame_rate_hz,
        )

    def close(self) -> None:
        """Close the file."""
        self._video.release()


class Camera(Source):
    """A camera, or a stream that OpenCV opens.

    Args:
        address: Number of the camera, or URL of the stream.

    Raises:
        HaustraError: OpenCV cannot open it.
    """

    seekable, num_frames, frame_rate_hz = False, None, None

    def __init__(self, address: int | str) -> None:
        self.name = f"camera:{address}" if isinstance(address, int) else address
        self._capture = cv2.VideoCapture(address)
        self._started = time.monotonic()
        if not self._capture.isOpened():
            raise HaustraError(
                f"{option('source', self.name)}: OpenCV cannot open it; expected an attached "
                "camera (camera:0) or the URL of a stream"
            )

    def read(self, number: int) -> SourceFrame:
        """Wait for the next frame and return it."""
        done, image_bgr = self._capture.read()
        if not done:
            raise HaustraError(f"{option('source', self.name)}: no further frame arrived")
        return SourceFrame(
            number=number,
            image_rgb=_to_rgb(image_bgr),
            seconds=time.monotonic() - self._started,
        )

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def open_source(source: StrPath | int) -> Source:
    """Open a source of frames; use it as a context manager or close it.

    Args:
        source: A run folder, a folder of images, a video file, the number of a camera (0, or
            `camera:0`), or the URL of a stream.

    Raises:
        HaustraError: It is none of these, or cannot be opened.
    """
    if isinstance(source, int):
        return Camera(source)
    text = os.fspath(source)
    if match := re.fullmatch(r"camera:(\d+)", text):
        return Camera(int(match[1]))
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        return Camera(text)
    path = Path(text)
    if path.is_dir():
        return ImageFolder(path)
    if path.is_file():
        return VideoFile(path)
    raise HaustraError(
        f"{option('source', text)}: expected a run folder, a folder of images, a video file, "
        "camera:0 or a URL (`haustra view` also takes simulator and simulator:SEED)"
    )


def _to_rgb(image_bgr: object) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.asarray(image_bgr), cv2.COLOR_BGR2RGB), dtype=np.uint8)
