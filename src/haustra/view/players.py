"""Playing a source: which frame is shown next, and when.

A `SeekingPlayer` follows a clock through frames that stay where they are. A `LivePlayer` reads the
source in a thread, keeps the newest frame and drops the others. Neither waits: `next_frame` returns
at once.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from haustra.captures.sources import Source, SourceFrame
from haustra.core.errors import HaustraError

CLOSE_TIMEOUT_S = 5.0


class Player(Protocol):
    """Playback of a source."""

    source: Source
    playing: bool
    position: int
    """Number of the frame that is or will be shown; -1 before the first."""
    num_dropped: int
    """Number of frames that were replaced by a newer one before they were shown."""
    speed: float
    """Playback speed; 1 is the source's own."""

    def start(self) -> None:
        """Begin to play."""

    def close(self) -> None:
        """Stop, and close the source."""

    def next_frame(self) -> SourceFrame | None:
        """Return the frame that is to be shown now; None if none is due.

        Raises:
            HaustraError: The frame cannot be read, or a live source has ended.
        """

    def seconds_to_next(self) -> float:
        """Return the time until a frame is due; 0 if it cannot be known."""
        ...

    def play(self) -> None:
        """Go on playing."""

    def pause(self) -> None:
        """Stop playing."""

    def step(self, by: int) -> None:
        """Pause, and show the frame `by` frames further on."""

    def seek(self, number: int) -> None:
        """Show frame `number`, or the nearest one that exists."""

    def set_speed(self, speed: float) -> None:
        """Change the playback speed."""


class SeekingPlayer(Player):
    """Plays a source whose frames can be read in any order.

    Args:
        source: A seekable source.
    """

    def __init__(self, source: Source) -> None:
        if source.num_frames is None or source.frame_rate_hz is None:
            raise AssertionError("a seekable source has a number of frames and a frame rate")
        self.source, self.playing, self.position = source, True, -1
        self.num_dropped, self.speed = 0, 1.0
        self._last = source.num_frames - 1
        self._frame_rate_hz = source.frame_rate_hz
        self._wanted: int | None = None
        self._restart(0)

    def start(self) -> None:
        """Begin to play at the first frame."""
        self._restart(0)

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def next_frame(self) -> SourceFrame | None:
        """Return the frame that was asked for or is due."""
        if self._wanted is not None:
            self._wanted = None
            return self.source.read(self.position)
        if not self.playing:
            return None
        due = min(self._due(), self._last)
        if due <= self.position:
            self.playing = self.position < self._last
            return None
        if self.position >= 0:
            self.num_dropped += due - self.position - 1
        self.position = due
        return replace(self.source.read(due), captured_at=self._due_at(due))

    def seconds_to_next(self) -> float:
        """Return the time until the next frame is due."""
        return max(0.0, self._due_at(self.position + 1) - time.monotonic())

    def play(self) -> None:
        """Go on playing; from the last frame, begin again."""
        if self.position >= self._last:
            self.position = -1
        self.playing = True
        self._restart(self.position + 1)

    def pause(self) -> None:
        """Stop playing."""
        self.playing = False

    def step(self, by: int) -> None:
        """Pause, and show the frame `by` frames further on or, below 0, back."""
        self.pause()
        self.seek(self.position + by)

    def seek(self, number: int) -> None:
        """Show frame `number` next."""
        self._wanted = self.position = min(max(number, 0), self._last)
        self._restart(self.position)

    def set_speed(self, speed: float) -> None:
        """Change the playback speed from the next frame on."""
        self.speed = speed
        self._restart(self.position + 1)

    def _restart(self, frame: int) -> None:
        self._start_frame, self._started_at = frame, time.monotonic()

    def _due(self) -> int:
        elapsed_s = time.monotonic() - self._started_at
        return self._start_frame + int(elapsed_s * self._frame_rate_hz * self.speed)

    def _due_at(self, number: int) -> float:
        return self._started_at + (number - self._start_frame) / (self._frame_rate_hz * self.speed)


class LivePlayer(Player):
    """Reads a live source in a thread of its own.

    While paused, a pausable source makes a frame for each step; any other source goes on, and its
    frames are dropped.

    Args:
        source: A source that is not seekable.
        on_change: Called, in the reading thread, when a frame has arrived or the source has ended.
    """

    def __init__(self, source: Source, *, on_change: Callable[[], None]) -> None:
        self.source, self.playing, self.position = source, True, -1
        self.num_dropped, self.speed = 0, 1.0
        self._on_change = on_change
        self._changed = threading.Condition()
        self._newest: SourceFrame | None = None
        self._error: HaustraError | None = None
        self._steps = 0
        """Number of frames that are still to be shown while paused."""
        self._has_ended, self._is_closed = False, False
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, which closes the source."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_TIMEOUT_S)
        else:
            self.source.close()

    def next_frame(self) -> SourceFrame | None:
        """Return the newest frame, unless it was returned before."""
        with self._changed:
            if self._error is not None and self._newest is None:
                error, self._error = self._error, None
                self.playing = False
                raise error
            if self._newest is None or not (self.playing or self._steps):
                return None
            frame, self._newest = self._newest, None
            self.position = frame.number
            if not self.playing:
                self._steps -= 1
                # A frame that waited for this step is not late.
                frame = replace(frame, captured_at=time.monotonic())
            self._changed.notify_all()
            return frame

    def seconds_to_next(self) -> float:
        """Return infinity: `on_change` reports the next frame."""
        return float("inf")

    def play(self) -> None:
        """Show frames as they arrive."""
        if self._has_ended:
            raise HaustraError(f"{self.source.name} has ended")
        self._set_playing(playing=True)

    def pause(self) -> None:
        """Keep the frame that is shown."""
        self._set_playing(playing=False)

    def step(self, by: int) -> None:
        """Pause, and show so many further frames.

        Raises:
            HaustraError: `by` is below 0.
        """
        if by < 0:
            raise self._refusal()
        if self.playing:
            self.pause()
        with self._changed:
            self._steps += by
            self._changed.notify_all()

    def seek(self, number: int) -> None:
        """Refuse to jump.

        Raises:
            HaustraError: A live source only goes forward.
        """
        del number
        raise self._refusal()

    def set_speed(self, speed: float) -> None:
        """Change nothing: a live source has its own speed."""
        del speed

    def _refusal(self) -> HaustraError:
        return HaustraError(f"{self.source.name} is live: it cannot go back")

    def _set_playing(self, *, playing: bool) -> None:
        with self._changed:
            self.playing, self._steps, self._newest = playing, 0, None
            self._changed.notify_all()

    def _may_read(self) -> bool:
        is_wanted = self.playing or (self._steps > 0 and self._newest is None)
        return self._is_closed or is_wanted or not self.source.pausable

    def _run(self) -> None:
        number, due = 0, time.monotonic()
        with self.source:
            while True:
                with self._changed:
                    self._changed.wait_for(self._may_read)
                    if self._is_closed:
                        return
                try:
                    frame = self.source.read(number)
                except HaustraError as error:
                    with self._changed:
                        self._error, self._has_ended = error, True
                    self._on_change()
                    return
                number += 1
                with self._changed:
                    self.num_dropped += self._newest is not None and self.playing
                    self._newest = frame
                self._on_change()
                if self.source.frame_rate_hz:
                    period_s, now = 1 / self.source.frame_rate_hz, time.monotonic()
                    due = max(due + period_s, now - period_s)
                    time.sleep(max(0.0, due - now))
