"""Where the frames come from: recorded ones, that can be gone through, and live ones, that pass."""

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, read_run
from haustra.captures.validation import check_label
from haustra.core.detections import Detections, detections_from_labels
from haustra.core.errors import HaustraError
from haustra.core.images import list_images, read_image_rgb
from haustra.core.videos import VideoReader, to_rgb

if TYPE_CHECKING:
    from haustra.simulator.live import Drive, LiveColon

DEFAULT_RATE_HZ = 10.0
"""Of folders of images and of runs that do not tell theirs."""
SIMULATED_SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceFrame:
    """One frame."""

    number: int
    """Counts from 0."""
    image_rgb: NDArray[np.uint8]
    """[H,W,3]."""
    seconds: float
    """Since the source began."""
    captured_at: float
    """`time.monotonic()` when it was there to be shown."""
    truth: Detections | None = None
    """Labelled boxes, where the source has labels."""


@dataclass(kw_only=True)
class ImageFolder:
    """A run folder or a folder of images: the images that `haustra infer` finds there, by name."""

    name: str
    images: list[Path]
    labelled: dict[Path, Frame] | None
    """The run's frames by the resolved path of their image; None where it is no run."""
    frame_rate_hz: float = DEFAULT_RATE_HZ

    @property
    def num_frames(self) -> int:
        """How many images there are."""
        return len(self.images)

    def read(self, number: int) -> SourceFrame:
        """Return a frame."""
        image = read_image_rgb(self.images[number])
        truth = None
        frame = (self.labelled or {}).get(self.images[number].resolve())
        if frame is not None:
            size_wh = (image.shape[1], image.shape[0])
            checked = check_label(frame, size_wh=size_wh)
            truth = detections_from_labels(checked.boxes_px, image_size_wh=size_wh)
        return SourceFrame(
            number=number,
            image_rgb=image,
            seconds=number / self.frame_rate_hz,
            captured_at=time.monotonic(),
            truth=truth,
        )


class VideoFile:
    """A video that OpenCV decodes.

    Raises:
        HaustraError: it does not.
    """

    def __init__(self, path: Path) -> None:
        self._video = VideoReader(path, flag="--source")
        self.name, self.num_frames = path.name, self._video.num_frames
        self.frame_rate_hz = self._video.frame_rate_hz

    def read(self, number: int) -> SourceFrame:
        """Return a frame; the next one is the quickest to reach."""
        return SourceFrame(
            number=number,
            image_rgb=self._video.read(number),
            seconds=number / self.frame_rate_hz,
            captured_at=time.monotonic(),
        )


class Grabber(Protocol):
    """What makes the frames of a live source, one after the other, in a thread of its own."""

    def grab(self, number: int) -> SourceFrame:
        """Return the next frame.

        Raises:
            HaustraError: there is none, and there will be none.
        """

    def close(self) -> None:
        """Give back what it holds."""


class LiveSource:
    """Frames that pass: the newest one is kept, the others are dropped and counted.

    Args:
        grabber: makes the frames.
        name: what the page calls it.
        rate_hz: frames a second at most; None is as many as the grabber makes.
        can_pause: whether the grabber stands still while paused, as a simulator does; a camera goes
            on, so that its next frame is a new one.
    """

    def __init__(
        self, grabber: Grabber, *, name: str, rate_hz: float | None = None, can_pause: bool = False
    ) -> None:
        self.name, self.grabber = name, grabber
        self.num_dropped = 0
        """Frames that came and went while nobody had time for them."""
        self._rate_hz, self._can_pause = rate_hz, can_pause
        self._changed = threading.Condition()
        self._newest: SourceFrame | None = None
        self._error: HaustraError | None = None
        self._steps, self._is_paused, self._is_closed = 0, False, False
        self._thread = threading.Thread(target=self._grab, name="source", daemon=True)

    def start(self) -> None:
        """Begin to make frames, whether or not somebody takes them."""
        self._thread.start()

    def take(self, *, timeout_s: float) -> SourceFrame | None:
        """Return the newest frame that nobody has taken, waiting for it; None if there is none.

        Raises:
            HaustraError: the source has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._error, timeout_s)
            frame, self._newest = self._newest, None
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def pause(self, *, paused: bool) -> None:
        """Stop, or go on."""
        with self._changed:
            self._is_paused, self._steps, self._newest = paused, 0, None
            self._changed.notify_all()

    def step(self, by: int) -> None:
        """Have so many frames more while paused."""
        with self._changed:
            self._steps += by
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        else:
            self.grabber.close()

    def _may_grab(self) -> bool:
        stands_still = self._can_pause and self._is_paused and self._steps == 0
        return self._is_closed or not stands_still

    def _grab(self) -> None:
        number, due = 0, time.monotonic()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_grab)
                    if self._is_closed:
                        return
                    self._steps = max(0, self._steps - 1)
                try:
                    frame = self.grabber.grab(number)
                except HaustraError as error:
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
                number += 1
                with self._changed:
                    self.num_dropped += self._newest is not None and not self._is_paused
                    self._newest = frame
                    self._changed.notify_all()
                if self._rate_hz:
                    now = time.monotonic()
                    due = max(due + 1 / self._rate_hz, now - 1 / self._rate_hz)
                    time.sleep(max(0.0, due - now))
        finally:
            self.grabber.close()


@dataclass(kw_only=True)
class SimulatorGrabber:
    """Frames of a live colon."""

    colon: "LiveColon"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def grab(self, number: int) -> SourceFrame:
        """Render the next frame."""
        with self._lock:
            view = self.colon.next_view()
        now = time.monotonic()
        height, width = view.image_rgb.shape[:2]
        boxes = np.array([label.bbox_px for label in view.labels], dtype=np.float64)
        return SourceFrame(
            number=number,
            image_rgb=view.image_rgb,
            seconds=view.seconds,
            captured_at=now,
            truth=detections_from_labels(boxes, image_size_wh=(width, height)),
        )

    def drive(self, drive: "Drive") -> None:
        """Let a hand move the camera; takes it from the autopilot."""
        with self._lock:
            if self.colon.autopilot:
                self.colon.take_over(autopilot=False)
            self.colon.drive = drive

    def set_autopilot(self, *, on: bool) -> None:
        """Give the camera to the autopilot or take it away."""
        with self._lock:
            self.colon.take_over(autopilot=on)

    @property
    def autopilot(self) -> bool:
        """Whether the autopilot has the camera."""
        return self.colon.autopilot

    def close(self) -> None:
        """Nothing is held."""


class CameraGrabber:
    """Frames of a camera or a stream that OpenCV opens."""

    def __init__(self, where: int | str, *, flag: str) -> None:
        self._capture = cv2.VideoCapture(where)
        self._flag, self._started = flag, time.monotonic()
        if not self._capture.isOpened():
            raise HaustraError(
                f"--source {flag}: OpenCV cannot open it; expected a camera that is attached "
                "(camera:0) or the URL of a stream"
            )

    def grab(self, number: int) -> SourceFrame:
        """Wait for the next frame."""
        done, image = self._capture.read()
        if not done:
            raise HaustraError(f"--source {self._flag}: it gave no further frame")
        now = time.monotonic()
        return SourceFrame(
            number=number,
            image_rgb=to_rgb(image),
            seconds=now - self._started,
            captured_at=now,
        )

    def close(self) -> None:
        """Let the camera go."""
        self._capture.release()


RecordedSource = ImageFolder | VideoFile
"""Frames that stay where they are, 0 to `num_frames`; `read` returns one."""
Source = RecordedSource | LiveSource


def open_source(text: str, *, size_px: int) -> Source:
    """Open what `--source` names.

    Raises:
        HaustraError: it is none of what is understood, or cannot be opened.
        MissingExtraError: the simulator's packages are not installed.
    """
    if match := re.fullmatch(r"simulator(?::(\d+))?", text):
        from haustra.simulator.live import LiveColon

        colon = LiveColon(
            int(match[1] or SIMULATED_SEED), size_px=size_px, frame_rate_hz=DEFAULT_RATE_HZ
        )
        return LiveSource(
            SimulatorGrabber(colon=colon), name=text, rate_hz=DEFAULT_RATE_HZ, can_pause=True
        )
    if match := re.fullmatch(r"camera:(\d+)", text):
        return LiveSource(CameraGrabber(int(match[1]), flag=text), name=text)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        return LiveSource(CameraGrabber(text, flag=text), name=text)
    path = Path(text)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return VideoFile(path)
    raise HaustraError(
        f"--source {text}: expected simulator, simulator:SEED, a run folder, a folder of images, "
        "a video file, camera:0 or a URL"
    )


def _open_folder(folder: Path) -> ImageFolder:
    is_run = (folder / "labels").is_dir() and (folder / "images").is_dir()
    images = list_images(folder / "images" if is_run else folder)
    if not images:
        raise HaustraError(f"--source {folder}: it holds no image (PNG, JPEG, BMP, TIFF or WebP)")
    if not is_run:
        return ImageFolder(name=folder.resolve().name, images=images, labelled=None)
    run = read_run(folder)
    return ImageFolder(
        name=run.run_id,
        images=images,
        labelled={
            frame.image_path: frame
            for frame in run.frames
            if frame.label is not None and frame.image_path is not None
        },
        frame_rate_hz=run.manifest.frame_rate_hz or DEFAULT_RATE_HZ,
    )
