import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.core.detections import (
    Detections,
    detections_from_labels,
    detections_from_slots,
)
from haustra.core.errors import HaustraError
from haustra.core.images import read_image_rgb
from haustra.core.letterbox import plan_letterbox


def detections_of(*rows: tuple[list[float], float]) -> Detections:
    return Detections(
        boxes_px=np.array([box for box, _ in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([score for _, score in rows], dtype=np.float64),
        image_size_wh=(100, 80),
    )


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (np.zeros((2, 4)), np.zeros(3), "expected boxes [N,4] and scores [N], got (2, 4) and (3,)"),
        (np.zeros((2, 5)), np.zeros(2), "expected boxes [N,4] and scores [N], got (2, 5) and (2,)"),
        (np.zeros(4), np.zeros(1), "expected boxes [N,4] and scores [N], got (4,) and (1,)"),
        (np.array([[0, 0, 1, math.nan]]), np.ones(1), "expected finite boxes and scores"),
        (np.array([[0, 0, 1, math.inf]]), np.ones(1), "expected finite boxes and scores"),
        (np.zeros((1, 4)), np.array([math.nan]), "expected finite boxes and scores"),
        (np.array([[2.0, 0, 1, 1]]), np.ones(1), "expected x0 <= x1 and y0 <= y1 in every box"),
        (np.array([[0, 2.0, 1, 1]]), np.ones(1), "expected x0 <= x1 and y0 <= y1 in every box"),
        (np.zeros((1, 4)), np.array([1.01]), "expected scores in 0..1"),
        (np.zeros((1, 4)), np.array([-0.01]), "expected scores in 0..1"),
        (np.zeros((2, 4)), np.array([0.1, 0.2]), "expected scores ordered from high to low"),
    ],
)
def test_what_does_not_hold_is_refused_at_construction(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^expected") as caught:
        Detections(boxes_px=boxes, scores=scores, image_size_wh=(10, 10))
    assert str(caught.value) == message


def test_equal_scores_and_boxes_without_area_are_allowed() -> None:
    assert len(detections_of(([1, 1, 1, 1], 0.5), ([0, 0, 2, 2], 0.5))) == 2


def test_the_threshold_itself_is_kept() -> None:
    found = detections_of(([0, 0, 1, 1], 0.6), ([0, 0, 2, 2], 0.5), ([0, 0, 3, 3], 0.4))
    kept = found.above(0.5)
    assert kept.scores.tolist() == [0.6, 0.5]
    assert kept.boxes_px.tolist() == [[0, 0, 1, 1], [0, 0, 2, 2]]
    assert kept.image_size_wh == (100, 80)


def test_a_worse_box_that_overlaps_a_better_one_is_dropped() -> None:
    found = detections_of(
        ([0, 0, 10, 10], 0.9),
        ([0, 0, 10, 9], 0.8),  # IoU 0.9 with the first
        ([50, 50, 60, 60], 0.7),
    )
    assert found.without_overlaps(0.5).scores.tolist() == [0.9, 0.7]
    assert found.without_overlaps(0.95).scores.tolist() == [0.9, 0.8, 0.7]


def test_an_overlap_of_exactly_the_limit_is_kept() -> None:
    found = detections_of(([0, 0, 4, 4], 0.9), ([0, 0, 4, 2], 0.8))
    assert len(found.without_overlaps(0.5)) == 2
    assert len(found.without_overlaps(0.49)) == 1


def test_a_dropped_box_drops_no_other() -> None:
    # The second overlaps both others, which do not overlap each other by much.
    found = detections_of(([0, 0, 10, 10], 0.9), ([4, 0, 14, 10], 0.8), ([8, 0, 18, 10], 0.7))
    assert found.without_overlaps(0.4).scores.tolist() == [0.9, 0.7]


def test_no_detections_stay_no_detections() -> None:
    assert len(detections_of().without_overlaps(0.5)) == 0


@pytest.mark.parametrize("boxes", [[], [[1, 2, 3, 4], [0, 0, 9, 9]]])
def test_labels_are_detections_of_score_1(boxes: Any) -> None:
    found = detections_from_labels(np.array(boxes), image_size_wh=(10, 10))
    assert found.boxes_px.tolist() == boxes
    assert found.scores.tolist() == [1.0] * len(boxes)


def test_slots_become_ordered_boxes_on_the_source_image() -> None:
    # 100x50 in 200x200: scale 2, 50 rows of padding above and below.
    letterbox = plan_letterbox((100, 50), target_size_wh=(200, 200))
    slots = np.array([[0.5, 0.25, 1.0, 0.75], [0.1, 0.3, 0.2, 0.5]], dtype=np.float32)
    scores = np.array([0.2, 0.75], np.float32)
    found = detections_from_slots(slots, scores, letterbox=letterbox, iou=1.0)
    assert np.allclose(found.boxes_px, [[10, 5, 20, 25], [50, 0, 100, 50]], atol=1e-4)
    assert found.scores.tolist() == pytest.approx([0.75, 0.2])
    assert found.image_size_wh == (100, 50)


def test_slots_are_clipped_and_inverted_ones_have_no_area() -> None:
    letterbox = plan_letterbox((100, 50), target_size_wh=(200, 200))
    slots = np.array([[-1.0, -1.0, 2.0, 2.0], [0.8, 0.7, 0.2, 0.3]])
    found = detections_from_slots(slots, np.array([0.9, 0.8]), letterbox=letterbox, iou=1.0)
    assert np.allclose(found.boxes_px, [[0, 0, 100, 50], [80, 45, 80, 45]])


THREE = detections_of(([0, 0, 10, 10], 0.9), ([20, 20, 40, 30], 0.6), ([5, 5, 9, 9], 0.2))


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (THREE.scores > 0.5, [0.9, 0.6]),
        (slice(1, None), [0.6, 0.2]),
        (np.array([2, 0]), [0.9, 0.2]),  # in order of falling score
        ([True, False, True], [0.9, 0.2]),
        (1, [0.6]),
        (-1, [0.2]),
        (slice(3, None), []),
    ],
)
def test_masks_slices_and_numbers_choose_detections(index: Any, scores: list[float]) -> None:
    chosen = THREE[index]
    assert chosen.scores.tolist() == scores
    assert chosen.image_size_wh == (100, 80)


def test_a_wrong_index_is_an_error_and_iteration_ends() -> None:
    with pytest.raises(IndexError):
        THREE[np.array([True, False])]
    with pytest.raises(IndexError):
        THREE[3]
    assert [len(each) for each in THREE] == [1, 1, 1]


def test_the_representation_lists_the_first_boxes() -> None:
    assert repr(THREE[:2]) == (
        "Detections(2 boxes on 100x80: 0.90 at 0,0,10,10; 0.60 at 20,20,40,30)"
    )
    assert repr(THREE[:0]) == "Detections(no boxes on 100x80)"
    assert repr(detections_of(*[([0.0, 0, 1, 1], 0.5)] * 7)).endswith("0.50 at 0,0,1,1; 2 more)")


def test_a_plot_shows_the_boxes_and_can_be_written(tmp_path: Path) -> None:
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    shown = THREE.plot(image, path=str(tmp_path / "a.png"))
    assert shown.shape == image.shape
    assert shown.dtype == np.uint8
    assert shown[20, 20:40].any(axis=1).all()
    assert not image.any()
    np.testing.assert_array_equal(read_image_rgb(tmp_path / "a.png"), shown)
    with pytest.raises(HaustraError) as caught:
        THREE.plot(image[:50])
    assert str(caught.value) == (
        "the image has 100x50 pixels; expected the one that was looked at, of 100x80"
    )


def test_coco_results_have_width_and_height() -> None:
    assert THREE[1].to_coco(image_id=7) == [
        {"image_id": 7, "category_id": 1, "bbox": [20.0, 20.0, 20.0, 10.0], "score": 0.6}
    ]


def test_supervision_gets_the_same_boxes() -> None:
    pytest.importorskip("supervision")
    for found in (THREE, THREE[:0]):
        converted = found.to_supervision()
        np.testing.assert_allclose(converted.xyxy, found.boxes_px)
        assert converted.confidence is not None
        np.testing.assert_allclose(converted.confidence, found.scores)
        assert len(converted) == len(found)


def test_without_supervision_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(HaustraError) as caught:
        THREE.to_supervision()
    assert str(caught.value) == (
        "to_supervision() needs the package 'supervision', which is not installed; run: pip "
        "install supervision"
    )
