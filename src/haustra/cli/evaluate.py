"""`haustra eval`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from haustra.cli.terminal import (
    Flags,
    Json,
    build_progress,
    print_json,
    print_lines,
    problem_lines,
    table_lines,
)
from haustra.core.backend_names import wanted_backend
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
        if as_json:
            print_json(asdict(comparison))
        else:
            _print_comparison(comparison, paths=config.compare)
        return
    result = evaluate_detector(config, progress=progress)
    if as_json:
        print_json(result.to_json())
        return
    if wanted_backend(config.backend) != "cpu" and result.summary["backend"]:
        print_lines(result.summary["backend"])
    name: str = "captures" if config.captures is not None else config.split_name
    if config.shuffle_labels_seed is not None:
        name += " (labels shuffled)"
    _print_evaluation(result, name=name)
    print_lines(*problem_lines(result.notes))
    written = [*result.report, config.metrics_out, config.predictions_out]
    print_lines(*(f"wrote {path}" for path in written if path))


def _print_table(table: tables.Table) -> None:
    print_lines(*table_lines(table.columns, rows=table.rows))


def _print_evaluation(result: EvaluationResult, *, name: str) -> None:
    intervals, point = result.intervals, result.operating_point
    _print_table(tables.score_table({name: result.evaluation.metrics}, intervals=intervals))
    frames = tables.frame_table(result.frames, intervals=intervals)
    print_lines(
        *table_lines(frames.columns, rows=frames.rows[:2])
    )  # The report has the other rates.
    if intervals is not None:
        groups = f"{intervals.num_groups} group" + "s" * (intervals.num_groups != 1)
        print_lines(f"{LEVEL_PERCENT}% intervals: {intervals.num_resamples} resamples of {groups}")
    threshold = f"threshold {point.objectness:.3g}: {result.summary['threshold_from']}"
    if point.fitted is not None:
        threshold += (
            f"; hold-off {point.hold_off_frames} frames, kept on from {point.lower_threshold:.3g}"
        )
    print_lines(threshold, tables.calibration_text(result.calibration))
    if result.lesions is not None:
        _print_table(tables.lesion_table(result.lesions, limit=SHOWN_LESIONS))
        if result.lesions.num_boxes_without_identity:
            count = result.lesions.num_boxes_without_identity
            print_lines(f"{count} boxes name no lesion and are in no row")
    if result.alarms is not None:
        _print_table(tables.alarm_table(result.alarms))
    if result.degradations is not None:
        _print_table(tables.degradation_table(result.degradations))
        print_lines(tables.worst_degradation_text(result.degradations))
    if result.shrunk is not None:
        _print_table(tables.shrunk_table(result.shrunk))


def _print_comparison(comparison: Comparison, *, paths: tuple[Path, Path]) -> None:
    print_lines(f"A {paths[0]}", f"B {paths[1]}")
    _print_table(tables.comparison_table(comparison))
    print_lines(
        f"{comparison.num_images} images, {comparison.num_groups} groups, "
        f"{comparison.num_resamples} resamples, paired"
    )
