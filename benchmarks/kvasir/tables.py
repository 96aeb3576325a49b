"""The tables of the comparison. Measures nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.kvasir.latency import Latency
from benchmarks.kvasir.results import Result, Row
from benchmarks.measure import NOTHING, markdown_table


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One form of one detector at one size of images."""

    name: str
    form: str
    size: int
    latency: Latency


def accuracy_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of accuracy and training speed, a line per detector."""
    columns = (
        "detector",
        "epochs",
        "images/s",
        "AP50",
        "AP75",
        "AP50-95",
        "duplicates",
        "one-to-one less dense + NMS",
        "AP50, labels shuffled",
    )
    return markdown_table(
        columns,
        [
            (
                row.name,
                row.spread(lambda result: result.epochs, digits=0),
                row.spread(lambda result: result.images_per_s, digits=1),
                row.spread(lambda result: result.scores.ap50),
                row.spread(lambda result: result.scores.ap75),
                row.spread(lambda result: result.scores.ap50_95),
                row.spread(lambda result: result.scores.duplicates),
                row.spread(lambda result: result.one_to_one_difference, digits=4),
                row.spread(lambda result: result.shuffled_ap50),
            )
            for row in rows
        ],
    )


def forms_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of float32 against int8, a line per detector that has both."""
    both = [row for row in rows if all(result.int8 for result in row.results)]
    return markdown_table(
        ("detector", "parameters", "AP50", "AP50, int8", "AP50-95", "AP50-95, int8"),
        [
            (
                row.name,
                f"{row.results[0].parameters or 0:,}",
                row.spread(lambda result: result.scores.ap50, digits=4),
                row.spread(lambda result: result.int8.ap50 if result.int8 else None, digits=4),
                row.spread(lambda result: result.scores.ap50_95, digits=4),
                row.spread(lambda result: result.int8.ap50_95 if result.int8 else None, digits=4),
            )
            for row in both
        ],
    )


def origin_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of trainings of this call and of earlier ones."""

    def seeds_text(results: Sequence[Result]) -> str:
        return ", ".join(str(result.seed) for result in results) or "none"

    return markdown_table(
        ("detector", "seeds trained now", "seeds reused", "trainings finished"),
        [
            (
                row.name,
                seeds_text([result for result in row.results if not result.reused]),
                seeds_text([result for result in row.results if result.reused]),
                " to ".join(sorted({times[0], times[-1]})),
            )
            for row in rows
            for times in [sorted(result.finished_at for result in row.results)]
        ],
    )


def latency_table(latencies: Sequence[LatencyRow]) -> list[str]:
    """Return the table of latencies, a line per form of a detector and size."""

    def ratio_text(latency: Latency) -> str:
        if latency.ratio is None:
            return NOTHING
        low, middle, high = latency.ratio
        return f"{middle:.3f} ({low:.3f}..{high:.3f})"

    return markdown_table(
        ("size", "detector", "form", "median ms", "ratio to YOLO11n (quartiles)"),
        [
            (
                str(row.size),
                row.name,
                row.form,
                f"{row.latency.median_ms:.2f}",
                ratio_text(row.latency),
            )
            for row in latencies
        ],
    )
