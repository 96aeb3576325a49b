"""The feed: the box shown belongs to the frame shown, nothing queues, controls act at once."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import write_run
from haustra.captures.reader import read_run
from haustra.captures.sources import open_source
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.core.detections import detections_from_labels
from haustra.core.errors import HaustraError
from haustra.core.images import decode_image_rgb, write_png
from haustra.inference.detector import Detector
from haustra.view.feed import Feed
from haustra.view.history import verdict_of
from haustra.view.watched_detector import WatchedDetector
from viewing import (
    Ticks,
    bright_detector,
    notices,
    paused_at,
    picture,
    plays_on,
    running_feed,
    shown,
    until,
    watched,
    write_pictures,
)


def folder_source(folder: Path) -> Any:
    return open_source(folder)


def scores(feed: Feed, which: int = 0) -> list[float]:
    return shown(feed)["detectors"][which]["scores"]  # type: ignore[no-any-return]


def test_each_frame_is_published_with_its_own_boxes(tmp_path: Path) -> None:
    folder = tmp_path / "moving"
    folder.mkdir()
    for number in range(12):
        write_png(folder / f"{number:02d}.png", image_rgb=picture(0.8, x=3 * number))
    with running_feed(folder_source(folder), tmp_path) as feed:
        seen = set()
        while shown(feed)["playing"]:
            shot = until(lambda: feed.shot)
            image = decode_image_rgb(shot.jpeg, name="shot")
            [[x0, *_]] = shot.header["detectors"][0]["boxes_px"]
            assert x0 == 3 * shot.header["frame"]
            bright = np.flatnonzero((image.mean(axis=2) > 100).any(axis=0))
            assert abs(int(bright[0]) - x0) <= 1
            seen.add(shot.header["frame"])
            time.sleep(0.01)
    assert len(seen) >= 8


def test_pause_step_and_seek(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", *[0.5 + n / 100 for n in range(20)]))
    with running_feed(source, tmp_path) as feed:
        assert paused_at(feed, 7)["detectors"][0]["scores"] == [pytest.approx(0.57, abs=0.01)]
        feed.command({"do": "step", "by": 1})
        until(lambda: shown(feed)["frame"] == 8)
        feed.command({"do": "step", "by": -3})
        until(lambda: shown(feed)["frame"] == 5)
        feed.command({"do": "seek", "frame": 999})
        until(lambda: shown(feed)["frame"] == 19)
        feed.command({"do": "play"})  # from the last frame, playing begins again
        until(lambda: shown(feed)["frame"] < 5 and shown(feed)["playing"])


def test_a_threshold_changes_the_boxes_of_the_paused_frame(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", *[0.6] * 5))
    with running_feed(source, tmp_path) as feed:
        assert len(paused_at(feed, 2)["detectors"][0]["scores"]) == 1
        feed.command({"do": "set", "objectness": 0.7})
        until(lambda: shown(feed)["settings"]["objectness"] == 0.7)
        assert (shown(feed)["frame"], scores(feed)) == (2, [])
        feed.command({"do": "set", "objectness": 0.2})
        until(lambda: len(scores(feed)) == 1)


def test_hold_off_and_hysteresis_follow_the_frames_before(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", 0.1, 0.6, 0.6, 0.4, 0.1, 0.6))
    with running_feed(source, tmp_path, objectness=0.5) as feed:
        for number in range(6):  # a busy machine skips frames while it plays
            paused_at(feed, number)
        assert feed.timeline()["alarm"] == [False, True, True, False, False, True]
        feed.command({"do": "set", "hold_off_frames": 1})
        until(lambda: shown(feed)["settings"]["hold_off_frames"] == 1)
        assert feed.timeline()["alarm"] == [False, False, True, False, False, False]
        feed.command({"do": "set", "hysteresis": 0.3})
        until(lambda: shown(feed)["settings"]["hysteresis"] == 0.3)
        assert feed.timeline()["alarm"] == [False, False, True, True, False, False]
        assert feed.timeline()["score"] == pytest.approx([0.1, 0.6, 0.6, 0.4, 0.1, 0.6], abs=0.01)
        feed.command({"do": "set", "hysteresis": 0.8})  # hysteresis is never above objectness
        until(lambda: shown(feed)["settings"]["hysteresis"] == 0.5)
        feed.command({"do": "set", "objectness": 0.2})  # the hysteresis was set for 0.5
        until(lambda: shown(feed)["settings"]["hysteresis"] is None)


def test_a_slow_detector_drops_frames_and_stays_fresh() -> None:
    source = Ticks(rate_hz=50)
    with running_feed(source, Path("unused"), watched(bright_detector(sleep_s=0.1))) as feed:
        ages = []
        feed.listen(lambda: ages.append(time.monotonic() - shown(feed)["captured_at"]))
        until(lambda: len(ages) >= 10)
        header = shown(feed)
    # If frames were queued, the tenth one would be 10 x 0.08 s late.
    assert np.median(ages[5:]) < 0.5
    assert header["dropped"] >= 20
    assert source.is_closed.is_set()


def test_the_frame_rate_is_that_of_the_frames_shown(tmp_path: Path) -> None:
    with running_feed(Ticks(rate_hz=100), tmp_path) as feed:
        number, began = shown(feed)["frame"], time.monotonic()
        time.sleep(2.5)
        header, seconds = shown(feed), time.monotonic() - began
    arrived = (header["frame"] - number - header["dropped"]) / seconds
    assert header["frames_per_s"] == pytest.approx(arrived, rel=0.25)
    assert arrived > 40


def test_a_recorded_source_drops_frames_too(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", *[0.6] * 30))
    with running_feed(source, tmp_path, watched(bright_detector(sleep_s=0.25))) as feed:
        until(lambda: not shown(feed)["playing"])
        timeline = feed.timeline()
        assert shown(feed)["dropped"] == 30 - len(timeline["frame"]) > 5
    assert timeline["num_frames"] == 30


def test_a_paused_simulator_stands_still_and_steps(tmp_path: Path) -> None:
    with running_feed(Ticks(pausable=True), tmp_path) as feed:
        until(lambda: shown(feed)["frame"] > 3)
        feed.command({"do": "pause"})
        until(lambda: not shown(feed)["playing"])
        number = shown(feed)["frame"]
        time.sleep(0.1)
        assert shown(feed)["frame"] == number
        feed.command({"do": "step", "by": 1})
        until(lambda: shown(feed)["frame"] > number)
        assert shown(feed)["frame"] <= number + 3
        feed.command({"do": "step", "by": -1})
        until(lambda: "ticks is live: it cannot go back" in notices(feed))
        feed.command({"do": "play"})
        until(lambda: shown(feed)["playing"] and shown(feed)["frame"] > number + 3)


@pytest.fixture
def labeled_run(tmp_path: Path) -> Path:
    """A run whose frames show, at a threshold of 0.5: clean, hit, clean, miss, false."""
    boxes: tuple[Any, ...] = ([], [(20, 20, 36, 36)], [], [(2, 2, 10, 10)], [])
    folder = write_run(tmp_path / "run_a", *boxes, frame_rate_hz=0.05)
    images = sorted((folder / "images").iterdir())
    for path, score in zip(images, (0.15, 0.8, 0.15, 0.8, 0.8), strict=True):
        write_png(path, image_rgb=picture(score))
    return folder


def test_next_miss_and_next_false_alarm_search_unseen_frames(
    labeled_run: Path, tmp_path: Path
) -> None:
    with running_feed(folder_source(labeled_run), tmp_path, objectness=0.5) as feed:
        feed.command({"do": "find", "verdict": "miss"})
        until(lambda: shown(feed)["frame"] == 3)
        assert shown(feed)["verdict"] == "miss"
        feed.command({"do": "find", "verdict": "false"})
        until(lambda: shown(feed)["frame"] == 4)
        assert feed.timeline()["verdict"] == ["clean", "hit", "clean", "miss", "false"]
        assert feed.timeline()["polyp"] == [False, True, False, True, False]


def test_previous_miss_and_previous_false_alarm_search_backward(
    labeled_run: Path, tmp_path: Path
) -> None:
    with running_feed(folder_source(labeled_run), tmp_path, objectness=0.1) as feed:
        paused_at(feed, 4)
        feed.command({"do": "find", "verdict": "miss", "backward": True})
        until(lambda: shown(feed)["frame"] == 3)
        feed.command({"do": "find", "verdict": "false", "backward": True})
        until(lambda: shown(feed)["frame"] == 2)


def test_a_search_includes_the_frames_that_hold_off_needs(tmp_path: Path) -> None:
    boxes = [[(20, 20, 36, 36)]] * 6
    folder = write_run(tmp_path / "run_a", *boxes, frame_rate_hz=0.05)
    for path in (folder / "images").iterdir():
        write_png(path, image_rgb=picture(0.8))
    with running_feed(folder_source(folder), tmp_path, hold_off_frames=2) as feed:
        paused_at(feed, 5)
        feed.command({"do": "find", "verdict": "miss", "backward": True})
        until(lambda: shown(feed)["frame"] == 1)


def test_a_search_that_finds_nothing_counts_frames_from_1_as_the_page_does(
    labeled_run: Path, tmp_path: Path
) -> None:
    with running_feed(folder_source(labeled_run), tmp_path, objectness=0.5) as feed:
        paused_at(feed, 3)
        feed.command({"do": "find", "verdict": "miss"})
        until(lambda: "no miss after frame 4" in notices(feed))
        feed.command({"do": "find", "verdict": "false", "backward": True})
        until(lambda: "no false alarm before frame 4" in notices(feed))
        assert shown(feed)["frame"] == 3


@pytest.mark.parametrize(
    "command",
    [
        {"do": "step", "by": -1},
        {"do": "seek", "frame": 0},
        {"do": "find", "verdict": "miss"},
        {"do": "find", "verdict": "false", "backward": True},
    ],
)
def test_a_command_that_a_live_source_refuses_does_not_pause_it(
    tmp_path: Path, command: dict[str, Any]
) -> None:
    with running_feed(Ticks(), tmp_path) as feed:
        until(lambda: feed.shot)
        feed.command(command)
        until(lambda: any("ticks is live: it cannot" in text for text in notices(feed)))
        number = shown(feed)["frame"]
        until(lambda: shown(feed)["frame"] > number + 3)
        assert shown(feed)["playing"]


def test_a_recording_is_a_run_folder_of_what_was_shown(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", 0.6, 0.7, 0.1, 0.8))
    with running_feed(source, tmp_path, objectness=0.5) as feed:
        paused_at(feed, 0)
        feed.command({"do": "record", "on": True})
        until(lambda: shown(feed)["recording"] == 1)
        assert not list((tmp_path / "recordings").glob("run_*"))  # it appears when it is complete
        for number in (1, 2):
            paused_at(feed, number)
        feed.command({"do": "record", "on": False})
        found = until(lambda: [text for text in notices(feed) if text.startswith("recorded 3")])
    [folder] = (tmp_path / "recordings").iterdir()
    assert found == [f"recorded 3 frames into {folder}"]
    run = read_run(folder)
    assert (run.manifest.source, run.manifest.num_frames) == ("inference", 3)
    checked = [check_frame(frame) for frame in run.frames]
    assert all(isinstance(frame, CheckedFrame) for frame in checked)
    assert [len(frame.boxes_px) for frame in checked if isinstance(frame, CheckedFrame)] == [
        1,
        1,
        0,
    ]
    first = json.loads(run.frames[0].label_path.read_text())
    assert first["source"] == "model"
    assert first["labels"][0]["score"] == pytest.approx(0.6, abs=0.01)
    assert len(list((folder / "overlays").iterdir())) == 3


def test_a_recording_is_finished_when_the_feed_ends(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", 0.6, 0.7))
    with running_feed(source, tmp_path) as feed:
        feed.command({"do": "record", "on": True})
        until(lambda: shown(feed)["recording"])
    [folder] = (tmp_path / "recordings").iterdir()
    assert read_run(folder).manifest.num_frames


def test_changed_weights_are_loaded_and_broken_ones_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_text("first")

    def load() -> Detector:
        text = weights.read_text()
        if text == "broken":
            raise HaustraError(f"{weights} is broken")
        return bright_detector(caption=text)

    source = folder_source(write_pictures(tmp_path / "p", *[0.6] * 3))
    with running_feed(source, tmp_path, WatchedDetector(load, path=weights)) as feed:
        until(lambda: not shown(feed)["playing"])
        for text in ("second one", "broken", "the third"):
            replacement = tmp_path / "new"
            replacement.write_text(text)
            replacement.replace(weights)
            if text == "broken":
                wanted = f"{weights} is broken; the weights that were loaded before stay in use"
                until(lambda: wanted in notices(feed))  # noqa: B023
                assert shown(feed)["detectors"][0]["name"] == "second one"
                feed.command({"do": "step", "by": -1})
                until(lambda: shown(feed)["frame"] == 1)
                assert scores(feed)
            else:
                until(lambda: shown(feed)["detectors"][0]["name"] == text)  # noqa: B023
        assert feed.timeline()["frame"] == [1]  # detections of older weights are removed


@pytest.mark.parametrize(
    "error",
    [HaustraError("it is damaged"), KeyError("header"), RuntimeError("bad\nsize"), MemoryError()],
)
@pytest.mark.parametrize("fails_when_run", [False, True])
def test_any_rubbish_in_place_of_weights_is_refused_and_shown_until_it_is_replaced(
    tmp_path: Path, error: Exception, fails_when_run: bool
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_text("good")

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    def load() -> Detector:
        detector = bright_detector(caption=weights.read_text())
        if detector.caption == "rubbish":
            if not fails_when_run:
                raise error
            detector.detect = failing  # type: ignore[method-assign]
        return detector

    with running_feed(Ticks(), tmp_path, WatchedDetector(load, path=weights)) as feed:
        assert plays_on(feed)
        assert shown(feed)["detectors"][0]["problem"] is None
        weights.write_text("rubbish")
        problem = until(lambda: shown(feed)["detectors"][0]["problem"])
        assert problem.endswith("; the weights that were loaded before stay in use")
        assert "\n" not in problem
        assert problem in notices(feed)
        assert shown(feed)["detectors"][0]["name"] == "good"
        assert plays_on(feed)
        weights.write_text("other")
        until(lambda: shown(feed)["detectors"][0]["name"] == "other")
        assert shown(feed)["detectors"][0]["problem"] is None


def test_a_repeated_notice_displaces_no_other(tmp_path: Path) -> None:
    with running_feed(Ticks(), tmp_path) as feed:
        feed.command({"do": "record", "on": True})
        until(lambda: (shown(feed)["recording"] or 0) > 1)
        feed.command({"do": "record", "on": False})
        for number in range(60):
            feed.command({"do": "seek", "frame": number})
            until(lambda: not feed.num_waiting_commands)
        until(lambda: "ticks is live: it cannot go back" in notices(feed))
        assert any(text.startswith("recorded ") for text in notices(feed))
        assert len(notices(feed)) == 2


def test_two_detectors_see_the_same_frame(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", 0.6, 0.6))
    second = watched(bright_detector(caption="second"))
    with running_feed(source, tmp_path, watched(), second) as feed:
        header = paused_at(feed, 1)
        assert [row["name"] for row in header["detectors"]] == ["bright", "second"]
        assert header["detectors"][0]["boxes_px"] == header["detectors"][1]["boxes_px"] != []


def test_commands_of_one_kind_do_not_queue(tmp_path: Path) -> None:
    source = folder_source(write_pictures(tmp_path / "p", *[0.6] * 200))
    slow = bright_detector(sleep_s=0.1)
    with running_feed(source, tmp_path, watched(slow)) as feed:
        paused_at(feed, 0)
        seen = set()
        feed.listen(lambda: seen.add(shown(feed)["frame"]))
        for frame in range(1, 101):
            feed.command({"do": "seek", "frame": frame})
        for _ in range(30):
            feed.command({"do": "step", "by": 1})
        for number in range(50):
            feed.command({"do": "set", "objectness": number / 100, "iou": 0.7})
            feed.command({"do": "set", "objectness": number / 100})
        until(lambda: shown(feed)["settings"]["objectness"] == 0.49)
        assert shown(feed)["settings"]["iou"] == 0.7
        until(lambda: shown(feed)["frame"] == 130)
    assert len(seen) < 20


def test_an_unreadable_image_is_reported_and_skipped(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", 0.6, 0.6, 0.6)
    (folder / "001.png").write_bytes(b"nothing")
    with running_feed(folder_source(folder), tmp_path) as feed:
        until(lambda: shown(feed)["frame"] == 2)
        assert any("001.png is not an image" in text for text in notices(feed))


@pytest.mark.parametrize(
    ("shown_px", "truth_px", "verdict"),
    [
        ([], [], "clean"),
        ([(0, 0, 5, 5)], [], "false"),
        ([(0, 0, 5, 5)], [(4, 4, 9, 9)], "hit"),
        ([(0, 0, 4, 4)], [(4, 4, 9, 9)], "miss"),
        ([], [(4, 4, 9, 9)], "miss"),
    ],
)
def test_verdicts(shown_px: list[Any], truth_px: list[Any], verdict: str) -> None:
    boxes = [
        detections_from_labels(np.array(values, dtype=np.float64), image_size_wh=(10, 10))
        for values in (shown_px, truth_px)
    ]
    assert verdict_of(boxes[0], boxes[1]) == verdict
    assert verdict_of(boxes[0], None) is None
