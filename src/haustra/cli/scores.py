"""The numbers of an evaluation as `train` and `eval` print them."""

from haustra.cli.terminal import print_lines, print_table
from haustra.evaluation import tables
from haustra.evaluation.bootstrap import LEVEL_PERCENT, BootstrapIntervals
from haustra.evaluation.metrics import BoxMetrics
from haustra.evaluation.results import EvaluationResult

SHOWN_LESIONS = 20
SHOWN_RATES = 2
"""Sensitivity and false-positive rate; the report has the others."""


def print_scores(
    metrics: dict[str, BoxMetrics], *, intervals: BootstrapIntervals | None = None
) -> None:
    """Print one row of box metrics per name, and the intervals below it."""
    table = tables.score_table(metrics, intervals=intervals)
    print_table(table.columns, rows=table.rows)


def print_evaluation(result: EvaluationResult, *, name: str) -> None:
    """Print boxes, frames, calibration and, where they were measured, all other tables.

    Args:
        result: The evaluation.
        name: The name of the frames.
    """
    intervals, point = result.intervals, result.operating_point
    print_scores({name: result.evaluation.metrics}, intervals=intervals)
    table = tables.frame_table(result.frames, intervals=intervals)
    print_table(table.columns, rows=table.rows[:SHOWN_RATES])
    if intervals is not None:
        groups = f"{intervals.num_groups} group" + "s" * (intervals.num_groups != 1)
        print_lines(
            [f"{LEVEL_PERCENT}% intervals: {intervals.num_resamples} resamples of {groups}"]
        )
    threshold = f"threshold {point.objectness:.3g}: {result.summary['threshold_from']}"
    if point.fitted is not None:
        threshold += (
            f"; hold-off {point.hold_off_frames} frames, kept on from {point.lower_threshold:.3g}"
        )
    print_lines([threshold, tables.calibration_text(result.calibration)])
    if result.lesions is not None:
        table = tables.lesion_table(result.lesions, limit=SHOWN_LESIONS)
        print_table(table.columns, rows=table.rows)
        if result.lesions.num_boxes_without_identity:
            count = result.lesions.num_boxes_without_identity
            print_lines([f"{count} boxes name no lesion and are in no row"])
    if result.alarms is not None:
        table = tables.alarm_table(result.alarms)
        print_table(table.columns, rows=table.rows)
    if result.degradations is not None:
        table = tables.degradation_table(result.degradations)
        print_table(table.columns, rows=table.rows)
        print_lines([tables.worst_degradation_text(result.degradations)])
