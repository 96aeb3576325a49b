"""Writing video files with OpenCV. They are read by `haustra.captures.sources.VideoFile`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError
from haustra.core.files import writing_file
from haustra.core.paths import StrPath

CODEC_OF_SUFFIX = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
"""Codecs that every OpenCV package has, by suffix; H.264 is not among them."""


@contextmanager
def writing_video(
    path: StrPath, *, frame_rate_hz: float
) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yield a function that adds a frame, uint8 RGB [H,W,3]; the file appears, whole, at the end.

    All frames must have the size of the first one. An odd width or height grows by one pixel, since
    the codecs accept even ones only.

    Raises:
        HaustraError: The file cannot be written completely.
    """
    path = Path(path)
    codec = cv2.VideoWriter.fourcc(*CODEC_OF_SUFFIX[path.suffix.lower()])
    with writing_file(path) as temporary:
        # OpenCV chooses the container by the suffix.
        part = temporary.with_name(temporary.name + path.suffix)
        writer = cv2.VideoWriter()
        num_frames = 0

        def add(image_rgb: NDArray[np.uint8]) -> None:
            nonlocal num_frames
            height, width = image_rgb.shape[:2]
            if num_frames == 0:
                even_wh = (width + width % 2, height + height % 2)
                if not writer.open(str(part), codec, frame_rate_hz, even_wh):
                    raise HaustraError(
                        f"{path}: OpenCV cannot write it; expected the name of a new video file"
                    )
            even = cv2.copyMakeBorder(
                cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR),
                *(0, height % 2, 0, width % 2),
                borderType=cv2.BORDER_REPLICATE,
            )
            writer.write(even)
            num_frames += 1

        try:
            yield add
            writer.release()
            # OpenCV does not report a full disk.
            written = int(cv2.VideoCapture(str(part)).get(cv2.CAP_PROP_FRAME_COUNT))
            if written < num_frames:
                raise HaustraError(
                    f"{path}: {max(written, 0)} of {num_frames} frames could be written; "
                    "is the disk full?"
                )
            part.replace(temporary)
        finally:
            writer.release()
            part.unlink(missing_ok=True)
