"""`haustra convert`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import Flags, Json, build_progress, print_result, problem_lines
from haustra.core.plurals import counted
from haustra.exporting.labels import ConvertConfig, convert_labels


def convert(
    source: Annotated[
        Path,
        Parameter(
            help="Run folder, folder of run folders, or predictions of `haustra eval "
            "--predictions-out` or `haustra infer --json`."
        ),
    ],
    /,
    *,
    config: Annotated[ConvertConfig, Flags],
    as_json: Json = False,
) -> None:
    """Write labels or predictions with their images for COCO, YOLO, VOC, CVAT or Label Studio."""
    result = convert_labels(source, config=config, progress=build_progress(as_json=as_json))
    boxes, images = counted(result.num_boxes, "box"), counted(result.num_images, "image")
    line = f"wrote {boxes} on {images}: {result.labels}"
    print_result(asdict(result), line, *problem_lines(result.problems), as_json=as_json)
