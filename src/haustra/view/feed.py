"""The feed: runs the detectors on the newest frame, and publishes frame and boxes together.

One thread does all of it, so that a box always belongs to the frame that it is shown on. Nothing
queues: a frame that arrives while the detectors work is replaced by the next one. What is published
stays until something newer is, and any number of pages read it.

An error of any kind becomes the state that the pages show; the thread goes on, and carries out
commands.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from haustra.captures.sources import Source, SourceFrame
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.images import encode_jpeg
from haustra.core.operating_point import OperatingPoint
from haustra.core.paths import StrPath, to_path
from haustra.view.history import History, SeenFrame, Verdict
from haustra.view.players import LivePlayer, SeekingPlayer
from haustra.view.recording import Recording
from haustra.view.simulator_source import SimulatorSource
from haustra.view.state import FeedState, in_one_line
from haustra.view.watched_detector import WatchedDetector

MAX_WAIT_S = 0.05  # longest pause between two checks for changed weights
MAX_LIVE_FRAMES = 3000  # number of frames of a live source that are kept
MAX_NOTICES = 20
STOP_TIMEOUT_S = 10.0
RATE_WINDOW_S = 2.0  # time over which the shown frame rate is measured
MAX_RATE_HZ = 1000
JPEG_QUALITY = 88


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """A published frame with its boxes."""

    version: int  # number of the publication, from 1
    header: dict[str, Any]  # everything that the page shows besides the image, as JSON values
    jpeg: bytes


class Feed:
    """Runs detectors on a source and publishes each frame with its boxes.

    Args:
        source: Source of the frames; the feed closes it.
    """

    def __init__(
        self,
        source: Source,
        detectors: list[WatchedDetector],
        *,
        point: OperatingPoint,
        recordings: StrPath,
    ) -> None:
        self.source, self.detectors = source, detectors
        self.shot: Shot | None = None  # the latest publication
        self._point = point
        self._history = History(
            point,
            num_detectors=len(detectors),
            limit=None if source.seekable else MAX_LIVE_FRAMES,
            frame_rate_hz=source.frame_rate_hz,
        )
        self._lock = threading.Lock()  # held while the history or the commands change
        self._woken = threading.Event()
        self._simulator = source if isinstance(source, SimulatorSource) else None
        self._recordings = to_path(recordings)
        self._recording: Recording | None = None
        self._commands: deque[dict[str, Any]] = deque()
        self._listeners: list[Callable[[], None]] = []
        self._notices: tuple[dict[str, Any], ...] = ()
        self._num_notices = 0
        self._failure: str | None = None
        """Error that stopped the feed, until the user plays it again or the weights change."""
        self._unreadable: str | None = None  # error of the latest frame, if it could not be read
        self._shown_at: deque[float] = deque(maxlen=MAX_RATE_HZ * round(RATE_WINDOW_S))
        self._frame: SourceFrame | None = None
        self._jpeg = b""
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

        self._player: SeekingPlayer | LivePlayer | None = None

    # Called by other threads.

    def start(self) -> None:
        """Begin to play the source."""
        self._player = (
            SeekingPlayer(self.source)
            if self.source.seekable
            else LivePlayer(self.source, on_change=self._woken.set)
        )
        self._thread.start()

    def state(self) -> dict[str, Any]:
        """Return the state of the feed, with its source and notices, as JSON values."""
        if self._failure is not None:
            state = FeedState(kind="failed", why=self._failure)
        elif self._thread.is_alive():
            state = self._playing().state()
        else:
            state = FeedState(kind="ended", why="the feed does not run")
        if state.kind == "stalled" and self._unreadable:
            state = replace(state, why=self._unreadable)
        return {
            **state.to_json(is_live=not self.source.seekable),
            "source": self.source.name,
            "notices": list(self._notices),
        }

    def stop(self) -> None:
        """End, and finish a recording."""
        self._is_stopping = True
        self._woken.set()
        self._thread.join(timeout=STOP_TIMEOUT_S)
        if (recording := self._recording) is not None:  # the source or the detector hangs
            recording.finish()

    def command(self, command: dict[str, Any]) -> None:
        """Carry out a page's checked command before the next frame.

        Two commands of one kind that follow each other become one. So a slider that is dragged or a
        key that repeats does not queue, however slow the detectors are.
        """
        with self._lock:
            last = self._commands.pop() if self._commands else None
            self._commands.extend(_merged(last, command))
        self._woken.set()

    @property
    def num_waiting_commands(self) -> int:
        """Number of commands that are not yet carried out."""
        return len(self._commands)

    def listen(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each publication, in the feed's thread."""
        self._listeners.append(callback)

    def timeline(self) -> dict[str, Any]:
        """Return the history's columns and the source's number of frames as JSON values."""
        with self._lock:
            columns = self._history.timeline()
        return {"num_frames": self.source.num_frames, **columns}

    # The feed's thread.

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - the state shows it
                    self._fail(error)
                    self._woken.wait(MAX_WAIT_S)
        finally:
            self._stop_recording()
            self._playing().close()

    def _turn(self) -> None:
        """Carry out commands, and show the frame that is due."""
        self._woken.clear()
        player, frame = self._playing(), None
        changed = self._carry_out_commands() | self._reload_detectors()
        if not self.source.seekable and player.state().kind in ("ended", "failed"):
            self._stop_recording()
        try:
            frame = None if self._failure else player.next_frame()
        except HaustraError as error:
            self._unreadable = in_one_line(error)
            self._notify(error)
            changed = True
        if frame is not None:
            self._unreadable = None
            self._show(frame)
        elif changed or self._compare_again() or self._is_outdated():
            self._publish()
        else:
            wait_s = MAX_WAIT_S if self._failure else player.seconds_to_next()
            self._woken.wait(min(wait_s, MAX_WAIT_S))

    def _fail(self, error: Exception) -> None:
        """Show an error as the state, and wait for the user or for other weights."""
        if not isinstance(error, HaustraError):
            logging.getLogger(__name__).error("the feed has failed", exc_info=error)
        self._failure = in_one_line(error)
        self._playing().pause()
        self._stop_recording()

    def _playing(self) -> SeekingPlayer | LivePlayer:
        if self._player is None:
            raise AssertionError("the feed was not started")
        return self._player

    def _carry_out_commands(self) -> bool:
        """Carry out the waiting commands; return True if there were any."""
        with self._lock:
            commands = list(self._commands)
            self._commands.clear()
        player = self._playing()
        functions: dict[str, Callable[..., None]] = {
            "play": player.play,
            "pause": player.pause,
            "step": player.step,
            "seek": player.seek,
            "find": self._find,
            "set": self._set,
            "drive": lambda **axes: self._driven().drive(**axes),
            "autopilot": lambda on: self._driven().set_autopilot(on=on),
            "record": self._record,
        }
        for command in commands:
            values = {key: value for key, value in command.items() if key != "do"}
            if command["do"] in ("play", "step", "seek"):
                self._failure = None
            try:
                functions[command["do"]](**values)
            except HaustraError as error:
                self._notify(error)
        return bool(commands)

    def _reload_detectors(self) -> bool:
        """Use changed weights once they are loaded; return True if the page has to be updated."""
        has_news = False
        for detector in self.detectors:
            before = detector.detector
            if notice := detector.reload():
                has_news = True
                self._notify(notice)
            if detector.detector is not before:
                self._failure = None
                with self._lock:
                    self._history.clear()
        if has_news and self._frame is not None:
            self._detect(self._frame)
        return has_news

    def _notify(self, notice: str | HaustraError) -> None:
        """Show one line on every page."""
        text = in_one_line(notice) if isinstance(notice, HaustraError) else notice
        if self._notices and self._notices[-1]["text"] == text:
            self._notices = self._notices[:-1]  # a repeated notice does not displace others
        self._num_notices += 1
        # A new tuple, since other threads read it.
        self._notices = (*self._notices, {"id": self._num_notices, "text": text})[-MAX_NOTICES:]

    def _show(self, frame: SourceFrame) -> None:
        """Detect, publish and record."""
        self._detect(frame)
        self._frame, self._jpeg = frame, encode_jpeg(frame.image_rgb, quality=JPEG_QUALITY)
        self._shown_at.append(time.monotonic())
        self._publish()
        self._add_to_recording()

    def _detect(self, frame: SourceFrame) -> None:
        """Add a frame to the history, unless it is in it."""
        if frame.number not in self._history:
            raw = tuple(detector.detect(frame.image_rgb) for detector in self.detectors)
            with self._lock:
                seen = SeenFrame(raw=raw, truth=frame.truth, seconds=frame.seconds)
                self._history.add(frame.number, seen)

    def _is_outdated(self) -> bool:
        """Return True if the pages show a playback or a recording that is not so any more."""
        if self.shot is None:
            return False
        shown = self.shot.header["playing"], self.shot.header["recording"] is not None
        return shown != (self._playing().playing, self._recording is not None)

    def _compare_again(self) -> bool:
        with self._lock:
            return self._history.compare_again()

    def _shown(self) -> tuple[Detections, ...]:
        if self._frame is None:
            raise AssertionError("nothing is shown before the first frame")
        return self._history.shown(self._frame.number)

    def _publish(self) -> None:
        if self._frame is None:
            return
        version = self.shot.version + 1 if self.shot else 1
        header = {"version": version, **self._header(self._frame)}
        self.shot = Shot(version=version, header=header, jpeg=self._jpeg)
        for listener in self._listeners:
            listener()

    def _header(self, frame: SourceFrame) -> dict[str, Any]:
        player, point, now = self._playing(), self._point, time.monotonic()
        num_recent = sum(now - shown_at < RATE_WINDOW_S for shown_at in self._shown_at)
        return {
            "frame": frame.number,
            "num_frames": self.source.num_frames,
            "seconds": round(frame.seconds, 3),
            "captured_at": frame.captured_at,
            "source": self.source.name,
            "live": not self.source.seekable,
            "size_wh": [frame.image_rgb.shape[1], frame.image_rgb.shape[0]],
            "playing": player.playing,
            "autopilot": self._simulator.autopilot if self._simulator else None,
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
            "settings": {
                "objectness": point.objectness,
                "iou": point.iou,
                "hold_off_frames": point.hold_off_frames,
                "hysteresis": point.hysteresis,
                "speed": player.speed,
            },
            "recording": self._recording.num_frames if self._recording else None,
            "frames_per_s": round(num_recent / RATE_WINDOW_S, 1),
            "dropped": player.num_dropped,
        }

    # Commands. Each is called with the values of a command that `parse_command` has checked.

    def _find(self, verdict: Verdict, *, backward: bool = False) -> None:
        """Go to the nearest miss or false alarm, through frames that may be unseen."""
        if not self.source.seekable:
            raise HaustraError(f"{self.source.name} is live: it cannot be searched")
        player = self._playing()
        player.pause()
        start = player.position
        # Without a number of frames, the search goes as far as frames were seen.
        end = self.source.num_frames or start + 1
        numbers = range(start - 1, -1, -1) if backward else range(start + 1, end)
        tried: set[int] = set()
        for number in numbers:
            # Hold-off needs the frames before.
            for near in range(max(0, number - self._point.hold_off_frames), number + 1):
                if self._commands or self._is_stopping:
                    return  # the user has asked for something else
                if near not in tried:
                    tried.add(near)
                    self._detect_unseen(near)
            if number in self._history and self._history.verdict(number) == verdict:
                player.seek(number)
                return
        kind = "miss" if verdict == "miss" else "false alarm"
        self._notify(f"no {kind} {'before' if backward else 'after'} frame {start + 1}")

    def _detect_unseen(self, number: int) -> None:
        if number in self._history:
            return
        try:
            self._detect(self.source.read(number))
        except HaustraError as error:
            self._notify(error)

    def _set(self, *, speed: float | None = None, **values: float | None) -> None:
        if speed is not None:
            self._playing().set_speed(speed)
        self._point = self._point.changed(**values)
        with self._lock:
            self._history.apply(self._point)

    def _driven(self) -> SimulatorSource:
        if self._simulator is None:
            raise HaustraError(f"{self.source.name} cannot be driven; --source simulator can")
        return self._simulator

    def _record(self, *, on: bool) -> None:
        if not on:
            self._stop_recording()
        elif self._recording is None:
            try:
                self._recording = Recording(
                    self._recordings,
                    stated_hz=self.source.frame_rate_hz if self.source.seekable else None,
                    caption=self.detectors[0].detector.caption,
                )
            except OSError as error:
                self._notify(f"cannot record: {in_one_line(error)}")
            self._add_to_recording()

    def _add_to_recording(self) -> None:
        """Record the shown frame; an error, such as a full disk, ends the recording alone."""
        if self._recording is None or self._frame is None:
            return
        try:
            self._recording.add(self._frame, self._shown()[0])
        except Exception as error:  # noqa: BLE001 - the pages show it
            self._stop_recording(f"recording has stopped ({in_one_line(error)}); ")

    def _stop_recording(self, reason: str = "") -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            self._notify(reason + recording.finish())


def _merged(first: dict[str, Any] | None, second: dict[str, Any]) -> list[dict[str, Any]]:
    """Return two commands as one, where the second makes the first needless."""
    if first is None:
        return [second]
    if first["do"] != second["do"]:
        return [first, second]
    if second["do"] in ("set", "drive"):
        return [first | second]
    if second["do"] == "step":
        return [{"do": "step", "by": first["by"] + second["by"]}]
    return [second]
