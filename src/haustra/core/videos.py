"""Opening and writing video files with OpenCV, whatever their names.

They are read by `haustra.captures.video_file.VideoFile`.
"""

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError, option
from haustra.core.files import writing_file
from haustra.core.paths import StrPath, plain_path, to_path

CODEC_OF_SUFFIX = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
"""Codecs that every OpenCV package has, by suffix; H.264 is not among them."""
HIGHEST_RATE_HZ = {".mp4": 65535, ".mov": 65535, ".mkv": 1000, ".avi": 600, ".webm": 1000}
"""Highest frame rate that each format keeps."""
LOWEST_RATE_HZ = 0.1
NUM_COMPARED_FRAMES = 8
MIN_BYTES_PER_PIXEL = 0.005  # a frame that repeats the one before is stored in less


def open_capture(path: Path, *, decode: bool = True) -> cv2.VideoCapture:
    """Open a video file; without `decode`, frames are only counted and their stamps read."""
    # By default OpenCV ends a film after 4,096 packets of sound without a picture between them.
    os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", "1000000000")
    with plain_path(path) as name:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    if not decode:
        capture.set(cv2.CAP_PROP_FORMAT, -1)
    return capture


def stamp_of(capture: cv2.VideoCapture) -> float:
    """Return the time stamp in seconds of the frame that was grabbed last."""
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def is_unconverted(path: Path) -> bool:
    """Return True if OpenCV gives one picture for frames whose stored data differ.

    OpenCV 4.13 and later do not convert interlaced frames, and return what the memory held.
    """
    decoded, stored = open_capture(path), open_capture(path, decode=False)
    first, sizes = None, list[int]()
    for _ in range(NUM_COMPARED_FRAMES):
        if not (decoded.grab() and stored.grab()):
            return False
        image = decoded.retrieve()[1]
        first = image if first is None else first
        if not np.array_equal(image, first):
            return False
        sizes.append(len(zlib.compress(stored.retrieve()[1].tobytes())))  # without its padding
    height, width = image.shape[:2]
    return len(set(sizes[1:])) > 1 and np.mean(sizes[1:]) > MIN_BYTES_PER_PIXEL * height * width


def read_stored_stamps(path: Path) -> list[float]:
    """Return the time stamp in seconds of each stored frame, at the speed of the disk.

    Frames before the first one that needs no other are left out.
    """
    capture = open_capture(path, decode=False)
    stamps: list[float] = []
    while capture.grab():
        if stamps or capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME):
            stamps.append(stamp_of(capture))
    capture.release()
    return stamps


class VideoWriter:
    """Adds frames to a video of constant frame rate; `writing_video` yields one.

    Args:
        path: The file that is to be, for messages and its suffix.
        part: The file to write.
    """

    def __init__(self, path: Path, *, part: Path, frame_rate_hz: float) -> None:
        self._path, self._part = path, part
        self.frame_rate_hz = frame_rate_hz
        self._writer = cv2.VideoWriter()
        self._last: NDArray[np.uint8] | None = None
        self.num_written = 0
        self.num_repeated = 0
        """Number of frames that show the one before again, until the next one is due."""

    def add(self, image_rgb: NDArray[np.uint8], *, seconds: float | None = None) -> None:
        """Add a frame, uint8 RGB [H,W,3], at its time since the first one.

        The frame before is repeated until then. No frame is left out: one that follows too soon is
        shown late.
        """
        height, width = image_rgb.shape[:2]
        even: NDArray[np.uint8] = cv2.copyMakeBorder(  # type: ignore[assignment]
            cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR),
            *(0, height % 2, 0, width % 2),
            borderType=cv2.BORDER_REPLICATE,
        )
        if self._last is None:
            codec = cv2.VideoWriter.fourcc(*CODEC_OF_SUFFIX[self._path.suffix.lower()])
            size_wh = (even.shape[1], even.shape[0])
            with plain_path(self._part) as name:
                if not self._writer.open(name, codec, self.frame_rate_hz, size_wh):
                    raise HaustraError(
                        f"{self._path}: OpenCV cannot write it; expected the name of a new video"
                    )
        elif even.shape != self._last.shape:  # OpenCV leaves out frames of another size
            size_wh = (self._last.shape[1], self._last.shape[0])
            even = cv2.resize(even, size_wh)  # type: ignore[assignment]
        while self._last is not None and self.num_written < round(
            (seconds or 0) * self.frame_rate_hz
        ):
            self._write(self._last)
            self.num_repeated += 1
        self._write(even)
        self._last = even

    def _write(self, image_bgr: NDArray[np.uint8]) -> None:
        self._writer.write(image_bgr)
        self.num_written += 1

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()


def writable_rate(frame_rate_hz: float, *, path: Path) -> float:
    """Return a rate near `frame_rate_hz`, or a multiple of a low one, that the format takes."""
    suffix = path.suffix.lower()
    if frame_rate_hz > HIGHEST_RATE_HZ[suffix]:
        able = [name for name, limit in HIGHEST_RATE_HZ.items() if limit >= frame_rate_hz]
        remedy = f"expected a name that ends in {' or '.join(able)}"
        raise HaustraError(
            f"{option('out', path)}: {suffix} takes at most {HIGHEST_RATE_HZ[suffix]} frames/s, "
            f"and the video has {frame_rate_hz:.6g}; {remedy if able else 'no format takes it'}"
        )
    rate = frame_rate_hz * max(1, math.ceil(LOWEST_RATE_HZ / frame_rate_hz))
    # MPEG-4 takes fractions with numbers up to 65,535, and OpenCV makes them of decimals.
    digits = next(d for d in (3, 2, 1, 0) if rate * 10**d <= 65535)
    return round(rate, digits)


@contextmanager
def writing_video(path: StrPath, *, frame_rate_hz: float) -> Iterator[VideoWriter]:
    """Yield a writer of a video file, which appears, whole, at the end.

    An odd width or height grows by one pixel, since the codecs accept even ones only.

    Raises:
        HaustraError: The file cannot be written completely, or at that frame rate.
    """
    path = to_path(path)
    rate = writable_rate(frame_rate_hz, path=path)
    with writing_file(path) as temporary:
        # OpenCV chooses the container by the suffix.
        part = temporary.with_name(temporary.name + path.suffix)
        writer = VideoWriter(path, part=part, frame_rate_hz=rate)
        try:
            yield writer
            writer.close()
            # OpenCV does not report a full disk.
            written = len(read_stored_stamps(part))
            if written < writer.num_written:
                raise HaustraError(
                    f"{path}: {written} of {writer.num_written} frames could be written; "
                    "is the disk full?"
                )
            part.replace(temporary)
        finally:
            writer.close()
            part.unlink(missing_ok=True)
