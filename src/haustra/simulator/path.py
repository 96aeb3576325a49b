"""Paths of the camera: a fly-through of the whole colon, or single views of its wall."""

import numpy as np

from haustra.simulator.camera import Camera, Pose
from haustra.simulator.noise import FloatArray, smooth_wave
from haustra.simulator.rays import NO_FACE, normalized, rotated
from haustra.simulator.scene import Scene
from haustra.simulator.tube import STEP_MM

CLEARANCE_MM = 5.0
"""Smallest distance between the camera and any tissue on the path, except in contacts."""
CONTACT_MM = 1.8
"""Distance at which the camera touches the wall; also the smallest distance of a still."""
MAX_SWERVE_MM = 6.0  # largest distance of the camera from the centerline where the lumen allows it
MAX_TURN_DEG = 40.0  # largest angle between the view and the direction of the path, to each side
PATH_SHARE = (0.06, 0.9)  # part of the tube that the camera travels; it stays away from the ends
INSERTION_SHARE = 0.3
"""Share of a procedure's frames on the way in; on the way out the camera looks around."""
MAX_DWELL = 1.5  # the camera is slower by this plus 1 just before a polyp on the way out
MAX_INTEREST = 2.5  # largest weight of a polyp in the view direction, against 1 for the path
INTEREST_RANGE_MM = 28.0  # distance at which that weight has fallen to a third
CONTACTS_PER_M = 2.0  # contacts with the wall per meter of the way out
CONTACT_LENGTH_MM = 8.0

EMPTY_STILLS = 0.12  # share of stills that aim at bare wall (a polyp may still come into view)
APPARENT_SHARE = (0.2, 1.1)  # width of a still's polyp as a share of the picture's, drawn uniformly
MAX_TILT_DEG = 80.0  # largest angle between a still's view and the axis of its polyp
TRIES_PER_STILL = 40


def plan_procedure(scene: Scene, *, num_frames: int, rng: np.random.Generator) -> list[Pose]:
    """Return poses through the whole colon and out again, spread evenly over the frames.

    The camera looks toward the far end both ways, as a colonoscopist does, and turns toward most
    nearby polyps. On the way out it slows down before polyps and sometimes touches the wall. Its
    distance from the centerline leaves `CLEARANCE_MM` to the wall.
    """
    tube = scene.tube
    num_in = round(INSERTION_SHARE * num_frames)
    stops_in = _stops_mm(scene, num_frames=num_in, dwells=False)
    stops_out = _stops_mm(scene, num_frames=num_frames - num_in, dwells=True)[::-1]
    along_mm = np.concatenate([stops_in, stops_out])
    traveled_mm = np.concatenate([stops_in, 2 * tube.length_mm - stops_out])
    waves = [smooth_wave(traveled_mm, wavelengths=(22, 110), rng=rng) for _ in range(5)]
    swerve_right, swerve_down, turn_right, turn_down, roll = waves
    roll = roll + smooth_wave(traveled_mm, wavelengths=(200, 600), rng=rng) * 1.5
    look_ahead_mm = rng.uniform(12, 25)
    start_roll = rng.uniform(0, 2 * np.pi)
    interests = rng.uniform(0, MAX_INTEREST, size=len(scene.polyps))
    contact = _contacts(traveled_mm, first_mm=tube.length_mm, rng=rng)
    contact_turn = rng.uniform(0, 2 * np.pi)
    poses = []
    for frame, at_mm in enumerate(along_mm):
        center = _at(tube.centers_mm, at_mm)
        free_mm = scene.free_distance_mm(center) - CLEARANCE_MM
        ahead = normalized(_at(tube.centers_mm, at_mm + look_ahead_mm) - center)
        axes = _axes_along(ahead, near=_at(tube.sides, at_mm), roll=start_roll + roll[frame])
        offset = np.array([swerve_right[frame], swerve_down[frame]]) / np.sqrt(2)
        position = center + min(max(free_mm, 0.0), MAX_SWERVE_MM) * (offset @ axes[:2])
        if contact[frame] > 0:
            turn = contact_turn + traveled_mm[frame] / 60
            toward = np.cos(turn) * axes[0] + np.sin(turn) * axes[1]
            position = _pushed(scene, position, toward=toward, share=contact[frame])
        looks = 0.4 if frame < num_in else 1.0
        turns = looks * np.radians(MAX_TURN_DEG) * np.array([turn_right[frame], turn_down[frame]])
        gaze = turned(axes, turns)
        for polyp, interest in zip(scene.polyps, interests, strict=True):
            gaze = _drawn_toward(polyp.center_mm - position, gaze=gaze, interest=looks * interest)
        poses.append(Pose(position_mm=position, axes=gaze))
    return poses


def plan_stills(
    scene: Scene, *, camera: Camera, num_frames: int, rng: np.random.Generator
) -> list[Pose]:
    """Return single views, most of one polyp each, from many distances and angles.

    A view that is blocked or too close to tissue is drawn again.
    """
    poses = []
    for _ in range(num_frames):
        num_tries = TRIES_PER_STILL if scene.polyps and rng.random() >= EMPTY_STILLS else 0
        tries = (_look_at_polyp(scene, camera=camera, rng=rng) for _ in range(num_tries))
        poses.append(next(filter(None, tries), None) or _look_around(scene, rng=rng))
    return poses


def _look_at_polyp(scene: Scene, *, camera: Camera, rng: np.random.Generator) -> Pose | None:
    number = int(rng.integers(len(scene.polyps)))
    polyp = scene.polyps[number]
    tilt = np.radians(MAX_TILT_DEG) * np.sqrt(rng.random())
    across = normalized(np.cross(polyp.axis, rng.standard_normal(3)))
    away = np.cos(tilt) * polyp.axis + np.sin(tilt) * across
    angle = rng.uniform(*APPARENT_SHARE) * np.radians(camera.fov_deg)
    distance_mm = polyp.size_mm / 2 / np.tan(min(angle, 2.6) / 2) + 0.25 * polyp.size_mm
    position = polyp.center_mm + max(distance_mm, polyp.size_mm / 2 + CONTACT_MM) * away
    face = scene.mesh.first_hits(position, directions=-away[None]).face[0]
    is_seen = face != NO_FACE and scene.face_instance[face] == number + 1
    if not is_seen or scene.free_distance_mm(position) < CONTACT_MM:
        return None
    axes = _axes_along(-away, near=rng.standard_normal(3), roll=0.0)
    off = np.radians(camera.fov_deg) / 2 * 0.45 * rng.uniform(-1, 1, size=2)
    return Pose(position_mm=position, axes=turned(axes, off))


def _look_around(scene: Scene, *, rng: np.random.Generator) -> Pose:
    tube = scene.tube
    at_mm = rng.uniform(*PATH_SHARE) * tube.length_mm
    center, ahead = _at(tube.centers_mm, at_mm), normalized(_at(tube.tangents, at_mm))
    toward = normalized(np.cross(ahead, rng.standard_normal(3)))
    position = _pushed(scene, center, toward=toward, share=0.9 * rng.random())
    axes = _axes_along(ahead, near=rng.standard_normal(3), roll=0.0)
    return Pose(position_mm=position, axes=turned(axes, np.radians(70) * rng.uniform(-1, 1, 2)))


def _pushed(
    scene: Scene, position_mm: FloatArray, *, toward: FloatArray, share: float
) -> FloatArray:
    """Return the position moved toward the wall, all the way for a share of 1."""
    hits = scene.mesh.first_hits(position_mm, directions=toward[None])
    reach_mm = float(hits.distance[0]) if hits.face[0] != NO_FACE else CLEARANCE_MM
    step_mm = max(reach_mm - CONTACT_MM, 0.0) * share
    for _ in range(12):
        moved = position_mm + step_mm * toward
        if scene.free_distance_mm(moved) >= CONTACT_MM:
            return np.asarray(moved)
        step_mm *= 0.8
    return position_mm


def _contacts(traveled_mm: FloatArray, *, first_mm: float, rng: np.random.Generator) -> FloatArray:
    """Return the closeness of each frame to a contact, 0..1."""
    last_mm = float(traveled_mm[-1])
    near = np.zeros(len(traveled_mm))
    number = rng.poisson(CONTACTS_PER_M * max(last_mm - first_mm, 0.0) / 1000)
    for middle_mm in rng.uniform(min(first_mm, last_mm), last_mm, size=number):
        bump = np.exp(-(((traveled_mm - middle_mm) / CONTACT_LENGTH_MM) ** 2))
        near = np.maximum(near, np.where(bump > 0.02, bump, 0.0))
    return near


def _stops_mm(scene: Scene, *, num_frames: int, dwells: bool) -> FloatArray:
    """Return rising positions along the centerline, [num_frames], denser before polyps."""
    tube = scene.tube
    first, last = (round(share * len(tube.centers_mm)) for share in PATH_SHARE)
    along_mm = tube.along_mm[first:last]
    dwell = np.ones(len(along_mm))
    for polyp in scene.polyps if dwells else []:
        before_mm = tube.nearest_station(polyp.center_mm) * STEP_MM - along_mm
        dwell += MAX_DWELL * np.exp(-(((before_mm - 15) / 10) ** 2))
    passed = np.cumsum(dwell) / dwell.sum()
    asked = (np.arange(num_frames) + 0.5) / max(num_frames, 1)
    return np.asarray(np.interp(asked, passed, along_mm), dtype=np.float64)


def _at(values: FloatArray, position_mm: float) -> FloatArray:
    index = position_mm / STEP_MM
    return np.array([np.interp(index, np.arange(len(values)), column) for column in values.T])


def _axes_along(ahead: FloatArray, *, near: FloatArray, roll: float) -> FloatArray:
    """Return right, down and ahead; before the roll, right is close to a given direction."""
    right = normalized(near - (near @ ahead) * ahead)
    return np.stack([*rotated(right, np.cross(ahead, right), angle=roll), ahead])


def turned(axes: FloatArray, turns: FloatArray) -> FloatArray:
    """Turn the view by two angles in radians, to the right and down."""
    right, down, ahead = axes
    ahead, right = rotated(ahead, right, angle=turns[0])
    ahead, down = rotated(ahead, down, angle=turns[1])
    return np.stack([right, down, ahead])


def _drawn_toward(to_polyp: FloatArray, *, gaze: FloatArray, interest: float) -> FloatArray:
    """Turn the view toward a polyp that is near and in front of the camera."""
    distance_mm = float(np.linalg.norm(to_polyp))
    cosine = float(to_polyp @ gaze[2]) / distance_mm
    pull = interest * np.exp(-((distance_mm / INTEREST_RANGE_MM) ** 2)) * max(cosine, 0.0)
    ahead = normalized(gaze[2] + pull * to_polyp / distance_mm)
    return _axes_along(ahead, near=gaze[0], roll=0.0)
