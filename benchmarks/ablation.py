"""Measures what each part of the detectors and of their recipe brings, on Kvasir-SEG.

    python -m benchmarks.ablation [--data FOLDER] [--size 256] [--epochs 40] [--seed 0]
        [--only NAME ...]

Trains BigDet once as shipped and once without each part, all with the same seed, order and epochs,
so that only the part differs, and prints a table of average precision on the validation images.
Takes hours on two cores; finished trainings are kept in --work and not repeated. Two trainings of
one thread each take less time side by side than one after the other: --threads 1 --jobs 2.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.kvasir.data import build_manifest
from benchmarks.kvasir.scoring import dense_with_suppression, score
from haustra.core.errors import HaustraError
from haustra.core.files import write_json_atomic
from haustra.models.checkpoint import CheckpointHeader, read_checkpoint, write_checkpoint
from haustra.models.detector import build_model, default_config
from haustra.models.predict import predict_slots
from haustra.training.config import TrainConfig
from haustra.training.loop import train_detector
from haustra.training.recipe import FULL, parse_recipe
from haustra.warehouse.dataset import open_split

NO_EXCLUSION_LOG_STRENGTH = -100.0
"""exp(-100) excludes nothing. It has no gradient, so that it stays."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A training that differs from the shipped one in one part."""

    label: str
    """Row of the table."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig`."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Changes of the recipe, in its JSON form."""
    excludes: bool = True
    """False begins with an exclusion without strength, which stays so."""


def _always(**changes: Any) -> dict[str, Any]:
    """Return the recipe that augments with these changes in every epoch."""
    return {"augmentation": dict.fromkeys(("easy", "full", "light"), changes)}


VARIANTS = {
    "shipped": Variant(label="as shipped"),
    "pretrained": Variant(label="--pretrained", settings={"pretrained": True}),
    "strong-at-once": Variant(
        label="full augmentation from the first epoch",
        recipe={"augmentation": {"easy": FULL.to_json()}},
    ),
    "no-mosaic": Variant(label="without mosaics", recipe=_always(mosaic=0)),
    "no-paste": Variant(label="without pasted polyps", recipe=_always(paste=0)),
    "no-color": Variant(
        label="without changes of brightness, contrast, color, gamma",
        recipe=_always(gain=0, channel_gain=0, gamma=0),
    ),
    "no-disturbance": Variant(
        label="without blur, noise, JPEG, speculars, text",
        recipe=_always(blur=0, noise=0, compression=0, speculars=0, text=0),
    ),
    "no-augment": Variant(label="without augmentation", settings={"augment": False}),
    "no-turn": Variant(label="without turns by any angle", recipe=_always(turn=0)),
    "no-growth": Variant(
        label="images of their own size throughout", recipe={"growth": {"first_resolution": 1}}
    ),
    "no-light-end": Variant(
        label="without light augmentation at the end", recipe={"augmentation": {"light_share": 0}}
    ),
    "no-average": Variant(
        label="without the moving average", recipe={"averaging": {"max_decay": 0}}
    ),
    "adamw": Variant(
        label="kernels learn by AdamW too", recipe={"optimizer": {"kernels": "adamw"}}
    ),
    "no-exclusion": Variant(label="without the exclusion", excludes=False),
    "plain-bce": Variant(
        label="the exclusion learns by plain BCE", recipe={"loss": {"exclusion_focus": 0}}
    ),
    "one-cell": Variant(
        label="dense heads learn from one cell per polyp", recipe={"matching": {"num_top_cells": 1}}
    ),
    "no-iou": Variant(label="without the IoU term", settings={"iou_weight": 0.0}),
    "float32": Variant(label="in float32", settings={"precision": "float32"}),
}


def write_model_without_exclusion(path: Path, *, manifest: Path, seed: int) -> None:
    """Write an untrained BigDet whose exclusion has no strength, to begin a training from."""
    warehouse = open_split(manifest, split="train").manifest
    torch.manual_seed(seed)
    model = build_model(default_config("big", max_boxes=warehouse.max_boxes))
    state = model.state_dict()
    state["exclusion.logarithmic_strength"].fill_(NO_EXCLUSION_LOG_STRENGTH)
    header = CheckpointHeader(
        model=model.config,
        input_size_wh=warehouse.target_size_wh,
        resize_mode=warehouse.resize_mode,
        max_boxes=warehouse.max_boxes,
        class_names=tuple(warehouse.class_names),
        warehouse_version=warehouse.version,
        training={},
    )
    write_checkpoint(path, header=header, state=state)


def train_variant(name: str, *, manifest: Path, folder: Path, epochs: int, seed: int) -> None:
    """Train and measure one variant in this process, and write its result."""
    variant = VARIANTS[name]
    settings = dict(variant.settings)
    if not variant.excludes:
        settings["init_from"] = folder / f"{name}.start.bin"
        write_model_without_exclusion(settings["init_from"], manifest=manifest, seed=seed)
    config = TrainConfig(
        manifest=manifest,
        model="big",
        epochs=epochs,
        val_every=epochs,
        seed=seed,
        checkpoint_out=folder / f"{name}.bin",
        overwrite=True,
        recipe=parse_recipe(variant.recipe, name=name),
        **settings,
    )
    result = train_detector(config)
    _, model = read_checkpoint(result.checkpoint)
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
                f"| {VARIANTS[name].label} | {own['ap50']:.3f} | {own['ap50_95']:.3f} | "
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
