import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.core.detections import Detections, detections_from_labels
from haustra.core.drawing import (
    PREDICTION_RGB,
    TRUTH_RGB,
    draw_boxes,
    draw_text,
    enlarge_for_viewing,
)


def black(size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    return np.zeros((size_wh[1], size_wh[0], 3), np.uint8)


def truth(*boxes: list[float], size_wh: tuple[int, int]) -> Detections:
    return detections_from_labels(np.array(boxes), image_size_wh=size_wh)


def test_drawing_leaves_the_picture_itself_alone() -> None:
    image = black((100, 80))
    drawn = draw_boxes(image, truth([10, 30, 50, 60], size_wh=(100, 80)))
    assert not image.any()
    assert drawn.any()
    assert drawn.shape == image.shape


def test_the_line_runs_along_the_first_and_the_last_pixel_of_the_box() -> None:
    box = truth([10, 30, 50, 60], size_wh=(100, 80))
    drawn = draw_boxes(black((100, 80)), box, labels=[""])
    rows, columns = np.nonzero((drawn == PREDICTION_RGB).all(axis=2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 30, 49, 59)
    assert not drawn[31:59, 11:49].any()
    assert len(rows) == 2 * 40 + 2 * 30 - 4


def test_boxes_at_and_over_the_edge_are_drawn_without_an_error() -> None:
    size_wh = (60, 40)
    boxes = truth([0, 0, 60, 40], [-20, -20, 5, 5], [55, 35, 90, 90], size_wh=size_wh)
    drawn = draw_boxes(black(size_wh), boxes, rgb=TRUTH_RGB)
    assert drawn.shape == (40, 60, 3)
    assert (drawn[-1, 20] == TRUTH_RGB).all()


def test_scores_are_written_unless_other_texts_are_given() -> None:
    size_wh = (200, 100)
    boxes = truth([50, 50, 90, 90], size_wh=size_wh)
    scored = draw_boxes(black(size_wh), boxes)
    named = draw_boxes(black(size_wh), boxes, labels=["polyp_1"])
    bare = draw_boxes(black(size_wh), boxes, labels=[""])
    assert not bare[:50].any()
    assert scored[:50].any()
    assert not np.array_equal(scored, named)
    assert np.array_equal(scored, draw_boxes(black(size_wh), boxes, labels=["1.00"]))


def test_a_text_per_box_is_expected() -> None:
    boxes = truth([0, 0, 9, 9], [0, 0, 5, 5], size_wh=(20, 20))
    with pytest.raises(ValueError, match="shorter"):
        draw_boxes(black((20, 20)), boxes, labels=["one"])


@pytest.mark.parametrize("top_left_xy", [(-50, -50), (500, 500), (150, 20)])
def test_text_is_moved_into_the_picture(top_left_xy: tuple[int, int]) -> None:
    inside = black((200, 100))
    draw_text(inside, "0.87", top_left_xy=(90, 40), rgb=(255, 0, 0))
    moved = black((200, 100))
    draw_text(moved, "0.87", top_left_xy=top_left_xy, rgb=(255, 0, 0))
    assert (moved[:, :, 0] > 16).sum() == (inside[:, :, 0] > 16).sum()


def test_text_that_is_wider_than_the_picture_is_no_error() -> None:
    image = black((8, 8))
    draw_text(image, "a long caption", top_left_xy=(3, 3), rgb=(255, 0, 0))
    assert image.any()


def test_a_small_picture_and_its_boxes_grow_by_the_same_whole_factor() -> None:
    image, boxes = enlarge_for_viewing(
        black((200, 150)), truth([10, 20, 30, 40], size_wh=(200, 150))
    )
    assert image.shape == (600, 800, 3)
    assert boxes.boxes_px.tolist() == [[40, 80, 120, 160]]
    assert boxes.image_size_wh == (800, 600)


def test_a_large_picture_keeps_its_size() -> None:
    image, boxes = black((800, 512)), truth([1, 2, 3, 4], size_wh=(800, 512))
    assert enlarge_for_viewing(image, boxes) == (image, boxes)


@pytest.mark.parametrize("shape", [(4, 20_000), (20_000, 4), (1, 60_000), (100, 4000)])
def test_a_long_strip_stays_a_small_picture(shape: tuple[int, int]) -> None:
    boxes = Detections(
        boxes_px=np.zeros((0, 4)), scores=np.zeros(0), image_size_wh=(shape[1], shape[0])
    )
    image, scaled = enlarge_for_viewing(np.zeros((*shape, 3), np.uint8), boxes)
    assert image.size <= max(4096 * 512 * 3, 3 * shape[0] * shape[1])
    assert scaled.image_size_wh == (image.shape[1], image.shape[0])
