"""What `haustra datagen` can be told. Imports nothing heavy: flags and help are built from it."""

import math
from dataclasses import dataclass
from pathlib import Path

from haustra.core.errors import HaustraError
from haustra.core.ranges import check_whole_number

MIN_SIZE_PX = 64
MAX_SIZE_PX = 4096
MAX_POLYPS_PER_RUN = 24


@dataclass(frozen=True, kw_only=True)
class DatagenConfig:
    """Settings of the simulator.

    Raises:
        HaustraError: a value is out of its range; the message names the flag.
    """

    output_root: Path = Path("captures")
    """Folder that receives the run folders."""
    runs: int = 1
    """Number of runs. Each has its own colon, polyps and camera path."""
    frames: int = 60
    """Frames per run, spread over the whole colon."""
    seed: int = 0
    """Seed of the first run; the next runs count up from it."""
    size: int = 384
    """Width and height of the square images in pixels."""
    frame_rate_hz: float = 10.0
    """Frames per second of simulated time."""
    polyps_per_run: int = 4
    """Polyps on the wall of each colon; 0 makes runs without any box."""
    min_visible_pixels: int = 40
    """A polyp that shows fewer pixels than this in a frame gets no box there."""
    headless: bool = True
    """Accepted because users of CortenForge pass it; no window is ever opened."""
    overwrite: bool = False
    """Replace run folders that exist already."""

    def __post_init__(self) -> None:
        check_whole_number("--runs", self.runs, low=1)
        check_whole_number("--frames", self.frames, low=1)
        check_whole_number("--seed", self.seed, low=0)
        check_whole_number("--size", self.size, low=MIN_SIZE_PX, high=MAX_SIZE_PX)
        if not (math.isfinite(self.frame_rate_hz) and self.frame_rate_hz > 0):
            raise HaustraError(
                f"--frame-rate-hz {self.frame_rate_hz}: expected a finite number above 0"
            )
        check_whole_number("--polyps-per-run", self.polyps_per_run, low=0, high=MAX_POLYPS_PER_RUN)
        check_whole_number("--min-visible-pixels", self.min_visible_pixels, low=1)
