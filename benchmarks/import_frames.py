"""Time and memory of `haustra import`, beside hashing the same files.

    python -m benchmarks.import_frames --frames 100000 --formats yolo masks coco cvat

Makes small JPEG frames with a label each in a temporary folder and imports them in a process of
its own. The limit is to read every image and label file once and to compute its SHA-256, in one
thread; the files are in the page cache for both. Prints the ratio of the elapsed times and of the
CPU times, import over hashing, the peak of resident memory, and, with `--stages`, the memory
of `prune` and `etl` on the last run. Everything is deleted afterwards. `--work` may name a folder
in memory: a disk may take longer for a new file than the import for a frame.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measure import NOTHING, build_parser, markdown_table
from haustra.core.digests import digest_file
from haustra.core.images import encode_jpeg, encode_png

NUM_PICTURES = 64
"""Different pictures; the frames repeat them, each with a number of its own behind the end."""


def build_pictures(size: int) -> list[bytes]:
    """Return JPEG files of smooth random colors, as large as frames of their size usually are."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (NUM_PICTURES, 12, 12, 3), dtype=np.uint8)
    return [encode_jpeg(cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC)) for c in coarse]


def box_of(number: int, *, size: int) -> tuple[int, int, int, int]:
    """Return the box `x,y,width,height` of a frame."""
    side = size // 4
    return number % (size - side), number // 7 % (size - side), side, side


def write_yolo(folder: Path, *, num_frames: int, size: int) -> list[Path]:
    """Write a label file for each image."""
    for number in range(num_frames):
        x, y, w, h = (value / size for value in box_of(number, size=size))
        path = folder / f"{number:06d}.txt"
        path.write_text(f"0 {x + w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f}\n")
    return [folder]


def write_masks(folder: Path, *, num_frames: int, size: int) -> list[Path]:
    """Write a mask for each image."""
    for number in range(num_frames):
        x, y, w, h = box_of(number, size=size)
        mask = np.zeros((size, size), np.uint8)
        mask[y : y + h, x : x + w] = 255
        (folder / f"{number:06d}.png").write_bytes(encode_png(mask))
    return [folder]


def write_coco(folder: Path, *, num_frames: int, size: int) -> list[Path]:
    """Write one JSON file of all images."""
    numbers = range(num_frames)
    value = {
        "images": [
            {"id": n, "file_name": f"{n:06d}.jpg", "width": size, "height": size} for n in numbers
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": box_of(n, size=size)}
            for n in numbers
        ],
        "categories": [{"id": 1, "name": "polyp"}],
    }
    (folder / "labels.json").write_text(json.dumps(value))
    return [folder / "labels.json"]


def write_cvat(folder: Path, *, num_frames: int, size: int) -> list[Path]:
    """Write one XML file of all images."""
    with (folder / "labels.xml").open("w") as file:
        file.write("<annotations>")
        for n in range(num_frames):
            x, y, w, h = box_of(n, size=size)
            file.write(
                f'<image id="{n}" name="{n:06d}.jpg" width="{size}" height="{size}">\n'
                f'  <box label="polyp" occluded="0" xtl="{x}" ytl="{y}" xbr="{x + w}" '
                f'ybr="{y + h}" z_order="0"/>\n</image>\n'
            )
        file.write("</annotations>\n")
    return [folder / "labels.xml"]


WRITERS: dict[str, Callable[..., list[Path]]] = {
    "yolo": write_yolo,
    "masks": write_masks,
    "coco": write_coco,
    "cvat": write_cvat,
}


def run_command(*arguments: str | Path) -> tuple[float, float, float]:
    """Run haustra; return elapsed and CPU seconds, and the peak of resident memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "haustra", *map(str, arguments), "--json"],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - started
    if status:
        raise SystemExit(f"haustra {arguments[0]} failed with status {status}")
    return elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def hash_files(folders: list[Path]) -> tuple[float, float]:
    """Hash every file of some folders; return elapsed and CPU seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    for folder in folders:
        for path in sorted(folder.iterdir()):
            digest_file(path)
    return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Write the files, hash and import them, and print a table."""
    parser = build_parser(__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="number of frames")
    parser.add_argument("--size", type=int, default=96, help="side of a frame in pixels")
    parser.add_argument("--formats", nargs="+", choices=[*WRITERS], default=[*WRITERS])
    parser.add_argument("--stages", action="store_true", help="run prune and etl as well")
    parser.add_argument("--work", type=Path, help="folder on the disk to use")
    arguments = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        work = Path(temporary)
        images = work / "images"
        images.mkdir()
        pictures = build_pictures(arguments.size)
        for n in range(arguments.frames):
            data = pictures[n % NUM_PICTURES] + str(n).encode()  # no two files are equal
            (images / f"{n:06d}.jpg").write_bytes(data)
        for name in arguments.formats:
            labels = work / name
            labels.mkdir()
            (source,) = WRITERS[name](labels, num_frames=arguments.frames, size=arguments.size)
            target = ("--output-root", work / "captures", "--run-id", "x", "--overwrite")
            hash_files([images, labels])
            before = hash_files([images, labels])
            elapsed, cpu, peak_mb = run_command("import", name, images, source, *target)
            after = hash_files([images, labels])
            hashing, hashing_cpu = ((a + b) / 2 for a, b in zip(before, after, strict=True))
            rows.append(
                (
                    name,
                    f"{hashing:.1f}",
                    f"{elapsed:.1f}",
                    f"{elapsed / hashing:.2f}",
                    f"{cpu / hashing_cpu:.2f}",
                    f"{peak_mb:.0f}",
                )
            )
            shutil.rmtree(labels)
        if arguments.stages:
            for command, *options in (("prune",), ("etl", "--target-size", f"{arguments.size}")):
                folders = ("--captures", work / "captures", "--output-root", work / command)
                elapsed, _, peak_mb = run_command(command, *folders, *options)
                rows.append(
                    (command, NOTHING, f"{elapsed:.1f}", NOTHING, NOTHING, f"{peak_mb:.0f}")
                )
    print(f"{arguments.frames} frames of {arguments.size}x{arguments.size}")
    columns = ("stage", "hash s", "stage s", "ratio", "ratio of CPU", "peak MB")
    print("\n".join(markdown_table(columns, rows)))


if __name__ == "__main__":
    main()
