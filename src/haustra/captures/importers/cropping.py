"""`haustra import --crop auto`: the endoscope's picture of each image, and the boxes within it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.core.boxes import check_box_px
from haustra.core.errors import HaustraError
from haustra.core.field_of_view import BoxPx, common_field_of_view, find_field_of_view
from haustra.core.images import encode_jpeg, encode_png, read_image_rgb

NUM_LOOKED_AT = 24  # images of a video on which its picture is searched
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image as it is written."""

    content: Path | NDArray[np.uint8]
    """The image file, or the pixels of a new one, uint8 RGB [H,W,3]."""
    suffix: str
    size_wh: tuple[int, int]
    truths: list[PolypTruth]
    crop_px: BoxPx | None = None  # part of the original image; None for all of it
    num_clipped: int = 0
    outside: tuple[str, ...] = ()  # a reason for each box that the crop has lost
    hints: tuple[str, ...] = ()

    def encoded(self) -> Path | bytes:
        """Return the image file, or the bytes of a new one: JPEG of quality 95, or PNG."""
        if isinstance(self.content, Path):
            return self.content
        return encode_jpeg(self.content) if self.suffix == ".jpg" else encode_png(self.content)


def crop_picture(
    picture: Picture, image_rgb: NDArray[np.uint8], *, field_of_view: BoxPx | None
) -> Picture:
    """Crop an image, uint8 [H,W,3], to the endoscope's picture, and its boxes with it.

    An image without a border stays as it is. A JPEG is encoded again at quality 95, other formats
    become PNG.

    Args:
        picture: The image as it would be written whole.
        image_rgb: Its pixels.
        field_of_view: The part to take; by default it is searched.
    """
    crop_px = field_of_view or find_field_of_view(image_rgb)
    if crop_px is None:
        return replace(picture, hints=("no endoscope's picture found, so that nothing is cropped",))
    x0, y0, x1, y1 = crop_px
    if (x0, y0, x1, y1) == (0, 0, *picture.size_wh):
        return picture
    size_wh = (x1 - x0, y1 - y0)
    truths, outside, num_clipped = list[PolypTruth](), list[str](), 0
    for truth in picture.truths:
        left, top, right, bottom = truth.bbox_px
        moved = (left - x0, top - y0, right - x0, bottom - y0)
        checked = check_box_px(moved, size_wh=size_wh)
        if isinstance(checked, str):
            outside.append(f"box {list(truth.bbox_px)} lies outside the crop {crop_px}")
            continue
        num_clipped += checked.clipped
        truths.append(replace(truth, bbox_px=checked.box_px))
    return Picture(
        content=np.ascontiguousarray(image_rgb[y0:y1, x0:x1]),
        suffix=".jpg" if picture.suffix in LOSSY_SUFFIXES else ".png",
        size_wh=size_wh,
        truths=truths,
        crop_px=crop_px,
        num_clipped=num_clipped,
        outside=tuple(outside),
        hints=("cropped to the endoscope's picture",),
    )


def field_of_view_of_images(paths: Sequence[Path]) -> BoxPx | None:
    """Return the place of the endoscope's picture on the images of one video."""
    step = max(1, len(paths) // NUM_LOOKED_AT)
    found: dict[tuple[int, int], list[BoxPx | None]] = {}
    for path in paths[step // 2 :: step][:NUM_LOOKED_AT]:
        try:
            image = read_image_rgb(path)
        except HaustraError:
            continue  # the import names it, when it comes to it
        found.setdefault((image.shape[1], image.shape[0]), []).append(find_field_of_view(image))
    # Images of several sizes have no common place.
    return common_field_of_view(next(iter(found.values()))) if len(found) == 1 else None


def field_of_view_of_video(path: Path) -> BoxPx | None:
    """Return the place of the endoscope's picture in a video file.

    Frames all over the video are looked at; where it cannot be searched, those of its beginning.
    """
    video = cv2.VideoCapture(str(path))
    try:
        count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        found: list[BoxPx | None] = []
        for number in range(NUM_LOOKED_AT):
            if count:
                video.set(cv2.CAP_PROP_POS_FRAMES, count * (number + 0.5) // NUM_LOOKED_AT)
            done, image = video.read()
            if done:
                found.append(find_field_of_view(np.asarray(image, dtype=np.uint8)))
    finally:
        video.release()
    return common_field_of_view(found)
