"""Simulate the clean frames that trainings take negatives from, and fit thresholds on.

    python docs/make_clean_frames.py

Half are single views, half frames of procedures. The two files have no colon in common.
"""

from pathlib import Path

import cv2
import numpy as np

from haustra.simulator.config import DatagenConfig, Preset
from haustra.simulator.plan import plan_run, take_frame, views

FOLDER = Path(__file__).parent.parent / "src" / "haustra" / "training" / "clean_frames"
SIDE_PX, PER_ROW, QUALITY = 256, 8, 80
FRAMES_OF_PROCEDURE = 4


def simulate(preset: Preset, *, seeds: range, frames: int) -> list[np.ndarray]:
    """Return frames of colons without polyps."""
    config = DatagenConfig(preset=preset, frames=frames, size=SIDE_PX, polyps_per_run=0)
    return [
        take_frame(plan, view=view, number=number).image_rgb
        for plan in (plan_run(seed, config=config) for seed in seeds)
        for number, view in enumerate(views(plan))
    ]


def write_sheet(name: str, *, first_seed: int, count: int) -> None:
    """Write `count` frames as one JPEG file."""
    middle = first_seed + count // 2
    images = simulate("still", seeds=range(first_seed, middle), frames=1)
    procedures = range(middle, middle + count // 2 // FRAMES_OF_PROCEDURE)
    images += simulate("procedure", seeds=procedures, frames=FRAMES_OF_PROCEDURE)
    rows = [np.hstack(images[start : start + PER_ROW]) for start in range(0, count, PER_ROW)]
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(FOLDER / name), sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    write_sheet("train.jpg", first_seed=910_000, count=96)
    write_sheet("held_out.jpg", first_seed=920_000, count=48)
