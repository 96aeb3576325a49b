"""The frames that were seen, and what each shows at the present operating point.

A film of 20 minutes has 36,000 frames. So a change of the operating point is one pass over arrays,
and the comparison with the labels, of which only the overlap changes anything, is brought up to
date in parts.
"""

import math
import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.operating_point import AlarmFilter, OperatingPoint, is_cut

Verdict = Literal["clean", "hit", "miss", "false"]
VERDICTS: tuple[Verdict | None, ...] = (None, "clean", "hit", "false", "miss")
"""From the least to the most important."""
NOTHING = -1.0  # score of a frame on which nothing was found
MAX_COLUMNS = 1200  # number of frames, or of groups of frames, in a timeline
MAX_COMPARING_S = 0.02  # time that one call of `compare_again` may take


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenFrame:
    """The detections and labels of one frame."""

    raw: tuple[Detections, ...]  # detections of each detector, whatever their score
    truth: Detections | None  # labeled boxes; None where the frame has no label
    seconds: float = 0.0  # time since the beginning of the source

    @property
    def truth_code(self) -> int:
        """0 without labels, 1 without a polyp, 2 with one."""
        return 0 if self.truth is None else 1 + bool(len(self.truth))


def verdict_of(shown: Detections, truth: Detections | None) -> Verdict | None:
    """Compare what a frame shows with its labels.

    Returns:
        "hit" if a shown box touches a label; "miss" if there is a label and no such box, also where
        a false box is shown; "false" if a box is shown on a frame without a polyp; "clean" if none
        is; None without labels.
    """
    if truth is None:
        return None
    if not len(truth):
        return "false" if len(shown) else "clean"
    return "miss" if _top_touching(shown, truth) == NOTHING else "hit"


class History:
    """Frames by number, with the score from which each frame's detections are shown.

    Hold-off and hysteresis run over these frames in order, and end at a cut; frames that were
    dropped do not count.

    Args:
        point: Operating point to begin with.
        num_detectors: Number of detectors per frame.
        limit: Number of frames to keep; None for all.
        frame_rate_hz: Frame rate of the source; None if it has none.
    """

    def __init__(
        self,
        point: OperatingPoint,
        *,
        num_detectors: int,
        limit: int | None,
        frame_rate_hz: float | None = None,
    ) -> None:
        self._num_detectors, self._limit = num_detectors, limit
        self._frame_rate_hz = frame_rate_hz or math.inf
        self._point, self._alarms = point, list[AlarmFilter]()
        self.clear()
        self.apply(point)

    def clear(self) -> None:
        """Remove all frames."""
        self._numbers: list[int] = []
        self._seen: list[SeenFrame] = []
        self._tops: list[list[float]] = [[] for _ in range(self._num_detectors)]
        """Highest score of each detector on each frame."""
        self._touches: list[tuple[float, float]] = []
        """Overlap of each frame, and with it the highest score of a box on a label."""
        self._num_compared = 0
        """Number of the first frames whose `_touches` are those of the present overlap."""
        self._thresholds: list[list[float]] | None = None
        """Score from which each detector's boxes are shown on each frame; None until needed."""

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._numbers, number)
        return at < len(self._numbers) and self._numbers[at] == number

    def add(self, number: int, seen: SeenFrame) -> None:
        """Add a frame that the history lacks; beyond the limit the oldest one is dropped."""
        at = bisect_left(self._numbers, number)
        tops = [float(raw.scores[0]) if len(raw) else NOTHING for raw in seen.raw]
        self._numbers.insert(at, number)
        self._seen.insert(at, seen)
        for column, top in zip(self._tops, tops, strict=True):
            column.insert(at, top)
        self._touches.insert(at, (self._point.iou, self._touching_score(seen)))
        self._num_compared += at <= self._num_compared
        if self._thresholds is not None and at == len(self._numbers) - 1:
            after_cut = at > 0 and self._is_cut(seen.seconds - self._seen[at - 1].seconds)
            for thresholds, alarm, raw in zip(
                self._thresholds, self._alarms, seen.raw, strict=True
            ):
                thresholds.append(alarm.threshold_for(raw, after_cut=after_cut))
        else:
            self._thresholds = None
        if self._limit is not None and len(self._numbers) > self._limit:
            for rows in (self._numbers, self._seen, self._touches, *self._tops):
                del rows[0]  # type: ignore[attr-defined]
            for thresholds in self._thresholds or []:
                del thresholds[0]
            self._num_compared = max(0, self._num_compared - 1)

    def apply(self, point: OperatingPoint) -> None:
        """Show all frames as another operating point says."""
        if point.iou != self._point.iou:
            self._num_compared = 0
        self._point = point.changed()  # whose hysteresis is not above the threshold
        self._thresholds = None

    def compare_again(self) -> bool:
        """Compare frames with their labels at the present overlap, in bounded time.

        Returns:
            True if the last frame was reached by this call.
        """
        end, count = time.monotonic() + MAX_COMPARING_S, len(self._numbers)
        if self._num_compared == count:
            return False
        while self._num_compared < count and time.monotonic() < end:
            self._compare(self._num_compared)
            self._num_compared += 1
        return self._num_compared == count

    def shown(self, number: int) -> tuple[Detections, ...]:
        """Return the detections that a frame shows, one value per detector."""
        at = bisect_left(self._numbers, number)
        return tuple(
            raw.without_overlaps(self._point.iou).above(thresholds[at])
            for raw, thresholds in zip(self._seen[at].raw, self._decided(), strict=True)
        )

    def verdict(self, number: int) -> Verdict | None:
        """Return the verdict on what the first detector shows of a frame."""
        at = bisect_left(self._numbers, number)
        self._compare(at)
        _, _, codes = self._judged(slice(at, at + 1))
        return VERDICTS[int(codes[0])]

    def timeline(self) -> dict[str, Any]:
        """Return columns over the frames: number, highest score, alarm, polyp in view, verdict.

        In a long history, `step` frames are one entry: with their highest score, an alarm and a
        polyp if one of them has it, and the worst verdict. `polyp` and `verdict` are None for
        frames without labels. `num_seen` and `num_alarms` count frames, and sequences of frames
        with a box.
        """
        scores, alarms, verdicts = self._judged(slice(None))
        truths = np.array([seen.truth_code for seen in self._seen], dtype=np.int8)
        numbers = np.array(self._numbers, dtype=np.int64)
        span = int(numbers[-1] - numbers[0]) + 1 if len(numbers) else 1
        step = -(-span // MAX_COLUMNS)
        starts = np.flatnonzero(np.diff(numbers // step, prepend=-1))

        def grouped(column: NDArray[Any]) -> list[Any]:
            return np.maximum.reduceat(column, starts).tolist() if len(starts) else []

        return {
            "step": step,
            "num_seen": len(numbers),
            "num_alarms": int(np.count_nonzero(np.diff(alarms, prepend=False) & alarms)),
            "frame": numbers[starts].tolist(),
            "score": grouped(np.maximum(scores, 0).round(3)),
            "alarm": grouped(alarms),
            "polyp": [(None, False, True)[code] for code in grouped(truths)],
            "verdict": [VERDICTS[code] for code in grouped(verdicts)],
        }

    def _judged(
        self, rows: slice
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.intp]]:
        """Return highest score, alarm and number of the verdict of rows, for the first detector."""
        scores = np.array(self._tops[0][rows], dtype=np.float64)
        thresholds = np.array(self._decided()[0][rows], dtype=np.float64)
        touches = np.array([score for _, score in self._touches[rows]], dtype=np.float64)
        truths = np.array([seen.truth_code for seen in self._seen[rows]], dtype=np.intp)
        alarms = scores >= thresholds
        without, clean, hit, false, miss = range(len(VERDICTS))
        of_clean = np.where(alarms, false, clean)
        of_polyp = np.where(touches >= thresholds, hit, miss)
        return scores, alarms, np.choose(truths, [without, of_clean, of_polyp])

    def _decided(self) -> list[list[float]]:
        """Return the thresholds of all frames, in one pass if the operating point has changed."""
        if self._thresholds is None:
            steps_s = np.diff([seen.seconds for seen in self._seen], prepend=0.0)
            after_cut = self._is_cut(steps_s)
            self._alarms = [AlarmFilter(self._point) for _ in self._tops]
            self._thresholds = [
                alarm.thresholds_for(np.array(tops), after_cut=after_cut).tolist()
                for alarm, tops in zip(self._alarms, self._tops, strict=True)
            ]
        return self._thresholds

    def _compare(self, at: int) -> None:
        """Compare a frame with its labels, unless that was done at the present overlap."""
        if self._touches[at][0] != self._point.iou:
            self._touches[at] = self._point.iou, self._touching_score(self._seen[at])

    def _touching_score(self, seen: SeenFrame) -> float:
        if not seen.truth:
            return NOTHING
        return _top_touching(seen.raw[0].without_overlaps(self._point.iou), seen.truth)

    def _is_cut(self, step_s: Any) -> Any:
        return is_cut(step_s, frame_rate_hz=self._frame_rate_hz)


def _top_touching(boxes: Detections, truth: Detections) -> float:
    """Return the highest score of the boxes that touch a label; `NOTHING` if none does."""
    touches = (iou_matrix(boxes.boxes_px, truth.boxes_px) > 0).any(axis=1)
    return float(boxes.scores[touches].max(initial=NOTHING))
