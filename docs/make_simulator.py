"""Make the pictures of docs/simulator.md.

    python docs/make_simulator.py

`simulator_stills`: one frame each of 24 colons. `simulator_procedure`: a fly-through in 12 frames.
`simulator_features`: the same frames with and without each feature. `simulator_disturbances`: the
same frame with each disturbance.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.config import DatagenConfig, Feature
from haustra.simulator.events import KINDS, Event
from haustra.simulator.plan import RunPlan, plan_run, take_frame, views

IMAGES = Path(__file__).parent / "images"
SIDE_PX = 224
GAP_PX = 4
JPEG_QUALITY = 88
FEATURE_SEEDS = (9, 15, 21)
"""Colons whose frames show the features."""
DISTURBED_SEED = 5

Picture = NDArray[np.uint8]


def pictures(plan: RunPlan) -> list[Picture]:
    """Render all frames of a plan."""
    return [
        take_frame(plan, view=view, number=number).image_rgb
        for number, view in enumerate(views(plan))
    ]


def titled(picture: Picture, title: str) -> Picture:
    """Write a few words above a picture."""
    canvas = np.full((SIDE_PX + 22, SIDE_PX, 3), 255, dtype=np.uint8)
    canvas[22:] = picture
    place = (2, 16)
    cv2.putText(canvas, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.48, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def save_sheet(name: str, *, shown: list[Picture], columns: int) -> None:
    """Save pictures of one size as `images/<name>.jpg`, row by row."""
    height, width = shown[0].shape[:2]
    rows = -(-len(shown) // columns)
    sheet = np.full((rows * (height + GAP_PX), columns * (width + GAP_PX), 3), 255, dtype=np.uint8)
    for number, picture in enumerate(shown):
        y, x = number // columns * (height + GAP_PX), number % columns * (width + GAP_PX)
        sheet[y : y + height, x : x + width] = picture
    path = IMAGES / f"{name}.jpg"
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), quality)
    print(path)


def main() -> None:
    """Make all sheets."""
    one = DatagenConfig(frames=1, size=SIDE_PX)
    shown = [pictures(plan_run(seed, config=one))[0] for seed in range(24)]
    save_sheet("simulator_stills", shown=shown, columns=6)

    procedure = DatagenConfig(frames=120, size=SIDE_PX, preset="procedure")
    save_sheet(
        "simulator_procedure",
        shown=pictures(plan_run(1, config=procedure))[::10],
        columns=6,
    )

    shown = []
    for seed in FEATURE_SEEDS:
        for without in ((), *((feature,) for feature in get_args(Feature))):
            plan = plan_run(seed, config=replace(one, without=without))
            title = f"without {without[0]}" if without else "with all"
            shown.append(titled(pictures(plan)[0], title))
    save_sheet("simulator_features", shown=shown, columns=1 + len(get_args(Feature)))

    plan = plan_run(DISTURBED_SEED, config=replace(one, clean=True))
    shown = [titled(pictures(plan)[0], "clean")]
    for number, kind in enumerate(KINDS):
        event = Event(kind=kind, seed=number, strength=0.8, progress=0.5)
        disturbed = pictures(replace(plan, events=[(event,)]))[0]
        shown.append(titled(disturbed, kind.replace("_", " ")))
    save_sheet("simulator_disturbances", shown=shown, columns=5)


if __name__ == "__main__":
    main()
