"""Makes the pictures of docs/evaluation.md: a report's page in a browser, in two parts.

    python docs/make_report.py reports/procedure/report/report.html

Takes the page that runs/procedure.sh writes, and a Chromium on the PATH.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

WIDTH_PX, HEIGHT_PX = 1260, 6400
PARTS = {"report.jpg": (0, 1640), "report_numbers.jpg": (3020, 6400)}
"""Rows of the page that each picture shows."""
SCALE = 0.7


def main() -> None:
    """Take the page's screenshot and cut it."""
    page = Path(sys.argv[1]).resolve()
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
        path = Path(__file__).parent / "images" / name
        cv2.imwrite(str(path), part, [cv2.IMWRITE_JPEG_QUALITY, 82])
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
