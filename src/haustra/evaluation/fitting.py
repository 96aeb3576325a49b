"""Fits the operating point: a score threshold by frames, then hold-off and hysteresis in time.

Scores of two detectors are not comparable, so each gets the threshold at which it flags the same
share of clean frames (4.5 %, TRUE-Colon's matched operating point). Fit on validation frames, and
measure on others.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from haustra.core.detections import Detections
from haustra.core.errors import HaustraError, option
from haustra.core.operating_point import OperatingPoint
from haustra.evaluation.alarm_tier import HOLD_OFFS, AlarmRow, alarm_row
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.frame_tier import frame_scores, import_true_colon
from haustra.evaluation.frames import TimedRun, timed_runs
from haustra.evaluation.metrics import ranked_matches

FitRule = Literal["fpr", "f1"]
HYSTERESIS_SHARES = (None, 0.75, 0.5)
"""Lower thresholds to try, as a share of the threshold; None turns hysteresis off."""
MOST_DELAY_S = 0.5  # largest mean delay of a lesion's first box that hold-off may cause


def best_f1_threshold(
    truths: Sequence[Detections], predictions: Sequence[Detections]
) -> tuple[float, float]:
    """Return the score threshold with the best F1 at IoU 0.5, and that F1.

    Of equal ones the highest threshold is taken.
    """
    falling, hits = ranked_matches(truths, predictions)
    # Detections of equal score are shown together.
    ends = np.flatnonzero(np.diff(falling, append=-1.0))
    num_truths = sum(len(truth) for truth in truths)
    f1s = 2 * np.cumsum(hits)[ends] / (num_truths + ends + 1)
    if not f1s.any():
        raise HaustraError(
            f"{option('fit', True)}: no detection overlaps a labeled box by IoU 0.5, so no "
            "threshold is better than another; train the detector first"
        )
    best = int(np.argmax(f1s))
    return float(falling[ends[best]]), float(f1s[best])


def threshold_at_rate(
    positive: Sequence[float], negative: Sequence[float], *, target_fpr: float
) -> tuple[float, dict[str, Any]] | None:
    """Return the lowest threshold that flags at most a share of the clean frames, and its record.

    Args:
        positive: One score per frame with a polyp: the highest that would flag it.
        negative: One score per clean frame.
        target_fpr: Largest share of the clean frames that may be flagged, 0..1.

    Returns:
        None if the clean frames are too few for the rate, or too many of them have a score of 1.
    """
    if len(negative) * target_fpr < 1:
        return None
    found = import_true_colon().search_tau_star(positive, negative, target_fpr=target_fpr)
    if found.threshold > 1:
        return None
    return found.threshold, {
        "rule": "fpr",
        "target_fpr": target_fpr,
        "achieved_fpr": found.achieved_fpr,
        "achieved_sensitivity": found.achieved_tpr,
        "num_lesion_frames": len(positive),
        "num_clean_frames": len(negative),
    }


def _fit_threshold(
    evaluation: Evaluation, *, rule: FitRule, target_fpr: float, name: str
) -> tuple[float, dict[str, Any]]:
    """Return the threshold, and the record of its fit."""
    positive, negative = frame_scores(evaluation.truths, evaluation.predictions)
    if rule == "f1":
        threshold, f1 = best_f1_threshold(evaluation.truths, evaluation.predictions)
        numbers = {"num_lesion_frames": len(positive), "num_clean_frames": len(negative)}
        return threshold, {"rule": "f1", "f1": f1, **numbers}
    if found := threshold_at_rate(positive, negative, target_fpr=target_fpr):
        return found
    if len(negative) * target_fpr < 1:
        raise HaustraError(
            f"{option('fit_fpr', target_fpr)}: {name} has {len(negative)} clean frames, and such a "
            f"rate needs at least {int(np.ceil(1 / target_fpr))}; use frames with more, or pass "
            f"{option('fit_by', 'f1')}"
        )
    raise HaustraError(
        f"{option('fit_fpr', target_fpr)}: a larger share of the clean frames of {name} has a "
        f"score of 1; train the detector longer, or pass {option('fit_by', 'f1')}"
    )


def _fit_in_time(
    runs: Sequence[TimedRun], *, point: OperatingPoint
) -> tuple[OperatingPoint, AlarmRow]:
    """Choose the hold-off and hysteresis with the fewest false activations that lose no lesion."""
    base = alarm_row(runs, point=point)
    best, best_row = point, base
    for hold_off in HOLD_OFFS:
        for share in HYSTERESIS_SHARES:
            lower = None if share is None else share * point.objectness
            candidate = replace(point, hold_off_frames=hold_off, hysteresis=lower)
            found = alarm_row(runs, point=candidate)
            keeps_lesions = found.lesions_shown >= base.lesions_shown
            is_timely = (found.mean_delay_s or 0.0) <= MOST_DELAY_S
            is_quieter = found.false_time_share <= base.false_time_share
            is_better = found.false_activations < best_row.false_activations
            if keeps_lesions and is_timely and is_quieter and is_better:
                best, best_row = candidate, found
    return best, best_row


def fit_operating_point(
    evaluation: Evaluation,
    *,
    rule: FitRule,
    target_fpr: float,
    iou: float,
    name: str,
    frame_rates_hz: dict[str, float],
) -> OperatingPoint:
    """Fit an operating point to a detector's predictions.

    Args:
        rule: "fpr" takes the lowest threshold that flags at most `target_fpr` of the clean frames,
            "f1" the one with the best F1 of boxes.
        target_fpr: Largest share of the clean frames that may be flagged, 0..1.
        name: Name of the frames, for messages and the record.
        frame_rates_hz: Frame rate of each run in time order. On these runs hold-off (0, 3, 6, 15
            frames) and hysteresis (none, 3/4, 1/2 of the threshold) are those with the fewest
            false activations that lose no lesion, delay the first box by 0.5 s at most in the mean,
            and do not lengthen the false time. Without such a run both stay off.

    Raises:
        HaustraError: There are too few clean frames for the rate, or nothing is detected.
    """
    threshold, how = _fit_threshold(evaluation, rule=rule, target_fpr=target_fpr, name=name)
    point = OperatingPoint(objectness=threshold, iou=iou)
    frames, predictions = evaluation.frames, evaluation.predictions
    if runs := timed_runs(frames, predictions, frame_rates_hz=frame_rates_hz):
        point, found = _fit_in_time(runs, point=point)
        how |= {"false_activations": found.false_activations, "lesions_shown": found.lesions_shown}
    return replace(point, fitted={**how, "fitted_on": name})
