import pytest

from haustra.core.detections import Detections
from haustra.evaluation.bootstrap import (
    Comparison,
    Difference,
    bootstrap_intervals,
    compare_detectors,
)
from scored_boxes import found, random_scene, truth_of

BOX, FAR = (10, 10, 30, 30), (100, 100, 140, 140)


def compare(
    truths: list[Detections], a: list[Detections], b: list[Detections], seed: int = 0
) -> Comparison:
    groups = [str(index) for index in range(len(truths))]
    return compare_detectors(
        truths, a, b, groups=groups, thresholds=(0.5, 0.5), num_resamples=200, seed=seed
    )


def of(comparison: Comparison, metric: str) -> Difference:
    (found,) = [each for each in comparison.differences if each.metric == metric]
    return found


def test_a_detector_does_not_differ_from_itself() -> None:
    truths, predictions = random_scene(3)
    for difference in compare(truths, predictions, predictions).differences:
        assert (difference.difference, difference.interval) == (0.0, (0.0, 0.0))
        assert difference.share_b_better == 0.5


def test_a_metric_that_one_of_them_does_not_have_has_no_difference() -> None:
    truths = [truth_of(BOX)] * 4
    nothing = of(compare(truths, [found()] * 4, [found((0.9, BOX))] * 4), "precision")
    unknown = (nothing.difference, nothing.interval, nothing.share_b_better)
    assert (nothing.a, nothing.b, unknown) == (None, 1.0, (None,) * 3)


def test_a_difference_by_hand() -> None:
    truths = [truth_of(BOX)] * 4
    a = [found((0.9, BOX))] * 3 + [found((0.9, FAR))]
    b = [found((0.9, BOX))] * 4
    recall = of(compare(truths, a, b), "recall")
    assert (recall.a, recall.b, recall.difference) == (0.75, 1.0, 0.25)
    assert recall.interval is not None
    assert recall.interval[0] >= 0
    assert (recall.share_b_better or 0) > 0.5
    assert of(compare(truths, b, a), "recall").difference == -0.25


def test_pairing_makes_the_interval_narrower() -> None:
    """Half of the frames are hard for both; which come into a draw does not matter to B - A."""
    truths = [truth_of(BOX)] * 40
    a = [found((0.9, BOX) if n % 2 else (0.9, FAR)) for n in range(40)]
    b = [found((0.9, BOX) if n % 2 or n < 4 else (0.9, FAR)) for n in range(40)]
    interval = of(compare(truths, a, b), "recall").interval
    groups = [str(n) for n in range(40)]
    alone = bootstrap_intervals(truths, a, groups=groups, threshold=0.5, num_resamples=200).recall
    assert interval is not None
    assert alone is not None
    assert interval[1] - interval[0] < (alone[1] - alone[0]) * 0.75


def test_the_same_seed_gives_the_same_interval_and_groups_are_drawn_whole() -> None:
    truths, a = random_scene(5)
    b = [p[::2] for p in a]
    assert compare(truths, a, b) == compare(truths, a, b)
    assert compare(truths, a, b) != compare(truths, a, b, seed=1)
    one_group = compare_detectors(
        truths, a, b, groups=["p"] * len(truths), thresholds=(0.5, 0.2), num_resamples=5
    )
    assert one_group.num_groups == 1
    for difference in one_group.differences:
        assert difference.interval == pytest.approx((difference.difference,) * 2)
