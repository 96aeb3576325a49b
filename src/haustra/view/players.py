"""Playing a source: which frame is shown next, and when.

A `SeekingPlayer` follows a clock through frames that stay where they are. A `LivePlayer` reads the
source in a thread, keeps the newest frame and drops the others; it opens a camera or stream again
that fails. `next_frame` never waits for a frame to become due. `state` may be called at any time
from any thread.
"""

import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from haustra.captures.sources import Source, SourceEndedError, SourceFrame
from haustra.core.errors import HaustraError
from haustra.view.state import STALLED_AFTER_S, FeedState, in_one_line

CLOSE_TIMEOUT_S = 5.0
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
"""Wait before the first attempt to open a source again, which doubles up to the longest."""


class SeekingPlayer:
    """Plays a source whose frames can be read in any order, each at its own time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._times_s = source.index() or []
        if source.frame_rate_hz is None:
            raise AssertionError("a seekable source has a frame rate")
        self._frame_rate_hz = source.frame_rate_hz
        self._is_wanted, self._has_ended = False, False
        self._restart_clock(0)
        self._expected_at = time.monotonic()  # time at which a frame has to be shown next
        self.playing = True
        self.position = -1  # number of the frame that was read last or is wanted next
        self.speed = 1.0
        self.num_dropped = 0  # number of frames that were passed over

    def next_frame(self) -> SourceFrame | None:
        """Return the frame that is wanted or due now; None if there is none."""
        if self._is_wanted:
            self._is_wanted = False
            frame = self._read_up_to(self.position)
            self._expected_at = self._due_at(self.position + 1)
            return frame
        due = self._due()
        if not self.playing or due <= self.position:
            return None
        before = self.position
        frame = self._read_up_to(due)
        self._expected_at = self._due_at(self.position + 1)
        if frame.number == before:  # the last one, which was shown
            return None
        if before >= 0:
            self.num_dropped += frame.number - before - 1
        return replace(frame, captured_at=self._due_at(frame.number))

    def state(self) -> FeedState:
        """Return the state of the playback."""
        if self._has_ended:
            return FeedState(kind="ended")
        if not self.playing:
            return FeedState(kind="paused")
        late_s = time.monotonic() - self._expected_at
        if late_s > STALLED_AFTER_S:
            return FeedState(kind="stalled", seconds=int(late_s))
        return FeedState(kind="playing")

    def seconds_to_next(self) -> float:
        """Return the time until the next frame is due."""
        return max(0.0, self._due_at(self.position + 1) - time.monotonic())

    def play(self) -> None:
        """Go on playing; from the last frame, begin again."""
        if self.position >= self._last:
            self.position = -1
        self._restart_clock(self.position + 1)
        self._expected_at = self._started_at
        self._has_ended, self.playing = False, True

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
        self._expected_at, self._has_ended = self._started_at, False

    def set_speed(self, speed: float) -> None:
        """Change the playback speed; 1 is the source's own."""
        self.speed = speed
        self._restart_clock(self.position + 1)
        self._expected_at = self._started_at

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _read_up_to(self, number: int) -> SourceFrame:
        """Return a frame; after the end, which only reading shows, the last one, and stop."""
        self.position = number
        try:
            return self._source.read(number)
        except SourceEndedError:
            self._has_ended, self.playing, self.position = self.playing, False, max(0, self._last)
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
    frames are dropped. A source that reconnects is opened again after an error, with growing waits
    between the attempts; any other one, and one that has ended, when the user plays it.

    A command that it cannot follow raises `HaustraError` and changes nothing.

    Args:
        source: A source that is not seekable.
        on_change: Called in the reading thread when a frame has arrived or the state has changed.
    """

    speed = 1.0

    def __init__(self, source: Source, *, on_change: Callable[[], None]) -> None:
        self._source, self._on_change = source, on_change
        self._changed = threading.Condition()
        self._newest: SourceFrame | None = None
        self._trouble: FeedState | None = None
        """State of a source that gives no frames, until one arrives."""
        self._next_try_at = 0.0
        self._num_attempts = 0
        self._num_read = 0
        self._num_steps = 0  # number of frames that are still to be shown while paused
        self._is_wanted, self._is_closed = False, False
        self._arrived_at = self._shown_at = time.monotonic()
        self.playing = True
        self.position = -1  # number of the frame that was returned last
        self.num_dropped = 0  # number of frames that were replaced by a newer one
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    def next_frame(self) -> SourceFrame | None:
        """Return the newest frame if it was not returned before."""
        with self._changed:
            if self._newest is None or not (self.playing or self._num_steps):
                return None
            frame, self._newest = self._newest, None
            self.position, self._shown_at = frame.number, time.monotonic()
            if not self.playing:
                self._num_steps -= 1
                # A frame that waited for this step is not late.
                frame = replace(frame, captured_at=time.monotonic())
            self._changed.notify_all()
            return frame

    def state(self) -> FeedState:
        """Return the state of the source and of the playback."""
        now, trouble = time.monotonic(), self._trouble
        if trouble is not None:
            wait_s = None if trouble.attempt is None else max(0, round(self._next_try_at - now))
            return replace(trouble, next_try_s=wait_s)
        if not self.playing:
            return FeedState(kind="paused")
        # A source that cannot pause sends frames at any time, not only from `play` on.
        since = min(self._shown_at, self._shown_at if self._source.pausable else self._arrived_at)
        usual_s = 1 / self._source.frame_rate_hz if self._source.frame_rate_hz else 0.0
        if now - since > STALLED_AFTER_S + usual_s:
            return FeedState(kind="stalled", seconds=int(now - since))
        return FeedState(kind="playing")

    def seconds_to_next(self) -> float:
        """Return infinity, since `on_change` reports the next frame."""
        return float("inf")

    def play(self) -> None:
        """Show frames as they arrive; open a source again that has ended or failed."""
        with self._changed:
            self._is_wanted = self._trouble is not None
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
            self._shown_at = time.monotonic()
            self._changed.notify_all()

    def _may_read(self) -> bool:
        is_wanted = self.playing or (self._num_steps > 0 and self._newest is None)
        return self._is_closed or is_wanted or not self._source.pausable

    def _run(self) -> None:
        with self._source:
            while not self._is_closed:
                try:
                    self._read_frames()
                except Exception as error:  # noqa: BLE001 - the state shows it
                    self._recover(error)

    def _read_frames(self) -> None:
        due = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(self._may_read)
                if self._is_closed:
                    return
            frame = self._source.read(self._num_read)
            with self._changed:
                self._num_read += 1
                self.num_dropped += self._newest is not None and self.playing
                self._newest, self._trouble, self._num_attempts = frame, None, 0
                self._arrived_at = time.monotonic()
            self._on_change()
            if self._source.frame_rate_hz:
                period_s, now = 1 / self._source.frame_rate_hz, time.monotonic()
                due = max(due + period_s, now - period_s)
                time.sleep(max(0.0, due - now))

    def _recover(self, error: Exception) -> None:
        """Open the source again: by itself after a while, or when the user plays it."""
        while True:
            has_ended = isinstance(error, SourceEndedError)
            if self._source.reconnects and not has_ended:
                wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**self._num_attempts)
                self._num_attempts += 1
                self._next_try_at = time.monotonic() + wait_s
                trouble = FeedState(
                    kind="reconnecting", attempt=self._num_attempts, why=in_one_line(error)
                )
            elif has_ended:
                wait_s, trouble = None, FeedState(kind="ended")
            else:
                wait_s, trouble = None, FeedState(kind="failed", why=in_one_line(error))
            with self._changed:
                self._trouble = trouble
                self.playing = self.playing and wait_s is not None
            self._on_change()
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._is_wanted, wait_s)
                self._is_wanted = False
                if self._is_closed:
                    return
            try:
                self._source.reopen()
            except Exception as again:  # noqa: BLE001 - the state shows it
                error = again
            else:
                return
