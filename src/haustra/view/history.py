"""The frames that were seen, and what each shows at the present operating point."""

from dataclasses import dataclass
from typing import Any, Literal

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.operating_point import AlarmFilter, OperatingPoint

Verdict = Literal["clean", "hit", "miss", "false"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenFrame:
    """The detections and labels of one frame."""

    raw: tuple[Detections, ...]
    """Detections of each detector, whatever their score."""
    truth: Detections | None
    """Labeled boxes; None where the frame has no label."""


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
    touches = iou_matrix(shown.boxes_px, truth.boxes_px) > 0
    return "hit" if touches.any() else "miss"


class History:
    """Frames by number, with the score from which each frame's detections are shown.

    Hold-off and hysteresis run over these frames in order; frames that were dropped do not count.

    Args:
        point: Operating point to begin with.
        num_detectors: Number of detectors per frame.
        limit: Number of frames to keep; None for all.
    """

    def __init__(self, point: OperatingPoint, *, num_detectors: int, limit: int | None) -> None:
        self._num_detectors, self._limit = num_detectors, limit
        self._seen: dict[int, SeenFrame] = {}
        self._verdicts: dict[int, tuple[tuple[float, float], Verdict | None]] = {}
        self.apply(point)

    def __contains__(self, number: int) -> bool:
        return number in self._seen

    def add(self, number: int, seen: SeenFrame) -> None:
        """Add a frame; beyond the limit the oldest one is dropped."""
        self._seen[number] = seen
        self._verdicts.pop(number, None)
        if self._limit is not None and len(self._seen) > self._limit:
            oldest = next(iter(self._seen))
            for values in (self._seen, self._thresholds, self._verdicts):
                values.pop(oldest, None)
        if number > self._last:
            self._append(number)
        else:
            self.apply(self._point)

    def clear(self) -> None:
        """Remove all frames."""
        self._seen.clear()
        self._verdicts.clear()
        self.apply(self._point)

    def apply(self, point: OperatingPoint) -> None:
        """Decide for every frame what it shows at an operating point."""
        self._point, self._last = point, -1
        self._alarms = [AlarmFilter(point) for _ in range(self._num_detectors)]
        self._thresholds: dict[int, tuple[float, ...]] = {}
        for number in sorted(self._seen):
            self._append(number)

    def shown(self, number: int) -> tuple[Detections, ...]:
        """Return the detections that a frame shows, one value per detector."""
        return tuple(
            raw.without_overlaps(self._point.iou).above(threshold)
            for raw, threshold in zip(self._seen[number].raw, self._thresholds[number], strict=True)
        )

    def verdict(self, number: int) -> Verdict | None:
        """Return the verdict on what the first detector shows of a frame."""
        shown_at = (self._thresholds[number][0], self._point.iou)
        known = self._verdicts.get(number)
        if known is None or known[0] != shown_at:
            known = shown_at, verdict_of(self.shown(number)[0], self._seen[number].truth)
            self._verdicts[number] = known
        return known[1]

    def timeline(self) -> dict[str, list[Any]]:
        """Return columns over the frames: number, highest score, alarm, polyp in view, verdict.

        `polyp` and `verdict` are None for frames without labels.
        """
        numbers = sorted(self._seen)
        scores = [float(self._seen[number].raw[0].scores.max(initial=0.0)) for number in numbers]
        truths = [self._seen[number].truth for number in numbers]
        return {
            "frame": numbers,
            "score": [round(score, 3) for score in scores],
            "alarm": [
                score >= self._thresholds[number][0]
                for number, score in zip(numbers, scores, strict=True)
            ],
            "polyp": [None if truth is None else bool(len(truth)) for truth in truths],
            "verdict": [self.verdict(number) for number in numbers],
        }

    def _append(self, number: int) -> None:
        self._last = number
        self._thresholds[number] = tuple(
            alarm.threshold_for(raw)
            for alarm, raw in zip(self._alarms, self._seen[number].raw, strict=True)
        )
