"""The simulator as a live source, and the opener for everything that `--source` can name."""

import re
import threading

import numpy as np

from haustra.captures import sources
from haustra.captures.sources import Source, SourceFrame
from haustra.core.detections import detections_from_labels

DEFAULT_SEED = 0
FRAME_RATE_HZ = 10.0


class SimulatorSource(Source):
    """Frames of a simulated colon with exact labels; an autopilot or the user drives the camera."""

    seekable, num_frames, frame_rate_hz, pausable = False, None, FRAME_RATE_HZ, True

    def __init__(self, seed: int, *, size_px: int, name: str) -> None:
        from haustra.simulator.live import LiveColon

        self.name = name
        self._colon = LiveColon(seed, size_px=size_px, frame_rate_hz=FRAME_RATE_HZ)
        self._lock = threading.Lock()

    def read(self, number: int) -> SourceFrame:
        """Render the next frame."""
        with self._lock:
            frame = self._colon.next_frame()
        height, width = frame.image_rgb.shape[:2]
        boxes_px = np.array([label.bbox_px for label in frame.labels], dtype=np.float64)
        return SourceFrame(
            number=number,
            image_rgb=frame.image_rgb,
            seconds=frame.seconds,
            truth=detections_from_labels(boxes_px, image_size_wh=(width, height)),
        )

    @property
    def autopilot(self) -> bool:
        """True while the autopilot drives the camera."""
        return self._colon.autopilot

    def set_autopilot(self, *, on: bool) -> None:
        """Turn the autopilot on or off."""
        with self._lock:
            self._colon.take_over(autopilot=on)

    def drive(self, **axes: float) -> None:
        """Move the camera by hand, which turns the autopilot off.

        Args:
            axes: `ahead`, `sideways`, `turn_right` and `turn_down`, each from -1 to 1.
        """
        from haustra.simulator.live import Drive

        with self._lock:
            if self._colon.autopilot:
                self._colon.take_over(autopilot=False)
            self._colon.drive = Drive(**axes)


def open_source(text: str, *, size_px: int) -> Source:
    """Open the simulator, or any source that `haustra.captures.sources` opens."""
    if match := re.fullmatch(r"simulator(?::(\d+))?", text):
        return SimulatorSource(int(match[1] or DEFAULT_SEED), size_px=size_px, name=text)
    return sources.open_source(text)
