"""Sources of frames: folders of images, run folders, video files, cameras and streams.

    with open_source("clip.mp4") as source:
        for frame in source:
            show(frame.image_rgb)

The simulator as a source is in `haustra.view.simulator_source`.
"""

import os
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, in_frame_order, read_run
from haustra.captures.schema import FrameLabel
from haustra.captures.validation import check_label
from haustra.core.containers import count_missing_bytes
from haustra.core.detections import Detections, detections_from_labels
from haustra.core.errors import HaustraError, option
from haustra.core.frame_times import FrameClock, constant_rate, stamps_in_order
from haustra.core.images import list_images, read_image_rgb
from haustra.core.paths import StrPath, to_path
from haustra.core.videos import is_unconverted, open_capture, read_stored_stamps, stamp_of

DEFAULT_FRAME_RATE_HZ = 10.0
"""Frame rate of image folders, and of runs and videos that do not state one."""
MAX_FRAMES_SKIPPED = 30
"""Longest jump forward in a video that decodes the frames between instead of seeking."""
NUM_CHECKED_FRAMES = 32  # number of frames whose stored and decoded time stamps must agree
MAX_FAILURES = 1000  # number of frames in a row that do not decode, after which a video has ended
STREAM_TIMEOUT_MS = 10_000
STREAM_SETTINGS = [
    *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS),
    *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS),
]
"""OpenCV gives up a stream that is silent for this long; by default it waits 30 s."""
MAX_FRAMES_SHORT = 10
"""Number of frames by which a film at a URL may end before the number that it states."""
ENDED = 2**31  # position of a video after its last frame


class SourceEndedError(HaustraError):
    """A source with an end has no frame of that number."""


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

    The frames of a seekable source can be read in any order. Its `num_frames` may be None, and may
    change while it is read: only a `read` that raises `SourceEndedError` shows the end. Any other
    source is live: each `read` waits for a new frame.
    """

    name: str
    """Name shown to the user."""
    seekable: bool
    num_frames: int | None
    """Number of frames as far as known; None for a live source."""
    frame_rate_hz: float | None
    """Frames per second to show it at; None for as many as arrive."""
    in_time_order: bool = True
    is_cropped: bool = False  # True for a run whose images were cropped at their import
    """False for images that do not follow each other in time."""
    pausable: bool = False
    """True for a live source that makes no frames while nobody reads."""
    reconnects: bool = False
    """True for a live source that is worth opening again after an error."""

    def read(self, number: int) -> SourceFrame:
        """Return frame `number`; a live source returns its next frame under that number.

        Raises:
            SourceEndedError: A seekable source has no such frame, or a live one has ended.
            HaustraError: The frame cannot be read.
        """
        ...

    def reopen(self) -> None:
        """Open a live source again that has ended or failed, as far as that is needed.

        Raises:
            HaustraError: It cannot be opened.
        """
        return

    def index(self) -> list[float] | None:
        """Return the time of each frame in seconds where it is known without decoding."""
        return None

    def problems(self) -> list[str]:
        """Return what is known to be missing, once the frames were read in order."""
        return []

    def notes(self) -> list[str]:
        """Return what is odd about the frames' times, once the frames were read in order."""
        return []

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
    """The images of a folder in natural order, or those of a run folder with their labels.

    Those of a run come by frame id, at the times of their labels if each has one.

    Args:
        folder: The folder.
        setting: Name of the setting that gave the folder, for messages.

    Raises:
        HaustraError: It holds no image, or its run manifest is malformed.
    """

    seekable = True
    num_frames: int
    frame_rate_hz: float

    def __init__(self, folder: StrPath, *, setting: str = "source") -> None:
        path = to_path(folder)
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
        stamps: list[float | None] = []
        if is_run:
            run = read_run(path)
            self.name = run.run_id
            self.frame_rate_hz = run.manifest.frame_rate_hz or DEFAULT_FRAME_RATE_HZ
            self.in_time_order = run.manifest.time_order_rate_hz is not None
            self.is_cropped = run.manifest.crop is not None
            self._labeled = {
                frame.image_path: frame
                for frame in run.frames
                if frame.label is not None and frame.image_path is not None
            }
            labels = {image: self._label_of(image) for image in self.images}
            self.images = in_frame_order(
                self.images,
                name=lambda image: image.name,
                frame_id=lambda image: label.frame_id if (label := labels[image]) else None,
            )
            stamps = [label.sim_time if (label := labels[i]) else None for i in self.images]
        known = [stamp for stamp in stamps if stamp is not None]
        self._times_s = [number / self.frame_rate_hz for number in range(self.num_frames)]
        if self.in_time_order and len(known) == len(stamps) and (np.diff(known) > 0).all():
            self._times_s = [stamp - known[0] for stamp in known]

    def index(self) -> list[float]:
        """Return the time of each frame in seconds."""
        return self._times_s

    def _label_of(self, image: Path) -> FrameLabel | None:
        frame = self._labeled.get(image.resolve())
        return frame.label if frame else None

    def read(self, number: int) -> SourceFrame:
        """Return a frame."""
        if number >= self.num_frames:
            raise SourceEndedError(f"{self.name} has no image {number}")
        image = read_image_rgb(self.images[number])
        truth = None
        frame = self._labeled.get(self.images[number].resolve())
        if frame is not None:
            size_wh = (image.shape[1], image.shape[0])
            checked = check_label(frame, size_wh=size_wh)
            truth = detections_from_labels(checked.boxes_px, image_size_wh=size_wh)
        return SourceFrame(
            number=number, image_rgb=image, seconds=self._times_s[number], truth=truth
        )


class VideoFile(Source):
    """A video file that OpenCV decodes. Reading is fastest in order.

    Frames are read until decoding ends, whatever number the file states. `num_frames` is that
    number, or None, until `index` or the end of the file gives the true one; so the source may end
    before it, with `SourceEndedError`, or go on after it.

    Args:
        path: The file.
        setting: Name of the setting that gave the path, for messages; None for an argument.

    Raises:
        HaustraError: The file does not exist or no frame of it can be decoded.
    """

    seekable = True
    num_frames: int | None
    frame_rate_hz: float

    def __init__(self, path: StrPath, *, setting: str | None = "source") -> None:
        self._path = to_path(path)
        self.name = self._path.name
        said = str(self._path) if setting is None else option(setting, self._path)
        if not self._path.is_file():
            raise HaustraError(f"{said}: expected a video file; it does not exist")
        self._stamps: list[float] | None = None
        """Stamps of all frames; None where frames are numbered by decoding from the start."""
        self._num_stored = 0
        self._start()
        stated, rate = (
            self._video.get(name) for name in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
        )
        self.frame_rate_hz = rate if 0 < rate < float("inf") else DEFAULT_FRAME_RATE_HZ
        self.num_frames = int(stated) if 0 < stated < ENDED else None
        self._num_stated, self._num_decoded = self.num_frames or 0, 0
        self._stated_s = self._num_stated / self.frame_rate_hz
        self._clock = FrameClock(self.frame_rate_hz)
        if not self._video.isOpened() or not self._grab():
            codec = int(self._video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
            remark = f" (codec {codec.decode('latin-1')})" if codec.isalnum() else ""
            remark += "; it is cut short" if count_missing_bytes(self._path) else ""
            raise HaustraError(f"{said}: expected a video that OpenCV decodes{remark}")
        if is_unconverted(self._path):
            raise HaustraError(
                f"{said}: OpenCV {cv2.__version__} cannot convert its frames"
                ", which are interlaced; run: pip install 'opencv-python-headless<4.13', or "
                "deinterlace the video"
            )

    def index(self) -> list[float] | None:
        """Find the times of all frames from the stored stamps, which reads the file once.

        `num_frames` becomes the number of stored frames, and `frame_rate_hz` the mean rate.

        Returns:
            The times in seconds; None where only decoding shows them, as in files that were joined.
        """
        if not self._num_stored:
            self._start()
            known: list[float] = []
            while len(known) < NUM_CHECKED_FRAMES and self._grab():
                known.append(stamp_of(self._video))
            stored = read_stored_stamps(self._path)
            self._num_stored = len(stored)
            self._stamps = stamps_in_order(known if self._at == ENDED else stored, known=known)
            if self._stamps:
                self._clock.times_s = [stamp - self._stamps[0] for stamp in self._stamps]
            self.num_frames = self._num_decoded or len(self._stamps or stored) or None
            times, stated_hz = self._clock.times_s, self.frame_rate_hz
            mean_hz = (len(times) - 1) / times[-1] if len(times) > 1 else stated_hz
            self.frame_rate_hz = constant_rate(times, stated_hz=stated_hz) or mean_hz
        return self._clock.times_s if self._stamps else None

    def read(self, number: int) -> SourceFrame:
        """Return a frame.

        Raises:
            SourceEndedError: The file ends before it; `num_frames` is true now.
            HaustraError: It does not decode.
        """
        if not self._at <= number <= self._at + MAX_FRAMES_SKIPPED:
            self._seek(number)
        while self._at < number:
            if not self._grab():
                raise SourceEndedError(f"{self._path} ends before frame {number}")
        done, image_bgr = self._video.retrieve()
        if self._at > number or not done:
            raise HaustraError(f"{self._path}: frame {number} does not decode")
        return SourceFrame(
            number=number, image_rgb=_to_rgb(image_bgr), seconds=self._clock.times_s[number]
        )

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames that decode.

        Raises:
            HaustraError: After the last frame, if others are known to be missing.
        """
        for number in count():
            try:
                yield self.read(number)
            except SourceEndedError:
                break
            except HaustraError:
                continue  # `problems` counts it
        if problems := self.problems():
            raise HaustraError("; ".join(problems))

    def readable_frames(self, missing: list[str]) -> Iterator[SourceFrame]:
        """Yield the frames that decode, and add to `missing` why others are known to be missing."""
        try:
            yield from self
        except HaustraError as error:
            missing.append(str(error))

    def problems(self) -> list[str]:
        """Return what is known to be missing, once the frames were read in order."""
        problems = []
        if self._num_undecoded:
            problems.append(f"{self._path}: {self._num_undecoded} of its frames did not decode")
        if missing := count_missing_bytes(self._path):
            problems.append(
                f"{self._path} is cut short: it ends {missing} bytes before its container does"
            )
        return problems

    def notes(self) -> list[str]:
        """Return what is odd about the frames' times, once the frames were read in order."""
        notes, end_s = self._clock.notes(), self._clock.times_s[-1] + 1 / self.frame_rate_hz
        missing_s = self._stated_s - end_s  # sound often lasts a little longer than the frames
        is_short = missing_s > max(3 / self.frame_rate_hz, 0.03 * self._stated_s)
        if is_short and self._num_stored < self._num_stated and not self._clock.jumps:
            notes.append(f"its frames end at {end_s:.3g} s, but it states {self._stated_s:.3g} s")
        return notes

    def close(self) -> None:
        """Close the file."""
        self._video.release()

    def _start(self) -> None:
        """Go before the first frame."""
        self._video, self._at, self._num_undecoded = open_capture(self._path), -1, 0

    def _seek(self, number: int) -> None:
        """Go before a frame: by the stamps near to it, or else by decoding from the start."""
        if number < NUM_CHECKED_FRAMES:
            if number < self._at:
                self._start()
            return
        self.index()
        # OpenCV does not go beyond the stated number of frames.
        stamps = self._stamps if self._stamps and self._num_stated else [0.0]
        if len(stamps) == 1 and self._at < number:
            return
        target = min(number, len(stamps) - 1)
        for margin_s in (0.5, 5.0) if target else ():
            if self._at == ENDED:  # OpenCV cannot go back from there
                self._start()
            self._video.set(cv2.CAP_PROP_POS_MSEC, 1000 * (stamps[target] - margin_s))
            self._at = -1
            if self._grab() and self._at <= number:
                return
        self._start()

    def _grab(self) -> bool:
        """Decode the next frame and find its number; return False at the end."""
        before = self._at
        # OpenCV fails once for each stored frame that is damaged, and always at the end.
        failures = next((n for n in range(MAX_FAILURES) if self._video.grab()), None)
        if failures is None:
            if before >= 0:
                self.num_frames = self._num_decoded = before + 1
                del self._clock.times_s[before + 1 :]
            self._at = ENDED
            return False
        stamp = stamp_of(self._video)
        if self._stamps is None:
            self._at += 1
            if self._at == len(self._clock.times_s):
                self._clock.add(stamp)
        else:
            self._at = bisect_left(self._stamps, stamp - 0.0005)
            self._at = min(self._at, len(self._stamps) - 1)
        skipped = self._at - before - 1 if before >= 0 else 0
        self._num_undecoded += max(failures, skipped)
        return True


class Camera(Source):
    """A camera, or a stream or film that OpenCV opens at a URL.

    Args:
        address: Number of the camera, or URL of the stream.
    """

    seekable, num_frames, frame_rate_hz, reconnects = False, None, None, True

    def __init__(self, address: int | str) -> None:
        self.name = f"camera:{address}" if isinstance(address, int) else address
        self._address = address
        self._started = time.monotonic()
        self.reopen()

    def reopen(self) -> None:
        """Open it, or open it again.

        Raises:
            HaustraError: OpenCV cannot open it.
        """
        if isinstance(self._address, int):
            self._capture = cv2.VideoCapture(self._address)
        else:
            self._capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, STREAM_SETTINGS)
        if not self._capture.isOpened():
            raise HaustraError(
                f"{option('source', self.name)}: OpenCV cannot open it; expected an attached "
                "camera (camera:0) or the URL of a stream"
            )
        self._num_read = 0
        # A stream states no number of frames, or a negative one.
        self._num_stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate_hz = rate_hz if self._num_stated > 0 and rate_hz > 0 else None

    def read(self, number: int) -> SourceFrame:
        """Wait for the next frame and return it.

        Raises:
            SourceEndedError: A film at a URL has ended.
            HaustraError: No frame arrived in time.
        """
        done, image_bgr = self._capture.read()
        if not done and 0 < self._num_stated <= self._num_read + MAX_FRAMES_SHORT:
            raise SourceEndedError(f"{self.name} has ended")
        if not done:
            raise HaustraError(f"{option('source', self.name)}: no further frame arrived")
        self._num_read += 1
        return SourceFrame(
            number=number, image_rgb=_to_rgb(image_bgr), seconds=time.monotonic() - self._started
        )

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def open_source(source: StrPath | int) -> Source:
    """Open a source of frames; use it as a context manager or close it.

    Args:
        source: A run folder, a folder of images, a video file, the number of a camera (0, or
            `camera:0`), or the URL of a stream.
    """
    if isinstance(source, int):
        return Camera(source)
    text = os.fspath(source)
    if match := re.fullmatch(r"camera:(\d+)", text):
        return Camera(int(match[1]))
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        return Camera(text)
    path = to_path(text)
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
