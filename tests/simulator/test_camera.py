import numpy as np
import pytest

from haustra.simulator.camera import Aperture, Camera, Lens, draw_camera

SIZE = 64


@pytest.mark.parametrize("lens", ["fisheye", "pinhole"])
def test_projecting_the_ray_of_a_pixel_gives_its_center(lens: Lens) -> None:
    camera = Camera(size_px=SIZE, fov_deg=110, lens=lens)
    rows, columns = np.divmod(np.arange(SIZE**2), SIZE)
    pixels = camera.project(camera.directions.astype(np.float64) * 37)
    assert np.allclose(pixels, np.stack([columns + 0.5, rows + 0.5], axis=1), atol=1e-3)


@pytest.mark.parametrize("lens", ["fisheye", "pinhole"])
def test_the_field_of_view_spans_the_image_from_edge_to_edge(lens: Lens) -> None:
    camera = Camera(size_px=SIZE, fov_deg=110, lens=lens)
    half = np.radians(55)
    edge = camera.project(np.array([[np.sin(half), 0, np.cos(half)]]))
    assert edge[0] == pytest.approx([SIZE, SIZE / 2])


def test_pixels_of_a_fisheye_are_proportional_to_angles() -> None:
    camera = Camera(size_px=SIZE, fov_deg=160, lens="fisheye")
    angles = np.radians([0, 20, 40, 80])
    points = np.stack([np.sin(angles), np.zeros(4), np.cos(angles)], axis=1)
    assert camera.project(points)[:, 0] - SIZE / 2 == pytest.approx(SIZE / 2 * angles / angles[-1])


def test_a_pinhole_does_not_see_behind_itself() -> None:
    camera = Camera(size_px=SIZE, fov_deg=90)
    assert np.isnan(camera.project(np.array([[0.1, 0.0, -1.0]]))).all()


def test_rays_have_unit_length() -> None:
    camera = Camera(size_px=SIZE, fov_deg=150, lens="fisheye")
    assert np.linalg.norm(camera.directions, axis=1) == pytest.approx(1, abs=1e-6)


def test_an_octagon_cuts_the_corners_and_a_circle_keeps_its_radius() -> None:
    corner, middle, side = [-0.95, -0.95], [0.0, 0.0], [0.99, 0.0]
    points = np.array([corner, middle, side])
    assert Aperture(shape="octagon", reach=1.5).contains(points).tolist() == [False, True, True]
    assert Aperture(shape="circle", reach=0.9).contains(points).tolist() == [False, True, False]
    assert Aperture().contains(points).all()


def test_drawn_cameras_are_wide_angled_and_some_have_a_mask() -> None:
    cameras = [draw_camera(np.random.default_rng(seed), size_px=SIZE) for seed in range(30)]
    assert {camera.aperture.shape for camera in cameras} == {"full", "octagon", "circle"}
    for camera in cameras:
        assert camera.lens == "fisheye"
        assert 120 <= camera.fov_deg <= 170
        assert camera.mask[SIZE // 2, SIZE // 2]
        assert 0.7 < camera.mask.mean() <= 1


def test_without_a_fisheye_the_camera_is_a_pinhole_without_a_mask() -> None:
    camera = draw_camera(np.random.default_rng(0), size_px=SIZE, with_fisheye=False)
    assert camera.lens == "pinhole"
    assert camera.mask.all()
