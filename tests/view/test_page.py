"""The page in Chromium, over the simulator. Skipped, saying so, where there is no Chromium."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from viewing import until

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    recordings = tmp_path_factory.mktemp("recordings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "haustra", "view", "--source", "simulator:3", "--size", "96"]
    command += ["--port", str(port), "--output-root", str(recordings), "--no-open-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "Ctrl-C ends" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}/", recordings
        process.terminate()


@pytest.fixture
def page(address: tuple[str, Path]) -> Iterator[Page]:
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page(viewport={"width": 1280, "height": 860})
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on(
            "console", lambda line: problems.append(line.text) if line.type == "error" else None
        )
        opened.goto(address[0])
        until(lambda: opened.evaluate("Boolean(window.haustra?.shown && window.haustra.timeline)"))
        yield opened
        browser.close()
    assert problems == []


def shown(page: Page) -> dict[str, Any]:
    return page.evaluate("window.haustra.shown")  # type: ignore[no-any-return]


def test_the_page_plays_pauses_and_steps(page: Page) -> None:
    assert page.locator("#banner").inner_text().startswith("No weights")
    page.keyboard.press("Space")
    until(lambda: not shown(page)["playing"])
    number = shown(page)["frame"]
    page.keyboard.press("ArrowRight")
    until(lambda: number < shown(page)["frame"] <= number + 3)
    assert "paused" in page.locator("#state").inner_text()
    page.locator("#play").click()
    until(lambda: shown(page)["playing"])


def test_a_slider_changes_what_is_drawn(page: Page) -> None:
    page.locator("#objectness").fill("0")
    until(lambda: shown(page)["settings"]["objectness"] == 0)
    until(lambda: shown(page)["detectors"][0]["boxes_px"])
    page.locator("#objectness").fill("1")
    until(lambda: shown(page)["settings"]["objectness"] == 1)
    assert shown(page)["detectors"][0]["boxes_px"] == []
    page.locator("#objectness").fill("0.3")


def test_keys_drive_the_simulator_and_give_it_back(page: Page) -> None:
    page.keyboard.press("p")
    until(lambda: shown(page)["autopilot"] is False)
    page.keyboard.down("w")
    page.wait_for_timeout(400)
    page.keyboard.up("w")
    page.keyboard.press("p")
    until(lambda: shown(page)["autopilot"])


def test_a_recording_appears(page: Page, address: tuple[str, Path]) -> None:
    page.keyboard.press("r")
    until(lambda: (shown(page)["recording"] or 0) >= 2)
    page.keyboard.press("r")
    until(lambda: shown(page)["recording"] is None)
    page.locator("#notices li", has_text="recorded").wait_for()
    [folder] = address[1].iterdir()
    assert (folder / "run_manifest.json").exists()


def test_the_panel_hides_keys_are_listed_and_a_phone_has_no_scroll_bar(page: Page) -> None:
    page.keyboard.press("h")
    assert not page.locator("#panel").is_visible()
    page.keyboard.press("h")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.locator("#keys button").click()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_training_page_opens(page: Page) -> None:
    page.locator("a", has_text="training").click()
    until(lambda: "no training" in page.locator("#source").inner_text())
