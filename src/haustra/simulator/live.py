"""A simulated colon in real time, with the camera on a planned path or under manual control."""

from dataclasses import dataclass

import numpy as np

from haustra.simulator.camera import Pose
from haustra.simulator.config import DatagenConfig
from haustra.simulator.noise import FloatArray
from haustra.simulator.path import CLEARANCE_MM, PATH_SHARE, turned
from haustra.simulator.plan import Eye, Frame, plan_run, take_frame
from haustra.simulator.rays import normalized

PROCEDURE_S = 90.0  # time of the autopilot's path in and out; then it starts again


@dataclass(frozen=True, kw_only=True)
class Drive:
    """Manual control of the camera; each value is in -1..1."""

    ahead: float = 0.0  # along the view; negative values move backward
    sideways: float = 0.0  # to the right of the view
    turn_right: float = 0.0
    turn_down: float = 0.0


SPEED_MM_S = 25.0
TURN_RAD_S = 1.2


class LiveColon:
    """Renders frames from the current position of the camera.

    Args:
        seed: Seed of the colon, its polyps, its camera and the path, as for `haustra datagen`.
        frame_rate_hz: Frames per second of simulated time.
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
        self._number = 0
        self._stop = 0  # position on the planned path
        self._pose = self._plan.poses[0]
        self.autopilot = True  # True while the camera follows its planned path
        self.drive = Drive()  # manual control while the autopilot is off

    def next_frame(self) -> Frame:
        """Move the camera by the time of one frame and return what it sees."""
        plan, number = self._plan, self._number
        self._number += 1
        if self.autopilot:
            self._pose = plan.poses[self._stop]
            self._stop = (self._stop + 1) % len(plan.poses)
        else:
            self._pose = self._driven()
        return take_frame(plan, view=self._eye.look(self._pose, number=number), number=number)

    def take_over(self, *, autopilot: bool) -> None:
        """Switch the autopilot; it continues from the nearest point of its path."""
        if autopilot and not self.autopilot:
            path = np.stack([pose.position_mm for pose in self._plan.poses])
            self._stop = int(np.linalg.norm(path - self._pose.position_mm, axis=1).argmin())
        self.autopilot, self.drive = autopilot, Drive()

    def _driven(self) -> Pose:
        seconds, drive = 1 / self._plan.config.frame_rate_hz, self.drive
        turns = TURN_RAD_S * seconds * np.array([drive.turn_right, drive.turn_down])
        axes = turned(self._pose.axes, turns)
        step = SPEED_MM_S * seconds * (drive.ahead * axes[2] + drive.sideways * axes[0])
        return Pose(position_mm=self._within(self._pose.position_mm + step), axes=axes)

    def _within(self, position_mm: FloatArray) -> FloatArray:
        """Return a position, or the nearest one that is clear of the wall and of the ends."""
        scene = self._plan.scene
        centers = scene.tube.centers_mm
        first, last = (round(share * len(centers)) for share in PATH_SHARE)
        center = centers[min(max(scene.tube.nearest_station(position_mm), first), last - 1)]
        offset = position_mm - center
        free_mm = max(scene.free_distance_mm(center) - CLEARANCE_MM, 0.0)
        if np.linalg.norm(offset) <= free_mm:
            return position_mm
        return np.asarray(center + free_mm * normalized(offset))
