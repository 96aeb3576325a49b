"""The endoscope's eye: pinhole intrinsics, and a path through the lumen clear of all tissue."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from haustra.simulate.noise import FloatArray, smooth_wave
from haustra.simulate.rays import normalised
from haustra.simulate.scene import Scene
from haustra.simulate.tube import STEP_MM

CLEARANCE_MM = 5.0
"""Least distance between the camera and any tissue."""
MAX_SWERVE_MM = 6.0
"""How far the camera strays from the centreline where the lumen allows it."""
MAX_TURN_DEG = 35.0
"""How far the view turns away from the way ahead, to each side."""
PATH_SHARE = (0.08, 0.86)
"""Part of the tube that the camera travels; the ends stay before it and behind it."""
MAX_DWELL = 1.5
"""How much slower, in addition to 1, the camera goes just before a polyp."""
MAX_INTEREST = 2.5
"""Greatest pull of a polyp on the view, against 1 for the way ahead."""
INTEREST_RANGE_MM = 28.0
"""Distance at which that pull is down to a third."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera with square images."""

    size_px: int
    fov_deg: float
    """Angle of view from the left edge to the right one."""

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return float(self.size_px / 2 / np.tan(np.radians(self.fov_deg) / 2))

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """Rays through the pixel centres, [size*size,3]: right, down, ahead, with ahead = 1."""
        across = (np.arange(self.size_px) + 0.5 - self.size_px / 2) / self.focal_px
        right, down = np.meshgrid(across, across)
        ahead = np.ones_like(right)
        return np.stack([right, down, ahead], axis=-1).reshape(-1, 3).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """Where the camera is and looks."""

    position_mm: FloatArray
    """[3]."""
    axes: FloatArray
    """[3,3] rows are the unit vectors right, down and ahead in the world."""

    def to_world(self, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn `directions` [N,3] from right, down, ahead to the world.

        Written out instead of `@`: a threaded matrix product need not repeat its last bit.
        """
        right, down, ahead = self.axes.astype(np.float32)
        turned = directions[:, :1] * right + directions[:, 1:2] * down + directions[:, 2:] * ahead
        return np.asarray(turned, dtype=np.float32)

    def to_camera(self, points_mm: FloatArray) -> FloatArray:
        """Return `points_mm` [N,3] of the world as right, down, ahead in millimetres."""
        return np.asarray((points_mm - self.position_mm) @ self.axes.T)


def plan_path(scene: Scene, *, num_frames: int, rng: np.random.Generator) -> list[Pose]:
    """Lead the camera once through the whole colon, looking around.

    Half of the paths go in and half come out; the view is towards the far end in both, as a
    colonoscopist's is, and turns towards most polyps as they come near, where the
    camera slows down. A camera that strays from the centreline by less than the free distance
    there, less a clearance, keeps that clearance.
    """
    tube = scene.tube
    along_mm = _stops_mm(scene, num_frames=num_frames)
    if rng.random() < 0.5:
        along_mm = along_mm[::-1]
    waves = [smooth_wave(along_mm, wavelengths=(22, 110), rng=rng) for _ in range(5)]
    swerve_right, swerve_down, turn_right, turn_down, roll = waves
    look_ahead_mm = rng.uniform(12, 25)
    start_roll = rng.uniform(0, 2 * np.pi)
    interests = rng.uniform(0, MAX_INTEREST, size=len(scene.polyps))
    poses = []
    for frame, at_mm in enumerate(along_mm):
        center = _at(tube.centers_mm, at_mm)
        free_mm = float(np.linalg.norm(scene.vertices_mm - center, axis=1).min()) - CLEARANCE_MM
        ahead = normalised(_at(tube.centers_mm, at_mm + look_ahead_mm) - center)
        axes = _axes_along(ahead, near=_at(tube.sides, at_mm), roll=start_roll + roll[frame])
        offset = np.array([swerve_right[frame], swerve_down[frame]]) / np.sqrt(2)
        position = center + min(max(free_mm, 0.0), MAX_SWERVE_MM) * (offset @ axes[:2])
        turns = np.radians(MAX_TURN_DEG) * np.array([turn_right[frame], turn_down[frame]])
        gaze = _turned(axes, turns)
        for polyp, interest in zip(scene.polyps, interests, strict=True):
            gaze = _drawn_towards(polyp.center_mm - position, gaze=gaze, interest=interest)
        poses.append(Pose(position_mm=position, axes=gaze))
    return poses


def _stops_mm(scene: Scene, *, num_frames: int) -> FloatArray:
    """Return positions along the centreline, [num_frames] rising, denser before polyps."""
    tube = scene.tube
    first, last = (round(share * len(tube.centers_mm)) for share in PATH_SHARE)
    along_mm = np.arange(first, last) * STEP_MM
    dwell = np.ones(len(along_mm))
    for polyp in scene.polyps:
        nearest = np.linalg.norm(tube.centers_mm - polyp.center_mm, axis=1).argmin()
        before_mm = nearest * STEP_MM - along_mm
        dwell += MAX_DWELL * np.exp(-(((before_mm - 15) / 10) ** 2))
    passed = np.cumsum(dwell) / dwell.sum()
    asked = (np.arange(num_frames) + 0.5) / num_frames
    return np.asarray(np.interp(asked, passed, along_mm), dtype=np.float64)


def _at(values: FloatArray, position_mm: float) -> FloatArray:
    index = position_mm / STEP_MM
    return np.array([np.interp(index, np.arange(len(values)), column) for column in values.T])


def _axes_along(ahead: FloatArray, *, near: FloatArray, roll: float) -> FloatArray:
    """Return right, down and ahead, where right lies near a given direction before the roll."""
    right = normalised(near - (near @ ahead) * ahead)
    down = np.cross(ahead, right)
    cos, sin = np.cos(roll), np.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, ahead])


def _turned(axes: FloatArray, turns: FloatArray) -> FloatArray:
    """Turn the view by two angles in radians, to the right and downwards."""
    right, down, ahead = axes
    ahead, right = (
        np.cos(turns[0]) * ahead + np.sin(turns[0]) * right,
        np.cos(turns[0]) * right - np.sin(turns[0]) * ahead,
    )
    ahead, down = (
        np.cos(turns[1]) * ahead + np.sin(turns[1]) * down,
        np.cos(turns[1]) * down - np.sin(turns[1]) * ahead,
    )
    return np.stack([right, down, ahead])


def _drawn_towards(to_polyp: FloatArray, *, gaze: FloatArray, interest: float) -> FloatArray:
    """Turn the view towards a polyp that is near and before the camera; fades smoothly."""
    distance_mm = float(np.linalg.norm(to_polyp))
    cosine = float(to_polyp @ gaze[2]) / distance_mm
    pull = interest * np.exp(-((distance_mm / INTEREST_RANGE_MM) ** 2)) * max(cosine, 0.0)
    ahead = normalised(gaze[2] + pull * to_polyp / distance_mm)
    return _axes_along(ahead, near=gaze[0], roll=0.0)
