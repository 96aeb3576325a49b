"""The report of an evaluation: curves, a precision-recall plot, boxed pictures, one page, one JSON.

The gallery is spread evenly over the split, not chosen by how good it looks; misses and false
alarms have sheets of their own, the worst first.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import FloatArray, box_areas
from haustra.core.detections import Detections
from haustra.core.drawing import PREDICTION_RGB, TRUTH_RGB, draw_boxes, draw_text
from haustra.core.errors import MissingExtraError
from haustra.core.files import write_json_atomic, write_text_atomic
from haustra.core.images import write_png
from haustra.core.letterbox import Letterbox
from haustra.evaluate.bootstrap import LEVEL_PERCENT
from haustra.evaluate.evaluation import Evaluation
from haustra.evaluate.metrics import match_detections
from haustra.warehouse.reading import Split

NUM_PICTURES = 12
NUM_MISTAKES = 8
PICTURE_SIDE_PX = 288


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


def _to_stored(detections: Detections, *, letterbox: Letterbox) -> Detections:
    """Map detections from the source image to the stored, letterboxed one, in its pixels."""
    size_wh = letterbox.target_size_wh
    boxes = letterbox.boxes_to_target(detections.boxes_px) * np.tile(size_wh, 2)
    return Detections(boxes_px=boxes, scores=detections.scores, image_size_wh=size_wh)


def spread_evenly(evaluation: Evaluation, *, count: int = NUM_PICTURES) -> NDArray[np.int64]:
    """Return the numbers of `count` images (fewer if there are fewer) spread over the split."""
    last = len(evaluation.truths) - 1
    return np.unique(np.linspace(0, last, count).round().astype(np.int64))


def worst_mistakes(
    evaluation: Evaluation, *, count: int = NUM_MISTAKES
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images with the largest missed polyps, and with the surest false alarms.

    A second box on a polyp that is found is a duplicate, not a false alarm.
    """
    threshold = evaluation.metrics.at_threshold.threshold
    missed, alarmed = [], []
    for index, (truth, prediction) in enumerate(
        zip(evaluation.truths, evaluation.predictions, strict=True)
    ):
        shown = prediction.above(threshold)
        matched, duplicate, _ = match_detections(truth, shown)
        shares = box_areas(truth.boxes_px) / np.prod(truth.image_size_wh)
        left = np.delete(shares, matched[matched >= 0])
        if len(left):
            missed.append((float(left.max()), index))
        wrong = shown.scores[(matched < 0) & ~duplicate]
        if len(wrong):
            alarmed.append((float(wrong.max()), index))

    def worst(found: list[tuple[float, int]]) -> NDArray[np.int64]:
        return np.array([index for _, index in sorted(found)[::-1][:count]], dtype=np.int64)

    return worst(missed), worst(alarmed)


def draw_gallery(
    evaluation: Evaluation, *, split: Split, indices: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return a sheet of pictures with labels (blue) and detections (green), uint8 [H,W,3]."""
    images = split.gather(indices).images
    letterboxes = split.letterboxes()
    threshold = evaluation.metrics.at_threshold.threshold
    tiles = []
    for image, index in zip(images, indices, strict=True):
        factor = PICTURE_SIDE_PX / image.shape[0]
        tile = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        pair = (evaluation.truths[index], evaluation.predictions[index].above(threshold))
        truth, shown = (
            Detections(
                boxes_px=stored.boxes_px * factor,
                scores=stored.scores,
                image_size_wh=(tile.shape[1], tile.shape[0]),
            )
            for stored in (_to_stored(d, letterbox=letterboxes[index]) for d in pair)
        )
        drawn = draw_boxes(
            np.asarray(tile, dtype=np.uint8), truth, rgb=TRUTH_RGB, labels=[""] * len(truth)
        )
        drawn = draw_boxes(drawn, shown, rgb=PREDICTION_RGB)
        caption = f"{len(truth)} labelled, {len(shown)} found"
        draw_text(drawn, caption, top_left_xy=(0, drawn.shape[0]), rgb=(235, 235, 235))
        tiles.append(drawn)
    columns = min(4, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _draw_curves(
    folder: Path, *, history: list[dict[str, Any]], evaluation: Evaluation, split_name: str
) -> Path:
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("matplotlib", extra="train", needed_for="--report") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    epochs = [entry["epoch"] for entry in history]
    axes[0].plot(epochs, [entry["loss"] for entry in history], color="tab:blue")
    axes[0].set(title="training loss", xlabel="epoch", yscale="log")
    validated = [entry for entry in history if "val" in entry]
    for name, label in (("ap50", "AP50"), ("ap50_95", "AP50-95")):
        values = [entry["val"]["average_precision"][name] for entry in validated]
        axes[1].plot([entry["epoch"] for entry in validated], values, marker="o", label=label)
    axes[1].set(title="validation during training", xlabel="epoch", ylim=(0, 1))
    axes[1].legend(loc="lower right")
    recall, precision = precision_recall(evaluation)
    axes[2].plot(recall, precision, color="tab:green")
    axes[2].set(
        title=f"precision against recall, {split_name}, IoU 0.5",
        xlabel="recall",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    for axis in axes:
        axis.grid(alpha=0.3)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _page(summary: dict[str, Any], *, mistakes: dict[str, Path]) -> str:
    scores, counts = summary["average_precision"], summary["at_threshold"]
    intervals = summary["bootstrap"] or {}
    rows = [
        *((key.replace("ap", "AP").replace("_", "-"), key, value) for key, value in scores.items()),
        *((key.replace("_", " "), key, value) for key, value in counts.items()),
    ]
    resampling = (
        f"<p>In brackets: {LEVEL_PERCENT} % intervals (percentile bootstrap, "
        f"{intervals['num_resamples']} resamples of {intervals['num_groups']} groups).</p>\n"
        if intervals
        else ""
    )
    cells = "\n".join(
        f"<tr><th>{html.escape(name)}</th><td>{_number(value)}</td>"
        f"<td>{_interval(intervals.get(key))}</td></tr>"
        for name, key, value in rows
    )
    title = html.escape(f"{summary['model']} on {summary['split']}")
    control = (
        "<p><strong>Control: the labels were shuffled among the images.</strong></p>"
        if summary["shuffle_labels_seed"] is not None
        else ""
    )
    sources = "".join(
        f"<li>{html.escape('; '.join(str(v) for v in source.values() if v))}</li>"
        for source in summary["sources"]
    )
    threshold = summary["at_threshold"]["threshold"]
    sheets = "".join(
        f"<h2>{title}</h2>\n<p>{text}</p>\n"
        f'<img src="{mistakes[name].name}" alt="{title.lower()}">\n'
        if name in mistakes
        else f"<h2>{title}</h2>\n<p>None.</p>\n"
        for name, title, text in (
            ("misses", "Missed polyps", "The largest first."),
            ("false_alarms", "False alarms", "The highest score first."),
        )
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>haustra: {title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto }}
img {{ max-width: 100% }}
th {{ text-align: left; padding-right: 2rem; font-weight: normal }}
td {{ text-align: right; padding-right: 1rem; font-variant-numeric: tabular-nums }}
</style>
<h1>{title}</h1>
<p>{summary["num_images"]} images with {summary["num_truths"]} labelled polyps; warehouse
v{html.escape(summary["warehouse_version"])}; checkpoint {html.escape(summary["checkpoint"])}.
haustra is a research tool.</p>
{control}
<img src="curves.png" alt="loss, validation and precision-recall curves">
<h2>Pictures</h2>
<p>Spread evenly over the split. Blue: labelled. Green: found, with its score, from {threshold}.</p>
<img src="gallery.png" alt="boxed pictures">
{sheets}<h2>Numbers</h2>
{resampling}<table>
{cells}
</table>
<h2>Data</h2>
<ul>{sources}</ul>
</html>
"""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def write_report(
    folder: Path,
    *,
    evaluation: Evaluation,
    split: Split,
    summary: dict[str, Any],
    history: list[dict[str, Any]],
) -> list[Path]:
    """Write `report.html`, `report.json` and pictures; return their paths.

    The pictures are `curves.png`, `gallery.png`, and `misses.png` and `false_alarms.png` where
    there are such.

    Args:
        folder: where they go; it is made if needed.
        evaluation: of the split.
        split: for the pictures.
        summary: what was measured on what, as JSON values.
        history: the training's epochs, from the checkpoint's header.

    Raises:
        MissingExtraError: `matplotlib` is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summary | {"sources": [source.model_dump() for source in split.manifest.sources]}
    curves = _draw_curves(
        folder, history=history, evaluation=evaluation, split_name=summary["split"]
    )
    gallery = folder / "gallery.png"
    write_png(
        gallery,
        image_rgb=draw_gallery(evaluation, split=split, indices=spread_evenly(evaluation)),
    )
    mistakes: dict[str, Path] = {}
    for name, indices in zip(("misses", "false_alarms"), worst_mistakes(evaluation), strict=True):
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # of an earlier report
        if len(indices):
            sheet = draw_gallery(evaluation, split=split, indices=indices)
            write_png(path, image_rgb=sheet)
            mistakes[name] = path
    write_json_atomic(folder / "report.json", value=summary | {"history": history})
    write_text_atomic(folder / "report.html", text=_page(summary, mistakes=mistakes))
    return [
        folder / "report.html",
        folder / "report.json",
        curves,
        gallery,
        *mistakes.values(),
    ]
