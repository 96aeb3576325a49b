"""Training and checks on every backend of this machine, beside the CPU.

    python -m benchmarks.gpu

For TinyDet and BigDet and each batch size: images/s of the bare step on a fixed batch that lies on
the device, images/s of whole steps with loading, augmentation and upload, and their ratio (0.9 is a
stall of 10 %). Before that, the gradients of one step and the losses of 30 beside those of the CPU,
in float32. Prints Markdown for docs/backends.md. Minutes on a GPU, hours on a software renderer: it
is left out unless --backends names it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch

from haustra.backends.choose import choose_backend
from haustra.captures.schema import RunManifest
from haustra.captures.writer import PolypTruth, writing_run
from haustra.core.allocator import keep_freed_memory
from haustra.core.backend_names import BackendName
from haustra.core.errors import HaustraError
from haustra.models.detector import ModelKind
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.training.prepare import prepare_training
from haustra.training.recipe import FULL, AugmentationSettings, GrowthSettings, Recipe
from haustra.training.state import Position
from haustra.training.training import NumberedBatch, Training
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.webgpu.device import choose_adapter, list_adapters, missing_package

FRAMES_PER_RUN = 64
NUM_CHECKED_STEPS = 30
CHECK_BATCH = 8
CHECK_RATE = 1e-4
"""As in tests/backends: with more, rounding errors grow to several per cent, on the CPU as well."""
WARM_UP_STEPS, NUM_TIMED_STEPS, ROUNDS = 4, 10, 3


def build_frames(folder: Path, *, size: int, num_frames: int) -> Path:
    """Build a warehouse of pink noise with bright discs; return its manifest."""
    rng = np.random.default_rng(0)
    for run in range(-(-num_frames // FRAMES_PER_RUN)):
        with writing_run(
            folder / "captures" / f"run_{run:03d}",
            manifest=RunManifest(run_id=f"r{run:03d}", source="simulated", group_id=f"g{run:03d}"),
        ) as writer:
            for _ in range(FRAMES_PER_RUN):
                image = rng.integers(60, 180, (size, size, 3), dtype=np.uint8)
                radius = int(rng.integers(size // 12, size // 5))
                x, y = (int(v) for v in rng.integers(radius, size - radius, size=2))
                cv2.circle(image, (x, y), radius, (235, 170, 150), -1)
                box = (float(x - radius), float(y - radius), float(x + radius), float(y + radius))
                data = cv2.imencode(".jpg", image)[1].tobytes()
                writer.add_frame(
                    data,
                    suffix=".jpg",
                    image_size_wh=(size, size),
                    labels=[PolypTruth(bbox_px=box, lesion_id="disc")],
                )
    config = ETLConfig(
        captures=folder / "captures",
        output_root=folder / "warehouse",
        target_size=str(size),
        split="0.9,0.1,0",
    )
    return build_warehouse(config).manifest_path


def open_training(config: TrainConfig) -> Training:
    """Check the settings and build the training."""
    return Training(prepare_training(config))


def steps(training: Training, *, count: int) -> list[float]:
    """Take steps over as many epochs as it needs; return their losses."""
    losses: list[float] = []
    epoch = 0
    while len(losses) < count:
        training.position = Position(epoch=epoch)
        with closing(training.batches()) as batches:
            while len(losses) < count:
                loss = training.take_step(batches)
                if loss is None:
                    break
                losses.append(loss)
        epoch += 1
    return losses


def first_gradient(training: Training) -> torch.Tensor:
    """Return the gradient of the first batch as one vector on the CPU; the weights stay."""
    with closing(training.batches()) as batches:
        _, batch = next(batches)
        training.backward(batch)
    weights = [weight for weight in training.model.parameters() if weight.grad is not None]
    gradient = torch.cat(
        [weight.grad.flatten().cpu() for weight in weights if weight.grad is not None]
    )
    training.replicas.zero_grad()
    return gradient


def check(config: TrainConfig, *, names: Sequence[BackendName]) -> None:
    """Print how gradients and losses of each backend agree with the CPU's, after an epoch there.

    Before it the boxes of all cells are equal but for rounding, and which one is matched is chance.
    """
    first = train_detector(replace(config, backend="cpu", precision="float32", epochs=1))
    config = replace(config, augment=False)
    found = {}
    for name in names:
        settings = replace(
            config,
            backend=name,
            precision="float32",
            batch_size=CHECK_BATCH,
            lr_start=CHECK_RATE,
            lr_end=CHECK_RATE / 2,
            init_from=first.checkpoint,
            checkpoint_out=config.checkpoint_path.with_name("checked.bin"),
        )
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            gradient = first_gradient(open_training(settings))
            losses = np.array(steps(open_training(settings), count=NUM_CHECKED_STEPS))
        found[name] = gradient, losses
    own_gradient, own_losses = found["cpu"]
    for name, (gradient, losses) in found.items():
        apart = float((gradient - own_gradient).norm() / own_gradient.norm())
        most = float((abs(losses - own_losses) / own_losses).max())
        print(f"| {config.model} | {name} | {apart:.1e} | {100 * most:.2f} % |", flush=True)


def images_per_s(training: Training, batches: Iterator[NumberedBatch], *, count: int) -> float:
    """Take steps and return images per second, all work on the device done."""
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    before = training.position.num_images
    for _ in range(count):
        # A fixed batch has no epoch that ends.
        training.position.num_batches = 0
        training.take_step(batches)
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return (training.position.num_images - before) / (time.perf_counter() - started)


def measure(config: TrainConfig) -> tuple[float, float]:
    """Return images/s of the bare step and of whole steps, medians of rounds in turns."""
    recipe = Recipe(
        augmentation=AugmentationSettings(easy=FULL, light=FULL),
        growth=GrowthSettings(first_resolution=1.0),
    )
    training = open_training(replace(config, recipe=recipe))

    def endless() -> Iterator[NumberedBatch]:
        for epoch in count():
            training.position.epoch, training.position.num_batches = epoch, 0
            with closing(training.batches()) as batches:
                for indices, batch in batches:
                    if len(indices) == config.batch_size:
                        yield indices, batch

    whole = endless()
    indices, batch = next(whole)
    fixed = repeat((indices, batch))
    images_per_s(training, fixed, count=WARM_UP_STEPS)
    bare_speeds, whole_speeds = [], []
    for _ in range(ROUNDS):
        bare_speeds.append(images_per_s(training, fixed, count=NUM_TIMED_STEPS))
        images_per_s(training, whole, count=1)  # the workers begin
        whole_speeds.append(images_per_s(training, whole, count=NUM_TIMED_STEPS))
    return statistics.median(bare_speeds), statistics.median(whole_speeds)


def backends_here() -> list[BackendName]:
    """Return the backends with hardware of their own, the CPU first."""
    names: list[BackendName] = ["cpu"]
    for name in ("cuda", "mps", "wgpu"):
        try:
            choose_backend(name)
            if name == "wgpu" and choose_adapter(list_adapters()).is_software:
                print("wgpu: only a software renderer here; --backends wgpu measures it anyway")
                continue
        except HaustraError as error:
            print(error)
            continue
        names.append(name)
    return names


def main() -> None:
    """Check and measure what is here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=384, help="side of the images in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--backends", nargs="+", choices=get_args(BackendName))
    parser.add_argument("--models", nargs="+", choices=get_args(ModelKind), default=["tiny", "big"])
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    arguments = parser.parse_args()
    names: list[BackendName] = list(
        dict.fromkeys(["cpu", *(arguments.backends or backends_here())])
    )
    keep_freed_memory()
    for name in names:
        print(choose_backend(name))
    if "wgpu" in names and (package := missing_package()):
        parser.error(f"{package} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        manifest = build_frames(
            Path(folder), size=arguments.size, num_frames=max(512, 3 * max(arguments.batches))
        )
        config = TrainConfig(
            manifest=manifest,
            epochs=1000,
            compile=arguments.compile,
            checkpoint_out=Path(folder) / "first.bin",
            overwrite=True,
        )
        print(
            "\n| model | backend | gradients apart | losses of 30 steps apart |\n|---|---|---|---|"
        )
        for model in arguments.models:
            check(replace(config, model=model), names=names)
        print(
            "\n| model | batch | backend | precision | bare step, images/s | whole step, "
            "images/s | ratio |\n|---|---|---|---|---|---|---|"
        )
        for model in arguments.models:
            for batch_size in arguments.batches:
                for name in names:
                    settings = replace(config, model=model, batch_size=batch_size, backend=name)
                    start = f"| {model} | {batch_size} | {name} "
                    try:
                        bare, whole = measure(settings)
                    except (RuntimeError, MemoryError) as error:
                        print(f"{start}| | {str(error).splitlines()[0][:80]} | | |", flush=True)
                        continue
                    precision = prepare_training(settings).config.precision
                    print(
                        f"{start}| {precision} | {bare:.0f} | {whole:.0f} | {whole / bare:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
