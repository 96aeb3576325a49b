"""Ground truth of a simulated frame for each pixel, beyond boxes."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haustra.core.images import encode_png
from haustra.simulator.labels import visible_instance
from haustra.simulator.render import View

DISTANCE_STEPS_PER_MM = 100
"""The distance image counts hundredths of a millimeter, so it ends at 655.35 mm."""


def write_truth(folder: Path, *, name: str, view: View, hidden: NDArray[np.bool_]) -> None:
    """Write `<name>_instance.png`, `<name>_distance.png` and `<name>_pose.json`.

    Instance pixels are 0 for the wall, n for polyp n and 255 for neither. Distances are 16 bits,
    along each pixel's ray, 0 where it meets nothing. The rows of the pose's `axes` are right,
    down and ahead in the world.
    """
    folder.mkdir(exist_ok=True)
    instance = visible_instance(view, hidden=hidden).astype(np.uint8)
    steps = np.clip(view.distance_mm() * DISTANCE_STEPS_PER_MM + 0.5, 0, 65535).astype(np.uint16)
    (folder / f"{name}_instance.png").write_bytes(encode_png(instance))
    (folder / f"{name}_distance.png").write_bytes(encode_png(steps))
    pose = {"position_mm": view.pose.position_mm.tolist(), "axes": view.pose.axes.tolist()}
    (folder / f"{name}_pose.json").write_text(json.dumps(pose, indent=1) + "\n")
