"""Settings of `haustra datagen`. Flags and help are built from it, so it imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from haustra.core.checked import (
    CheckedSettings,
    Count,
    CountFromOne,
    Finite,
    OutputFolder,
    Positive,
    SidePx,
    Whole,
)
from haustra.core.errors import HaustraError, option

POLYP_SIZE_LIMITS_MM = (1.0, 40.0)

Preset = Literal["still", "procedure"]
Feature = Literal["folds", "vessels", "falloff", "speculars", "fisheye", "disturbances"]


@dataclass(frozen=True, kw_only=True)
class DatagenConfig(CheckedSettings):
    """Settings of the simulator."""

    output_root: OutputFolder = Path("captures")
    """Folder that receives the run folders."""
    preset: Preset = "still"
    """"still": single views, most of one polyp each, for training. "procedure": a fly-through of
    the whole colon, in and out, for evaluation."""
    runs: CountFromOne = 1
    """Number of runs. Each has its own colon, polyps and camera."""
    frames: CountFromOne = 60
    """Frames per run; a procedure spreads them over the whole way."""
    seed: Count = 0
    """Seed of the first run; the next runs count up from it."""
    size: SidePx = 384
    """Width and height of the square images in pixels."""
    frame_rate_hz: Positive = 10.0
    """Frames per second of simulated time."""
    polyps_per_run: Annotated[Whole, Field(ge=0, le=24)] = 4
    """Polyps on the wall of each colon; 0 makes runs without boxes."""
    polyp_size_mm: tuple[Finite, Finite] = (2.0, 30.0)
    """Smallest and largest width of polyps."""
    min_visible_pixels: CountFromOne = 40
    """A polyp with fewer visible pixels in a frame gets no box there."""
    mesh: Path | None = None
    """Your own colon instead of simulated ones: .obj, .glb, .stl or .ply, in millimeters."""
    clean: bool = False
    """Leave out bubbles, stool, blood, blur, text and the like. The same as
    --without disturbances."""
    without: tuple[Feature, ...] = ()
    """Features to leave out, to measure their effect."""
    truth: bool = False
    """Also write the instance mask, the distance in millimeters and the pose of each frame."""
    jobs: CountFromOne = 1
    """Processes that make runs at the same time."""
    max_cpu: Annotated[Finite, Field(gt=0, le=100)] = 100.0
    """A run begins only while other programs use less than this percentage of the CPU."""
    min_free_mem: Count = 0
    """A run begins only while this many MiB of memory are free."""
    headless: bool = True
    """Accepted because users of CortenForge pass it; no window is ever opened."""
    overwrite: bool = False
    """Replace run folders that were made with other settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least, greatest = self.polyp_size_mm
        low, high = POLYP_SIZE_LIMITS_MM
        if not low <= least <= greatest <= high:
            raise HaustraError(
                f"{option('polyp_size_mm')} {least:g} {greatest:g}: expected two widths from "
                f"{low:g} to {high:g} mm, the smaller first"
            )

    def has(self, feature: Feature) -> bool:
        """Return whether a feature is to be simulated."""
        return feature not in self.without and not (self.clean and feature == "disturbances")
