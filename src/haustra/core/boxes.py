"""Axis-aligned boxes as NumPy arrays, `x0,y0,x1,y1`.

Pixel boxes are continuous: pixel column i covers [i, i + 1), so a mask whose columns 3..5 are set
has x0 = 3 and x1 = 6.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


class CheckedBox(NamedTuple):
    """A box inside its image, and whether it had to be clipped to get there."""

    box_px: tuple[float, float, float, float]
    clipped: bool


def is_four_numbers(value: object) -> TypeGuard[Sequence[int | float]]:
    """Return whether a value from a file is a list of four numbers; strings and bools are not."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def check_box_px(box_px: object, *, size_wh: tuple[int, int]) -> CheckedBox | str:
    """Return a box clipped to its image, or the reason why it cannot be used.

    Args:
        box_px: Four numbers `x0,y0,x1,y1` in pixels, as read from a file.
        size_wh: Width and height of the image in pixels.
    """
    if not is_four_numbers(box_px):
        return f"box {box_px!r:.60} is not four numbers x0,y0,x1,y1"
    try:
        x0, y0, x1, y1 = (float(v) for v in box_px)
    except OverflowError:
        return "box has a whole number too large for a position"
    text = f"[{x0:g}, {y0:g}, {x1:g}, {y1:g}]"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return f"box {text} has a value that is not finite"
    if x1 < x0 or y1 < y0:
        return f"box {text} is inverted: x1 < x0 or y1 < y0"
    if x1 == x0 or y1 == y0:
        return f"box {text} is empty"
    width, height = size_wh
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return f"box {text} lies outside the {width}x{height} image"
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    return CheckedBox(inside, clipped=inside != (x0, y0, x1, y1))


def box_areas(boxes_xyxy: FloatArray) -> FloatArray:
    """Return the areas of `boxes_xyxy` [N,4], [N]."""
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def iou_matrix(a_xyxy: FloatArray, b_xyxy: FloatArray) -> FloatArray:
    """Return the intersection over union of every pair, [N,M] in 0..1, for [N,4] and [M,4]."""
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    overlap = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    union = box_areas(a_xyxy)[:, None] + box_areas(b_xyxy)[None, :] - overlap
    return np.where(union > 0, overlap / np.where(union > 0, union, 1), 0.0)
