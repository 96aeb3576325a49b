"""haustra's own detectors: trained by the command, scored, exported to ONNX."""

import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from benchmarks.kvasir.results import Result, Settings
from benchmarks.kvasir.scoring import SHUFFLE_SEED, Scores, dense_with_suppression, score
from benchmarks.sources import digest_packages
from benchmarks.steps import StepError, busy_share, now_text, run_logged, say
from haustra.core.digests import digest_json
from haustra.core.files import write_json_atomic
from haustra.exporting.config import LOWEST_OPSET
from haustra.exporting.onnx_graph import describe_model, export_onnx, write_model
from haustra.exporting.quantize import quantize_detector
from haustra.exporting.stage import calibration_batches
from haustra.inference.onnx_detector import open_onnx
from haustra.models.backbone import count_parameters
from haustra.models.checkpoint import read_checkpoint
from haustra.models.predict import predict_slots
from haustra.warehouse.dataset import open_split
from haustra.warehouse.format import read_manifest

FORMS = ("float32", "int8")
TRAINING_PACKAGES = ("core", "models", "training", "warehouse")
"""Packages that decide a training; a finished training is reused until one of them changes."""
SCORING_PACKAGES = ("core", "evaluation", "exporting", "inference", "models", "warehouse")


@dataclass(frozen=True, kw_only=True)
class OurDetector:
    """One way to train one of the detectors."""

    key: str
    name: str
    flags: tuple[str, ...]
    """Flags of `haustra train`."""


OUR_DETECTORS = (
    OurDetector(key="bigdet", name="BigDet from scratch", flags=("--model", "big")),
    OurDetector(
        key="bigdet-pretrained",
        name="BigDet --pretrained",
        flags=("--model", "big", "--pretrained"),
    ),
    OurDetector(key="tinydet", name="TinyDet from scratch", flags=("--model", "tiny")),
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A finished training."""

    seed: int
    checkpoint: Path
    epochs: int
    images_per_s: float
    """Median over the last quarter of the epochs, whose images have the full size."""
    finished_at: str
    busy_before: float | None
    """Share of the machine that other programs used when it began."""
    reused: bool
    """An earlier call of the script made it."""


def run_folder(detector: OurDetector, *, seed: int, settings: Settings) -> Path:
    """Return the folder of one training; its name holds all that decides the result."""
    manifest = read_manifest(settings.manifests[settings.size])
    sources = digest_packages(TRAINING_PACKAGES)
    decisive = digest_json({"sources": sources, "warehouse": manifest.version})[:12]
    name = (
        f"{detector.key}_{settings.time_budget}_{settings.size}_t{settings.threads}_s{seed}"
        f"_{decisive}"
    )
    return settings.work / "runs" / name


def read_training(folder: Path, *, seed: int) -> Training | None:
    """Return the finished training in a folder, or None."""
    path = folder / "training.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    return Training(seed=seed, checkpoint=folder / "detector.bin", reused=True, **stored)


def _read_metrics(path: Path) -> tuple[int, float]:
    """Return the number of epochs and the median images per second of the last quarter."""
    epochs = [json.loads(line) for line in path.read_text().splitlines()]
    last = epochs[-max(1, len(epochs) // 4) :]
    return len(epochs), statistics.median(entry["images_per_s"] for entry in last)


def train(detector: OurDetector, *, seed: int, settings: Settings) -> Training:
    """Train one detector by `haustra train`, or return the finished training of an earlier call.

    Raises:
        StepError: It failed, or haustra's sources changed while it ran.
    """
    folder = run_folder(detector, seed=seed, settings=settings)
    finished = read_training(folder, seed=seed)
    if finished:
        return finished
    busy = busy_share()
    run_logged(
        [
            *(sys.executable, "-m", "haustra", "train", *detector.flags),
            *("--manifest", settings.manifests[settings.size]),
            *("--time-budget", settings.time_budget, "--seed", str(seed), "--val-every", "1000"),
            *("--checkpoint-out", folder / "detector.bin", "--overwrite"),
        ],
        log=folder / "train.log",
        what=f"train {detector.name}, seed {seed}, {settings.time_budget}",
        environment=os.environ | {"OMP_NUM_THREADS": str(settings.threads)},
    )
    if run_folder(detector, seed=seed, settings=settings) != folder:
        raise StepError("haustra's sources changed during the training; start again")
    epochs, images_per_s = _read_metrics(folder / "detector.bin.run" / "metrics.jsonl")
    stored: dict[str, Any] = {
        "epochs": epochs,
        "images_per_s": images_per_s,
        "finished_at": now_text(),
        "busy_before": busy,
    }
    write_json_atomic(folder / "training.json", value=stored)
    return Training(seed=seed, checkpoint=folder / "detector.bin", reused=False, **stored)


def onnx_path(checkpoint: Path, *, form: str, size: int) -> Path:
    """Return the path of an exported form of a checkpoint: `float32` or `int8`, at one size."""
    sources = digest_packages(SCORING_PACKAGES)
    return checkpoint.parent / f"onnx_{sources[:12]}" / f"{size}.{form}.onnx"


def export_checked(training: Training, *, settings: Settings) -> None:
    """Export the float32 form by `haustra export`, which refuses a model that answers otherwise.

    Raises:
        StepError: It was refused.
    """
    path = onnx_path(training.checkpoint, form="float32", size=settings.size)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    run_logged(
        [
            *(sys.executable, "-m", "haustra", "export", "--out", path),
            *("--detector-weights", training.checkpoint),
            *("--manifest", settings.manifests[settings.size], "--json"),
        ],
        log=path.with_suffix(".log"),
        what=f"export {training.checkpoint.parent.name}",
    )


def export_forms(training: Training, *, size: int, settings: Settings) -> list[Path]:
    """Return the float32 and int8 forms at one size; export those that do not exist yet.

    `haustra export --int8` writes nothing where 8 bits cost too much, and exports for the size of
    the training only; both are to be measured here, so this calls the library's parts.
    """
    paths = [onnx_path(training.checkpoint, form=form, size=size) for form in FORMS]
    if all(path.exists() for path in paths):
        return paths
    say(f"export {training.checkpoint.parent.name} at {size}x{size}, float32 and int8")
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    header, model = read_checkpoint(training.checkpoint)
    header = replace(header, input_size_wh=(size, size))
    if not paths[0].exists():
        export_onnx(model, header=header, path=paths[0], opset=LOWEST_OPSET)
    split = open_split(settings.manifests[size], split="train")
    unfinished = paths[1].with_suffix(".part")
    quantize_detector(paths[0], unfinished, batches=partial(calibration_batches, split))
    description = describe_model(model, header=header, opset=LOWEST_OPSET, precision="int8")
    write_model(unfinished, proto=onnx.load(unfinished), description=description)
    unfinished.replace(paths[1])
    return paths


def _score_forms(training: Training, *, settings: Settings, int8_path: Path) -> dict[str, Any]:
    header, model = read_checkpoint(training.checkpoint)
    split = open_split(settings.manifests[settings.size], split="val")
    threshold = header.operating_point.objectness
    shipped = predict_slots(model)
    forms = {
        "scores": score(split, shipped, threshold=threshold),
        "dense_nms": score(split, dense_with_suppression(model), threshold=threshold),
        "shuffled": score(split, shipped, threshold=threshold, shuffle_labels_seed=SHUFFLE_SEED),
        "int8": score(split, open_onnx(int8_path).predict_slots, threshold=threshold),
    }
    return {"parameters": count_parameters(model)} | {k: asdict(v) for k, v in forms.items()}


def score_training(training: Training, *, settings: Settings) -> Result:
    """Score a trained detector in every form, or return the scores of an earlier call."""
    _, int8_path = export_forms(training, size=settings.size, settings=settings)
    path = int8_path.with_name("scores.json")
    if not path.is_file():
        say(f"score {training.checkpoint.parent.name}")
        stored = _score_forms(training, settings=settings, int8_path=int8_path)
        write_json_atomic(path, value=stored)
    stored = json.loads(path.read_text())
    return Result(
        seed=training.seed,
        reused=training.reused,
        finished_at=training.finished_at,
        busy_before=training.busy_before,
        epochs=training.epochs,
        images_per_s=training.images_per_s,
        scores=Scores(**stored["scores"]),
        dense_nms_ap50=stored["dense_nms"]["ap50"],
        shuffled_ap50=stored["shuffled"]["ap50"],
        int8=Scores(**stored["int8"]),
        parameters=stored["parameters"],
    )
