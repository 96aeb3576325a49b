"""Video files, as OpenCV reads and writes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core.errors import HaustraError
from haustra.core.files import writing_file

CODEC_OF_SUFFIX = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
"""What OpenCV's packages encode everywhere; H.264 is not among it."""


@contextmanager
def writing_video(
    path: Path, *, frame_rate_hz: float
) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yield a function that adds a frame, uint8 RGB [H,W,3]; the file appears whole at the end.

    All frames have the first one's size. An odd width or height grows by one pixel, since the
    codecs take even ones only.

    Raises:
        HaustraError: the file cannot be written, or not all of it.
    """
    codec = cv2.VideoWriter.fourcc(*CODEC_OF_SUFFIX[path.suffix.lower()])
    with writing_file(path) as temporary:
        # OpenCV takes the container from the file's suffix.
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
                        f"{path}: OpenCV cannot write it; expected a name of a new video file"
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
            # OpenCV does not tell when the disk is full.
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
