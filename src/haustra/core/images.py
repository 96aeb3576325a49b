"""Images in and out: one decoder for every stage, RGB uint8 [H,W,3], whole files only."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError
from haustra.core.files import write_bytes_atomic

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def _is_cut_short(data: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end marker; OpenCV 4 fills the rest with grey."""
    if data.startswith(b"\xff\xd8"):
        # No end marker can stand inside the compressed scan, so the last one must follow it.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        # With its checksum, so that no pixel data look like it; anything may follow it.
        return data.rfind(b"IEND\xae\x42\x60\x82") < 0
    return False


def decode_image_rgb(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decode an image file's bytes to RGB uint8 [H,W,3]; EXIF orientation is applied.

    Args:
        data: the bytes of the file.
        name: what to call the file in a message.

    Raises:
        HaustraError: the bytes are no image that OpenCV decodes, or a cut-off one.
    """
    if _is_cut_short(data):
        raise HaustraError(f"{name} is cut short: its end marker is missing")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # a header that claims more pixels than OpenCV takes
        decoded = None
    if decoded is None:
        raise HaustraError(f"{name} is not an image (PNG, JPEG, BMP, TIFF or WebP)")
    # Into the decoder's own memory: another image of this size would be memory for nothing.
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded), dtype=np.uint8)


def read_image_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image file as RGB uint8 [H,W,3].

    Raises:
        HaustraError: the file is missing or no whole image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HaustraError(f"{path} cannot be read: {error.strerror}; expected an image") from None
    return decode_image_rgb(data, name=str(path))


def encode_png(image_rgb: NDArray[np.uint8]) -> bytes:
    """Return RGB uint8 [H,W,3] as PNG bytes."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError("OpenCV did not encode the image as PNG")
    return encoded.tobytes()


def write_png(path: Path, *, image_rgb: NDArray[np.uint8]) -> None:
    """Write RGB uint8 [H,W,3] as PNG, whole or not at all."""
    write_bytes_atomic(path, data=encode_png(image_rgb))


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly inside `folder`, by name; hidden files do not count."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
