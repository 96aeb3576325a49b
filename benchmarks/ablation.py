"""What each part of the detectors and of their recipe brings, on Kvasir-SEG.

    python -m benchmarks.ablation [--data FOLDER] [--size 256] [--epochs 40] [--seed 0]
        [--only NAME ...]

Trains BigDet once as shipped and once without each part, all with the same seed, order and epochs,
so that only the part differs, and prints a table of average precision on the validation images.
Takes hours on two cores; finished trainings are kept in --work and not repeated. Two trainings of
one thread each take less time side by side than one after the other: --threads 1 --jobs 2.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional

from benchmarks.kvasir.data import build_manifest
from benchmarks.kvasir.scoring import dense_with_suppression, score
from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic
from haustra.models import detector, losses, matching
from haustra.models.checkpoint import read_checkpoint
from haustra.models.predict import predict_slots
from haustra.training import averaging, batches, loop, training
from haustra.training.augment import EASY, FULL, LIGHT
from haustra.training.config import TrainConfig
from haustra.warehouse.dataset import open_split

Change = Callable[[], AbstractContextManager[object]]


def _plain_slot_loss(candidates: detector.Candidates, wanted: torch.Tensor) -> torch.Tensor:
    bce = functional.binary_cross_entropy_with_logits(candidates.logits, wanted, reduction="sum")
    return bce / wanted.sum().clamp(min=1.0)


class _AdamWAlone(torch.optim.AdamW):
    """The optimiser of a training, without Muon; same arguments as `DetectorOptimiser`."""

    def __init__(self, model: detector.SlotDetector, *, weight_decay: float) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            fused=True,
        )

    def set_rate(self, rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = rate


@contextmanager
def _changed_augmentation(**changes: Any) -> Iterator[None]:
    with (
        patch.object(batches, "EASY", dataclasses.replace(EASY, **changes)),
        patch.object(batches, "FULL", dataclasses.replace(FULL, **changes)),
        patch.object(batches, "LIGHT", dataclasses.replace(LIGHT, **changes)),
    ):
        yield


NO_COLOUR = {"gain": 0.0, "channel_gain": 0.0, "gamma": 0.0}
NO_DISTURBANCE = {
    "blur": 0.0, "noise": 0.0, "compression": 0.0, "speculars": 0.0, "text": 0.0,
}  # fmt: skip

VARIANTS: dict[str, tuple[str, dict[str, Any], Change | None]] = {
    "shipped": ("as shipped", {}, None),
    "pretrained": ("--pretrained", {"pretrained": True}, None),
    "strong-at-once": (
        "full augmentation from the first epoch",
        {},
        lambda: patch.object(batches, "EASY", FULL),
    ),
    "no-mosaic": ("without mosaics", {}, lambda: _changed_augmentation(mosaic=0.0)),
    "no-paste": ("without pasted polyps", {}, lambda: _changed_augmentation(paste=0.0)),
    "no-colour": (
        "without changes of brightness, contrast, colour, gamma",
        {},
        lambda: _changed_augmentation(**NO_COLOUR),
    ),
    "no-disturbance": (
        "without blur, noise, JPEG, speculars, text",
        {},
        lambda: _changed_augmentation(**NO_DISTURBANCE),
    ),
    "no-augment": ("without augmentation", {"augment": False}, None),
    "no-turn": (
        "without turns by any angle",
        {},
        lambda: _changed_augmentation(turn=0.0),
    ),
    "no-growth": (
        "images of their own size throughout",
        {},
        lambda: patch.object(batches, "FIRST_RESOLUTION", 1.0),
    ),
    "no-light-end": (
        "without light augmentation at the end",
        {},
        lambda: patch.object(batches, "LIGHT_SHARE", 0.0),
    ),
    "no-average": (
        "without the moving average",
        {},
        lambda: patch.object(averaging, "MAX_DECAY", 0.0),
    ),
    "adamw": (
        "kernels learn by AdamW too",
        {},
        lambda: patch.object(training, "DetectorOptimiser", _AdamWAlone),
    ),
    "no-exclusion": (
        "without the exclusion",
        {},
        lambda: patch.object(detector, "EXCLUSION_ROUNDS", 0),
    ),
    "plain-bce": (
        "the exclusion learns by plain BCE",
        {},
        lambda: patch.object(losses, "slot_loss", _plain_slot_loss),
    ),
    "one-cell": (
        "dense heads learn from one cell per polyp",
        {},
        lambda: patch.object(matching, "NUM_TOP_CELLS", 1),
    ),
    "no-iou": ("without the IoU term", {"iou_weight": 0.0}, None),
    "float32": ("in float32", {"precision": "float32"}, None),
}


def train_variant(name: str, *, manifest: Path, folder: Path, epochs: int, seed: int) -> None:
    """Train and measure one variant in this process, and write its result."""
    _, settings, change = VARIANTS[name]
    config = TrainConfig(
        manifest=manifest,
        model="big",
        epochs=epochs,
        val_every=epochs,
        seed=seed,
        checkpoint_out=folder / f"{name}.bin",
        overwrite=True,
        **settings,
    )
    with ExitStack() as stack:
        if change is not None:
            stack.enter_context(change())
        result = loop.train_detector(config)
        _, model = read_checkpoint(result.checkpoint_path)
        split = open_split(manifest, split="val")
        threshold = result.header.operating_point.objectness
        forms = {
            form: asdict(score(split, predict, threshold=threshold))
            for form, predict in (
                ("own", predict_slots(model)),
                ("dense", dense_with_suppression(model)),
            )
        }
    write_json_atomic(folder / f"{name}.json", value={"seconds": result.seconds, **forms})


def print_table(folder: Path, *, names: list[str]) -> None:
    """Print what has been measured."""
    print("| BigDet | AP50 | AP50-95 | duplicates | AP50 of the dense heads with NMS |")
    print("|---|---|---|---|---|")
    for name in names:
        path = folder / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            own, dense = result["own"], result["dense"]
            print(
                f"| {VARIANTS[name][0]} | {own['ap50']:.3f} | {own['ap50_95']:.3f} | "
                f"{own['duplicates']:.3f} | {dense['ap50']:.3f} |"
            )


def main() -> None:
    """Run the variants that have no result yet, and print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kvasir-seg"))
    parser.add_argument("--work", type=Path, default=Path(".bench/ablation"))
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.data / "images").is_dir():
        print(f"skipped: no Kvasir-SEG images in {options.data}")
        return
    folder = options.work / f"size{options.size}_epochs{options.epochs}_seed{options.seed}"
    try:
        manifest = build_manifest(options.data, work=options.work, size=options.size)
    except HaustraError as error:
        parser.error(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    if options.worker:
        torch.set_num_threads(options.threads)
        train_variant(
            options.worker,
            manifest=manifest,
            folder=folder,
            epochs=options.epochs,
            seed=options.seed,
        )
        return

    def run(name: str) -> None:
        if not (folder / f"{name}.json").exists():
            print(f"training {name}", flush=True)
            command = [sys.executable, "-m", "benchmarks.ablation", "--worker", name]
            command += ["--data", str(options.data)]
            command += ["--work", str(options.work), "--epochs", str(options.epochs)]
            command += ["--seed", str(options.seed), "--threads", str(options.threads)]
            command += ["--size", str(options.size)]
            subprocess.run(command, check=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, options.only))
    print_table(folder, names=options.only)


if __name__ == "__main__":
    main()
