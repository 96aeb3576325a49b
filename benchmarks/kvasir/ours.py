"""haustra's own detectors: trained by the command, scored, exported to ONNX."""

import ast
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

import haustra
from haustra.core.digests import digest_bytes, digest_json
from haustra.core.files import write_json_atomic
from haustra.exporting.config import LOWEST_OPSET
from haustra.exporting.onnx_graph import describe_model, export_onnx, write_model
from haustra.exporting.quantise import quantise_static
from haustra.exporting.stage import calibration_batches
from haustra.inference.onnx_detector import OnnxDetector
from haustra.models.backbone import count_parameters
from haustra.models.checkpoint import read_checkpoint
from haustra.models.predict import predict_slots
from haustra.warehouse.dataset import open_split
from haustra.warehouse.manifest import read_manifest
from kvasir_scoring import SHUFFLE_SEED, Scores, dense_with_suppression, score
from kvasir_steps import Settings, StepError, busy_share, minutes_text, now_text, run_logged, say

TRAINING_PACKAGES = ("core", "models", "train", "warehouse")
"""What decides a training; a result is of no use once one of these has changed."""
SCORING_PACKAGES = ("core", "evaluate", "export", "infer", "models", "warehouse")


@dataclass(frozen=True, kw_only=True)
class OurDetector:
    """One way to train one of the detectors."""

    key: str
    name: str
    flags: tuple[str, ...]
    """Of `haustra train`."""


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
    """Share of the machine that others used when it began."""
    reused: bool
    """An earlier call of the script made it."""


@dataclass(frozen=True, kw_only=True)
class OurScores:
    """What a trained detector reaches on the validation images."""

    parameters: int
    shipped: Scores
    """One-to-one slots in float32, no suppression."""
    dense_nms: Scores
    """The one-to-many head with overlap suppression, of the same weights."""
    shuffled: Scores
    """As shipped, against labels shuffled among the images."""
    int8: Scores
    """The quantised ONNX model."""


def digest_source(text: str) -> str:
    """Return a digest of what Python source does: comments and docstrings do not count."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
    return digest_bytes(ast.dump(tree).encode())


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def digest_packages(names: tuple[str, ...]) -> str:
    """Return a digest of what some packages of haustra do."""
    root = Path(haustra.__file__).parent
    files = sorted(path for name in names for path in (root / name).rglob("*.py"))
    return digest_json(
        {str(path.relative_to(root)): digest_source(path.read_text()) for path in files}
    )


def run_folder(detector: OurDetector, *, seed: int, settings: Settings, sources: str) -> Path:
    """Return the folder of one training: its name holds all that decides the result."""
    manifest = read_manifest(settings.manifests[settings.size])
    decisive = digest_json({"sources": sources, "warehouse": manifest.version})[:12]
    minutes = minutes_text(settings.minutes)
    name = f"{detector.key}_{minutes}_{settings.size}_t{settings.threads}_s{seed}_{decisive}"
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


def train(detector: OurDetector, *, seed: int, settings: Settings, sources: str) -> Training:
    """Train one detector by `haustra train`, or return the finished training of an earlier call.

    Raises:
        StepError: it failed, or haustra's sources are no longer those of `sources`.
    """
    folder = run_folder(detector, seed=seed, settings=settings, sources=sources)
    finished = read_training(folder, seed=seed)
    if finished:
        return finished
    if digest_packages(TRAINING_PACKAGES) != sources:
        raise StepError("haustra's sources changed while this ran; start again")
    minutes = minutes_text(settings.minutes)
    busy = busy_share()
    run_logged(
        [
            *(sys.executable, "-m", "haustra", "train", *detector.flags),
            *("--manifest", settings.manifests[settings.size], "--time-budget", minutes),
            *("--seed", str(seed), "--val-every", "1000"),
            *("--checkpoint-out", folder / "detector.bin", "--overwrite"),
        ],
        log=folder / "train.log",
        what=f"train {detector.name}, seed {seed}, {minutes}",
        environment=os.environ | {"OMP_NUM_THREADS": str(settings.threads)},
    )
    epochs, images_per_s = _read_metrics(folder / "detector.run" / "metrics.jsonl")
    stored: dict[str, Any] = {
        "epochs": epochs,
        "images_per_s": images_per_s,
        "finished_at": now_text(),
        "busy_before": busy,
    }
    write_json_atomic(folder / "training.json", value=stored)
    return Training(seed=seed, checkpoint=folder / "detector.bin", reused=False, **stored)


def onnx_path(checkpoint: Path, *, form: str, size: int, sources: str) -> Path:
    """Return where an exported form of a checkpoint lies: `float32` or `int8`, at a side."""
    return checkpoint.parent / f"onnx_{sources[:12]}" / f"{size}.{form}.onnx"


def export_checked(training: Training, *, settings: Settings, sources: str) -> None:
    """Export the float32 form by `haustra export`, which refuses a model that answers otherwise.

    Raises:
        StepError: it was refused.
    """
    path = onnx_path(training.checkpoint, form="float32", size=settings.size, sources=sources)
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


def export_forms(training: Training, *, size: int, settings: Settings, sources: str) -> None:
    """Export the float32 and int8 forms at a side, where they are not there yet.

    The library's parts, since `haustra export --int8` writes nothing where 8 bits cost too much,
    and exports for the size of the training only; here both are to be measured.
    """
    paths = [
        onnx_path(training.checkpoint, form=form, size=size, sources=sources)
        for form in ("float32", "int8")
    ]
    if all(path.exists() for path in paths):
        return
    say(f"export {training.checkpoint.parent.name} at {size}x{size}, float32 and int8")
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    header, model = read_checkpoint(training.checkpoint)
    header = replace(header, input_size_wh=(size, size))
    if not paths[0].exists():
        export_onnx(model, header=header, path=paths[0], opset=LOWEST_OPSET)
    split = open_split(settings.manifests[size], split="train")
    unfinished = paths[1].with_suffix(".part")
    quantise_static(paths[0], unfinished, batches=partial(calibration_batches, split))
    description = describe_model(model, header=header, opset=LOWEST_OPSET, precision="int8")
    write_model(unfinished, proto=onnx.load(unfinished), description=description)
    unfinished.replace(paths[1])


def _measure(training: Training, *, settings: Settings, int8_path: Path) -> OurScores:
    header, model = read_checkpoint(training.checkpoint)
    split = open_split(settings.manifests[settings.size], split="val")
    threshold = header.operating_point.objectness
    shipped = predict_slots(model)
    return OurScores(
        parameters=count_parameters(model),
        shipped=score(split, shipped, threshold=threshold),
        dense_nms=score(split, dense_with_suppression(model), threshold=threshold),
        shuffled=score(split, shipped, threshold=threshold, shuffle_labels_seed=SHUFFLE_SEED),
        int8=score(split, OnnxDetector(int8_path).predict_slots, threshold=threshold),
    )


def _read_scores(path: Path) -> OurScores:
    stored: dict[str, Any] = json.loads(path.read_text())
    parameters = stored.pop("parameters")
    return OurScores(parameters=parameters, **{k: Scores(**v) for k, v in stored.items()})


def score_training(training: Training, *, settings: Settings, sources: str) -> OurScores:
    """Score a trained detector, its int8 form too, or return the scores of an earlier call."""
    export_forms(training, size=settings.size, settings=settings, sources=sources)
    int8_path = onnx_path(training.checkpoint, form="int8", size=settings.size, sources=sources)
    path = int8_path.with_name("scores.json")
    if path.is_file():
        return _read_scores(path)
    say(f"score {training.checkpoint.parent.name}")
    scores = _measure(training, settings=settings, int8_path=int8_path)
    write_json_atomic(path, value=asdict(scores))
    return scores
