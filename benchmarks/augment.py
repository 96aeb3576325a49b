"""CPU time that augmentation takes, by part, and what a training loses to it.

    python -m benchmarks.augment [--data FOLDER] [--work FOLDER] [--size 256] [--steps 15]

Measures CPU time of the working thread, not wall time: milliseconds of one core for an image of
Kvasir-SEG, and multiples of a fixed piece of work, an image resized to three quarters of its side
by OpenCV, timed in the same round. A part's own time is that of images that all have it, less that
of images that are only moved and scaled.

Then trains BigDet for some steps, with full augmentation and on one batch in turns. The rest of the
data's time is loading, and what it costs to share caches with the step.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from benchmarks.kvasir.data import DEFAULT_FOLDER, build_manifest, require_data
from benchmarks.measure import build_parser, markdown_table, range_text
from haustra.core.allocator import keep_freed_memory
from haustra.training.augment import ReadSample, augment_sample, resized
from haustra.training.config import TrainConfig
from haustra.training.prepare import prepare_training
from haustra.training.recipe import FULL, LIGHT, AugmentationSettings, AugmentStrength, Recipe
from haustra.training.training import NumberedBatch, Training
from haustra.warehouse.dataset import Split, open_split

IMAGES, ROUNDS = 100, 7
MOVED = replace(
    FULL,
    turn=0.0,
    gain=0.0,
    channel_gain=0.0,
    gamma=0.0,
    mosaic=0.0,
    paste=0.0,
    blur=0.0,
    noise=0.0,
    compression=0.0,
    speculars=0.0,
    text=0.0,
)
PARTS = {
    name: replace(MOVED, **{name: 1.0})  # type: ignore[arg-type] # each of them is a chance
    for name in ("turn", "mosaic", "paste", "speculars", "blur", "noise", "text", "compression")
} | {"color": replace(MOVED, gain=FULL.gain, channel_gain=FULL.channel_gain, gamma=FULL.gamma)}


def cpu_ms(work: Callable[[], object], *, count: int) -> float:
    """Return the CPU milliseconds of this thread for one of `count` pieces of work."""
    started = time.thread_time()
    work()
    return (time.thread_time() - started) / count * 1e3


def read_from(split: Split, *, size: int) -> ReadSample:
    """Return a function that reads as a training does."""
    width, height = split.manifest.target_size_wh

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        image, boxes = split.view(index)
        return image, boxes.astype(np.float64) * (width, height, width, height)

    return resized(read, size_wh=(size, size))


def measure_parts(split: Split, *, size: int) -> list[str]:
    """Return the table of the parts and of whole images."""
    read, partners = read_from(split, size=size), np.arange(len(split))
    for index in range(len(split)):
        split.view(index)[0].sum()  # checked and in memory, as from the second epoch on
    image = read(0)[0]

    def augment(strength: AugmentStrength, seed: int) -> None:
        for index in range(IMAGES):
            rng = np.random.default_rng([seed, index])
            augment_sample(read, index, partners=partners, strength=strength, rng=rng)

    def reference() -> None:
        for _ in range(IMAGES):
            cv2.resize(image, (3 * size // 4, 3 * size // 4))

    strengths = {"moved and scaled": MOVED, **PARTS, "whole, full": FULL, "whole, light": LIGHT}
    times: dict[str, list[float]] = {name: [] for name in strengths}
    unit: list[float] = []
    for seed in range(ROUNDS + 1):
        one = cpu_ms(reference, count=IMAGES)
        taken = {
            name: cpu_ms(lambda s=strength: augment(s, seed), count=IMAGES)  # type: ignore[misc] # noqa: B023
            for name, strength in strengths.items()
        }
        if not seed:
            continue  # the first round fills caches
        unit.append(one)
        for name, value in taken.items():
            times[name].append(value - taken["moved and scaled"] * (name in PARTS))
    rows = []
    for name, values in times.items():
        chance = getattr(FULL, name, 1.0)
        ratios = [value / one for value, one in zip(values, unit, strict=True)]
        share = "" if name.startswith("whole") else f"{statistics.median(values) * chance:.3f}"
        rows.append([name, range_text(values, digits=3), range_text(ratios), f"{chance:g}", share])
    columns = ["part", "core-ms an image", "of a resize", "chance when full", "times chance"]
    return markdown_table(columns, rows)


def measure_training(manifest: Path, *, folder: Path, steps: int) -> list[str]:
    """Return what BigDet's training gives to its data, and its speed beside the bare step."""
    always = AugmentationSettings(easy=FULL, light_share=0.0)
    config = TrainConfig(
        manifest=manifest,
        model="big",
        epochs=1000,
        checkpoint_out=folder / "bench.bin",
        recipe=replace(Recipe(), augmentation=always, growth=replace(Recipe().growth, share=1e-6)),
    )
    keep_freed_memory()
    training = Training(prepare_training(config))
    rounds: list[tuple[float, float, float]] = []

    def images_per_s(batches: Iterator[NumberedBatch]) -> float:
        position = training.position
        seconds, images = position.epoch_s, position.num_images
        for _ in range(steps):
            training.take_step(batches)
            # The epoch never ends here.
            position.num_batches = 1
        return (position.num_images - images) / (position.epoch_s - seconds)

    batches = training.batches()
    first = next(batches)
    images_per_s(itertools.repeat(first))
    num_batches = len(training.split) // config.batch_size - 2
    for _ in range(max(1, num_batches // steps)):
        position = training.position
        data_s, cpu_s, images = position.data_cpu_s, position.cpu_s, position.num_images
        whole = images_per_s(batches)
        images = position.num_images - images
        data_ms, all_ms = (
            1e3 * (after - before) / images
            for after, before in ((position.data_cpu_s, data_s), (position.cpu_s, cpu_s))
        )
        rounds.append((data_ms, data_ms / all_ms, whole / images_per_s(itertools.repeat(first))))
    batches.close()
    labels = ("data, core-ms an image", "data, share of the CPU time", "training / bare step")
    return [
        f"{label:<30} {range_text(values)}"
        for label, values in zip(labels, zip(*rounds, strict=True), strict=True)
    ]


def main() -> None:
    """Print both tables."""
    parser = build_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--work", type=Path, default=Path("artifacts/augment"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    require_data(arguments.data)
    manifest = build_manifest(arguments.data, work=arguments.work, size=arguments.size)
    cv2.setNumThreads(1)
    print("\n".join(measure_parts(open_split(manifest, split="train"), size=arguments.size)))
    with tempfile.TemporaryDirectory() as folder:
        lines = measure_training(manifest, folder=Path(folder), steps=arguments.steps)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
