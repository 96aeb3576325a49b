"""`haustra infer`: boxed pictures of an image, a folder of images or a run folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.captures.sources import ImageFolder
from haustra.core.checked import OUTPUT_FILE
from haustra.core.detections import Detections
from haustra.core.drawing import PREDICTION_RGB, draw_boxes, draw_text, enlarge_for_viewing
from haustra.core.errors import HaustraError, option
from haustra.core.field_of_view import FieldOfView
from haustra.core.files import write_bytes_atomic
from haustra.core.images import encode_jpeg, read_image_rgb, write_png
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.core.outputs import check_output, check_outputs
from haustra.core.plurals import counted
from haustra.core.progress import Progress, SilentProgress, track
from haustra.inference.config import BOXED_SUFFIX, DetectorSettings, InferConfig
from haustra.inference.detector import Detector, open_detector
from haustra.inference.heuristic import heuristic_detector
from haustra.inference.ranking import RankedImage, Ranking, draw_sheet, rank_images

SHEET_NAME = f"ranked{BOXED_SUFFIX}.jpg"  # no picture has this suffix


@dataclass(frozen=True, kw_only=True)
class BoxedPicture:
    """One image's detections and the picture that shows them."""

    image: Path  # the image file
    picture: Path  # the file with the boxes drawn
    detections: Detections
    ranked: RankedImage | None = None  # set by --rank

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "image": str(self.image),
            "picture": str(self.picture),
            "image_size_wh": list(self.detections.image_size_wh),
            "boxes_px": self.detections.boxes_px.tolist(),
            "scores": self.detections.scores.tolist(),
            **(self.ranked.to_json() if self.ranked else {}),
        }


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """Pictures of a folder or an image, and the detector that drew their boxes."""

    pictures: list[BoxedPicture]
    detector: Detector  # its operating point is the one that was used
    unreadable: list[str]  # a message per image of a folder that cannot be read
    in_time: bool  # True if hold-off or hysteresis was applied
    ranking: Ranking | None = None  # the order of the pictures, with --rank
    sheet: Path | None = None  # the first ranked images as one picture

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        ranking = {} if self.ranking is None else {"ranking": self.ranking.to_json()}
        return {
            **describe_detector(self.detector),
            "in_time": self.in_time,
            **ranking,
            "images": [picture.to_json() for picture in self.pictures],
            "unreadable": self.unreadable,
        }


def describe_detector(detector: Detector) -> dict[str, Any]:
    """Return name, backend and operating point as JSON values."""
    return {
        "detector": detector.caption,
        "heuristic": detector.kind == "heuristic",
        "backend": detector.backend,
        "crops": detector.crops,
        "operating_point": detector.operating_point.to_json(),
    }


def draw_picture(
    image_rgb: NDArray[np.uint8], detections: Detections, *, caption: str
) -> NDArray[np.uint8]:
    """Return the picture with boxes, scores, and a caption with the number of boxes."""
    enlarged, scaled = enlarge_for_viewing(image_rgb, detections)
    drawn = draw_boxes(enlarged, scaled)
    text = f"{caption}: {counted(len(detections), 'box')}"
    draw_text(drawn, text, top_left_xy=(0, drawn.shape[0]), rgb=PREDICTION_RGB)
    return drawn


def open_configured(config: InferConfig, *, in_time_order: bool) -> Detector:
    """Open the detector of the settings, or the heuristic, with the thresholds to use."""
    if config.detector_weights is None:
        detector = heuristic_detector()
    else:
        detector = open_detector(config.detector_weights, kind=config.model, backend=config.backend)
    detector.operating_point = operating_point(config, detector, in_time_order=in_time_order)
    return detector


def operating_point(
    config: DetectorSettings, detector: Detector, *, in_time_order: bool
) -> OperatingPoint:
    """Return the detector's own operating point with the user's thresholds applied.

    Args:
        in_time_order: False drops the hold-off and hysteresis of the file.
    """
    point = detector.operating_point
    point = point if in_time_order else point.for_single_images()
    return point.with_flags(
        objectness=config.infer_obj_thresh,
        iou=config.infer_iou_thresh,
        hold_off_frames=config.infer_hold_off,
    )


def _find_images(source: Path) -> tuple[list[Path], ImageFolder | None]:
    """Return the images, and the folder that they are from, if any."""
    if not source.exists():
        raise HaustraError(
            f"{option('image', source)}: expected an image or a folder of images; it does not exist"
        )
    if not source.is_dir():
        return [source], None
    folder = ImageFolder(source, setting="image")
    images = [path for path in folder.images if not path.stem.endswith(BOXED_SUFFIX)]
    if not images:
        raise HaustraError(
            f"{option('image', source)}: every image is one of the pictures that infer has written"
        )
    return images, folder


def infer_pictures(config: InferConfig, *, progress: Progress | None = None) -> InferResult:
    """Detect polyps on every image and write `<stem>_boxed.png` for each.

    Raises:
        HaustraError: The weights do not load, or no image can be read.
    """
    source = config.image
    if source is None:
        raise AssertionError("infer_pictures takes settings with an image")
    images, opened = _find_images(source)
    is_cropped, times_s = opened is not None and opened.is_cropped, dict[Path, float]()
    if opened is not None and opened.in_time_order:
        times_s = dict(zip(opened.images, opened.index(), strict=True))
    folder = config.output_root or source.parent
    if source.is_dir() and config.output_root is None:
        folder = source.resolve().with_name(source.resolve().name + BOXED_SUFFIX)
    stems = Counter(path.stem for path in images)
    names = [path.stem if stems[path.stem] == 1 else path.name for path in images]
    written = [folder / f"{name}{BOXED_SUFFIX}.png" for name in names]
    check_outputs(config, output_root=folder)
    check_output("output_root", max(written, key=lambda path: len(str(path))), kind=OUTPUT_FILE)
    picture_of = dict(zip(images, written, strict=True))
    unreadable: list[str] = []
    progress = progress or SilentProgress()
    ranking, ranked = None, dict[Path, RankedImage]()
    if config.rank is not None:
        if not source.is_dir():
            raise HaustraError(
                f"{option('image', source)}: expected a folder of images or a run, since "
                f"{option('rank')} orders several"
            )
        ranking = rank_images(images, times_s=times_s, config=config, progress=progress)
        ranked = {item.image: item for item in ranking.images}
        images, unreadable = list(ranked), ranking.unreadable
    is_in_time_order = bool(times_s) and ranking is None
    detector = open_configured(config, in_time_order=is_in_time_order)
    rate = opened.frame_rate_hz if opened else None
    alarm = AlarmFilter(detector.operating_point, frame_rate_hz=rate)
    stream = FieldOfView(is_cropped=is_cropped)
    field_of_view = stream if is_in_time_order or is_cropped else None
    pictures: list[BoxedPicture] = []
    for path in track(images, progress=progress, description="infer", total=len(images)):
        try:
            image = read_image_rgb(path)
        except HaustraError as error:
            unreadable.append(str(error))
            continue
        found = detector.detect(image, objectness=0.0, field_of_view=field_of_view)
        found = alarm.show_at(times_s.get(path, 0.0), found)
        write_png(picture_of[path], image_rgb=draw_picture(image, found, caption=detector.caption))
        pictures.append(
            BoxedPicture(
                image=path, picture=picture_of[path], detections=found, ranked=ranked.get(path)
            )
        )
    if not pictures:
        raise HaustraError(unreadable[0])
    if ranking is not None:
        sheet = draw_sheet([(ranked[each.image], each.detections) for each in pictures])
        write_bytes_atomic(folder / SHEET_NAME, data=encode_jpeg(sheet))
    return InferResult(
        pictures=pictures,
        detector=detector,
        unreadable=unreadable,
        in_time=detector.operating_point.is_for_sequences,
        ranking=ranking,
        sheet=folder / SHEET_NAME if ranking else None,
    )
