"""Frames, lesions and alarms: by hand, and equal to true-colon on random scenes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import true_colon
from hypothesis import given, settings
from hypothesis import strategies as st

from haustra.core.detections import Detections
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.evaluation.alarm_tier import alarm_row, alarm_tier
from haustra.evaluation.frame_tier import few_clean_frames_note, frame_tier, froc_curves
from haustra.evaluation.frames import timed_runs
from haustra.evaluation.lesion_tier import lesion_tier
from scored_boxes import found, frame, random_scene, truth_of

BOX, FAR = (10, 10, 30, 30), (100, 100, 140, 140)


def reference(truths: list[Detections], predictions: list[Detections]) -> tuple[Any, Any]:
    """Write the scene as the COCO files that true-colon's own evaluator takes."""
    images = [{"id": i, "file_name": f"v_{i}.png"} for i in range(len(truths))]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        for x0, y0, x1, y1 in truth.boxes_px.tolist():
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "bbox": box,
                    "category_id": 1,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for (x0, y0, x1, y1), score in zip(
            prediction.boxes_px.tolist(), prediction.scores.tolist(), strict=True
        ):
            results.append(
                {
                    "image_id": f"v_{i}",
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "category_id": 1,
                    "score": score,
                }
            )
    ground_truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "polyp"}],
    }
    return ground_truth, results


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.83])
def test_frames_and_froc_equal_true_colon(seed: int, threshold: float) -> None:
    truths, predictions = random_scene(seed)
    ground_truth, results = reference(truths, predictions)
    wanted = true_colon.evaluate(
        ground_truth,
        results,
        canonicalizer="stem_int_suffix",
        conf=threshold,
        tiers=frozenset({"frame", "froc", "afroc"}),
    )
    ours = frame_tier(truths, predictions, threshold=threshold)
    assert wanted.frame is not None
    assert (ours.true_positives, ours.false_positives) == (wanted.frame.tp, wanted.frame.fp)
    assert ours.num_lesion_frames == wanted.frame.tp + wanted.frame.fn
    assert ours.num_clean_frames == wanted.frame.fp + wanted.frame.tn
    if ours.num_lesion_frames:
        assert ours.sensitivity == wanted.frame.tpr
    if ours.num_clean_frames:
        assert (ours.false_positive_rate, ours.specificity) == (
            wanted.frame.fpr,
            wanted.frame.specificity,
        )
    assert (ours.f1, ours.f2) == (wanted.frame.f1, wanted.frame.f2)
    curves = froc_curves(truths, predictions)
    assert wanted.froc is not None
    assert wanted.afroc is not None
    assert curves.sensitivity == wanted.froc.tpr_loc
    assert curves.false_boxes_per_image == wanted.froc.fp_per_image
    assert curves.thresholds == wanted.froc.conf_thresholds
    if ours.num_clean_frames:
        assert curves.flagged_clean_share == wanted.afroc.fpf
    else:
        assert curves.flagged_clean_share is None


def test_frames_by_hand() -> None:
    truths = [truth_of(BOX), truth_of(BOX), truth_of(), truth_of(), truth_of()]
    predictions = [
        found((0.9, BOX)),
        found((0.9, FAR)),  # a box, but on nothing: the polyp is not flagged
        found((0.6, FAR)),
        found((0.2, FAR)),
        found(),
    ]
    tier = frame_tier(truths, predictions, threshold=0.5)
    assert (tier.num_lesion_frames, tier.num_clean_frames) == (2, 3)
    assert (tier.true_positives, tier.false_positives) == (1, 1)
    assert tier.sensitivity == 0.5
    assert tier.false_positive_rate == pytest.approx(1 / 3)
    assert tier.specificity == pytest.approx(2 / 3)
    assert tier.precision == 0.5


def test_what_is_not_defined_is_none() -> None:
    only_clean = frame_tier([truth_of()], [found()], threshold=0.5)
    assert (only_clean.sensitivity, only_clean.precision) == (None, None)
    assert only_clean.false_positive_rate == 0
    only_lesions = frame_tier([truth_of(BOX)], [found((0.9, BOX))], threshold=0.5)
    assert (only_lesions.false_positive_rate, only_lesions.specificity) == (None, None)
    assert froc_curves([truth_of(BOX)], [found((0.9, BOX))]).flagged_clean_share is None


def test_a_lesion_by_hand() -> None:
    """Seen on frames 10 to 19 at 10 Hz, detected on 13 to 17 but for 15."""
    hits = {13, 14, 16, 17}
    frames = [frame(n, truth_of(BOX) if 10 <= n < 20 else truth_of()) for n in range(30)]
    predictions = [found((0.9 if n in hits else 0.1, (12, 12, 32, 32))) for n in range(30)]
    tier = lesion_tier(timed_runs(frames, predictions, frame_rates_hz={"run": 10.0}), threshold=0.5)
    assert tier is not None
    (row,) = tier.rows
    assert (row.lesion_id, row.num_visible_frames, row.num_detected_frames) == ("run/a", 10, 4)
    assert (row.detected_ever, row.detected_25_percent, row.detected_50_percent) == (
        True,
        True,
        False,
    )
    # Half a second at 10 Hz is 5 detections, and there are 4.
    assert (row.detected_within_1_s, row.detected_within_5_s) == (False, False)
    assert (row.first_detection_frames, row.first_detection_s) == (3, 0.3)
    assert row.longest_gap_frames == 3
    # Off to on at 13, off at 15, on at 16, off at 18, in one second of view.
    assert row.flicker_per_s == pytest.approx(4.0)
    assert (tier.num_lesions, tier.detected_ever, tier.mean_detected_share) == (1, 1, 0.4)


def test_detected_within_a_second_takes_half_a_second_of_detections() -> None:
    frames = [frame(n, truth_of(BOX)) for n in range(60)]
    for first, wanted in ((4, (True, True)), (6, (False, True))):
        predictions = [found((0.9 if n >= first else 0.1, BOX)) for n in range(60)]
        tier = lesion_tier(
            timed_runs(frames, predictions, frame_rates_hz={"run": 10.0}), threshold=0.5
        )
        assert tier is not None
        assert (tier.rows[0].detected_within_1_s, tier.rows[0].detected_within_3_s) == wanted


def test_lesions_of_a_run_without_a_known_order_are_left_out() -> None:
    still = frame(0, truth_of(BOX, FAR), lesions=("a", None), run_id="stills")
    frames = [frame(0, truth_of(BOX, FAR), lesions=("a", None)), still]
    predictions = [found((0.9, BOX))] * 2
    tier = lesion_tier(timed_runs(frames, predictions, frame_rates_hz={"run": 10.0}), threshold=0.5)
    assert tier is not None
    assert [row.lesion_id for row in tier.rows] == ["run/a"]
    assert tier.num_boxes_without_identity == 1
    assert (
        lesion_tier(timed_runs([still], predictions[:1], frame_rates_hz={}), threshold=0.5) is None
    )


def test_a_box_without_identity_is_in_no_row() -> None:
    nameless = [frame(0, truth_of(BOX), lesions=(None,))]
    assert (
        lesion_tier(timed_runs(nameless, [found()], frame_rates_hz={"run": 1.0}), threshold=0.5)
        is None
    )


@pytest.mark.parametrize("seed", range(8))
def test_lesions_equal_true_colon(seed: int) -> None:
    truths, predictions = random_scene(seed)
    rng = np.random.default_rng(seed)
    names = [tuple(f"l{rng.integers(4)}" for _ in range(len(truth))) for truth in truths]
    frames = [
        frame(n, truth, lesions=lesions, run_id="v")
        for n, (truth, lesions) in enumerate(zip(truths, names, strict=True))
    ]
    ours = lesion_tier(timed_runs(frames, predictions, frame_rates_hz={"v": 30.0}), threshold=0.5)
    ground_truth, results = reference(truths, predictions)
    flat = [f"v/{name}" for lesions in names for name in lesions]
    for annotation, name in zip(ground_truth["annotations"], flat, strict=True):
        annotation["unique_id"] = name
    if not flat:
        assert ours is None
        return
    wanted = true_colon.evaluate(
        ground_truth,
        results,
        canonicalizer="stem_int_suffix",
        conf=0.5,
        tiers=frozenset({"lesion"}),
    ).lesion
    assert wanted is not None
    assert ours is not None
    for row, record in zip(ours.rows, wanted.records, strict=True):
        assert row.lesion_id == record.lesion_id
        assert row.num_visible_frames == record.n_frames_visible
        assert row.num_detected_frames == record.n_frames_detected
        assert row.detected_25_percent == record.detected_25pct
        assert row.detected_50_percent == record.detected_50pct
        assert row.detected_within_1_s == record.detected_within_1s
        assert row.detected_within_5_s == record.detected_within_5s
        assert row.first_detection_frames == record.latency_frames
        assert row.first_detection_s == record.latency_seconds
    assert ours.detected_ever == wanted.summary.detected_any
    assert ours.detected_within_3_s == wanted.summary.detected_within_3s
    assert ours.mean_detected_share == pytest.approx(wanted.summary.mean_det_fraction)
    assert ours.mean_first_detection_s == pytest.approx(wanted.summary.mean_latency_seconds)


def alarms_at(pattern: str, **point: Any) -> Any:
    """Count the alarms of a run: `x` a false box of 0.9, `?` one of 0.4, `h` a hit, `.` nothing."""
    boxes = {"x": (0.9, FAR), "?": (0.4, FAR), "h": (0.9, BOX), ".": (0.1, FAR)}
    frames = [frame(n, truth_of(BOX) if c in "hm" else truth_of()) for n, c in enumerate(pattern)]
    predictions = [found(boxes.get(c, (0.1, FAR))) for c in pattern]
    runs = timed_runs(frames, predictions, frame_rates_hz={"run": 10.0})
    return alarm_row(runs, point=OperatingPoint(objectness=0.5, **point))


def test_alarms_by_hand() -> None:
    row = alarms_at("..x..xxxxxx.hh.xxxxxxxxxxxxxxxxxxxxxx...")
    assert row.false_activations == 3
    assert row.false_activations_per_minute == pytest.approx(3 / (40 / 10 / 60))
    assert row.false_time_share == (1 + 6 + 22) / 40
    assert row.run_lengths == [1, 1, 0, 1]  # 0.1 s, 0.6 s and 2.2 s
    assert (row.lesions_shown, row.mean_delay_s, row.frame_sensitivity) == (1, 0.0, 1.0)


def test_hold_off_saves_short_alarms_and_costs_the_first_frames() -> None:
    row = alarms_at("..x..xxxxxx.hhhh..", hold_off_frames=3)
    assert row.false_activations == 1
    assert row.false_time_share == 3 / 18
    assert (row.lesions_shown, row.mean_delay_s) == (1, pytest.approx(0.3))
    assert row.frame_sensitivity == 0.25
    row = alarms_at("..xxx.hhh..", hold_off_frames=3)
    assert (row.false_activations, row.lesions_shown, row.mean_delay_s) == (0, 0, None)


def test_hysteresis_joins_what_a_threshold_cuts() -> None:
    assert alarms_at("xx??xx??").false_activations == 2
    row = alarms_at("xx??xx??", hysteresis=0.3)
    assert (row.false_activations, row.lower_threshold) == (1, 0.3)
    assert row.false_time_share == 1.0
    assert alarms_at("??xx", hysteresis=0.3).false_time_share == 0.5  # it does not begin one


def alarms_at_times(times_s: Sequence[float | None], **point: Any) -> Any:
    """Count the alarms of a run at 10 Hz that shows a false box on each frame."""
    frames = [frame(n, truth_of(), seconds=seconds) for n, seconds in enumerate(times_s)]
    runs = timed_runs(frames, [found((0.9, FAR))] * len(frames), frame_rates_hz={"run": 10.0})
    return alarm_tier(runs, point=OperatingPoint(objectness=0.5, **point))


def test_an_activation_and_its_hold_off_end_at_a_cut() -> None:
    times_s = [0.0, 0.1, 0.2, 0.3, 9.0, 9.1, 9.2, 9.3]
    tier = alarms_at_times(times_s)
    assert tier.minutes == pytest.approx(0.8 / 60)
    assert (tier.rows[0].false_activations, tier.rows[0].run_lengths) == (2, [2, 0, 0, 0])
    assert tier.rows[1].hold_off_frames == 3
    assert (tier.rows[1].false_activations, tier.rows[1].false_time_share) == (2, 2 / 8)


def test_a_lost_frame_is_not_a_cut() -> None:
    tier = alarms_at_times([0.0, 0.1, 0.3, 0.4])
    assert tier.minutes == pytest.approx(0.5 / 60)
    assert (tier.rows[0].false_activations, tier.rows[1].false_activations) == (1, 1)


def test_the_frames_of_a_variable_rate_count_by_their_times() -> None:
    times_s: list[float | None] = [0.0, 0.1, 0.2, 0.7, 1.2]
    tier = alarms_at_times(times_s)
    assert tier.minutes == pytest.approx(1.3 / 60)
    assert tier.rows[0].run_lengths == [0, 0, 1, 0]  # 1.3 s
    frames = [frame(n, truth_of(BOX), seconds=seconds) for n, seconds in enumerate(times_s)]
    predictions = [found()] * 4 + [found((0.9, BOX))]
    runs = timed_runs(frames, predictions, frame_rates_hz={"run": 10.0})
    lesions = lesion_tier(runs, threshold=0.5)
    assert lesions is not None
    assert lesions.rows[0].first_detection_s == pytest.approx(1.2)


@pytest.mark.parametrize("times_s", [[0.0, None, 0.2], [0.0, 0.2, 0.1], [0.0, 0.0, 0.0]])
def test_without_a_rising_time_on_every_frame_the_frame_ids_count(
    times_s: list[float | None],
) -> None:
    assert alarms_at_times(times_s).minutes == pytest.approx(0.3 / 60)


def test_alarms_of_a_run_without_a_known_order_are_left_out() -> None:
    frames = [frame(0, truth_of(), run_id="video"), frame(0, truth_of(), run_id="stills")]
    predictions = [found(), found((0.9, FAR))]
    point = OperatingPoint(objectness=0.5)
    tier = alarm_tier(timed_runs(frames, predictions, frame_rates_hz={"video": 10.0}), point=point)
    assert tier is not None
    assert tier.num_procedures == 1
    assert tier.minutes == pytest.approx(0.1 / 60)
    assert (tier.rows[0].false_activations, tier.rows[0].false_time_share) == (0, 0)
    assert alarm_tier(timed_runs(frames, predictions, frame_rates_hz={}), point=point) is None


@pytest.mark.parametrize(
    ("num_clean", "num_flagged", "note"),
    [
        (22, 0, None),
        (0, 0, "there is no clean frame, so the false-positive rate is not known"),
        (
            4,
            0,
            "4 clean frames are too few for a false-positive rate: use 22 or more (none flagged "
            "of 4 also fits a rate of 53%)",
        ),
        (21, 1, "21 clean frames are too few for a false-positive rate: use 22 or more"),
    ],
)
def test_few_clean_frames_are_a_warning(num_clean: int, num_flagged: int, note: str | None) -> None:
    truths = [truth_of(BOX), *[truth_of()] * num_clean]
    predictions = [found(), *[found((0.9, FAR))] * num_flagged]
    predictions += [found()] * (len(truths) - len(predictions))
    assert few_clean_frames_note(frame_tier(truths, predictions, threshold=0.5)) == note


def test_runs_do_not_run_into_each_other() -> None:
    frames = [frame(0, truth_of(), run_id="a"), frame(0, truth_of(), run_id="b")]
    runs = timed_runs(frames, [found((0.9, FAR))] * 2, frame_rates_hz={"a": 10.0, "b": 10.0})
    tier = alarm_tier(runs, point=OperatingPoint(objectness=0.5, hold_off_frames=5))
    assert tier is not None
    assert [row.hold_off_frames for row in tier.rows] == [0, 3, 6, 15, 5]
    assert tier.num_procedures == 2
    assert tier.minutes == pytest.approx(0.2 / 60)
    assert tier.rows[0].false_activations == 2
    assert tier.rows[0].false_activations_per_procedure == 1.0


detections_in_time = st.lists(
    st.lists(st.floats(0, 1), max_size=3).map(
        lambda scores: found(*((score, BOX) for score in scores))
    ),
    max_size=30,
)


@given(detections_in_time, st.floats(0.01, 1))
def test_without_hold_off_and_hysteresis_an_alarm_is_the_threshold(
    sequence: list[Detections], threshold: float
) -> None:
    alarm = AlarmFilter(OperatingPoint(objectness=threshold))
    for detections in sequence:
        shown = alarm.show(detections)
        assert shown.scores.tolist() == detections.above(threshold).scores.tolist()


@given(detections_in_time, st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 5))
@settings(max_examples=60)
def test_more_hold_off_never_shows_more_frames(
    sequence: list[Detections], threshold: float, share: float, hold_off: int
) -> None:
    shown = []
    for frames in (hold_off, hold_off + 1):
        alarm = AlarmFilter(
            OperatingPoint(
                objectness=threshold, hold_off_frames=frames, hysteresis=share * threshold
            )
        )
        shown.append([len(alarm.show(detections)) > 0 for detections in sequence])
    assert all(less <= more for more, less in zip(*shown, strict=True))
