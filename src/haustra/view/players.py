"""Playing a source: which frame is shown next, and when.

A `SeekingPlayer` follows a clock through frames that stay where they are. A `LivePlayer` reads the
source in a thread, keeps the newest frame and drops the others. `next_frame` never waits for a
frame to become due.
"""

import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from haustra.captures.sources import Source, SourceEndedError, SourceFrame
from haustra.core.errors import HaustraError

CLOSE_TIMEOUT_S = 5.0


class SeekingPlayer:
    """Plays a source whose frames can be read in any order, each at its own time.

    Args:
        source: A seekable source.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._times_s = source.index() or []
        if source.frame_rate_hz is None:
            raise AssertionError("a seekable source has a frame rate")
        self._frame_rate_hz = source.frame_rate_hz
        self._is_wanted = False
        self._restart_clock(0)
        self.playing = True
        self.position = -1
        """Number of the frame that was read last or is wanted next."""
        self.speed = 1.0
        self.num_dropped = 0
        """Number of frames that were passed over."""

    def next_frame(self) -> SourceFrame | None:
        """Return the frame that is wanted or due now; None if there is none.

        Raises:
            HaustraError: The frame cannot be read.
        """
        if self._is_wanted:
            self._is_wanted = False
            return self._read_up_to(self.position)
        due = self._due()
        if not self.playing or due <= self.position:
            return None
        before = self.position
        frame = self._read_up_to(due)
        if frame.number == before:  # the last one, which was shown
            return None
        if before >= 0:
            self.num_dropped += frame.number - before - 1
        return replace(frame, captured_at=self._due_at(frame.number))

    def seconds_to_next(self) -> float:
        """Return the time until the next frame is due."""
        return max(0.0, self._due_at(self.position + 1) - time.monotonic())

    def play(self) -> None:
        """Go on playing; from the last frame, begin again."""
        if self.position >= self._last:
            self.position = -1
        self.playing = True
        self._restart_clock(self.position + 1)

    def pause(self) -> None:
        """Stop playing."""
        self.playing = False

    def step(self, by: int) -> None:
        """Pause, and show the frame `by` frames further on or, below 0, back."""
        self.pause()
        self.seek(self.position + by)

    def seek(self, frame: int) -> None:
        """Show frame number `frame` or, if it does not exist, the first or last one."""
        self.position, self._is_wanted = min(max(frame, 0), self._last), True
        self._restart_clock(self.position)

    def set_speed(self, speed: float) -> None:
        """Change the playback speed; 1 is the source's own."""
        self.speed = speed
        self._restart_clock(self.position + 1)

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _read_up_to(self, number: int) -> SourceFrame:
        """Return a frame; after the end, which only reading shows, the last one, and stop."""
        self.position = number
        try:
            return self._source.read(number)
        except SourceEndedError:
            self.playing, self.position = False, max(0, self._last)
            return self._source.read(self.position)

    def _restart_clock(self, frame: int) -> None:
        self._first_frame, self._started_at = frame, time.monotonic()

    def _due(self) -> int:
        elapsed_s = time.monotonic() - self._started_at
        wanted_s = self._seconds(self._first_frame) + elapsed_s * self.speed
        if self._times_s:
            is_over = wanted_s >= self._times_s[-1] + 1 / self._frame_rate_hz
            return len(self._times_s) if is_over else bisect_right(self._times_s, wanted_s) - 1
        return int(wanted_s * self._frame_rate_hz + 1e-6)

    def _due_at(self, frame: int) -> float:
        wait_s = self._seconds(frame) - self._seconds(self._first_frame)
        return self._started_at + wait_s / self.speed

    def _seconds(self, frame: int) -> float:
        """Return the time of a frame since the first one."""
        if frame < len(self._times_s):
            return self._times_s[frame]
        return frame / self._frame_rate_hz

    @property
    def _last(self) -> int:
        """Number of the last frame, as far as known."""
        return sys.maxsize if self._source.num_frames is None else self._source.num_frames - 1


class LivePlayer:
    """Reads a live source in a thread of its own.

    While paused, a pausable source makes a frame for each step. Any other source goes on, and its
    frames are dropped.

    A command that it cannot follow raises `HaustraError` and changes nothing.

    Args:
        source: A source that is not seekable.
        on_change: Called in the reading thread when a frame has arrived or the source has ended.
    """

    speed = 1.0

    def __init__(self, source: Source, *, on_change: Callable[[], None]) -> None:
        self._source, self._on_change = source, on_change
        self._changed = threading.Condition()
        self._newest: SourceFrame | None = None
        self._error: HaustraError | None = None
        self._num_steps = 0
        """Number of frames that are still to be shown while paused."""
        self._has_ended, self._is_closed = False, False
        self.playing = True
        self.position = -1
        """Number of the frame that was returned last."""
        self.num_dropped = 0
        """Number of frames that were replaced by a newer one."""
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    def next_frame(self) -> SourceFrame | None:
        """Return the newest frame if it was not returned before.

        Raises:
            HaustraError: The source has ended.
        """
        with self._changed:
            if self._newest is None and self._error is not None:
                error, self._error = self._error, None
                self.playing = False
                raise error
            if self._newest is None or not (self.playing or self._num_steps):
                return None
            frame, self._newest = self._newest, None
            self.position = frame.number
            if not self.playing:
                self._num_steps -= 1
                # A frame that waited for this step is not late.
                frame = replace(frame, captured_at=time.monotonic())
            self._changed.notify_all()
            return frame

    def seconds_to_next(self) -> float:
        """Return infinity, since `on_change` reports the next frame."""
        return float("inf")

    def play(self) -> None:
        """Show frames as they arrive, unless the source has ended."""
        if self._has_ended:
            raise HaustraError(f"{self._source.name} has ended")
        self._set_playing(playing=True)

    def pause(self) -> None:
        """Keep the frame that is shown."""
        self._set_playing(playing=False)

    def step(self, by: int) -> None:
        """Pause, and show `by` further frames; below 0, refuse."""
        if by < 0:
            self.seek(self.position + by)
        if self.playing:
            self.pause()
        with self._changed:
            self._num_steps += by
            self._changed.notify_all()

    def seek(self, frame: int) -> None:
        """Refuse to jump."""
        del frame
        raise HaustraError(f"{self._source.name} is live: it cannot go back")

    def set_speed(self, speed: float) -> None:
        """Change nothing, since a live source has its own speed."""

    def close(self) -> None:
        """End the thread, which closes the source."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout=CLOSE_TIMEOUT_S)

    def _set_playing(self, *, playing: bool) -> None:
        with self._changed:
            self.playing, self._num_steps, self._newest = playing, 0, None
            self._changed.notify_all()

    def _may_read(self) -> bool:
        is_wanted = self.playing or (self._num_steps > 0 and self._newest is None)
        return self._is_closed or is_wanted or not self._source.pausable

    def _run(self) -> None:
        number, due = 0, time.monotonic()
        with self._source:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_read)
                    if self._is_closed:
                        return
                try:
                    frame = self._source.read(number)
                except HaustraError as error:
                    self._error, self._has_ended = error, True
                    self._on_change()
                    return
                number += 1
                with self._changed:
                    self.num_dropped += self._newest is not None and self.playing
                    self._newest = frame
                self._on_change()
                if self._source.frame_rate_hz:
                    period_s, now = 1 / self._source.frame_rate_hz, time.monotonic()
                    due = max(due + period_s, now - period_s)
                    time.sleep(max(0.0, due - now))
