"""A detector whose file is loaded again when it changes."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections
from haustra.core.field_of_view import FieldOfView
from haustra.inference.detector import Detector
from haustra.view.state import in_one_line

CHECK_EVERY_S = 0.5  # interval at which the file's time and size are checked
NUM_LATENCIES = 200  # number of inferences that the shown percentiles cover


class WatchedDetector:
    """Runs a detector, and loads its file again when it changes.

    Args:
        path: The file; None for a detector without one, which never changes.
    """

    def __init__(self, load: Callable[[], Detector], *, path: Path | None) -> None:
        self._load, self._path = load, path
        self._stamp = self._read_stamp()
        self._checked_at = 0.0
        self._loading: threading.Thread | None = None
        self._loaded: Detector | Exception | None = None
        self.field_of_view = FieldOfView()  # of the source, for a detector that crops
        self._image = np.zeros((64, 64, 3), dtype=np.uint8)
        """The last image, on which new weights are tried."""
        self.problem: str | None = None
        """Why the file does not load, while older weights are in use."""
        self.detector = load()  # the detector in use
        self.latencies_s: deque[float] = deque(maxlen=NUM_LATENCIES)

    def detect(self, image_rgb: NDArray[np.uint8]) -> Detections:
        """Return all detections on an image uint8 [H,W,3], whatever their score."""
        self._image, started = image_rgb, time.monotonic()
        found = self.detector.detect(
            image_rgb, objectness=0.0, iou=1.0, field_of_view=self.field_of_view
        )
        self.latencies_s.append(time.monotonic() - started)
        return found

    def reload(self) -> str | None:
        """Load a changed file in a thread, and use the detector once it is loaded.

        Returns:
            A notice for the user when loading has succeeded or failed.
        """
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            if isinstance(loaded, Exception):
                reason = in_one_line(loaded)
                self.problem = f"{reason}; the weights that were loaded before stay in use"
                return self.problem
            self.detector, self.problem = loaded, None
            self.latencies_s.clear()
            return f"{self._path} has changed and was loaded"
        now = time.monotonic()
        if self._path is None or self._loading or now - self._checked_at < CHECK_EVERY_S:
            return None
        self._checked_at = now
        stamp = self._read_stamp()
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            self._loading = threading.Thread(target=self._load_again, daemon=True)
            self._loading.start()
        return None

    def describe(self) -> dict[str, Any]:
        """Return name, file, its problem and latencies as JSON values."""
        latencies_ms = np.array(self.latencies_s or [0.0]) * 1000
        p50, p95 = np.percentile(latencies_ms, [50, 95])
        return {
            "name": self.detector.caption,
            "file": self._path.name if self._path else None,
            "problem": self.problem,
            "heuristic": self.detector.kind == "heuristic",
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
        }

    def _load_again(self) -> None:
        try:
            detector = self._load()
            detector.detect(self._image, objectness=0.0, iou=1.0)  # it may load and not run
            self._loaded = detector
        except Exception as error:  # noqa: BLE001 - the pages show it
            self._loaded = error
        finally:
            self._loading = None

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None  # the file is being replaced
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None
