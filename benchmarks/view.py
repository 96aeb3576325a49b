"""Measure the age of the shown boxes, the server's memory, and the cost of further tabs.

    python -m benchmarks.view [--seconds 60]

1. A detector that takes 200 ms per frame runs on a source of 30 frames per second. Chromium reports
   the age of each box when it is drawn, counted from the capture of its frame. The limit is 200 ms
   plus two frame times. The server's memory is measured too.
2. TinyDet runs on 30 frames per second, and on more than it can process, with one tab and with 4.
   The rate of inference is compared. These tabs take and acknowledge each frame but draw nothing,
   since drawing in a browser uses the CPU whatever the server does.

The first part needs Chromium.
"""

import argparse
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from haustra.captures.sources import Source, SourceFrame
from haustra.core.detections import Slots
from haustra.core.operating_point import OperatingPoint
from haustra.inference.detector import Detector
from haustra.view.config import ViewConfig
from haustra.view.feed import Feed
from haustra.view.server import serve
from haustra.view.session import open_detectors
from haustra.view.watched_detector import WatchedDetector

RATE_HZ = 30.0
RATE_OF_MANY_HZ = 200.0
"""More frames than TinyDet can process, so that the detector is the limit."""
SLOW_S = 0.2
SIZE_PX = 384
ROUNDS = 5
LIMIT_MS = 1000 * (SLOW_S + 2 / RATE_HZ)
WEIGHTS = Path(__file__).parent.parent / "tests" / "view" / "tinydet_sim.bin"


class Moving(Source):
    """A live source of noise with a moving square."""

    name, seekable, num_frames = "moving", False, None

    def __init__(self, rate_hz: float) -> None:
        self.frame_rate_hz = rate_hz
        rng = np.random.default_rng(0)
        self._ground = rng.integers(60, 90, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)

    def read(self, number: int) -> SourceFrame:
        """Return the next frame."""
        image = self._ground.copy()
        x = 3 * number % (SIZE_PX - 60)
        image[100:160, x : x + 60] = 220
        return SourceFrame(number=number, image_rgb=image, seconds=number / RATE_HZ)


def slow_detector() -> Detector:
    """Return a slow detector of the square."""

    def predict_slots(images: NDArray[np.uint8]) -> Slots:
        time.sleep(SLOW_S)
        columns = np.flatnonzero(images[0, 130, :, 0] > 200)
        box_px = np.array([[[columns[0], 100, columns[-1] + 1, 160]]])
        return (box_px / SIZE_PX).astype(np.float32), np.full((1, 1), 0.9, dtype=np.float32)

    return Detector(
        predict_slots=predict_slots,
        kind="tiny",
        caption="slow",
        input_size_wh=(SIZE_PX, SIZE_PX),
    )


def serve_page(port: int, *, kind: str) -> None:
    """Serve the page for `Moving`, with the slow detector or TinyDet."""
    is_slow = kind == "slow"
    source = Moving(RATE_OF_MANY_HZ if kind == "many" else RATE_HZ)
    config = ViewConfig(
        detector_weights=None if is_slow else WEIGHTS, port=port, open_browser=False
    )
    detectors = [WatchedDetector(slow_detector, path=None)] if is_slow else open_detectors(config)
    feed = Feed(source, detectors, point=OperatingPoint(), recordings="recordings")
    serve(config, print_line=lambda line: print(line, flush=True), build=lambda _: feed)


@contextmanager
def serving(kind: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run a server in a process of its own, and yield its port and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise AssertionError("stdout is a pipe")
            while "Ctrl-C ends" not in (line := process.stdout.readline()):
                if not line:
                    sys.exit("the server ended")
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


def measure_ages(seconds: float) -> None:
    """Print the age of the boxes of a slow detector in Chromium, and the server's memory."""
    with serving("slow") as (port, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        while not page.evaluate("window.haustra?.drawnAges.length > 10"):
            page.wait_for_timeout(
                100
            )  # Playwright's own waiting is not allowed by the page's policy
        page.evaluate("window.haustra.drawnAges.length = 0")
        memory_mb = []
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            page.wait_for_timeout(1000)
            memory_mb.append(process.memory_info().rss / 1e6)
        ages_ms = np.array(page.evaluate("window.haustra.drawnAges"))
        dropped = page.evaluate("window.haustra.shown.dropped")
        browser.close()
    print(f"{len(ages_ms)} boxes drawn in {seconds:.0f} s, {dropped} frames dropped")
    print(
        f"age of the box when drawn: median {np.median(ages_ms):.0f} ms, p95 "
        f"{np.percentile(ages_ms, 95):.0f} ms, highest {ages_ms.max():.0f} ms; limit "
        f"{LIMIT_MS:.0f} ms; over it: {int((ages_ms > LIMIT_MS).sum())}"
    )
    quarter = max(1, len(memory_mb) // 4)
    first, last = median(memory_mb[:quarter]), median(memory_mb[-quarter:])
    print(
        f"memory of the server: {first:.1f} MB in the first quarter, {last:.1f} MB in the last, "
        f"ratio {last / first:.3f}"
    )


def _follow(tab: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        for message in tab:
            if isinstance(message, bytes):
                tab.send("ack")


def _frames_per_s(port: int, *, num_tabs: int, seconds: float) -> float:
    """Return the number of frames per second that the detector processed."""
    with ExitStack() as stack:
        tabs = [
            stack.enter_context(connect(f"ws://127.0.0.1:{port}/feed")) for _ in range(num_tabs)
        ]
        for tab in tabs[1:]:
            threading.Thread(target=_follow, args=(tab,), daemon=True).start()
        first = last = 0.0
        dropped_first = dropped_last = frame_first = frame_last = 0
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            message = tabs[0].recv()
            if not isinstance(message, bytes):
                continue
            [length] = struct.unpack(">I", message[:4])
            header = json.loads(message[4 : 4 + length])
            tabs[0].send("ack")
            last = time.monotonic()
            if not first:
                first, frame_first, dropped_first = last, header["frame"], header["dropped"]
            frame_last, dropped_last = header["frame"], header["dropped"]
        num_processed = (frame_last - frame_first) - (dropped_last - dropped_first)
        return num_processed / (last - first)


def measure_tabs(kind: str, *, seconds: float) -> None:
    """Print the rate of inference with four tabs, relative to one tab."""
    ratios, ones = [], []
    with serving(kind) as (port, _):
        for _round in range(ROUNDS):
            one = _frames_per_s(port, num_tabs=1, seconds=seconds)
            four = _frames_per_s(port, num_tabs=4, seconds=seconds)
            ratios.append(four / one)
            ones.append(one)
    source_hz = RATE_OF_MANY_HZ if kind == "many" else RATE_HZ
    print(
        f"TinyDet on {source_hz:.0f} frames/s, with four tabs / with one ({median(ones):.1f} "
        f"frames/s): {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Measure, or serve for the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--serve", choices=["slow", "tiny", "many"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_page(arguments.port, kind=arguments.serve)
        return
    measure_ages(arguments.seconds)
    for kind in ("tiny", "many"):
        measure_tabs(kind, seconds=arguments.seconds / 10)


if __name__ == "__main__":
    main()
