"""300 seeded actions against four running views: the feed lives, and the state shown is true.

The views show a camera that OpenCV reads over HTTP, a source that reconnects, one that does not,
and a film. Sources stall, fail, end and come back; detectors fail; weights are replaced by rubbish;
the disk of the recordings fills; tabs come and go; sliders move. HAUSTRA_VIEW_STRESS_S sets the
time in seconds (600), HAUSTRA_VIEW_STRESS_SEED the seed.
"""

import errno
import gc
import http.client
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from haustra.captures.reader import read_run
from haustra.captures.sources import Source, SourceEndedError, SourceFrame, open_source
from haustra.captures.validation import CheckedFrame, check_frame
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.inference.detector import Detector
from haustra.view.feed import Feed
from haustra.view.watched_detector import WatchedDetector
from viewing import bright_detector, picture, serving_feed, until

DURATION_S = float(os.environ.get("HAUSTRA_VIEW_STRESS_S", "600"))
SEED = int(os.environ.get("HAUSTRA_VIEW_STRESS_SEED", "28"))
NUM_ACTIONS = 300
RATE_HZ = 10.0
TRUE_WITHIN_S = 2.0
RECOVERED_WITHIN_S = 60.0
"""The longest wait between two attempts to open a source is 30 s, and opening takes up to 10 s."""
MAX_GROWTH_MIB = 30
DISK_MIB = 4
MAX_TABS = 6

pytestmark = pytest.mark.stress


class Faulty(Source):
    """A source at 10 frames/s that flows, stalls, fails or ends, as the test sets `mode`."""

    num_frames: int | None = None
    frame_rate_hz: float | None = None

    def __init__(
        self, name: str, *, reconnects: bool = False, num_frames: int | None = None
    ) -> None:
        self.name, self.reconnects = name, reconnects
        self.num_frames, self.seekable = num_frames, num_frames is not None
        self.frame_rate_hz = RATE_HZ if self.seekable else None
        self.mode = "flow"
        self._is_closed = False

    def read(self, number: int) -> SourceFrame:
        if not self.seekable:
            time.sleep(1 / RATE_HZ)
        while self.mode == "stall" and not self._is_closed:
            time.sleep(0.02)
        if self.num_frames is not None and number >= self.num_frames:
            raise SourceEndedError(f"{self.name} has ended")
        if self.mode == "fail" or self.mode == "gone":
            raise HaustraError(f"{self.name}: no further frame arrived")
        if self.mode == "crash":
            raise OSError(errno.EIO, "Input/output error")
        if self.mode == "end" and not self.seekable:
            raise SourceEndedError(f"{self.name} has ended")
        image = picture(0.5 + number % 40 / 100, x=number % 40)
        return SourceFrame(number=number, image_rgb=image, seconds=number / RATE_HZ)

    def reopen(self) -> None:
        if self.mode == "gone":
            raise HaustraError(f"{self.name}: it is not there")
        self.mode = "stall" if self.mode == "stall" else "flow"

    def close(self) -> None:
        self._is_closed = True


class HttpCamera:
    """A camera over HTTP (MJPEG), which OpenCV reads."""

    def __init__(self) -> None:
        self.mode = "flow"
        camera = self
        _, jpeg = cv2.imencode(".jpg", picture(0.8))
        part = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        part += jpeg.tobytes() + b"\r\n"

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                if camera.mode in ("gone", "closed"):
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
                self.end_headers()
                with suppress(OSError):
                    while camera.mode in ("flow", "stall"):
                        if camera.mode == "flow":
                            self.wfile.write(part)
                        time.sleep(1 / RATE_HZ)
                    if camera.mode in ("fail", "crash", "end"):  # the cut, after which it is back
                        camera.mode = "flow"

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/live.mjpg"

    def close(self) -> None:
        self.mode = "closed"
        self._server.shutdown()
        self._server.server_close()


class Moody:
    """A detector that fails while its view says so."""

    def __init__(self, view: "View", real: Detector) -> None:
        self._view, self._real = view, real

    def detect(self, *arguments: Any, **settings: Any) -> Any:
        if self._view.detector_fails and threading.current_thread().name == "feed":
            raise RuntimeError("out of memory")
        return self._real.detect(*arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class View:
    """A served feed, with a tab that watches what it says."""

    def __init__(self, source: Source, switch: Any, folder: Path, recordings: Path) -> None:
        self.name, self.switch = source.name, switch
        self.is_live = not source.seekable
        self.detector_fails = False
        self.mode_at = self.weights_at = time.monotonic()
        self.weights = folder / f"{len(list(folder.iterdir()))}.weights"
        self.weights.write_text("good 0")
        self.recordings = recordings
        detector = WatchedDetector(self._load, path=self.weights)
        self.feed = Feed(source, [detector], point=OperatingPoint(), recordings=recordings)
        self._opened = ExitStack()
        self.port = self._opened.enter_context(serving_feed(self.feed))
        self.tabs: list[ClientConnection] = []
        self.watch = Watch(self)
        until(lambda: self.watch.state and self.watch.header)

    def open_tab(self) -> ClientConnection:
        address = f"ws://127.0.0.1:{self.port}/feed"
        return self._opened.enter_context(
            connect(address, max_size=None, ping_interval=None, close_timeout=0.5)
        )

    def _load(self) -> Any:
        text = self.weights.read_text()
        if not text.startswith("good"):
            kinds = [HaustraError, KeyError, ValueError, RuntimeError]
            raise kinds[len(text) % len(kinds)](f"{self.weights.name} is damaged")
        return Moody(self, bright_detector(caption=text))

    @property
    def mode(self) -> str:
        return str(self.switch.mode)

    def set_mode(self, mode: str) -> None:
        self.switch.mode, self.mode_at = mode, time.monotonic()

    def replace_weights(self, text: str) -> None:
        new = self.weights.with_suffix(".new")
        new.write_text(text)
        new.replace(self.weights)
        self.weights_at = time.monotonic()

    def ask(self, **command: Any) -> None:
        self.watch.send(json.dumps(command))

    def status(self) -> dict[str, Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        line.request("GET", "/status")
        answer = line.getresponse()
        state: dict[str, Any] = json.load(answer)
        line.close()
        assert answer.status == (503 if state["state"] == "failed" else 200)
        return state

    def close(self) -> None:
        self.watch.is_closing = True
        self._opened.close()


class Watch:
    """A tab that reads and acknowledges everything, and notes what is not true."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.is_closing = False
        self.problems: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.state: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.state_at = self.kind_at = self.fresh_at = self.flows_from = time.monotonic()
        self.notices: dict[int, str] = {}
        self.num_recorded = 0
        """Number of frames that the page has said to be recorded."""
        self._socket = view.open_tab()
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, text: str) -> None:
        self._socket.send(text)

    def _run(self) -> None:
        while not self.is_closing:
            message: str | bytes = ""
            try:
                message = self._socket.recv(timeout=0.1)
            except TimeoutError:
                pass
            except ConnectionClosed:
                if not self.is_closing:
                    self._note("the page was closed")
                return
            if isinstance(message, bytes):
                self._take_frame(message)
            elif message:
                self._take_text(json.loads(message))
            self._check()

    def _take_frame(self, message: bytes) -> None:
        [length] = struct.unpack(">I", message[:4])
        header = json.loads(message[4 : 4 + length])
        self._socket.send("ack")
        now = time.monotonic()
        if header["frame"] != self.header.get("frame"):
            if now - self.fresh_at > 1.0 or not header["playing"]:
                self.flows_from = now
            self.fresh_at = now
            is_late = now - max(self.kind_at, self.flows_from) > TRUE_WITHIN_S
            if header["playing"] and self.state.get("state") != "playing" and is_late:
                self._note(f"frames arrive, but it says {self.state.get('text')}")
        before, count = self.header.get("recording") or 0, header["recording"] or 0
        self.num_recorded += max(0, count - before) if count >= before else count
        self.header = header

    def _take_text(self, message: dict[str, Any]) -> None:
        if message["kind"] != "state":
            return
        if message["state"] != self.state.get("state"):
            self.kind_at = time.monotonic()
            self.kinds[message["state"]] += 1
        self.state, self.state_at = message, time.monotonic()
        self.notices |= {notice["id"]: notice["text"] for notice in message["notices"]}

    def _check(self) -> None:
        view, now = self.view, time.monotonic()
        kind = self.state.get("state")
        if now - self.state_at > TRUE_WITHIN_S:
            self._note("no state was sent")
        is_old = now - self.fresh_at > TRUE_WITHIN_S
        if kind == "playing" and is_old and now - self.kind_at > TRUE_WITHIN_S:
            self._note(f"it says {self.state['text']}, but no frame has come")
        if not view.is_live or now - view.mode_at < TRUE_WITHIN_S:
            return
        if kind == "playing" and view.mode != "flow":
            self._note(f"it says {self.state['text']} of a source that does not flow: {view.mode}")

    def _note(self, problem: str) -> None:
        now = time.monotonic()
        self.problems.append(f"{now - STARTED:.1f} s, {self.view.name}: {problem}")
        self.state_at = self.kind_at = self.fresh_at = now  # which says it once


STARTED = time.monotonic()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system on a folder, if root runs the tests; yield True if it is there."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    is_small = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_small
    finally:
        if is_small:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


class Recorded:
    """Checks each recording that a page reports, and moves it off the small disk."""

    def __init__(self, kept: Path) -> None:
        self._kept, self._done = kept, set[tuple[str, int]]()
        self.num_runs, self.counts = 0, Counter[str]()

    def check(self, view: View) -> None:
        for number, text in list(view.watch.notices.items()):
            if (view.name, number) in self._done:
                continue
            self._done.add((view.name, number))
            assert "cannot be completed" not in text, text
            if "recorded " not in text or " frames into " not in text:
                continue
            count = int(text.partition("recorded ")[2].split()[0])
            folder = Path(text.rpartition(" frames into ")[2])
            self.counts[view.name] += count
            run = read_run(folder)
            assert run.manifest.num_frames == len(run.frames) == count
            assert all(isinstance(check_frame(frame), CheckedFrame) for frame in run.frames)
            self.num_runs += 1
            shutil.move(folder, self._kept / f"{self.num_runs}")
            shutil.rmtree(self._kept / f"{self.num_runs}")


def open_tab(rng: random.Random, view: View) -> None:
    if len(view.tabs) >= MAX_TABS:
        view.tabs.pop(rng.randrange(len(view.tabs))).socket.close()  # without a goodbye
        return
    tab = view.open_tab()
    first = json.loads(tab.recv(timeout=TRUE_WITHIN_S))
    assert first["kind"] == "state"  # a new tab learns it at once
    view.tabs.append(tab)


def close_tab(rng: random.Random, view: View) -> None:
    if view.tabs:
        view.tabs.pop(rng.randrange(len(view.tabs))).close()


def move_sliders(rng: random.Random, view: View) -> None:
    for _ in range(40):
        name = rng.choice(["objectness", "iou", "hysteresis"])
        view.ask(do="set", **{name: round(rng.random(), 2)})
    view.ask(do="set", objectness=0.3, hold_off_frames=rng.randrange(4))


def search(rng: random.Random, view: View) -> None:
    view.ask(do="find", verdict=rng.choice(["miss", "false"]), backward=rng.random() < 0.5)


def change_source(rng: random.Random, view: View) -> None:
    view.set_mode(rng.choice(["stall", "fail", "crash", "gone", "end"]))


def heal(rng: random.Random, view: View) -> None:
    view.detector_fails = False
    view.set_mode("flow")
    view.ask(do="play")


def fail_detector(rng: random.Random, view: View) -> None:
    view.detector_fails = True


def change_weights(rng: random.Random, view: View) -> None:
    is_good = rng.random() < 0.5
    view.replace_weights(f"good {rng.random()}" if is_good else "rubbish" * rng.randrange(1, 9))


def command(**values: Any) -> Callable[[random.Random, View], None]:
    return lambda rng, view: view.ask(**values)


def seek(rng: random.Random, view: View) -> None:
    view.ask(do="seek", frame=rng.randrange(400))


def start_recording(rng: random.Random, view: View) -> None:
    view.ask(do="record", on=True)


ACTIONS: list[tuple[int, Callable[[random.Random, View], None]]] = [
    (8, change_source),
    (12, heal),
    (3, fail_detector),
    (5, change_weights),
    (6, open_tab),
    (3, close_tab),
    (5, move_sliders),
    (2, search),
    (3, seek),
    (2, command(do="pause")),
    (4, command(do="play")),
    (2, command(do="step", by=1)),
    (1, command(do="step", by=-3)),
    (1, command(do="drive", ahead=1.0)),
    (1, command(do="set", speed=2.0)),
    (1, command(do="nonsense")),
    (8, start_recording),
    (4, command(do="record", on=False)),
]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")  # seen with `pytest -s`


def memory_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def check_weights(view: View) -> None:
    """A page says that weights do not load, and goes on with those that did."""
    state_for_s = time.monotonic() - max(view.watch.kind_at, view.weights_at)
    if view.watch.state["state"] == "playing" and state_for_s > 2 * TRUE_WITHIN_S:
        problem = view.watch.header["detectors"][0]["problem"]
        is_good = view.weights.read_text().startswith("good")
        assert (problem is None) == is_good, problem


def test_full_disks_are_among_the_actions(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as is_small:
        if not is_small:
            pytest.skip("only root can mount a small file system: disks do not fill here")


def test_300_actions(tmp_path: Path) -> None:
    rng, kept, weights, disk = random.Random(SEED), *(tmp_path / n for n in ("k", "w", "disk"))
    kept.mkdir()
    weights.mkdir()
    recorded = Recorded(kept)
    with ExitStack() as stack:
        is_small = stack.enter_context(small_disk(disk))
        camera = HttpCamera()
        stack.callback(camera.close)
        sources: list[tuple[Source, Any]] = [(open_source(camera.url), camera)]
        for name, settings in (
            ("stream", {"reconnects": True}),
            ("device", {}),
            ("film", {"num_frames": 250}),
        ):
            faulty = Faulty(name, **settings)
            sources.append((faulty, faulty))
        views = []
        for number, (source, switch) in enumerate(sources):
            views.append(View(source, switch, weights, disk / str(number)))
            stack.callback(views[-1].close)
        used, done = list[float](), Counter[str]()
        begun = time.monotonic()
        for number in range(NUM_ACTIONS):
            until_s = begun + DURATION_S * (number + rng.random()) / NUM_ACTIONS
            while time.monotonic() < until_s:
                time.sleep(min(0.25, max(0.0, until_s - time.monotonic())))
                for view in views:
                    recorded.check(view)
                    check_weights(view)
            view = rng.choice(views)
            weights_of, functions = zip(*ACTIONS, strict=True)
            [action] = rng.choices(functions, weights_of)
            action(rng, view)
            done[getattr(action, "__name__", "")] += 1
            if is_small and rng.random() < 0.06:
                fill(disk)
            elif is_small and rng.random() < 0.2:
                (disk / "filler").unlink(missing_ok=True)
            if number % 10 == 0:
                status = view.status()
                until(lambda: view.watch.state["state"] == view.status()["state"])  # noqa: B023
                assert status["source"] == view.name
                used.append(memory_mib())
        (disk / "filler").unlink(missing_ok=True)
        for view in views:
            heal(rng, view)
            view.replace_weights("good at last")
        for view in views:
            until(lambda: is_alive(view), within_s=RECOVERED_WITHIN_S)  # noqa: B023
            view.ask(do="record", on=True)
            until(lambda: (view.watch.header["recording"] or 0) >= 3)  # noqa: B023
            view.ask(do="record", on=False)
            until(lambda: view.watch.header["recording"] is None)  # noqa: B023
        time.sleep(2 * TRUE_WITHIN_S)
        for view in views:
            recorded.check(view)
            assert recorded.counts[view.name] >= view.watch.num_recorded > 0
            check_weights(view)
        say(f"{dict(done)}; {recorded.num_runs} recordings of {dict(recorded.counts)} frames")
        say(str({view.name: dict(view.watch.kinds) for view in views}))
        say(f"memory, MiB: {[round(value) for value in used]}")
        problems = [problem for view in views for problem in view.watch.problems]
        left = [path for path in disk.glob("*/*") if path.name.startswith((".", "run_"))]
        assert left == []
        assert problems == [], "\n".join(problems)
        half = used[len(used) // 2]
        assert max(used[-3:]) < half + MAX_GROWTH_MIB


def is_alive(view: View) -> bool:
    """Return True if frames are shown; a source that waits for the user is played again."""
    if view.watch.state["state"] in ("failed", "ended", "paused"):
        view.ask(do="play")
        time.sleep(0.5)
    before = view.watch.header.get("frame")
    time.sleep(0.5)
    return view.watch.state["state"] == "playing" and view.watch.header.get("frame") != before
