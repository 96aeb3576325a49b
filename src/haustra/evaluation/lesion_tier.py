"""Lesions: how early and how steadily each one is detected while it is in view.

The definitions are those of `true-colon` (see `frame_tier`), which the tests compare with; gaps and
flicker are haustra's own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from haustra.evaluation.frame_tier import touches
from haustra.evaluation.frames import Lesion, TimedRun

STABLE_S = 0.5
"""Time that detections must fill to count as "detected within N s": 15 frames at 30 Hz."""


@dataclass(frozen=True, kw_only=True)
class LesionRow:
    """One lesion over the frames of its run that show it.

    It is detected on a frame where a shown box touches its label.
    """

    lesion_id: str
    num_visible_frames: int
    num_detected_frames: int
    detected_share: float
    detected_ever: bool
    detected_25_percent: bool  # True if it is detected on at least a quarter of its frames
    detected_50_percent: bool
    detected_within_1_s: bool
    """True if the detections in its first second in view add up to half a second."""
    detected_within_3_s: bool
    detected_within_5_s: bool
    first_detection_frames: int | None
    """Number of frames from its first appearance to its first detection; None without one."""
    first_detection_s: float | None
    longest_gap_frames: int  # largest number of visible frames in a row without a detection
    flicker_per_s: float  # changes between detected and not, per second in view
    size_mm: float | None
    paris_class: str | None


@dataclass(frozen=True, kw_only=True)
class LesionTier:
    """All lesions together, and one by one."""

    threshold: float
    num_lesions: int
    num_boxes_without_identity: int
    """Number of labeled boxes that name no lesion and are part of no row."""
    detected_ever: int
    """Number of lesions that are detected on at least one frame; the next five count alike."""
    detected_25_percent: int
    detected_50_percent: int
    detected_within_1_s: int
    detected_within_3_s: int
    detected_within_5_s: int
    mean_detected_share: float
    mean_first_detection_frames: float | None
    """Mean over the lesions that are detected, as is the next."""
    mean_first_detection_s: float | None
    mean_flicker_per_s: float
    rows: list[LesionRow]


COUNTED = (
    *("detected_ever", "detected_25_percent", "detected_50_percent"),
    *("detected_within_1_s", "detected_within_3_s", "detected_within_5_s"),
)
"""Fields of a row of which the tier counts the true ones."""


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None without such a value."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _row(lesion: Lesion, seen: list[tuple[int, bool]], *, rate_hz: float) -> LesionRow:
    """Return the row of a lesion from the number of each frame that shows it, and its state."""
    first_number = seen[0][0]
    states = [is_detected for _, is_detected in seen]
    hits = [number - first_number for number, is_detected in seen if is_detected]
    share = len(hits) / len(seen)
    gaps = (len(list(run)) for is_detected, run in groupby(states) if not is_detected)
    # Only frames that follow each other show a change.
    changes = sum(a != b and n - m == 1 for (m, a), (n, b) in pairwise(seen))

    def is_detected_within(seconds: int) -> bool:
        in_time = sum(hit < int(seconds * rate_hz) for hit in hits)
        return in_time >= max(1, round(STABLE_S * rate_hz))

    return LesionRow(
        lesion_id=lesion.lesion_id,
        num_visible_frames=len(seen),
        num_detected_frames=len(hits),
        detected_share=share,
        detected_ever=bool(hits),
        detected_25_percent=share >= 0.25,
        detected_50_percent=share >= 0.5,
        detected_within_1_s=is_detected_within(1),
        detected_within_3_s=is_detected_within(3),
        detected_within_5_s=is_detected_within(5),
        first_detection_frames=hits[0] if hits else None,
        first_detection_s=hits[0] / rate_hz if hits else None,
        longest_gap_frames=max(gaps, default=0),
        flicker_per_s=changes * rate_hz / len(seen),
        size_mm=lesion.size_mm,
        paris_class=lesion.paris_class,
    )


def _rows_of_run(run: TimedRun, *, threshold: float) -> list[LesionRow]:
    lesions: dict[str, Lesion] = {}
    seen: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for frame, number, found in zip(run.frames, run.numbers, run.predictions, strict=True):
        touched = np.asarray(touches(found.above(threshold), frame.truth).any(axis=0))
        is_detected: dict[str, bool] = {}
        for lesion, is_touched in zip(frame.lesions, touched.tolist(), strict=True):
            if lesion is not None:
                lesions[lesion.lesion_id] = lesion
                is_detected[lesion.lesion_id] = (
                    is_detected.get(lesion.lesion_id, False) or is_touched
                )
        for lesion_id, state in is_detected.items():
            seen[lesion_id].append((number, state))
    return [_row(lesions[name], seen[name], rate_hz=run.frame_rate_hz) for name in sorted(seen)]


def lesion_tier(runs: Sequence[TimedRun], *, threshold: float) -> LesionTier | None:
    """Follow each lesion through its run; return None where no box names a lesion.

    Args:
        threshold: Least score of a detection that is shown.
    """
    rows = [row for run in runs for row in _rows_of_run(run, threshold=threshold)]
    if not rows:
        return None
    return LesionTier(
        threshold=threshold,
        num_lesions=len(rows),
        num_boxes_without_identity=sum(
            frame.lesions.count(None) for run in runs for frame in run.frames
        ),
        **{name: sum(getattr(row, name) for row in rows) for name in COUNTED},
        mean_detected_share=float(np.mean([row.detected_share for row in rows])),
        mean_first_detection_frames=mean_of_known([row.first_detection_frames for row in rows]),
        mean_first_detection_s=mean_of_known([row.first_detection_s for row in rows]),
        mean_flicker_per_s=float(np.mean([row.flicker_per_s for row in rows])),
        rows=rows,
    )
