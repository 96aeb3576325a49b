"""The report of an evaluation: one page with everything in it, and the same as JSON.

The gallery is spread evenly over the frames, not chosen by how good it looks; misses and false
alarms have their own, the worst first.
"""

import base64
import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import box_areas
from haustra.core.files import write_json_atomic, write_text_atomic
from haustra.core.images import write_png
from haustra.evaluation.bootstrap import LEVEL_PERCENT
from haustra.evaluation.degrade import draw_degradations
from haustra.evaluation.evaluation import Evaluation
from haustra.evaluation.frames import FrameSource
from haustra.evaluation.gallery import Image, draw_tiles, sheet_of, spread_evenly, write_gallery
from haustra.evaluation.metrics import match_detections
from haustra.evaluation.plots import draw_clinical, draw_curves, draw_degradation_scores

NUM_MISTAKES = 8
NEAR_FRAMES = 15
"""Frames of a run that are no further apart look alike."""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """What a report tells."""

    evaluation: Evaluation
    source: FrameSource
    """Where the pictures come from."""
    summary: dict[str, Any]
    """What was measured on what, as JSON values."""
    history: list[dict[str, Any]]
    """The training's epochs."""
    data_sources: list[dict[str, Any]]
    """Names, licences and citations of the data."""


def worst_mistakes(
    evaluation: Evaluation, *, count: int = NUM_MISTAKES
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images with the largest missed polyps, and with the surest false alarms.

    A second box on a polyp that is found is a duplicate, not a false alarm. Of frames that follow
    each other in time, only the worst is taken.
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
        chosen: list[int] = []
        for _, index in sorted(found)[::-1]:
            if len(chosen) == count:
                break
            if not any(_are_near(evaluation, index, other) for other in chosen):
                chosen.append(index)
        return np.array(chosen, dtype=np.int64)

    return worst(missed), worst(alarmed)


def _are_near(evaluation: Evaluation, a: int, b: int) -> bool:
    """Tell whether two frames show much the same: of one run, and close in time."""
    if not evaluation.frames:
        return False
    one, other = evaluation.frames[a], evaluation.frames[b]
    if one.number is None or other.number is None or one.run_id != other.run_id:
        return False
    return abs(one.number - other.number) < NEAR_FRAMES


def write_report(folder: Path, *, inputs: ReportInputs) -> list[Path]:
    """Write `report.html`, which needs no other file, `report.json`, and the pictures in them.

    The pictures are `curves.png`, `clinical.png`, `gallery.png`, and where there are such
    `misses.png`, `false_alarms.png`, `degradations.png` and `degraded.png`.

    Args:
        folder: where they go; it is made if needed.
        inputs: what the report tells.

    Raises:
        MissingExtraError: `matplotlib` is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluation, source, summary = inputs.evaluation, inputs.source, inputs.summary
    pictures = {name: folder / f"{name}.png" for name in ("curves", "clinical", "gallery")}
    draw_curves(pictures["curves"], history=inputs.history, evaluation=evaluation, name=source.name)
    draw_clinical(pictures["clinical"], summary=summary)
    chosen = spread_evenly(evaluation)
    write_gallery(pictures["gallery"], evaluation=evaluation, source=source)
    mistakes: dict[str, list[str]] = {}
    for name, indices in zip(("misses", "false_alarms"), worst_mistakes(evaluation), strict=True):
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # of an earlier report
        mistakes[name] = []
        if len(indices):
            tiles = draw_tiles(evaluation, source=source, indices=indices)
            write_png(path, image_rgb=sheet_of(tiles))
            pictures[name] = path
            mistakes[name] = [
                _figure(tile, evaluation=evaluation, index=int(index), folder=folder)
                for tile, index in zip(tiles, indices, strict=True)
            ]
    for name in ("degradations", "degraded"):
        (folder / f"{name}.png").unlink(missing_ok=True)
    if summary["degradations"]:
        pictures["degradations"] = folder / "degradations.png"
        draw_degradation_scores(pictures["degradations"], degradations=summary["degradations"])
        pictures["degraded"] = folder / "degraded.png"
        example = evaluation.frames[int(chosen[len(chosen) // 2])].sample_id
        _, image = next(source.read([example]))
        write_png(pictures["degraded"], image_rgb=draw_degradations(image, name=example))
    value = summary | {"sources": inputs.data_sources, "history": inputs.history}
    write_json_atomic(folder / "report.json", value=value)
    page = _page(value, pictures=pictures, mistakes=mistakes)
    write_text_atomic(folder / "report.html", text=page)
    return [folder / "report.html", folder / "report.json", *pictures.values()]


def _data_uri(data: bytes, *, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _figure(tile: Image, *, evaluation: Evaluation, index: int, folder: Path) -> str:
    """Return a picture with its frame's name, which leads to the image where that is known."""
    frame = evaluation.frames[index]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))
    picture = f'<img src="{_data_uri(data.tobytes(), kind="jpeg")}" alt="">'
    name = html.escape(frame.sample_id)
    if frame.image_path is not None:
        target = html.escape(os.path.relpath(frame.image_path.resolve(), folder.resolve()))
        name = f'<a href="{target}">{name}</a>'
    return f"<figure>{picture}<figcaption>{name}</figcaption></figure>"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(_number(item) for item in value) or "none"
    return html.escape(str(value))


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


_NAMES = {"ap50": "AP50", "ap75": "AP75", "ap50_95": "AP50-95"}


def _pairs(values: dict[str, Any], *, intervals: dict[str, Any] | None = None) -> str:
    """Return a table of names and numbers."""
    cells = "\n".join(
        f"<tr><th>{_NAMES.get(key) or html.escape(key.replace('_', ' '))}</th>"
        f"<td>{_number(value)}</td><td>{_interval((intervals or {}).get(key))}</td></tr>"
        for key, value in values.items()
        if not isinstance(value, dict)
    )
    return f"<table>\n{cells}\n</table>"


def _rows(rows: list[dict[str, Any]]) -> str:
    """Return a table with a column per key."""
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{html.escape(key.replace('_', ' '))}</th>" for key in rows[0])
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_number(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _section(title: str, text: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    paragraph = f"<p>{text}</p>\n" if text else ""
    return f"<h2>{html.escape(title)}</h2>\n{paragraph}{body}\n"


def _without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in names}


def _page(
    value: dict[str, Any], *, pictures: dict[str, Path], mistakes: dict[str, list[str]]
) -> str:
    def picture(name: str, alt: str) -> str:
        if name not in pictures:
            return ""
        return f'<img src="{_data_uri(pictures[name].read_bytes(), kind="png")}" alt="{alt}">'

    where = value["captures"] or f"{value['split']} of warehouse v{value['warehouse_version']}"
    title = html.escape(f"{value['model']} on {value['captures'] or value['split']}")
    threshold = value["at_threshold"]["threshold"]
    intervals = value["bootstrap"] or {}
    sections = [
        _section("Read this first", "", _list(value["notes"])) if value["notes"] else "",
        _section("Curves", "", picture("curves", "loss, validation and precision-recall curves")),
        _section(
            "Pictures",
            f"Spread evenly over the frames. Blue: labelled. Green: found, with its score, from "
            f"{threshold:.3g}.",
            picture("gallery", "boxed pictures"),
        ),
        _section("Missed polyps", "The largest first.", _figures(mistakes["misses"])),
        _section("False alarms", "The highest score first.", _figures(mistakes["false_alarms"])),
        _section(
            "Boxes",
            "Average precision over all scores (COCO); the rest at the score threshold and IoU 0.5."
            + (
                f" In brackets: {LEVEL_PERCENT} % intervals (percentile bootstrap, "
                f"{intervals['num_resamples']} resamples of {intervals['num_groups']} groups)."
                if intervals
                else ""
            ),
            _pairs(value["average_precision"] | value["at_threshold"], intervals=intervals),
        ),
        _section(
            "Frames",
            "A frame is flagged if a shown box touches a label (any overlap); on clean frames, if "
            "any box is shown.",
            _pairs(value["frames"]),
            picture("clinical", "FROC, AFROC, reliability, scores, alarms"),
        ),
        _section(
            "Calibration",
            "Boxes of score 0.05 and up, right if matched at IoU 0.5.",
            _pairs(_without(value["calibration"], "bins", "right_counts", "wrong_counts")),
            _rows(value["calibration"]["bins"]),
        ),
    ]
    if value["lesions"]:
        sections.append(
            _section(
                "Lesions",
                "Detected: a shown box touches the label. Within N s: half a second's worth of "
                "detections in the first N seconds in view.",
                _pairs(_without(value["lesions"], "rows")),
                _rows(value["lesions"]["rows"]),
            )
        )
    if value["alarms"]:
        sections.append(
            _section(
                "Alarms",
                "A false activation is a run of frames with a shown box that touches no label. Run "
                "lengths: under 0.5 s, to 1 s, to 2 s, longer. Delay: of a lesion's first box, "
                "against no hold-off.",
                _pairs(_without(value["alarms"], "rows")),
                _rows(value["alarms"]["rows"]),
            )
        )
    if value["degradations"]:
        worst = value["degradations"]["worst"]
        sections.append(
            _section(
                "Degraded images",
                f"Worst: {worst['kind']} {worst['severity']}, recall {worst['recall']:.3f} against "
                f"{value['degradations']['clean']['recall']:.3f} on clean images.",
                picture("degradations", "recall by degradation"),
                picture("degraded", "an image in all degradations"),
                _rows([value["degradations"]["clean"], *value["degradations"]["scores"]]),
            )
        )
    repeat = {
        "settings": value["settings"],
        "checkpoint_sha256": value["checkpoint_sha256"],
        "operating_point": value["operating_point"],
        "environment": value["environment"],
    }
    sections += [
        _section(
            "Leakage audit",
            "Groups that the detector was trained on, and images that look like one of another "
            "split.",
            _pairs(_without(value["leakage_audit"], "nearest")),
            _rows(value["leakage_audit"].get("nearest", [])),
        ),
        _section(
            "Data",
            "",
            _list(sorted({"; ".join(str(v) for v in s.values() if v) for s in value["sources"]})),
        ),
        _section(
            "To repeat this",
            "",
            f"<pre>{html.escape(json.dumps(repeat, indent=2))}</pre>",
        ),
    ]
    control = (
        "<p><strong>Control: the labels were shuffled among the images.</strong></p>"
        if value["shuffle_labels_seed"] is not None
        else ""
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>haustra: {title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto }}
img {{ max-width: 100% }}
th {{ text-align: left; padding-right: 2rem; font-weight: normal; color: #555 }}
td {{ text-align: right; padding-right: 1rem; font-variant-numeric: tabular-nums }}
.wide {{ overflow-x: auto; font-size: 12px }}
.wide th, .wide td {{ padding-right: .7rem }}
figure {{ display: inline-block; margin: 0 .5rem .5rem 0; font-size: 12px }}
pre {{ overflow-x: auto; background: #f4f4f4; padding: 1rem; font-size: 12px }}
</style>
<h1>{title}</h1>
<p>{value["num_images"]} images with {value["num_truths"]} labelled polyps: {html.escape(where)};
weights {html.escape(value["checkpoint"])}; score threshold {threshold:.3g}
({html.escape(value["threshold_from"])}). haustra is a research tool.</p>
{control}
{"".join(sections)}</html>
"""


def _list(lines: list[str]) -> str:
    if not lines:
        return "<p>None known.</p>"
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _figures(figures: list[str]) -> str:
    return "\n".join(figures) or "<p>None.</p>"
