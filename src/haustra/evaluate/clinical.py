"""Frames, lesions and alarms: what a detector does in a procedure, beyond boxes on single images.

Frame and lesion numbers, FROC and AFROC come from `true-colon`, the code of the TRUE-Colon protocol
(Doerrich et al. 2026, https://arxiv.org/abs/2608.13711). Its rule for "flagged" is any overlap with
a labelled box (IoU > 0). The alarms are ours, since that package has none.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.detections import Detections
from haustra.core.errors import MissingExtraError
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.evaluate.frames import EvalFrame, Lesion

FLAGGED_IOU = 0.0
"""Strictly more overlap than this is enough (TRUE-Colon)."""
STABLE_S = 0.5
"""Detections that "detected within N s" asks for: as many as fill this time (15 at 30 Hz)."""
HOLD_OFFS = (0, 3, 6, 15)
RUN_LENGTHS_S = (0.5, 1.0, 2.0)
"""Limits between the classes of false activations by length."""


def import_true_colon() -> Any:
    """Return the package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import true_colon
    except ImportError:
        raise MissingExtraError("true-colon", extra="train", needed_for="evaluation") from None
    return true_colon


@dataclass(frozen=True, kw_only=True)
class _FrameNumbers:
    """Names frames by their index here, and gives true-colon their place in time."""

    numbers: Sequence[int | None]
    name: str = "haustra"

    def canonical(self, raw: str) -> str:
        return raw

    def frame_index(self, canonical: str) -> int | None:
        return self.numbers[int(canonical)]


def _entries(boxes_px: NDArray[np.float64], *, index: int) -> list[dict[str, Any]]:
    return [
        {"image_id": str(index), "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for x0, y0, x1, y1 in boxes_px.tolist()
    ]


def to_true_colon(
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    *,
    lesions: Sequence[tuple[Lesion | None, ...]] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return labels and detections as true-colon takes them, images named by their number."""
    labels: dict[str, Any] = {
        "images": [{"id": str(index)} for index in range(len(truths))],
        "annotations": [],
    }
    detections = []
    for index, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        entries = _entries(truth.boxes_px, index=index)
        for entry, lesion in zip(entries, lesions[index] if lesions else (), strict=bool(lesions)):
            if lesion is not None:
                entry["unique_id"] = lesion.lesion_id
        labels["annotations"] += entries
        detections += [
            entry | {"score": score}
            for entry, score in zip(
                _entries(prediction.boxes_px, index=index), prediction.scores.tolist(), strict=True
            )
        ]
    return labels, detections


@dataclass(frozen=True, kw_only=True)
class FrameTier:
    """Whether polyps are flagged on the frames that show one, and nothing on the others."""

    threshold: float
    num_lesion_frames: int
    num_clean_frames: int
    true_positives: int
    """Lesion frames with a shown box that touches a label."""
    false_positives: int
    """Clean frames with a shown box."""
    sensitivity: float | None
    """Share of the lesion frames; None without any."""
    false_positive_rate: float | None
    """Share of the clean frames; None without any."""
    specificity: float | None
    precision: float | None
    """None where no frame is flagged."""
    f1: float
    f2: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FrocCurves:
    """FROC and AFROC on true-colon's shared grid of thresholds, all [G]."""

    thresholds: list[float]
    sensitivity: list[float]
    """Share of the labelled boxes that are flagged."""
    false_boxes_per_image: list[float]
    """FROC's axis."""
    flagged_clean_share: list[float] | None
    """AFROC's axis: share of the clean frames with a box; None without any."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def frame_scores(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> tuple[list[float], list[float]]:
    """Return one score per lesion frame and per clean frame: the highest that would flag it."""
    labels, detections = to_true_colon(truths, predictions)
    found: tuple[list[float], list[float]] = import_true_colon().per_frame_max_scores(
        labels, detections, iou_thr=FLAGGED_IOU
    )
    return found


def frame_tier(
    truths: Sequence[Detections], predictions: Sequence[Detections], *, threshold: float
) -> FrameTier:
    """Count flagged frames at a score threshold above 0."""
    scores = frame_scores(truths, predictions)
    found = import_true_colon().compute_frame_metrics(
        {}, [], iou_thr=FLAGGED_IOU, conf=max(threshold, 1e-9), scores=scores
    )
    has_lesions, has_clean = bool(scores[0]), bool(scores[1])
    return FrameTier(
        threshold=threshold,
        num_lesion_frames=len(scores[0]),
        num_clean_frames=len(scores[1]),
        true_positives=found.tp,
        false_positives=found.fp,
        sensitivity=found.tpr if has_lesions else None,
        false_positive_rate=found.fpr if has_clean else None,
        specificity=found.specificity if has_clean else None,
        precision=found.precision if found.tp + found.fp else None,
        f1=found.f1,
        f2=found.f2,
    )


def froc_curves(truths: Sequence[Detections], predictions: Sequence[Detections]) -> FrocCurves:
    """Compute FROC and AFROC over all labelled boxes."""
    true_colon = import_true_colon()
    labels, detections = to_true_colon(truths, predictions)
    prepared = true_colon.prepare_froc_inputs(labels, detections)
    settings = {
        "iou_thr": FLAGGED_IOU,
        "conf_thresholds": true_colon.DEFAULT_CONF_GRID,
        "prepared": prepared,
    }
    froc = true_colon.compute_froc_curve(labels, detections, **settings)
    afroc = true_colon.compute_afroc_curve(labels, detections, **settings)
    return FrocCurves(
        thresholds=froc.conf_thresholds,
        sensitivity=froc.tpr_loc,
        false_boxes_per_image=froc.fp_per_image,
        flagged_clean_share=afroc.fpf if afroc.n_neg_images else None,
    )


@dataclass(frozen=True, kw_only=True)
class LesionRow:
    """One lesion over the frames of its run that show it."""

    lesion_id: str
    num_visible_frames: int
    num_detected_frames: int
    detected_share: float
    detected_ever: bool
    detected_25_percent: bool
    """On at least a quarter of its frames."""
    detected_50_percent: bool
    detected_within_1_s: bool | None
    """Half a second's worth of detections in the first second; None without a frame rate."""
    detected_within_3_s: bool | None
    detected_within_5_s: bool | None
    first_detection_frames: int | None
    """Frames from its first appearance to its first detection; None where there is none."""
    first_detection_s: float | None
    longest_gap_frames: int
    """Most visible frames in a row without a detection."""
    flicker_per_s: float | None
    """Changes between detected and not, per second in view; None without a frame rate."""
    size_mm: float | None
    paris_class: str | None


@dataclass(frozen=True, kw_only=True)
class LesionTier:
    """What becomes of the lesions."""

    threshold: float
    num_lesions: int
    num_boxes_without_identity: int
    """Labelled boxes that name no lesion; they are part of no row."""
    detected_ever: int
    detected_25_percent: int
    detected_50_percent: int
    detected_within_1_s: int
    detected_within_3_s: int
    detected_within_5_s: int
    mean_detected_share: float
    mean_first_detection_frames: float | None
    """Of the lesions that were detected."""
    mean_first_detection_s: float | None
    mean_flicker_per_s: float | None
    rows: list[LesionRow]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def _by_run(frames: Sequence[EvalFrame]) -> dict[str, list[int]]:
    """Return the positions of each run's frames, in order."""
    positions: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        positions[frame.run_id].append(index)
    return positions


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _detected(frame: EvalFrame, shown: Detections) -> NDArray[np.bool_]:
    """Return which labelled boxes a shown box touches."""
    return np.asarray((iou_matrix(frame.truth.boxes_px, shown.boxes_px) > FLAGGED_IOU).any(axis=1))


def _presence(
    frames: Sequence[EvalFrame], shown: Sequence[Detections]
) -> dict[str, dict[int, bool]]:
    """Return whether each lesion is detected, on each position that shows it."""
    seen: dict[str, dict[int, bool]] = defaultdict(dict)
    for index, (frame, found) in enumerate(zip(frames, shown, strict=True)):
        for lesion, is_found in zip(frame.lesions, _detected(frame, found).tolist(), strict=True):
            if lesion is not None:
                seen[lesion.lesion_id][index] = seen[lesion.lesion_id].get(index, False) or is_found
    return seen


def _longest_gap(states: Sequence[bool]) -> int:
    longest = gap = 0
    for state in states:
        gap = 0 if state else gap + 1
        longest = max(longest, gap)
    return longest


def _changes(states: Sequence[bool], numbers: Sequence[int | None]) -> int:
    """Count the changes between frames that follow each other."""
    pairs = zip(states, states[1:], numbers, numbers[1:], strict=False)
    return sum(a != b for a, b, m, n in pairs if m is not None and n is not None and n - m == 1)


def _rows_of_run(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    threshold: float,
    frame_rate_hz: float | None,
) -> list[LesionRow]:
    true_colon = import_true_colon()
    labels, detections = to_true_colon(
        [frame.truth for frame in frames], predictions, lesions=[frame.lesions for frame in frames]
    )
    known = {lesion.lesion_id: lesion for f in frames for lesion in f.lesions if lesion is not None}
    if not known:
        return []
    numbers = [frame.number for frame in frames]
    rate = frame_rate_hz or 1.0
    found = true_colon.compute_lesion_metrics(
        labels,
        detections,
        iou_thr=FLAGGED_IOU,
        conf=threshold,
        canonicalizer=_FrameNumbers(numbers=numbers),
        config=true_colon.LesionConfig(
            fps=rate, min_detected_frames_in_window=max(1, round(STABLE_S * rate))
        ),
    )
    presence = _presence(frames, [prediction.above(threshold) for prediction in predictions])
    rows = []
    for record in found.records:
        states = list(presence[record.lesion_id].values())
        changes = _changes(states, [numbers[index] for index in presence[record.lesion_id]])
        has_time = frame_rate_hz is not None
        rows.append(
            LesionRow(
                lesion_id=record.lesion_id,
                num_visible_frames=record.n_frames_visible,
                num_detected_frames=record.n_frames_detected,
                detected_share=record.det_fraction,
                detected_ever=record.detected_any,
                detected_25_percent=record.detected_25pct,
                detected_50_percent=record.detected_50pct,
                detected_within_1_s=record.detected_within_1s if has_time else None,
                detected_within_3_s=record.detected_within_3s if has_time else None,
                detected_within_5_s=record.detected_within_5s if has_time else None,
                first_detection_frames=record.latency_frames,
                first_detection_s=record.latency_seconds if has_time else None,
                longest_gap_frames=_longest_gap(states),
                flicker_per_s=changes * rate / len(states) if has_time else None,
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
    frame_rates_hz: dict[str, float | None],
) -> LesionTier | None:
    """Follow each lesion through its run; None where no box names a lesion.

    Args:
        frames: of whole runs, each in order.
        predictions: of the same frames, at every score.
        threshold: score of a detection.
        frame_rates_hz: of each run; None gives no numbers in seconds.
    """
    rows: list[LesionRow] = []
    for run_id, positions in _by_run(frames).items():
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
        num_boxes_without_identity=sum(lesion is None for f in frames for lesion in f.lesions),
        detected_ever=sum(row.detected_ever for row in rows),
        detected_25_percent=sum(row.detected_25_percent for row in rows),
        detected_50_percent=sum(row.detected_50_percent for row in rows),
        detected_within_1_s=sum(row.detected_within_1_s or False for row in rows),
        detected_within_3_s=sum(row.detected_within_3_s or False for row in rows),
        detected_within_5_s=sum(row.detected_within_5_s or False for row in rows),
        mean_detected_share=float(np.mean([row.detected_share for row in rows])),
        mean_first_detection_frames=_mean([row.first_detection_frames for row in rows]),
        mean_first_detection_s=_mean([row.first_detection_s for row in rows]),
        mean_flicker_per_s=_mean([row.flicker_per_s for row in rows]),
        rows=rows,
    )


@dataclass(frozen=True, kw_only=True)
class AlarmRow:
    """False alarms, and what silence costs, at one hold-off."""

    hold_off_frames: int
    lower_threshold: float
    """Score that keeps an activation on."""
    false_activations: int
    """Runs of frames with a shown box that touches no label."""
    false_activations_per_procedure: float
    false_activations_per_minute: float | None
    """None where a run has no frame rate."""
    false_time_share: float
    """Share of all frames with such a box."""
    run_lengths: list[int] | None
    """False activations under 0.5 s, 0.5 to 1 s, 1 to 2 s, and from 2 s."""
    lesions_shown: int
    """Lesions that a shown box ever touches."""
    mean_delay_s: float | None
    """From a lesion's first box without hold-off to its first one with it."""
    frame_sensitivity: float | None
    """Share of the lesion frames on which a shown box touches a label."""


@dataclass(frozen=True, kw_only=True)
class AlarmTier:
    """What a detector at work would be heard and seen to say."""

    threshold: float
    num_procedures: int
    minutes: float | None
    rows: list[AlarmRow]
    """By hold-off; the operating point's own comes last where it is none of them."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What a filter leaves of the detections, run by run."""

    activation_lengths: list[tuple[int, float | None]]
    """Frames and frame rate of each false activation."""
    num_false_frames: int
    num_lesion_frames: int
    num_flagged: int
    first_shown_s: dict[str, float | None]
    """Of each lesion that was ever shown; None without a frame rate."""


def _show(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    point: OperatingPoint,
    frame_rates_hz: dict[str, float | None],
) -> _Shown:
    lengths: list[tuple[int, float | None]] = []
    num_false = num_lesion_frames = num_flagged = 0
    first: dict[str, float | None] = {}
    for run_id, positions in _by_run(frames).items():
        rate, alarm, length = frame_rates_hz[run_id], AlarmFilter(point), 0
        for index in positions:
            frame = frames[index]
            shown = alarm.show(predictions[index])
            overlaps = iou_matrix(shown.boxes_px, frame.truth.boxes_px) > FLAGGED_IOU
            is_false = bool((~overlaps.any(axis=1)).any())
            num_false += is_false
            if length and not is_false:
                lengths.append((length, rate))
            length = length + 1 if is_false else 0
            if len(frame.truth):
                num_lesion_frames += 1
                num_flagged += bool(overlaps.any())
            touched = np.asarray(overlaps.any(axis=0))
            for lesion, is_found in zip(frame.lesions, touched, strict=True):
                if lesion is not None and is_found and lesion.lesion_id not in first:
                    time_s = frame.number / rate if rate and frame.number is not None else None
                    first[lesion.lesion_id] = time_s
        if length:
            lengths.append((length, rate))
    return _Shown(
        activation_lengths=lengths,
        num_false_frames=num_false,
        num_lesion_frames=num_lesion_frames,
        num_flagged=num_flagged,
        first_shown_s=first,
    )


def alarm_row(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    point: OperatingPoint,
    frame_rates_hz: dict[str, float | None],
) -> AlarmRow:
    """Count the false activations of an operating point, and what it costs against no hold-off."""
    runs = _by_run(frames)
    shown = _show(frames, predictions, point=point, frame_rates_hz=frame_rates_hz)
    at_once = replace(point, hold_off_frames=0, hysteresis=None)
    base = _show(frames, predictions, point=at_once, frame_rates_hz=frame_rates_hz)
    rates = [frame_rates_hz[run_id] for run_id in runs]
    has_time = all(rate is not None for rate in rates)
    minutes = sum(len(p) / (frame_rates_hz[run_id] or 1) / 60 for run_id, p in runs.items())
    lengths_s = [length / (rate or 1) for length, rate in shown.activation_lengths]
    histogram = np.bincount(
        np.digitize(lengths_s, RUN_LENGTHS_S), minlength=len(RUN_LENGTHS_S) + 1
    ).tolist()
    delays = [
        time_s - before
        for lesion_id, time_s in shown.first_shown_s.items()
        if time_s is not None and (before := base.first_shown_s.get(lesion_id)) is not None
    ]
    return AlarmRow(
        hold_off_frames=point.hold_off_frames,
        lower_threshold=point.lower_threshold,
        false_activations=len(lengths_s),
        false_activations_per_procedure=len(lengths_s) / len(runs),
        false_activations_per_minute=len(lengths_s) / minutes if has_time else None,
        false_time_share=shown.num_false_frames / len(frames),
        run_lengths=histogram if has_time else None,
        lesions_shown=len(shown.first_shown_s),
        mean_delay_s=_mean(delays),
        frame_sensitivity=shown.num_flagged / shown.num_lesion_frames
        if shown.num_lesion_frames
        else None,
    )


def alarm_tier(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    point: OperatingPoint,
    frame_rates_hz: dict[str, float | None],
) -> AlarmTier:
    """Count alarms at the operating point's threshold for each hold-off; arguments as above."""
    points = [replace(point, hold_off_frames=n, hysteresis=None) for n in HOLD_OFFS]
    if point.hold_off_frames not in HOLD_OFFS or point.hysteresis is not None:
        points.append(point)
    runs = _by_run(frames)
    has_time = all(frame_rates_hz[run_id] is not None for run_id in runs)
    minutes = sum(len(p) / (frame_rates_hz[run_id] or 1) / 60 for run_id, p in runs.items())
    return AlarmTier(
        threshold=point.objectness,
        num_procedures=len(runs),
        minutes=minutes if has_time else None,
        rows=[
            alarm_row(frames, predictions, point=each, frame_rates_hz=frame_rates_hz)
            for each in points
        ],
    )
