import sys
from itertools import pairwise

import numpy as np
import pytest

from colons import make_scene
from haustra.core.errors import MissingExtraError
from haustra.simulator.camera import Camera
from haustra.simulator.path import CONTACT_MM, plan_procedure, plan_stills
from haustra.simulator.polyps import NUM_SEGMENTS
from haustra.simulator.rays import NO_FACE, RayMesh, face_normals, normalized
from haustra.simulator.render import NOTHING, cast_view
from haustra.simulator.scene import WALL, Scene, build_scene
from haustra.simulator.tube import SECTIONS, build_tube

WIDE = Camera(size_px=96, fov_deg=150, lens="fisheye")


@pytest.fixture(scope="module", params=[0, 3, 8])
def crowded_scene(request: pytest.FixtureRequest) -> Scene:
    return make_scene(request.param, num_polyps=8)


def test_a_scene_depends_only_on_its_seed() -> None:
    first, again, other = (make_scene(seed, num_polyps=2) for seed in (4, 4, 5))
    assert np.array_equal(first.vertices_mm, again.vertices_mm)
    assert np.array_equal(first.surface.wall.color, again.surface.wall.color)
    assert first.vertices_mm.shape != other.vertices_mm.shape or not np.array_equal(
        first.vertices_mm, other.vertices_mm
    )


def test_rays_from_the_lumen_never_leave_and_meet_the_inner_side(crowded_scene: Scene) -> None:
    directions = normalized(np.random.default_rng(0).standard_normal((4000, 3)))
    normals = face_normals(crowded_scene.vertices_mm, faces=crowded_scene.faces)
    for center in crowded_scene.tube.centers_mm[60:-60:60]:
        hits = crowded_scene.mesh.first_hits(center, directions=directions)
        assert (hits.face != NO_FACE).all()
        against = np.einsum("ij,ij->i", normals[hits.face], directions)
        assert (against < 1e-3).mean() > 0.999


def test_the_camera_stays_in_the_lumen_clear_of_wall_and_polyps(crowded_scene: Scene) -> None:
    # Vertices are at most a millimeter apart; rays look at what lies between them.
    directions = normalized(np.random.default_rng(1).standard_normal((2000, 3)))
    normals = face_normals(crowded_scene.vertices_mm, faces=crowded_scene.faces)
    poses = [
        *plan_procedure(crowded_scene, num_frames=40, rng=np.random.default_rng(2)),
        *plan_stills(crowded_scene, camera=WIDE, num_frames=40, rng=np.random.default_rng(2)),
    ]
    for pose in poses:
        assert crowded_scene.free_distance_mm(pose.position_mm) >= CONTACT_MM - 1e-3
        hits = crowded_scene.mesh.first_hits(pose.position_mm, directions=directions)
        assert hits.distance.min() >= CONTACT_MM - 0.2
        against = np.einsum("ij,ij->i", normals[hits.face], directions)
        assert (against < 1e-3).mean() > 0.999


def test_poses_are_rotations_that_differ_from_frame_to_frame(crowded_scene: Scene) -> None:
    poses = plan_procedure(crowded_scene, num_frames=12, rng=np.random.default_rng(3))
    for pose, following in pairwise(poses):
        assert np.allclose(pose.axes @ pose.axes.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(pose.axes) == pytest.approx(1)
        assert np.linalg.norm(pose.position_mm - following.position_mm) > 1


def test_every_pixel_sees_tissue(crowded_scene: Scene) -> None:
    camera = WIDE
    for pose in plan_procedure(crowded_scene, num_frames=10, rng=np.random.default_rng(4)):
        instance = cast_view(crowded_scene, camera=camera, pose=pose).instance
        assert (instance != NOTHING).all()
        assert (instance == WALL).any()


def test_polyps_have_their_stated_width(crowded_scene: Scene) -> None:
    for polyp in crowded_scene.polyps:
        exposed = polyp.vertices_mm[np.unique(polyp.exposed_faces)]
        apart = np.linalg.norm(exposed[:, None] - exposed[None], axis=-1).max()
        assert polyp.size_mm <= apart + 0.01
        assert 2 <= polyp.size_mm <= 30
        assert polyp.paris_class in ("0-Is", "0-Ip", "0-IIa", "LST")


def test_polyps_are_closed_and_face_outward(crowded_scene: Scene) -> None:
    for polyp in crowded_scene.polyps:
        corners = polyp.vertices_mm[polyp.faces]
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
        assert volume.sum() / 6 > 0
        assert np.abs(face_normals(polyp.vertices_mm, faces=polyp.faces).sum(axis=0)).max() < 1e-6


def test_the_exposed_part_lies_in_the_lumen_and_the_rest_below_the_wall(
    crowded_scene: Scene,
) -> None:
    wall = RayMesh(crowded_scene.tube.vertices_mm, faces=crowded_scene.tube.faces)
    normals = face_normals(crowded_scene.tube.vertices_mm, faces=crowded_scene.tube.faces)
    for polyp in crowded_scene.polyps:
        exposed = np.unique(polyp.exposed_faces)
        rim = exposed[-NUM_SEGMENTS:]
        for vertices, inside in (
            (np.setdiff1d(exposed, rim), True),
            (np.setdiff1d(np.unique(polyp.faces), exposed), False),
        ):
            # From inside the lumen a ray meets the wall's front, from below it the back or nothing.
            direction = np.array([0.36, 0.48, 0.8])
            points = polyp.vertices_mm[vertices]
            hits = wall.first_hits(
                points, directions=np.broadcast_to(direction, points.shape).copy()
            )
            front = (hits.face != NO_FACE) & (normals[hits.face] @ direction < 0)
            assert (front == inside).mean() > 0.97


def test_as_many_polyps_as_the_config_allows_find_room() -> None:
    assert len(make_scene(2, num_polyps=24).polyps) == 24


def test_without_embreex_the_extra_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    tube = build_tube(np.random.default_rng(0), sections=SECTIONS[:1])
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(MissingExtraError) as caught:
        build_scene(tube, num_polyps=0, sizes="even", rng=np.random.default_rng(0))
    assert str(caught.value) == (
        "the simulator needs the package 'embreex', which is not installed; "
        "run: pip install 'haustra[simulate]'"
    )
