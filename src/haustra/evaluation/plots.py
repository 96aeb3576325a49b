"""The plots of an evaluation: learning curves, precision and recall, FROC, calibration, alarms.

A panel is a function that draws on one pair of axes; panels without data are left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from haustra.core.errors import needs_extra
from haustra.core.paths import StrPath
from haustra.evaluation.alarm_tier import AlarmTier
from haustra.evaluation.calibration import Calibration
from haustra.evaluation.degrade import KINDS, SEVERITIES, DegradationResult
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.frame_tier import FrocCurves
from haustra.evaluation.metrics import ranked_matches
from haustra.evaluation.results import EvaluationResult

COLUMNS = 3
PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 4.3, 3.7

Panel = Callable[[Any], None]


def import_pyplot() -> Any:
    """Return matplotlib's pyplot, drawing to files."""
    with needs_extra("train", needed_for="a report"):
        import matplotlib as mpl
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _draw_panels(path: StrPath, panels: list[Panel], *, width_in: float = PANEL_WIDTH_IN) -> None:
    """Draw panels as one PNG, three in a row."""
    pyplot = import_pyplot()
    columns, rows = min(COLUMNS, len(panels)), -(-len(panels) // COLUMNS)
    size = (width_in * columns, PANEL_HEIGHT_IN * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_curves(path: StrPath, *, history: list[dict[str, Any]], evaluation: Evaluation) -> None:
    """Draw precision against recall and, where it is known, the training by epoch as one PNG."""
    panels: list[Panel] = []
    if history:
        panels.append(partial(_draw_loss, history=history))
    if validated := [entry for entry in history if "val" in entry]:
        panels.append(partial(_draw_validation, validated=validated))
    panels.append(partial(_draw_precision_recall, evaluation=evaluation))
    _draw_panels(path, panels)


def _draw_loss(axis: Any, *, history: list[dict[str, Any]]) -> None:
    epochs = [entry["epoch"] for entry in history]
    axis.plot(epochs, [entry["loss"] for entry in history], color="tab:blue")
    axis.set(title="training loss", xlabel="epoch", yscale="log")


def _draw_validation(axis: Any, *, validated: list[dict[str, Any]]) -> None:
    for key, label in (("ap50", "AP50"), ("ap50_95", "AP50-95")):
        values = [entry["val"]["average_precision"][key] for entry in validated]
        axis.plot([entry["epoch"] for entry in validated], values, marker="o", label=label)
    axis.set(title="validation during training", xlabel="epoch", ylim=(0, 1))
    axis.legend(loc="lower right")


def _draw_precision_recall(axis: Any, *, evaluation: Evaluation) -> None:
    _, hits = ranked_matches(evaluation.truths, evaluation.predictions)
    found = np.cumsum(hits)
    recall = found / max(1, evaluation.metrics.num_truths)
    axis.plot(recall, found / np.arange(1, len(found) + 1), color="tab:green")
    axis.set(title="precision against recall, IoU 0.5", xlabel="recall", ylabel="precision")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))


def draw_clinical(path: StrPath, *, result: EvaluationResult) -> None:
    """Draw FROC, AFROC, reliability, scores and, in time, the hold-off sweep as one PNG."""
    panels: list[Panel] = [partial(_draw_froc, froc=result.froc)]
    if result.froc.flagged_clean_share is not None:
        panels.append(partial(_draw_afroc, result=result))
    if result.calibration.num_boxes:
        panels.append(partial(_draw_reliability, calibration=result.calibration))
        panels.append(partial(_draw_scores, calibration=result.calibration))
    if result.alarms is not None:
        rows = result.alarms.rows
        saved = [row.false_activations_per_minute for row in rows]
        spent = [row.mean_delay_s or 0 for row in rows]
        draw = partial(_draw_hold_off, alarms=result.alarms)
        panels.append(partial(draw, title="false alarms a minute", heights=saved))
        panels.append(partial(draw, title="mean delay of the first box, s", heights=spent))
    _draw_panels(path, panels)


def _draw_froc(axis: Any, *, froc: FrocCurves) -> None:
    axis.plot(froc.false_boxes_per_image, froc.sensitivity, marker=".", color="tab:purple")
    axis.set(title="FROC", xlabel="false boxes per image", ylabel="sensitivity, any overlap")
    axis.set(xlim=(0, 4), ylim=(0, 1.02))


def _draw_afroc(axis: Any, *, result: EvaluationResult) -> None:
    froc = result.froc
    axis.plot(froc.flagged_clean_share, froc.sensitivity, marker=".", color="tab:purple")
    axis.set(title="AFROC", xlabel="false-positive rate", ylabel="sensitivity, any overlap")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    rate = result.frames.false_positive_rate
    axis.axvline(rate, color="tab:red", ls="--", label="operating point")
    axis.legend(loc="lower right")


def _draw_reliability(axis: Any, *, calibration: Calibration) -> None:
    filled = [found for found in calibration.bins if found.count]
    scores, shares = zip(*((found.mean_score, found.share_right) for found in filled), strict=True)
    axis.plot([0, 1], [0, 1], color="gray", lw=1)
    axis.plot(scores, shares, marker="o", color="tab:orange")
    title = f"reliability, expected error {calibration.expected_error:.3f}"
    axis.set(title=title, xlabel="score", ylabel="share right", ylim=(0, 1))


def _draw_scores(axis: Any, *, calibration: Calibration) -> None:
    middles = [(found.low + found.high) / 2 for found in calibration.bins]
    width = calibration.bins[0].high
    right, wrong = calibration.right_counts, calibration.wrong_counts
    axis.bar(middles, right, width, label="right", color="tab:green")
    axis.bar(middles, wrong, width, bottom=right, label="false", color="tab:red")
    axis.set(title="boxes by score", xlabel="score", ylabel="boxes", yscale="symlog")
    axis.legend()


def _draw_hold_off(axis: Any, *, alarms: AlarmTier, title: str, heights: list[float]) -> None:
    names = [
        f"{row.hold_off_frames}" + "*" * (row.lower_threshold < alarms.threshold)
        for row in alarms.rows
    ]
    axis.bar(names, heights)
    axis.set(title=title, xlabel="hold-off, frames (* with hysteresis)")
    axis.set_ylim(0, 1.05 * max(heights) or 1)


def draw_degradation_scores(path: StrPath, *, degradations: DegradationResult) -> None:
    """Draw recall by kind and severity of degradation as one PNG."""
    panel = partial(_draw_degradations, degradations=degradations)
    _draw_panels(path, [panel], width_in=COLUMNS * PANEL_WIDTH_IN)


def _draw_degradations(axis: Any, *, degradations: DegradationResult) -> None:
    for offset, severity in enumerate(SEVERITIES):
        of_severity = [score for score in degradations.scores if score.severity == severity]
        values = [score.recall or 0.0 for score in of_severity]
        places = np.arange(len(KINDS)) + 0.27 * (offset - 1)
        axis.bar(places, values, 0.25, label=f"severity {severity}", alpha=0.95 - 0.2 * offset)
    axis.axhline(degradations.clean.recall or 0.0, color="black", ls="--", label="clean")
    axis.set(title="recall, degraded images", ylim=(0, 1), xticks=range(len(KINDS)))
    axis.set_xticklabels(KINDS)
    axis.legend(loc="lower right", ncols=4)
