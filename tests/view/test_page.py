"""The page in Chromium: a trained TinyDet on the simulator, and a recorded run.

Skipped with a message if Chromium is not installed. HAUSTRA_SCREENSHOTS=FOLDER saves screenshots.
"""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright

from haustra.captures.reader import read_run
from haustra.captures.schema import RunManifest
from haustra.captures.sources import SourceEndedError
from haustra.captures.writer import writing_run
from haustra.core.boxes import iou_matrix
from haustra.core.errors import HaustraError
from haustra.core.images import encode_png, read_image_rgb
from haustra.core.operating_point import OperatingPoint
from haustra.core.paths import run_folder_of
from haustra.simulator.live import LiveColon
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.view.feed import Feed
from odd_videos import VIDEOS, number_in
from scenes import write_warehouse
from viewing import Tap, free_port, reverse_proxy, serving_feed, until, watched

TRAINED = Path(__file__).parent / "tinydet_sim.bin"
COLON, SIZE_PX = 22, 192  # a colon that it was not trained on, with a polyp within some seconds
NUM_RUN_FRAMES = 100
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@cache
def find_chromium() -> str | None:
    """Return the path of Chromium, the system's or Playwright's; None if there is neither."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None,
        reason="needs Chromium: `apt-get install chromium`, or `.venv/bin/playwright install "
        "chromium`",
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@contextmanager
def serving(*arguments: object, port: int | None = None) -> Iterator[str]:
    """Run `haustra view` and yield the address that it prints."""
    port = port or free_port()
    command = [sys.executable, "-m", "haustra", "view", "--port", str(port), "--no-open-browser"]
    with subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            while "Ctrl-C ends" not in (line := process.stdout.readline()):
                assert line, "haustra view ended"
            yield line.split()[-3]
        finally:
            process.terminate()


@contextmanager
def opening(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """Open the page, and fail if its console has an error at the end."""
    problems: list[str] = []
    with browser.new_context(**{"viewport": WIDE, **options}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda line: problems.append(line.text) if line.type == "error" else None
        )
        page.goto(address)
        yield page
    assert problems == []


def is_ready(page: Page) -> bool:
    return bool(page.evaluate("Boolean(window.haustra?.shown && window.haustra.timeline)"))


def shown(page: Page) -> dict[str, Any]:
    return page.evaluate("window.haustra.shown")  # type: ignore[no-any-return]


def boxes(page: Page, which: int = 0) -> list[list[float]]:
    return shown(page)["detectors"][which]["boxes_px"]  # type: ignore[no-any-return]


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("HAUSTRA_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


# The simulator, live.


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def simulator(browser: Browser, recordings: Path) -> Iterator[str]:
    arguments = ("--source", f"simulator:{COLON}", "--size", SIZE_PX, "--output-root", recordings)
    with serving(*arguments, "--detector-weights", TRAINED) as address:
        yield address


@pytest.fixture
def live(browser: Browser, simulator: str) -> Iterator[Page]:
    with opening(browser, simulator) as page:
        until(lambda: is_ready(page))
        yield page


def test_boxes_are_on_the_polyps(live: Page) -> None:
    frames: dict[int, dict[str, Any]] = {}

    def watch() -> bool:
        header = shown(live)
        if header["truth_px"] and header["detectors"][0]["boxes_px"]:
            frames[header["frame"]] = header
        return len(frames) >= 12

    until(watch, within_s=120)
    keep(live, "live")
    assert shown(live)["detectors"][0]["name"] == "tinydet"
    assert not live.locator("#banner").is_visible()
    truths = [np.array(header["truth_px"]) for header in frames.values()]
    found = [np.array(header["detectors"][0]["boxes_px"]) for header in frames.values()]
    best = [iou_matrix(ours, theirs).max() for ours, theirs in zip(found, truths, strict=True)]
    mirrored = [theirs[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [SIZE_PX, 0] * 2 for theirs in truths]
    chance = [iou_matrix(ours, other).max() for ours, other in zip(found, mirrored, strict=True)]
    assert np.mean(np.array(best) > 0) >= 0.7
    assert np.mean(best) > 2 * np.mean(chance)


def green_pixels(page: Page, which: int = 0) -> int:
    """Count the pixels of the canvas that have the color of the detector's boxes."""
    script = """which => {
        const canvas = document.querySelectorAll("#pictures canvas")[which];
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let at = 0; at < data.length; at += 4)
            count += data[at] === 80 && data[at + 1] === 255 && data[at + 2] === 120;
        return count;
    }"""
    return page.evaluate(script, which)  # type: ignore[no-any-return]


def test_a_slider_changes_the_boxes_of_the_paused_frame(live: Page) -> None:
    live.keyboard.press("Space")
    until(lambda: not shown(live)["playing"])
    number = shown(live)["frame"]
    for value, is_drawn in (("0", True), ("1", False), ("0", True)):
        live.locator("#objectness").fill(value)
        until(lambda: shown(live)["settings"]["objectness"] == float(value))  # noqa: B023
        until(lambda: (green_pixels(live) > 50) == is_drawn)  # noqa: B023
        assert live.locator("#objectness-value").inner_text() == f"{float(value):.2f}"
    live.locator("#objectness").fill("0.3")
    assert shown(live)["frame"] == number


def test_the_simulator_pauses_steps_and_plays(live: Page) -> None:
    if shown(live)["playing"]:
        live.locator("#play").click()
    until(lambda: live.locator("#state").inner_text() == "paused")
    number = shown(live)["frame"]
    live.keyboard.press("ArrowRight")
    until(lambda: number < shown(live)["frame"] <= number + 3)
    assert live.locator("#back").is_disabled()
    live.locator("#play").click()
    until(lambda: shown(live)["playing"] and shown(live)["frame"] > number + 3)
    until(lambda: re.fullmatch(r"\d+ ms", live.locator("#age").inner_text()))
    assert re.fullmatch(r"\d+ / \d+ ms", live.locator("#latency").inner_text())


@pytest.mark.parametrize("key", ["m", "f", "Shift+M", "Shift+F", "ArrowLeft"])
def test_keys_that_a_live_source_refuses_do_not_pause_it(live: Page, key: str) -> None:
    live.evaluate("window.haustra.ask({ do: 'play' })")
    until(lambda: shown(live)["playing"])
    live.keyboard.press(key)
    live.locator("#notices li", has_text="is live: it cannot").wait_for()
    number = shown(live)["frame"]
    until(lambda: shown(live)["frame"] > number + 2)
    assert shown(live)["playing"]
    live.keyboard.press(key)
    live.wait_for_timeout(300)
    assert live.locator("#notices li").count() == 1  # the same notice again replaces the first


def test_disabled_controls_look_disabled_and_say_why(live: Page) -> None:
    styles = """id => {
        const { opacity, cursor } = getComputedStyle(document.getElementById(id));
        return [Number(opacity), cursor];
    }"""
    for name in ("back", "previous-miss", "next-miss", "previous-false", "next-false", "speed"):
        assert live.locator(f"#{name}").is_disabled()
        opacity, cursor = live.evaluate(styles, name)
        assert opacity < 0.7
        assert cursor == "not-allowed"
        assert "is live" in (live.locator(f"#{name}").get_attribute("title") or "")
    assert live.evaluate(styles, "play") == [1, "pointer"]


def test_keys_drive_the_simulator_and_give_it_back(live: Page) -> None:
    assert "WASD" in live.locator("#autopilot").inner_text()
    assert not live.locator("#drive-hint").is_visible()
    live.keyboard.press("p")
    until(lambda: shown(live)["autopilot"] is False)
    until(lambda: live.locator("#drive-hint").is_visible())
    assert live.locator("#drive-hint kbd").all_inner_texts() == ["W", "S", "A", "D", "P"]
    before = live.evaluate("document.querySelector('#pictures canvas').toDataURL()")
    live.keyboard.down("w")
    live.wait_for_timeout(400)
    live.keyboard.up("w")
    assert live.evaluate("document.querySelector('#pictures canvas').toDataURL()") != before
    live.mouse.move(500, 300)
    live.mouse.down()
    live.mouse.move(600, 300)
    live.wait_for_timeout(200)
    live.mouse.up()
    live.keyboard.press("p")
    until(lambda: shown(live)["autopilot"])


def test_a_recording_appears(live: Page, recordings: Path) -> None:
    live.keyboard.press("r")
    until(lambda: (shown(live)["recording"] or 0) >= 3)
    assert "recording" in live.locator("#state").inner_text()
    live.keyboard.press("r")
    until(lambda: shown(live)["recording"] is None)
    live.locator("#notices li", has_text="recorded").wait_for()
    [folder] = recordings.iterdir()
    run = read_run(folder)
    assert run.manifest.source == "inference"
    assert run.manifest.num_frames is not None
    assert run.manifest.num_frames >= 3


# A recorded run.


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first seconds of the same colon as a run folder."""
    colon = LiveColon(COLON, size_px=SIZE_PX)
    folder = tmp_path_factory.mktemp("run") / "run_colon"
    with writing_run(
        folder,
        manifest=RunManifest(
            run_id="colon", source="simulated", group_id="colon", frame_rate_hz=10.0
        ),
    ) as writer:
        for _ in range(NUM_RUN_FRAMES):
            view = colon.next_frame()
            writer.add_frame(
                encode_png(view.image_rgb),
                suffix=".png",
                image_size_wh=(SIZE_PX, SIZE_PX),
                labels=view.labels,
            )
    return folder


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training, with its run folder; return its checkpoint."""
    folder = tmp_path_factory.mktemp("training")
    weights = folder / "detector.bin"
    manifest = write_warehouse(folder / "data")
    train_detector(TrainConfig(manifest=manifest, epochs=2, val_every=1, checkpoint_out=weights))
    return weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copyfile(TRAINED, tmp_path_factory.mktemp("weights") / "weights.bin")


@pytest.fixture(scope="module")
def run_address(browser: Browser, run_folder: Path, weights: Path, training: Path) -> Iterator[str]:
    arguments = ("--source", run_folder, "--detector-weights", weights, "--compare", training)
    with serving(*arguments, "--training", run_folder_of(training)) as address:
        yield address


@pytest.fixture
def recorded(browser: Browser, run_address: str) -> Iterator[Page]:
    with opening(browser, run_address) as page:
        until(lambda: is_ready(page))
        page.evaluate("window.haustra.ask({ do: 'set', objectness: 0.3 })")
        until(lambda: shown(page)["settings"]["objectness"] == 0.3)
        yield page


def test_scrubbing_stepping_and_finding_mistakes(recorded: Page) -> None:
    page = recorded
    page.evaluate("window.haustra.ask({ do: 'play' })")
    strip = page.locator("#timeline").bounding_box()
    assert strip is not None
    middle = strip["y"] + strip["height"] / 2
    page.mouse.move(strip["x"] + 0.2 * strip["width"], middle)
    page.mouse.down()
    page.mouse.move(strip["x"] + 0.55 * strip["width"], middle, steps=5)
    page.mouse.up()
    until(lambda: abs(shown(page)["frame"] - 0.55 * NUM_RUN_FRAMES) <= 1)
    page.keyboard.press("Space")
    until(lambda: not shown(page)["playing"])
    number = shown(page)["frame"]
    page.keyboard.press("ArrowLeft")
    until(lambda: shown(page)["frame"] == number - 1)
    page.locator("#forward").click()
    until(lambda: shown(page)["frame"] == number)
    page.mouse.click(strip["x"] + 1, middle)
    until(lambda: shown(page)["frame"] == 0)
    page.keyboard.press("m")
    until(lambda: shown(page)["verdict"] == "miss")
    keep(page, "miss")
    assert shown(page)["truth_px"]
    assert page.locator("#verdict").inner_text() == "polyp missed"
    assert (
        boxes(page) == []
        or iou_matrix(np.array(boxes(page)), np.array(shown(page)["truth_px"])).max() == 0
    )
    page.locator("#objectness").fill("0")
    page.mouse.click(strip["x"] + 1, middle)
    page.locator("#next-false").click()
    until(lambda: shown(page)["verdict"] == "false")
    assert (shown(page)["truth_px"], page.locator("#verdict").inner_text()) == ([], "false alarm")
    until(
        lambda: (
            page.locator("#timeline").get_attribute("aria-valuenow") == str(shown(page)["frame"])
        )
    )


def test_a_search_can_go_back_and_counts_frames_as_the_page_does(recorded: Page) -> None:
    page = recorded
    page.evaluate("window.haustra.ask({ do: 'set', objectness: 1 })")  # every polyp is missed
    pause_at(page, NUM_RUN_FRAMES - 1)
    page.locator("#previous-miss").click()
    until(lambda: shown(page)["verdict"] == "miss")
    last = shown(page)["frame"]
    page.keyboard.press("Shift+M")
    until(lambda: shown(page)["frame"] < last and shown(page)["verdict"] == "miss")
    pause_at(page, 0)
    assert page.locator("#place").inner_text().startswith(f"frame 1 of {NUM_RUN_FRAMES}")
    page.keyboard.press("Shift+F")
    page.locator("#notices li", has_text="no false alarm before frame 1").wait_for()


def test_every_control_has_a_tooltip_and_the_keys_are_in_them(recorded: Page) -> None:
    titles: dict[str, str] = recorded.evaluate(
        "Object.fromEntries([...document.querySelectorAll('a, button, input, select, #timeline')]"
        ".map((e) => [e.id, (e.closest('[title]') ?? e).title]))"
    )
    assert [name for name, title in titles.items() if not title] == []
    keys = {
        "play": "space",
        "back": "←",
        "forward": "→",
        "next-miss": "M",
        "previous-miss": "shift M",
        "next-false": "F",
        "previous-false": "shift F",
        "truth": "G",
        "record": "R",
        "snapshot": "S",
        "autopilot": "P",
        "keys-button": "?",
    }
    assert [name for name, key in keys.items() if not titles[name].endswith(f"({key})")] == []


def pause_at(page: Page, frame: int) -> None:
    page.evaluate("window.haustra.ask({ do: 'pause' })")
    page.evaluate(f"window.haustra.ask({{ do: 'seek', frame: {frame} }})")
    until(lambda: shown(page)["frame"] == frame and not shown(page)["playing"])


def test_changed_weights_are_loaded_and_broken_ones_refused(
    recorded: Page, weights: Path, training: Path
) -> None:
    page = recorded
    pause_at(page, 60)
    page.locator("#objectness").fill("0")
    until(lambda: boxes(page))
    first = boxes(page)

    def put(data: bytes) -> None:
        (weights.parent / "new").write_bytes(data)
        (weights.parent / "new").replace(weights)

    put(TRAINED.read_bytes()[:-100])
    page.locator(
        "#notices li", has_text="the weights that were loaded before stay in use"
    ).wait_for()
    assert boxes(page) == first
    put(training.read_bytes())
    page.locator("#notices li", has_text="has changed and was loaded").wait_for()
    until(lambda: boxes(page) != first)
    put(TRAINED.read_bytes())
    until(lambda: boxes(page) == first)
    assert shown(page)["frame"] == 60


def test_two_detectors_a_snapshot_and_the_keys(recorded: Page, tmp_path: Path) -> None:
    page = recorded
    pause_at(page, 60)
    until(lambda: page.locator("#pictures canvas").count() == 2)
    keep(page, "compare")
    first, second = page.locator("figcaption").all_inner_texts()
    assert first == "tinydet (weights.bin): 1 box"
    assert second.startswith("tinydet (detector.bin): ")
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "haustra_frame_00060.png"
    download.value.save_as(tmp_path / "snapshot.png")
    assert read_image_rgb(tmp_path / "snapshot.png").shape[0] >= SIZE_PX
    with_labels = green_pixels(page)
    page.keyboard.press("g")
    assert not page.locator("#truth").is_checked()
    assert green_pixels(page) >= with_labels > 0
    page.keyboard.press("h")
    assert not page.locator("#panel").is_visible()
    page.keyboard.press("h")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_can_be_read_and_reached_at_every_width(
    browser: Browser, run_address: str, scheme: str
) -> None:
    with opening(browser, run_address, color_scheme=scheme) as page:
        for path, size in (("", WIDE), ("", NARROW), ("training", WIDE), ("training", NARROW)):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            page.goto(run_address + path)
            if not path:
                until(lambda: is_ready(page))
                pause_at(page, 60)
            until(lambda: page.locator("#source").inner_text() in ("colon", "detector.bin.run"))
            page.wait_for_timeout(200)
            keep(page, f"{path or 'view'}_{size['width']}_{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            # 4.5 to 1 is what WCAG 2.1 asks of text (1.4.3, AA).
            assert [row for row in page.evaluate(CONTRAST) if row["ratio"] < 4.5] == []
            wanted = page.evaluate(
                "[...document.querySelectorAll('a, button, input, select, canvas[tabindex]')]"
                ".filter((e) => e.checkVisibility() && !e.disabled).map((e) => e.id)"
            )
            reached = set()
            for _ in range(len(wanted) + 1):
                page.keyboard.press("Tab")
                reached.add(page.evaluate("document.activeElement.id"))
            assert wanted
            assert set(wanted) <= reached


def test_the_training_page_shows_curves_and_gallery(recorded: Page, training: Path) -> None:
    page = recorded
    page.locator("a", has_text="training").click()
    until(lambda: page.locator("#source").inner_text() == "detector.bin.run")
    lines = (run_folder_of(training) / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    state = page.locator("#state").inner_text()
    assert state.startswith(f"epoch 2 of 2, loss {last['loss']:.3f}, ")
    label = page.locator("#loss").get_attribute("aria-label") or ""
    assert label.startswith("training loss: loss ")
    assert label.endswith(" at epoch 2")
    assert "AP50-95" in (page.locator("#precision").get_attribute("aria-label") or "")
    until(lambda: page.evaluate("document.querySelector('#gallery').naturalWidth"))
    assert page.evaluate("document.querySelector('#gallery').naturalWidth") == 4 * 288
    assert page.locator("#caption").inner_text().endswith("epoch 2")


@pytest.mark.parametrize(
    ("arguments", "title", "command"),
    [
        ([], "No training to show", "haustra view --training "),
        (
            ["--detector-weights", "lone.bin"],
            "lone.bin.run does not exist",
            "haustra view --training ",
        ),
        (
            ["--training", "waiting.run"],
            "Waiting for the first epoch",
            "haustra train --manifest ",
        ),
    ],
)
def test_the_training_page_without_epochs_says_what_to_do(
    browser: Browser,
    run_folder: Path,
    tmp_path: Path,
    arguments: list[str],
    title: str,
    command: str,
) -> None:
    (tmp_path / "waiting.run").mkdir()
    (tmp_path / "waiting.run" / "config.json").write_text('{"epochs": 3}')
    shutil.copyfile(TRAINED, tmp_path / "lone.bin")
    flag, name = arguments or ("--size", "64")
    with (
        serving("--source", run_folder, flag, tmp_path / name if arguments else name) as address,
        opening(browser, f"{address}training") as page,
    ):
        until(lambda: page.locator("#empty-title").inner_text() == title)
        assert page.locator("#empty-command").inner_text().startswith(command)
        assert not page.locator("#loss").is_visible()
        keep(page, f"training_{title.split()[0]}")


# Videos.


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    ("name", "seconds_of"),
    [
        ("variable.mp4", lambda number: number / 30 if number < 30 else 1 + (number - 30) / 5),
        ("live.webm", lambda number: number / 30),  # as browsers record: no number of frames
        ("raw.h264", lambda number: number / 25),  # no number of frames and no times
    ],
)
def test_odd_videos_play_to_their_end_and_are_sought(
    browser: Browser, tmp_path: Path, name: str, seconds_of: Callable[[int], float]
) -> None:
    path, last = tmp_path / name, 59
    VIDEOS[name](path)

    def check_frame(page: Page, number: int) -> None:
        until(lambda: shown(page)["frame"] == number)
        assert number_in(canvas_pixels(page)) == number
        assert shown(page)["seconds"] == pytest.approx(seconds_of(number), abs=0.002)
        place = f"frame {number + 1} of {last + 1}, {seconds_of(number):.1f} s"
        assert page.locator("#place").inner_text() == place

    arguments = ("--source", path, "--infer-obj-thresh", 1)  # no box covers the numbers
    with serving(*arguments) as address, opening(browser, address) as page:
        until(lambda: is_ready(page))
        page.evaluate("window.haustra.ask({ do: 'pause' })")
        page.evaluate("window.haustra.ask({ do: 'seek', frame: 0 })")
        until(lambda: shown(page)["frame"] == 0 and not shown(page)["playing"])
        started = time.monotonic()
        page.locator("#play").click()
        until(lambda: shown(page)["playing"])
        until(lambda: not shown(page)["playing"])
        took_s = time.monotonic() - started
        assert seconds_of(last) - 0.2 <= took_s <= seconds_of(last) + 2
        check_frame(page, last)
        until(lambda: page.locator("#state").inner_text().startswith("ended"))
        strip = page.locator("#timeline").bounding_box()
        assert strip is not None
        for number in (45, 10, 44, 0, last):
            x = strip["width"] * min(number / last, 0.999)
            page.mouse.click(strip["x"] + x, strip["y"] + strip["height"] / 2)
            check_frame(page, number)


def canvas_pixels(page: Page) -> NDArray[np.uint8]:
    """Return the picture on the page at the size of its frame, uint8 [H,W,3]."""
    script = """() => {
        const { size_wh: [width, height] } = window.haustra.shown;
        const small = new OffscreenCanvas(width, height).getContext("2d");
        small.drawImage(document.querySelector("#pictures canvas"), 0, 0, width, height);
        return [...small.getImageData(0, 0, width, height).data];
    }"""
    width, height = shown(page)["size_wh"]
    data = np.array(page.evaluate(script), dtype=np.uint8)
    return data.reshape(height, width, 4)[:, :, :3]


# Sources that stall, fail and end.


NO_NUMBER = "\N{EN DASH}"


def is_frozen(page: Page) -> bool:
    """Return True if the picture is dimmed below a message, and no rate or age is shown."""
    filters = page.evaluate("getComputedStyle(document.querySelector('#pictures canvas')).filter")
    numbers = [page.locator(name).inner_text() for name in ("#rate", "#age")]
    return (
        page.locator("#overlay").is_visible()
        and filters != "none"
        and numbers == [NO_NUMBER, NO_NUMBER]
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_that_does_not_live_is_dimmed_and_says_why_in_every_tab(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    tap = Tap()
    feed = Feed(tap, [watched()], point=OperatingPoint(), recordings=tmp_path)
    with serving_feed(feed) as port:
        address, options = f"http://127.0.0.1:{port}/", {"color_scheme": scheme}
        with opening(browser, address, **options) as page:
            state, overlay = page.locator("#state"), page.locator("#overlay")
            until(lambda: is_ready(page) and state.inner_text() == "live")
            assert not overlay.is_visible()
            until(lambda: page.locator("#rate").inner_text() != NO_NUMBER)
            tap.flows.clear()
            until(lambda: re.fullmatch(r"no frame for \d s", overlay.inner_text()))
            assert is_frozen(page)
            keep(page, f"stalled_{scheme}")
            with opening(browser, address, **options) as other:
                until(lambda: is_ready(other))
                assert other.locator("#overlay").inner_text().startswith("no frame for")
                until(lambda: is_frozen(other))
            tap.error = HaustraError("the cable of the camera is not there any more: " + 9 * "no ")
            tap.flows.set()
            until(lambda: overlay.inner_text().startswith("failed: the cable of the camera"))
            assert is_frozen(page)
            for size in (WIDE, NARROW):
                page.set_viewport_size(size)  # type: ignore[arg-type]
                assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
                assert [row for row in page.evaluate(CONTRAST) if row["ratio"] < 4.5] == []
            page.locator("#play").click()
            until(lambda: state.inner_text() == "live" and not overlay.is_visible())
            tap.error = SourceEndedError("it has ended")
            until(lambda: overlay.inner_text() == "ended")
            assert is_frozen(page)
            page.locator("#play").click()
            until(lambda: state.inner_text() == "live")


def test_a_server_that_hangs_or_is_gone_is_not_called_live(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(Tap(), [watched()], point=OperatingPoint(), recordings=tmp_path)
    with browser.new_context(viewport=WIDE) as context:  # type: ignore[arg-type]
        page = context.new_page()
        overlay = page.locator("#overlay")
        with serving_feed(feed) as port:
            page.goto(f"http://127.0.0.1:{port}/")
            until(lambda: is_ready(page) and page.locator("#state").inner_text() == "live")
            real_state, goes_on = feed.state, threading.Event()

            def hanging() -> dict[str, Any]:
                goes_on.wait(timeout=20)  # in the server's own thread
                return real_state()

            monkeypatch.setattr(feed, "state", hanging)
            until(lambda: overlay.inner_text().startswith("no answer from haustra for"))
            assert is_frozen(page)
            goes_on.set()
            until(lambda: page.locator("#state").inner_text() == "live")
        until(lambda: overlay.inner_text() == "connection lost, trying again")
        assert is_frozen(page)


# Behind a reverse proxy.


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A certificate for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("is_https", [False, True])
@pytest.mark.parametrize("removes_prefix", [False, True])
@pytest.mark.parametrize("keeps_host", [False, True])
def test_the_page_works_behind_a_proxy_with_a_prefix(
    browser: Browser,
    run_folder: Path,
    training: Path,
    tls: ssl.SSLContext,
    is_https: bool,
    removes_prefix: bool,
    keeps_host: bool,
) -> None:
    port = free_port()
    with reverse_proxy(
        port,
        prefix="/tools/haustra",
        removes_prefix=removes_prefix,
        host=None if keeps_host else f"127.0.0.1:{port}",
        tls=tls if is_https else None,
    ) as proxy_port:
        public = f"{'https' if is_https else 'http'}://localhost:{proxy_port}"
        arguments = ("--source", run_folder, "--training", training.with_name("detector.bin.run"))
        proxied = ("--allow-host", public, "--root-path", "/tools/haustra")
        with (
            serving(*arguments, *proxied, port=port) as address,
            opening(browser, address, ignore_https_errors=True) as page,
        ):
            assert address.startswith(f"{public}/tools/haustra/?token=")
            until(lambda: is_ready(page))
            number = shown(page)["frame"]
            until(lambda: shown(page)["frame"] > number + 2)  # the websocket brings frames
            page.keyboard.press("Space")
            until(lambda: not shown(page)["playing"])  # and takes commands
            assert page.evaluate("document.querySelector('header img').naturalWidth > 0")
            page.locator("#training").click()
            page.locator("#gallery").wait_for()
            until(lambda: page.evaluate("document.getElementById('gallery').naturalWidth > 0"))
            page.locator("#view").click()
            until(lambda: is_ready(page))


def test_a_page_of_another_site_gets_no_frame_through_a_tunnel(
    browser: Browser, run_folder: Path
) -> None:
    """The tunnel is as `ssh -L` and `docker -p` make it: another port, the same bytes."""
    port = free_port()
    script = """port => new Promise((resolve) => {
        const socket = new WebSocket(`ws://localhost:${port}/feed`);
        socket.onmessage = () => resolve("a frame");
        socket.onclose = () => resolve("refused");
        setTimeout(() => resolve("nothing"), 20000);
    })"""
    with (
        serving("--source", run_folder, port=port),
        reverse_proxy(port, prefix="") as tunnel_port,
        reverse_proxy(port, prefix="/nowhere") as other_port,
        opening(browser, f"http://localhost:{tunnel_port}/") as page,
    ):
        until(lambda: is_ready(page))
        assert page.evaluate(script, tunnel_port) == "a frame"
        foreign = page.context.new_page()
        foreign.goto(f"http://localhost:{other_port}/")
        assert foreign.inner_text("body") == "another page"
        assert foreign.evaluate(script, tunnel_port) == "refused"


def test_a_page_that_is_refused_behind_a_proxy_names_the_flag(
    browser: Browser, run_folder: Path
) -> None:
    port = free_port()
    with (
        serving("--source", run_folder, port=port),
        reverse_proxy(port, prefix="", host=f"127.0.0.1:{port}") as proxy_port,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(f"http://localhost:{proxy_port}/")
        refused = page.locator("#refused", has_text="haustra view --allow-host NAME:PORT")
        until(refused.is_visible)
        page.goto(f"http://localhost:{port}/")
        until(lambda: is_ready(page))
        page.wait_for_timeout(4000)
        assert not refused.is_visible()
