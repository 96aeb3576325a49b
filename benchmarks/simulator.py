"""Speed of the simulator: frames per second, compared with its rays alone and with two jobs.

    python -m benchmarks.simulator [--frames 60] [--runs 6]

The ratios compare measurements of one run of this script. The absolute numbers depend on the
machine and its load.
"""

import argparse
import resource
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import cv2

from haustra.simulator.config import DatagenConfig, Preset
from haustra.simulator.generate import generate_runs
from haustra.simulator.plan import plan_run, views

ROUNDS = 3


def rays_alone_fps(config: DatagenConfig) -> float:
    """Return the frames per second of the rays alone."""
    seen = list(islice(views(plan_run(config.seed, config=config)), 20))
    seen[0].scene.mesh  # noqa: B018 - built before the measurement
    started = time.perf_counter()
    for view in seen:
        view.scene.mesh.first_hits(view.pose.position_mm, directions=view.directions)
    return len(seen) / (time.perf_counter() - started)


def whole_fps(config: DatagenConfig) -> float:
    """Return the frames per second of complete runs with their files."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        generate_runs(
            DatagenConfig(
                output_root=Path(folder),
                preset=config.preset,
                runs=config.runs,
                frames=config.frames,
                size=config.size,
                jobs=config.jobs,
            )
        )
        return config.runs * config.frames / (time.perf_counter() - started)


def main() -> None:
    """Measure both presets at 384x384 with all features."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60, help="frames per run of stills")
    parser.add_argument(
        "--runs", type=int, default=6, help="runs for the comparison of one and two jobs"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print("384x384, one core, all features: median of frames/s (lowest to highest)")
    presets: tuple[Preset, ...] = ("still", "procedure")
    for preset in presets:
        # With few frames the camera of a procedure would jump.
        frames = arguments.frames if preset == "still" else 10 * arguments.frames
        config = DatagenConfig(preset=preset, frames=frames, size=384)
        rays, whole = [], []
        for _ in range(ROUNDS):
            rays.append(rays_alone_fps(config))
            whole.append(whole_fps(config))
        shares = [ours / limit for ours, limit in zip(whole, rays, strict=True)]
        print(
            f"{preset:<10} {statistics.median(whole):5.1f} ({min(whole):.1f} to {max(whole):.1f}), "
            f"rays alone {statistics.median(rays):5.1f}, ratio {statistics.median(shares):.2f}",
            flush=True,
        )
    one = whole_fps(DatagenConfig(frames=arguments.frames, runs=arguments.runs, size=384))
    two = whole_fps(DatagenConfig(frames=arguments.frames, runs=arguments.runs, size=384, jobs=2))
    print(f"two jobs / one: {two / one:.2f} ({two:.1f} / {one:.1f} frames/s)")
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of a job: {peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
