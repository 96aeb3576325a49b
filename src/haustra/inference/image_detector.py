"""What every detector shares: from an image to detections, through the letterbox.

Needs no torch and no ONNX Runtime: those come with the detectors.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections, PredictSlots, detections_from_slots
from haustra.core.letterbox import Letterbox, ResizeMode, plan_letterbox
from haustra.core.operating_point import OperatingPoint


class ImageDetector(Protocol):
    """Anything that finds polyps on an image: a trained detector or the heuristic."""

    @property
    def caption(self) -> str:
        """What to write on the picture about the producer of the boxes."""

    def detect(self, image_rgb: NDArray[np.uint8], *, objectness: float, iou: float) -> Detections:
        """Return the detections to show on a uint8 [H,W,3] image."""


@dataclass(frozen=True, kw_only=True)
class LetterboxedImage:
    """An image as the model sees it, and how it got there."""

    pixels: NDArray[np.uint8]
    """uint8 [H,W,3] of the model's input size."""
    letterbox: Letterbox


class TrainedDetector:
    """TinyDet or BigDet, from whatever file: a function to slots and what belongs around it."""

    def __init__(
        self,
        predict_slots: PredictSlots,
        *,
        caption: str,
        input_size_wh: tuple[int, int],
        resize_mode: ResizeMode,
        operating_point: OperatingPoint,
        history: list[dict[str, Any]],
        warehouse_version: str | None = None,
        training_groups: tuple[str, ...] = (),
        backend: str = "backend ndarray: CPU",
    ) -> None:
        self.predict_slots = predict_slots
        """The network."""
        self.caption = caption
        """The model's name."""
        self.input_size_wh = input_size_wh
        """Width and height in pixels of the images that the model takes."""
        self.resize_mode = resize_mode
        """How images are brought to that size."""
        self.operating_point = operating_point
        """Thresholds, hold-off and hysteresis that the file was fitted to."""
        self.history = history
        """One entry per epoch of the training, as far as the file has them."""
        self.warehouse_version = warehouse_version
        """Of the data that it was trained on, as far as the file tells."""
        self.training_groups = training_groups
        """`digest_group` of the groups that it was trained on, as far as the file tells."""
        self.backend = backend
        """What computes, for people."""

    def prepare(self, image_rgb: NDArray[np.uint8]) -> LetterboxedImage:
        """Letterbox an image exactly as the ETL did for the training images."""
        letterbox = plan_letterbox(
            (image_rgb.shape[1], image_rgb.shape[0]),
            target_size_wh=self.input_size_wh,
            mode=self.resize_mode,
        )
        return LetterboxedImage(pixels=letterbox.apply(image_rgb), letterbox=letterbox)

    def store_operating_point(self, point: OperatingPoint) -> None:
        """Write another operating point into the file that the detector came from.

        Raises:
            HaustraError: that kind of file does not take one.
        """
        raise NotImplementedError

    def detect(self, image_rgb: NDArray[np.uint8], *, objectness: float, iou: float) -> Detections:
        """Return the detections of at least `objectness`, without overlaps above `iou`."""
        prepared = self.prepare(image_rgb)
        boxes, scores = self.predict_slots(prepared.pixels[None])
        found = detections_from_slots(boxes[0], scores[0], letterbox=prepared.letterbox)
        return found.above(objectness).without_overlaps(iou)
