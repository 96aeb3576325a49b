import time

import numpy as np
import pytest

from haustra.core.detections import Detections
from haustra.evaluation.bootstrap import (
    BootstrapIntervals,
    bootstrap_intervals,
    draw_groups,
    match_images,
    members_of_groups,
)
from haustra.evaluation.frame_tier import frame_tier
from haustra.evaluation.metrics import box_metrics
from scored_boxes import found, random_scene, truth_of

SMALL, LARGE = (10, 10, 30, 30), (40, 40, 140, 140)


def intervals_of(
    truths: list[Detections],
    predictions: list[Detections],
    *,
    groups: list[str] | None = None,
    num_resamples: int = 200,
    seed: int = 0,
) -> BootstrapIntervals:
    return bootstrap_intervals(
        truths,
        predictions,
        groups=groups or [f"image_{index}" for index in range(len(truths))],
        threshold=0.5,
        num_resamples=num_resamples,
        seed=seed,
    )


def assert_same_as_the_metrics(
    truths: list[Detections], predictions: list[Detections], *, images: np.ndarray
) -> None:
    """Compare with the plain metrics of a set that holds each image as often as it was drawn."""
    plain = box_metrics(
        [truths[index] for index in images], [predictions[index] for index in images], threshold=0.5
    )
    frames = frame_tier(
        [truths[index] for index in images], [predictions[index] for index in images], threshold=0.5
    )
    expected = {
        "sensitivity": frames.sensitivity,
        "false_positive_rate": frames.false_positive_rate,
        "ap50": plain.average_precision.ap50,
        "ap75": plain.average_precision.ap75,
        "ap50_95": plain.average_precision.ap50_95,
        "precision": plain.at_threshold.precision,
        "recall": plain.at_threshold.recall,
        "f1": plain.at_threshold.f1,
    }
    measured = match_images(truths, predictions, threshold=0.5).measure(images)
    assert measured == pytest.approx(
        {name: np.nan if value is None else value for name, value in expected.items()},
        abs=1e-12,
        nan_ok=True,
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_resample_scores_what_the_metrics_say_of_the_duplicated_set(seed: int) -> None:
    truths, predictions = random_scene(seed)  # scores of two digits, so that many are equal
    rng = np.random.default_rng(seed)
    everything = np.arange(len(truths))
    assert_same_as_the_metrics(truths, predictions, images=everything)
    groups = [f"group_{number}" for number in rng.integers(0, 6, len(truths))]
    drawn = draw_groups(members_of_groups(groups), rng=rng)
    assert_same_as_the_metrics(truths, predictions, images=drawn)


def test_equal_scores_and_equal_overlaps_are_ordered_as_in_the_metrics() -> None:
    twins = truth_of((0, 0, 50, 50), (0, 10, 50, 60))  # a box between them overlaps both alike
    truths = [twins, truth_of(SMALL), truth_of()]
    predictions = [
        found((0.9, (0, 5, 50, 55)), (0.9, (0, 0, 50, 50)), (0.9, (0, 10, 50, 60))),
        found((0.9, LARGE), (0.9, SMALL)),
        found((0.9, SMALL)),
    ]
    for images in ([0], [0, 0, 1, 2], [2, 1, 1, 0], [1, 2, 1], [2, 2]):
        assert_same_as_the_metrics(truths, predictions, images=np.array(images))


def test_an_overlap_of_just_the_threshold_counts_as_in_the_metrics() -> None:
    truths = [truth_of((0, 0, 100, 100)), truth_of((10, 10, 110, 110))]
    predictions = [found((0.9, (0, 0, 100, 50))), found((0.8, (10, 10, 110, 85)))]
    assert_same_as_the_metrics(truths, predictions, images=np.array([0, 1, 1]))


def test_detections_beyond_the_hundredth_do_not_count() -> None:
    predictions = [found(*((0.9, LARGE),) * 100, (0.8, SMALL))]
    assert_same_as_the_metrics([truth_of(SMALL)], predictions, images=np.array([0, 0]))


def test_perfect_detections_have_an_interval_of_one_to_one() -> None:
    truths = [truth_of(SMALL), truth_of(SMALL, LARGE), truth_of(), truth_of(LARGE)]
    predictions = [
        found((0.9, SMALL)),
        found((0.9, SMALL), (0.8, LARGE)),
        found(),
        found((1, LARGE)),
    ]
    intervals = intervals_of(truths, predictions)
    for ends in (intervals.ap50, intervals.ap75, intervals.ap50_95, intervals.f1):
        assert ends == pytest.approx((1, 1))
    assert intervals.num_groups == 4


def test_one_group_has_an_interval_of_one_point() -> None:
    truths, predictions = random_scene(3)
    intervals = intervals_of(truths, predictions, groups=["colon"] * len(truths))
    plain = box_metrics(truths, predictions, threshold=0.5)
    assert intervals.num_groups == 1
    assert intervals.ap50 == pytest.approx([plain.average_precision.ap50] * 2)
    assert intervals.precision == (plain.at_threshold.precision,) * 2


def test_the_recall_of_two_groups_is_known() -> None:
    # One group is found and one is not: a draw of two has recall 0, 1/2 or 1, of which 0 and 1
    # come in a quarter of the draws each. Groups of two images are drawn as a whole.
    truths = [truth_of(SMALL)] * 4
    predictions = [found((0.9, SMALL)), found(), found((0.8, SMALL)), found()]
    groups = ["seen", "missed", "seen", "missed"]
    intervals = intervals_of(truths, predictions, groups=groups)
    assert intervals.recall == pytest.approx((0, 1))
    matched = match_images(truths, predictions, threshold=0.5)
    members = members_of_groups(groups)
    rng = np.random.default_rng(0)
    recalls = [matched.measure(draw_groups(members, rng=rng))["recall"] for _ in range(400)]
    assert set(recalls) == {0, 0.5, 1}
    assert recalls.count(0) == pytest.approx(100, abs=40)


def test_groups_are_drawn_whole() -> None:
    groups = ["b", "a", "b", "c", "b", "c"]
    members = members_of_groups(groups)
    assert [member.tolist() for member in members] == [[1], [0, 2, 4], [3, 5]]
    rng = np.random.default_rng(1)
    for _ in range(50):
        times = np.bincount(draw_groups(members, rng=rng), minlength=6)
        assert times[0] == times[2] == times[4]
        assert times[3] == times[5]
        assert times[0] + times[1] + times[3] == 3


def test_groups_widen_the_interval_of_images_that_resemble_each_other() -> None:
    truths = [truth_of(SMALL)] * 40
    predictions = [found((0.9, SMALL)) if index < 20 else found() for index in range(40)]
    alone = intervals_of(truths, predictions).recall
    grouped = intervals_of(truths, predictions, groups=[str(i // 10) for i in range(40)]).recall
    assert alone is not None
    assert grouped is not None
    assert grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])


@pytest.mark.parametrize("seed", [4, 5, 7, 8])
def test_a_typical_interval_contains_the_metric(seed: int) -> None:
    truths, predictions = random_scene(seed)
    intervals = intervals_of(truths, predictions)
    plain = box_metrics(truths, predictions, threshold=0.5)
    for ends, value in (
        (intervals.ap50, plain.average_precision.ap50),
        (intervals.ap50_95, plain.average_precision.ap50_95),
        (intervals.precision, plain.at_threshold.precision),
        (intervals.recall, plain.at_threshold.recall),
        (intervals.f1, plain.at_threshold.f1),
    ):
        assert ends is not None
        assert value is not None
        assert ends[0] < value < ends[1]


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    truths, predictions = random_scene(5)
    first = intervals_of(truths, predictions, seed=1)
    assert intervals_of(truths, predictions, seed=1) == first
    assert intervals_of(truths, predictions, seed=2).ap50 != first.ap50


def test_what_is_not_labeled_has_no_interval_and_draws_without_labels_are_left_out() -> None:
    nothing = intervals_of([truth_of()] * 3, [found((0.9, SMALL))] * 3)
    undefined = [nothing.ap50, nothing.ap75, nothing.ap50_95, nothing.sensitivity]
    assert undefined == [None] * 4
    assert nothing.false_positive_rate is None  # since every draw flags all
    assert nothing.precision == pytest.approx((0, 0))
    assert nothing.recall is nothing.f1 is None
    rarely = intervals_of([truth_of(SMALL), truth_of()], [found((0.9, SMALL)), found()])
    assert rarely.ap50 == pytest.approx((1, 1))


def test_a_rate_that_no_draw_changes_has_no_interval() -> None:
    truths = [truth_of(SMALL)] * 4 + [truth_of()] * 30
    intervals = intervals_of(truths, [found((0.9, SMALL))] * 2 + [found()] * 32)
    assert intervals.false_positive_rate is None  # none of 30 flagged is not a rate of 0 to 0
    assert intervals.sensitivity == pytest.approx((0, 1), abs=0.2)


def test_a_thousand_resamples_take_seconds() -> None:  # so that they are the default
    rng = np.random.default_rng(0)
    truths, predictions = [], []
    for _ in range(215):
        low = rng.uniform(0, 100, (16, 2))
        boxes = np.hstack([low, low + rng.uniform(3, 49, low.shape)])
        truths.append(truth_of(tuple(boxes[0] + rng.normal(0, 1, 4) * [1, 1, 0, 0])))
        predictions.append(found(*zip(rng.random(16), map(tuple, boxes), strict=True)))
    started = time.process_time()
    intervals_of(truths, predictions, num_resamples=1000)
    assert time.process_time() - started < 15
