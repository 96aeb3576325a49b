"""`haustra infer`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import build_progress, print_json, print_lines
from haustra.core.backend_names import wanted_backend
from haustra.core.errors import HaustraError
from haustra.infer.pictures import InferConfig, InferResult, infer_pictures


def infer(
    *,
    config: Annotated[InferConfig, Parameter(name="*")],
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Draw boxes with scores on an image, a folder of images or a run folder.

    Parameters
    ----------
    as_json
        Print JSON to standard output.
    """
    result = infer_pictures(config, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(
            {
                "detector": result.caption,
                "heuristic": result.is_heuristic,
                "backend": result.backend,
                "operating_point": result.operating_point.to_json(),
                "in_time": result.in_time,
                "images": [picture.to_json() for picture in result.pictures],
                "unreadable": result.unreadable,
            }
        )
    else:
        if result.backend and wanted_backend(config.backend) != "ndarray":
            print_lines([result.backend])
        _print_result(result)
    if result.unreadable:
        total = len(result.pictures) + len(result.unreadable)
        raise HaustraError(
            f"{len(result.unreadable)} of {total} images cannot be read, the others are boxed; "
            f"the first: {result.unreadable[0]}"
        )


def _print_result(result: InferResult) -> None:
    if result.is_heuristic:
        print_lines(
            ["no --detector-weights: a colour and shape heuristic drew these boxes, no detector"]
        )
    if result.in_time:
        point = result.operating_point
        print_lines(
            [
                f"frames in time: boxes from {point.objectness:.3g}, kept on from "
                f"{point.lower_threshold:.3g}, the first {point.hold_off_frames} frames of each "
                "activation held back (--infer-hold-off 0 shows them)"
            ]
        )
    for picture in result.pictures:
        found = picture.detections
        count = "1 box" if len(found) == 1 else f"{len(found)} boxes"
        boxes = "; ".join(
            f"{score:.2f} at " + ",".join(f"{value:.0f}" for value in box)
            for box, score in zip(found.boxes_px, found.scores, strict=True)
        )
        print_lines([f"{picture.picture}: {count}" + (f" ({boxes})" if boxes else "")])
    total = sum(len(picture.detections) for picture in result.pictures)
    if len(result.pictures) > 1:
        print_lines([f"drew {total} boxes on {len(result.pictures)} images"])
