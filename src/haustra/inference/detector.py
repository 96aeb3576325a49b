"""`Detector` finds polyps on images and in streams, whichever file it comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from haustra.captures.sources import open_source
from haustra.core.backend_names import BackendFlag
from haustra.core.detections import Detections, PredictSlots, detections_from_slots
from haustra.core.field_of_view import FieldOfView
from haustra.core.images import ImageLike, as_image_rgb
from haustra.core.letterbox import Letterbox, ResizeMode, plan_letterbox
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.core.paths import StrPath, to_path

AnyImage = TypeVar("AnyImage", bound=ImageLike)
BATCH_SIZE = 32  # number of images that go through the network together


@dataclass(kw_only=True, eq=False, repr=False)
class Detector:
    """TinyDet, BigDet or the heuristic: the network as a function, and the facts to use it.

    Example:
        detector = open_detector("checkpoints/bigdet.bin")
        found = detector("frame.png")
        for frame, found in detector.stream("clip.mp4"):
            print(found)
    """

    predict_slots: PredictSlots
    """The network."""
    kind: Literal["tiny", "big", "heuristic"]
    """Kind of the model."""
    caption: str
    """Name shown to people."""
    input_size_wh: tuple[int, int]
    """Width and height in pixels of the images that the network takes."""
    resize_mode: ResizeMode = "letterbox"
    """Resizing of images to that size: with padding, or stretched."""
    class_names: tuple[str, ...] = ("polyp",)
    """Names of the classes."""
    operating_point: OperatingPoint = field(default_factory=OperatingPoint)
    """Thresholds, hold-off and hysteresis to use."""
    backend: str | None = None
    """Name of the backend and its device; None if there is no choice."""
    path: Path | None = None
    """The file; None for a detector in memory."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch of the training, as far as the file has them."""
    warehouse_version: str | None = None
    """Version of the warehouse that it was trained on; None where it is not known."""
    crops: bool = False
    """True if it looks at the endoscope's picture alone, without the border, as in its training."""
    training_groups: tuple[str, ...] = ()
    """`digest_group` of the groups that it was trained on; empty where they are not known."""

    def __repr__(self) -> str:
        width, height = self.input_size_wh
        rows = {
            "file": self.path or "none",
            "input": f"{width}x{height} {self.resize_mode}",
            "classes": ", ".join(self.class_names),
            "shows": self.operating_point,
            "runs on": self.backend,
        }
        return "\n".join(
            [f"Detector: {self.caption}", *(f"  {name:8} {value}" for name, value in rows.items())]
        )

    @overload
    def __call__(self, image: list[AnyImage] | tuple[AnyImage, ...]) -> list[Detections]: ...
    @overload
    def __call__(self, image: ImageLike) -> Detections: ...
    def __call__(
        self, image: ImageLike | list[AnyImage] | tuple[AnyImage, ...]
    ) -> Detections | list[Detections]:
        """Find polyps at the stored operating point.

        Args:
            image: A path, a PIL image or a uint8 RGB array [H,W,3]; or a list or tuple of them.

        Returns:
            The detections; for a list or tuple a list of them.

        Raises:
            HaustraError: An image cannot be read or is not uint8 RGB.
        """
        if not isinstance(image, list | tuple):
            return self.detect(as_image_rgb(image))
        found: list[Detections] = []
        for start in range(0, len(image), BATCH_SIZE):
            images = [as_image_rgb(each) for each in image[start : start + BATCH_SIZE]]
            found += self._detect_at_every_score(images, iou=self.operating_point.iou)
        return [each.above(self.operating_point.objectness) for each in found]

    def detect(
        self,
        image_rgb: NDArray[np.uint8],
        *,
        objectness: float | None = None,
        iou: float | None = None,
        field_of_view: FieldOfView | None = None,
    ) -> Detections:
        """Find polyps on an image.

        Args:
            image_rgb: Image, uint8 [H,W,3].
            objectness: Lowest score; that of the operating point by default.
            iou: Largest overlap with a better box; that of the operating point by default.
            field_of_view: Where the endoscope's picture was on earlier frames of the stream, for a
                detector that crops; by default the image is one of its own.
        """
        point = self.operating_point.with_flags(objectness=objectness, iou=iou)
        [found] = self._detect_at_every_score(
            [image_rgb], iou=point.iou, field_of_view=field_of_view
        )
        return found.above(point.objectness)

    def stream(self, source: StrPath | int) -> Iterator[tuple[NDArray[np.uint8], Detections]]:
        """Find polyps on each frame of a source, at the stored operating point.

        Hold-off and hysteresis apply where the frames are in time order.

        Args:
            source: A run folder, a folder of images, a video file, the number of a camera, or the
                URL of a stream.

        Yields:
            Each frame, uint8 RGB [H,W,3], and its detections.

        Raises:
            HaustraError: The source does not open, or a frame cannot be read.
        """
        point = self.operating_point
        with open_source(source) as frames:
            field_of_view = FieldOfView(is_cropped=frames.is_cropped)
            point = point if frames.in_time_order else point.for_single_images()
            alarm = AlarmFilter(point, frame_rate_hz=frames.frame_rate_hz)
            for frame in frames:
                found = self.detect(frame.image_rgb, objectness=0.0, field_of_view=field_of_view)
                yield frame.image_rgb, alarm.show_at(frame.seconds, found)

    def letterbox(
        self, image_rgb: NDArray[np.uint8], *, field_of_view: FieldOfView | None = None
    ) -> Letterbox:
        """Return the mapping of an image, uint8 [H,W,3], to the input size of the network.

        Args:
            image_rgb: The image.
            field_of_view: As for `detect`.
        """
        return plan_letterbox(
            (image_rgb.shape[1], image_rgb.shape[0]),
            target_size_wh=self.input_size_wh,
            mode=self.resize_mode,
            crop_px=(field_of_view or FieldOfView()).find(image_rgb) if self.crops else None,
        )

    def detect_letterboxed(
        self, images: NDArray[np.uint8], *, letterboxes: Sequence[Letterbox], iou: float
    ) -> list[Detections]:
        """Find polyps at every score, on images that already have the network's size.

        Args:
            images: Images, uint8 [B,H,W,3].
            letterboxes: Mapping of each source image. Boxes are returned in its pixels.
            iou: Largest overlap with a better box.
        """
        boxes, scores = self.predict_slots(images)
        return [
            detections_from_slots(boxes[row], scores[row], letterbox=letterbox, iou=iou)
            for row, letterbox in enumerate(letterboxes)
        ]

    def _detect_at_every_score(
        self,
        images_rgb: Sequence[NDArray[np.uint8]],
        *,
        iou: float,
        field_of_view: FieldOfView | None = None,
    ) -> list[Detections]:
        letterboxes = [self.letterbox(i, field_of_view=field_of_view) for i in images_rgb]
        pixels = [box.apply(image) for box, image in zip(letterboxes, images_rgb, strict=True)]
        return self.detect_letterboxed(np.stack(pixels), letterboxes=letterboxes, iou=iou)


def open_detector(
    path: StrPath, *, kind: Literal["tiny", "big"] | None = None, backend: BackendFlag | None = None
) -> Detector:
    """Open a checkpoint of `haustra train`, or an .onnx file of `haustra export`.

    Args:
        kind: Kind that it must have; None allows any.
        backend: Backend that runs it; by default the value of HAUSTRA_BACKEND, else the CPU.

    Raises:
        HaustraError: The file does not load, is of another kind, or the backend is not available.
            There is no fallback.
        MissingExtraError: A package that runs such a file is not installed.
    """
    path = to_path(path)
    if is_onnx_path(path):
        from haustra.inference.onnx_detector import open_onnx

        return open_onnx(path, kind=kind, backend=backend)
    from haustra.inference.checkpoint_detector import open_checkpoint

    return open_checkpoint(path, kind=kind, backend=backend)


def is_onnx_path(path: Path) -> bool:
    """Return True for a name that ends in .onnx."""
    return path.suffix.lower() == ".onnx"


def trained_on_crops(sources: Sequence[dict[str, Any]]) -> bool:
    """Return True if all data of a training was cropped to the endoscope's picture."""
    return bool(sources) and all(source.get("crop") == "auto" for source in sources)
