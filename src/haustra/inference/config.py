"""Settings of `haustra infer`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from haustra.core.backend_names import BackendFlag
from haustra.core.checked import (
    CheckedSettings,
    Count,
    CountFromOne,
    OutputFile,
    OutputFolder,
    Share,
)
from haustra.core.errors import HaustraError, option
from haustra.core.videos import CODEC_OF_SUFFIX

BOXED_SUFFIX = "_boxed"
RankRule = Literal["uncertain", "disagree"]


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(CheckedSettings):
    """Choice of a detector and its thresholds."""

    detector_weights: Path | None = None
    """Checkpoint of `haustra train` or model of `haustra export`. Without one a heuristic of color
    and shape draws the boxes, and the pictures say so."""
    model: Literal["tiny", "big"] | None = None
    """Kind of model that the weights must have."""
    backend: BackendFlag | None = None
    """Where to compute: cpu (alias ndarray), cuda, mps, wgpu (.onnx files only), or auto, the best
    that is available; by default the value of HAUSTRA_BACKEND, or else cpu."""
    infer_obj_thresh: Share | None = None
    """Lowest score of a box that is shown; by default that of the operating point."""
    infer_iou_thresh: Share | None = None
    """IoU above which only the better of two boxes is shown, from 0 to 1; by default that of the
    operating point (0.5). With 1 both are shown."""
    infer_hold_off: Count | None = None
    """Number of frames of a sequence that each activation is held back; by default that of the
    operating point. With 0 none is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None and self.detector_weights is None:
            raise HaustraError(
                f"{option('model', self.model)}: expected {option('detector_weights')} with it"
            )


@dataclass(frozen=True, kw_only=True)
class InferConfig(DetectorSettings):
    """Settings of `haustra infer`; either an image or a video."""

    image: Path | None = None
    """An image, a folder of images, or a run folder."""
    video: Path | None = None
    """A video file, instead of --image."""
    output_root: OutputFolder | None = None
    """Folder of the boxed pictures; by default that of the image, or FOLDER_boxed for a folder."""
    out: OutputFile | None = None
    """The boxed video; by default NAME_boxed.mp4 beside the video."""
    rank: RankRule | None = None
    """Order the images by how much their labels would teach, most first: uncertain, boxes near the
    detector's own threshold; disagree, boxes that another detector, or without one the same one on
    the mirrored image, does not find. An image that looks like one before it comes last."""
    rank_count: CountFromOne | None = None
    """Number of images to keep, from the first of --rank; all by default."""
    also_detector_weights: tuple[Path, ...] = ()
    """Other detectors for --rank disagree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.image is None) == (self.video is None):
            raise HaustraError(
                f"expected one of {option('image')} (a file, a folder or a run) and "
                f"{option('video')} (a file)"
            )
        if self.video is None and self.out is not None:
            raise HaustraError(
                f"{option('out', self.out)}: expected with {option('video')} only; pictures go to "
                f"{option('output_root')}"
            )
        if self.video is not None and self.output_root is not None:
            raise HaustraError(
                f"{option('output_root', self.output_root)}: expected with {option('image')} only; "
                f"a video goes to {option('out')}"
            )
        self._check_rank()
        if self.out is not None and self.out.suffix.lower() not in CODEC_OF_SUFFIX:
            known = ", ".join(CODEC_OF_SUFFIX)
            raise HaustraError(
                f"{option('out', self.out)}: expected a name that ends in one of {known}"
            )

    def _check_rank(self) -> None:
        others = self.also_detector_weights
        if others and self.rank != "disagree":
            raise HaustraError(
                f"{option('also_detector_weights', others[0])}: expected with "
                f"{option('rank', 'disagree')} only"
            )
        if self.rank is None:
            if self.rank_count is not None:
                raise HaustraError(
                    f"{option('rank_count', self.rank_count)}: expected with {option('rank')} only"
                )
            return
        rank = option("rank", self.rank)
        if self.video is not None:
            raise HaustraError(
                f"{rank}: expected {option('image')}; import the video first (`haustra import "
                f"video {self.video}`), then rank the frames of its run"
            )
        if self.detector_weights is None:
            raise HaustraError(
                f"{rank}: expected {option('detector_weights')} with it; the heuristic's scores "
                "are not confidences"
            )
        if self.infer_hold_off is not None:
            raise HaustraError(
                f"{option('infer_hold_off', self.infer_hold_off)}: expected without "
                f"{option('rank')}, whose images are not in the order of time"
            )
