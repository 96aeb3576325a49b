"""Videos, with the labels of a CVAT task or without any."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from haustra.captures.importers.cropping import field_of_view_of_video
from haustra.captures.importers.cvat import CvatTask, read_cvat
from haustra.captures.importers.dataset import ImportConfig, ImportResult, import_run
from haustra.captures.importers.records import Annotation, SourceFrame, SourceRun
from haustra.captures.sources import VideoFile
from haustra.core.checked import CountFromOne, NonNegative
from haustra.core.errors import HaustraError, name_some, option
from haustra.core.frame_times import output_rate
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress


@dataclass(frozen=True, kw_only=True)
class VideoImportConfig(ImportConfig):
    """Settings of `haustra import video`."""

    labels: Path | None = None
    """Annotations of the video, exported as "CVAT for video 1.1". Without them the frames are
    unlabeled: `infer` and `view` show them, `etl` leaves them out."""
    every: CountFromOne = 1
    """Take every so many frames of the video."""
    from_: NonNegative = 0.0
    """Time in seconds from which on frames are taken."""
    to: NonNegative | None = None
    """Time in seconds before which frames are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to is not None and self.to <= self.from_:
            raise HaustraError(
                f"{option('to', self.to)}: expected a time after {option('from_', self.from_)}"
            )
        if self.frame_rate_hz is not None:
            raise HaustraError(
                f"{option('frame_rate_hz', self.frame_rate_hz)}: a video has times of its own; "
                "expected images with it"
            )


def import_video(
    path: StrPath, *, config: VideoImportConfig | None = None, progress: Progress | None = None
) -> ImportResult:
    """Import the frames of a video as JPEG files of quality 95, at their own times.

    A frame inside the labeled part of the video on which CVAT shows no box is a negative. Frames
    outside of it are left out. What cannot be decoded is noted.

    Raises:
        HaustraError: The video or the labels cannot be read, the labels are for a video of another
            size or length, or the chosen time holds no frame.
    """
    path, config = to_path(path), config or VideoImportConfig()
    task = None if config.labels is None else read_cvat(config.labels)
    if task is not None and task.images:
        raise HaustraError(
            f"{option('labels', config.labels)} lists images; expected a task of a video; use "
            "`haustra import cvat` for images"
        )
    if task is not None:
        _check_frames(task, config=config)
    notes: list[str] = []
    with VideoFile(path, setting=None) as video:
        times_s = video.index() or []
        wanted = _Wanted(config=config, task=task)
        kept_s = [s for number, s in enumerate(times_s) if wanted.takes(number, seconds=s)]
        rate = output_rate(kept_s, stated_hz=video.frame_rate_hz / wanted.step)
        run = SourceRun(
            frames=_read_frames(video, path=path, wanted=wanted, notes=notes),
            total=len(kept_s) or max(1, (video.num_frames or 1) // wanted.step),
            notes=notes,
            frame_rate_hz=rate,
            field_of_view=field_of_view_of_video(path) if config.crop else None,
        )
        return import_run(run, default_name=path.stem, config=config, progress=progress)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The frames to take."""

    config: VideoImportConfig
    task: CvatTask | None

    @property
    def step(self) -> int:
        """Usual number of frames from one that is taken to the next."""
        return max(self.config.every, self.task.frame_step if self.task else 1)

    def is_labeled(self, number: int) -> bool:
        """Return True if CVAT showed the frame to the person who labeled."""
        return self.task is not None and self.task.is_labeled(number)

    def takes(self, number: int, *, seconds: float) -> bool:
        config = self.config
        is_in_time = config.from_ <= seconds and (config.to is None or seconds < config.to)
        is_due = number % config.every == 0
        return is_in_time and is_due and (self.task is None or self.is_labeled(number))


def _read_frames(
    video: VideoFile, *, path: Path, wanted: _Wanted, notes: list[str]
) -> Iterator[SourceFrame]:
    """Yield the wanted frames; add what is odd or missing to `notes`."""
    config, task = wanted.config, wanted.task
    num_frames = num_taken = num_outside = 0
    missing = list[str]()
    for frame in video.readable_frames(missing):
        num_frames = frame.number + 1
        if task is not None and num_frames == 1:
            _check_size(frame.image_rgb.shape, task=task, path=path, config=config)
        num_outside += task is not None and not wanted.is_labeled(frame.number)
        if wanted.takes(frame.number, seconds=frame.seconds):
            num_taken += 1
            annotation = task and task.frames.get(frame.number, Annotation(size_wh=task.size_wh))
            yield SourceFrame(
                path=path,
                name=f"{path.name} frame {frame.number}",
                annotation=annotation,
                source=str(config.labels),
                image_rgb=frame.image_rgb,
                seconds=frame.seconds,
                is_labeled=task is not None or config.allow_unlabelled,
            )
    notes += [f"{path.name}: {note}" for note in video.notes()]
    notes += missing
    last = max(task.frames, default=-1) if task else -1
    last = max(last, (task.last_frame or 0) if task else -1)
    if last >= num_frames:
        text = f"{config.labels} is for frames up to {last}, but {path} has {num_frames}"
        if not missing:
            raise HaustraError(f"{text}; expected the labels of this video")
        notes.append(text)
    if num_outside:
        notes.append(f"{num_outside} frame(s) that were not labeled in CVAT are left out")
    if task is None and not config.allow_unlabelled:
        notes.append("the frames are unlabeled: no warehouse takes them")
    if not num_taken:
        raise HaustraError(
            f"{path} has no such frame among its {num_frames}; change {option('from_')}, "
            f"{option('to')} or {option('every')}"
        )


def _check_frames(task: CvatTask, *, config: VideoImportConfig) -> None:
    """Refuse boxes on frames that the task leaves out, and a task without any box."""
    if strange := [str(number) for number in task.frames if not task.is_labeled(number)]:
        raise HaustraError(
            f"{option('labels', config.labels)} has shapes on {len(strange)} frame(s) outside its "
            f"own start, stop and step: {name_some(strange)}; expected every {task.frame_step} "
            f"frame(s) from {task.first_frame} on; export the task again"
        )
    if not task.frames and not config.allow_unlabelled:
        raise HaustraError(
            f"{option('labels', config.labels)} shows no box on any frame; expected some, or "
            f"{option('allow_unlabelled', True)} if all frames are negatives"
        )


def _check_size(
    shape: tuple[int, ...], *, task: CvatTask, path: Path, config: VideoImportConfig
) -> None:
    height, width = shape[:2]
    if any(side not in (0, own) for side, own in zip(task.size_wh, (width, height), strict=True)):
        stated = "x".join(map(str, task.size_wh))
        raise HaustraError(
            f"{path} has frames of {width}x{height}, but {config.labels} is for {stated}; expected "
            "the labels of this video"
        )
