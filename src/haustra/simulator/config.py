"""What `haustra datagen` can be told. Imports nothing heavy: flags and help are built from it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from haustra.core.errors import HaustraError
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
        HaustraError: a value is out of its range; the message names the flag.
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
    """Polyps on the wall of each colon; 0 makes runs without any box."""
    polyp_size_mm: tuple[float, float] = (2.0, 30.0)
    """Least and greatest width of polyps."""
    min_visible_pixels: int = 40
    """A polyp that shows fewer pixels than this in a frame gets no box there."""
    mesh: Path | None = None
    """A colon of your own in place of simulated ones: .obj, .glb, .stl or .ply, in millimeters."""
    clean: bool = False
    """Leave out what disturbs: bubbles, stool, blood, blur, text and the like. The same as
    --without disturbances."""
    without: tuple[Feature, ...] = ()
    """Features to leave out, to see what each is good for."""
    truth: bool = False
    """Also write, per frame, the instance mask, the distance in millimeters and the pose."""
    jobs: int = 1
    """Runs that are made at the same time, each by a process of its own."""
    max_cpu: float = 100.0
    """A run begins only while other programs use less than this percentage of the processor."""
    min_free_mem: int = 0
    """A run begins only while this many MiB of memory are free."""
    headless: bool = True
    """Accepted because users of CortenForge pass it; no window is ever opened."""
    overwrite: bool = False
    """Replace run folders that were made with other settings."""

    def __post_init__(self) -> None:
        check_whole_number("runs", self.runs, low=1)
        check_whole_number("frames", self.frames, low=1)
        check_whole_number("seed", self.seed, low=0)
        check_whole_number("size", self.size, low=MIN_SIZE_PX, high=MAX_SIZE_PX)
        if not (math.isfinite(self.frame_rate_hz) and self.frame_rate_hz > 0):
            raise HaustraError(
                f"--frame-rate-hz {self.frame_rate_hz}: expected a finite number above 0"
            )
        check_whole_number("polyps_per_run", self.polyps_per_run, low=0, high=MAX_POLYPS_PER_RUN)
        least, greatest = self.polyp_size_mm
        low, high = POLYP_SIZE_LIMITS_MM
        if not low <= least <= greatest <= high:
            raise HaustraError(
                f"--polyp-size-mm {least:g} {greatest:g}: expected two widths from {low:g} to "
                f"{high:g} mm, the least first"
            )
        check_whole_number("min_visible_pixels", self.min_visible_pixels, low=1)
        check_whole_number("jobs", self.jobs, low=1)
        if not 0 < self.max_cpu <= 100:
            raise HaustraError(f"--max-cpu {self.max_cpu:g}: expected a percentage above 0, to 100")
        check_whole_number("min_free_mem", self.min_free_mem, low=0)

    def has(self, feature: Feature) -> bool:
        """Tell whether a feature is to be simulated."""
        return feature not in self.without and not (self.clean and feature == "disturbances")
