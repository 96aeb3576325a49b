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
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress, track
from haustra.inference.detector import Detector, open_detector
from haustra.inference.heuristic import heuristic_detector
from haustra.view.config import ViewConfig
from haustra.view.history import verdict_of
from haustra.view.recording import recording_run
from haustra.view.simulator_source import open_source
from haustra.view.watched_detector import WatchedDetector

NUMBERS_NAME = "numbers.json"


def open_detectors(config: ViewConfig) -> list[WatchedDetector]:
    """Open the detector, and the one to compare with it.

    Raises:
        HaustraError: Weights do not load.
        MissingExtraError: A package that runs them is not installed.
    """
    if config.detector_weights is None:
        return [WatchedDetector(heuristic_detector, path=None)]

    def watched(path: Path) -> WatchedDetector:
        kind = config.model if path != config.compare else None
        return WatchedDetector(
            lambda: open_detector(path, kind=kind, backend=config.backend), path=path
        )

    paths = [config.detector_weights, *([config.compare] if config.compare else [])]
    return [watched(path) for path in paths]


def operating_point(
    config: ViewConfig, detector: Detector, *, in_time_order: bool
) -> OperatingPoint:
    """Return the detector's own operating point with the user's thresholds applied."""
    point = detector.operating_point
    point = point if in_time_order else point.for_single_images()
    return point.with_flags(
        objectness=config.infer_obj_thresh,
        iou=config.infer_iou_thresh,
        hold_off_frames=config.infer_hold_off,
    )


@dataclass(frozen=True, kw_only=True)
class HeadlessResult:
    """Outcome of a headless run."""

    folder: Path
    """The run folder."""
    numbers: dict[str, Any]
    """JSON values, which are also in the folder's numbers.json."""


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
    caption, unreadable = detector.detector.caption, list[str]()
    num_boxes, verdicts = list[int](), Counter[str | None]()
    with (
        open_source(config.source, size_px=config.size) as source,
        recording_run(
            config.output_root,
            frame_rate_hz=_frame_rate(source),
            caption=caption,
        ) as recording,
    ):
        point = operating_point(config, detector.detector, in_time_order=source.in_time_order)
        alarm = AlarmFilter(point)
        total, started = _num_frames(source, max_frames=config.max_frames), time.monotonic()
        positions = count() if config.max_frames is None else range(config.max_frames)
        for number in track(
            positions,
            progress=progress or SilentProgress(),
            description="view",
            total=total,
            unit="frames",
        ):
            try:
                frame = source.read(number)
            except SourceEndedError:
                break
            except HaustraError as error:
                if not source.seekable:
                    raise
                unreadable.append(str(error))
                continue
            # As in `infer`: remove overlaps among all detections, then apply the alarm filter.
            shown = alarm.show(detector.detect(frame.image_rgb).without_overlaps(point.iou))
            recording.add(frame, shown)
            num_boxes.append(len(shown))
            verdicts[verdict_of(shown, frame.truth)] += 1
        if not num_boxes:
            raise HaustraError(unreadable[0])
        p50, p95 = np.percentile(np.array(detector.latencies_s) * 1000, [50, 95])
        labeled = {name: verdicts[name] for name in ("hit", "miss", "false", "clean")}
        numbers = {
            "detector": caption,
            "source": source.name,
            "operating_point": point.to_json(),
            "unreadable": unreadable + source.problems(),
            "notes": source.notes(),
            "frames": len(num_boxes),
            "frames_with_boxes": sum(count > 0 for count in num_boxes),
            "boxes": sum(num_boxes),
            "frames_per_s": round(len(num_boxes) / (time.monotonic() - started), 2),
            "inference_p50_ms": round(float(p50), 2),
            "inference_p95_ms": round(float(p95), 2),
            "labelled_frames": labeled if any(labeled.values()) else None,
        }
        recording.add_file(NUMBERS_NAME, value=numbers)
    return HeadlessResult(folder=recording.folder, numbers=numbers)


def _frame_rate(source: Source) -> float | None:
    source.index()  # which finds the true rate of a video
    return source.frame_rate_hz if source.seekable else None


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
