"""One run before it is written: colon, camera path, disturbances and pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from haustra.captures.writer import PolypTruth
from haustra.core.errors import HaustraError, MissingExtraError, option
from haustra.simulator.camera import Camera, Pose, draw_camera
from haustra.simulator.config import DatagenConfig
from haustra.simulator.events import Event, plan_events
from haustra.simulator.labels import label_view
from haustra.simulator.matter import paint_matter
from haustra.simulator.motion import (
    REFRESH_MM,
    Peristalsis,
    draw_peristalsis,
    moved_pose,
    moved_scene,
)
from haustra.simulator.path import plan_procedure, plan_stills
from haustra.simulator.rays import NO_FACE, dots, face_normals, normalized
from haustra.simulator.render import Lighting, View, cast_view, develop, draw_lighting, shade_view
from haustra.simulator.scene import Scene, build_scene
from haustra.simulator.screen import Screen, draw_screen, paint_screen
from haustra.simulator.tube import SECTIONS, Section, Tube, build_tube
from haustra.simulator.video import blur_light, disturb_picture

STILL_SECTIONS = 2
"""Neighboring sections of the colon in a run of stills; more would rarely be visible."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunPlan:
    """Everything about a run that is drawn before its first frame."""

    seed: int
    config: DatagenConfig
    scene: Scene
    camera: Camera
    lighting: Lighting
    poses: list[Pose]
    events: list[tuple[Event, ...]]
    screen: Screen | None
    peristalsis: Peristalsis | None

    @property
    def run_id(self) -> str:
        """Name of the run in its labels."""
        return f"sim_{self.seed:06d}"


class Frame(NamedTuple):
    """One frame of a run."""

    image_rgb: NDArray[np.uint8]  # [S,S,3]
    hidden: NDArray[np.bool_]  # [S,S] pixels covered by something outside the scene
    labels: list[PolypTruth]
    seconds: float  # simulated time since the start


def plan_run(seed: int, *, config: DatagenConfig) -> RunPlan:
    """Draw the colon, the camera's path and the disturbances of a run."""
    stills = config.preset == "still"
    tube = make_tube(seed, config=config)
    scene_rng, camera_rng, path_rng, lighting_rng, event_rng, motion_rng = np.random.default_rng(
        [seed, 1]
    ).spawn(6)
    scene = build_scene(
        tube,
        num_polyps=config.polyps_per_run,
        sizes="even" if stills else "procedure",
        size_mm=config.polyp_size_mm,
        with_vessels=config.has("vessels"),
        rng=scene_rng,
    )
    camera = draw_camera(camera_rng, size_px=config.size, with_fisheye=config.has("fisheye"))
    lighting = draw_lighting(
        lighting_rng, falls_off=config.has("falloff"), shines=config.has("speculars")
    )
    if stills:
        poses = plan_stills(scene, camera=camera, num_frames=config.frames, rng=path_rng)
    else:
        poses = plan_procedure(scene, num_frames=config.frames, rng=path_rng)
    if config.mesh is not None:
        _check_inside(scene, poses=poses, mesh=config.mesh)
    events: list[tuple[Event, ...]] = [()] * config.frames
    screen = peristalsis = None
    if config.has("disturbances"):
        events = plan_events(
            config.frames, frame_rate_hz=config.frame_rate_hz, stills=stills, rng=event_rng
        )
        screen = draw_screen(event_rng)
    if not stills:
        duration_s = config.frames / config.frame_rate_hz
        peristalsis = draw_peristalsis(motion_rng, length_mm=tube.length_mm, duration_s=duration_s)
    return RunPlan(
        seed=seed,
        config=config,
        scene=scene,
        camera=camera,
        lighting=lighting,
        poses=poses,
        events=events,
        screen=screen,
        peristalsis=peristalsis,
    )


def make_tube(seed: int, *, config: DatagenConfig) -> Tube:
    """Return the wall of a seed, or that of the user's own mesh."""
    if config.mesh is not None:
        for package in ("trimesh", "scipy", "embreex"):
            if find_spec(package) is None:
                needed_for = "haustra datagen --mesh"
                raise MissingExtraError(package, extra="simulate", needed_for=needed_for)
        from haustra.simulator.mesh_import import load_mesh_tube

        return load_mesh_tube(config.mesh)
    rng = np.random.default_rng([seed, 0])
    sections: tuple[Section, ...] = SECTIONS
    if config.preset == "still":
        first = int(rng.integers(len(SECTIONS) - STILL_SECTIONS + 1))
        sections = SECTIONS[first : first + STILL_SECTIONS]
    return build_tube(rng, sections=sections, with_folds=config.has("folds"))


REFRESH_S = 1.0  # time between movements of the wall; each needs a new tree for the rays


class Eye:
    """Casts the views of a run in a wall that moves with time."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._scene = plan.scene
        self._moved_at_s, self._moved_for_mm = -1.0, np.full(3, np.inf)

    def look(self, pose: Pose, *, number: int) -> View:
        """Return the view of frame `number` from a pose in the colon at rest."""
        plan = self._plan
        if plan.peristalsis is not None:
            step_s = REFRESH_S * int(number / plan.config.frame_rate_hz / REFRESH_S)
            share = plan.peristalsis.narrowing(plan.scene.tube.along_mm, seconds=step_s)
            traveled_mm = float(np.linalg.norm(pose.position_mm - self._moved_for_mm))
            if step_s != self._moved_at_s or traveled_mm > REFRESH_MM:
                self._scene = moved_scene(plan.scene, share=share, position_mm=pose.position_mm)
                self._moved_at_s, self._moved_for_mm = step_s, pose.position_mm
            pose = moved_pose(pose, tube=plan.scene.tube, share=share)
        return cast_view(self._scene, camera=plan.camera, pose=pose)


def views(plan: RunPlan) -> Iterator[View]:
    """Yield the view of each frame."""
    eye = Eye(plan)
    for number, pose in enumerate(plan.poses):
        yield eye.look(pose, number=number)


def take_frame(plan: RunPlan, *, view: View, number: int) -> Frame:
    """Return the picture and the labels of a view; events start again after the last frame."""
    planned = number % len(plan.poses)
    events = plan.events[planned]
    light = shade_view(view, lighting=plan.lighting)
    light, hidden = paint_matter(light, depth_mm=view.distance_mm(), events=events)
    light = blur_light(light, events=events)
    rng = np.random.default_rng([plan.seed, 2, number])
    picture = disturb_picture(develop(light, lighting=plan.lighting, rng=rng), events=events)
    picture = picture * view.camera.mask[..., None]
    if plan.screen is not None:
        seconds = planned / plan.config.frame_rate_hz
        picture, covered = paint_screen(picture, plan.screen, frame_number=planned, seconds=seconds)
        hidden = hidden | covered
    least = plan.config.min_visible_pixels
    labels = label_view(view, run_id=plan.run_id, min_visible_pixels=least, hidden=hidden)
    return Frame(picture, hidden, labels, seconds=number / plan.config.frame_rate_hz)


def _check_inside(scene: Scene, *, poses: list[Pose], mesh: Path) -> None:
    """Raise an error if the camera would see the outside of the mesh."""
    directions = normalized(np.random.default_rng(0).standard_normal((64, 3)))
    normals = face_normals(scene.vertices_mm, faces=scene.faces)
    for frame, pose in enumerate(poses):
        hits = scene.mesh.first_hits(pose.position_mm, directions=directions)
        against = dots(normals[hits.face], directions) < 0
        if (against & (hits.face != NO_FACE)).mean() < 0.6:
            at = " ".join(f"{value:.0f}" for value in pose.position_mm)
            raise HaustraError(
                f"{option('mesh', mesh)}: the camera leaves the lumen in frame {frame}, at {at} "
                "mm; expected one closed tube, or one open at its ends only"
            )
