"""`haustra infer --video`: the boxed video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.captures.sources import VideoFile
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError, option
from haustra.core.operating_point import AlarmFilter
from haustra.core.progress import Progress, SilentProgress, track
from haustra.core.videos import writing_video
from haustra.inference.config import BOXED_SUFFIX, InferConfig
from haustra.inference.detector import Detector
from haustra.inference.pictures import describe_detector, draw_picture, open_configured


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """Detections of a video, and the detector that found them."""

    video: Path
    """The file that was read."""
    out: Path
    """The boxed video."""
    frames: list[Detections]
    """The boxes that were drawn, per frame."""
    frame_rate_hz: float
    detector: Detector
    """Its operating point is the one that was used."""
    unreadable: str | None
    """Where and why the video ended early; None if it did not."""
    num_frames_stated: int
    """Number of frames according to the file."""

    @property
    def num_frames_boxed(self) -> int:
        """Number of frames with at least one box."""
        return sum(len(found) > 0 for found in self.frames)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            **describe_detector(self.detector),
            "in_time": True,
            "video": str(self.video),
            "out": str(self.out),
            "frame_rate_hz": self.frame_rate_hz,
            "image_size_wh": list(self.frames[0].image_size_wh),
            "frames": [
                {"boxes_px": found.boxes_px.tolist(), "scores": found.scores.tolist()}
                for found in self.frames
            ],
            "unreadable": [] if self.unreadable is None else [self.unreadable],
        }


def infer_video(config: InferConfig, *, progress: Progress | None = None) -> VideoResult:
    """Detect polyps on each frame of a video and write the video with the boxes drawn.

    Hold-off and hysteresis apply, since the frames are in time order.

    Raises:
        HaustraError: The weights or the video do not open, no frame can be read, or the file
            cannot be written. No file is left then.
    """
    if config.video is None:
        raise AssertionError("infer_video takes settings with a video")
    out = config.out or config.video.with_name(f"{config.video.stem}{BOXED_SUFFIX}.mp4")
    if out.exists() and out.samefile(config.video):
        raise HaustraError(f"{option('out', out)}: expected another file than {option('video')}")
    with VideoFile(config.video, setting="video") as video:
        detector = open_configured(config, in_time_order=True)
        alarm = AlarmFilter(detector.operating_point)
        frames: list[Detections] = []
        ended: list[HaustraError] = []
        with writing_video(out, frame_rate_hz=video.frame_rate_hz) as add_frame:
            for image in track(
                _images(video, ended),
                progress=progress or SilentProgress(),
                description="infer",
                total=video.num_frames,
                unit="frames",
            ):
                found = alarm.show(detector.detect(image, objectness=0.0))
                add_frame(draw_picture(image, found, caption=detector.caption))
                frames.append(found)
            if not frames:
                raise ended[0]
        return VideoResult(
            video=config.video,
            out=out,
            frames=frames,
            frame_rate_hz=video.frame_rate_hz,
            detector=detector,
            unreadable=str(ended[0]) if ended else None,
            num_frames_stated=video.num_frames,
        )


def _images(video: VideoFile, ended: list[HaustraError]) -> Iterator[NDArray[np.uint8]]:
    for number in range(video.num_frames):
        try:
            image = video.read(number).image_rgb
        except HaustraError as error:
            ended.append(error)
            return
        yield image
