"""Finding the endoscope's picture on a screen, without black border, text and small inserts.

Scopes show a rectangle, an octagon or a circle on black. Text beside it is thin, and an insert is
small; neither belongs to the picture. The rectangle around the picture may hold a border of a few
pixels, never less than the picture.
"""

from collections import deque
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

BoxPx = tuple[int, int, int, int]
"""`x0,y0,x1,y1` in whole pixels."""

WORKING_SIDE_PX = 256  # longest side of the image on which the picture is searched
DARKEST = 24  # value, 0..255, up to which the brightest channel of a pixel is border
LEAST_COVERAGE = 0.1  # share of its length that a row or column of the picture fills at least
LEAST_SIDE = 0.3  # share of the image's side below which a find is not believed
LEAST_BORDER = 0.02  # share of the image's side up to which a border is left where it is
NUM_REMEMBERED = 31  # finds whose median a stream follows: a second of video


def find_field_of_view(image_rgb: NDArray[np.uint8]) -> BoxPx | None:
    """Return the rectangle around the endoscope's picture.

    Args:
        image_rgb: Image, uint8 [H,W,3].

    Returns:
        The rectangle in pixels, the whole image where it has no border, or None where no picture
        is found, such as in the dark.
    """
    height, width = image_rgb.shape[:2]
    scale = min(1.0, WORKING_SIDE_PX / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA)
    lit = (small.max(axis=2) > DARKEST).astype(np.uint8)
    lit = cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))  # text is thinner
    _, labels, stats, _ = cv2.connectedComponentsWithStats(lit)
    if len(stats) < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    picture = labels == largest
    edges: list[int] = []
    for axis, side in ((0, width), (1, height)):
        counts = picture.sum(axis=axis)
        filled = np.flatnonzero(counts >= LEAST_COVERAGE * counts.max())
        ratio = side / len(counts)
        first, last = filled[0] * ratio, (filled[-1] + 1) * ratio
        if last - first < LEAST_SIDE * side:
            return None
        edges += [
            0 if first <= LEAST_BORDER * side else int(first),
            side if last >= (1 - LEAST_BORDER) * side else min(side, int(np.ceil(last))),
        ]
    x0, x1, y0, y1 = edges
    return x0, y0, x1, y1


def common_field_of_view(found: Iterable[BoxPx | None]) -> BoxPx | None:
    """Return the median of the finds on frames of one scope; None where there are none."""
    boxes = [box for box in found if box is not None]
    if not boxes:
        return None
    # The median of an even number is the lower of the middle two: a whole pixel.
    x0, y0, x1, y1 = np.sort(boxes, axis=0)[(len(boxes) - 1) // 2].tolist()
    return x0, y0, x1, y1


class FieldOfView:
    """Follows the picture of one stream; a dark frame or a menu over it does not move it.

    Args:
        is_cropped: True where the frames are the picture already: nothing is searched then.
    """

    def __init__(self, *, is_cropped: bool = False) -> None:
        self._is_cropped = is_cropped
        self._found: deque[BoxPx] = deque(maxlen=NUM_REMEMBERED)
        self._size_wh = (0, 0)

    def find(self, image_rgb: NDArray[np.uint8]) -> BoxPx | None:
        """Return the rectangle around the picture on the stream's next frame, uint8 [H,W,3]."""
        if self._is_cropped:
            return None
        size_wh = (image_rgb.shape[1], image_rgb.shape[0])
        if size_wh != self._size_wh:
            self._found.clear()
            self._size_wh = size_wh
        if (found := find_field_of_view(image_rgb)) is not None:
            self._found.append(found)
        return common_field_of_view(self._found)
