"""One rule for every value that replaces one of an operating point."""

from haustra.core.operating_point import OperatingPoint

FITTED = OperatingPoint(
    objectness=0.4, hold_off_frames=3, hysteresis=0.2, fitted={"fitted_on": "val"}
)


def test_another_threshold_is_not_reported_as_fitted() -> None:
    point = FITTED.with_flags(objectness=0.6)
    assert (point.objectness, point.hysteresis, point.fitted) == (0.6, None, None)
    assert point.hold_off_frames == 3
    assert (FITTED.origin, point.origin) == ("fitted on val", "not fitted")
    assert OperatingPoint().origin == "the default, not fitted"
    assert "fitted" not in point.to_json()


def test_without_flags_and_with_another_overlap_or_hold_off_the_threshold_stays_fitted() -> None:
    assert FITTED.with_flags() == FITTED
    point = FITTED.with_flags(iou=0.7, hold_off_frames=0)
    assert (point.iou, point.hold_off_frames, point.fitted) == (0.7, 0, FITTED.fitted)


def test_the_hysteresis_is_never_above_the_threshold() -> None:
    assert OperatingPoint(objectness=0.5).changed(hysteresis=0.8).hysteresis == 0.5
    assert OperatingPoint().changed(objectness=0.5, hysteresis=0.4).hysteresis == 0.4
