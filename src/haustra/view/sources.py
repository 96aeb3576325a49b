"""Where the frames come from: recorded ones, that can be gone through, and live ones, that pass."""

import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from haustra.captures.sources import ImageFolder, SourceFrame, VideoFile
from haustra.captures.sources import Source as AnySource
from haustra.captures.sources import open_source as open_recorded_or_camera
from haustra.core.detections import detections_from_labels
from haustra.core.errors import HaustraError

if TYPE_CHECKING:
    from haustra.simulator.live import Drive, LiveColon

DEFAULT_RATE_HZ = 10.0
"""Of folders of images and of runs that do not tell theirs."""
SIMULATED_SEED = 0


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
        self,
        grabber: AnySource,
        *,
        name: str,
        rate_hz: float | None = None,
        can_pause: bool = False,
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
                    frame = self.grabber.read(number)
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
class SimulatorGrabber(AnySource):
    """Frames of a live colon."""

    name = "simulator"
    seekable, num_frames, frame_rate_hz, pausable = False, None, DEFAULT_RATE_HZ, True
    colon: "LiveColon"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, number: int) -> SourceFrame:
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
    source = open_recorded_or_camera(text)
    if isinstance(source, ImageFolder | VideoFile):
        return source
    return LiveSource(source, name=source.name)
