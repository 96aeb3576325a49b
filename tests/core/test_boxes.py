import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from haustra.core.boxes import CheckedBox, box_areas, check_box_px, iou_matrix

SIZE_WH = (100, 80)
FOUR = "is not four numbers x0,y0,x1,y1"
OUTSIDE = "lies outside the 100x80 image"

positions = st.floats(-200, 200)


@pytest.mark.parametrize(
    ("box_px", "reason"),
    [
        ([math.nan, 0, 1, 1], "box [nan, 0, 1, 1] has a value that is not finite"),
        ([0, 0, 1, math.nan], "box [0, 0, 1, nan] has a value that is not finite"),
        ([0, 0, math.inf, 1], "box [0, 0, inf, 1] has a value that is not finite"),
        ([0, -math.inf, 1, 1], "box [0, -inf, 1, 1] has a value that is not finite"),
        ([5, 0, 4, 1], "box [5, 0, 4, 1] is inverted: x1 < x0 or y1 < y0"),
        ([0, 2.5, 4, 1], "box [0, 2.5, 4, 1] is inverted: x1 < x0 or y1 < y0"),
        ([5, 0, 5, 1], "box [5, 0, 5, 1] is empty"),
        ([0, 1, 5, 1], "box [0, 1, 5, 1] is empty"),
        ([100, 0, 110, 10], f"box [100, 0, 110, 10] {OUTSIDE}"),
        ([0, 80, 10, 90], f"box [0, 80, 10, 90] {OUTSIDE}"),
        ([-10, 0, 0, 10], f"box [-10, 0, 0, 10] {OUTSIDE}"),
        ([0, -10, 10, 0], f"box [0, -10, 10, 0] {OUTSIDE}"),
        (None, f"box None {FOUR}"),
        ([1, 2, 3], f"box [1, 2, 3] {FOUR}"),
        ([1, 2, 3, 4, 5], f"box [1, 2, 3, 4, 5] {FOUR}"),
        ("0011", f"box '0011' {FOUR}"),
        ({"x0": 1}, f"box {{'x0': 1}} {FOUR}"),
        ([0, 0, 1, "1"], f"box [0, 0, 1, '1'] {FOUR}"),
        ([False, 0, 1, 1], f"box [False, 0, 1, 1] {FOUR}"),
        ([None, 0, 1, 1], f"box [None, 0, 1, 1] {FOUR}"),
        ([[0], 0, 1, 1], f"box [[0], 0, 1, 1] {FOUR}"),
        ([0] * 1000, f"box [{'0, ' * 19}0, {FOUR}"),
        ([0, 0, 10**400, 1], "box has a whole number too large for a position"),
    ],
)
def test_a_box_that_cannot_be_used_is_rejected_with_its_reason(box_px: Any, reason: str) -> None:
    assert check_box_px(box_px, size_wh=SIZE_WH) == reason


@pytest.mark.parametrize(
    ("box_px", "inside"),
    [
        ([-5, 10, 20, 30], (0, 10, 20, 30)),
        ([5, -10, 20, 30], (5, 0, 20, 30)),
        ([5, 10, 100.5, 30], (5, 10, 100, 30)),
        ([5, 10, 20, 81], (5, 10, 20, 80)),
        ([-1e9, -1e9, 1e9, 1e9], (0, 0, 100, 80)),
    ],
)
def test_a_box_that_leaves_the_image_is_clipped_and_marked(
    box_px: list[float], inside: tuple[float, float, float, float]
) -> None:
    assert check_box_px(box_px, size_wh=SIZE_WH) == CheckedBox(inside, clipped=True)


@pytest.mark.parametrize("box_px", [(0, 0, 100, 80), (99.5, 79.5, 100, 80), [0.25, 0.5, 0.75, 1.0]])
def test_a_box_inside_the_image_is_not_changed(box_px: Any) -> None:
    assert check_box_px(box_px, size_wh=SIZE_WH) == CheckedBox(tuple(box_px), clipped=False)


@settings(deadline=None)
@given(st.tuples(positions, positions, positions, positions))
def test_an_accepted_box_is_the_part_of_it_inside_the_image(
    box_px: tuple[float, float, float, float],
) -> None:
    checked = check_box_px(box_px, size_wh=SIZE_WH)
    clipped = np.clip(box_px, 0, [100, 80, 100, 80])
    has_area = box_px[0] < box_px[2] and box_px[1] < box_px[3]
    inside = clipped[0] < clipped[2] and clipped[1] < clipped[3]
    if isinstance(checked, str):
        assert not (has_area and inside)
    else:
        assert has_area
        assert inside
        assert checked.box_px == tuple(clipped)
        assert checked.clipped == (tuple(clipped) != box_px)


def boxes_of(*rows: list[float]) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def test_areas_are_width_times_height() -> None:
    assert box_areas(boxes_of([1, 2, 4, 7], [0, 0, 0, 9])).tolist() == [15, 0]


def test_overlaps_match_hand_computed_values() -> None:
    a = boxes_of([0, 0, 2, 2], [0, 0, 4, 4])
    b = boxes_of([0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [10, 10, 12, 12])
    expected = [[1, 1 / 7, 0, 0], [1 / 4, 1 / 4, 1 / 4, 0]]
    assert iou_matrix(a, b).tolist() == expected


def test_boxes_apart_on_both_axes_do_not_overlap() -> None:
    # Two negative sides must not multiply to a positive overlap.
    assert iou_matrix(boxes_of([0, 0, 1, 1]), boxes_of([5, 5, 6, 6])).tolist() == [[0]]


def test_boxes_without_area_overlap_nothing_not_even_themselves() -> None:
    point = boxes_of([1, 1, 1, 1])
    assert iou_matrix(point, point).tolist() == [[0]]


def test_the_overlap_matrix_has_a_row_per_first_and_a_column_per_second_box() -> None:
    two = boxes_of([0, 0, 1, 1], [0, 0, 2, 2])
    assert iou_matrix(boxes_of(), two).shape == (0, 2)
    assert iou_matrix(two, boxes_of()).shape == (2, 0)


ordered_boxes = st.tuples(positions, positions, positions, positions).map(
    lambda p: [min(p[0], p[2]), min(p[1], p[3]), max(p[0], p[2]), max(p[1], p[3])]
)


@settings(deadline=None)
@given(st.lists(ordered_boxes, max_size=4), st.lists(ordered_boxes, max_size=4))
def test_overlap_is_symmetric_and_within_0_and_1(a: list[Any], b: list[Any]) -> None:
    forward = iou_matrix(boxes_of(*a), boxes_of(*b))
    assert np.array_equal(forward, iou_matrix(boxes_of(*b), boxes_of(*a)).T)
    assert ((forward >= 0) & (forward <= 1 + 1e-12)).all()
