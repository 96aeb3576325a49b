"""The history: what every seen frame shows, by rules that one frame after another gives as well."""

import time
from typing import Any

import numpy as np
import pytest

from haustra.core.detections import Detections, detections_from_labels
from haustra.core.operating_point import AlarmFilter, OperatingPoint
from haustra.view.history import MAX_COLUMNS, History, SeenFrame, verdict_of

SIZE_WH = (64, 64)
POINTS = [
    OperatingPoint(objectness=0.5),
    OperatingPoint(objectness=0.6, hysteresis=0.3),
    OperatingPoint(objectness=0.4, hold_off_frames=2),
    OperatingPoint(objectness=0.7, hysteresis=0.2, hold_off_frames=3, iou=0.1),
    OperatingPoint(objectness=0.0, iou=1.0),
    OperatingPoint(objectness=1.0, hold_off_frames=5, iou=0.0),
]


def boxes(rng: np.random.Generator, count: int) -> Any:
    corners = rng.uniform(0, 40, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(4, 24, (count, 2))], axis=1)


def frame(rng: np.random.Generator, *, seconds: float, num_detectors: int = 1) -> SeenFrame:
    raw = []
    for _ in range(num_detectors):
        count = int(rng.integers(0, 6))
        scores = np.sort(rng.uniform(0, 1, count).round(2))[::-1].copy()
        raw.append(Detections(boxes_px=boxes(rng, count), scores=scores, image_size_wh=SIZE_WH))
    num_polyps = int(rng.integers(-1, 3))
    truth = None
    if num_polyps >= 0:
        truth = detections_from_labels(boxes(rng, num_polyps), image_size_wh=SIZE_WH)
    return SeenFrame(raw=tuple(raw), truth=truth, seconds=seconds)


def check(history: History, seen: dict[int, SeenFrame], point: OperatingPoint) -> None:
    """Compare everything with one filter that sees one frame after another."""
    alarm, before, shown = AlarmFilter(point), 0.0, {}
    for number in sorted(seen):
        cut = seen[number].seconds - before > 1.0
        before = seen[number].seconds
        shown[number] = alarm.show(seen[number].raw[0].without_overlaps(point.iou), after_cut=cut)
        [ours, *_] = history.shown(number)
        assert ours.scores.tolist() == shown[number].scores.tolist()
    timeline = history.timeline()
    assert timeline["frame"] == sorted(seen)
    assert timeline["alarm"] == [bool(len(shown[number])) for number in sorted(seen)]
    wanted = [verdict_of(shown[number], seen[number].truth) for number in sorted(seen)]
    assert timeline["verdict"] == wanted
    assert [history.verdict(number) for number in sorted(seen)] == wanted


@pytest.mark.parametrize("seed", range(5))
def test_frames_in_any_order_show_what_one_after_another_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    history = History(POINTS[0], num_detectors=1, limit=None)
    numbers = rng.permutation(60)
    if seed % 2:
        numbers = np.sort(numbers)
    seen: dict[int, SeenFrame] = {}
    for count, number in enumerate(numbers.tolist()):
        seen[number] = frame(rng, seconds=number / 10 + 5 * (number > 30))
        history.add(number, seen[number])
        point = POINTS[count // 10]
        if count % 10 == 0:
            history.apply(point)
            while history.compare_again():
                pass
        check(history, seen, point)


def test_the_oldest_frames_are_dropped_beyond_the_limit() -> None:
    rng = np.random.default_rng(0)
    history = History(POINTS[1], num_detectors=2, limit=7)
    seen = {n: frame(rng, seconds=n / 10, num_detectors=2) for n in range(30)}
    for number, one in seen.items():
        history.add(number, one)
    assert history.timeline()["frame"] == list(range(23, 30))
    assert 22 not in history
    assert 23 in history
    history.apply(POINTS[2])
    check(history, {number: seen[number] for number in range(23, 30)}, POINTS[2])


def test_a_long_history_is_shown_in_groups_with_the_worst_of_each() -> None:
    nothing = detections_from_labels(np.zeros((0, 4)), image_size_wh=SIZE_WH)
    box = np.array([[0.0, 0.0, 9.0, 9.0]])
    hit = Detections(boxes_px=box, scores=np.array([0.9]), image_size_wh=SIZE_WH)
    polyp = detections_from_labels(box, image_size_wh=SIZE_WH)
    history = History(OperatingPoint(objectness=0.5), num_detectors=1, limit=None)
    count = 3 * MAX_COLUMNS
    for number in range(count):
        is_miss = number == 7
        raw = nothing if is_miss or number % 100 else hit
        truth = polyp if is_miss or number % 100 == 0 else nothing
        history.add(number, SeenFrame(raw=(raw,), truth=truth, seconds=number / 10))
    timeline = history.timeline()
    assert (timeline["step"], timeline["num_seen"], len(timeline["frame"])) == (3, count, count / 3)
    assert timeline["num_alarms"] == count / 100
    assert timeline["frame"][:4] == [0, 3, 6, 9]
    assert timeline["verdict"][:4] == ["hit", "clean", "miss", "clean"]
    assert timeline["polyp"][:4] == [True, False, True, False]
    assert timeline["score"][:2] == [0.9, 0.0]
    assert timeline["alarm"][:2] == [True, False]


@pytest.mark.parametrize("has_labels", [False, True])
def test_a_slider_after_20_minutes_of_film_takes_bounded_time(has_labels: bool) -> None:
    rng = np.random.default_rng(1)
    kinds = [frame(rng, seconds=0.0, num_detectors=2) for _ in range(200)]
    history = History(POINTS[0], num_detectors=2, limit=None, frame_rate_hz=30.0)
    for number in range(36_000):
        kind = kinds[number % 200]
        truth = kind.truth if has_labels else None
        history.add(number, SeenFrame(raw=kind.raw, truth=truth, seconds=number / 30))
    took: dict[str, list[float]] = {"slider": [], "timeline": [], "compare": []}
    for point in POINTS * 2:
        started = time.process_time()
        history.apply(point)
        history.shown(35_999)
        history.verdict(35_999)
        took["slider"].append(time.process_time() - started)
        started = time.process_time()
        history.timeline()
        took["timeline"].append(time.process_time() - started)
        started = time.process_time()
        history.compare_again()
        took["compare"].append(time.process_time() - started)
    assert {name: round(float(np.median(values)), 3) for name, values in took.items()} == {
        name: pytest.approx(0.0, abs=0.05) for name in took
    }
