"""The tables of numbers that `train` and `eval` print."""

from pathlib import Path

from haustra.cli.terminal import print_lines, print_table
from haustra.evaluation.alarm_tier import AlarmTier
from haustra.evaluation.bootstrap import LEVEL_PERCENT, BootstrapIntervals
from haustra.evaluation.calibration import Calibration
from haustra.evaluation.compare import Comparison
from haustra.evaluation.degrade import KINDS, SEVERITIES, DegradationResult
from haustra.evaluation.frame_tier import FrameTier
from haustra.evaluation.lesion_tier import LesionTier
from haustra.evaluation.metrics import BoxMetrics

SHOWN_LESIONS = 20


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_scores(metrics: dict[str, BoxMetrics]) -> None:
    """Print one row of box metrics per name."""
    rows = []
    for name, measured in metrics.items():
        scores, counts = measured.average_precision, measured.at_threshold
        rows.append(
            [
                name,
                str(measured.num_images),
                str(measured.num_truths),
                _text(scores.ap50),
                _text(scores.ap75),
                _text(scores.ap50_95),
                f"{counts.threshold:g}",
                _text(counts.precision),
                _text(counts.recall),
                _text(counts.f1),
                _text(counts.duplicates_per_truth),
            ]
        )
    print_table(
        [
            "split",
            "images",
            "polyps",
            "AP50",
            "AP75",
            "AP50-95",
            "score >=",
            "precision",
            "recall",
            "F1",
            "duplicates",
        ],
        rows=rows,
    )


def print_intervals(intervals: BootstrapIntervals) -> None:
    """Print the bootstrap intervals of an evaluation, in a line."""
    found = {
        "AP50": intervals.ap50,
        "AP75": intervals.ap75,
        "AP50-95": intervals.ap50_95,
        "precision": intervals.precision,
        "recall": intervals.recall,
        "F1": intervals.f1,
    }
    parts = (
        f"{name} -" if ends is None else f"{name} {ends[0]:.3f} to {ends[1]:.3f}"
        for name, ends in found.items()
    )
    print_lines(
        [
            f"{LEVEL_PERCENT} % interval over groups: {', '.join(parts)} "
            f"({intervals.num_groups} groups, {intervals.num_resamples} resamples)"
        ]
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def print_frames(frames: FrameTier, *, calibration: Calibration) -> None:
    """Print what is flagged by frame, and how far scores are from shares, in two lines."""
    print_lines(
        [
            f"frames: sensitivity {_percent(frames.sensitivity)} ({frames.true_positives} of "
            f"{frames.num_lesion_frames} with a polyp), false-positive rate "
            f"{_percent(frames.false_positive_rate)} ({frames.false_positives} of "
            f"{frames.num_clean_frames} clean)",
            f"calibration: expected error {_text(calibration.expected_error)}, largest "
            f"{_text(calibration.largest_error)}, of {calibration.num_boxes} boxes",
        ]
    )


_YES = {None: "-", True: "yes", False: "no"}


def print_lesions(lesions: LesionTier) -> None:
    """Print a row per lesion, as far as there are not too many, and a row of all."""
    rows = [
        [
            row.lesion_id,
            str(row.num_visible_frames),
            _percent(row.detected_share),
            _YES[row.detected_ever],
            _YES[row.detected_25_percent],
            _YES[row.detected_50_percent],
            _YES[row.detected_within_1_s],
            _YES[row.detected_within_3_s],
            _YES[row.detected_within_5_s],
            _text(row.first_detection_s),
            str(row.longest_gap_frames),
            _text(row.flicker_per_s),
        ]
        for row in lesions.rows[:SHOWN_LESIONS]
    ]
    left = len(lesions.rows) - len(rows)
    counts = (
        lesions.detected_ever,
        lesions.detected_25_percent,
        lesions.detected_50_percent,
        lesions.detected_within_1_s,
        lesions.detected_within_3_s,
        lesions.detected_within_5_s,
    )
    rows.append(
        [
            f"all {lesions.num_lesions} lesions" + (f" ({left} not shown)" if left else ""),
            str(sum(row.num_visible_frames for row in lesions.rows)),
            _percent(lesions.mean_detected_share),
            *(str(count) for count in counts),
            _text(lesions.mean_first_detection_s),
            str(max(row.longest_gap_frames for row in lesions.rows)),
            _text(lesions.mean_flicker_per_s),
        ]
    )
    print_table(
        [
            "lesion",
            "frames",
            "detected",
            "ever",
            ">= 25%",
            ">= 50%",
            "in 1 s",
            "in 3 s",
            "in 5 s",
            "first, s",
            "gap",
            "flicker/s",
        ],
        rows=rows,
    )
    if lesions.num_boxes_without_identity:
        print_lines([f"{lesions.num_boxes_without_identity} boxes name no lesion: in no row"])


def print_alarms(alarms: AlarmTier) -> None:
    """Print a row of false activations, and of what silence costs, per hold-off."""
    print_table(
        [
            "hold-off",
            "kept on from",
            "false activations",
            "per minute",
            "per procedure",
            "false time",
            "<0.5 s",
            "<1 s",
            "<2 s",
            ">=2 s",
            "lesions",
            "delay, s",
            "frames flagged",
        ],
        rows=[
            [
                str(row.hold_off_frames),
                f"{row.lower_threshold:.3g}",
                str(row.false_activations),
                _text(row.false_activations_per_minute),
                f"{row.false_activations_per_procedure:.2f}",
                _percent(row.false_time_share),
                *(map(str, row.run_lengths) if row.run_lengths else ["-"] * 4),
                str(row.lesions_shown),
                _text(row.mean_delay_s),
                _percent(row.frame_sensitivity),
            ]
            for row in alarms.rows
        ],
    )


def print_degradations(result: DegradationResult) -> None:
    """Print recall by kind and severity."""
    recall = {(score.kind, score.severity): score.recall for score in result.scores}
    print_table(
        ["recall when degraded", *(f"severity {severity}" for severity in SEVERITIES)],
        rows=[
            ["clean", *[_text(result.clean.recall)] * len(SEVERITIES)],
            *(
                [kind, *(_text(recall[kind, severity]) for severity in SEVERITIES)]
                for kind in KINDS
            ),
        ],
    )
    print_lines(
        [f"worst: {result.worst.kind} {result.worst.severity}, recall {result.worst.recall:.3f}"]
    )


def print_comparison(comparison: Comparison, *, paths: tuple[Path, Path]) -> None:
    """Print a row per metric: both detectors, the difference and its interval."""
    print_lines([f"A {paths[0]}", f"B {paths[1]}"])
    names = {"ap50": "AP50", "ap75": "AP75", "ap50_95": "AP50-95", "f1": "F1"}
    print_table(
        ["metric", "A", "B", "B - A", f"{LEVEL_PERCENT} % interval", "B better in"],
        rows=[
            [
                names.get(found.metric, found.metric),
                _text(found.a),
                _text(found.b),
                f"{found.difference:+.3f}",
                f"{found.interval[0]:+.3f} to {found.interval[1]:+.3f}",
                _percent(found.share_b_better),
            ]
            for found in comparison.differences
        ],
    )
    print_lines(
        [
            f"{comparison.num_images} images, {comparison.num_groups} groups, "
            f"{comparison.num_resamples} resamples, paired"
        ]
    )
