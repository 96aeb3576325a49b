"""The table of box metrics that `train` and `eval` print."""

from haustra.cli.terminal import print_table
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
