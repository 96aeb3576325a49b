"""Recordings are finished and kept whatever happens, with the real times of their frames."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from haustra.captures.reader import Run, read_run
from haustra.captures.sources import Source, SourceEndedError, SourceFrame, open_source
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.captures.writer import RunWriter
from haustra.core.errors import HaustraError
from haustra.view import session
from haustra.view.config import ViewConfig
from haustra.view.feed import Feed
from haustra.view.recording import Recording
from haustra.view.session import run_headless
from viewing import (
    Tap,
    Ticks,
    bright_detector,
    free_port,
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


def record(feed: Feed, *, num_frames: int = 3) -> None:
    feed.command({"do": "record", "on": True})
    until(lambda: (shown(feed)["recording"] or 0) >= num_frames)


def recorded(folder: Path, *, which: str = "*") -> Run:
    """Return the only recording, or one of several; its frames are all complete."""
    [run_folder] = folder.glob(f"run_{which}")
    assert which != "*" or list(folder.iterdir()) == [run_folder]
    run = read_run(run_folder)
    assert run.manifest.num_frames == len(run.frames) > 0
    assert len(list((run_folder / "images").iterdir())) == len(run.frames)
    assert len(list((run_folder / "overlays").iterdir())) == len(run.frames)
    assert all(isinstance(check_frame(frame), CheckedFrame) for frame in run.frames)
    return run


def times_of(run: Run) -> list[float]:
    return [frame.label.sim_time for frame in run.frames]  # type: ignore


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path, small_disk: Path) -> None:
    with running_feed(Ticks(), small_disk) as feed:
        feed.command({"do": "record", "on": True})
        [notice] = until(lambda: [n for n in notices(feed) if "recorded" in n])
        run = recorded(small_disk / "recordings")
        assert notice == (
            f"recording has stopped (No space left on device); recorded {len(run.frames)} frames "
            f"into {run.folder}"
        )
        assert plays_on(feed)
        assert shown(feed)["recording"] is None
        feed.command({"do": "record", "on": True})  # there is no room for another
        until(lambda: len([n for n in notices(feed) if "No space left on device" in n]) == 2)
        assert plays_on(feed)
    assert recorded(run.folder.parent, which=run.run_id).frames == run.frames


def test_a_full_disk_ends_a_headless_run_which_keeps_its_frames(
    tmp_path: Path, small_disk: Path
) -> None:
    source = write_pictures(tmp_path / "p", *[0.5 + n / 1000 for n in range(400)])
    config = ViewConfig(source=str(source), headless=True, output_root=small_disk / "out")
    with pytest.raises(HaustraError) as error:
        run_headless(config)
    run = recorded(small_disk / "out")
    assert str(error.value) == (
        f"No space left on device; recorded {len(run.frames)} frames into {run.folder}"
    )
    numbers = json.loads((run.folder / "numbers.json").read_text())
    assert numbers["frames"] == len(run.frames)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug"), MemoryError()],
)
def test_an_error_of_writing_ends_the_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    add_frame = RunWriter.add_frame

    def failing(self: RunWriter, *arguments: Any, **settings: Any) -> None:
        if self.num_frames == 4:
            raise error
        add_frame(self, *arguments, **settings)

    monkeypatch.setattr(RunWriter, "add_frame", failing)
    with running_feed(Ticks(), tmp_path) as feed:
        feed.command({"do": "record", "on": True})
        until(lambda: any("recording has stopped" in text for text in notices(feed)))
        assert len(recorded(tmp_path / "recordings").frames) == 4
        assert plays_on(feed)


@pytest.mark.parametrize(
    "error", [SourceEndedError("it has ended"), HaustraError("broken"), OSError("unplugged")]
)
def test_a_recording_appears_when_its_source_ends_or_fails(
    tmp_path: Path, error: Exception
) -> None:
    tap = Tap()
    with running_feed(tap, tmp_path) as feed:
        record(feed)
        if isinstance(error, OSError):
            feed.command({"do": "pause"})
            until(lambda: not shown(feed)["playing"])
        tap.error = error
        until(lambda: shown(feed)["recording"] is None)
        assert len(recorded(tmp_path / "recordings").frames) >= 3


def test_a_recording_goes_on_when_a_stream_reconnects(tmp_path: Path) -> None:
    tap = Tap(reconnects=True)
    with running_feed(tap, tmp_path) as feed:
        record(feed)
        tap.error = HaustraError("no further frame")
        until(lambda: tap.num_opened == 2)
        number = shown(feed)["recording"]
        until(lambda: shown(feed)["recording"] > number + 2)
    assert len(recorded(tmp_path / "recordings").frames) >= 6


def test_a_recording_appears_when_the_detector_fails(tmp_path: Path) -> None:
    detector: Any = bright_detector()
    with running_feed(Ticks(), tmp_path, watched(detector)) as feed:
        record(feed)

        def failing(*_: Any, **__: Any) -> Any:
            raise RuntimeError("out of memory")

        detector.detect = failing
        until(lambda: feed.state()["state"] == "failed")
        until(lambda: list((tmp_path / "recordings").glob("run_*")))
        assert len(recorded(tmp_path / "recordings").frames) >= 3


def test_a_recording_appears_although_the_source_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haustra.view.feed.STOP_TIMEOUT_S", 0.2)
    detector: Any = bright_detector()
    detect = detector.detect
    with running_feed(Ticks(), tmp_path, watched(detector)) as feed:
        record(feed)

        def hanging(*arguments: Any, **settings: Any) -> Any:
            time.sleep(2)
            return detect(*arguments, **settings)

        detector.detect = hanging
        until(lambda: feed.state()["state"] == "stalled")
    assert len(recorded(tmp_path / "recordings").frames) >= 3


def test_a_folder_that_is_removed_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    with running_feed(Ticks(), tmp_path) as feed:
        record(feed)
        # In one step, since a file that is written meanwhile would stop a removal.
        (tmp_path / "recordings").rename(tmp_path / "removed")
        [notice] = until(lambda: [n for n in notices(feed) if "recording has stopped" in n])
        assert "cannot be completed: " in notice
        assert notice.endswith("No such file or directory")
        assert plays_on(feed)


def test_a_recording_that_cannot_begin_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file")
    with running_feed(Ticks(), tmp_path) as feed:
        feed.command({"do": "record", "on": True})
        until(lambda: any(n.startswith("cannot record: ") for n in notices(feed)))
        assert plays_on(feed)
        assert shown(feed)["recording"] is None


def test_a_recording_of_dropped_frames_states_their_own_times_and_rate(tmp_path: Path) -> None:
    source = open_source(write_pictures(tmp_path / "p", *[0.6] * 40))  # 10 frames/s
    with running_feed(source, tmp_path, watched(bright_detector(sleep_s=0.35))) as feed:
        feed.command({"do": "record", "on": True})
        until(lambda: shown(feed)["frame"] > 30)
    run = recorded(tmp_path / "recordings")
    times = times_of(run)
    assert len(times) < 15
    assert all(round(10 * seconds, 6) == round(10 * seconds) for seconds in times)
    rate = (len(times) - 1) / (times[-1] - times[0])
    assert run.manifest.frame_rate_hz == pytest.approx(rate)
    assert 2 < rate < 4


@pytest.mark.parametrize(
    ("seconds", "stated_hz", "expected"),
    [
        ([0.0, 0.1, 0.2, 0.3], 10.0, 10.0),
        ([0.0, 0.1, 0.2, 0.5, 0.6, 0.9], 10.0, 5 / 0.9),
        ([5.0, 5.2, 5.4], None, 5.0),
        ([7.0], 10.0, 10.0),
        ([7.0], None, None),
        ([0.0, 0.1, 0.0], 10.0, None),  # the user has gone back
        ([0.1, 0.1], 10.0, None),
    ],
)
def test_the_rate_is_that_of_the_recorded_frames(
    tmp_path: Path, seconds: list[float], stated_hz: float | None, expected: float | None
) -> None:
    recording = Recording(tmp_path / "out", stated_hz=stated_hz, caption="bright")
    detections = bright_detector().detect(picture(0.8))
    for at in seconds:
        frame = SourceFrame(number=0, image_rgb=picture(0.8), seconds=at)
        recording.add(frame, detections)
    line = recording.finish()
    assert recording.finish() == line
    run = recorded(tmp_path / "out")
    assert times_of(run) == seconds
    assert run.manifest.frame_rate_hz == pytest.approx(expected)
    stamps = [frame.label.unix_time for frame in run.frames if frame.label]
    assert [stamp is None for stamp in stamps] == [stated_hz is not None] * len(seconds)


def test_a_recording_without_a_frame_leaves_nothing(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "out", stated_hz=None, caption="bright")
    assert recording.finish() == "no frame was recorded"
    assert list((tmp_path / "out").iterdir()) == []


class Stream(Source):
    """A live source that fails after some frames."""

    name, seekable, num_frames, frame_rate_hz = "stream", False, None, None

    def __init__(self, *, num_frames: int, error: BaseException) -> None:
        self._count, self._error = num_frames, error

    def read(self, number: int) -> SourceFrame:
        if number == self._count:
            raise self._error
        return SourceFrame(number=number, image_rgb=picture(0.8), seconds=number / 25)


def headless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, num_frames: int, error: BaseException
) -> Any:
    stream = Stream(num_frames=num_frames, error=error)
    monkeypatch.setattr(session, "open_source", lambda *_, **__: stream)
    config = ViewConfig(source="x", headless=True, max_frames=50, output_root=tmp_path / "out")
    return run_headless(config)


def test_a_headless_run_keeps_the_frames_of_a_stream_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = headless(tmp_path, monkeypatch, num_frames=7, error=HaustraError("it is gone"))
    assert (result.numbers["frames"], result.numbers["unreadable"]) == (7, ["it is gone"])
    run = recorded(tmp_path / "out")
    assert len(run.frames) == 7
    assert run.manifest.frame_rate_hz == pytest.approx(25)
    assert json.loads((run.folder / "numbers.json").read_text()) == result.numbers


@pytest.mark.parametrize("error", [HaustraError("it is gone"), SourceEndedError("it is over")])
def test_a_headless_run_without_a_frame_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: HaustraError
) -> None:
    with pytest.raises(HaustraError, match="no frame was recorded"):
        headless(tmp_path, monkeypatch, num_frames=0, error=error)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_a_headless_run_keeps_its_frames_after_ctrl_c_and_after_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with pytest.raises(type(error)) as raised:
        headless(tmp_path, monkeypatch, num_frames=5, error=error)
    run = recorded(tmp_path / "out")
    assert len(run.frames) == 5
    if isinstance(error, KeyboardInterrupt):
        assert str(raised.value) == f"interrupted; recorded 5 frames into {run.folder}"


@pytest.mark.parametrize("signal_number", [1, 2, 15])
@pytest.mark.parametrize("is_headless", [False, True])
def test_signals_end_the_program_and_finish_its_recording(
    tmp_path: Path, signal_number: int, is_headless: bool
) -> None:
    command = [sys.executable, "-m", "haustra", "view", "--source", "simulator:3", "--size", "64"]
    command += ["--output-root", str(tmp_path / "out")]
    if is_headless:
        command += ["--headless", "--max-frames", "100000"]
    else:
        command += ["--record", "--no-open-browser", "--port", str(free_port())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: list((tmp_path / "out").glob(".run_*/labels/frame_00003.json")), within_s=60)
        process.send_signal(signal_number)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    run = recorded(tmp_path / "out")
    assert len(run.frames) >= 3  # the signal may come while the fourth is written
    if is_headless:
        assert process.returncode == 130
        found = re.search(r"haustra: interrupted; recorded (\d+) frames into (.*)\n", errors)
        assert found
        assert (int(found[1]), found[2]) == (len(run.frames), str(run.folder))


def test_a_paused_film_is_recorded_out_of_order_without_a_rate(tmp_path: Path) -> None:
    source = open_source(write_pictures(tmp_path / "p", *[0.6] * 5))
    with running_feed(source, tmp_path) as feed:
        paused_at(feed, 3)
        record(feed, num_frames=1)
        for number in (4, 1):
            paused_at(feed, number)
    run = recorded(tmp_path / "recordings")
    assert (times_of(run), run.manifest.frame_rate_hz) == ([0.3, 0.4, 0.1], None)
