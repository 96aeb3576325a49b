"""Lesions: how early and how steadily each one is detected while it is in view.

The counts come from `true-colon` (see `frame_tier`). It has no gaps and no flicker; they are
computed here.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.evaluation.frame_tier import FLAGGED_IOU, import_true_colon, to_true_colon
from haustra.evaluation.frames import EvalFrame, timed_runs

STABLE_S = 0.5
"""Time that detections must fill to count as "detected within N s": 15 frames at 30 Hz."""


@dataclass(frozen=True, kw_only=True)
class _FrameNumbers:
    """Frame numbers for true-colon, which names the frames by their index in `numbers`."""

    numbers: Sequence[int | None]
    name: str = "haustra"

    def canonical(self, raw: str) -> str:
        return raw

    def frame_index(self, canonical: str) -> int | None:
        return self.numbers[int(canonical)]


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
    detected_25_percent: bool
    """True if it is detected on at least a quarter of its frames."""
    detected_50_percent: bool
    detected_within_1_s: bool
    """True if the detections in its first second in view add up to half a second."""
    detected_within_3_s: bool
    detected_within_5_s: bool
    first_detection_frames: int | None
    """Number of frames from its first appearance to its first detection; None without one."""
    first_detection_s: float | None
    longest_gap_frames: int
    """Largest number of visible frames in a row without a detection."""
    flicker_per_s: float
    """Changes between detected and not, per second in view."""
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


def _presence(
    frames: Sequence[EvalFrame], shown: Sequence[Detections]
) -> dict[str, dict[int, bool]]:
    """Return, for each lesion, the positions that show it and whether it is detected there."""
    seen: dict[str, dict[int, bool]] = defaultdict(dict)
    for index, (frame, found) in enumerate(zip(frames, shown, strict=True)):
        overlaps = iou_matrix(frame.truth.boxes_px, found.boxes_px) > FLAGGED_IOU
        touched = np.asarray(overlaps.any(axis=1))
        for lesion, is_found in zip(frame.lesions, touched.tolist(), strict=True):
            if lesion is not None:
                seen[lesion.lesion_id][index] = seen[lesion.lesion_id].get(index, False) or is_found
    return seen


def _longest_gap(states: Sequence[bool]) -> int:
    gaps = (len(list(run)) for state, run in groupby(states) if not state)
    return max(gaps, default=0)


def _changes(states: Sequence[bool], numbers: Sequence[int | None]) -> int:
    """Count the changes between frames that follow each other."""
    pairs = zip(states, states[1:], numbers, numbers[1:], strict=False)
    return sum(a != b for a, b, m, n in pairs if m is not None and n is not None and n - m == 1)


def _rows_of_run(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    threshold: float,
    frame_rate_hz: float,
) -> list[LesionRow]:
    true_colon = import_true_colon()
    labels, detections = to_true_colon(
        [frame.truth for frame in frames], predictions, lesions=[frame.lesions for frame in frames]
    )
    known = {lesion.lesion_id: lesion for f in frames for lesion in f.lesions if lesion is not None}
    if not known:
        return []
    numbers = [frame.number for frame in frames]
    found = true_colon.compute_lesion_metrics(
        labels,
        detections,
        iou_thr=FLAGGED_IOU,
        conf=threshold,
        canonicalizer=_FrameNumbers(numbers=numbers),
        config=true_colon.LesionConfig(
            fps=frame_rate_hz,
            min_detected_frames_in_window=max(1, round(STABLE_S * frame_rate_hz)),
        ),
    )
    presence = _presence(frames, [prediction.above(threshold) for prediction in predictions])
    rows = []
    for record in found.records:
        states = list(presence[record.lesion_id].values())
        changes = _changes(states, [numbers[index] for index in presence[record.lesion_id]])
        rows.append(
            LesionRow(
                lesion_id=record.lesion_id,
                num_visible_frames=record.n_frames_visible,
                num_detected_frames=record.n_frames_detected,
                detected_share=record.det_fraction,
                detected_ever=record.detected_any,
                detected_25_percent=record.detected_25pct,
                detected_50_percent=record.detected_50pct,
                detected_within_1_s=record.detected_within_1s,
                detected_within_3_s=record.detected_within_3s,
                detected_within_5_s=record.detected_within_5s,
                first_detection_frames=record.latency_frames,
                first_detection_s=record.latency_seconds,
                longest_gap_frames=_longest_gap(states),
                flicker_per_s=changes * frame_rate_hz / len(states),
                size_mm=known[record.lesion_id].size_mm,
                paris_class=known[record.lesion_id].paris_class,
            )
        )
    return rows


def lesion_tier(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    threshold: float,
    frame_rates_hz: dict[str, float],
) -> LesionTier | None:
    """Follow each lesion through its run; return None where no box names a lesion.

    Args:
        frames: Frames of whole runs, each in order.
        predictions: Detections on the same frames, at every score.
        threshold: Least score of a detection that is shown.
        frame_rates_hz: Frame rate of each run in time order; other runs are left out.
    """
    rows: list[LesionRow] = []
    runs = timed_runs(frames, frame_rates_hz=frame_rates_hz)
    for run_id, positions in runs.items():
        rows += _rows_of_run(
            [frames[index] for index in positions],
            [predictions[index] for index in positions],
            threshold=threshold,
            frame_rate_hz=frame_rates_hz[run_id],
        )
    if not rows:
        return None
    return LesionTier(
        threshold=threshold,
        num_lesions=len(rows),
        num_boxes_without_identity=sum(
            lesion is None
            for positions in runs.values()
            for index in positions
            for lesion in frames[index].lesions
        ),
        **{name: sum(getattr(row, name) for row in rows) for name in COUNTED},
        mean_detected_share=float(np.mean([row.detected_share for row in rows])),
        mean_first_detection_frames=mean_of_known([row.first_detection_frames for row in rows]),
        mean_first_detection_s=mean_of_known([row.first_detection_s for row in rows]),
        mean_flicker_per_s=float(np.mean([row.flicker_per_s for row in rows])),
        rows=rows,
    )
