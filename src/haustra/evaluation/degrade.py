"""Degradations of endoscopic images at three severities, and the recall that they cost."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core import effects
from haustra.core.boxes import box_areas
from haustra.core.drawing import draw_text
from haustra.core.operating_point import OperatingPoint
from haustra.core.progress import Progress, SilentProgress, track
from haustra.evaluation.evaluation import Boxes, Image, detect_changed
from haustra.evaluation.frames import FrameSource, FrameWithPixels
from haustra.evaluation.metrics import threshold_metrics
from haustra.inference.detector import Detector

SEVERITIES = (1, 2, 3)
GAMMA = 2.2
"""Gamma of the camera: light is about value ** 2.2 (ITU-R BT.709 and sRGB are close to it)."""
LEAST_KEPT_AREA = 0.25  # boxes that keep a smaller share of their area in a crop are left out
TEXTS = (
    *("EDOF ON", "Zoom x1.2", "SHARP A5", "Gain 3"),
    *("CVP: 1-1", "ID 0000", "11:42:07", "Iris AVE"),
)


def _blur(image: Image, share: float, rng: np.random.Generator) -> Image:
    # Not `motion_blur_kernel`: long lines need antialiasing, and defocus is added.
    side = max(image.shape[:2])
    length = max(3, round(share * side) | 1)
    line = np.zeros((length, length), dtype=np.float32)
    line[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, float(rng.uniform(0, 180)), 1)
    kernel = cv2.warpAffine(line, turn, (length, length))
    moved = cv2.filter2D(image, -1, kernel / kernel.sum())
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), share * side / 4), dtype=np.uint8)


def _glare(image: Image, count: float, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    light = np.zeros((height, width), dtype=np.float32)
    for _ in range(int(count)):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        long = rng.uniform(0.015, 0.05) * max(height, width)
        axes = (max(1, round(long)), max(1, round(long * rng.uniform(0.2, 0.6))))
        cv2.ellipse(light, center, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    soft = cv2.GaussianBlur(light, (0, 0), 0.006 * max(height, width))
    halo = cv2.GaussianBlur(light, (0, 0), 0.03 * max(height, width))
    share = np.clip(soft + 0.6 * halo, 0, 1)[..., None]
    return np.asarray(image + (255 - image) * share, dtype=np.uint8)


def _bubbles(image: Image, count: float, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    found = image.copy()
    for _ in range(int(count)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        radius = max(2, round(rng.uniform(0.012, 0.05) * max(height, width)))
        disc = np.zeros((height, width), dtype=np.float32)
        cv2.circle(disc, (x, y), radius, 1.0, -1, cv2.LINE_AA)
        rim = np.zeros_like(disc)
        cv2.circle(rim, (x, y), radius, 1.0, max(1, radius // 7), cv2.LINE_AA)
        shine = (x - radius // 3, y - radius // 3)
        cv2.circle(rim, shine, max(1, radius // 5), 1.2, -1, cv2.LINE_AA)
        veil = 0.25 * disc[..., None]
        clouded = found * (1 - veil) + np.array([205, 195, 170]) * veil
        found = np.clip(clouded + 110 * rim[..., None], 0, 255).astype(np.uint8)
    return found


def _expose(image: Image, gain: float, _rng: np.random.Generator) -> Image:
    light = (np.arange(256) / 255) ** GAMMA * gain
    return effects.apply_curve(image, 255 * np.clip(light, 0, 1) ** (1 / GAMMA))


def _noise(image: Image, deviation: float, rng: np.random.Generator) -> Image:
    # Not `effects.add_noise`, which rounds: the stored results are of truncated values.
    grains = rng.normal(0, deviation, image.shape)
    return np.asarray((image + grains).clip(0, 255), dtype=np.uint8)


def _jpeg(image: Image, quality: float, _rng: np.random.Generator) -> Image:
    return effects.recode_jpeg_rgb(image, quality=int(quality))


def _crop(image: Image, share: float, _rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = _crop_window(share, size_wh=(width, height))
    return cv2.resize(image[y0:y1, x0:x1], (width, height))  # type: ignore[return-value]


def _crop_window(share: float, *, size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size_wh
    x0, y0 = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return x0, y0, width - x0, height - y0


def _text(image: Image, count: float, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    scale = 0.0016 * max(height, width)
    found = image.copy()
    for _ in range(int(count)):
        place = (int(rng.uniform(0, 0.7) * width), int(rng.uniform(0.05, 1) * height))
        words = TEXTS[int(rng.integers(len(TEXTS)))]
        effects.put_text(
            found,
            words,
            bottom_left_xy=place,
            scale=scale,
            color=(235, 235, 235) if rng.random() < 0.7 else (250, 220, 60),
            thickness=max(1, round(2 * scale)),
        )
    return found


_Change = Callable[[Image, float, np.random.Generator], Image]
_DEGRADATIONS: dict[str, tuple[_Change, tuple[float, float, float]]] = {
    "blur": (_blur, (0.008, 0.016, 0.03)),  # length of motion blur and defocus, share of the side
    "glare": (_glare, (4, 10, 22)),  # patches
    "bubbles": (_bubbles, (6, 16, 36)),  # bubbles
    "under-exposure": (_expose, (0.6, 0.38, 0.2)),  # gain on the light
    "over-exposure": (_expose, (1.5, 2.1, 3.0)),  # gain on the light
    "noise": (_noise, (10, 24, 45)),  # standard deviation, of 255
    "jpeg": (_jpeg, (30, 15, 8)),  # quality, of 100
    "crop": (_crop, (0.85, 0.7, 0.55)),  # remaining share of the side
    "text": (_text, (2, 5, 10)),  # lines
}
"""Function of each kind, and its parameter by severity: 1 is common, 3 is rare and still readable
for people."""
KINDS = tuple(_DEGRADATIONS)


def degrade_image(image_rgb: Image, *, kind: str, severity: int, name: str) -> Image:
    """Return a degraded image, uint8 [H,W,3].

    Args:
        kind: One of `KINDS`.
        severity: 1, 2 or 3.
        name: Name of the image; it is the seed of everything random.
    """
    rng = np.random.default_rng([severity, zlib.crc32(f"{kind} {name}".encode())])
    change, parameters = _DEGRADATIONS[kind]
    return change(image_rgb, parameters[severity - 1], rng)


def degrade_boxes(
    boxes_px: NDArray[np.float64], *, kind: str, severity: int, size_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the labeled boxes [N,4] in the degraded image; only a crop changes them."""
    if kind != "crop":
        return boxes_px
    width, height = size_wh
    share = _DEGRADATIONS[kind][1][severity - 1]
    x0, y0, x1, y1 = _crop_window(share, size_wh=size_wh)
    inside = np.clip(boxes_px, (x0, y0, x0, y0), (x1, y1, x1, y1))
    kept = box_areas(inside) >= LEAST_KEPT_AREA * box_areas(boxes_px)
    stretch = np.tile([width / (x1 - x0), height / (y1 - y0)], 2)
    return np.asarray((inside[kept] - (x0, y0, x0, y0)) * stretch)


@dataclass(frozen=True, kw_only=True)
class DegradedScore:
    """Score of a detector on all frames with one degradation."""

    kind: str  # "clean" or one of `KINDS`
    severity: int  # 0 for clean
    num_truths: int
    recall: float | None  # at IoU 0.5 and the threshold
    false_boxes_per_image: float


@dataclass(frozen=True, kw_only=True)
class DegradationResult:
    """Scores of a detector with each degradation."""

    threshold: float
    num_images: int
    clean: DegradedScore
    scores: list[DegradedScore]  # by kind and severity
    worst: DegradedScore | None  # the lowest recall, if one is defined


def _measure(
    frames: Iterator[FrameWithPixels],
    *,
    kind: str,
    severity: int,
    detector: Detector,
    point: OperatingPoint,
) -> DegradedScore:
    def change(name: str, image: Image, boxes_px: Boxes) -> tuple[Image, Boxes]:
        if not severity:
            return image, boxes_px
        size_wh = (image.shape[1], image.shape[0])
        return (
            degrade_image(image, kind=kind, severity=severity, name=name),
            degrade_boxes(boxes_px, kind=kind, severity=severity, size_wh=size_wh),
        )

    truths, predictions = detect_changed(frames, detector, change=change, iou=point.iou)
    counts = threshold_metrics(truths, predictions, threshold=point.objectness)
    return DegradedScore(
        kind=kind,
        severity=severity,
        num_truths=counts.true_positives + counts.false_negatives,
        recall=counts.recall,
        false_boxes_per_image=counts.false_positives / max(1, len(truths)),
    )


def measure_degradations(
    source: FrameSource,
    detector: Detector,
    *,
    point: OperatingPoint,
    progress: Progress | None = None,
) -> DegradationResult:
    """Measure a detector on clean frames and on every degradation of them.

    The letterboxed image is degraded, which is what the detector receives. The
    frames are read once per degradation and once more.
    """
    states = [("clean", 0), *((kind, severity) for kind in KINDS for severity in SEVERITIES)]
    clean, *scores = [
        _measure(source.read(), kind=kind, severity=severity, detector=detector, point=point)
        for kind, severity in track(
            states,
            progress=progress or SilentProgress(),
            description="degrade",
            total=len(states),
            unit="degradations",
        )
    ]
    return DegradationResult(
        threshold=point.objectness,
        num_images=len(source),
        clean=clean,
        scores=scores,
        worst=min(
            (score for score in scores if score.recall is not None),
            key=lambda score: score.recall or 0.0,
            default=None,
        ),
    )


def draw_degradations(image_rgb: Image, *, name: str, side_px: int = 180) -> Image:
    """Return a sheet of an image's degradations, a column per kind and a row per severity."""
    size = (side_px, round(side_px * image_rgb.shape[0] / image_rgb.shape[1]))
    rows = []
    for severity in SEVERITIES:
        tiles = []
        for kind in KINDS:
            degraded = degrade_image(image_rgb, kind=kind, severity=severity, name=name)
            tile = np.asarray(cv2.resize(degraded, size, interpolation=cv2.INTER_AREA), np.uint8)
            label = f"{kind} {severity}"
            draw_text(tile, label, top_left_xy=(0, tile.shape[0]), rgb=(255, 255, 255))
            tiles.append(tile)
        rows.append(np.hstack(tiles))
    return np.vstack(rows)
