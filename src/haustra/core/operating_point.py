"""The operating point of a detector: thresholds, hold-off and hysteresis."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections

DEFAULT_OBJECTNESS, DEFAULT_IOU = 0.3, 0.5
DEFAULT_FPR = 0.045  # false-positive rate to fit to, at which TRUE-Colon compares detectors
CUT_S = 1.0  # a longer step from one frame to the next is a cut; no activation goes on across it


def is_cut(step_s: float, *, frame_rate_hz: float) -> bool:
    """Return True if a step between two frames is a cut, and not only that of a low rate."""
    return step_s > max(CUT_S, 1.5 / frame_rate_hz)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The thresholds that inference uses by default."""

    objectness: float = DEFAULT_OBJECTNESS
    """Detections with a lower score are not shown."""
    iou: float = DEFAULT_IOU
    """IoU above which only the better scored of two detections is shown."""
    hold_off_frames: int = 0
    """Number of frames of each activation that are held back, in a sequence of frames."""
    hysteresis: float | None = None
    """Score that keeps an activation on; None is the same as `objectness`."""
    fitted: dict[str, Any] | None = None
    """Record of the fit: rule, numbers and frames; None if it is not fitted."""

    @property
    def lower_threshold(self) -> float:
        """Score that keeps an activation on."""
        return self.objectness if self.hysteresis is None else self.hysteresis

    @property
    def origin(self) -> str:
        """Origin of the threshold in words."""
        if self.fitted is not None:
            return f"fitted on {self.fitted['fitted_on']}"
        return "the default, not fitted" if self.objectness == DEFAULT_OBJECTNESS else "not fitted"

    def changed(self, **values: Any) -> "OperatingPoint":
        """Return the operating point with other values for some of its fields.

        A new threshold is not the fitted one, so the record of the fit goes, and with it the
        hysteresis, which was fitted to the old threshold. The hysteresis is never above the
        threshold.
        """
        if "objectness" in values:
            values = {"hysteresis": None, "fitted": None, **values}
        point = replace(self, **values)
        if point.lower_threshold > point.objectness:
            point = replace(point, hysteresis=point.objectness)
        return point

    def with_flags(
        self,
        *,
        objectness: float | None = None,
        iou: float | None = None,
        hold_off_frames: int | None = None,
    ) -> "OperatingPoint":
        """Return the operating point changed by the flags that are not None."""
        flags = {"objectness": objectness, "iou": iou, "hold_off_frames": hold_off_frames}
        return self.changed(**{name: value for name, value in flags.items() if value is not None})

    def for_single_images(self) -> "OperatingPoint":
        """Return the operating point without hold-off and hysteresis."""
        return self.changed(hold_off_frames=0, hysteresis=None)

    @property
    def is_for_sequences(self) -> bool:
        """True if it has hold-off or hysteresis."""
        return self != self.for_single_images()

    def __str__(self) -> str:
        parts = [
            f"threshold {self.objectness:.3g} ({self.origin})",
            f"overlap at most {self.iou:.3g}",
        ]
        if self.hold_off_frames:
            parts.append(f"hold-off {self.hold_off_frames} frames")
        if self.hysteresis is not None:
            parts.append(f"kept on from {self.hysteresis:.3g}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; optional ones only if they are set."""
        value = asdict(self)
        optional = {"hold_off_frames": 0, "hysteresis": None, "fitted": None}
        return {k: v for k, v in value.items() if k not in optional or v != optional[k]}


class AlarmFilter:
    """Applies threshold, hysteresis and hold-off to a sequence of frames.

    An activation begins with a score of at least `objectness` and continues while there is a score
    of at least `lower_threshold`. Its first `hold_off_frames` frames are held back; after them
    these detections are shown. Without hold-off and hysteresis the filter is the threshold.

    Args:
        frame_rate_hz: Usual frame rate, for `show_at`; None if there is none.
    """

    def __init__(self, point: OperatingPoint, *, frame_rate_hz: float | None = None) -> None:
        self._point, self._frame_rate_hz = point, frame_rate_hz or math.inf
        self._num_frames_on, self._seconds = 0, 0.0

    def threshold_for(self, detections: Detections, *, after_cut: bool = False) -> float:
        """Return the score from which the next frame's detections, out of all, are shown.

        A cut before the frame ends the activation.
        """
        if after_cut:
            self._num_frames_on = 0
        point = self._point
        begins = point.lower_threshold if self._num_frames_on else point.objectness
        is_on = bool((detections.scores >= begins).any())
        self._num_frames_on = self._num_frames_on + 1 if is_on else 0
        # No score is above 1.
        return point.lower_threshold if self._num_frames_on > point.hold_off_frames else 2.0

    def show(self, detections: Detections, *, after_cut: bool = False) -> Detections:
        """Return the detections of the next frame to show; arguments as for `threshold_for`."""
        return detections.above(self.threshold_for(detections, after_cut=after_cut))

    def show_at(self, seconds: float, detections: Detections) -> Detections:
        """Return the detections to show of the next frame, at a time since the first one."""
        step_s, self._seconds = seconds - self._seconds, seconds
        after_cut = is_cut(step_s, frame_rate_hz=self._frame_rate_hz)
        return self.show(detections, after_cut=after_cut)

    def thresholds_for(
        self, top_scores: NDArray[np.float64], *, after_cut: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return `threshold_for` of the first frames, all at once; the next frame follows them.

        Args:
            top_scores: Highest score of each frame [N]; below 0 if nothing was found.
            after_cut: True where there is a cut before the frame [N].
        """
        point, rows = self._point, np.arange(len(top_scores))

        def latest(where: NDArray[np.bool_]) -> NDArray[np.intp]:
            """Return the latest row, up to each one, where something is true; -1 for none."""
            return np.maximum.accumulate(np.where(where, rows, -1))

        begins = top_scores >= point.objectness
        ends = ~begins & (after_cut | (top_scores < point.lower_threshold))
        is_on = latest(begins) > latest(ends)
        first = np.maximum(latest(~is_on) + 1, latest(after_cut))
        nums_on = np.where(is_on, rows - first + 1, 0)
        self._num_frames_on = int(nums_on[-1]) if len(nums_on) else 0
        return np.where(nums_on > point.hold_off_frames, point.lower_threshold, 2.0)
