"""`haustra infer`."""

from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import build_progress, print_json, print_lines
from haustra.core.backend_names import wanted_backend
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.inference.config import InferConfig
from haustra.inference.pictures import InferResult, infer_pictures
from haustra.inference.video import VideoResult, infer_video


def infer(
    *,
    config: Annotated[InferConfig | None, Parameter(name="*")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Draw boxes with scores on an image, a folder of images, a run folder or a video.

    Parameters
    ----------
    as_json
        Print JSON to standard output.
    """
    settings = config or InferConfig()
    if settings.video is not None:
        _infer_video(settings, as_json=as_json)
        return
    result = infer_pictures(settings, progress=build_progress(as_json=as_json))
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
        _print_backend(result.backend, settings=settings)
        _print_result(result)
    if result.unreadable:
        total = len(result.pictures) + len(result.unreadable)
        raise HaustraError(
            f"{len(result.unreadable)} of {total} images cannot be read, the others are boxed; "
            f"the first: {result.unreadable[0]}"
        )


def _infer_video(settings: InferConfig, *, as_json: bool) -> None:
    result = infer_video(settings, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(result.to_json())
    else:
        _print_backend(result.backend, settings=settings)
        _print_video(result)
    if result.unreadable is not None:
        raise HaustraError(
            f"{len(result.frames)} of {result.num_frames_told} frames could be read, they are "
            f"boxed: {result.unreadable}"
        )


def _print_backend(backend: str | None, *, settings: InferConfig) -> None:
    if backend and wanted_backend(settings.backend) != "ndarray":
        print_lines([backend])


def _print_video(result: VideoResult) -> None:
    if result.is_heuristic:
        _print_heuristic()
    if result.operating_point.hold_off_frames or result.operating_point.hysteresis is not None:
        _print_in_time(result.operating_point)
    total = sum(len(found) for found in result.frames)
    print_lines(
        [
            f"{result.out}: {total} boxes on {result.num_frames_boxed} of {len(result.frames)} "
            f"frames at {result.frame_rate_hz:.3g} frames/s"
        ]
    )


def _print_heuristic() -> None:
    print_lines(
        ["no --detector-weights: a colour and shape heuristic drew these boxes, no detector"]
    )


def _print_in_time(point: OperatingPoint) -> None:
    print_lines(
        [
            f"frames in time: boxes from {point.objectness:.3g}, kept on from "
            f"{point.lower_threshold:.3g}, the first {point.hold_off_frames} frames of each "
            "activation held back (--infer-hold-off 0 shows them)"
        ]
    )


def _print_result(result: InferResult) -> None:
    if result.is_heuristic:
        _print_heuristic()
    if result.in_time:
        _print_in_time(result.operating_point)
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
