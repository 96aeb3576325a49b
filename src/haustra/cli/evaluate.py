"""`haustra eval`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.scores import print_intervals, print_scores
from haustra.cli.terminal import build_progress, print_json, print_lines
from haustra.evaluate.config import EvalConfig


def evaluate(
    *,
    config: Annotated[EvalConfig, Parameter(name="*")],
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure a detector on a split: average precision, precision, recall, duplicates.

    Parameters
    ----------
    as_json
        Print JSON to standard output.
    """
    from haustra.evaluate.stage import evaluate_detector
    from haustra.infer.detector import open_detector

    detector = open_detector(config.detector_weights, kind=config.model)
    result = evaluate_detector(config, detector=detector, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(result.summary | {"report": [str(path) for path in result.report]})
        return
    name: str = config.split
    if config.shuffle_labels_seed is not None:
        name += " (labels shuffled)"
    print_scores({name: result.evaluation.metrics})
    if result.intervals is not None:
        print_intervals(result.intervals)
    print_lines(f"wrote {path}" for path in [*result.report, config.metrics_out] if path)
