import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import noise_image
from haustra.core.letterbox import PAD_VALUE, Letterbox, ResizeMode, plan_letterbox

MODES: tuple[ResizeMode, ...] = ("letterbox", "force")

sides = st.integers(1, 4096)
sizes = st.tuples(sides, sides)
shares = st.tuples(*[st.floats(0, 1)] * 4)


@settings(deadline=None)
@given(sizes, sizes, st.sampled_from(MODES), shares)
def test_boxes_are_mapped_back_within_a_millionth_of_a_pixel(
    source_wh: tuple[int, int],
    target_wh: tuple[int, int],
    mode: ResizeMode,
    box_share: tuple[float, ...],
) -> None:
    letterbox = plan_letterbox(source_wh, target_size_wh=target_wh, mode=mode)
    boxes_px = np.array([box_share]) * np.tile(source_wh, 2)
    there = letterbox.boxes_to_target(boxes_px)
    assert ((there > -1e-9) & (there < 1 + 1e-9)).all()
    assert np.abs(letterbox.boxes_to_source(there) - boxes_px).max() < 1e-6


@settings(deadline=None)
@given(sizes, sizes)
def test_the_picture_keeps_its_aspect_fills_one_axis_and_is_centered(
    source_wh: tuple[int, int], target_wh: tuple[int, int]
) -> None:
    letterbox = plan_letterbox(source_wh, target_size_wh=target_wh)
    ratio = min(target_wh[0] / source_wh[0], target_wh[1] / source_wh[1])
    resized = letterbox.resized_size_wh
    assert any(resized[axis] == target_wh[axis] for axis in (0, 1))
    for axis in (0, 1):
        exact = source_wh[axis] * ratio
        assert abs(resized[axis] - exact) <= 0.5 + 1e-9 or (resized[axis] == 1 and exact < 1)
        padding = target_wh[axis] - resized[axis]
        assert letterbox.offset_xy[axis] == padding // 2


@settings(deadline=None)
@given(sizes, sizes)
def test_force_fills_the_target(source_wh: tuple[int, int], target_wh: tuple[int, int]) -> None:
    letterbox = plan_letterbox(source_wh, target_size_wh=target_wh, mode="force")
    assert letterbox.resized_size_wh == target_wh
    assert letterbox.offset_xy == (0, 0)
    whole = letterbox.boxes_to_target(np.array([[0, 0, *source_wh]]))
    assert np.allclose(whole, [[0, 0, 1, 1]], atol=1e-12)


def test_a_wide_image_is_mapped_as_computed_by_hand() -> None:
    letterbox = plan_letterbox((640, 360), target_size_wh=(384, 384))
    assert letterbox == Letterbox(
        source_size_wh=(640, 360),
        target_size_wh=(384, 384),
        resized_size_wh=(384, 216),
        offset_xy=(0, 84),
        crop_px=(0, 0, 640, 360),
    )
    assert letterbox.scale_xy == (0.6, 0.6)
    there = letterbox.boxes_to_target(np.array([[64, 36, 320, 180]]))
    expected = [[38.4 / 384, (21.6 + 84) / 384, 192 / 384, (108 + 84) / 384]]
    assert np.allclose(there, expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("source_wh", "target_wh"),
    [
        ((64, 48), (128, 128)),
        ((640, 360), (384, 384)),
        ((100, 300), (384, 256)),
        ((333, 500), (97, 201)),
        ((200, 100), (100, 200)),
    ],
)
def test_pixels_and_boxes_are_mapped_alike(
    source_wh: tuple[int, int], target_wh: tuple[int, int], mode: ResizeMode
) -> None:
    width, height = source_wh
    x0, y0, x1, y1 = width // 5, height // 3, width // 2, height * 3 // 4
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    letterbox = plan_letterbox(source_wh, target_size_wh=target_wh, mode=mode)
    rows, columns = np.nonzero(letterbox.apply(image)[:, :, 0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    (mapped,) = letterbox.boxes_to_target(np.array([[x0, y0, x1, y1]])) * np.tile(target_wh, 2)
    assert np.abs(seen - mapped).max() <= 0.75


@pytest.mark.parametrize(
    ("source_wh", "target_wh"), [((40, 20), (64, 64)), ((20, 40), (64, 63)), ((21, 5), (10, 9))]
)
def test_everything_beside_the_picture_is_gray(
    source_wh: tuple[int, int], target_wh: tuple[int, int]
) -> None:
    letterbox = plan_letterbox(source_wh, target_size_wh=target_wh)
    white = np.full((source_wh[1], source_wh[0], 3), 255, np.uint8)
    padded = letterbox.apply(white)
    assert padded.shape == (target_wh[1], target_wh[0], 3)
    (x, y), (width, height) = letterbox.offset_xy, letterbox.resized_size_wh
    assert (padded[y : y + height, x : x + width] == 255).all()
    assert (padded == 255).sum() == 3 * width * height
    assert set(np.unique(padded)) == {PAD_VALUE, 255}
    assert PAD_VALUE == 114


def test_a_picture_that_only_needs_padding_keeps_its_pixels() -> None:
    image = noise_image(1, size_wh=(6, 4))
    padded = plan_letterbox((6, 4), target_size_wh=(6, 9)).apply(image)
    assert np.array_equal(padded[2:6], image)


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_the_target_size_is_copied(mode: ResizeMode) -> None:
    image = noise_image(2, size_wh=(6, 4))
    same = plan_letterbox((6, 4), target_size_wh=(6, 4), mode=mode).apply(image)
    assert np.array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_shrinking_averages_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = 200  # one bright pixel of four
    shrunk = plan_letterbox((4, 4), target_size_wh=(2, 2)).apply(image)
    assert shrunk[:, :, 0].tolist() == [[50, 0], [0, 0]]


def test_an_image_of_another_size_is_refused() -> None:
    letterbox = plan_letterbox((6, 4), target_size_wh=(8, 8))
    with pytest.raises(ValueError, match=r"^expected an image of \(6, 4\), got \(4, 6\)$"):
        letterbox.apply(noise_image(0, size_wh=(4, 6)))


@pytest.mark.parametrize(
    ("source_wh", "target_wh"),
    [((0, 4), (8, 8)), ((4, 0), (8, 8)), ((4, 4), (-8, 8)), ((4, 4), (8, 0))],
)
def test_a_size_that_is_not_positive_is_refused(
    source_wh: tuple[int, int], target_wh: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="expected positive sizes") as caught:
        plan_letterbox(source_wh, target_size_wh=target_wh)
    assert str(caught.value) == f"expected positive sizes, got {source_wh} and {target_wh}"


def test_an_empty_list_of_boxes_stays_empty() -> None:
    letterbox = plan_letterbox((6, 4), target_size_wh=(8, 8))
    assert letterbox.boxes_to_target(np.zeros((0, 4))).shape == (0, 4)
    assert letterbox.boxes_to_source(np.zeros((0, 4))).shape == (0, 4)
