"""What an ETL costs when little has changed: a warehouse of 50 runs, then one run more.

    python benchmarks/etl_reuse.py [--runs 50] [--frames 20]

The work of adding a run is compared with building everything, in images decoded and in seconds,
in turns within one run. Then the captures are moved, and one pixel of one image is changed. The
last column says whether it is as it should be; the exit code is 1 if one is not.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.captures import validation
from haustra.captures.writer import writing_run
from haustra.core.images import decode_image_rgb, read_image_rgb
from haustra.warehouse.etl import ETLResult, build_warehouse
from haustra.warehouse.etl_config import ETLConfig

ROUNDS = 3
SIZE_WH = (622, 529)
"""A usual size of colonoscopy stills, in pixels."""
ALLOWED = 0.10
"""Share of a full build that adding a run may take beyond the new run's own share."""


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Return an image uint8 [H,W,3] as JPEG bytes."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return data.tobytes()


def write_runs(root: Path, *, num_runs: int, num_frames: int) -> None:
    """Write runs of smooth noise as JPEG, each image another, without boxes."""
    for run in range(num_runs):
        rng = np.random.default_rng(run)
        name = f"run_{run:03d}"
        with writing_run(root / name, run_id=name, source="simulated", group_id=name) as writer:
            for _ in range(num_frames):
                noise = rng.integers(60, 200, (66, 78, 3), dtype=np.uint8)
                data = encode_jpeg(cv2.resize(noise, SIZE_WH).astype(np.uint8))
                writer.add_frame(data, suffix=".jpg", image_size_wh=SIZE_WH, labels=[])


class CountedDecoding:
    """Counts the images that are decoded while it stands in for the decoder."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, data: bytes, *, name: str) -> NDArray[np.uint8]:
        """Decode an image, and count it."""
        self.count += 1
        return decode_image_rgb(data, name=name)


def timed_build(
    captures: Path, output_root: Path, *, counter: CountedDecoding
) -> tuple[ETLResult, float, int]:
    """Build a warehouse; return the result, seconds, and images decoded."""
    before, started = counter.count, time.perf_counter()
    result = build_warehouse(
        ETLConfig(captures=captures, output_root=output_root, split="1,0,0", max_empty="1.0")
    )
    return result, time.perf_counter() - started, counter.count - before


def print_line(what: str, *, found: str, limit: str, holds: bool) -> bool:
    """Print one line of the table, and return whether it holds."""
    print(f"{what:<46} {found:>22} {limit:>30}  {'yes' if holds else 'NO'}", flush=True)
    return holds


def main() -> None:
    """Measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--frames", type=int, default=20)
    arguments = parser.parse_args()
    num_runs, num_frames = arguments.runs, arguments.frames
    counter = CountedDecoding()
    setattr(validation, "decode_image_rgb", counter)  # noqa: B010 - the name is not exported
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        captures, later = folder / "captures", folder / "later"
        write_runs(captures, num_runs=num_runs + 1, num_frames=num_frames)
        last = f"run_{num_runs:03d}"
        seconds: list[float] = []
        images: list[float] = []
        for index in range(ROUNDS):
            (captures / last).rename(later)
            timed_build(captures, folder / f"kept_{index}", counter=counter)
            later.rename(captures / last)
            added, added_s, added_images = timed_build(
                captures, folder / f"kept_{index}", counter=counter
            )
            full, full_s, full_images = timed_build(
                captures, folder / f"full_{index}", counter=counter
            )
            seconds.append(added_s / full_s)
            images.append(added_images / full_images)
            if added.manifest != full.manifest:
                sys.exit("the warehouse with reused shards differs from the one made from nothing")
            shutil.rmtree(folder / f"full_{index}")
        share = 1 / (num_runs + 1)
        print(f"{num_runs} runs of {num_frames} frames, one added; medians of {ROUNDS} rounds")
        print(f"{'':<46} {'found':>22} {'expected':>30}  holds")
        limit = f"at most {share + ALLOWED:.3f}"
        holds = [
            print_line(
                f"{what}: one run added / all from nothing",
                found=f"{statistics.median(found):.3f}",
                limit=limit,
                holds=statistics.median(found) <= share + ALLOWED,
            )
            for what, found in (("images decoded", images), ("seconds", seconds))
        ]

        output_root = folder / "kept_0"
        captures.rename(folder / "moved")
        captures = folder / "moved"
        moved, _, decoded = timed_build(captures, output_root, counter=counter)
        holds.append(
            print_line(
                "captures moved: version, images decoded",
                found=f"v{moved.manifest.version}, {decoded}",
                limit=f"v{added.manifest.version}, 0",
                holds=not moved.built and moved.manifest == added.manifest and decoded == 0,
            )
        )

        path = captures / "run_003" / "images" / "frame_00004.jpg"
        image = read_image_rgb(path)
        image[0, 0] = 255 - image[0, 0]
        path.write_bytes(encode_jpeg(image))
        changed, _, decoded = timed_build(captures, output_root, counter=counter)
        holds.append(
            print_line(
                "one pixel changed: another version",
                found=f"v{changed.manifest.version}",
                limit=f"not v{added.manifest.version}",
                holds=changed.manifest.version != added.manifest.version,
            )
        )
        holds.append(
            print_line(
                "one pixel changed: images decoded",
                found=str(decoded),
                limit=f"at most {num_frames}",
                holds=decoded <= num_frames,
            )
        )
        manifests = [str(moved.manifest_path), str(changed.manifest_path)]
        told = subprocess.run(
            [sys.executable, "-m", "haustra", "warehouse", "diff", *manifests],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        named = [line for line in told.splitlines() if line.startswith("changed pixels: ")]
        holds.append(
            print_line(
                "haustra warehouse diff names",
                found=", ".join(line.removeprefix("changed pixels: ") for line in named),
                limit="run_003/frame_00004",
                holds=named == ["changed pixels: run_003/frame_00004"],
            )
        )
    sys.exit(0 if all(holds) else 1)


if __name__ == "__main__":
    main()
