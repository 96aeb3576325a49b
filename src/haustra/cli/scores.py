"""The table of box metrics that `train` and `eval` print."""

from haustra.cli.terminal import print_lines, print_table
from haustra.evaluate.bootstrap import LEVEL_PERCENT, BootstrapIntervals
from haustra.evaluate.metrics import BoxMetrics


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
