"""A simulated colon in real time, with the camera on a planned path or under manual control."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.simulator.camera import Pose
from haustra.simulator.config import DatagenConfig
from haustra.simulator.motion import station_of
from haustra.simulator.noise import FloatArray
from haustra.simulator.path import CLEARANCE_MM, PATH_SHARE, turned
from haustra.simulator.plan import Eye, plan_run, take_frame
from haustra.simulator.rays import normalized

PROCEDURE_S = 90.0
"""Time of the autopilot's path in and out; then it starts again."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """Manual control of the camera; each value is in -1..1."""

    ahead: float = 0.0  # along the view; negative values move backward
    sideways: float = 0.0  # to the right of the view
    turn_right: float = 0.0
    turn_down: float = 0.0


SPEED_MM_S = 25.0
TURN_RAD_S = 1.2


@dataclass(frozen=True, kw_only=True)
class LiveView:
    """One frame of a live colon."""

    image_rgb: NDArray[np.uint8]  # [size,size,3]
    labels: list[PolypTruth]
    seconds: float  # simulated time since the start


class LiveColon:
    """Renders frames from the current position of the camera.

    Args:
        seed: Seed of the colon, its polyps, its camera and the path, as for `haustra datagen`.
        size_px: Width and height of the pictures.
        frame_rate_hz: Frames per second of simulated time.

    Raises:
        MissingExtraError: embreex is not installed.
    """

    def __init__(self, seed: int, *, size_px: int = 384, frame_rate_hz: float = 10.0) -> None:
        config = DatagenConfig(
            preset="procedure",
            frames=round(PROCEDURE_S * frame_rate_hz),
            seed=seed,
            size=size_px,
            frame_rate_hz=frame_rate_hz,
        )
        self._plan = plan_run(seed, config=config)
        self._eye = Eye(self._plan)
        self._frame = 0
        self._stop = 0  # position on the planned path
        self._pose = self._plan.poses[0]
        self.autopilot = True
        """True while the camera follows its planned path."""
        self.drive = Drive()
        """Manual control while the autopilot is off."""

    def next_view(self) -> LiveView:
        """Move the camera by the time of one frame and return its view."""
        plan = self._plan
        frame, self._frame = self._frame, self._frame + 1
        seconds = frame / plan.config.frame_rate_hz
        if self.autopilot:
            self._pose = plan.poses[self._stop]
            self._stop = (self._stop + 1) % len(plan.poses)
        else:
            self._pose = self._driven(self._pose, drive=self.drive)
        scene, view = self._eye.look(self._pose, seconds=seconds)
        taken = take_frame(plan, scene=scene, view=view, frame=frame)
        return LiveView(image_rgb=taken.picture, labels=taken.labels, seconds=seconds)

    def take_over(self, *, autopilot: bool) -> None:
        """Switch the autopilot; it continues from the nearest point of its path."""
        if autopilot and not self.autopilot:
            path = np.stack([pose.position_mm for pose in self._plan.poses])
            self._stop = int(np.linalg.norm(path - self._pose.position_mm, axis=1).argmin())
        self.autopilot, self.drive = autopilot, Drive()

    def _driven(self, pose: Pose, *, drive: Drive) -> Pose:
        seconds = 1 / self._plan.config.frame_rate_hz
        turns = TURN_RAD_S * seconds * np.array([drive.turn_right, drive.turn_down])
        axes = turned(pose.axes, turns)
        step = SPEED_MM_S * seconds * (drive.ahead * axes[2] + drive.sideways * axes[0])
        return Pose(position_mm=self._within(pose.position_mm + step), axes=axes)

    def _within(self, position_mm: FloatArray) -> FloatArray:
        """Return a position, or the nearest one that is clear of the wall and of the ends."""
        centers = self._plan.scene.tube.centers_mm
        first, last = (round(share * len(centers)) for share in PATH_SHARE)
        center = centers[min(max(station_of(self._plan.scene, position_mm), first), last - 1)]
        offset = position_mm - center
        free_mm = max(self._plan.scene.free_distance_mm(center) - CLEARANCE_MM, 0.0)
        distance_mm = float(np.linalg.norm(offset))
        if distance_mm <= free_mm:
            return position_mm
        return np.asarray(center + free_mm * normalized(offset))
