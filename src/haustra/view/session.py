"""Opens the detectors of `haustra view`, and runs it without a page."""

import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from haustra.captures.sources import Source, SourceEndedError
from haustra.core.errors import HaustraError, option
from haustra.core.field_of_view import FieldOfView
from haustra.core.operating_point import AlarmFilter
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress, track
from haustra.inference.detector import open_detector
from haustra.inference.heuristic import heuristic_detector
from haustra.inference.pictures import operating_point
from haustra.view.config import ViewConfig
from haustra.view.history import verdict_of
from haustra.view.recording import Recording
from haustra.view.simulator_source import open_source
from haustra.view.state import in_one_line
from haustra.view.watched_detector import WatchedDetector

NUMBERS_NAME = "numbers"  # stem of the file in a headless run's folder


def open_detectors(config: ViewConfig) -> list[WatchedDetector]:
    """Open the detector, and the one to compare with it."""
    if config.detector_weights is None:
        return [WatchedDetector(heuristic_detector, path=None)]

    def watched(path: Path) -> WatchedDetector:
        kind = config.model if path != config.compare else None
        return WatchedDetector(
            lambda: open_detector(path, kind=kind, backend=config.backend), path=path
        )

    paths = [config.detector_weights, *([config.compare] if config.compare else [])]
    return [watched(path) for path in paths]


@dataclass(frozen=True, kw_only=True)
class HeadlessResult:
    """Outcome of a headless run."""

    folder: Path  # the run folder
    numbers: dict[str, Any]  # JSON values, which are also in the folder's numbers.json


def run_headless(config: ViewConfig, *, progress: Progress | None = None) -> HeadlessResult:
    """Run a detector over a source, frame by frame, and write a run folder of its detections.

    No frame of a recorded source or of the simulator is dropped. A camera goes on while a frame is
    processed.

    Raises:
        HaustraError: Weights or source do not open, no frame can be read, or a live source has no
            `max_frames`.
    """
    if config.output_root is None:
        raise AssertionError("ViewConfig requires output_root for a headless run")
    check_outputs(config)
    [detector] = open_detectors(config)
    with open_source(config.source, size_px=config.size) as source:
        detector.field_of_view = FieldOfView(is_cropped=source.is_cropped)
        source.index()  # which finds the true rate of a video
        run = _HeadlessRun(config, source, detector)
        try:
            run.read_frames(progress or SilentProgress())
        except BaseException as error:
            line = run.finish()
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted; {line}") from None
            if run.recording.num_frames and isinstance(error, HaustraError | OSError):
                raise HaustraError(f"{in_one_line(error)}; {line}") from None
            raise
        line = run.finish()
    if not run.recording.folder.is_dir():
        raise HaustraError("; ".join([*run.unreadable[:1], line]))
    return HeadlessResult(folder=run.recording.folder, numbers=run.numbers)


class _HeadlessRun:
    """A headless run, as far as it has come."""

    def __init__(self, config: ViewConfig, source: Source, detector: WatchedDetector) -> None:
        self._source, self._detector = source, detector
        self._max_frames = config.max_frames
        self._total = _num_frames(source, max_frames=config.max_frames)
        self._point = operating_point(config, detector.detector, in_time_order=source.in_time_order)
        self._started = time.monotonic()
        self.num_boxes, self.unreadable = list[int](), list[str]()
        self._verdicts = Counter[str | None]()
        self.numbers: dict[str, Any] = {}
        self.recording = Recording(
            Path(str(config.output_root)),
            stated_hz=source.frame_rate_hz if source.seekable else None,
            caption=detector.detector.caption,
        )

    def read_frames(self, progress: Progress) -> None:
        """Detect on each frame and record it, until the source ends or a live one fails."""
        alarm = AlarmFilter(self._point, frame_rate_hz=self._source.frame_rate_hz)
        numbers = count() if self._max_frames is None else range(self._max_frames)
        for number in track(
            numbers, progress=progress, description="view", total=self._total, unit="frames"
        ):
            try:
                frame = self._source.read(number)
            except SourceEndedError:
                break
            except HaustraError as error:
                self.unreadable.append(str(error))
                if self._source.seekable:
                    continue
                break
            # As in `infer`: remove overlaps among all detections, then apply the alarm filter.
            found = self._detector.detect(frame.image_rgb).without_overlaps(self._point.iou)
            shown = alarm.show_at(frame.seconds, found)
            self.recording.add(frame, shown)
            self.num_boxes.append(len(shown))
            self._verdicts[verdict_of(shown, frame.truth)] += 1

    def finish(self) -> str:
        """Complete the run folder with the frames so far, and return a line for the user."""
        if self.num_boxes:
            self.numbers = self._numbers()
        return self.recording.finish(**{NUMBERS_NAME: self.numbers})

    def _numbers(self) -> dict[str, Any]:
        num_boxes, source = self.num_boxes, self._source
        p50, p95 = np.percentile(np.array(self._detector.latencies_s) * 1000, [50, 95])
        labeled = {name: self._verdicts[name] for name in ("hit", "miss", "false", "clean")}
        return {
            "detector": self._detector.detector.caption,
            "source": source.name,
            "operating_point": self._point.to_json(),
            "unreadable": self.unreadable + source.problems(),
            "notes": source.notes(),
            "frames": len(num_boxes),
            "frames_with_boxes": sum(count > 0 for count in num_boxes),
            "boxes": sum(num_boxes),
            "frames_per_s": round(len(num_boxes) / (time.monotonic() - self._started), 2),
            "inference_p50_ms": round(float(p50), 2),
            "inference_p95_ms": round(float(p95), 2),
            "labelled_frames": labeled if any(labeled.values()) else None,
        }


def _num_frames(source: Source, *, max_frames: int | None) -> int:
    if source.seekable:
        num_frames = source.num_frames or 1
        return min(max_frames or num_frames, num_frames)
    if max_frames is None:
        raise HaustraError(
            f"{option('source', source.name)}: a live source has no end; expected "
            f"{option('max_frames')}"
        )
    return max_frames
