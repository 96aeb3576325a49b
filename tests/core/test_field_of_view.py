"""The endoscope's picture is found on screens of many kinds, and never cut into."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.core.field_of_view import BoxPx, FieldOfView, find_field_of_view

PICTURE: BoxPx = (300, 60, 1140, 960)
SIZE_WH = (1280, 1024)


def screen(
    shape: str = "rectangle", *, place: BoxPx = PICTURE, noise: int = 0
) -> NDArray[np.uint8]:
    """Return a picture of this shape on black, with a dark lumen in its middle."""
    rng = np.random.default_rng(0)
    x0, y0, x1, y1 = place
    mask = np.zeros((SIZE_WH[1], SIZE_WH[0]), dtype=np.uint8)
    cut, (cx, cy) = (x1 - x0) // 4, ((x0 + x1) // 2, (y0 + y1) // 2)
    if shape == "rectangle":
        mask[y0:y1, x0:x1] = 1
    elif shape == "octagon":
        xs, ys = [x0, x0 + cut, x1 - cut, x1 - 1], [y0, y0 + cut, y1 - cut, y1 - 1]
        corners = [
            (xs[1], ys[0]), (xs[2], ys[0]), (xs[3], ys[1]), (xs[3], ys[2]),
            (xs[2], ys[3]), (xs[1], ys[3]), (xs[0], ys[2]), (xs[0], ys[1]),
        ]  # fmt: skip
        cv2.fillPoly(mask, [np.array(corners)], 1)
    else:
        axes = ((x1 - x0) // 2, (y1 - y0) // 2)
        cv2.ellipse(mask, ((cx, cy)), axes, 0, 0, 360, 1, -1)
    tissue = np.array([190, 100, 80]) + rng.integers(-20, 20, (*mask.shape, 1))
    image = np.where(mask[..., None], tissue, rng.integers(0, noise + 1, (*mask.shape, 1)))
    image = np.clip(image, 0, 255).astype(np.uint8)
    cv2.circle(image, (cx, cy), (x1 - x0) // 6, (3, 2, 2), -1)
    return image


def assert_near(found: BoxPx | None, wanted: BoxPx) -> None:
    """Check that nothing of the picture is lost, and that at most 1 % of the side is border."""
    assert found is not None
    assert (np.array(found[:2]) <= wanted[:2]).all()
    assert (np.array(found[2:]) >= wanted[2:]).all()
    assert np.abs(np.subtract(found, wanted)).max() <= 13


@pytest.mark.parametrize("noise", [0, 16])
@pytest.mark.parametrize("shape", ["rectangle", "octagon"])
def test_the_picture_is_found_on_black(shape: str, noise: int) -> None:
    assert_near(find_field_of_view(screen(shape, noise=noise)), PICTURE)


def test_a_round_picture_loses_only_slivers() -> None:
    found = find_field_of_view(screen("circle"))
    assert found is not None
    assert np.abs(np.subtract(found, PICTURE)).max() <= 10


def test_text_and_a_small_insert_beside_the_picture_do_not_count() -> None:
    image = screen("octagon")
    for row in range(8):
        place = (20, 80 + 50 * row)
        cv2.putText(image, "Name 01/02", place, cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 2)
    image[800:950, 20:200] = (60, 160, 70)
    assert_near(find_field_of_view(image), PICTURE)


def test_an_insert_over_a_corner_of_the_picture_does_not_shrink_it() -> None:
    image = screen()
    image[700:960, 300:560] = 0
    assert_near(find_field_of_view(image), PICTURE)


def test_a_film_with_bars_loses_the_bars() -> None:
    bars = (160, 0, 1120, 1024)
    assert_near(find_field_of_view(screen(place=bars)), bars)


def test_a_picture_without_border_stays_whole_and_so_does_a_cropped_one() -> None:
    whole = (0, 0, *SIZE_WH)
    assert find_field_of_view(screen(place=whole)) == whole
    assert find_field_of_view(screen(place=(8, 6, 1272, 1018))) == whole
    for shape in ("rectangle", "octagon", "circle"):
        image = screen(shape)
        found = find_field_of_view(image)
        assert found is not None
        x0, y0, x1, y1 = found
        assert find_field_of_view(image[y0:y1, x0:x1]) == (0, 0, x1 - x0, y1 - y0)


def test_nothing_is_found_in_the_dark_or_on_a_screen_of_text() -> None:
    assert find_field_of_view(np.full((1024, 1280, 3), 9, dtype=np.uint8)) is None
    image = np.zeros((1024, 1280, 3), dtype=np.uint8)
    image[100:160, 100:200] = 200
    assert find_field_of_view(image) is None


def test_a_stream_keeps_its_picture_in_the_dark_and_under_a_menu() -> None:
    stream, image = FieldOfView(), screen()
    assert stream.find(np.zeros_like(image)) is None
    first = stream.find(image)
    assert_near(first, PICTURE)
    for _ in range(4):
        assert stream.find(image) == first
    assert stream.find(np.zeros_like(image)) == first
    assert stream.find(screen(place=(0, 0, *SIZE_WH))) == first
    small = cv2.resize(image, (640, 512)).astype(np.uint8)
    assert_near(stream.find(small), (150, 30, 570, 480))
