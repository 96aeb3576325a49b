"""Settings of `haustra datagen`. Flags and help are built from it, so it imports nothing heavy."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from haustra.core.errors import HaustraError, option
from haustra.core.paths import convert_paths
from haustra.core.ranges import check_whole_number

MIN_SIZE_PX = 64
MAX_SIZE_PX = 4096
MAX_POLYPS_PER_RUN = 24
POLYP_SIZE_LIMITS_MM = (1.0, 40.0)

Preset = Literal["still", "procedure"]
Feature = Literal["folds", "vessels", "falloff", "speculars", "fisheye", "disturbances"]


@dataclass(frozen=True, kw_only=True)
class DatagenConfig:
    """Settings of the simulator.

    Raises:
        HaustraError: A value is out of its range; the message names the setting.
    """

    output_root: Path = Path("captures")
    """Folder that receives the run folders."""
    preset: Preset = "still"
    """"still": single views, most of one polyp each, for training. "procedure": a fly-through of
    the whole colon, in and out, for evaluation."""
    runs: int = 1
    """Number of runs. Each has its own colon, polyps and camera."""
    frames: int = 60
    """Frames per run; a procedure spreads them over the whole way."""
    seed: int = 0
    """Seed of the first run; the next runs count up from it."""
    size: int = 384
    """Width and height of the square images in pixels."""
    frame_rate_hz: float = 10.0
    """Frames per second of simulated time."""
    polyps_per_run: int = 4
    """Polyps on the wall of each colon; 0 makes runs without boxes."""
    polyp_size_mm: tuple[float, float] = (2.0, 30.0)
    """Smallest and largest width of polyps."""
    min_visible_pixels: int = 40
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
    jobs: int = 1
    """Processes that make runs at the same time."""
    max_cpu: float = 100.0
    """A run begins only while other programs use less than this percentage of the CPU."""
    min_free_mem: int = 0
    """A run begins only while this many MiB of memory are free."""
    headless: bool = True
    """Accepted because users of CortenForge pass it; no window is ever opened."""
    overwrite: bool = False
    """Replace run folders that were made with other settings."""

    def __post_init__(self) -> None:
        convert_paths(self)
        check_whole_number("runs", self.runs, low=1)
        check_whole_number("frames", self.frames, low=1)
        check_whole_number("seed", self.seed, low=0)
        check_whole_number("size", self.size, low=MIN_SIZE_PX, high=MAX_SIZE_PX)
        if not (math.isfinite(self.frame_rate_hz) and self.frame_rate_hz > 0):
            setting = option("frame_rate_hz", self.frame_rate_hz)
            raise HaustraError(f"{setting}: expected a finite number above 0")
        check_whole_number("polyps_per_run", self.polyps_per_run, low=0, high=MAX_POLYPS_PER_RUN)
        least, greatest = self.polyp_size_mm
        low, high = POLYP_SIZE_LIMITS_MM
        if not low <= least <= greatest <= high:
            raise HaustraError(
                f"{option('polyp_size_mm')} {least:g} {greatest:g}: expected two widths from "
                f"{low:g} to {high:g} mm, the smaller first"
            )
        check_whole_number("min_visible_pixels", self.min_visible_pixels, low=1)
        check_whole_number("jobs", self.jobs, low=1)
        if not 0 < self.max_cpu <= 100:
            setting = option("max_cpu", self.max_cpu)
            raise HaustraError(f"{setting}: expected a percentage above 0, up to 100")
        check_whole_number("min_free_mem", self.min_free_mem, low=0)

    def has(self, feature: Feature) -> bool:
        """Return whether a feature is to be simulated."""
        return feature not in self.without and not (self.clean and feature == "disturbances")
