"""`haustra eval`."""

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from haustra.cli.scores import (
    print_alarms,
    print_comparison,
    print_degradations,
    print_frames,
    print_intervals,
    print_lesions,
    print_scores,
)
from haustra.cli.terminal import build_progress, print_json, print_lines, print_problems
from haustra.core.backend_names import wanted_backend
from haustra.evaluation.config import EvalConfig


def evaluate(
    *,
    config: Annotated[EvalConfig | None, Parameter(name="*")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure a detector on a split or on captures: boxes, frames, lesions, alarms, calibration.

    Parameters
    ----------
    as_json
        Print JSON to standard output.
    """
    from haustra.evaluation.stage import compare_weights, evaluate_detector
    from haustra.inference.detector import open_detector

    config = config or EvalConfig()
    progress = build_progress(as_json=as_json)
    opener = partial(open_detector, kind=config.model, backend=config.backend)
    if config.compare is not None:
        comparison = compare_weights(config, open_detector=opener, progress=progress)
        if as_json:
            print_json(comparison.to_json())
        else:
            print_comparison(comparison, paths=config.compare)
        return
    result = evaluate_detector(config, open_detector=opener, progress=progress)
    if as_json:
        print_json(result.summary | {"report": [str(path) for path in result.report]})
        return
    if wanted_backend(config.backend) != "ndarray" and result.summary["backend"]:
        print_lines([result.summary["backend"]])
    name: str = "captures" if config.captures is not None else config.split_name
    if config.shuffle_labels_seed is not None:
        name += " (labels shuffled)"
    print_scores({name: result.evaluation.metrics})
    point = result.operating_point
    text = f"threshold {point.objectness:.3g}: {result.summary['threshold_from']}"
    if point.fitted is not None:
        text += (
            f"; hold-off {point.hold_off_frames} frames, kept on from {point.lower_threshold:.3g}"
        )
    print_lines([text])
    if result.intervals is not None:
        print_intervals(result.intervals)
    print_frames(result.frames, calibration=result.calibration)
    if result.lesions is not None:
        print_lesions(result.lesions)
    if result.alarms is not None:
        print_alarms(result.alarms)
    if result.degradations is not None:
        print_degradations(result.degradations)
    print_problems(result.notes)
    written = [*result.report, config.metrics_out, config.predictions_out]
    print_lines(f"wrote {path}" for path in written if path)
