"""Speed of the simulator: frames a second beside those of its rays alone, and one job beside two.

    python -m benchmarks.simulator [--frames 60] [--runs 6]

The ratios are of things that were timed in one run of this script; the absolute numbers are of
this machine as busy as it was.
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
    """Cast the rays of a run's frames and do nothing else; frames a second."""
    seen = list(islice(views(plan_run(config.seed, config=config)), 20))
    for scene, _ in seen[:1]:
        scene.mesh  # noqa: B018 - built once, before the clock
    started = time.perf_counter()
    for scene, view in seen:
        scene.mesh.first_hits(view.pose.position_mm, directions=view.directions)
    return len(seen) / (time.perf_counter() - started)


def whole_fps(config: DatagenConfig) -> float:
    """Make runs as the command does, files and all; frames a second."""
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
    """Measure both presets at 384x384 with everything on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60, help="frames of a run of stills")
    parser.add_argument("--runs", type=int, default=6, help="runs for one job and for two")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print("384x384, one core, everything on: median of frames/s (lowest to highest)")
    presets: tuple[Preset, ...] = ("still", "procedure")
    for preset in presets:
        # A procedure of a few frames would be no fly-through but leaps.
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
    print(f"greatest memory of a job: {peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
