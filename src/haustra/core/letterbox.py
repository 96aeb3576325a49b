"""Letterbox: one resize for ETL, inference and export, with its exact inverse for boxes.

`letterbox` keeps the aspect ratio and pads with gray; `force` stretches to the target. Both are
described by a scale and an offset per axis, so one pair of formulas serves boxes in both modes:
target = (source - crop) * scale + offset.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

ResizeMode = Literal["letterbox", "force"]

PAD_VALUE = 114  # gray of the padding, as in the YOLO family


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Mapping of one image size into another. Build it with `plan_letterbox`."""

    source_size_wh: tuple[int, int]
    target_size_wh: tuple[int, int]
    resized_size_wh: tuple[int, int]
    offset_xy: tuple[int, int]  # left and top padding in target pixels
    crop_px: tuple[int, int, int, int]
    """Part of the source image that is mapped, `x0,y0,x1,y1`; boxes stay in the whole image."""

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Target pixels per source pixel, exact for the rounded size."""
        x0, y0, x1, y1 = self.crop_px
        return self.resized_size_wh[0] / (x1 - x0), self.resized_size_wh[1] / (y1 - y0)

    def apply(
        self, image: NDArray[np.uint8], *, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Resize and pad an image, uint8 [H,W,3], into `out` if given.

        Raises:
            ValueError: The image has another size than `source_size_wh`.
        """
        height, width = image.shape[:2]
        if (width, height) != self.source_size_wh:
            raise ValueError(f"expected an image of {self.source_size_wh}, got {(width, height)}")
        x0, y0, x1, y1 = self.crop_px
        image, width, height = image[y0:y1, x0:x1], x1 - x0, y1 - y0
        target_width, target_height = self.target_size_wh
        if out is None:
            out = np.empty((target_height, target_width, 3), dtype=np.uint8)
        left, top = self.offset_xy
        right, bottom = left + self.resized_size_wh[0], top + self.resized_size_wh[1]
        out[:top] = out[bottom:] = PAD_VALUE
        out[top:bottom, :left] = out[top:bottom, right:] = PAD_VALUE
        inside = out[top:bottom, left:right]
        if self.resized_size_wh == (width, height):
            inside[:] = image
        else:
            shrinks = self.resized_size_wh[0] < width or self.resized_size_wh[1] < height
            # INTER_AREA averages what falls together, so small bright polyps do not alias away.
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            cv2.resize(image, self.resized_size_wh, dst=inside, interpolation=method)
        return out

    def boxes_to_target(self, boxes_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map [N,4] from source pixels to `boxes_xyxy` normalized to the target image."""
        boxes = np.asarray(boxes_px, dtype=np.float64).reshape(-1, 4)
        scale, offset = np.tile(self.scale_xy, 2), np.tile(self.offset_xy, 2)
        origin = np.tile(self.crop_px[:2], 2)
        return np.asarray(((boxes - origin) * scale + offset) / np.tile(self.target_size_wh, 2))

    def boxes_to_source(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map [N,4] normalized to the target image back to source pixels; not clipped."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        scale, offset = np.tile(self.scale_xy, 2), np.tile(self.offset_xy, 2)
        cropped = (boxes * np.tile(self.target_size_wh, 2) - offset) / scale
        return np.asarray(cropped + np.tile(self.crop_px[:2], 2))


def plan_letterbox(
    source_size_wh: tuple[int, int],
    *,
    target_size_wh: tuple[int, int],
    mode: ResizeMode = "letterbox",
    crop_px: tuple[int, int, int, int] | None = None,
) -> Letterbox:
    """Return how an image of `source_size_wh`, or a part of it, maps into `target_size_wh`."""
    if min(*source_size_wh, *target_size_wh) <= 0:
        raise ValueError(f"expected positive sizes, got {source_size_wh} and {target_size_wh}")
    crop_px = crop_px or (0, 0, *source_size_wh)
    width, height = crop_px[2] - crop_px[0], crop_px[3] - crop_px[1]
    resized = target_size_wh
    if mode == "letterbox":
        ratio = min(target_size_wh[0] / width, target_size_wh[1] / height)
        resized = (
            min(target_size_wh[0], max(1, round(width * ratio))),
            min(target_size_wh[1], max(1, round(height * ratio))),
        )
    return Letterbox(
        source_size_wh=source_size_wh,
        target_size_wh=target_size_wh,
        resized_size_wh=resized,
        offset_xy=((target_size_wh[0] - resized[0]) // 2, (target_size_wh[1] - resized[1]) // 2),
        crop_px=crop_px,
    )
