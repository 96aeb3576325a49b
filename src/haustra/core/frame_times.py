"""Times of a video's frames: made of time stamps, and judged. Nothing here decodes."""

from collections import deque
from collections.abc import Sequence

import numpy as np

MAX_STEP_S = 60.0  # a longer step, and one of more than 100 usual steps, is a jump of the clock
MAX_REORDERING = 16
"""Most places that a frame is stored away from its turn: the limit of H.264 and H.265."""
MAX_SHARE_OF_GAPS = 0.02
"""With a larger share of long steps, the frame rate varies and no step is a gap."""
MAX_RESAMPLED_HZ = 240.0  # highest frame rate at which a video of variable frame rate is written


class FrameClock:
    """Turns the time stamps of frames into times in seconds that rise from 0.

    Where the stamps jump back or far ahead, as in files that were joined, the times go on by the
    usual step.

    Args:
        frame_rate_hz: Frame rate to assume until time stamps show another.
    """

    def __init__(self, frame_rate_hz: float) -> None:
        self.frame_rate_hz = frame_rate_hz
        self.times_s: list[float] = []  # time of each frame so far
        self.jumps: list[int] = []  # numbers of the frames where the stamps jump
        self._offsets: deque[float] = deque(maxlen=4)
        self._steps_s: deque[float] = deque([1 / frame_rate_hz], maxlen=31)

    def add(self, stamp_s: float) -> None:
        """Add the next frame."""
        if not self.times_s:
            self._offsets.append(-stamp_s)
            self.times_s.append(0.0)
            return
        usual_s = float(np.median(self._steps_s))
        steps = [stamp_s + offset - self.times_s[-1] for offset in self._offsets]
        step = min((s for s in steps if 0 < s <= longest_step(usual_s)), default=None)
        if step is None:
            self.jumps.append(len(self.times_s))
            step = usual_s
            self._offsets.append(self.times_s[-1] + step - stamp_s)
        if len(self.times_s) == 1:
            self._steps_s.clear()
        self._steps_s.append(step)
        self.times_s.append(self.times_s[-1] + step)

    def notes(self) -> list[str]:
        """Return what is odd about the times, one sentence each."""
        if len(self.times_s) > 1 and len(self.jumps) == len(self.times_s) - 1:
            return [f"no time stamps: {self.frame_rate_hz:.6g} frames/s are assumed"]
        notes, jumps, last = [], list(self.jumps), len(self.times_s) - 1
        while jumps and jumps[-1] == last:  # decoders give the last frames without a stamp
            jumps, last = jumps[:-1], last - 1
        if jumps:
            shown = ", ".join(map(str, jumps[:3])) + (", ..." if jumps[3:] else "")
            notes.append(
                f"its time stamps jump at frame {shown}: there the times go on by the usual step"
            )
        steps = np.diff(self.times_s)
        usual = float(np.median(steps)) if len(steps) else 0.0
        gaps = np.flatnonzero(steps > 1.5 * usual)
        if 0 < len(gaps) <= max(1, MAX_SHARE_OF_GAPS * len(steps)) and len(steps) >= 10:
            notes.append(
                f"frames are {usual:.3g} s apart, but {steps[gaps[0]]:.3g} s after frame {gaps[0]}"
                f"{f' ({len(gaps)} such steps)' if len(gaps) > 1 else ''}: some may be missing"
            )
        return notes


def longest_step(usual_s: float) -> float:
    """Return the longest step that is not a jump of the clock."""
    return max(MAX_STEP_S, 100 * usual_s)


def stamps_in_order(stamps_s: Sequence[float], *, known: Sequence[float]) -> list[float] | None:
    """Return the time stamps of frames, as stored, in the order of display.

    Args:
        stamps_s: One per stored frame, from the first one that needs no other.
        known: Stamps of the first frames, as decoded.

    Returns:
        The stamps; None where they do not number the frames.
    """
    # Frames that are shown before the first one need others that are not there.
    stamps = np.array([s for s in stamps_s if s >= stamps_s[0]])
    order = np.argsort(stamps, kind="stable")
    ordered = stamps[order]
    steps = np.diff(ordered)
    if len(steps) and (steps.min() <= 0 or steps.max() > longest_step(float(np.median(steps)))):
        return None
    moved = np.abs(order - np.arange(len(order))).max(initial=0)
    if moved > MAX_REORDERING or len(ordered) < len(known):
        return None
    agree = np.abs(ordered[: len(known)] - known).max() < 0.001
    return [float(s) for s in ordered] if agree else None


def constant_rate(times_s: Sequence[float], *, stated_hz: float) -> float | None:
    """Return the rate that all times follow to half a frame, best the stated one, or None."""
    if len(times_s) < 2:
        return stated_hz
    times = np.array(times_s)
    for rate in (stated_hz, (len(times) - 1) / times[-1]):
        if np.abs(times * rate - np.arange(len(times))).max() < 0.5:
            return float(rate)
    return None


def output_rate(times_s: Sequence[float], *, stated_hz: float) -> float:
    """Return the constant frame rate at which to show frames of these times.

    Where the rate varies, that of the fastest stretch, so that few frames are shown late.
    """
    rate = constant_rate(times_s, stated_hz=stated_hz)
    if rate is not None:
        return rate
    steps = np.diff(times_s)
    fast = np.percentile(steps, 5)
    return min(MAX_RESAMPLED_HZ, 1 / float(np.mean(steps[np.abs(steps - fast) < 0.1 * fast])))
