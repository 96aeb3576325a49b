"""Sources, detectors and feeds for the tests of the view."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from haustra.captures.sources import Source, SourceEndedError, SourceFrame
from haustra.core.errors import HaustraError
from haustra.core.images import write_png
from haustra.core.operating_point import OperatingPoint
from haustra.core.videos import writing_video
from haustra.inference.detector import Detector
from haustra.view.addresses import LOOPBACK
from haustra.view.connections import TimedProtocol
from haustra.view.feed import Feed
from haustra.view.guard import Access
from haustra.view.server import build_app
from haustra.view.training_page import TrainingFolder
from haustra.view.watched_detector import WatchedDetector


def bright_detector(*, caption: str = "bright", sleep_s: float = 0.0) -> Detector:
    """Return a detector of the bright square in a picture; its score is the square's brightness."""

    def predict_slots(images: NDArray[np.uint8]) -> Any:
        time.sleep(sleep_s)
        boxes, scores = np.zeros((len(images), 1, 4)), np.zeros((len(images), 1))
        for row, image in enumerate(images):
            gray = image.mean(axis=2)
            ys, xs = np.nonzero(gray > 25)
            if len(ys):
                boxes[row] = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 64
                scores[row] = gray.max() / 255
        return boxes, scores

    return Detector(
        predict_slots=predict_slots, kind="tiny", caption=caption, input_size_wh=(64, 64)
    )


def picture(score: float, *, x: int = 20) -> NDArray[np.uint8]:
    """Return a dark picture with a square at (x, 20) that `bright_detector` gives this score."""
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[20:36, x : x + 16] = round(255 * score)
    return image


def write_pictures(folder: Path, *scores: float) -> Path:
    """Write a folder of pictures."""
    folder.mkdir(parents=True)
    for number, score in enumerate(scores):
        write_png(folder / f"{number:03d}.png", image_rgb=picture(score))
    return folder


class Ticks(Source):
    """A live source of pictures at a rate, without an end or up to a number."""

    name, seekable, num_frames, frame_rate_hz = "ticks", False, None, None

    def __init__(
        self, *, rate_hz: float = 100.0, count: int | None = None, pausable: bool = False
    ) -> None:
        self._period_s, self._count, self.pausable = 1 / rate_hz, count, pausable
        self.is_closed = threading.Event()

    def read(self, number: int) -> SourceFrame:
        if number == self._count:
            raise SourceEndedError("ticks: it gave no further frame")
        time.sleep(self._period_s)
        return SourceFrame(
            number=number,
            image_rgb=picture(0.8),
            seconds=number * self._period_s,
            captured_at=time.monotonic(),
        )

    def close(self) -> None:
        self.is_closed.set()


class Tap(Source):
    """A live source that does what the test says at each frame."""

    name, seekable, num_frames, frame_rate_hz = "tap", False, None, None

    def __init__(self, *, reconnects: bool = False) -> None:
        self.reconnects = reconnects
        self.error: Exception | None = None
        self.opens = True
        self.num_opened = 1
        self.flows = threading.Event()
        self.flows.set()

    def read(self, number: int) -> SourceFrame:
        time.sleep(0.02)
        self.flows.wait()
        if self.error is not None:
            raise self.error
        return SourceFrame(number=number, image_rgb=picture(0.8), seconds=number / 50)

    def reopen(self) -> None:
        if not self.opens:
            raise HaustraError("tap: it is closed")
        self.num_opened, self.error = self.num_opened + 1, None

    def close(self) -> None:
        self.flows.set()


def watched(detector: Any = None) -> WatchedDetector:
    return WatchedDetector(lambda: detector or bright_detector(), path=None)


@contextmanager
def running_feed(
    source: Source,
    tmp_path: Path,
    *detectors: WatchedDetector,
    **point: Any,
) -> Iterator[Feed]:
    feed = Feed(
        source,
        list(detectors) or [watched()],
        point=OperatingPoint(**point),
        recordings=tmp_path / "recordings",
    )
    feed.start()
    try:
        yield feed
    finally:
        feed.stop()


@contextmanager
def serving_feed(feed: Feed) -> Iterator[int]:
    """Serve the page of a feed; yield the port."""
    port = free_port()
    access = Access(names=frozenset(LOOPBACK), token=None)
    app = build_app(feed, access=access, training=TrainingFolder(folder=None))
    config = uvicorn.Config(
        app,
        port=port,
        http=TimedProtocol,
        log_level="error",
        timeout_graceful_shutdown=1,
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def until(condition: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)
    return value


def shown(feed: Feed) -> dict[str, Any]:
    """Return the header of the latest publication."""
    return until(lambda: feed.shot).header  # type: ignore[no-any-return]


def notices(feed: Feed) -> list[str]:
    """Return the lines that pages have shown."""
    return [notice["text"] for notice in feed.state()["notices"]]


def reaches(feed: Feed, state: str, *, within_s: float = 20.0) -> dict[str, Any]:
    """Wait for a state, and return it."""
    until(lambda: feed.state()["state"] == state, within_s=within_s)
    return feed.state()


def plays_on(feed: Feed) -> bool:
    """Wait until frames are shown again."""
    before = shown(feed)["frame"]
    until(lambda: shown(feed)["frame"] > before + 2)
    return reaches(feed, "playing")["why"] is None


def paused_at(feed: Feed, frame: int) -> dict[str, Any]:
    """Pause at a frame and return its header."""
    feed.command({"do": "pause"})
    feed.command({"do": "seek", "frame": frame})
    until(lambda: shown(feed)["frame"] == frame and not shown(feed)["playing"])
    return shown(feed)


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write_video(path: Path, *, num_frames: int = 12, rate_hz: float = 20.0) -> None:
    """Write a 64 x 64 video of a bright square that moves to the right and grows brighter."""
    with writing_video(path, frame_rate_hz=rate_hz) as writer:
        for number in range(num_frames):
            writer.add(picture(0.5 + number / 40, x=2 * number))


@contextmanager
def reverse_proxy(
    target_port: int,
    *,
    prefix: str,
    removes_prefix: bool = False,
    host: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Serve what is below a prefix from another port, websockets too; yield the proxy's port.

    Args:
        target_port: Port of loopback that requests are sent to.
        prefix: Prefix of the paths that are passed on, such as /haustra.
        removes_prefix: Send paths on without the prefix.
        host: `Host` that is sent on; None for that of the request.
        tls: Certificate, to serve https.
    """

    def rewritten(head: bytes) -> bytes | None:
        lines = head.decode("latin-1").split("\r\n")
        method, path, version = lines[0].split(" ")
        if not path.startswith(f"{prefix}/"):
            return None
        path = path.removeprefix(prefix) if removes_prefix else path
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        headers = {"Connection": "close", **headers} | ({"Host": host} if host else {})
        if "Upgrade" not in headers:
            headers["Connection"] = "close"  # one request per connection
        sent = [f"{method} {path} {version}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*sent, "", ""]).encode("latin-1")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
            head = rewritten(await reader.readuntil(b"\r\n\r\n"))
            if head is None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nanother page")
                return
            from_target, to_target = await asyncio.open_connection("127.0.0.1", target_port)
            with closing(to_target):
                to_target.write(head)
                await asyncio.gather(pump(reader, to_target), pump(from_target, writer))

    async def run() -> None:
        stopping = asyncio.Event()
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
            stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopping.set)
            started.set_result((server.sockets[0].getsockname()[1], stop))
            await stopping.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.1)  # transports close

    started: Future[tuple[int, Callable[[], Any]]] = Future()
    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    port, stop = started.result()
    try:
        yield port
    finally:
        stop()
        thread.join()
