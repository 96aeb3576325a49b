"""Reading and writing image files as RGB uint8 [H,W,3]; truncated files are refused."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError
from haustra.core.files import write_bytes_atomic
from haustra.core.paths import StrPath, to_path


class SupportsRgb(Protocol):
    """The part of a PIL image that is used, so that PIL is not a dependency."""

    def convert(self, mode: str) -> "SupportsRgb":
        """Return the image in another mode, such as RGB."""


ImageLike = StrPath | NDArray[np.uint8] | SupportsRgb
"""An image as a user has it: a file, a uint8 RGB array [H,W,3], or a PIL image."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp")

ANY_DEPTH = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
HIGHEST_OF_12_BITS = 4095
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""A marker after a scan; in the scan itself 0xff is followed by 0 or a restart marker."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Codes of the markers whose segment states the size of the image."""


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the code and end of each marker up to that of the image's end.

    A thumbnail and whatever follows the image have markers too, which are not visited.
    """
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        code, end = marker[1][0], marker.end()
        yield code, end
        if code == 0xD9:
            return
        position = end + int.from_bytes(data[end : end + 2])


def _is_cut_short(data: bytes) -> bool:
    """Return whether a JPEG or PNG lacks its end marker; OpenCV 4 fills the rest with gray."""
    if data.startswith(b"\xff\xd8"):
        codes = [code for code, _ in _jpeg_markers(data)]
        return codes[-1:] != [0xD9] and b"\xff\xda" in data
    if data.startswith(b"\x89PNG"):
        # With its checksum, so that pixel data cannot match; other data may follow.
        return data.rfind(b"IEND\xae\x42\x60\x82") < 0
    return False


def _decode(data: bytes, *, flags: int, name: str) -> NDArray[Any]:
    if _is_cut_short(data):
        raise HaustraError(f"{name} is cut short: its end marker is missing")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # a header that claims more pixels than OpenCV takes
        decoded = None
    if decoded is None:
        raise HaustraError(f"{name} is not an image (PNG, JPEG, BMP, TIFF or WebP)")
    return decoded


def decode_image_values(data: bytes, *, name: str) -> NDArray[Any]:
    """Decode an image file's bytes to the values that it stores: any type, [H,W] or [H,W,C].

    Color is in the order blue, green, red, alpha. EXIF orientation is applied to a JPEG.
    """
    is_jpeg = data.startswith(b"\xff\xd8")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if is_jpeg else cv2.IMREAD_UNCHANGED
    return _decode(data, flags=flags, name=name)


class CheckedImage(NamedTuple):
    """An image file that is whole."""

    size_wh: tuple[int, int]
    """Width and height of the image as `decode_image_rgb` returns it."""
    turned_wh: tuple[int, int] | None
    """Width and height before its orientation tag turned it; None if it has no such tag, or if that
    changes nothing."""
    image_rgb: NDArray[np.uint8]
    """The image, of a JPEG at an eighth of its size where that saves time."""


def check_image(data: bytes, *, name: str) -> CheckedImage:
    """Check that an image file is whole.

    A JPEG is decoded at an eighth of its size, which reads all of its data.

    Raises:
        HaustraError: `decode_image_rgb` would refuse it.
    """
    head, tags = data, [b"eXIf", b"EXIF", b"II*\0", b"MM\0*"]
    if data.startswith(b"\xff\xd8"):
        ends = dict(_jpeg_markers(data))
        head, tags = data[: ends.get(0xDA)], [b"Exif"]
        if b"Exif" not in head:
            small = _decode(data, flags=cv2.IMREAD_REDUCED_COLOR_8, name=name)
            end = next((end for code, end in ends.items() if code in _JPEG_FRAMES), 0)
            height, width = (int.from_bytes(data[end + n : end + n + 2]) for n in (3, 5))
            if _size_wh(small) == ((width + 7) // 8, (height + 7) // 8):
                small_rgb = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                return CheckedImage((width, height), None, small_rgb)
    image = decode_image_rgb(data, name=name)
    if not any(tag in head for tag in tags):
        return CheckedImage(_size_wh(image), None, image)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    stored = _decode(data, flags=flags, name=name)
    same = np.array_equal(stored[:, :, ::-1], image)
    return CheckedImage(_size_wh(image), None if same else _size_wh(stored), image)


def _size_wh(image: NDArray[Any]) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def decode_image_rgb(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decode an image file's bytes to RGB uint8 [H,W,3]; EXIF orientation is applied.

    Raises:
        HaustraError: OpenCV cannot decode the bytes, the image is truncated, or its values would
            not show: a float, 32-bit or 12-bit image.
    """
    decoded = _decode(data, flags=ANY_DEPTH, name=name)
    if decoded.dtype != np.uint8:
        highest = decoded.max()
        if decoded.dtype != np.uint16 or 0 < highest <= HIGHEST_OF_12_BITS:
            raise HaustraError(
                f"{name} has {decoded.dtype} values up to {highest:g}, which would look black or "
                "not as meant; expected 8 bits, or 16 bits with values up to 65535; scale it first"
            )
        decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    # Converted in place, which saves the memory of another image.
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded), dtype=np.uint8)


def as_image_rgb(image: ImageLike) -> NDArray[np.uint8]:
    """Return an image as uint8 RGB [H,W,3]; a PIL image of any mode is converted.

    Raises:
        HaustraError: The file cannot be read, or the array is not uint8 RGB.
    """
    if isinstance(image, str | os.PathLike):
        return read_image_rgb(image)
    if hasattr(image, "convert"):
        return np.asarray(image.convert("RGB"), dtype=np.uint8)
    if not isinstance(image, np.ndarray):
        raise HaustraError(
            f"an image of type {type(image).__name__}: expected a path, a PIL image or a uint8 RGB "
            "array [H,W,3]"
        )
    shape = list(image.shape)
    if image.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and 0 not in shape:
        return image
    remedy = ""
    if image.dtype.kind == "f":
        remedy = "; values in 0..1 become it by (image * 255).round().astype(np.uint8)"
    elif len(shape) == 2:
        remedy = "; a grayscale image becomes it by np.dstack([image] * 3)"
    elif len(shape) == 4:
        remedy = "; pass several images as a list"
    raise HaustraError(f"an array {image.dtype} {shape}: expected uint8 RGB [H,W,3]{remedy}")


def read_image_bytes(path: StrPath) -> bytes:
    """Return the bytes of an image file."""
    try:
        return to_path(path).read_bytes()
    except OSError as error:
        raise HaustraError(f"{path} cannot be read: {error.strerror}; expected an image") from None


def read_image_rgb(path: StrPath) -> NDArray[np.uint8]:
    """Read an image file as RGB uint8 [H,W,3]."""
    return decode_image_rgb(read_image_bytes(path), name=str(path))


def encode_png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return RGB uint8 [H,W,3], or one channel of 8 or 16 bits [H,W], as PNG bytes."""
    channels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, encoded = cv2.imencode(".png", channels)
    if not done:
        raise ValueError("OpenCV did not encode the image as PNG")
    return encoded.tobytes()


def encode_jpeg(image_rgb: NDArray[np.uint8], *, quality: int = 95) -> bytes:
    """Return RGB uint8 [H,W,3] as JPEG bytes of a quality in 0..100."""
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("OpenCV did not encode the image as JPEG")
    return encoded.tobytes()


def write_png(path: StrPath, *, image_rgb: NDArray[np.uint8]) -> None:
    """Write RGB uint8 [H,W,3] as PNG atomically."""
    write_bytes_atomic(to_path(path), data=encode_png(image_rgb))


def list_images(folder: StrPath) -> list[Path]:
    """Return the image files directly inside `folder`, in natural order, without hidden files."""
    return sorted(
        (
            path
            for path in to_path(folder).iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: natural_key(path.name),
    )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return what to sort names by, so that `x_9` comes before `x_10`, in any Unicode form."""
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name))
    return [int(part) if part.isdecimal() else part for part in parts], name
