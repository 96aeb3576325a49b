"""`haustra view`: opens what it needs; the headless run. The page is in `haustra.view.server`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haustra.captures.sources import SourceFrame
from haustra.core.errors import HaustraError
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.core.progress import Progress, SilentProgress
from haustra.inference.detector import open_detector
from haustra.inference.heuristic import HeuristicDetector
from haustra.inference.image_detector import ImageDetector, TrainedDetector
from haustra.view.config import ViewConfig
from haustra.view.feed import WatchedDetector, verdict_of
from haustra.view.recording import Recorder
from haustra.view.sources import LiveSource, Source, open_source

DEFAULT_RECORDINGS = Path("recordings")
NUMBERS_NAME = "numbers.json"


def open_detectors(config: ViewConfig) -> list[WatchedDetector]:
    """Open the detector, and the one to compare with it.

    Raises:
        HaustraError: weights do not load.
        MissingExtraError: what runs them is not installed.
    """
    if config.detector_weights is None:
        return [WatchedDetector(HeuristicDetector, path=None)]

    def watched(path: Path) -> WatchedDetector:
        def load() -> ImageDetector:
            kind = config.model if path != config.compare else None
            return open_detector(path, kind=kind, backend=config.backend)

        return WatchedDetector(load, path=path)

    paths = [config.detector_weights, *([config.compare] if config.compare else [])]
    return [watched(path) for path in paths]


def operating_point(config: ViewConfig, detector: ImageDetector) -> OperatingPoint:
    """Return the detector's own operating point with what the flags put in its place."""
    point = OperatingPoint()
    if isinstance(detector, TrainedDetector):
        point = detector.operating_point
    return point.with_flags(
        objectness=config.infer_obj_thresh,
        iou=config.infer_iou_thresh,
        hold_off_frames=config.infer_hold_off,
    )


@dataclass(frozen=True, kw_only=True)
class HeadlessResult:
    """What a headless run leaves behind."""

    folder: Path
    numbers: dict[str, Any]
    """As JSON values; the same are in the folder's numbers.json."""
    unreadable: list[str]
    """A line per frame that could not be read."""


def run_headless(config: ViewConfig, *, progress: Progress | None = None) -> HeadlessResult:
    """Run a detector over a source, frame after frame, and write a run folder of what it saw.

    No frame is dropped, also of a simulator; of a camera, those that pass meanwhile are.

    Raises:
        HaustraError: weights or source do not open, no frame can be read, or a source without an
            end has no --max-frames.
    """
    if config.output_root is None:
        raise AssertionError("the config asks for --output-root with --headless")
    [detector] = open_detectors(config)
    point = operating_point(config, detector.detector)
    source = open_source(config.source, size_px=config.size)
    total = config.max_frames
    if isinstance(source, LiveSource):
        if total is None:
            source.close()
            raise HaustraError(f"--source {source.name}: it has no end; expected --max-frames")
    else:
        total = min(total or source.num_frames, source.num_frames)
    recorder = Recorder(config.output_root)
    alarm, seen = AlarmFilter(point), _Seen()
    unreadable: list[str] = []
    progress = progress or SilentProgress()
    recorder.begin(
        frame_rate_hz=getattr(source, "frame_rate_hz", None), caption=detector.detector.caption
    )
    progress.start("view", total=total)
    try:
        for count, frame in enumerate(_frames(source, total=total), start=1):
            if isinstance(frame, HaustraError):
                unreadable.append(str(frame))
                continue
            # What `infer` draws: all boxes without overlaps, then those that hold-off lets through.
            found = alarm.show(detector.detect(frame.image_rgb).without_overlaps(point.iou))
            recorder.add(frame, found)
            seen.add(num_boxes=len(found), verdict=verdict_of(found, frame.truth))
            progress.update(count)
        if not recorder.num_frames:
            raise HaustraError(unreadable[0] if unreadable else f"{source.name} gave no frame")
        numbers = {
            "detector": detector.detector.caption,
            "source": source.name,
            "operating_point": point.to_json(),
            "unreadable": unreadable,
            **seen.numbers(np.array(detector.latencies_s)),
        }
        recorder.add_file(NUMBERS_NAME, value=numbers)
        folder = recorder.finish()
    except BaseException as error:
        recorder.abandon(error)
        raise
    finally:
        progress.stop()
        if isinstance(source, LiveSource):
            source.close()
    return HeadlessResult(folder=folder, numbers=numbers, unreadable=unreadable)


def _frames(source: Source, *, total: int) -> Iterator[SourceFrame | HaustraError]:
    if isinstance(source, LiveSource):
        for number in range(total):
            yield source.grabber.read(number)
        return
    for number in range(total):
        try:
            yield source.read(number)
        except HaustraError as error:
            yield error


class _Seen:
    """Counts what a run showed."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._boxes: list[int] = []
        self._verdicts: list[str | None] = []

    def add(self, *, num_boxes: int, verdict: str | None) -> None:
        self._boxes.append(num_boxes)
        self._verdicts.append(verdict)

    def numbers(self, latencies_s: "np.ndarray[Any, Any]") -> dict[str, Any]:
        elapsed_s = time.monotonic() - self._started
        p50, p95 = np.percentile(latencies_s * 1000, [50, 95])
        labelled = [verdict for verdict in self._verdicts if verdict is not None]
        frames = {name: labelled.count(name) for name in ("hit", "miss", "false", "clean")}
        return {
            "frames": len(self._boxes),
            "frames_with_boxes": sum(count > 0 for count in self._boxes),
            "boxes": sum(self._boxes),
            "frames_per_s": round(len(self._boxes) / elapsed_s, 2),
            "inference_p50_ms": round(float(p50), 2),
            "inference_p95_ms": round(float(p95), 2),
            "labelled_frames": frames if labelled else None,
        }
