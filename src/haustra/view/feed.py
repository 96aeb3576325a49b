"""The feed: takes the newest frame, runs the detectors on it, and publishes both together.

One thread does all of it, so that a box is always of the frame that it is shown on. Nothing
queues: a frame that comes while the detectors work is replaced by the next one. What is published
stays until something newer is, and any number of pages read it.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.sources import SourceFrame
from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.inference.heuristic import HeuristicDetector
from haustra.inference.image_detector import ImageDetector
from haustra.view.recording import Recorder
from haustra.view.sources import LiveSource, SimulatorGrabber, Source

WAIT_S = 0.05
"""Longest time that the feed sleeps before it looks for commands and changed weights."""
STAMP_EVERY_S = 0.5
"""How often the file of the weights is looked at."""
RECENT = 200
"""Inferences that the shown percentiles are of."""
MAX_LIVE_FRAMES = 3000
"""Frames of a live source whose scores are kept."""
MAX_NOTICES = 20
JPEG_QUALITY = 88

Verdict = Literal["clean", "hit", "miss", "false"]


class WatchedDetector:
    """A detector whose file is loaded again when it changes.

    Args:
        load: opens the weights.
        path: their file; None for a detector without one, which never changes.
    """

    def __init__(self, load: Callable[[], ImageDetector], *, path: Path | None) -> None:
        self._load, self._path = load, path
        self._stamp = self._read_stamp()
        self._looked_at = 0.0
        self._loading: threading.Thread | None = None
        self._loaded: ImageDetector | HaustraError | None = None
        self.detector = load()
        """The one at work."""
        self.latencies_s: deque[float] = deque(maxlen=RECENT)

    def detect(self, image_rgb: NDArray[np.uint8]) -> Detections:
        """Return everything that is found on an image uint8 [H,W,3], at every score."""
        started = time.monotonic()
        found = self.detector.detect(image_rgb, objectness=0.0, iou=1.0)
        self.latencies_s.append(time.monotonic() - started)
        return found

    def reload(self) -> str | None:
        """Begin to load changed weights, or put loaded ones to work; return what to tell about it.

        Loading goes on in a thread, while the old weights work.
        """
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            if isinstance(loaded, HaustraError):
                return f"{loaded}; the weights that were loaded before go on"
            self.detector = loaded
            self.latencies_s.clear()
            return f"{self._path} has changed and was loaded"
        now = time.monotonic()
        if self._path is None or self._loading or now - self._looked_at < STAMP_EVERY_S:
            return None
        self._looked_at = now
        stamp = self._read_stamp()
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            self._loading = threading.Thread(target=self._load_again, daemon=True)
            self._loading.start()
        return None

    def _load_again(self) -> None:
        try:
            self._loaded = self._load()
        except HaustraError as error:
            self._loaded = error
        finally:
            self._loading = None

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None  # between two versions of it
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None

    def describe(self) -> dict[str, Any]:
        """Return name, file and latencies as JSON values."""
        p50, p95 = (
            np.percentile(np.array(self.latencies_s) * 1000, [50, 95])
            if self.latencies_s
            else (0.0, 0.0)
        )
        return {
            "name": self.detector.caption,
            "file": self._path.name if self._path else None,
            "heuristic": isinstance(self.detector, HeuristicDetector),
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
        }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the page's controls say."""

    point: OperatingPoint
    speed: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "objectness": self.point.objectness,
            "iou": self.point.iou,
            "hold_off_frames": self.point.hold_off_frames,
            "hysteresis": self.point.hysteresis,
            "speed": self.speed,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What is kept of a frame that was inferred."""

    raw: tuple[Detections, ...]
    """Of each detector, at every score."""
    truth: Detections | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """What is published: a frame's picture with what was found on it."""

    version: int
    header: dict[str, Any]
    header_json: str
    """The same, made once for all pages."""
    jpeg: bytes


def verdict_of(shown: Detections, truth: Detections | None) -> Verdict | None:
    """Judge a frame as the frame tier does: a shown box touches a label, or it is false.

    Returns:
        None without labels. A frame with a label and no box on it is a "miss", also where a false
        box is shown.
    """
    if truth is None:
        return None
    if not len(truth):
        return "false" if len(shown) else "clean"
    touches = iou_matrix(shown.boxes_px, truth.boxes_px) > 0
    return "hit" if touches.any() else "miss"


class History:
    """The frames that were inferred, and what each shows at the present settings.

    Hold-off and hysteresis run over the known frames in their order; frames that were dropped do
    not count.
    """

    def __init__(self, point: OperatingPoint, *, num_detectors: int, limit: int | None) -> None:
        self._point, self._num_detectors, self._limit = point, num_detectors, limit
        self._known: dict[int, Known] = {}
        self._thresholds: dict[int, tuple[float, ...]] = {}
        self._verdicts: dict[int, tuple[tuple[float, float], Verdict | None]] = {}
        self._last = -1
        self._alarms = self._new_alarms()

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def add(self, number: int, known: Known) -> None:
        """Take in a frame."""
        self._known[number] = known
        self._verdicts.pop(number, None)
        if self._limit is not None and len(self._known) > self._limit:
            oldest = next(iter(self._known))
            for values in (self._known, self._thresholds, self._verdicts):
                values.pop(oldest, None)
        if number > self._last:
            self._judge(number)
        else:
            self.judge(self._point)

    def clear(self) -> None:
        """Forget everything: other weights would say other things."""
        self._known.clear()
        self._verdicts.clear()
        self.judge(self._point)

    def judge(self, point: OperatingPoint) -> None:
        """Decide anew from which score each frame's boxes are shown."""
        self._point, self._last = point, -1
        self._alarms = self._new_alarms()
        self._thresholds = {}
        for number in sorted(self._known):
            self._judge(number)

    def shown(self, number: int) -> tuple[Detections, ...]:
        """Return what a frame shows, of each detector."""
        known = self._known[number]
        return tuple(
            raw.without_overlaps(self._point.iou).above(threshold)
            for raw, threshold in zip(known.raw, self._thresholds[number], strict=True)
        )

    def verdict(self, number: int) -> Verdict | None:
        """Judge a frame by what the first detector shows."""
        asked = (self._thresholds[number][0], self._point.iou)
        before = self._verdicts.get(number)
        if before is None or before[0] != asked:
            before = asked, verdict_of(self.shown(number)[0], self._known[number].truth)
            self._verdicts[number] = before
        return before[1]

    def timeline(self) -> dict[str, list[Any]]:
        """Return columns over the known frames: number, top score, alarm, polyp in view, verdict.

        `polyp` and `verdict` are null for frames without labels.
        """
        columns: dict[str, list[Any]] = {
            key: [] for key in ("frame", "score", "alarm", "polyp", "verdict")
        }
        for number in sorted(self._known):
            known = self._known[number]
            score = _top_score(known.raw[0]) or 0.0
            columns["frame"].append(number)
            columns["score"].append(round(score, 3))
            columns["alarm"].append(score >= self._thresholds[number][0])
            columns["polyp"].append(None if known.truth is None else bool(len(known.truth)))
            columns["verdict"].append(self.verdict(number))
        return columns

    def _new_alarms(self) -> list[AlarmFilter]:
        return [AlarmFilter(self._point) for _ in range(self._num_detectors)]

    def _judge(self, number: int) -> None:
        self._last = number
        self._thresholds[number] = tuple(
            alarm.threshold_for(_top_score(raw))
            for alarm, raw in zip(self._alarms, self._known[number].raw, strict=True)
        )


def _top_score(detections: Detections) -> float | None:
    return float(detections.scores[0]) if len(detections) else None


@dataclass(kw_only=True)
class _Clock:
    """Which frame of a recorded source is due."""

    playing: bool = True
    frame: int = 0
    since: float = field(default_factory=time.monotonic)

    def restart(self, frame: int) -> None:
        self.frame, self.since = frame, time.monotonic()

    def due(self, *, rate_hz: float) -> int:
        return self.frame + int((time.monotonic() - self.since) * rate_hz)

    def due_at(self, frame: int, *, rate_hz: float) -> float:
        return self.since + (frame - self.frame) / rate_hz


def _joined(first: dict[str, Any] | None, second: dict[str, Any]) -> list[dict[str, Any]]:
    """Return two commands as one, where the second begins where the first would end."""
    if first is None:
        return [second]
    if first["do"] != second["do"]:
        return [first, second]
    if second["do"] in ("set", "drive"):
        return [first | second]
    if second["do"] == "step":
        return [{"do": "step", "by": first["by"] + second["by"]}]
    return [second]


class Feed:
    """Runs detectors on a source and publishes each frame with its boxes.

    Args:
        source: where the frames come from; the feed closes it.
        detectors: one, or two to compare.
        point: thresholds to begin with.
        recordings: folder that recordings go to.
    """

    def __init__(
        self,
        source: Source,
        detectors: list[WatchedDetector],
        *,
        point: OperatingPoint,
        recordings: Path,
    ) -> None:
        self.source, self.detectors = source, detectors
        self._settings = Settings(point=point)
        self._history = History(
            point,
            num_detectors=len(detectors),
            limit=MAX_LIVE_FRAMES if isinstance(source, LiveSource) else None,
        )
        self._clock = _Clock()
        self._recorder = Recorder(recordings)
        self._commands: deque[dict[str, Any]] = deque()
        self._woken = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._notices: deque[tuple[int, str]] = deque(maxlen=MAX_NOTICES)
        self._num_notices = 0
        self._num_dropped = 0
        self._shown_at: deque[float] = deque(maxlen=60)
        self._position = -1
        """Number of the frame that was gone to last, of a recorded source."""
        self._steps = 0
        """Frames of a paused live source that are still asked for."""
        self._frame: SourceFrame | None = None
        self._jpeg = b""
        self._ended, self._is_stopping = False, False
        self.shot: Shot | None = None
        """What was published last."""
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    # What other threads call.

    def start(self) -> None:
        """Begin."""
        if isinstance(self.source, LiveSource):
            self.source.start()
        self._clock.restart(0)
        self._thread.start()

    def stop(self) -> None:
        """End, and finish a recording."""
        self._is_stopping = True
        self._wake()
        self._thread.join(timeout=10)

    def command(self, command: dict[str, Any]) -> None:
        """Have a checked command of a page obeyed before the next frame.

        One that the next makes needless is left out: of a slider that is drawn, of a strip that is
        scrubbed and of a key that repeats, the last place counts, however slow the detectors are.
        """
        with self._woken:
            last = self._commands.pop() if self._commands else None
            self._commands.extend(_joined(last, command))
            self._woken.notify_all()

    @property
    def num_waiting_commands(self) -> int:
        """Commands that are still to be obeyed."""
        return len(self._commands)

    def listen(self, callback: Callable[[], None]) -> None:
        """Call `callback`, in the feed's thread, after each publication."""
        self._listeners.append(callback)

    def timeline(self) -> dict[str, Any]:
        """Return the scores over time as JSON values; a copy."""
        with self._woken:
            columns = self._history.timeline()
        return {"num_frames": getattr(self.source, "num_frames", None), **columns}

    # The feed's thread.

    def _wake(self) -> None:
        with self._woken:
            self._woken.notify_all()

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                changed = self._obey()
                for detector in self.detectors:
                    told = detector.reload()
                    if told:
                        self.tell(told)
                        changed = True
                        if "was loaded" in told:
                            self._forget()
                frame = self._next_frame(wait=not changed)
                if frame is not None:
                    self._take(frame)
                elif changed:
                    self._publish()
        finally:
            self._stop_recording()
            if isinstance(self.source, LiveSource):
                self.source.close()

    def tell(self, text: str) -> None:
        """Show one line on every page."""
        self._num_notices += 1
        self._notices.append((self._num_notices, text))

    def _forget(self) -> None:
        with self._woken:
            self._history.clear()
        if self._frame is not None:
            self._infer(self._frame)

    def _next_frame(self, *, wait: bool) -> SourceFrame | None:
        source = self.source
        if isinstance(source, LiveSource):
            return self._next_live(source, wait=wait)
        if not self._clock.playing:
            if wait:
                self._sleep(WAIT_S)
            return None
        rate_hz = source.frame_rate_hz * self._settings.speed
        due = min(self._clock.due(rate_hz=rate_hz), source.num_frames - 1)
        last = self._position
        if due <= last:
            if last == source.num_frames - 1:
                self._clock.playing = False
                self._publish()
            elif wait:
                left_s = self._clock.due_at(last + 1, rate_hz=rate_hz) - time.monotonic()
                self._sleep(min(max(left_s, 0.0), WAIT_S))
            return None
        if last >= 0:
            self._num_dropped += due - last - 1
        return self._read(due, captured_at=self._clock.due_at(due, rate_hz=rate_hz))

    def _next_live(self, source: LiveSource, *, wait: bool) -> SourceFrame | None:
        if self._ended:
            if wait:
                self._sleep(WAIT_S)
            return None
        if not self._clock.playing and self._steps == 0:
            if wait:
                self._sleep(WAIT_S)
            return None
        try:
            frame = source.take(timeout_s=WAIT_S if wait else 0)
        except HaustraError as error:
            self._ended = True
            self.tell(str(error))
            self._publish()
            return None
        if frame is not None and not self._clock.playing:
            self._steps -= 1
            return replace(frame, captured_at=time.monotonic())
        return frame

    def _sleep(self, seconds: float) -> None:
        with self._woken:
            if not self._commands:
                self._woken.wait(seconds)

    def _read(self, number: int, *, captured_at: float | None = None) -> SourceFrame | None:
        """Read a frame of a recorded source; one that cannot be read is told and passed over."""
        if isinstance(self.source, LiveSource):
            raise AssertionError("a live source is not read by number")
        self._position = number
        try:
            frame = self.source.read(number)
        except HaustraError as error:
            self.tell(str(error))
            self._publish()
            return None
        return frame if captured_at is None else replace(frame, captured_at=captured_at)

    def _take(self, frame: SourceFrame) -> None:
        """Infer a frame, show it and record it."""
        self._infer(frame)
        done, jpeg = cv2.imencode(
            ".jpg",
            cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
        )
        if not done:
            raise AssertionError("OpenCV did not encode a frame as JPEG")
        self._frame, self._jpeg = frame, jpeg.tobytes()
        self._shown_at.append(time.monotonic())
        self._publish()
        if self._recorder.is_on:
            self._recorder.add(frame, self._shown()[0])

    def _infer(self, frame: SourceFrame) -> None:
        if frame.number in self._history and not isinstance(self.source, LiveSource):
            return
        raw = tuple(detector.detect(frame.image_rgb) for detector in self.detectors)
        with self._woken:
            self._history.add(frame.number, Known(raw=raw, truth=frame.truth))

    def _shown(self) -> tuple[Detections, ...]:
        if self._frame is None:
            raise AssertionError("nothing is shown before the first frame")
        return self._history.shown(self._frame.number)

    def _publish(self) -> None:
        frame = self._frame
        if frame is None:
            return
        now = time.monotonic()
        recent = [at for at in self._shown_at if now - at < 2.0]
        is_live = isinstance(self.source, LiveSource)
        grabber = self.source.grabber if isinstance(self.source, LiveSource) else None
        header: dict[str, Any] = {
            "frame": frame.number,
            "num_frames": None if isinstance(self.source, LiveSource) else self.source.num_frames,
            "seconds": round(frame.seconds, 3),
            "source": self.source.name,
            "live": is_live,
            "size_wh": [frame.image_rgb.shape[1], frame.image_rgb.shape[0]],
            "playing": self._clock.playing,
            "autopilot": grabber.autopilot if isinstance(grabber, SimulatorGrabber) else None,
            "detectors": [
                {
                    **detector.describe(),
                    "boxes_px": found.boxes_px.round(2).tolist(),
                    "scores": found.scores.round(4).tolist(),
                }
                for detector, found in zip(self.detectors, self._shown(), strict=True)
            ],
            "truth_px": None if frame.truth is None else frame.truth.boxes_px.tolist(),
            "verdict": self._history.verdict(frame.number),
            "settings": self._settings.to_json(),
            "recording": self._recorder.num_frames if self._recorder.is_on else None,
            "frames_per_s": round(len(recent) / 2.0, 1),
            "dropped": self._num_dropped + getattr(self.source, "num_dropped", 0),
            "notices": [{"id": number, "text": text} for number, text in self._notices],
        }
        version = self.shot.version + 1 if self.shot else 1
        header |= {"version": version, "captured_at": frame.captured_at}
        self.shot = Shot(
            version=version, header=header, header_json=json.dumps(header), jpeg=self._jpeg
        )
        for listener in self._listeners:
            listener()

    # Commands.

    def _obey(self) -> bool:
        """Do what the pages asked for; tell whether anything was."""
        with self._woken:
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            try:
                getattr(self, f"_do_{command['do']}")(
                    **{key: value for key, value in command.items() if key != "do"}
                )
            except HaustraError as error:
                self.tell(str(error))
        return bool(commands)

    def _do_play(self) -> None:
        if isinstance(self.source, LiveSource):
            self.source.pause(paused=False)
        elif self._position >= self.source.num_frames - 1:
            self._position = -1  # from the end it begins again
        self._steps, self._clock.playing = 0, True
        self._clock.restart(self._position + 1)

    def _do_pause(self) -> None:
        self._clock.playing = False
        if isinstance(self.source, LiveSource):
            self.source.pause(paused=True)

    def _do_step(self, by: int) -> None:
        self._do_pause()
        if isinstance(self.source, LiveSource):
            if by < 0:
                raise HaustraError(f"{self.source.name} is live: it cannot go back")
            self._steps += by
            self.source.step(by)
        else:
            self._go(self._position + by)

    def _do_seek(self, frame: int) -> None:
        if isinstance(self.source, LiveSource):
            raise HaustraError(f"{self.source.name} is live: it cannot go back")
        self._go(frame)

    def _go(self, number: int) -> None:
        if isinstance(self.source, LiveSource):
            raise AssertionError("a live source has no place to go to")
        number = min(max(number, 0), self.source.num_frames - 1)
        frame = self._read(number)
        if frame is not None:
            self._take(frame)
            self._clock.restart(number)

    def _do_find(self, verdict: Verdict) -> None:
        """Go to the next miss or false alarm, through frames that nobody has seen yet."""
        self._do_pause()
        if isinstance(self.source, LiveSource):
            raise HaustraError(f"{self.source.name} is live: it cannot be searched")
        start = self._position
        for number in range(start + 1, self.source.num_frames):
            if self._commands or self._is_stopping:
                return  # whoever waits for it has changed their mind
            if number not in self._history:
                try:
                    self._infer(self.source.read(number))
                except HaustraError as error:
                    self.tell(str(error))
                    continue
            if self._history.verdict(number) == verdict:
                self._go(number)
                return
        what = "miss" if verdict == "miss" else "false alarm"
        self.tell(f"no {what} after frame {start}")

    def _do_set(self, **values: float | None) -> None:
        settings = self._settings
        if "speed" in values:
            settings = replace(settings, speed=float(values.pop("speed") or 1.0))
            self._clock.restart(self._position + 1)
        point = replace(settings.point, **values)  # type: ignore[arg-type]
        if point.hysteresis is not None and point.hysteresis > point.objectness:
            point = replace(point, hysteresis=point.objectness)
        self._settings = replace(settings, point=point)
        with self._woken:
            self._history.judge(point)

    def _do_drive(self, **values: float) -> None:
        from haustra.simulator.live import Drive

        self._simulator().drive(Drive(**values))

    def _do_autopilot(self, on: bool) -> None:  # noqa: FBT001
        self._simulator().set_autopilot(on=on)

    def _simulator(self) -> SimulatorGrabber:
        grabber = self.source.grabber if isinstance(self.source, LiveSource) else None
        if not isinstance(grabber, SimulatorGrabber):
            raise HaustraError(f"{self.source.name} cannot be driven; --source simulator can")
        return grabber

    def _do_record(self, on: bool) -> None:  # noqa: FBT001
        if not on:
            self._stop_recording()
        elif not self._recorder.is_on:
            self._recorder.begin(
                frame_rate_hz=getattr(self.source, "frame_rate_hz", None),
                caption=self.detectors[0].detector.caption,
            )
            if self._frame is not None:
                self._recorder.add(self._frame, self._shown()[0])

    def _stop_recording(self) -> None:
        if self._recorder.is_on:
            count, folder = self._recorder.num_frames, self._recorder.finish()
            self.tell(f"recorded {count} frames into {folder}")
