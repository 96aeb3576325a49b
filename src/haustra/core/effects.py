"""Disturbances of uint8 images that the simulator, the augmentation and `eval --degrade` share.

Each function is deterministic; callers draw the random numbers. Effects that differ between these
three in more than their numbers stay with their callers: blur of linear light and of degraded
images, glare, bubbles, and most of the augmentation on the GPU.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def motion_blur_kernel(length: int, *, angle: float, side: int) -> NDArray[np.float32]:
    """Return a kernel [side,side] of sum 1: a line of `length` pixels at an angle in radians."""
    kernel = np.zeros((side, side), dtype=np.float32)
    middle = (side - 1) / 2
    reach = (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    start, end = np.rint(middle - reach).astype(int), np.rint(middle + reach).astype(int)
    cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def add_noise(image: Image, noise: NDArray[np.float32]) -> Image:
    """Add noise [h,w,3] in levels of 0..255, enlarged to the image [H,W,3] if it is smaller."""
    height, width = image.shape[:2]
    if noise.shape[:2] != (height, width):
        noise = cv2.resize(noise, (width, height))  # type: ignore[assignment]
    return cv2.add(image, noise, dtype=cv2.CV_8U)  # type: ignore[return-value]


def apply_curve(image: Image, levels: NDArray[np.float64]) -> Image:
    """Replace each value v of an image by `levels[v]`, [256] in 0..255, rounded."""
    return cv2.LUT(image, levels.round().astype(np.uint8))  # type: ignore[return-value]


def recode_jpeg(image_bgr: Image, *, quality: int) -> Image:
    """Encode BGR [H,W,3] as JPEG of a quality of 0..100 and decode it again."""
    _, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[return-value]


def recode_jpeg_rgb(image_rgb: Image, *, quality: int) -> Image:
    """Do the same with RGB [H,W,3]."""
    image_bgr: Image = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)  # type: ignore[assignment]
    decoded = recode_jpeg(image_bgr, quality=quality)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def put_text(
    image: Image,
    text: str,
    *,
    bottom_left_xy: tuple[int, int],
    scale: float,
    color: tuple[int, int, int],
    thickness: int = 1,
) -> None:
    """Write a line of text into an image; a capital letter is about 21 * `scale` pixels high."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, text, bottom_left_xy, font, scale, color, thickness, cv2.LINE_AA)
