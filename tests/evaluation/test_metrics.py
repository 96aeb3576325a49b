import contextlib
import io

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from haustra.evaluation.evaluation import shuffle_truths
from haustra.evaluation.metrics import (
    average_precision,
    match_detections,
    threshold_metrics,
    to_coco,
)
from scored_boxes import found, random_scene, truth_of


@pytest.mark.parametrize("seed", range(25))
def test_average_precision_equals_the_reference_evaluators(seed: int) -> None:
    truths, predictions = random_scene(seed)
    ours = average_precision(truths, predictions)
    ground_truth, detections = to_coco(truths, predictions)
    if not ground_truth["annotations"] or not detections:
        pytest.skip("the reference refuses a scene without boxes")
    with contextlib.redirect_stdout(io.StringIO()):
        reference_truth = COCO()
        reference_truth.dataset = ground_truth
        reference_truth.createIndex()
        reference = COCOeval(reference_truth, reference_truth.loadRes(detections), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    expected = [None if value < 0 else value for value in reference.stats]
    for value, index in (
        (ours.ap50_95, 0),
        (ours.ap50, 1),
        (ours.ap75, 2),
        (ours.ap_small, 3),
        (ours.ap_medium, 4),
        (ours.ap_large, 5),
        (ours.ar_1, 6),
        (ours.ar_10, 7),
        (ours.ar_100, 8),
    ):
        assert value == pytest.approx(expected[index], abs=1e-9)


def test_perfect_detections_score_one() -> None:
    truth = truth_of((10, 10, 60, 60), (80, 20, 140, 90))
    prediction = found((0.9, (10, 10, 60, 60)), (0.8, (80, 20, 140, 90)))
    scores = average_precision([truth], [prediction])
    assert scores.ap50 == scores.ap75 == scores.ap50_95 == pytest.approx(1.0)
    assert scores.ap_small is None


def test_no_detection_scores_zero_and_no_truth_scores_nothing() -> None:
    truth, nothing = truth_of((10, 10, 60, 60)), found()
    scores = average_precision([truth], [nothing])
    assert scores.ap50 == scores.ap50_95 == scores.ap_medium == 0
    assert scores.ap_small is scores.ap_large is None
    assert average_precision([truth_of()], [found((0.9, (1, 1, 5, 5)))]).ap50 is None


def test_a_hand_computed_average_precision() -> None:
    # Three detections, best first: hit, miss, hit of two truths. The precision at recall 0.5 is 1
    # and at recall 1 is 2/3; COCO samples 101 recalls, 51 up to 0.5 and 50 beyond.
    truth = truth_of((0, 0, 50, 50), (100, 0, 150, 50))
    prediction = found((0.9, (0, 0, 50, 50)), (0.8, (60, 90, 90, 120)), (0.7, (100, 0, 150, 50)))
    expected = (51 * 1.0 + 50 * 2 / 3) / 101
    assert average_precision([truth], [prediction]).ap50 == pytest.approx(expected)


def test_a_second_box_on_a_found_polyp_is_a_false_positive_and_a_duplicate() -> None:
    truth = truth_of((0, 0, 50, 50))
    prediction = found((0.9, (0, 0, 50, 50)), (0.8, (1, 1, 50, 50)), (0.7, (90, 90, 120, 120)))
    counts = threshold_metrics([truth], [prediction], threshold=0.3)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 2, 0)
    assert counts.duplicates_per_truth == 1.0
    assert counts.precision == pytest.approx(1 / 3)
    assert counts.recall == 1.0
    assert counts.f1 == pytest.approx(0.5)


def test_the_threshold_hides_lower_scores() -> None:
    truth = truth_of((0, 0, 50, 50))
    prediction = found((0.9, (0, 0, 50, 50)), (0.29, (90, 90, 120, 120)))
    assert threshold_metrics([truth], [prediction], threshold=0.3).false_positives == 0
    assert threshold_metrics([truth], [prediction], threshold=0.29).false_positives == 1


def test_empty_images_with_a_detection_are_counted() -> None:
    counts = threshold_metrics(
        [truth_of(), truth_of()], [found((0.9, (1, 1, 9, 9))), found()], threshold=0.5
    )
    assert (counts.empty_images, counts.empty_images_with_detection) == (2, 1)
    assert counts.precision == 0
    undefined = (counts.recall, counts.f1, counts.duplicates_per_truth, counts.mean_matched_iou)
    assert undefined == (None,) * 4


def test_precision_is_undefined_where_nothing_is_shown_and_f1_is_not() -> None:
    counts = threshold_metrics([truth_of((0, 0, 50, 50))], [found()], threshold=0.5)
    assert (counts.precision, counts.recall, counts.f1) == (None, 0, 0)


def test_the_better_score_takes_the_truth_even_with_less_overlap() -> None:
    truth = truth_of((0, 0, 50, 50))
    prediction = found((0.9, (0, 0, 50, 40)), (0.8, (0, 0, 50, 50)))
    matched, duplicate, iou = match_detections(truth, prediction)
    assert matched.tolist() == [0, -1]
    assert duplicate.tolist() == [False, True]
    assert iou[0] == pytest.approx(0.8)


def test_shuffled_labels_are_all_of_another_image() -> None:
    truths = [truth_of((i, 0, i + 10, 10)) for i in range(20)]
    shuffled = shuffle_truths(truths, seed=3)
    starts = [int(truth.boxes_px[0, 0]) for truth in shuffled]
    assert sorted(starts) == list(range(20))
    assert all(start != index for index, start in enumerate(starts))


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="as many predictions as truths"):
        average_precision([truth_of()], [])
