"""`haustra infer --video`: the boxed video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haustra.captures.sources import VideoFile
from haustra.core.detections import Detections
from haustra.core.errors import HaustraError
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.core.progress import Progress, SilentProgress, track
from haustra.core.videos import writing_video
from haustra.inference.config import BOXED_SUFFIX, InferConfig
from haustra.inference.pictures import backend_of, draw_picture, open_configured


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What was found in a video, and by whom."""

    video: Path
    out: Path
    """The boxed video."""
    frames: list[Detections]
    """What was drawn, a value per frame."""
    frame_rate_hz: float
    caption: str
    is_heuristic: bool
    backend: str | None
    """What computed; None for the heuristic."""
    unreadable: str | None
    """Where and why the video ended early; None where it did not."""
    num_frames_told: int
    """How many frames the file says it has."""
    operating_point: OperatingPoint
    """At which the boxes were drawn."""

    @property
    def num_frames_boxed(self) -> int:
        """Frames with at least one box."""
        return sum(len(found) > 0 for found in self.frames)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "detector": self.caption,
            "heuristic": self.is_heuristic,
            "backend": self.backend,
            "operating_point": self.operating_point.to_json(),
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

    The frames follow each other in time, so hold-off and hysteresis apply.

    Raises:
        HaustraError: weights or video do not open, no frame can be read, or the file cannot be
            written; no file is left then.
    """
    if config.video is None:
        raise AssertionError("infer_video takes a config with a video")
    video = VideoFile(config.video, setting="video")
    out = config.out or config.video.with_name(f"{config.video.stem}{BOXED_SUFFIX}.mp4")
    if out.exists() and out.samefile(config.video):
        raise HaustraError(f"--out {out}: expected another file than --video")
    detector, point = open_configured(config)
    alarm = AlarmFilter(point)
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
            found = alarm.show(detector.detect(image, objectness=0.0, iou=point.iou))
            add_frame(draw_picture(image, found, caption=detector.caption))
            frames.append(found)
        if not frames:
            raise ended[0]
    return VideoResult(
        video=config.video,
        out=out,
        frames=frames,
        frame_rate_hz=video.frame_rate_hz,
        caption=detector.caption,
        is_heuristic=config.detector_weights is None,
        backend=backend_of(detector),
        unreadable=str(ended[0]) if ended else None,
        num_frames_told=video.num_frames,
        operating_point=point,
    )


def _images(video: VideoFile, ended: list[HaustraError]) -> Iterator[NDArray[np.uint8]]:
    for number in range(video.num_frames):
        try:
            image = video.read(number).image_rgb
        except HaustraError as error:
            ended.append(error)
            return
        yield image
