"""Training speed alone and beside a busy process, for this commit and others.

    python -m benchmarks.busy [--data FOLDER] [--work FOLDER] [--size 256] [--seconds 30]
        [--rounds 3] [--against CHECKOUT ...]

Each round trains BigDet on Kvasir-SEG with full augmentation, first alone and then beside one
process that only spins, with this checkout and with each CHECKOUT in turn, and takes one batch
again and again for the bare step. Prints images/s, and the ratios within a round.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.kvasir.data import DEFAULT_FOLDER, build_manifest, require_data
from benchmarks.measure import build_parser, markdown_table, range_text
from haustra.core.files import write_json_atomic

HERE = Path(__file__).resolve().parents[1]
RECIPE = {
    "augmentation": {"easy_epochs": 1, "light_share": 0.0},
    "growth": {"first_resolution": 1.0},
}
BARE_STEP = """
import itertools, sys, time
from contextlib import closing, nullcontext
from pathlib import Path
from haustra.core.allocator import keep_freed_memory
from haustra.training.config import TrainConfig
from haustra.training.prepare import prepare_training
from haustra.training.training import Training
try:
    from haustra.training.replicas import one_thread_each
except ImportError:
    one_thread_each = lambda config: nullcontext()
keep_freed_memory()
manifest, folder, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
weights = folder / "bare.bin"
config = TrainConfig(manifest=manifest, model="big", epochs=1000, checkpoint_out=weights)
prepared = prepare_training(config)
with one_thread_each(prepared.config):
    training = Training(prepared)
    batch = training.split.gather(range(config.batch_size))
    batches = itertools.repeat((range(config.batch_size), batch))
    position, counts = training.position, []
    while position.trained_s < seconds:
        training.take_step(batches)
        position.num_batches = 1  # the epoch never ends
        counts.append((position.trained_s, position.num_images))
(first_s, first), (last_s, last) = counts[len(counts) // 3], counts[-1]
print((last - first) / (last_s - first_s))
"""


@contextmanager
def spinning(*, is_on: bool) -> Iterator[None]:
    """Keep one process busy during the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_on else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def run_python(checkout: Path, *arguments: str) -> str:
    """Run Python with a checkout's package, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{checkout}: {done.stderr.strip()}")
    return done.stdout


def training_speed(checkout: Path, *, manifest: Path, folder: Path, seconds: int) -> float:
    """Return the median images/s of a training's epochs, without the first one."""
    weights, recipe = folder / "busy.bin", folder / "recipe.json"
    write_json_atomic(recipe, value=RECIPE)
    command = (
        f"-m haustra train --model big --time-budget {seconds}s --val-every 100000 --overwrite"
    )
    paths = ["--manifest", manifest, "--recipe", recipe, "--checkpoint-out", weights]
    run_python(checkout, *command.split(), *map(str, paths))
    lines = (folder / "busy.bin.run" / "metrics.jsonl").read_text().splitlines()
    speeds = [float(json.loads(line)["images_per_s"]) for line in lines]
    return statistics.median(speeds[1:] or speeds)


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--work", type=Path, default=Path("reports/busy"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    require_data(options.data)
    manifest = build_manifest(options.data, work=options.work, size=options.size).resolve()
    checkouts = [HERE, *(path.resolve() for path in options.against)]
    speeds: dict[tuple[Path, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(options.rounds):
            for is_busy in (False, True):
                with spinning(is_on=is_busy):
                    for checkout in checkouts:
                        speed = training_speed(
                            checkout, manifest=manifest, folder=folder, seconds=options.seconds
                        )
                        speeds[checkout, "busy" if is_busy else "alone"].append(speed)
            for checkout in checkouts:
                arguments = ("-c", BARE_STEP, str(manifest), name, str(options.seconds / 2))
                speeds[checkout, "bare"].append(float(run_python(checkout, *arguments)))

    def ratios(over: tuple[Path, str], under: tuple[Path, str]) -> str:
        pairs = zip(speeds[over], speeds[under], strict=True)
        return range_text([a / b for a, b in pairs])

    rows = [
        [
            checkout.name,
            *(range_text(speeds[checkout, kind], digits=0) for kind in ("bare", "alone", "busy")),
            ratios((checkout, "alone"), (checkout, "bare")),
            ratios((checkout, "busy"), (checkout, "alone")),
            ratios((HERE, "alone"), (checkout, "alone")),
            ratios((HERE, "busy"), (checkout, "busy")),
        ]
        for checkout in checkouts
    ]
    columns = ["checkout", "bare step, images/s", "training", "beside a busy process"]
    columns += ["training / bare", "busy / alone", "ours / this, alone", "ours / this, busy"]
    print("\n".join(markdown_table(columns, rows)))


if __name__ == "__main__":
    main()
