"""A simulated colon to look at live: an autopilot leads the camera, or a hand does."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.simulator.camera import Pose
from haustra.simulator.config import DatagenConfig
from haustra.simulator.labels import label_view
from haustra.simulator.motion import station_of
from haustra.simulator.noise import FloatArray
from haustra.simulator.path import CLEARANCE_MM, PATH_SHARE, turned
from haustra.simulator.plan import Eye, plan_run, take_picture
from haustra.simulator.rays import normalized

PROCEDURE_S = 90.0
"""Length of the autopilot's way in and out; then it begins again."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """How a hand moves the camera, each -1..1."""

    ahead: float = 0.0
    """Along the view, backwards below 0."""
    sideways: float = 0.0
    """To the right of the view."""
    turn_right: float = 0.0
    turn_down: float = 0.0


SPEED_MM_S = 25.0
TURN_RAD_S = 1.2


@dataclass(frozen=True, kw_only=True)
class LiveView:
    """One frame of a live colon."""

    image_rgb: NDArray[np.uint8]
    """[size,size,3]."""
    labels: list[PolypTruth]
    seconds: float
    """Since the colon was entered."""


class LiveColon:
    """Renders one frame after the other, from wherever the camera is.

    Args:
        seed: of the colon, its polyps, its camera and the autopilot's way, as `haustra datagen`.
        size_px: width and height of the pictures.
        frame_rate_hz: frames per second of simulated time.

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
        self._config, self._seed = config, seed
        self._plan = plan_run(seed, config=config)
        self._eye = Eye(self._plan)
        self._frame = 0
        self._stop = 0
        """Where on the autopilot's way the camera is."""
        self._pose = self._plan.poses[0]
        self.autopilot = True
        """Whether the camera follows its planned way."""
        self.drive = Drive()
        """What the hand does while the autopilot is off."""

    def next_view(self) -> LiveView:
        """Move the camera by one frame's time and return what it sees."""
        plan, config = self._plan, self._config
        frame, self._frame = self._frame, self._frame + 1
        seconds = frame / config.frame_rate_hz
        if self.autopilot:
            self._pose = plan.poses[self._stop]
            self._stop = (self._stop + 1) % len(plan.poses)
        else:
            self._pose = self._driven(self._pose, drive=self.drive)
        scene, view = self._eye.look(self._pose, seconds=seconds)
        image, hidden = take_picture(
            plan,
            scene=scene,
            view=view,
            frame=frame % len(plan.poses),
            rng=np.random.default_rng([self._seed, 2, frame]),
        )
        labels = label_view(
            scene,
            view=view,
            run_id=f"sim_{self._seed:06d}",
            min_visible_pixels=config.min_visible_pixels,
            hidden=hidden,
        )
        return LiveView(image_rgb=image, labels=labels, seconds=seconds)

    def take_over(self, *, autopilot: bool) -> None:
        """Give the camera to the autopilot, which goes on from the nearest point of its way."""
        if autopilot and not self.autopilot:
            way = np.stack([pose.position_mm for pose in self._plan.poses])
            self._stop = int(np.linalg.norm(way - self._pose.position_mm, axis=1).argmin())
        self.autopilot, self.drive = autopilot, Drive()

    def _driven(self, pose: Pose, *, drive: Drive) -> Pose:
        seconds = 1 / self._config.frame_rate_hz
        turns = TURN_RAD_S * seconds * np.array([drive.turn_right, drive.turn_down])
        axes = turned(pose.axes, turns)
        step = SPEED_MM_S * seconds * (drive.ahead * axes[2] + drive.sideways * axes[0])
        return Pose(position_mm=self._within(pose.position_mm + step), axes=axes)

    def _within(self, position_mm: FloatArray) -> FloatArray:
        """Return a position, or the nearest one that keeps clear of the wall and of the ends."""
        centers = self._plan.scene.tube.centers_mm
        first, last = (round(share * len(centers)) for share in PATH_SHARE)
        center = centers[min(max(station_of(self._plan.scene, position_mm), first), last - 1)]
        offset = position_mm - center
        free_mm = max(self._plan.scene.free_distance_mm(center) - CLEARANCE_MM, 0.0)
        distance_mm = float(np.linalg.norm(offset))
        if distance_mm <= free_mm:
            return position_mm
        return np.asarray(center + free_mm * normalized(offset))
