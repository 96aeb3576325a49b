"""`haustra infer`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from haustra.cli.terminal import Json, build_progress, print_result, table_lines
from haustra.core.backend_names import wanted_backend
from haustra.core.errors import HaustraError
from haustra.core.plurals import counted
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
    lines = _detector_lines(result.detector, settings=settings)
    lines += (
        _ranking_lines(result.ranking, result=result) if result.ranking else _picture_lines(result)
    )
    print_result(result.to_json(), *lines, as_json=as_json)
    if result.unreadable:
        total = len(result.pictures) + len(result.unreadable)
        raise HaustraError(
            f"{len(result.unreadable)} of {total} images cannot be read, the others are boxed; "
            f"the first: {result.unreadable[0]}"
        )


def _infer_video(settings: InferConfig, *, as_json: bool) -> None:
    result = infer_video(settings, progress=build_progress(as_json=as_json))
    total = sum(len(found) for found in result.frames)
    print_result(
        result.to_json(),
        *_detector_lines(result.detector, settings=settings),
        f"{result.out}: {total} boxes on {result.num_frames_boxed} of "
        f"{len(result.frames)} frames at {result.out_frame_rate_hz:.4g} frames/s",
        *(f"{result.video}: {note}" for note in result.notes),
        as_json=as_json,
    )
    if result.unreadable:
        raise HaustraError(
            f"{len(result.frames)} frames could be read, they are boxed: "
            f"{'; '.join(result.unreadable)}"
        )


def _detector_lines(detector: Detector, *, settings: InferConfig) -> list[str]:
    lines = []
    if detector.backend and wanted_backend(settings.backend) != "cpu":
        lines.append(detector.backend)
    if detector.kind == "heuristic":
        lines.append(
            "no --detector-weights: a color and shape heuristic drew these boxes, not a detector"
        )
    if detector.crops:
        lines.append("each image is cropped to the endoscope's picture, as in the training")
    point = detector.operating_point
    if point.is_for_sequences:
        lines.append(
            f"frames in time: boxes from {point.objectness:.3g}, kept on from "
            f"{point.lower_threshold:.3g}, the first {point.hold_off_frames} frames of each "
            "activation held back (--infer-hold-off 0 shows them)"
        )
    return lines


def _picture_lines(result: InferResult) -> list[str]:
    lines = []
    for picture in result.pictures:
        found = picture.detections
        boxes = "; ".join(found.box_texts())
        count = counted(len(found), "box")
        lines.append(f"{picture.picture}: {count}" + (f" ({boxes})" if boxes else ""))
    total = sum(len(picture.detections) for picture in result.pictures)
    if len(result.pictures) > 1:
        lines.append(f"drew {total} boxes on {len(result.pictures)} images")
    return lines


def _ranking_lines(ranking: Ranking, *, result: InferResult) -> list[str]:
    rank_of: dict[Path | None, str] = {item.image: str(item.rank) for item in ranking.images}
    rows = [
        [
            *(str(item.rank), str(item.image), f"{item.value:.3f}"),
            *(str(len(picture.detections)), rank_of.get(item.looks_like, "")),
        ]
        for picture in result.pictures
        if (item := picture.ranked) is not None
    ]
    total = sum(len(picture.detections) for picture in result.pictures)
    return [
        *table_lines(["rank", "image", "value", "boxes", "looks like"], rows=rows),
        f"ranked {ranking.num_ranked} images, of which {ranking.num_look_alikes} look like a "
        "better one, or are within a second of it, and come last",
        f"drew {total} boxes on {len(result.pictures)} images; the first of them: {result.sheet}",
        *ranking.notes,
    ]
