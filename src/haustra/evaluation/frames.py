"""The frames that a detector is measured on: a split of a warehouse, or captures in time order.

A source yields labels and pixels frame by frame, so that memory does not grow with its length.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haustra.captures.reader import Frame, read_run, read_runs
from haustra.captures.validation import CheckedFrame, FrameProblem, check_frames
from haustra.core.detections import Detections, detections_from_labels
from haustra.core.errors import HaustraError, option
from haustra.core.field_of_view import FieldOfView
from haustra.core.letterbox import Letterbox, ResizeMode, plan_letterbox
from haustra.core.operating_point import is_cut
from haustra.core.paths import StrPath, to_path
from haustra.warehouse.dataset import Split

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A polyp with an identity over time."""

    lesion_id: str  # `run_id/` and the id of the label
    size_mm: float | None = None
    paris_class: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalFrame:
    """Labels and origin of one frame."""

    sample_id: str
    group_id: str
    run_id: str
    number: int | None  # position in the run; None where the order is not known
    seconds: float | None = None
    """Time since the run began; None where only the frame rate gives it."""
    truth: Detections  # labeled boxes in pixels of the source image
    lesions: tuple[Lesion | None, ...]
    """Lesion of each labeled box; None for a box without identity."""
    letterbox: Letterbox  # mapping of the source image to the image that the detector sees
    image_path: Path | None = None  # the source image file; None where it is not known


FrameWithPixels = tuple[EvalFrame, NDArray[np.uint8]]
"""A frame and its letterboxed image, uint8 [H,W,3]."""


class SplitFrames:
    """The samples of a warehouse's split. Their order in time is not known."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.name: str = split.name
        self.frame_rates_hz: dict[str, float] = {}
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self.split)

    def read(self, sample_ids: Sequence[str] | None = None) -> Iterator[FrameWithPixels]:
        """Yield the frames with these ids, or all, in stored order."""
        split, letterboxes = self.split, self.split.letterboxes()
        ids, groups = split.sample_ids(), split.group_ids()
        runs = split.table.column("run_id").to_pylist()
        wanted = None if sample_ids is None else set(sample_ids)
        indices = np.array([i for i, name in enumerate(ids) if wanted is None or name in wanted])
        for start in range(0, len(indices), BATCH_SIZE):
            numbers = indices[start : start + BATCH_SIZE]
            batch = split.gather(numbers)
            for row, index in enumerate(numbers.tolist()):
                letterbox = letterboxes[index]
                boxes = batch.boxes_xyxy[row][batch.mask[row].astype(bool)]
                truth = detections_from_labels(
                    letterbox.boxes_to_source(boxes), image_size_wh=letterbox.source_size_wh
                )
                yield (
                    EvalFrame(
                        sample_id=ids[index],
                        group_id=groups[index],
                        run_id=runs[index],
                        number=None,
                        truth=truth,
                        lesions=(None,) * len(truth),
                        letterbox=letterbox,
                    ),
                    batch.images[row],
                )


@dataclass(kw_only=True, eq=False)
class CaptureFrames:
    """The frames of run folders, each run in the order of its frame ids."""

    name: str  # name in reports
    frames: list[Frame]  # all frames in order, including those that cannot be used
    frame_rates_hz: dict[str, float]  # frame rate of each run that is known to be in time order
    target_size_wh: tuple[int, int]
    resize_mode: ResizeMode
    crops: bool = False  # True to crop each image to the endoscope's picture
    cropped_runs: frozenset[str] = frozenset()  # runs whose images were cropped at their import
    problems: list[str] = field(default_factory=list)
    """A message per frame that could not be used, once all were read."""

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, sample_ids: Sequence[str] | None = None) -> Iterator[FrameWithPixels]:
        """Yield the usable frames with these ids, or all usable ones."""
        wanted = None if sample_ids is None else set(sample_ids)
        frames = [f for f in self.frames if wanted is None or f.sample_id in wanted]
        problems: list[str] = []
        fields = {run_id: FieldOfView() for run_id in self.frame_rates_hz}
        fields |= {run_id: FieldOfView(is_cropped=True) for run_id in self.cropped_runs}
        for checked in check_frames(frames):
            if isinstance(checked, FrameProblem):
                problems.append(checked.reason)
                continue
            problems += checked.box_problems
            field_of_view = fields.get(checked.frame.run_id) or FieldOfView()
            letterbox = plan_letterbox(
                checked.size_wh,
                target_size_wh=self.target_size_wh,
                mode=self.resize_mode,
                crop_px=field_of_view.find(checked.image_rgb) if self.crops else None,
            )
            yield _eval_frame(checked, letterbox=letterbox), letterbox.apply(checked.image_rgb)
        if wanted is None:
            self.problems = problems


FrameSource = SplitFrames | CaptureFrames


def _eval_frame(checked: CheckedFrame, *, letterbox: Letterbox) -> EvalFrame:
    frame = checked.frame
    if frame.label is None:
        raise AssertionError("a usable frame has a label")
    labels = {polyp.lesion_id: polyp for polyp in frame.label.labels}
    prefix = f"{frame.run_id}/"  # ids of simulated lesions begin with it already
    lesions = tuple(
        None
        if lesion_id is None
        else Lesion(
            lesion_id=prefix + lesion_id.removeprefix(prefix),
            size_mm=labels[lesion_id].size_mm,
            paris_class=labels[lesion_id].paris_class,
        )
        for lesion_id in checked.lesion_ids
    )
    return EvalFrame(
        sample_id=frame.sample_id,
        group_id=frame.group_id,
        run_id=frame.run_id,
        number=frame.label.frame_id,
        seconds=frame.label.sim_time,
        truth=detections_from_labels(checked.boxes_px, image_size_wh=checked.size_wh),
        lesions=lesions,
        letterbox=letterbox,
        image_path=frame.image_path,
    )


def open_captures(
    path: StrPath,
    *,
    target_size_wh: tuple[int, int],
    resize_mode: ResizeMode,
    crops: bool = False,
) -> CaptureFrames:
    """Open a run folder, or a folder of run folders, for a detector that takes such images."""
    path = to_path(path)
    runs = [read_run(path)] if (path / "labels").is_dir() else read_runs(path)
    frames = [frame for run in runs for frame in run.frames]
    if not frames:
        raise HaustraError(
            f"{option('captures', path)} holds no frame; expected runs of `haustra datagen`"
        )
    return CaptureFrames(
        name=str(path),
        frames=frames,
        frame_rates_hz={
            run.run_id: rate for run in runs if (rate := run.manifest.time_order_rate_hz)
        },
        target_size_wh=target_size_wh,
        resize_mode=resize_mode,
        crops=crops,
        cropped_runs=frozenset(run.run_id for run in runs if run.manifest.crop),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TimedRun:
    """A run that is known to be in time order, with the detections on its frames."""

    frame_rate_hz: float
    frames: list[EvalFrame]
    numbers: list[int]  # position of each frame in periods of the frame rate, rising
    predictions: list[Detections]  # detections on each frame, at every score

    @property
    def after_cut(self) -> list[bool]:
        """True for each frame that follows a cut."""
        rate = self.frame_rate_hz
        steps = np.diff(self.numbers, prepend=self.numbers[0])
        return [is_cut(step / rate, frame_rate_hz=rate) for step in steps.tolist()]

    @property
    def minutes(self) -> float:
        """Duration of all frames, without cuts."""
        steps, cuts = np.diff(self.numbers, prepend=self.numbers[0] - 1), self.after_cut
        return float(np.where(cuts, 1, steps).sum()) / self.frame_rate_hz / 60


def timed_runs(
    frames: Sequence[EvalFrame],
    predictions: Sequence[Detections],
    *,
    frame_rates_hz: Mapping[str, float],
) -> list[TimedRun]:
    """Return the runs with a frame rate; frames of other runs are left out.

    Where each frame of a run has a time, its position follows from it, or else from its frame id.
    """
    runs: dict[str, TimedRun] = {}
    for frame, found in zip(frames, predictions, strict=True):
        rate = frame_rates_hz.get(frame.run_id)
        if rate is not None and frame.number is not None:
            new = TimedRun(frame_rate_hz=rate, frames=[], numbers=[], predictions=[])
            run = runs.setdefault(frame.run_id, new)
            run.frames.append(frame)
            run.numbers.append(frame.number)
            run.predictions.append(found)
    for run in runs.values():
        times_s = [frame.seconds for frame in run.frames if frame.seconds is not None]
        numbers = np.rint(np.array(times_s) * run.frame_rate_hz).astype(int)
        if len(numbers) == len(run.frames) and (np.diff(numbers) > 0).all():
            run.numbers[:] = numbers.tolist()
    return list(runs.values())
