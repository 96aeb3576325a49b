"""Makes the pictures of docs/evaluation.md and docs/robustness.md.

    python docs/make_report.py REPORT.html IMAGE

It takes a report of runs/procedure.sh and an image to degrade, and needs Chromium on the PATH.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from haustra.core.images import read_image_rgb
from haustra.evaluation.degrade import draw_degradations

WIDTH_PX, HEIGHT_PX = 1260, 6800
PARTS = {"report.jpg": (0, 800), "report_numbers.jpg": (3060, 6200)}
"""Rows of the page that each picture shows."""
SCALE = 0.7


IMAGES = Path(__file__).parent / "images"
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]


def draw_page(page: Path) -> None:
    """Take a screenshot of the page and cut it."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--window-size={WIDTH_PX},{HEIGHT_PX}", f"--screenshot={shot}", page.as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        image = cv2.imread(str(shot))
    if image is None:
        sys.exit(f"{page}: Chromium made no picture")
    for name, (top, bottom) in PARTS.items():
        part = cv2.resize(image[top:bottom], None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(IMAGES / name), part, JPEG)


def main() -> None:
    """Make all pictures."""
    draw_page(Path(sys.argv[1]).resolve())
    image = Path(sys.argv[2])
    sheet = draw_degradations(read_image_rgb(image), name=image.stem)
    cv2.imwrite(str(IMAGES / "degradations.jpg"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), JPEG)
    print(f"wrote pictures into {IMAGES}")


if __name__ == "__main__":
    main()
