"""At which scores a detector speaks up: thresholds, hold-off and hysteresis."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.ranges import check_whole_number

DEFAULT_OBJECTNESS, DEFAULT_IOU = 0.3, 0.5


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The thresholds that inference uses unless told otherwise."""

    objectness: float = DEFAULT_OBJECTNESS
    """Detections with a lower score are not shown."""
    iou: float = DEFAULT_IOU
    """Of two detections that overlap more than this, the better scored is shown."""
    hold_off_frames: int = 0
    """Frames of each activation that are held back, in a sequence of frames."""
    hysteresis: float | None = None
    """Score that keeps an activation on once it is; None is the same as `objectness`."""
    fitted: dict[str, Any] | None = None
    """How and on what it was fitted; None where it is the default."""

    @property
    def lower_threshold(self) -> float:
        """Score that keeps an activation on."""
        return self.objectness if self.hysteresis is None else self.hysteresis

    def with_flags(
        self, *, objectness: float | None, iou: float | None, hold_off_frames: int | None
    ) -> "OperatingPoint":
        """Return the operating point with what a user asked for in its place."""
        point = self
        if objectness is not None:
            # A lower threshold was fitted to another upper one.
            point = replace(point, objectness=objectness, hysteresis=None)
        if iou is not None:
            point = replace(point, iou=iou)
        if hold_off_frames is not None:
            point = replace(point, hold_off_frames=hold_off_frames)
        return point

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; those of a sequence only where they are set."""
        value = asdict(self)
        optional = {"hold_off_frames": 0, "hysteresis": None, "fitted": None}
        return {k: v for k, v in value.items() if k not in optional or v != optional[k]}


def check_flags(
    *, objectness: float | None, iou: float | None, hold_off_frames: int | None
) -> None:
    """Check what a user asks for in an operating point's place.

    Raises:
        HaustraError: a value is out of its range; the message names the flag.
    """
    for flag, value in (("--infer-obj-thresh", objectness), ("--infer-iou-thresh", iou)):
        if value is not None and not 0 <= value <= 1:
            raise HaustraError(f"{flag} {value}: expected a number from 0 to 1")
    if hold_off_frames is not None:
        check_whole_number("infer_hold_off", hold_off_frames, low=0)


class AlarmFilter:
    """What of a sequence of frames is shown: threshold, hysteresis and hold-off, frame by frame.

    An activation begins with a score of at least `objectness` and goes on while there is a score of
    at least `lower_threshold`. Its first `hold_off_frames` frames are held back; then those
    detections are shown. Without hold-off and hysteresis it is the threshold.
    """

    def __init__(self, point: OperatingPoint) -> None:
        self._point = point
        self._num_frames_on = 0

    def threshold_for(self, top_score: float | None) -> float:
        """Return the score from which the next frame's detections are shown.

        Args:
            top_score: the frame's highest score; None where nothing was found.
        """
        point = self._point
        begins = point.lower_threshold if self._num_frames_on else point.objectness
        is_on = top_score is not None and top_score >= begins
        self._num_frames_on = self._num_frames_on + 1 if is_on else 0
        # No score is above 1.
        return point.lower_threshold if self._num_frames_on > point.hold_off_frames else 2.0

    def show(self, detections: Detections) -> Detections:
        """Return what is shown of the next frame's detections, given at every score."""
        top_score = float(detections.scores[0]) if len(detections) else None
        return detections.above(self.threshold_for(top_score))
