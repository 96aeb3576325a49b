"""Speed of each stage as a ratio to its limit, in turns.

    python -m benchmarks.pipeline

A ratio of 1 is as fast as the limit: decoding alone, a copy from memory, the bare training step,
the network alone.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import build_parser, range_text, ratios_in_turns, seconds_of
from haustra.captures.schema import RunManifest
from haustra.captures.writer import writing_run
from haustra.core.allocator import keep_freed_memory
from haustra.core.images import list_images, read_image_rgb
from haustra.core.letterbox import plan_letterbox
from haustra.inference.detector import open_detector
from haustra.models.detector import build_model, default_config
from haustra.models.loss_settings import LossSettings, MatchingSettings
from haustra.models.losses import DetectionLoss, DeviceBatch
from haustra.models.predict import resolve_cpu_precision
from haustra.simulator.config import DatagenConfig
from haustra.simulator.generate import generate_runs
from haustra.training.config import TrainConfig
from haustra.training.learner import TorchLearner
from haustra.training.loop import train_detector
from haustra.warehouse.batches import iterate_batches
from haustra.warehouse.dataset import open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.order import epoch_order


def print_ratio(name: str, *, limit: Callable[[], object], ours: Callable[[], object]) -> None:
    """Print time(limit) / time(ours): 1 is as fast as the limit."""
    print_ratios(name, ratios_in_turns(limit, ours))


def print_ratios(name: str, ratios: list[float]) -> None:
    """Print the median, the lowest and the highest of some ratios."""
    print(f"{name:<58} {range_text(ratios)}", flush=True)


def write_photographs(captures: Path, *, folder: Path) -> list[Path]:
    """Write three runs of JPEG images of 622x529, a common size of stills; return their paths.

    Each run shows all frames, as they are or flipped.
    """
    images = []
    for name, flip in (("as_it_is", None), ("vertical", 0), ("horizontal", 1)):
        with writing_run(
            folder / name, manifest=RunManifest(run_id=name, source="simulated", group_id=name)
        ) as writer:
            for path in list_images(captures / "run_sim_000000" / "images"):
                image = cv2.resize(read_image_rgb(path)[..., ::-1], (622, 529))
                image = image if flip is None else cv2.flip(image, flip)
                done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
                assert done
                writer.add_frame(data.tobytes(), suffix=".jpg", image_size_wh=(622, 529), labels=[])
        images += list_images(folder / name / "images")
    return images


def measure_etl(captures: Path, folder: Path) -> None:
    """Compare the ETL with decoding and resizing the same files, and two jobs with one.

    One CPU core computes unless the line says two. The letterboxed images have fewer pixels than
    those of the limit.
    """
    images = write_photographs(captures, folder=folder / "photographs")
    cores = sorted(os.sched_getaffinity(0))

    def decode(path: Path) -> None:
        image = cv2.imread(str(path))
        assert image is not None
        cv2.resize(image, (384, 384), interpolation=cv2.INTER_AREA)

    def limit(num_jobs: int) -> None:
        with on_cores(cores[:num_jobs]), ThreadPoolExecutor(num_jobs) as pool:
            list(pool.map(decode, images))

    def limit_alone() -> None:
        with on_cores(cores[:1]):
            for path in images:
                decode(path)

    outputs = iter(range(10**6))

    def ours(num_jobs: int) -> None:
        config = ETLConfig(
            captures=folder / "photographs",
            output_root=folder / f"photographs_warehouse_{next(outputs)}",
            split="1,0,0",
            jobs=num_jobs,
        )
        with on_cores(cores[:num_jobs]):
            build_warehouse(config)

    cv2.setNumThreads(1)
    keep_freed_memory()  # as the ETL does, so that the limit has it too
    print_ratio("etl on one core / imread + resize alone", limit=limit_alone, ours=partial(ours, 1))
    if len(cores) > 1:
        print_ratio("etl, two jobs / one", limit=partial(ours, 1), ours=partial(ours, 2))
        print_ratio(
            "  where imread + resize alone, two threads / one, is",
            limit=limit_alone,
            ours=partial(limit, 2),
        )
    for output in folder.glob("photographs*"):
        shutil.rmtree(output)


@contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """Keep this thread, and those that it starts, on these CPU cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_loader(manifest: Path) -> None:
    """Compare a shuffled epoch with a NumPy gather of the same bytes in memory."""
    split = open_split(manifest, split="train")
    everything = split.gather(np.arange(len(split))).images
    orders = [epoch_order(split.shard_sizes, seed=0, epoch=epoch) for epoch in range(5)]

    def limit() -> None:
        for order in orders:
            for start in range(0, len(order), 16):
                batch = everything[order.samples[start : start + 16]]
                assert len(batch)

    def ours() -> None:
        for order in orders:
            for _, batch in iterate_batches(split, order=order, batch_size=16):
                assert len(batch.images)

    print_ratio("loader / numpy gather from memory", limit=limit, ours=ours)


class SourceImages(torch.utils.data.Dataset[NDArray[np.uint8]]):
    """Images that are decoded and letterboxed at each access."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return an image [384,384,3]."""
        image = read_image_rgb(self.paths[index])
        size_wh = (image.shape[1], image.shape[0])
        return plan_letterbox(size_wh, target_size_wh=(384, 384)).apply(image)


def measure_decoding(manifest: Path, captures: Path) -> None:
    """Compare the loader with a PyTorch DataLoader of two workers over the source images."""
    split = open_split(manifest, split="train")
    order = epoch_order(split.shard_sizes, seed=0, epoch=0)
    paths = list_images(captures / "run_sim_000000" / "images")
    loader = torch.utils.data.DataLoader(
        SourceImages(paths), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True
    )

    def theirs() -> None:
        for batch in loader:
            assert len(batch)

    def ours() -> None:
        for _, batch in iterate_batches(split, order=order, batch_size=16):
            assert len(batch.images)

    print_ratio("loader / DataLoader that decodes, two workers", limit=theirs, ours=ours)


def measure_training(manifest: Path, folder: Path) -> None:
    """Compare a training epoch with the bare steps on one fixed batch."""
    split = open_split(manifest, split="train")
    num_steps = -(-len(split) // 16)
    batch = split.gather(epoch_order(split.shard_sizes, seed=0, epoch=0).samples[:16])
    boxes, mask = torch.from_numpy(batch.boxes_xyxy), torch.from_numpy(batch.mask).bool()
    rows = max(1, int(mask.any(dim=0).sum()))
    images = torch.from_numpy(batch.images)
    fixed = DeviceBatch(images, boxes[:, :rows], mask[:, :rows])
    model = build_model(default_config("big", max_boxes=split.manifest.max_boxes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    loss = DetectionLoss(matching=MatchingSettings(), settings=LossSettings(), iou_weight=3.6)
    is_bfloat16 = resolve_cpu_precision() == "bfloat16"
    learner = TorchLearner(model, loss=loss, is_bfloat16=is_bfloat16, is_compiled=False)

    def limit() -> None:
        for _ in range(num_steps):
            terms = learner.loss_terms(fixed)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    seconds: list[float] = []

    def ours() -> None:
        config = TrainConfig(
            manifest=manifest, model="big", epochs=1, checkpoint_out=folder / "bigdet.bin"
        )
        entry = train_detector(config).header.history[-1]
        seconds.append(len(split) / entry["images_per_s"])

    limit()
    ours()
    seconds.clear()
    ratios = []
    for _ in range(3):
        limited = seconds_of(limit)
        ours()
        ratios.append(limited / seconds[-1])
    print_ratios("train step / bare step on a fixed batch", ratios)


def measure_inference(captures: Path, folder: Path) -> None:
    """Compare a whole detection with the network alone on a ready tensor."""
    detector = open_detector(folder / "bigdet.bin")
    path = list_images(captures / "run_sim_000000" / "images")[0]
    image = read_image_rgb(path)
    letterbox = detector.letterbox(image)
    ready = letterbox.apply(image)[None]

    def limit() -> None:
        for _ in range(30):
            detector.predict_slots(ready)

    def ours() -> None:
        for _ in range(30):
            detector.detect(image, objectness=0.3, iou=0.5)

    print_ratio("infer: letterbox + net + boxes / net alone", limit=limit, ours=ours)


def main() -> None:
    """Measure every stage on simulated captures in a temporary folder."""
    build_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        captures = folder / "captures"
        started = time.perf_counter()
        generate_runs(DatagenConfig(output_root=captures, frames=200, size=384))
        print(f"simulator: {200 / (time.perf_counter() - started):.1f} frames/s at 384x384")
        print("ratios to the limit, 1.00 is as fast as it (median, lowest to highest):")
        measure_etl(captures, folder)
        manifests = [
            build_warehouse(
                ETLConfig(
                    captures=captures,
                    output_root=folder / "warehouse",
                    target_size=size,
                    split="1,0,0",
                )
            ).manifest_path
            for size in ("384", "256")
        ]
        measure_loader(manifests[0])
        measure_decoding(manifests[0], captures)
        measure_training(manifests[1], folder)
        measure_inference(captures, folder)


if __name__ == "__main__":
    main()
