"""Alarms: boxes on nothing over time, and what hold-off saves and costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.evaluation.frame_tier import touches
from haustra.evaluation.frames import TimedRun
from haustra.evaluation.lesion_tier import mean_of_known

HOLD_OFFS = (0, 3, 6, 15)
RUN_LENGTHS_S = (0.5, 1.0, 2.0)  # limits between the classes of false activations by their length


@dataclass(frozen=True, kw_only=True)
class AlarmRow:
    """False alarms, and what their suppression costs, at one hold-off."""

    hold_off_frames: int
    lower_threshold: float  # least score that keeps an activation on
    false_activations: int
    """Number of unbroken series of frames with a shown box that touches no label."""
    false_activations_per_procedure: float
    false_activations_per_minute: float
    false_time_share: float  # share of all frames that have such a box
    run_lengths: list[int]
    """Number of false activations under 0.5 s, from 0.5 to 1 s, from 1 to 2 s, and from 2 s on."""
    lesions_shown: int  # number of lesions that a shown box ever touches
    mean_delay_s: float | None
    """Mean time from a lesion's first box without hold-off to its first box with it."""
    frame_sensitivity: float | None
    """Share of the lesion frames on which a shown box touches a label."""


@dataclass(frozen=True, kw_only=True)
class AlarmTier:
    """False alarms of a detector at work, by hold-off."""

    threshold: float
    num_procedures: int
    minutes: float
    rows: list[AlarmRow]
    """One row per hold-off; the operating point's own comes last where it is another."""


@dataclass
class _Shown:
    """Counts of what a filter leaves of the detections."""

    activation_lengths_s: list[float] = field(default_factory=list)
    """Duration of each false activation."""
    false_frames: int = 0
    lesion_frames: int = 0
    flagged_frames: int = 0
    first_shown_s: dict[str, float] = field(default_factory=dict)
    """Time in its run at which each lesion that was ever shown was shown first."""


def _show(runs: Sequence[TimedRun], *, point: OperatingPoint) -> _Shown:
    shown = _Shown()
    for run in runs:
        alarm, cuts = AlarmFilter(point), run.after_cut
        false_frames = []
        rows = zip(run.frames, run.numbers, cuts, run.predictions, strict=True)
        for frame, number, after_cut, found in rows:
            touched = touches(alarm.show(found, after_cut=after_cut), frame.truth)
            false_frames.append(bool((~touched.any(axis=1)).any()))
            shown.lesion_frames += len(frame.truth) > 0
            shown.flagged_frames += bool(touched.any())
            found_labels = np.asarray(touched.any(axis=0))
            for lesion, is_touched in zip(frame.lesions, found_labels, strict=True):
                if lesion is not None and is_touched:
                    shown.first_shown_s.setdefault(lesion.lesion_id, number / run.frame_rate_hz)
        shown.false_frames += sum(false_frames)
        places = zip(false_frames, np.cumsum(cuts).tolist(), run.numbers, strict=True)
        for (is_false, _), series in groupby(places, key=lambda place: place[:2]):
            if is_false:
                numbers = [number for *_, number in series]
                duration = numbers[-1] - numbers[0] + 1
                shown.activation_lengths_s.append(duration / run.frame_rate_hz)
    return shown


def alarm_row(runs: Sequence[TimedRun], *, point: OperatingPoint) -> AlarmRow:
    """Count the false activations of an operating point, and what it costs against no hold-off.

    Args:
        runs: Whole runs, at least one.
        point: Threshold, hold-off and hysteresis.
    """
    shown = _show(runs, point=point)
    base = _show(runs, point=replace(point, hold_off_frames=0, hysteresis=None))
    lengths_s = shown.activation_lengths_s
    classes = np.digitize(lengths_s, RUN_LENGTHS_S)
    delays = [
        time_s - base.first_shown_s[lesion_id]
        for lesion_id, time_s in shown.first_shown_s.items()
        if lesion_id in base.first_shown_s
    ]
    return AlarmRow(
        hold_off_frames=point.hold_off_frames,
        lower_threshold=point.lower_threshold,
        false_activations=len(lengths_s),
        false_activations_per_procedure=len(lengths_s) / len(runs),
        false_activations_per_minute=len(lengths_s) / sum(run.minutes for run in runs),
        false_time_share=shown.false_frames / sum(len(run.frames) for run in runs),
        run_lengths=np.bincount(classes, minlength=len(RUN_LENGTHS_S) + 1).tolist(),
        lesions_shown=len(shown.first_shown_s),
        mean_delay_s=mean_of_known(delays),
        frame_sensitivity=(
            shown.flagged_frames / shown.lesion_frames if shown.lesion_frames else None
        ),
    )


def operating_row(alarms: AlarmTier, *, point: OperatingPoint) -> AlarmRow:
    """Return the row of the operating point's own hold-off and hysteresis."""
    own = (point.hold_off_frames, point.lower_threshold)
    return next(row for row in alarms.rows if (row.hold_off_frames, row.lower_threshold) == own)


def alarm_tier(runs: Sequence[TimedRun], *, point: OperatingPoint) -> AlarmTier | None:
    """Count alarms at the operating point's threshold for each hold-off; None without a run."""
    if not runs:
        return None
    points = [replace(point, hold_off_frames=n, hysteresis=None) for n in HOLD_OFFS]
    if point.hold_off_frames not in HOLD_OFFS or point.hysteresis is not None:
        points.append(point)
    return AlarmTier(
        threshold=point.objectness,
        num_procedures=len(runs),
        minutes=sum(run.minutes for run in runs),
        rows=[alarm_row(runs, point=each) for each in points],
    )
