"""`haustra infer --video`: the boxed video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haustra.captures.sources import VideoFile
from haustra.core.detections import Detections
from haustra.core.field_of_view import FieldOfView
from haustra.core.frame_times import output_rate
from haustra.core.operating_point import AlarmFilter
from haustra.core.outputs import check_outputs
from haustra.core.progress import Progress, SilentProgress, track
from haustra.core.videos import writing_video
from haustra.inference.config import BOXED_SUFFIX, InferConfig
from haustra.inference.detector import Detector
from haustra.inference.pictures import describe_detector, draw_picture, open_configured


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """Detections of a video, and the detector that found them."""

    video: Path  # the file that was read
    out: Path  # the boxed video
    frames: list[Detections]  # the boxes that were drawn, per frame
    times_s: list[float]  # time of each frame since the first one
    frame_rate_hz: float  # mean frame rate of the video
    out_frame_rate_hz: float  # frame rate of the boxed video
    detector: Detector  # its operating point is the one that was used
    unreadable: list[str]  # reasons why frames are known to be missing
    notes: list[str]  # oddities of the frames' times, and the number of frames that were repeated

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
            "out_frame_rate_hz": self.out_frame_rate_hz,
            "image_size_wh": list(self.frames[0].image_size_wh),
            "frames": [
                {"boxes_px": found.boxes_px.tolist(), "scores": found.scores.tolist()}
                for found in self.frames
            ],
            "frame_times_s": [round(seconds, 6) for seconds in self.times_s],
            "notes": self.notes,
            "unreadable": self.unreadable,
        }


def infer_video(config: InferConfig, *, progress: Progress | None = None) -> VideoResult:
    """Detect polyps on each frame of a video and write the video with the boxes drawn.

    Hold-off and hysteresis apply, since the frames are in time order. The boxed video has a
    constant frame rate, at which frames of the other are repeated where it is slower.

    Raises:
        HaustraError: The weights or the video do not open, or the file cannot be written. No file
            is left then.
    """
    if config.video is None:
        raise AssertionError("infer_video takes settings with a video")
    out = config.out or config.video.with_name(f"{config.video.stem}{BOXED_SUFFIX}.mp4")
    check_outputs(config, out=out)
    with VideoFile(config.video, setting="video") as video:
        detector = open_configured(config, in_time_order=True)
        field_of_view = FieldOfView()
        frames: list[Detections] = []
        times_s, unreadable = list[float](), list[str]()
        known_s, stated_hz = video.index() or [], video.frame_rate_hz
        alarm = AlarmFilter(detector.operating_point, frame_rate_hz=stated_hz)
        with writing_video(out, frame_rate_hz=output_rate(known_s, stated_hz=stated_hz)) as writer:
            for frame in track(
                video.readable_frames(unreadable),
                progress=progress or SilentProgress(),
                description="infer",
                total=video.num_frames or 1,
                unit="frames",
            ):
                raw = detector.detect(frame.image_rgb, objectness=0.0, field_of_view=field_of_view)
                found = alarm.show_at(frame.seconds, raw)
                picture = draw_picture(frame.image_rgb, found, caption=detector.caption)
                writer.add(picture, seconds=frame.seconds)
                frames.append(found)
                times_s.append(frame.seconds)
        notes = video.notes()
        if writer.num_repeated:
            notes.append(
                f"resampled to {writer.frame_rate_hz:.6g} frames/s: {writer.num_repeated} frames "
                "repeated"
            )
        return VideoResult(
            video=config.video,
            out=out,
            frames=frames,
            times_s=times_s,
            frame_rate_hz=video.frame_rate_hz,
            out_frame_rate_hz=writer.frame_rate_hz,
            detector=detector,
            unreadable=unreadable,
            notes=notes,
        )
