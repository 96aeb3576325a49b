import numpy as np
import pytest

from haustra.evaluation.calibration import calibrate
from scored_boxes import found, random_scene, truth_of

BOX, OTHER, FAR = (10, 10, 30, 30), (50, 50, 80, 80), (100, 100, 140, 140)


def test_calibration_by_hand() -> None:
    truths = [truth_of(BOX, OTHER), truth_of()]
    predictions = [
        found((0.95, BOX), (0.85, OTHER), (0.82, BOX), (0.04, FAR)),  # right, right, a double
        found((0.55, FAR)),
    ]
    result = calibrate(truths, predictions)
    assert result.num_boxes == 4  # the one of 0.04 says that there is nothing
    bins = {found.low: found for found in result.bins if found.count}
    assert sorted(bins) == [0.5, 0.8, 0.9]
    assert bins[0.8].mean_score == pytest.approx((0.85 + 0.82) / 2)
    assert (bins[0.8].share_right, bins[0.5].share_right, bins[0.9].share_right) == (0.5, 0.0, 1.0)
    errors = {0.5: 0.55, 0.8: 0.335, 0.9: 0.05}
    assert result.largest_error == pytest.approx(0.55)
    assert result.expected_error == pytest.approx((0.55 + 2 * errors[0.8] + errors[0.9]) / 4)
    assert result.right_counts[8:] == [1, 1]
    assert result.wrong_counts[5] == result.wrong_counts[8] == 1


def test_a_score_of_one_is_in_the_last_bin() -> None:
    result = calibrate([truth_of(BOX)], [found((1.0, BOX))])
    assert result.bins[-1].count == 1
    assert result.expected_error == 0


def test_without_a_box_nothing_is_known() -> None:
    result = calibrate([truth_of(BOX)], [found((0.01, BOX))])
    assert (result.num_boxes, result.expected_error, result.largest_error) == (0, None, None)
    assert calibrate([], []).num_boxes == 0


@pytest.mark.parametrize("seed", range(5))
def test_every_box_is_in_one_bin(seed: int) -> None:
    truths, predictions = random_scene(seed)
    result = calibrate(truths, predictions)
    shown = np.concatenate([p.scores[p.scores >= 0.05] for p in predictions])
    assert sum(found.count for found in result.bins) == result.num_boxes == len(shown)
    assert sum(result.right_counts) + sum(result.wrong_counts) == len(shown)
    weighted = sum((found.mean_score or 0) * found.count for found in result.bins)
    assert weighted == pytest.approx(shown.sum())
