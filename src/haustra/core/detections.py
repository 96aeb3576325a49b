"""`Detections`: the boxes of one image with their scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haustra.core.boxes import iou_matrix
from haustra.core.errors import HaustraError
from haustra.core.letterbox import Letterbox
from haustra.core.paths import StrPath

if TYPE_CHECKING:
    import supervision

    from haustra.core.images import ImageLike

MOST_BOXES_SHOWN = 5  # number of boxes that `repr` lists

Slots = tuple[NDArray[np.float32], NDArray[np.float32]]
PredictSlots = Callable[[NDArray[np.uint8]], Slots]
"""Function from letterboxed images, uint8 [B,H,W,3], to boxes [B,S,4] in 0..1 and scores [B,S]."""

Index = slice | int | Sequence[int] | Sequence[bool] | NDArray[np.integer] | NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Detections:
    """The boxes found in, or labeled on, one image, ordered by falling score.

    Example:
        sure = found[found.scores > 0.5]
        best = found[0]

    Raises:
        ValueError: The shapes, ranges or order are wrong.
    """

    boxes_px: NDArray[np.float64]
    """Boxes [N,4] `x0,y0,x1,y1` in pixels of the image, finite, with x0 <= x1 and y0 <= y1."""
    scores: NDArray[np.float64]
    """Scores [N] in 0..1, falling; labels have score 1."""
    image_size_wh: tuple[int, int]
    """Width and height of the image in pixels."""

    def __post_init__(self) -> None:
        boxes, scores = self.boxes_px, self.scores
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
            raise ValueError(
                f"expected boxes [N,4] and scores [N], got {boxes.shape} and {scores.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("expected finite boxes and scores")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError("expected x0 <= x1 and y0 <= y1 in every box")
        if ((scores < 0) | (scores > 1)).any():
            raise ValueError("expected scores in 0..1")
        if (np.diff(scores) > 0).any():
            raise ValueError("expected scores ordered from high to low")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> "Detections":
        """Return the detections that a mask, slice, number or list of numbers chooses.

        They stay in order of falling score.
        """
        chosen = np.sort(np.atleast_1d(np.arange(len(self))[index]))
        return replace(self, boxes_px=self.boxes_px[chosen], scores=self.scores[chosen])

    def __iter__(self) -> Iterator["Detections"]:
        """Yield each box as detections of its own."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        width, height = self.image_size_wh
        count = "1 box" if len(self) == 1 else f"{len(self) or 'no'} boxes"
        texts = self[:MOST_BOXES_SHOWN].box_texts()
        if len(self) > MOST_BOXES_SHOWN:
            texts.append(f"{len(self) - MOST_BOXES_SHOWN} more")
        listed = f": {'; '.join(texts)}" if texts else ""
        return f"Detections({count} on {width}x{height}{listed})"

    def box_texts(self) -> list[str]:
        """Return a text such as `0.91 at 12,30,80,99` for each box."""
        return [
            f"{score:.2f} at " + ",".join(f"{value:.0f}" for value in box)
            for box, score in zip(self.boxes_px, self.scores, strict=True)
        ]

    def above(self, objectness: float) -> "Detections":
        """Return the detections whose score is at least `objectness` (0..1)."""
        return self[self.scores >= objectness]

    def without_overlaps(self, iou: float) -> "Detections":
        """Drop each box that overlaps a kept, better scored one by more than `iou` (0..1)."""
        if iou >= 1:
            return self
        keep = np.ones(len(self), dtype=bool)
        overlaps = iou_matrix(self.boxes_px, self.boxes_px)
        for index in range(len(self)):
            if keep[index]:
                keep[index + 1 :] &= overlaps[index, index + 1 :] <= iou
        return self[keep]

    def plot(self, image: "ImageLike", *, path: StrPath | None = None) -> NDArray[np.uint8]:
        """Draw the boxes and their scores on the image.

        Args:
            image: The image that was looked at: a path, a PIL image or uint8 RGB [H,W,3].
            path: PNG file to write the picture to.

        Returns:
            The picture, uint8 RGB [H,W,3]. `PIL.Image.fromarray(picture)` shows it in a notebook.

        Raises:
            HaustraError: It is not an image, or has another size.
        """
        # These modules import this one.
        from haustra.core.drawing import draw_boxes
        from haustra.core.images import as_image_rgb, write_png

        image_rgb = as_image_rgb(image)
        size_wh = (image_rgb.shape[1], image_rgb.shape[0])
        if size_wh != self.image_size_wh:
            raise HaustraError(
                f"the image has {size_wh[0]}x{size_wh[1]} pixels; expected the one that was looked "
                f"at, of {self.image_size_wh[0]}x{self.image_size_wh[1]}"
            )
        picture = draw_boxes(image_rgb, self)
        if path is not None:
            write_png(path, image_rgb=picture)
        return picture

    def to_supervision(self) -> "supervision.Detections":
        """Return the boxes as `supervision.Detections`, with class 0 for each."""
        try:
            from supervision import Detections as SupervisionDetections
        except ImportError:
            raise HaustraError(
                "to_supervision() needs the package 'supervision', which is not installed; "
                "run: pip install supervision"
            ) from None
        return SupervisionDetections(
            xyxy=self.boxes_px.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=np.zeros(len(self), dtype=np.int64),
        )

    def to_coco(self, *, image_id: int | str, category_id: int = 1) -> list[dict[str, Any]]:
        """Return the boxes as COCO results: `bbox` is x, y, width and height in pixels."""
        ids = {"image_id": image_id, "category_id": category_id}
        found = zip(self.boxes_px.tolist(), self.scores.tolist(), strict=True)
        return [
            ids | {"bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for (x0, y0, x1, y1), score in found
        ]


def detections_from_labels(
    boxes_px: NDArray[np.float64], *, image_size_wh: tuple[int, int]
) -> Detections:
    """Return labeled boxes [N,4] in pixels as detections of score 1."""
    boxes = np.asarray(boxes_px, dtype=np.float64).reshape(-1, 4)
    return Detections(boxes_px=boxes, scores=np.ones(len(boxes)), image_size_wh=image_size_wh)


def detections_from_slots(
    boxes_xyxy: NDArray[np.floating],
    scores: NDArray[np.floating],
    *,
    letterbox: Letterbox,
    iou: float,
) -> Detections:
    """Turn one image's slots into detections on its source image, at every score.

    Everything that shows, records or measures boxes goes through this one rule: boxes are clipped
    to the image, and a box that overlaps a better one too much is dropped.

    Args:
        boxes_xyxy: Boxes [S,4], normalized to the letterboxed image.
        scores: Scores [S] in 0..1.
        letterbox: How the source image was mapped.
        iou: Largest overlap with a better box; 1 drops nothing.
    """
    size_wh = letterbox.source_size_wh
    boxes = np.clip(letterbox.boxes_to_source(boxes_xyxy), 0, np.tile(size_wh, 2))
    # An untrained detector may put x1 left of x0; such a slot is a box without area.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes_px=boxes[order], scores=scores[order].astype(np.float64), image_size_wh=size_wh
    ).without_overlaps(iou)
