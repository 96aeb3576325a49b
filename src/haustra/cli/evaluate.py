"""`haustra eval`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from haustra.cli.terminal import (
    Flags,
    Json,
    build_progress,
    print_result,
    problem_lines,
    table_lines,
)
from haustra.core.backend_names import wanted_backend
from haustra.core.plurals import counted
from haustra.evaluation import tables
from haustra.evaluation.bootstrap import LEVEL_PERCENT, Comparison
from haustra.evaluation.config import EvalConfig
from haustra.evaluation.results import EvaluationResult

SHOWN_LESIONS = 20


def evaluate(*, config: Annotated[EvalConfig | None, Flags] = None, as_json: Json = False) -> None:
    """Measure a detector on a split or on captures: boxes, frames, lesions, alarms, calibration."""
    from haustra.evaluation.stage import compare_weights, evaluate_detector

    config = config or EvalConfig()
    progress = build_progress(as_json=as_json)
    if config.compare is not None:
        comparison = compare_weights(config, progress=progress)
        lines = _comparison_lines(comparison, paths=config.compare)
        print_result(asdict(comparison), *lines, as_json=as_json)
        return
    result = evaluate_detector(config, progress=progress)
    name: str = "captures" if config.captures is not None else config.split_name
    if config.shuffle_labels_seed is not None:
        name += " (labels shuffled)"
    lines = _evaluation_lines(result, name=name) + problem_lines(result.notes)
    if wanted_backend(config.backend) != "cpu" and result.summary["backend"]:
        lines.insert(0, result.summary["backend"])
    written = [*result.report, config.metrics_out, config.predictions_out]
    lines += [f"wrote {path}" for path in written if path]
    print_result(result.to_json(), *lines, as_json=as_json)


def _lines(table: tables.Table) -> list[str]:
    return table_lines(table.columns, rows=table.rows)


def _evaluation_lines(result: EvaluationResult, *, name: str) -> list[str]:
    intervals, point = result.intervals, result.operating_point
    lines = _lines(tables.score_table({name: result.evaluation.metrics}, intervals=intervals))
    frames = tables.frame_table(result.frames, intervals=intervals)
    lines += table_lines(frames.columns, rows=frames.rows[:2])  # the report has the other rates
    if intervals is not None:
        groups = counted(intervals.num_groups, "group")
        lines.append(f"{LEVEL_PERCENT}% intervals: {intervals.num_resamples} resamples of {groups}")
    threshold = f"threshold {point.objectness:.3g}: {result.summary['threshold_from']}"
    if point.fitted is not None:
        threshold += (
            f"; hold-off {point.hold_off_frames} frames, kept on from {point.lower_threshold:.3g}"
        )
    lines += [threshold, tables.calibration_text(result.calibration)]
    if result.lesions is not None:
        lines += _lines(tables.lesion_table(result.lesions, limit=SHOWN_LESIONS))
        if count := result.lesions.num_boxes_without_identity:
            lines.append(f"{count} boxes name no lesion and are in no row")
    if result.alarms is not None:
        lines += _lines(tables.alarm_table(result.alarms))
    if result.degradations is not None:
        lines += _lines(tables.degradation_table(result.degradations))
        lines.append(tables.worst_degradation_text(result.degradations))
    if result.shrunk is not None:
        lines += _lines(tables.shrunk_table(result.shrunk))
    return lines


def _comparison_lines(comparison: Comparison, *, paths: tuple[Path, Path]) -> list[str]:
    return [
        *(f"A {paths[0]}", f"B {paths[1]}"),
        *_lines(tables.comparison_table(comparison)),
        f"{comparison.num_images} images, {comparison.num_groups} groups, "
        f"{comparison.num_resamples} resamples, paired",
    ]
