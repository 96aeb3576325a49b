"""A trained detector on one image at a time, from pixels to `Detections` of the source image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from haustra.core.detections import Detections, detections_from_slots
from haustra.core.errors import MissingExtraError
from haustra.core.letterbox import Letterbox, ResizeMode, plan_letterbox


class ImageDetector(Protocol):
    """Anything that finds polyps on an image: a checkpoint's detector or the heuristic."""

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


class CheckpointDetector:
    """TinyDet or BigDet from a checkpoint.

    Raises:
        HaustraError: it does not load, or is of another kind than `kind`; there is no fallback.
        MissingExtraError: torch is not installed.
    """

    def __init__(self, path: Path, *, kind: Literal["tiny", "big"] | None = None) -> None:
        try:
            from haustra.models.checkpoint import check_kind, read_checkpoint
            from haustra.models.predict import predict_slots
        except ImportError:
            raise MissingExtraError(
                "torch", extra="train", needed_for=f"reading the checkpoint {path}"
            ) from None
        self.header, self.model = read_checkpoint(path)
        check_kind(path, header=self.header, wanted=kind)
        self.predict_slots = predict_slots(self.model)

    @property
    def caption(self) -> str:
        """The model's name."""
        return self.header.kind_name

    @property
    def input_size_wh(self) -> tuple[int, int]:
        """Width and height in pixels of the images that the model takes."""
        return self.header.input_size_wh

    @property
    def resize_mode(self) -> ResizeMode:
        """How images are brought to that size."""
        return self.header.resize_mode

    @property
    def objectness(self) -> float:
        """Score threshold of the operating point."""
        return self.header.operating_point.objectness

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per epoch of the training."""
        return self.header.history

    def prepare(self, image_rgb: NDArray[np.uint8]) -> LetterboxedImage:
        """Letterbox an image exactly as the ETL did for the training images."""
        letterbox = plan_letterbox(
            (image_rgb.shape[1], image_rgb.shape[0]),
            target_size_wh=self.input_size_wh,
            mode=self.resize_mode,
        )
        return LetterboxedImage(pixels=letterbox.apply(image_rgb), letterbox=letterbox)

    def detect(self, image_rgb: NDArray[np.uint8], *, objectness: float, iou: float) -> Detections:
        """Return the detections of at least `objectness`, without overlaps above `iou`."""
        prepared = self.prepare(image_rgb)
        boxes, scores = self.predict_slots(prepared.pixels[None])
        found = detections_from_slots(boxes[0], scores[0], letterbox=prepared.letterbox)
        return found.above(objectness).without_overlaps(iou)
