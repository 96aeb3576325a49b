"""The state of the feed: it is true while sources stall, end, fail and come back."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from test_server import ACCESS, HOST

from haustra.captures.sources import SourceEndedError, open_source
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.inference.detector import Detector
from haustra.view import players
from haustra.view.feed import Feed
from haustra.view.server import build_app
from haustra.view.training_page import TrainingFolder
from haustra.view.watched_detector import WatchedDetector
from viewing import (
    Tap,
    Ticks,
    bright_detector,
    plays_on,
    reaches,
    running_feed,
    shown,
    until,
    watched,
    write_pictures,
)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(players, "FIRST_RETRY_S", 0.05)


def test_a_source_that_stalls_is_never_called_live(tmp_path: Path) -> None:
    tap = Tap()
    with running_feed(tap, tmp_path) as feed:
        assert plays_on(feed)
        assert feed.state()["text"] == "live"
        tap.flows.clear()
        stopped = time.monotonic()
        state = reaches(feed, "stalled")
        assert 0.9 < time.monotonic() - stopped < 2.0
        assert state["text"] == "no frame for 1 s"
        until(lambda: feed.state()["text"] == "no frame for 2 s")
        feed.command({"do": "pause"})
        reaches(feed, "paused")
        feed.command({"do": "play"})
        until(lambda: shown(feed)["playing"])
        assert feed.state()["state"] == "stalled"
        tap.flows.set()
        assert plays_on(feed)


def test_a_source_without_a_first_frame_is_stalled(tmp_path: Path) -> None:
    tap = Tap()
    tap.flows.clear()
    with running_feed(tap, tmp_path) as feed:
        assert reaches(feed, "stalled")["source"] == "tap"
        assert feed.shot is None


def test_a_detector_that_hangs_is_stalled(tmp_path: Path) -> None:
    with running_feed(Ticks(), tmp_path, watched(bright_detector(sleep_s=1.8))) as feed:
        reaches(feed, "playing")
        reaches(feed, "stalled")
    folder = write_pictures(tmp_path / "p", *[0.6] * 50)
    slow = watched(bright_detector(sleep_s=1.8))
    with running_feed(open_source(folder), tmp_path, slow) as feed:
        reaches(feed, "stalled")


def test_a_slow_film_is_not_stalled(tmp_path: Path) -> None:
    source: Any = open_source(write_pictures(tmp_path / "p", 0.6, 0.7, 0.8))
    source.frame_rate_hz = 0.2
    source._times_s = [0.0, 5.0, 10.0]
    with running_feed(source, tmp_path) as feed:
        until(lambda: feed.shot)
        states = []
        for _ in range(20):
            states.append(feed.state()["state"])
            time.sleep(0.1)
        assert set(states) == {"playing"}


@pytest.mark.parametrize("error", [HaustraError("tap: no further frame"), OSError("unplugged")])
def test_a_stream_reconnects_by_itself_with_growing_waits(tmp_path: Path, error: Exception) -> None:
    tap = Tap(reconnects=True)
    with running_feed(tap, tmp_path) as feed:
        assert plays_on(feed)
        tap.opens, tap.error = False, error
        state = reaches(feed, "reconnecting")
        assert str(error) in state["why"] or state["why"] == "tap: it is closed"
        began = time.monotonic()
        until(lambda: feed.state()["attempt"] == 5)
        assert feed.state()["text"].startswith("reconnecting, attempt 5 ")
        assert feed.state()["text"].endswith(": tap: it is closed")
        assert time.monotonic() - began > 0.05 * (1 + 2 + 4)
        assert shown(feed)["playing"]
        tap.opens = True
        assert plays_on(feed)
        assert tap.num_opened == 2


def test_a_user_need_not_wait_for_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(players, "FIRST_RETRY_S", 60.0)
    tap = Tap(reconnects=True)
    with running_feed(tap, tmp_path) as feed:
        assert plays_on(feed)
        tap.error = HaustraError("tap: no further frame")
        assert reaches(feed, "reconnecting")["next_try_s"] >= 25
        feed.command({"do": "play"})
        assert plays_on(feed)


@pytest.mark.parametrize("error", [HaustraError("tap: broken"), ValueError("a bug\nin it")])
def test_a_source_that_fails_says_why_and_can_be_played_again(
    tmp_path: Path, error: Exception
) -> None:
    tap = Tap()
    with running_feed(tap, tmp_path) as feed:
        assert plays_on(feed)
        tap.error = error
        expected = "tap: broken" if isinstance(error, HaustraError) else "ValueError: a bug in it"
        assert reaches(feed, "failed")["text"] == f"failed: {expected}"
        until(lambda: not shown(feed)["playing"])
        feed.command({"do": "set", "objectness": 0.9})
        until(lambda: shown(feed)["settings"]["objectness"] == 0.9)
        tap.opens = False
        feed.command({"do": "play"})
        until(lambda: feed.state()["text"] == "failed: tap: it is closed")
        tap.opens = True
        feed.command({"do": "play"})
        assert plays_on(feed)


def test_a_live_source_that_ends_can_be_played_again(tmp_path: Path) -> None:
    tap = Tap(reconnects=True)
    with running_feed(tap, tmp_path) as feed:
        assert plays_on(feed)
        tap.error = SourceEndedError("tap has ended")
        reaches(feed, "ended")
        until(lambda: not shown(feed)["playing"])
        time.sleep(0.3)
        assert (feed.state()["state"], tap.num_opened) == ("ended", 1)
        feed.command({"do": "play"})
        assert plays_on(feed)


def test_a_film_ends_and_can_be_played_again(tmp_path: Path) -> None:
    source = open_source(write_pictures(tmp_path / "p", *[0.6] * 5))
    with running_feed(source, tmp_path) as feed:
        assert reaches(feed, "ended")["text"] == "ended"
        assert shown(feed)["frame"] == 4
        feed.command({"do": "step", "by": -1})
        reaches(feed, "paused")
        feed.command({"do": "play"})
        reaches(feed, "playing")
        reaches(feed, "ended")
        feed.command({"do": "play"})
        until(lambda: shown(feed)["frame"] < 3)
        assert reaches(feed, "playing")["text"] == "playing"


def test_a_film_whose_pictures_vanish_is_stalled_and_says_why(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", *[0.6] * 40)
    with running_feed(open_source(folder), tmp_path) as feed:
        until(lambda: shown(feed)["frame"] >= 2)
        for path in folder.iterdir():
            path.unlink()
        assert ".png" in reaches(feed, "stalled")["why"]
        reaches(feed, "ended")


class Moody:
    """A detector that fails while the test says so."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.real = bright_detector()

    def detect(self, *arguments: Any, **settings: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self.real.detect(*arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_an_error_of_the_detector_is_the_state_and_the_feed_goes_on(tmp_path: Path) -> None:
    moody: Any = Moody()
    with running_feed(Tap(), tmp_path, watched(moody)) as feed:
        assert plays_on(feed)
        moody.error = RuntimeError("out of memory\nin layer 3")
        assert reaches(feed, "failed")["text"] == "failed: RuntimeError: out of memory in layer 3"
        until(lambda: not shown(feed)["playing"])
        feed.command({"do": "set", "objectness": 0.4})
        until(lambda: shown(feed)["settings"]["objectness"] == 0.4)
        feed.command({"do": "play"})  # which fails again
        time.sleep(0.2)
        reaches(feed, "failed")
        moody.error = None
        feed.command({"do": "play"})
        assert plays_on(feed)


def test_other_weights_end_a_failure(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_text("first")
    moody: Any = Moody()

    def load() -> Detector:
        return moody if weights.read_text() == "first" else bright_detector()

    with running_feed(Tap(), tmp_path, WatchedDetector(load, path=weights)) as feed:
        assert plays_on(feed)
        moody.error = RuntimeError("no")
        reaches(feed, "failed")
        weights.write_text("the second")
        reaches(feed, "paused")
        feed.command({"do": "play"})
        assert plays_on(feed)


@pytest.fixture
def page() -> Iterator[tuple[Tap, TestClient]]:
    tap = Tap()
    feed = Feed(tap, [watched()], point=OperatingPoint(), recordings=Path("unused"))
    app = build_app(feed, access=ACCESS, training=TrainingFolder(folder=None))
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield tap, client


def next_state(websocket: Any) -> dict[str, Any]:
    while True:
        message = websocket.receive()
        if message.get("bytes"):
            websocket.send_text("ack")
        elif (value := json.loads(message["text"]))["kind"] == "state":
            return value  # type: ignore[no-any-return]


def test_every_page_gets_the_state_at_once_and_again_at_every_change(
    page: tuple[Tap, TestClient],
) -> None:
    tap, client = page
    with client.websocket_connect(f"ws://{HOST}/feed") as first:
        assert next_state(first)["state"] == "playing"
        tap.flows.clear()
        while (state := next_state(first))["state"] != "stalled":
            pass
        assert state["seconds"] == 1
        assert next_state(first)["seconds"] == 2
        with client.websocket_connect(f"ws://{HOST}/feed") as second:
            message = second.receive()
            assert json.loads(message["text"])["state"] == "stalled"
        tap.error = HaustraError("tap: broken")
        tap.flows.set()
        while (state := next_state(first))["state"] != "failed":
            pass
        assert state["why"] == "tap: broken"


def test_the_status_says_the_same_as_the_page(page: tuple[Tap, TestClient]) -> None:
    tap, client = page
    assert client.get("/status").json()["text"] == "live"
    tap.flows.clear()
    until(lambda: client.get("/status").json()["state"] == "stalled")
    assert client.get("/status").status_code == 200
    tap.error = HaustraError("tap: broken")
    tap.flows.set()
    until(lambda: client.get("/status").json()["text"] == "failed: tap: broken")
    assert client.get("/status").status_code == 503
