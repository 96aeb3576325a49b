import numpy as np
import pytest
from numpy.typing import NDArray

from haustra.core.detections import Slots
from haustra.evaluation.metrics import AveragePrecision
from haustra.exporting.parity import SplitAnswers, compare_answers, median_latencies_ms
from haustra.inference.detector import Detector

SIZE_WH = (200, 100)


def answers(
    *slots: tuple[list[list[float]], list[float]], ap50: float | None = 0.8
) -> SplitAnswers:
    arrays: list[Slots] = [
        (np.asarray(boxes, dtype=np.float32), np.asarray(scores, dtype=np.float32))
        for boxes, scores in slots
    ]
    precision = AveragePrecision(
        ap50=ap50,
        ap75=None,
        ap50_95=ap50,
        ap_small=None,
        ap_medium=None,
        ap_large=None,
        ar_1=None,
        ar_10=None,
        ar_100=None,
    )
    return SplitAnswers(average_precision=precision, slots=arrays)


LEFT, RIGHT = [0.1, 0.1, 0.4, 0.4], [0.6, 0.5, 0.9, 0.9]
MOVED = [0.61, 0.5, 0.9, 0.9]


def test_equal_answers_differ_by_nothing() -> None:
    same = answers(([LEFT, RIGHT], [0.9, 0.3]))
    found = compare_answers(same, reference=same, size_wh=SIZE_WH)
    assert found.max_box_shift_px == found.score_shift == found.ap50_loss == 0


def test_slots_of_like_score_may_swap() -> None:
    found = compare_answers(
        answers(([RIGHT, LEFT], [0.5, 0.5])),
        reference=answers(([LEFT, RIGHT], [0.5, 0.5])),
        size_wh=SIZE_WH,
    )
    assert found.max_box_shift_px == 0


def test_slots_with_one_box_are_told_apart_by_their_scores() -> None:
    whole = [0.0, 0.0, 1.0, 1.0]
    found = compare_answers(
        answers(([whole, whole], [0.9, 0.3])),
        reference=answers(([whole, whole], [0.9, 0.3])),
        size_wh=SIZE_WH,
    )
    assert found.score_shift == 0


def test_a_shift_is_measured_in_pixels_of_its_axis() -> None:
    found = compare_answers(
        answers(([LEFT, MOVED], [0.9, 0.4])),
        reference=answers(([LEFT, RIGHT], [0.9, 0.3])),
        size_wh=SIZE_WH,
    )
    assert found.max_box_shift_px == pytest.approx(2, abs=1e-4)
    assert found.median_box_shift_px == pytest.approx(1, abs=1e-4)
    assert found.score_shift == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("num_slots", "num_tipped", "shift"), [(499, 1, 0.1), (500, 1, 0), (500, 2, 0.1)]
)
def test_one_slot_in_500_may_tip_over(num_slots: int, num_tipped: int, shift: float) -> None:
    scores = [0.4] * num_slots
    tipped = [0.5] * num_tipped + scores[num_tipped:]
    found, reference = (answers(*(([LEFT], [s]) for s in side)) for side in (tipped, scores))
    difference = compare_answers(found, reference=reference, size_wh=SIZE_WH)
    assert difference.score_shift == pytest.approx(shift, abs=1e-6)


def test_no_share_of_slots_may_score_nan() -> None:
    scores = [0.4] * 1000
    found, reference = (
        answers(*(([LEFT], [s]) for s in side)) for side in ([float("nan"), *scores[1:]], scores)
    )
    shift = compare_answers(found, reference=reference, size_wh=SIZE_WH).score_shift
    assert shift is not None
    assert np.isnan(shift)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_box_that_only_one_of_them_shows_counts(reverse: bool) -> None:
    both, one = answers(([LEFT, RIGHT], [0.9, 0.3])), answers(([LEFT, LEFT], [0.9, 0.3]))
    first, second = (one, both) if reverse else (both, one)
    found = compare_answers(first, reference=second, size_wh=SIZE_WH)
    assert found.max_box_shift_px == pytest.approx(100, abs=1e-3)


def test_slots_that_nobody_sees_do_not_count() -> None:
    found = compare_answers(
        answers(([LEFT, MOVED], [0.9, 0.01])),
        reference=answers(([LEFT, RIGHT], [0.9, 0.01])),
        size_wh=SIZE_WH,
    )
    assert found.max_box_shift_px == 0
    nothing = answers(([RIGHT], [0.01]))
    unknown = compare_answers(nothing, reference=nothing, size_wh=SIZE_WH)
    assert unknown.max_box_shift_px is unknown.median_box_shift_px is unknown.score_shift is None


def test_lost_precision_is_signed_and_none_without_labels() -> None:
    better, worse = answers(([LEFT], [0.9]), ap50=0.8), answers(([LEFT], [0.9]), ap50=0.7)
    lost = compare_answers(worse, reference=better, size_wh=SIZE_WH)
    won = compare_answers(better, reference=worse, size_wh=SIZE_WH)
    assert (lost.ap50_loss, won.ap50_loss) == pytest.approx((0.1, -0.1))
    unlabelled = answers(([LEFT], [0.9]), ap50=None)
    unknown = compare_answers(unlabelled, reference=unlabelled, size_wh=SIZE_WH)
    assert unknown.ap50_loss is unknown.ap50_95_loss is None


def test_latencies_come_in_the_order_of_the_detectors() -> None:
    calls: list[str] = []

    def detector(name: str) -> Detector:
        def predict_slots(images: NDArray[np.uint8]) -> Slots:
            calls.append(name)
            return np.zeros((1, 1, 4), dtype=np.float32), np.zeros((1, 1), dtype=np.float32)

        return Detector(
            predict_slots=predict_slots, kind="tiny", caption=name, input_size_wh=(8, 8)
        )

    times = median_latencies_ms(
        [detector("a"), detector("b")],
        image=np.zeros((8, 8, 3), dtype=np.uint8),
        rounds=3,
    )
    assert len(times) == 2
    assert calls == ["a", "b", "a", "b", "a", "b", "a", "b"]
