"""What a simulated frame shows, pixel by pixel: for those who train or test more than boxes."""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.simulator.camera import Pose

DISTANCE_STEPS_PER_MM = 100
"""The distance image counts hundredths of a millimeter, so it ends at 655.35 mm."""


def write_truth(
    folder: Path,
    *,
    name: str,
    instance: NDArray[np.int16],
    distance_mm: NDArray[np.float32],
    pose: Pose,
) -> None:
    """Write `<name>_instance.png`, `<name>_distance.png` and `<name>_pose.json`.

    Args:
        folder: made where it is missing.
        name: the frame's name.
        instance: [S,S] 0 the wall, n polyp n, -1 neither; 255 stands for -1 in the 8-bit image.
        distance_mm: [S,S] from the camera along each pixel's ray, 0 where nothing is met; 16 bits.
        pose: where the camera is; rows of `axes` are right, down and ahead in the world.
    """
    folder.mkdir(exist_ok=True)
    steps = np.clip(distance_mm * DISTANCE_STEPS_PER_MM + 0.5, 0, 65535).astype(np.uint16)
    for kind, image in (("instance", instance.astype(np.uint8)), ("distance", steps)):
        done, encoded = cv2.imencode(".png", image)
        if not done:
            raise ValueError(f"OpenCV did not encode the {kind} image as PNG")
        (folder / f"{name}_{kind}.png").write_bytes(encoded.tobytes())
    text = json.dumps(
        {"position_mm": pose.position_mm.tolist(), "axes": pose.axes.tolist()}, indent=1
    )
    (folder / f"{name}_pose.json").write_text(text + "\n")
