import cv2
import numpy as np
import pytest

from haustra.core.effects import (
    add_noise,
    apply_curve,
    motion_blur_kernel,
    put_text,
    recode_jpeg,
    recode_jpeg_rgb,
)


@pytest.mark.parametrize("side", [5, 13])
def test_a_motion_blur_kernel_is_a_line_of_sum_1_through_its_middle(side: int) -> None:
    level = motion_blur_kernel(5, angle=0.0, side=side)
    assert level.sum() == pytest.approx(1)
    assert level[side // 2, side // 2 - 2 : side // 2 + 3] == pytest.approx([0.2] * 5)
    assert np.array_equal(motion_blur_kernel(5, angle=np.pi / 2, side=side), level.T)


def test_noise_saturates_and_small_noise_is_enlarged() -> None:
    image = np.array([[[0, 100, 250]] * 4] * 4, dtype=np.uint8)
    assert add_noise(image, np.full((2, 2, 3), 20.4, dtype=np.float32))[3, 3].tolist() == [
        20,
        120,
        255,
    ]
    assert add_noise(image, np.full((4, 4, 3), -20, dtype=np.float32))[0, 0].tolist() == [
        0,
        80,
        230,
    ]


def test_a_curve_maps_each_value_and_rounds() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(apply_curve(image, np.arange(256) / 2), (image / 2).round())


def test_jpeg_keeps_the_order_of_the_channels() -> None:
    red = np.full((32, 32, 3), (200, 40, 20), dtype=np.uint8)
    assert recode_jpeg_rgb(red, quality=50)[0, 0].tolist() == pytest.approx([200, 40, 20], abs=8)
    bgr = np.ascontiguousarray(red[..., ::-1])
    assert np.array_equal(recode_jpeg(bgr, quality=50)[..., ::-1], recode_jpeg_rgb(red, quality=50))


def test_text_has_the_asked_height_and_color() -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    put_text(image, "H", bottom_left_xy=(10, 80), scale=2.0, color=(0, 255, 0))
    _, top, _, height = cv2.boundingRect(image[..., 1])
    assert height == pytest.approx(42, abs=3)
    assert top + height == pytest.approx(81, abs=2)
    assert not image[..., [0, 2]].any()
