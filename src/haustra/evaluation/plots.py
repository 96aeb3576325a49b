"""The plots of an evaluation: learning curves, precision and recall, FROC, calibration, alarms."""

from pathlib import Path
from typing import Any

import numpy as np

from haustra.core.boxes import FloatArray
from haustra.core.errors import MissingExtraError
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.metrics import match_detections


def import_pyplot() -> Any:
    """Return matplotlib's pyplot, drawing to files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("matplotlib", extra="train", needed_for="--report") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def precision_recall(evaluation: Evaluation) -> tuple[FloatArray, FloatArray]:
    """Return recall and precision, both [K], at each detection's score, falling; IoU 0.5."""
    scores, hits = [], []
    for truth, prediction in zip(evaluation.truths, evaluation.predictions, strict=True):
        matched, _, _ = match_detections(truth, prediction)
        scores.append(prediction.scores)
        hits.append(matched >= 0)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    found = np.cumsum(np.concatenate(hits)[order])
    recall = found / max(1, evaluation.metrics.num_truths)
    return recall, found / np.arange(1, len(found) + 1)


def _finish(figure: Any, axes: Any, *, path: Path) -> None:
    for axis in np.ravel(axes):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    import_pyplot().close(figure)


def draw_curves(
    path: Path, *, history: list[dict[str, Any]], evaluation: Evaluation, name: str
) -> None:
    """Draw the training's loss and validation, and precision against recall."""
    figure, axes = import_pyplot().subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    epochs = [entry["epoch"] for entry in history]
    axes[0].plot(epochs, [entry["loss"] for entry in history], color="tab:blue")
    axes[0].set(title="training loss", xlabel="epoch", yscale="log" if history else "linear")
    validated = [entry for entry in history if "val" in entry]
    for key, label in (("ap50", "AP50"), ("ap50_95", "AP50-95")):
        values = [entry["val"]["average_precision"][key] for entry in validated]
        axes[1].plot([entry["epoch"] for entry in validated], values, marker="o", label=label)
    axes[1].set(title="validation during training", xlabel="epoch", ylim=(0, 1))
    axes[1].legend(loc="lower right")
    recall, precision = precision_recall(evaluation)
    axes[2].plot(recall, precision, color="tab:green")
    axes[2].set(
        title=f"precision against recall, {name}, IoU 0.5",
        xlabel="recall",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    _finish(figure, axes, path=path)


def draw_clinical(path: Path, *, summary: dict[str, Any]) -> None:
    """Draw FROC, AFROC, reliability, score histograms and, of frames in time, the hold-off sweep.

    Args:
        path: the PNG file.
        summary: of the evaluation, as JSON values.
    """
    figure, axes = import_pyplot().subplots(2, 3, figsize=(13, 7.4), layout="constrained")
    _draw_froc(axes[0, 0], axes[0, 1], summary=summary)
    _draw_calibration(axes[0, 2], axes[1, 0], calibration=summary["calibration"])
    _draw_alarms(axes[1, 1], axes[1, 2], alarms=summary["alarms"])
    _finish(figure, axes, path=path)


def _draw_froc(froc_axis: Any, afroc_axis: Any, *, summary: dict[str, Any]) -> None:
    froc = summary["froc"]
    for axis, values, title, label in (
        (froc_axis, froc["false_boxes_per_image"], "FROC", "false boxes per image"),
        (afroc_axis, froc["flagged_clean_share"], "AFROC", "share of clean frames flagged"),
    ):
        axis.set(title=title, xlabel=label, ylabel="sensitivity, any overlap", ylim=(0, 1.02))
        if values is None:
            axis.text(0.5, 0.5, "no clean frame", ha="center", transform=axis.transAxes)
            continue
        axis.plot(values, froc["sensitivity"], marker=".", color="tab:purple")
    froc_axis.set(xlim=(0, 4))
    frames = summary["frames"]
    if froc["flagged_clean_share"] is not None and frames["sensitivity"] is not None:
        afroc_axis.set(xlim=(0, 1))
        afroc_axis.axvline(
            frames["false_positive_rate"], color="tab:red", ls="--", label="operating point"
        )
        afroc_axis.legend(loc="lower right")


def _draw_calibration(reliability: Any, histogram: Any, *, calibration: dict[str, Any]) -> None:
    filled = [found for found in calibration["bins"] if found["count"]]
    reliability.plot([0, 1], [0, 1], color="grey", lw=1)
    reliability.plot(
        [found["mean_score"] for found in filled],
        [found["share_right"] for found in filled],
        marker="o",
        color="tab:orange",
    )
    error = calibration["expected_error"]
    text = "" if error is None else f", expected error {error:.3f}"
    reliability.set(title=f"reliability{text}", xlabel="score", ylabel="share right", ylim=(0, 1))
    middles = [(found["low"] + found["high"]) / 2 for found in calibration["bins"]]
    width = calibration["bins"][0]["high"]
    histogram.bar(middles, calibration["right_counts"], width, label="right", color="tab:green")
    histogram.bar(
        middles,
        calibration["wrong_counts"],
        width,
        bottom=calibration["right_counts"],
        label="false",
        color="tab:red",
    )
    histogram.set(title="boxes by score", xlabel="score", yscale="symlog")
    histogram.legend()


def _draw_alarms(sweep: Any, cost: Any, *, alarms: dict[str, Any] | None) -> None:
    if alarms is None:
        for axis in (sweep, cost):
            axis.text(0.5, 0.5, "frames not in time", ha="center", transform=axis.transAxes)
        return
    rows = alarms["rows"]
    names = [
        str(row["hold_off_frames"]) + ("*" if row["lower_threshold"] < alarms["threshold"] else "")
        for row in rows
    ]
    sweep.bar(names, [row["false_activations_per_procedure"] for row in rows], color="tab:red")
    sweep.set(title="what hold-off saves", xlabel="hold-off, frames (* with hysteresis)")
    sweep.set_ylabel("false activations per procedure")
    cost.bar(names, [row["mean_delay_s"] or 0 for row in rows], color="tab:blue")
    cost.set(title="what it costs", xlabel="hold-off, frames (* with hysteresis)")
    cost.set_ylabel("mean delay of the first box, s")


def draw_degradation_scores(path: Path, *, degradations: dict[str, Any]) -> None:
    """Draw recall by kind and severity of degradation."""
    scores = degradations["scores"]
    kinds = list(dict.fromkeys(score["kind"] for score in scores))
    severities = sorted({score["severity"] for score in scores})
    figure, axis = import_pyplot().subplots(figsize=(13, 3.6), layout="constrained")
    for offset, severity in enumerate(severities):
        values = [score["recall"] for score in scores if score["severity"] == severity]
        places = np.arange(len(kinds)) + 0.27 * (offset - 1)
        axis.bar(places, values, 0.25, label=f"severity {severity}", alpha=0.95 - 0.2 * offset)
    axis.axhline(degradations["clean"]["recall"], color="black", ls="--", label="clean")
    axis.set(title="recall, degraded images", ylim=(0, 1), xticks=range(len(kinds)))
    axis.set_xticklabels(kinds)
    axis.legend(loc="lower right", ncols=4)
    _finish(figure, axis, path=path)
