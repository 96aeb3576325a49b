import numpy as np
import pytest

from colons import make_scene
from haustra.simulator.camera import Camera, Pose
from haustra.simulator.motion import Peristalsis, draw_peristalsis, moved_pose, moved_scene
from haustra.simulator.render import cast_view
from haustra.simulator.scene import Scene
from haustra.simulator.tube import SECTIONS, STEP_MM


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(5, num_polyps=3)


def one_wave(start_mm: float, *, breath_share: float = 0.0) -> Peristalsis:
    return Peristalsis(
        start_mm=np.array([start_mm]),
        speed_mm_s=np.array([5.0]),
        share=np.array([0.2]),
        width_mm=np.array([15.0]),
        breath_share=breath_share,
    )


def test_a_wave_narrows_the_lumen_where_it_is_and_travels() -> None:
    along_mm = np.arange(200.0)
    wave = one_wave(50.0)
    for seconds, place in ((0.0, 50), (10.0, 100)):
        share = wave.narrowing(along_mm, seconds=seconds)
        assert share.argmax() == place
        assert share.max() == pytest.approx(0.2)
        assert share[place + 60] < 1e-6


def test_breathing_is_periodic() -> None:
    wave = one_wave(-1000.0, breath_share=0.02)
    at_rest, half, whole = (
        wave.narrowing(np.array([0.0]), seconds=seconds)[0] for seconds in (0.0, 2.25, 4.5)
    )
    assert (at_rest, half, whole) == pytest.approx((0.0, 0.02, 0.0))


def test_wall_and_camera_move_toward_the_centerline_by_the_same_share(scene: Scene) -> None:
    tube = scene.tube
    station = len(tube.centers_mm) // 2
    wave = one_wave(station * STEP_MM)
    ring = np.flatnonzero(tube.station == station)
    center = tube.centers_mm[station]
    share = wave.narrowing(tube.along_mm, seconds=0.0)
    moved = moved_scene(scene, share=share, position_mm=center)
    before = np.linalg.norm(scene.vertices_mm[ring] - center, axis=1)
    after = np.linalg.norm(moved.vertices_mm[ring] - center, axis=1)
    assert after == pytest.approx(0.8 * before, rel=1e-4)
    pose = Pose(position_mm=center + 5 * tube.sides[station], axes=np.eye(3))
    shifted = moved_pose(pose, tube=tube, share=share)
    assert np.linalg.norm(shifted.position_mm - center) == pytest.approx(4, rel=1e-2)


def test_polyps_keep_their_shape(scene: Scene) -> None:
    wave = draw_peristalsis(
        np.random.default_rng(1), length_mm=scene.tube.length_mm, duration_s=60.0
    )
    share = wave.narrowing(scene.tube.along_mm, seconds=20.0)
    moved = moved_scene(scene, share=share, position_mm=scene.tube.centers_mm[50])
    for still, rode in zip(scene.polyps, moved.polyps, strict=True):
        shift = rode.vertices_mm - still.vertices_mm
        assert np.ptp(shift, axis=0).max() < 1e-9
        assert rode.center_mm - still.center_mm == pytest.approx(shift[0])
    assert np.isfinite(moved.vertices_mm).all()


def test_a_moved_scene_contains_everything_that_the_camera_sees() -> None:
    colon = make_scene(2, num_polyps=6, sections=SECTIONS)
    station = len(colon.tube.centers_mm) // 3
    moved = moved_scene(
        colon,
        share=one_wave(-1000.0).narrowing(colon.tube.along_mm, seconds=0.0),
        position_mm=colon.tube.centers_mm[station],
    )
    assert len(moved.faces) < 0.75 * len(colon.faces)
    camera = Camera(size_px=64, fov_deg=160, lens="fisheye")
    pose = Pose(
        position_mm=colon.tube.centers_mm[station],
        axes=np.stack(
            [
                colon.tube.sides[station],
                np.cross(colon.tube.tangents[station], colon.tube.sides[station]),
                colon.tube.tangents[station],
            ]
        ),
    )
    whole, part = (cast_view(each, camera=camera, pose=pose) for each in (colon, moved))
    assert np.array_equal(whole.instance, part.instance)
    assert whole.hits.distance == pytest.approx(part.hits.distance, abs=1e-3)
