"""Times of frames: made of stamps, put in order, and what is said of them."""

import numpy as np
import pytest

from haustra.core.frame_times import FrameClock, output_rate, stamps_in_order


def clock_of(stamps: list[float], *, rate_hz: float = 10.0) -> FrameClock:
    clock = FrameClock(rate_hz)
    for stamp in stamps:
        clock.add(stamp)
    return clock


def steps(*lengths: float) -> list[float]:
    return [0.0, *np.cumsum(lengths).tolist()]


def test_times_begin_at_zero_and_follow_the_stamps() -> None:
    clock = clock_of([5.0, 5.1, 5.5, 6.5])
    assert clock.times_s == pytest.approx([0.0, 0.1, 0.5, 1.5])
    assert clock.notes() == []


def test_stamps_that_jump_back_or_far_ahead_go_on_by_the_usual_step() -> None:
    first = [number / 10 for number in range(20)]
    clock = clock_of([*first, *first, *(50_000 + number / 10 for number in range(20))])
    assert clock.times_s == pytest.approx([number / 10 for number in range(60)])
    assert clock.notes() == [
        "its time stamps jump at frame 20, 40: there the times go on by the usual step"
    ]


def test_a_missing_stamp_moves_no_later_frame() -> None:
    clock = clock_of([1.0, 1.1, 1.2, 0.0, 1.4, 1.5])
    assert clock.times_s == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_without_stamps_the_stated_rate_is_assumed_and_said() -> None:
    clock = clock_of([0.0] * 5, rate_hz=25.0)
    assert clock.times_s == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])
    assert clock.notes() == ["no time stamps: 25 frames/s are assumed"]


def test_last_frames_without_a_stamp_are_no_jump() -> None:
    assert clock_of([0.1, 0.2, 0.3, 0.4, 0.0, 0.0]).notes() == []


def test_a_gap_is_said_where_the_rate_is_constant_only() -> None:
    even = [0.1] * 30
    assert clock_of(steps(*even, 0.4, *even)).notes() == [
        "frames are 0.1 s apart, but 0.4 s after frame 30: some may be missing"
    ]
    assert clock_of(steps(*even, 0.4, *even, 0.2, *even, *even)).notes() == [
        "frames are 0.1 s apart, but 0.4 s after frame 30 (2 such steps): some may be missing"
    ]
    varied = np.random.default_rng(0).choice([0.1, 0.2, 0.3], 60).tolist()
    assert clock_of(steps(*varied)).notes() == []
    assert clock_of(steps(*even, *[0.5] * 30)).notes() == []


def test_stored_stamps_are_put_in_the_order_of_display() -> None:
    stored = [0.0, 0.3, 0.1, 0.2, 0.6, 0.4, 0.5]
    assert stamps_in_order(stored, known=[0.0, 0.1]) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    leading = [0.3, 0.1, 0.2, 0.4]  # two frames that need one from before the start
    assert stamps_in_order(leading, known=[0.3, 0.4]) == [0.3, 0.4]


@pytest.mark.parametrize(
    ("stored", "known"),
    [
        ([], [0.0]),
        ([0.0, 0.1, 0.1, 0.2], [0.0]),
        ([0.0, 0.1, 0.2, 0.3], [0.0, 0.15]),
        ([0.0, 0.1, 0.2, 5000.0], [0.0]),
        ([number / 10 for number in [*range(40), *range(40)]], [0.0]),
        ([number / 10 for number in range(40)] + [number / 10 + 1.05 for number in range(40)], [0]),
    ],
    ids=["none", "twice", "others decoded", "jump", "joined", "joined, overlapping"],
)
def test_stamps_that_do_not_number_the_frames_are_not_used(
    stored: list[float], known: list[float]
) -> None:
    assert stamps_in_order(stored, known=known) is None


@pytest.mark.parametrize(
    ("times_s", "stated_hz", "rate_hz"),
    [
        ([number / 30 for number in range(90)], 30.0, 30.0),
        ([round(number / 30, 3) for number in range(90)], 30.0, 30.0),
        ([number / 30 for number in range(90)], 1000.0, 30.0),
        ([0.0], 25.0, 25.0),
        ([], 25.0, 25.0),
        (steps(*[1 / 30] * 30, *[1 / 5] * 30), 8.6, 30.0),
        (steps(*[0.001] * 10, *[0.1] * 20), 10.0, 240.0),
    ],
)
def test_the_rate_to_write_at(times_s: list[float], stated_hz: float, rate_hz: float) -> None:
    assert output_rate(times_s, stated_hz=stated_hz) == pytest.approx(rate_hz)
