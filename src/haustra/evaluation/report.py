"""The report of an evaluation: one page that needs no other file, and the same as JSON.

`templates/report.html.jinja` lays out the page, which begins with three numbers and three pictures.
The gallery is spread evenly over the frames, not chosen by how good it looks; misses and false
boxes have their own, the worst first.
"""

import json
import os
from base64 import b64encode
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from haustra.core.drawing import sheet_of
from haustra.core.environment import describe_environment
from haustra.core.errors import needs_extra
from haustra.core.files import write_json_atomic, write_text_atomic
from haustra.core.images import encode_jpeg, write_png
from haustra.core.paths import StrPath, to_path
from haustra.evaluation import tables
from haustra.evaluation.alarm_tier import operating_row
from haustra.evaluation.bootstrap import LEVEL_PERCENT, few_groups_note
from haustra.evaluation.degrade import draw_degradations
from haustra.evaluation.frame_tier import few_clean_frames_note
from haustra.evaluation.frames import EvalFrame, FrameSource
from haustra.evaluation.gallery import Image, choose_examples, draw_tiles, spread_evenly
from haustra.evaluation.plots import draw_clinical, draw_curves, draw_degradation_scores
from haustra.evaluation.results import EvaluationResult

TEMPLATE = "report.html.jinja"
SHEETS = ("gallery", "misses", "false_alarms")
PLOTS = ("curves", "clinical", "degradations", "degraded")
EXAMPLE_SIDE_PX = 480
TO_REPEAT = ("settings", "checkpoint_sha256", "operating_point", "environment")


def write_report(
    folder: StrPath,
    *,
    result: EvaluationResult,
    source: FrameSource,
    history: list[dict[str, Any]],
    data_sources: list[dict[str, Any]],
) -> list[Path]:
    """Write `report.html`, which needs no other file, `report.json`, and the pictures in them.

    The pictures are `curves.png`, `clinical.png`, `gallery.png`, and where there are such
    `misses.png`, `false_alarms.png`, `degradations.png` and `degraded.png`.

    Args:
        folder: Where the files go; it is made if needed.
        history: One entry per epoch of the training; may be empty.
        data_sources: Names, licenses and citations of the data.

    Returns:
        The files.
    """
    template = _load_template()
    folder = to_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: folder / f"{name}.png" for name in (*PLOTS, *SHEETS)}
    for path in pictures.values():
        path.unlink(missing_ok=True)  # It may be an earlier report's.
    _draw_plots(pictures, result=result, source=source, history=history)
    figures = _draw_frames(pictures, result=result, source=source)
    pictures = {name: path for name, path in pictures.items() if path.exists()}
    plots = [name for name in PLOTS if name in pictures]
    value = result.summary | {
        "environment": describe_environment(),
        "sources": data_sources,
        "history": history,
    }
    write_json_atomic(folder / "report.json", value=value)
    page = template.render(
        **figures,
        plots={name: _data_uri(pictures[name].read_bytes(), kind="png") for name in plots},
        result=result,
        alarm_row=result.alarms and operating_row(result.alarms, point=result.operating_point),
        tables=tables,
        level=LEVEL_PERCENT,
        few_clean_frames=few_clean_frames_note(result.frames),
        few_groups=few_groups_note(result.intervals),
        data_sources=sorted({"; ".join(filter(None, entry.values())) for entry in data_sources}),
        repeat=json.dumps({name: value[name] for name in TO_REPEAT}, indent=2),
    )
    write_text_atomic(folder / "report.html", text=page)
    return [folder / "report.html", folder / "report.json", *pictures.values()]


def _load_template() -> Any:
    with needs_extra("train", needed_for="a report"):
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("haustra.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for text in (tables.decimal, tables.percent, tables.interval):
        environment.filters[text.__name__] = text
    return environment.get_template(TEMPLATE)


def _data_uri(data: bytes, *, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def _figure(
    tile: Image, *, frame: EvalFrame, folder: Path, title: str = ""
) -> dict[str, str | None]:
    """Return a picture as a JPEG, with its frame's id and path from the report's folder."""
    path = frame.image_path
    link = None if path is None else os.path.relpath(path.resolve(), folder.resolve())
    return {
        "title": title,
        "uri": _data_uri(encode_jpeg(tile), kind="jpeg"),
        "name": frame.sample_id,
        "link": link and quote(os.fsencode(link)),
    }


def _draw_frames(
    pictures: dict[str, Path], *, result: EvaluationResult, source: FrameSource
) -> dict[str, list[dict[str, str | None]]]:
    """Write a sheet of each kind of frames that there is; return all figures of the page."""
    evaluation, folder = result.evaluation, pictures["gallery"].parent
    frames, examples = evaluation.frames, choose_examples(evaluation)
    chosen = {
        "gallery": spread_evenly(evaluation),
        "misses": examples.misses,
        "false_alarms": examples.false_alarms,
    }
    every = sorted(set(chain.from_iterable(chosen.values())))
    tiles = draw_tiles(evaluation, source=source, indices=every)
    for name, indices in chosen.items():
        if indices:
            write_png(pictures[name], image_rgb=sheet_of([tiles[index] for index in indices]))
    titles = examples.titles()
    large = draw_tiles(evaluation, source=source, indices=list(titles), side_px=EXAMPLE_SIDE_PX)
    return {
        name: [_figure(tiles[i], frame=frames[i], folder=folder) for i in indices]
        for name, indices in chosen.items()
    } | {
        "examples": [
            _figure(large[i], frame=frames[i], folder=folder, title=title)
            for i, title in titles.items()
        ]
    }


def _draw_plots(
    pictures: dict[str, Path],
    *,
    result: EvaluationResult,
    source: FrameSource,
    history: list[dict[str, Any]],
) -> None:
    evaluation = result.evaluation
    draw_curves(pictures["curves"], history=history, evaluation=evaluation)
    draw_clinical(pictures["clinical"], result=result)
    if result.degradations is not None:
        draw_degradation_scores(pictures["degradations"], degradations=result.degradations)
        chosen = spread_evenly(evaluation)
        example = evaluation.frames[chosen[len(chosen) // 2]].sample_id
        _, image = next(source.read([example]))
        write_png(pictures["degraded"], image_rgb=draw_degradations(image, name=example))
