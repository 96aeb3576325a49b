from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from colons import make_scene
from haustra.captures.writer import PolypTruth
from haustra.simulator.camera import Camera, Pose
from haustra.simulator.labels import label_view, pixels_alone
from haustra.simulator.path import plan_procedure
from haustra.simulator.polyps import Polyp
from haustra.simulator.rays import normalized
from haustra.simulator.render import cast_view, develop, draw_lighting, shade_view
from haustra.simulator.scene import Scene, assemble_scene

Vector = NDArray[np.float64]
WithScreen = Callable[[tuple[float, float]], Scene]

CAMERA = Camera(size_px=96, fov_deg=90.0)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(11, num_polyps=4)


@pytest.fixture(scope="module")
def clear_pose(scene: Scene) -> Pose:
    """A pose that shows polyp 1 whole, well inside the picture."""
    target = scene.polyps[0].center_mm
    nearest = int(np.linalg.norm(scene.tube.centers_mm - target, axis=1).argmin())
    for station in range(nearest - 10, nearest - 70, -5):
        pose = look_at(scene.tube.centers_mm[station], target=target)
        mask = cast_view(scene, camera=CAMERA, pose=pose).instance == 1
        on_edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
        alone = assemble_scene(scene.tube, polyps=scene.polyps[:1], surface=scene.surface)
        same = (cast_view(alone, camera=CAMERA, pose=pose).instance == 1) == mask
        if mask.sum() > 150 and not on_edge and same.all():
            return pose
    raise AssertionError("no clear view of the polyp")


def look_at(position_mm: Vector, *, target: Vector) -> Pose:
    ahead = normalized(target - position_mm)
    right = normalized(np.cross(ahead, [0.3, -0.8, 0.52]))
    return Pose(position_mm=position_mm, axes=np.stack([right, np.cross(ahead, right), ahead]))


def screen(
    pose: Pose, *, columns: tuple[float, float], depth_mm: float, camera: Camera = CAMERA
) -> Polyp:
    """A flat plate in front of the camera that hides exactly these pixel columns."""
    left, right = ((c - camera.size_px / 2) / camera.focal_px * depth_mm for c in columns)
    tall = 2 * depth_mm
    corners = np.array([[left, -tall], [right, -tall], [right, tall], [left, tall]])
    in_camera = np.column_stack([corners, np.full(4, depth_mm)])
    faces = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    return Polyp(
        size_mm=1.0,
        paris_class="0-Is",
        axis=-pose.axes[2],
        station=0,
        center_mm=in_camera.mean(axis=0),
        vertices_mm=in_camera @ pose.axes + pose.position_mm,
        surface_mm=np.zeros((4, 2)),
        faces=faces,
        exposed_faces=faces,
        rise=np.ones(4),
        own_look=1.0,
        wall_normals=np.tile(-pose.axes[2], (4, 1)),
    )


@pytest.fixture(scope="module")
def with_screen(scene: Scene, clear_pose: Pose) -> WithScreen:
    """Return a maker of scenes where a plate hides pixel columns of the clear view of polyp 1."""

    def make(columns: tuple[float, float]) -> Scene:
        plate = screen(clear_pose, columns=columns, depth_mm=2.0)
        polyps = [scene.polyps[0], plate]
        return assemble_scene(scene.tube, polyps=polyps, surface=scene.surface)

    return make


def labels_of(
    scene: Scene, *, pose: Pose, camera: Camera = CAMERA, min_visible_pixels: int = 1
) -> dict[str, PolypTruth]:
    view = cast_view(scene, camera=camera, pose=pose)
    labels = label_view(view, run_id="run", min_visible_pixels=min_visible_pixels)
    return {str(label.lesion_id): label for label in labels}


def polyp_mask(scene: Scene, *, pose: Pose) -> NDArray[np.bool_]:
    return np.asarray(cast_view(scene, camera=CAMERA, pose=pose).instance == 1)


def test_a_box_bounds_the_visible_pixels_of_its_polyp(scene: Scene) -> None:
    boxes = 0
    for pose in plan_procedure(scene, num_frames=15, rng=np.random.default_rng(0)):
        instance = cast_view(scene, camera=CAMERA, pose=pose).instance
        labels = labels_of(scene, pose=pose)
        for number in range(1, len(scene.polyps) + 1):
            rows, columns = np.nonzero(instance == number)
            label = labels.get(f"run/polyp_{number}")
            assert (label is None) == (len(rows) == 0)
            if label is not None:
                boxes += 1
                bounds = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert label.bbox_px == bounds
    assert boxes > 5


def test_removing_the_polyp_changes_the_depth_inside_its_box_only(
    scene: Scene, clear_pose: Pose
) -> None:
    bare = assemble_scene(scene.tube, polyps=scene.polyps[1:], surface=scene.surface)
    depths = [
        cast_view(each, camera=CAMERA, pose=clear_pose).hits.distance.reshape(96, 96)
        for each in (scene, bare)
    ]
    rows, columns = np.nonzero(depths[1] - depths[0] > 1e-3)
    changed = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    box = labels_of(scene, pose=clear_pose)["run/polyp_1"].bbox_px
    assert np.abs(np.subtract(box, changed)).max() <= 1
    assert not (depths[0] - depths[1] > 1e-3).any()


def test_a_polyp_in_full_view_is_fully_visible(scene: Scene, clear_pose: Pose) -> None:
    label = labels_of(scene, pose=clear_pose)["run/polyp_1"]
    assert label.visible_fraction is not None
    assert 0.97 <= label.visible_fraction <= 1
    assert label.size_mm == round(scene.polyps[0].size_mm, 2)
    assert label.paris_class == scene.polyps[0].paris_class
    assert label.center_world == pytest.approx(scene.polyps[0].center_mm, abs=1e-3)


def test_a_polyp_behind_the_wall_gets_no_box(scene: Scene) -> None:
    target = scene.polyps[0].center_mm
    bare = assemble_scene(scene.tube, polyps=[], surface=scene.surface)
    to_polyp = target - scene.tube.centers_mm
    seen_mm = bare.mesh.first_hits(scene.tube.centers_mm, directions=normalized(to_polyp)).distance
    blocked = seen_mm < 0.7 * np.linalg.norm(to_polyp, axis=1)
    assert blocked.any()
    pose = look_at(scene.tube.centers_mm[blocked][-1], target=target)
    camera = Camera(size_px=96, fov_deg=40)
    assert pixels_alone(cast_view(scene, camera=camera, pose=pose), number=1) > 10
    assert "run/polyp_1" not in labels_of(scene, pose=pose, camera=camera)


def test_the_box_of_a_half_hidden_polyp_bounds_its_visible_part(
    scene: Scene, clear_pose: Pose, with_screen: WithScreen
) -> None:
    whole = polyp_mask(scene, pose=clear_pose)
    columns = np.flatnonzero(whole.any(axis=0))
    middle = int(columns.mean())
    label = labels_of(with_screen((middle, 200)), pose=clear_pose)["run/polyp_1"]
    shown = whole.copy()
    shown[:, middle:] = False
    rows = np.flatnonzero(shown.any(axis=1))
    assert list(label.bbox_px) == [columns[0], rows[0], middle, rows[-1] + 1]
    assert label.visible_fraction == pytest.approx(shown.sum() / whole.sum(), abs=0.03)


def test_a_nearly_hidden_polyp_has_a_small_fraction(
    scene: Scene, clear_pose: Pose, with_screen: WithScreen
) -> None:
    first = int(np.flatnonzero(polyp_mask(scene, pose=clear_pose).any(axis=0))[0])
    label = labels_of(with_screen((first + 1, 200)), pose=clear_pose)["run/polyp_1"]
    assert label.visible_fraction is not None
    assert 0 < label.visible_fraction < 0.15
    assert label.bbox_px[2] - label.bbox_px[0] == 1


def test_a_polyp_split_by_an_obstacle_has_one_box_around_both_parts(
    scene: Scene, clear_pose: Pose, with_screen: WithScreen
) -> None:
    whole = labels_of(scene, pose=clear_pose)["run/polyp_1"]
    x0, _, x1, _ = whole.bbox_px
    middle = round((x0 + x1) / 2)
    split = labels_of(with_screen((middle - 1, middle + 1)), pose=clear_pose)["run/polyp_1"]
    assert (split.bbox_px[0], split.bbox_px[2]) == (x0, x1)
    assert split.visible_fraction is not None
    assert whole.visible_fraction is not None
    assert split.visible_fraction < whole.visible_fraction


def test_a_polyp_at_the_edge_is_clipped_and_does_not_count_as_hidden(
    scene: Scene, clear_pose: Pose
) -> None:
    right, down, ahead = clear_pose.axes
    turn = np.radians(CAMERA.fov_deg / 2)
    turned = Pose(
        position_mm=clear_pose.position_mm,
        axes=np.stack(
            [
                np.cos(turn) * right - np.sin(turn) * ahead,
                down,
                np.cos(turn) * ahead + np.sin(turn) * right,
            ]
        ),
    )
    label = labels_of(scene, pose=turned)["run/polyp_1"]
    assert label.bbox_px[0] == 0
    assert 0 < label.bbox_px[2] < 96 / 2
    assert label.visible_fraction is not None
    assert label.visible_fraction > 0.95


def test_boxes_and_fractions_stay_in_range(scene: Scene) -> None:
    for pose in plan_procedure(scene, num_frames=20, rng=np.random.default_rng(5)):
        for label in labels_of(scene, pose=pose).values():
            x0, y0, x1, y1 = label.bbox_px
            assert 0 <= x0 < x1 <= 96
            assert 0 <= y0 < y1 <= 96
            assert label.visible_fraction is not None
            assert 0 <= label.visible_fraction <= 1


def test_too_few_visible_pixels_give_no_box(scene: Scene, clear_pose: Pose) -> None:
    num_visible = int(polyp_mask(scene, pose=clear_pose).sum())
    at_limit = labels_of(scene, pose=clear_pose, min_visible_pixels=num_visible)
    above = labels_of(scene, pose=clear_pose, min_visible_pixels=num_visible + 1)
    assert "run/polyp_1" in at_limit
    assert "run/polyp_1" not in above


def test_the_picture_shows_the_polyp_where_the_box_is(scene: Scene, clear_pose: Pose) -> None:
    lighting = draw_lighting(np.random.default_rng(6))
    bare = assemble_scene(scene.tube, polyps=scene.polyps[1:], surface=scene.surface)
    pictures = [
        develop(
            shade_view(cast_view(each, camera=CAMERA, pose=clear_pose), lighting=lighting),
            lighting=lighting,
            rng=np.random.default_rng(7),
        ).astype(int)
        for each in (scene, bare)
    ]
    difference = np.abs(pictures[0] - pictures[1]).mean(axis=2)
    mask = polyp_mask(scene, pose=clear_pose)
    assert difference[mask].mean() > 2.5 * difference[~mask].mean()
