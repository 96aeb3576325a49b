"""`haustra infer`: boxed pictures of an image, a folder of images or a run folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections
from haustra.core.drawing import PREDICTION_RGB, draw_boxes, draw_text, enlarge_for_viewing
from haustra.core.errors import HaustraError
from haustra.core.images import list_images, read_image_rgb, write_png
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.core.progress import Progress, SilentProgress, track
from haustra.inference.config import BOXED_SUFFIX, InferConfig
from haustra.inference.detector import open_detector
from haustra.inference.heuristic import HeuristicDetector
from haustra.inference.image_detector import ImageDetector, TrainedDetector


@dataclass(frozen=True, kw_only=True)
class BoxedPicture:
    """One image's detections and the picture that shows them."""

    image: Path
    picture: Path
    detections: Detections

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "image": str(self.image),
            "picture": str(self.picture),
            "image_size_wh": list(self.detections.image_size_wh),
            "boxes_px": self.detections.boxes_px.tolist(),
            "scores": self.detections.scores.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """All pictures that were made, and by whom."""

    pictures: list[BoxedPicture]
    caption: str
    is_heuristic: bool
    unreadable: list[str]
    """A line per image of a folder that could not be read."""
    operating_point: OperatingPoint
    """At which the boxes were drawn."""
    backend: str | None
    """What computed; None for the heuristic."""
    in_time: bool
    """Whether the images were taken as the frames of a run, with hold-off and hysteresis."""


def is_run_folder(path: Path) -> bool:
    """Tell whether a folder holds a run, whose images follow each other in time."""
    return (path / "labels").is_dir() and (path / "images").is_dir()


def _images_of(config: InferConfig) -> tuple[list[Path], Path]:
    """Return the images to look at and the folder for the pictures."""
    source = config.image
    if source is None:
        raise AssertionError("infer_pictures takes a config with an image")
    if source.is_dir():
        is_run = is_run_folder(source)
        images = [
            path
            for path in list_images(source / "images" if is_run else source)
            if not path.stem.endswith(BOXED_SUFFIX)
        ]
        if not images:
            raise HaustraError(f"{source} holds no image (PNG, JPEG, BMP, TIFF or WebP)")
        resolved = source.resolve()
        return images, config.output_root or resolved.with_name(resolved.name + BOXED_SUFFIX)
    if not source.exists():
        raise HaustraError(f"{source} does not exist; expected an image or a folder of images")
    return [source], config.output_root or source.parent


def draw_picture(
    image_rgb: NDArray[np.uint8], detections: Detections, *, caption: str
) -> NDArray[np.uint8]:
    """Return the picture with boxes, scores, and a caption with the number of boxes."""
    enlarged, scaled = enlarge_for_viewing(image_rgb, detections)
    drawn = draw_boxes(enlarged, scaled)
    count = "1 box" if len(detections) == 1 else f"{len(detections)} boxes"
    draw_text(drawn, f"{caption}: {count}", top_left_xy=(0, drawn.shape[0]), rgb=PREDICTION_RGB)
    return drawn


def open_configured(config: InferConfig) -> tuple[ImageDetector, OperatingPoint]:
    """Open the detector that the flags name, or the heuristic, and the operating point.

    Raises:
        HaustraError: the weights do not load.
        MissingExtraError: what runs them is not installed.
    """
    detector: ImageDetector = HeuristicDetector()
    point = OperatingPoint()
    if config.detector_weights is not None:
        detector = loaded = open_detector(
            config.detector_weights, kind=config.model, backend=config.backend
        )
        point = loaded.operating_point
    point = point.with_flags(
        objectness=config.infer_obj_thresh,
        iou=config.infer_iou_thresh,
        hold_off_frames=config.infer_hold_off,
    )
    return detector, point


def backend_of(detector: ImageDetector) -> str | None:
    """Return what computes a detector, in words; None for the heuristic."""
    return detector.backend if isinstance(detector, TrainedDetector) else None


def infer_pictures(config: InferConfig, *, progress: Progress | None = None) -> InferResult:
    """Detect polyps on every image and write `<stem>_boxed.png` for each.

    Raises:
        HaustraError: the weights do not load, or no image can be read.
    """
    images, folder = _images_of(config)
    detector, point = open_configured(config)
    follow_in_time = config.image is not None and is_run_folder(config.image)
    in_time = follow_in_time and bool(point.hold_off_frames or point.hysteresis is not None)
    alarm = AlarmFilter(point)
    stems = Counter(path.stem for path in images)
    pictures: list[BoxedPicture] = []
    unreadable: list[str] = []
    for path in track(
        images, progress=progress or SilentProgress(), description="infer", total=len(images)
    ):
        try:
            image = read_image_rgb(path)
        except HaustraError as error:
            unreadable.append(str(error))
            continue
        if in_time:
            found = detector.detect(image, objectness=0.0, iou=point.iou)
            found = alarm.show(found)
        else:
            found = detector.detect(image, objectness=point.objectness, iou=point.iou)
        name = path.stem if stems[path.stem] == 1 else path.name
        picture = folder / f"{name}{BOXED_SUFFIX}.png"
        write_png(picture, image_rgb=draw_picture(image, found, caption=detector.caption))
        pictures.append(BoxedPicture(image=path, picture=picture, detections=found))
    if not pictures:
        raise HaustraError(unreadable[0])
    return InferResult(
        pictures=pictures,
        caption=detector.caption,
        is_heuristic=config.detector_weights is None,
        unreadable=unreadable,
        operating_point=point,
        in_time=in_time,
        backend=backend_of(detector),
    )
