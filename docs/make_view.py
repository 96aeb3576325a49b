"""Make the pictures of docs/view.md and docs/inference.md: screenshots of the pages in Chromium.

    python docs/make_view.py

`view`: a TinyDet on a simulated procedure. `view_phone`: the same in a narrow, dark window.
`view_training`: the page of a short training. Takes some minutes. `haustra` must be on the PATH.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
WEIGHTS = DOCS.parent / "tests" / "view" / "tinydet_sim.bin"
COLON = 22
JPEG_QUALITY = 85


@contextmanager
def serving(*arguments: str | Path) -> Iterator[str]:
    """Run `haustra view` and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["haustra", "view", "--no-open-browser", "--port", str(port), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise AssertionError("stdout is a pipe")
            while "Ctrl-C ends" not in (line := process.stdout.readline()):
                if not line:
                    sys.exit("haustra view ended")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def wait_for(page: Page, condition: str) -> None:
    """Wait until JavaScript is true; the page's security policy forbids Playwright's waiting."""
    for _ in range(1200):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(100)
    sys.exit(f"not true after two minutes: {condition}")


def save(page: Page, name: str) -> None:
    """Save a screenshot of the page."""
    page.screenshot(path=IMAGES / f"{name}.jpg", quality=JPEG_QUALITY, full_page=True)
    print(f"wrote {IMAGES / name}.jpg")


def show_view(browser: Browser) -> None:
    """Save the wide and the narrow page at a frame with a box."""
    wide, narrow = ({"width": 1280, "height": 850}, {"width": 390, "height": 850})
    with serving("--source", f"simulator:{COLON}", "--detector-weights", WEIGHTS) as address:
        page = browser.new_page(viewport=wide)  # type: ignore[arg-type]
        page.goto(address)
        wait_for(page, "window.haustra?.timeline?.verdict.filter((v) => v === 'hit').length >= 12")
        wait_for(page, "window.haustra.shown.verdict === 'hit'")
        save(page, "view")
        page.evaluate("window.haustra.ask({ do: 'pause' })")
        phone = browser.new_page(viewport=narrow, color_scheme="dark")  # type: ignore[arg-type]
        phone.goto(address)
        wait_for(phone, "window.haustra?.shown && window.haustra.timeline")
        phone.wait_for_timeout(500)
        save(phone, "view_phone")


def show_training(browser: Browser, folder: Path) -> None:
    """Train for a minute on stills, and save the page of that training."""

    def run(*arguments: str | Path) -> None:
        subprocess.run(["haustra", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    captures, weights = folder / "captures", folder / "tinydet.bin"
    run("datagen", *["--runs", "24", "--frames", "16", "--size", "128"], "--output-root", captures)
    etl = ["--target-size", "128", "--split", "0.8,0.2,0"]
    run("etl", "--captures", captures, "--output-root", folder / "w", *etl)
    [manifest] = (folder / "w").glob("v*/manifest.json")
    run(
        *("train", "--manifest", manifest, "--checkpoint-out", weights),
        *("--epochs", "24", "--val-every", "2"),
    )
    source = next(captures.iterdir())
    with serving("--source", source, "--detector-weights", weights) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 850})
        page.goto(f"{address}training")
        wait_for(page, "document.querySelector('#gallery').naturalWidth")
        save(page, "view_training")


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        show_view(browser)
        show_training(browser, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
