"""`haustra infer`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import Json, build_progress, print_json, print_lines, table_lines
from haustra.core.backend_names import wanted_backend
from haustra.core.errors import HaustraError
from haustra.inference.config import InferConfig
from haustra.inference.detector import Detector
from haustra.inference.pictures import InferResult, infer_pictures
from haustra.inference.ranking import Ranking
from haustra.inference.video import infer_video


def infer(
    *,
    config: Annotated[InferConfig | None, Parameter(name="*", negative_iterable=())] = None,
    as_json: Json = False,
) -> None:
    """Draw boxes with scores on an image, a folder of images, a run folder or a video."""
    settings = config or InferConfig()
    if settings.video is not None:
        _infer_video(settings, as_json=as_json)
        return
    result = infer_pictures(settings, progress=build_progress(as_json=as_json))
    if as_json:
        print_json(result.to_json())
    else:
        _print_detector(result.detector, settings=settings)
        if result.ranking is None:
            _print_pictures(result)
        else:
            _print_ranking(result.ranking, result=result)
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
        _print_detector(result.detector, settings=settings)
        total = sum(len(found) for found in result.frames)
        print_lines(
            f"{result.out}: {total} boxes on {result.num_frames_boxed} of "
            f"{len(result.frames)} frames at {result.out_frame_rate_hz:.4g} frames/s",
            *(f"{result.video}: {note}" for note in result.notes),
        )
    if result.unreadable:
        raise HaustraError(
            f"{len(result.frames)} frames could be read, they are boxed: "
            f"{'; '.join(result.unreadable)}"
        )


def _print_detector(detector: Detector, *, settings: InferConfig) -> None:
    if detector.backend and wanted_backend(settings.backend) != "cpu":
        print_lines(detector.backend)
    if detector.kind == "heuristic":
        print_lines(
            "no --detector-weights: a color and shape heuristic drew these boxes, not a detector"
        )
    if detector.crops:
        print_lines("each image is cropped to the endoscope's picture, as in the training")
    point = detector.operating_point
    if point.is_for_sequences:
        print_lines(
            f"frames in time: boxes from {point.objectness:.3g}, kept on from "
            f"{point.lower_threshold:.3g}, the first {point.hold_off_frames} frames of each "
            "activation held back (--infer-hold-off 0 shows them)"
        )


def _print_pictures(result: InferResult) -> None:
    for picture in result.pictures:
        found = picture.detections
        count = "1 box" if len(found) == 1 else f"{len(found)} boxes"
        boxes = "; ".join(found.box_texts())
        print_lines(f"{picture.picture}: {count}" + (f" ({boxes})" if boxes else ""))
    total = sum(len(picture.detections) for picture in result.pictures)
    if len(result.pictures) > 1:
        print_lines(f"drew {total} boxes on {len(result.pictures)} images")


def _print_ranking(ranking: Ranking, *, result: InferResult) -> None:
    rank_of: dict[Path | None, str] = {item.image: str(item.rank) for item in ranking.images}
    rows = [
        [
            *(str(item.rank), str(item.image), f"{item.value:.3f}"),
            *(str(len(picture.detections)), rank_of.get(item.looks_like, "")),
        ]
        for picture in result.pictures
        if (item := picture.ranked) is not None
    ]
    table = table_lines(["rank", "image", "value", "boxes", "looks like"], rows=rows)
    total = sum(len(picture.detections) for picture in result.pictures)
    print_lines(
        *table,
        f"ranked {ranking.num_ranked} images, of which {ranking.num_look_alikes} look like a "
        "better one, or are within a second of it, and come last",
        f"drew {total} boxes on {len(result.pictures)} images; the first of them: {result.sheet}",
        *ranking.notes,
    )
