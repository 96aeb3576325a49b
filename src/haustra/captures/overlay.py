"""Overlays: each frame of a run as a picture with its labeled boxes."""

from dataclasses import dataclass
from pathlib import Path

from haustra.captures.reader import read_run
from haustra.captures.validation import FrameProblem, check_frames
from haustra.core.checked import CheckedSettings, CountFromOne, OutputFolder
from haustra.core.detections import detections_from_labels
from haustra.core.drawing import TRUTH_RGB, draw_boxes
from haustra.core.errors import HaustraError
from haustra.core.images import write_png
from haustra.core.outputs import check_outputs
from haustra.core.paths import StrPath, to_path
from haustra.core.progress import Progress, SilentProgress, track


@dataclass(frozen=True, kw_only=True)
class OverlayConfig(CheckedSettings):
    """Settings of `haustra overlay`."""

    output_root: OutputFolder | None = None
    """Folder of the pictures; `overlays/` of the run by default."""
    max_frames: CountFromOne | None = None
    """Number of frames to draw, from the first; all by default."""


@dataclass(frozen=True, kw_only=True)
class OverlayResult:
    """The pictures, and a line for each frame or box that could not be drawn."""

    pictures: list[Path]
    problems: list[str]


def draw_overlays(
    run_folder: StrPath, *, config: OverlayConfig | None = None, progress: Progress | None = None
) -> OverlayResult:
    """Write one PNG per usable frame.

    Raises:
        HaustraError: The folder is not a run folder, or none of its frames can be drawn.
    """
    config = config or OverlayConfig()
    frames = read_run(run_folder).frames[: config.max_frames]
    folder = config.output_root or to_path(run_folder) / "overlays"
    check_outputs(config, output_root=folder)
    result = OverlayResult(pictures=[], problems=[])
    for checked in track(
        check_frames(frames),
        progress=progress or SilentProgress(),
        description="overlay",
        total=len(frames),
    ):
        if isinstance(checked, FrameProblem):
            result.problems.append(checked.reason)
            continue
        result.problems.extend(checked.box_problems)
        truth = detections_from_labels(checked.boxes_px, image_size_wh=checked.size_wh)
        names = [(lesion_id or "").rsplit("/", 1)[-1] for lesion_id in checked.lesion_ids]
        drawn = draw_boxes(checked.image_rgb, truth, rgb=TRUTH_RGB, labels=names)
        result.pictures.append(folder / f"{checked.frame.name}.png")
        write_png(result.pictures[-1], image_rgb=drawn)
    if not result.pictures:
        reason = result.problems[0] if result.problems else "it has no frames"
        raise HaustraError(f"{run_folder}: no frame can be drawn: {reason}")
    return result
