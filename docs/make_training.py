"""Makes the log and the pictures of runs/tiny.sh that training.md, models.md and README.md show.

    python docs/make_training.py

Takes about five minutes. `haustra` must be on the PATH; `make docs` sees to that.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2

DOCS = Path(__file__).parent
ROOT = DOCS.parent
DEMO = ROOT / "demo"


def replace_part(page: Path, *, name: str, text: str) -> None:
    """Put `text` as a code block between the page's markers of that name."""
    pattern = rf"(<!-- made by docs/make_training.py: {name} -->\n).*?(<!-- end -->)"
    block = f"```text\n{text.strip()}\n```\n"
    content, count = re.subn(
        pattern, lambda match: match[1] + block + match[2], page.read_text(), flags=re.DOTALL
    )
    if count != 1:
        sys.exit(f"{page} has no part {name!r}")
    page.write_text(content)


def list_files(folder: Path) -> str:
    """Return the size in bytes and the name of each file below a folder, in the order of names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{path.stat().st_size:>9}  {path.relative_to(folder)}" for path in files)


def log_part(log: str, *, first: str, last: str) -> str:
    """Return the lines from the one that starts with `first` up to the one with `last`."""
    lines = log.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    stop = next(i for i, line in enumerate(lines) if i > start and line.startswith(last))
    return "\n".join(line.rstrip() for line in lines[start + 1 : stop])


def shorten(text: str, *, head: int = 12, tail: int = 8) -> str:
    """Leave out the middle of a long log."""
    lines = text.splitlines()
    if len(lines) <= head + tail:
        return text
    return "\n".join([*lines[:head], "...", *lines[-tail:]])


def write_jpeg(source: Path, target: Path) -> None:
    """Write a picture of the demo as a JPEG, a fifth of the bytes."""
    picture = cv2.imread(str(source))
    if picture is None:
        sys.exit(f"the demo made no {source.name}")
    cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """Run the pipeline and write its output into the docs."""
    log = subprocess.run(
        ["bash", str(ROOT / "runs" / "tiny.sh")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    training = shorten(log_part(log, first="== 4/6", last="== 5/6"))
    replace_part(DOCS / "training.md", name="log", text=training)
    listing = list_files(DEMO / "checkpoints")
    replace_part(DOCS / "training.md", name="listing", text=listing)
    evaluation = log_part(log, first="== 5/6", last="== 6/6")
    replace_part(ROOT / "README.md", name="evaluation", text=evaluation)
    images = DOCS / "images"
    images.mkdir(exist_ok=True)
    shutil.copyfile(DEMO / "report" / "curves.png", images / "curves.png")
    for name in ("gallery", "misses", "false_alarms"):
        write_jpeg(DEMO / "report" / f"{name}.png", images / f"{name}.jpg")
    boxed = sorted((DEMO / "boxed").iterdir(), key=lambda path: path.name)
    with_box = [path for path in boxed if re.search(rf"{path.name}: 1 box \(", log)]
    write_jpeg((with_box or boxed)[0], images / "boxed.jpg")
    print(f"wrote {images} and the parts of docs/training.md and README.md")


if __name__ == "__main__":
    main()
