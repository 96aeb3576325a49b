"""Scores on frames that are shrunk: the same polyps, seen from farther away."""

from dataclasses import dataclass

from haustra.core.letterbox import Letterbox
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluation.evaluation import Boxes, ChangeFrame, Image, detect_changed
from haustra.evaluation.frames import FrameSource
from haustra.evaluation.metrics import BoxMetrics, box_metrics
from haustra.inference.detector import Detector

SHARES = (1.0, 0.5, 0.35)
"""Sides of the picture, as shares of the detector's input."""


@dataclass(frozen=True, kw_only=True)
class ShrunkScore:
    """Scores of a detector on all frames at one size."""

    share: float  # side of the picture, as a share of the detector's input
    metrics: BoxMetrics


def shrink(image: Image, boxes_px: Boxes, *, share: float) -> tuple[Image, Boxes]:
    """Shrink an image [H,W,3] into the middle of a gray one of its size, with its boxes [N,4]."""
    width, height = size_wh = (image.shape[1], image.shape[0])
    inner = (max(1, round(share * width)), max(1, round(share * height)))
    letterbox = Letterbox(
        source_size_wh=size_wh,
        target_size_wh=size_wh,
        resized_size_wh=inner,
        offset_xy=((width - inner[0]) // 2, (height - inner[1]) // 2),
        crop_px=(0, 0, *size_wh),
    )
    boxes_xyxy = letterbox.boxes_to_target(boxes_px)
    return letterbox.apply(image), boxes_xyxy * (width, height, width, height)


def _shrink_to(share: float) -> ChangeFrame:
    return lambda _, image, boxes_px: shrink(image, boxes_px, share=share)


def shrunk_tier(
    source: FrameSource,
    detector: Detector,
    *,
    point: OperatingPoint,
    progress: Progress | None = None,
) -> list[ShrunkScore]:
    """Measure a detector at each share; the frames are read once for each."""
    scores = []
    for share in track(
        SHARES,
        progress=progress or SilentProgress(),
        description="shrink",
        total=len(SHARES),
        unit="sizes",
    ):
        truths, predictions = detect_changed(
            source.read(), detector, change=_shrink_to(share), iou=point.iou
        )
        metrics = box_metrics(truths, predictions, threshold=point.objectness)
        scores.append(ShrunkScore(share=share, metrics=metrics))
    return scores
