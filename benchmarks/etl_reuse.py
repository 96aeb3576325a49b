"""Cost of an ETL when little has changed: a warehouse of 50 runs, then one run more.

    python -m benchmarks.etl_reuse [--runs 50] [--frames 20]

Adding a run is compared with building everything, in images decoded and in seconds, in turns. The
new run's share of all images is the least that adding it can cost.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import build_parser, range_text
from haustra.captures import validation
from haustra.captures.schema import RunManifest
from haustra.captures.writer import writing_run
from haustra.core.images import decode_image_rgb
from haustra.warehouse.etl import ETLResult, build_warehouse
from haustra.warehouse.etl_config import ETLConfig

ROUNDS = 3
SIZE_WH = (622, 529)
"""Common size of colonoscopy stills, in pixels."""


def write_runs(root: Path, *, num_runs: int, num_frames: int) -> None:
    """Write runs of smooth noise as JPEG, all images different, without boxes."""
    for run in range(num_runs):
        rng = np.random.default_rng(run)
        name = f"run_{run:03d}"
        with writing_run(
            root / name, manifest=RunManifest(run_id=name, source="simulated", group_id=name)
        ) as writer:
            for _ in range(num_frames):
                noise = rng.integers(60, 200, (66, 78, 3), dtype=np.uint8)
                image = cv2.resize(noise, SIZE_WH).astype(np.uint8)
                done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
                assert done
                writer.add_frame(data.tobytes(), suffix=".jpg", image_size_wh=SIZE_WH, labels=[])


class CountedDecoding:
    """Decodes images, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, data: bytes, *, name: str) -> NDArray[np.uint8]:
        """Decode an image."""
        self.count += 1
        return decode_image_rgb(data, name=name)


def timed_build(
    captures: Path, output_root: Path, *, counter: CountedDecoding
) -> tuple[ETLResult, float, int]:
    """Build a warehouse; return the result, the seconds, and the number of images decoded."""
    before, started = counter.count, time.perf_counter()
    result = build_warehouse(
        ETLConfig(captures=captures, output_root=output_root, split="1,0,0", max_empty="1.0")
    )
    return result, time.perf_counter() - started, counter.count - before


def main() -> None:
    """Measure in a temporary folder."""
    parser = build_parser(__doc__)
    parser.add_argument("--runs", type=int, default=50, help="runs before one is added")
    parser.add_argument("--frames", type=int, default=20, help="frames of each run")
    arguments = parser.parse_args()
    num_runs, num_frames = arguments.runs, arguments.frames
    counter = CountedDecoding()
    setattr(validation, "decode_image_rgb", counter)  # noqa: B010 - the name is not exported
    seconds: list[float] = []
    images: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        captures, later = folder / "captures", folder / "later"
        write_runs(captures, num_runs=num_runs + 1, num_frames=num_frames)
        last = f"run_{num_runs:03d}"
        for index in range(ROUNDS):
            kept, full_root = folder / f"kept_{index}", folder / f"full_{index}"
            (captures / last).rename(later)
            timed_build(captures, kept, counter=counter)
            later.rename(captures / last)
            added, added_s, added_images = timed_build(captures, kept, counter=counter)
            full, full_s, full_images = timed_build(captures, full_root, counter=counter)
            if added.manifest != full.manifest:
                sys.exit("the warehouse of reused shards differs from the one built at once")
            seconds.append(added_s / full_s)
            images.append(added_images / full_images)
            shutil.rmtree(kept)
            shutil.rmtree(full_root)
    print(f"one run added to {num_runs} of {num_frames} frames / all built at once:")
    print(f"images decoded  {range_text(images, digits=3)}")
    print(f"seconds         {range_text(seconds, digits=3)}")
    print(f"share of images {1 / (num_runs + 1):.3f}")


if __name__ == "__main__":
    main()
