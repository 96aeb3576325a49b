"""Slow movement of the wall: contractions that travel along the colon, and breathing."""

from dataclasses import dataclass, replace

import numpy as np

from haustra.simulator.camera import Pose
from haustra.simulator.noise import FloatArray
from haustra.simulator.scene import Scene
from haustra.simulator.tube import STEP_MM, Tube

REFRESH_MM = 50.0  # a camera that moves farther than this needs a new piece of the colon
BEHIND_MM, AHEAD_MM = REFRESH_MM + 40.0, REFRESH_MM + 180.0
"""Part of the colon in a moved scene, along the centerline; the rest is too dark to see."""
BREATH_S = 4.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Peristalsis:
    """Waves that narrow the lumen as they pass; all arrays [waves]."""

    start_mm: FloatArray  # position of each wave along the centerline at time 0
    speed_mm_s: FloatArray  # negative toward the anus
    share: FloatArray  # share of the radius that is lost at the peak of the wave, 0..1
    width_mm: FloatArray
    breath_share: float  # share of the radius that breathing changes, 0..1

    def narrowing(self, along_mm: FloatArray, *, seconds: float) -> FloatArray:
        """Return the lost share of the radius at positions [N] along the centerline, [N]."""
        middle_mm = self.start_mm + self.speed_mm_s * seconds
        away = (np.asarray(along_mm)[..., None] - middle_mm) / self.width_mm
        waves = (self.share * np.exp(-(away**2))).max(axis=-1, initial=0.0)
        breath = self.breath_share * 0.5 * (1 - np.cos(2 * np.pi * seconds / BREATH_S))
        return np.asarray(waves + breath)


def draw_peristalsis(
    rng: np.random.Generator, *, length_mm: float, duration_s: float
) -> Peristalsis:
    """Draw the waves of a procedure: about one per 150 mm and half minute."""
    number = 1 + rng.poisson(length_mm / 150 * duration_s / 30)
    return Peristalsis(
        start_mm=rng.uniform(-0.2, 1.2, size=number) * length_mm,
        speed_mm_s=rng.uniform(2, 8, size=number) * rng.choice([-1, 1], size=number),
        share=rng.uniform(0.05, 0.2, size=number),
        width_mm=rng.uniform(12, 30, size=number),
        breath_share=rng.uniform(0.0, 0.03),
    )


def moved_scene(scene: Scene, *, share: FloatArray, position_mm: FloatArray) -> Scene:
    """Return a scene at rest without a `share` [S] of its radii, around a position [3] at rest.

    Polyps move with the wall and keep their shape.
    """
    tube = scene.tube
    vertices = scene.vertices_mm.copy()
    number = len(tube.vertices_mm)
    from_center = tube.vertices_mm - tube.centers_mm[tube.station]
    vertices[:number] -= share[tube.station, None] * from_center
    stations = [tube.station]
    polyps = []
    for polyp in scene.polyps:
        foot = polyp.center_mm - tube.centers_mm[polyp.station]
        shift = -share[polyp.station] * foot
        last = number + len(polyp.vertices_mm)
        vertices[number:last] += shift.astype(np.float32)
        number = last
        stations.append(np.full(len(polyp.vertices_mm), polyp.station))
        polyps.append(
            replace(polyp, center_mm=polyp.center_mm + shift, vertices_mm=polyp.vertices_mm + shift)
        )
    along = np.concatenate(stations)[scene.faces[:, 0]] * STEP_MM
    along -= tube.nearest_station(position_mm) * STEP_MM
    near = (along > -BEHIND_MM) & (along < AHEAD_MM)
    return replace(
        scene,
        polyps=polyps,
        vertices_mm=vertices,
        faces=scene.faces[near],
        face_instance=scene.face_instance[near],
    )


def moved_pose(pose: Pose, *, tube: Tube, share: FloatArray) -> Pose:
    """Return a pose of the colon at rest, moved with the lumen."""
    station = tube.nearest_station(pose.position_mm)
    shift_mm = share[station] * (pose.position_mm - tube.centers_mm[station])
    return Pose(position_mm=pose.position_mm - shift_mm, axes=pose.axes)
