"""The tables of an evaluation in words, the same in the terminal and in the report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from haustra.evaluation.alarm_tier import AlarmTier
from haustra.evaluation.bootstrap import LEVEL_PERCENT, BootstrapIntervals, Comparison, Interval
from haustra.evaluation.calibration import Calibration
from haustra.evaluation.degrade import KINDS, SEVERITIES, DegradationResult
from haustra.evaluation.frame_tier import FrameTier
from haustra.evaluation.lesion_tier import COUNTED, LesionTier
from haustra.evaluation.metrics import BoxMetrics
from haustra.evaluation.shrunk_tier import ShrunkScore
from haustra.evaluation.size_tier import SizeScore

_YES_OR_NO = {True: "yes", False: "no"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text, the name of each row first."""

    columns: list[str]
    rows: list[list[str]]


def _table(rows: Iterable[dict[str, str]]) -> Table:
    """Return the table of rows that have a cell for each heading."""
    columns, *_ = cells = [*rows]
    return Table(columns=list(columns), rows=[list(row.values()) for row in cells])


def decimal(value: float | None) -> str:
    """Return a number with three decimals, or a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def percent(share: float | None) -> str:
    """Return a share (0..1) in percent, or a dash where it is not defined."""
    return "-" if share is None else f"{share:.1%}"


def interval(ends: Interval | None, text: Callable[[float], str] = decimal) -> str:
    """Return the ends of an interval, or a dash where it is not defined."""
    return "-" if ends is None else f"{text(ends[0])} to {text(ends[1])}"


def score_table(
    metrics: dict[str, BoxMetrics], *, intervals: BootstrapIntervals | None = None
) -> Table:
    """Return a row of box metrics per name, and the ends of the intervals below them."""
    table = _table(
        {
            "split": name,
            "images": str(found.num_images),
            "polyps": str(found.num_truths),
            "AP50": decimal(found.average_precision.ap50),
            "AP75": decimal(found.average_precision.ap75),
            "AP50-95": decimal(found.average_precision.ap50_95),
            "score >=": f"{found.at_threshold.threshold:.3g}",
            "precision": decimal(found.at_threshold.precision),
            "recall": decimal(found.at_threshold.recall),
            "F1": decimal(found.at_threshold.f1),
            "duplicates": decimal(found.at_threshold.duplicates_per_truth),
        }
        for name, found in metrics.items()
    )
    if intervals is not None:
        ranking = (intervals.ap50, intervals.ap75, intervals.ap50_95)
        counted = (intervals.precision, intervals.recall, intervals.f1)
        for end, name in enumerate((f"  {LEVEL_PERCENT}% from", "  to")):
            before = [decimal(ends and ends[end]) for ends in ranking]
            after = [decimal(ends and ends[end]) for ends in counted]
            table.rows.append([name, "", "", *before, "", *after, ""])
    return table


def frame_table(frames: FrameTier, *, intervals: BootstrapIntervals | None) -> Table:
    """Return the rates of flagged frames with their counts, the two main ones first."""
    polyps = f"{frames.true_positives} of {frames.num_lesion_frames} with a polyp"
    clean = f"{frames.false_positives} of {frames.num_clean_frames} clean"

    def row(name: str, value: str, counts: str = "", ends: Interval | None = None) -> list[str]:
        return [name, value, interval(ends, text=percent) if ends else "", counts]

    polyp_ends = intervals.sensitivity if intervals else None
    clean_ends = intervals.false_positive_rate if intervals else None
    sensitivity, rate = percent(frames.sensitivity), percent(frames.false_positive_rate)
    return Table(
        columns=["frames", "value", f"{LEVEL_PERCENT}% interval" if intervals else "", "flagged"],
        rows=[
            row("sensitivity", sensitivity, polyps, polyp_ends),
            row("false-positive rate", rate, clean, clean_ends),
            row("specificity", percent(frames.specificity)),
            row("precision", percent(frames.precision)),
            row("F1", decimal(frames.f1)),
            row("F2", decimal(frames.f2)),
        ],
    )


def calibration_text(calibration: Calibration) -> str:
    """Return how far scores are from the shares of right boxes, in one line."""
    return (
        f"calibration: expected error {decimal(calibration.expected_error)}, largest "
        f"{decimal(calibration.largest_error)}, of {calibration.num_boxes} boxes"
    )


def lesion_table(lesions: LesionTier, *, limit: int | None = None) -> Table:
    """Return a row per lesion, at most `limit`, and a row of all."""
    table = _table(
        {
            "lesion": row.lesion_id,
            "frames": str(row.num_visible_frames),
            "detected": percent(row.detected_share),
            "ever": _YES_OR_NO[row.detected_ever],
            ">= 25%": _YES_OR_NO[row.detected_25_percent],
            ">= 50%": _YES_OR_NO[row.detected_50_percent],
            "in 1 s": _YES_OR_NO[row.detected_within_1_s],
            "in 3 s": _YES_OR_NO[row.detected_within_3_s],
            "in 5 s": _YES_OR_NO[row.detected_within_5_s],
            "first, s": decimal(row.first_detection_s),
            "gap": str(row.longest_gap_frames),
            "flicker/s": decimal(row.flicker_per_s),
        }
        for row in lesions.rows[:limit]
    )
    left = len(lesions.rows) - len(table.rows)
    table.rows.append(
        [
            f"all {lesions.num_lesions} lesions" + (f" ({left} not shown)" if left else ""),
            str(sum(row.num_visible_frames for row in lesions.rows)),
            percent(lesions.mean_detected_share),
            *(str(getattr(lesions, name)) for name in COUNTED),
            decimal(lesions.mean_first_detection_s),
            str(max(row.longest_gap_frames for row in lesions.rows)),
            decimal(lesions.mean_flicker_per_s),
        ]
    )
    return table


def alarm_table(alarms: AlarmTier) -> Table:
    """Return a row of false alarms, and of what silence costs, per hold-off."""
    return _table(
        {
            "hold-off": str(row.hold_off_frames),
            "off below": f"{row.lower_threshold:.3g}",
            "false alarms": str(row.false_activations),
            "per minute": f"{row.false_activations_per_minute:.2f}",
            "per run": f"{row.false_activations_per_procedure:.2f}",
            "false time": percent(row.false_time_share),
            "<0.5 s": str(row.run_lengths[0]),
            "<1 s": str(row.run_lengths[1]),
            "<2 s": str(row.run_lengths[2]),
            ">=2 s": str(row.run_lengths[3]),
            "lesions": str(row.lesions_shown),
            "delay, s": decimal(row.mean_delay_s),
            "sensitivity": percent(row.frame_sensitivity),
        }
        for row in alarms.rows
    )


def degradation_table(result: DegradationResult) -> Table:
    """Return recall by kind and severity."""
    recall = {(score.kind, score.severity): score.recall for score in result.scores}
    rows = [[kind, *(decimal(recall[kind, severity]) for severity in SEVERITIES)] for kind in KINDS]
    return Table(
        columns=["recall when degraded", *(f"severity {severity}" for severity in SEVERITIES)],
        rows=[["clean", *[decimal(result.clean.recall)] * len(SEVERITIES)], *rows],
    )


def size_table(sizes: list[SizeScore]) -> Table:
    """Return a row of scores for each size of polyps."""
    return _table(
        {
            "size of the polyp": f"{score.low:g} to {score.high:g}",
            "polyps": str(score.num_truths),
            "recall": decimal(score.recall),
            "AP50": decimal(score.ap50),
            "AP75": decimal(score.ap75),
            "AP50-95": decimal(score.ap50_95),
        }
        for score in sizes
    )


def shrunk_table(scores: list[ShrunkScore]) -> Table:
    """Return a row of scores for each size of the picture."""
    return _table(
        {
            "picture shrunk to": f"{score.share:g}",
            "recall": decimal(score.metrics.at_threshold.recall),
            "AP50": decimal(score.metrics.average_precision.ap50),
            "AP75": decimal(score.metrics.average_precision.ap75),
            "AP50-95": decimal(score.metrics.average_precision.ap50_95),
        }
        for score in scores
    )


def worst_degradation_text(result: DegradationResult) -> str:
    """Return the degradation that costs the most recall, in one line."""
    worst = result.worst
    if worst is None:
        return "recall: not measured, because no polyp is labeled"
    return (
        f"worst: {worst.kind} {worst.severity}, recall {decimal(worst.recall)}; "
        f"clean {decimal(result.clean.recall)}"
    )


_METRIC_NAMES = {"ap50": "AP50", "ap75": "AP75", "ap50_95": "AP50-95", "f1": "F1"}


def comparison_table(comparison: Comparison) -> Table:
    """Return a row per metric: both detectors, the difference and its interval."""
    return _table(
        {
            "metric": _METRIC_NAMES.get(row.metric, row.metric),
            "A": decimal(row.a),
            "B": decimal(row.b),
            "B - A": "-" if row.difference is None else f"{row.difference:+.3f}",
            f"{LEVEL_PERCENT}% interval": interval(row.interval, text="{:+.3f}".format),
            "B better in": percent(row.share_b_better),
        }
        for row in comparison.differences
    )
