"""The peer, YOLO11n of Ultralytics: trained, scored and exported in an interpreter of its own.

Ultralytics is under the AGPL and not a dependency of haustra: it lives in a throw-away environment
in the work folder (or in one that the caller names), and only files go between the two.
"""

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kvasir.results import LATENCY_SIZES, Result, Settings
from benchmarks.kvasir.scoring import SHUFFLE_SEED, Scores, score, suppress_overlaps
from benchmarks.steps import busy_share, now_text, run_logged
from haustra.core.detections import PredictSlots, Slots
from haustra.core.digests import digest_json
from haustra.core.files import write_json_atomic, write_text_atomic
from haustra.inference.onnx_detector import open_session
from haustra.warehouse.dataset import Split, open_split
from haustra.warehouse.format import SplitName, read_manifest

PEER_KEY, PEER_NAME = "yolo11n", "YOLO11n (Ultralytics)"
PACKAGES = ("torch==2.14.1", "torchvision==0.29.1", "ultralytics==8.4.190", "onnx==1.23.2")
PEER_NMS_IOU = 0.7
"""IoU of the suppression in Ultralytics' own validation."""
THRESHOLD = 0.3
"""Score for duplicates, haustra's default operating point."""
MAX_DETECTIONS = 100
"""Number of boxes that COCO's average precision takes per image."""


@dataclass(frozen=True, kw_only=True)
class PeerTraining:
    """A finished training of the peer, scored twice."""

    by_itself: Result
    """Ultralytics' own validation of the best epoch's weights."""
    by_ours: Result
    """The exported model of the same weights, by haustra's metrics."""
    versions: str
    threads: int
    """Threads of PyTorch."""
    onnx_paths: dict[int, Path]


def _write_split(split: Split, *, captures: Path, folder: Path) -> None:
    """Write one split as YOLO reads it: images, and `0 x y w h` in 0..1 of the image per box."""
    images, labels = folder / "images" / split.name, folder / "labels" / split.name
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    batch = split.gather(np.arange(len(split)))
    names = split.table.column("source_image").to_pylist()
    for source_image, letterbox, boxes, mask in zip(
        names, split.letterboxes(), batch.boxes_xyxy, batch.mask, strict=True
    ):
        source = captures / source_image
        # A copy, since Ultralytics repairs damaged files in place.
        shutil.copyfile(source, images / source.name)
        boxes_px = letterbox.boxes_to_source(boxes[mask.astype(bool)])
        lines = yolo_lines(boxes_px, size_wh=letterbox.source_size_wh)
        (labels / f"{source.stem}.txt").write_text("".join(lines))


def yolo_lines(boxes_px: NDArray[np.float64], *, size_wh: tuple[int, int]) -> list[str]:
    """Return the lines of a YOLO label file for boxes [N,4] in pixels."""
    boxes = boxes_px / np.tile(size_wh, 2)
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return [
        "0 " + " ".join(f"{value:.6f}" for value in row) + "\n"
        for row in np.hstack([centers, sizes])
    ]


def write_dataset(*, settings: Settings) -> Path:
    """Write the warehouse's split as a YOLO dataset and return the file that describes it.

    The images are the captures' own files, so the peer resizes them its own way.
    """
    manifest_path = settings.manifests[settings.size]
    folder = settings.work / "yolo_data" / read_manifest(manifest_path).version
    description = folder / "data.yaml"
    if description.exists():
        return description
    shutil.rmtree(folder, ignore_errors=True)
    names: tuple[SplitName, ...] = ("train", "val")
    for name in names:
        split = open_split(manifest_path, split=name)
        _write_split(split, captures=settings.captures, folder=folder)
    value = {"path": str(folder), "names": {0: "polyp"}} | {n: f"images/{n}" for n in names}
    write_text_atomic(description, text=json.dumps(value))  # JSON is YAML
    return description


def training_arguments(*, settings: Settings, seed: int) -> dict[str, Any]:
    """Return the arguments of the peer's `train`."""
    return {
        "imgsz": settings.size,
        "batch": 16,
        "epochs": 300,
        "time": settings.minutes / 60,
        "workers": 1,
        "pretrained": False,
        "amp": False,
        "seed": seed,
        "device": "cpu",
        "plots": False,
    }


def median_images_per_s(epoch_times_s: Sequence[float], *, epoch_images: Sequence[int]) -> float:
    """Return the median over the epochs of images per second.

    Args:
        epoch_times_s: Seconds of training at the end of each epoch.
        epoch_images: Number of images of each epoch.
    """
    seconds = [after - before for before, after in pairwise([0.0, *epoch_times_s])]
    return statistics.median(
        images / duration for images, duration in zip(epoch_images, seconds, strict=True)
    )


def peer_slots(path: Path) -> PredictSlots:
    """Return the peer's exported model as a function from stored images to slots.

    Its graph takes RGB float32 [1,3,H,W] in 0..1 and returns [1,5,N]: center and size in pixels,
    and a score.
    """
    session, _ = open_session(path, data=path.read_bytes(), backend="cpu")
    name = session.get_inputs()[0].name

    def predict(images: NDArray[np.uint8]) -> Slots:
        boxes, scores = [], []
        for image in images:
            pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
            (output,) = session.run(None, {name: pixels})
            x, y, width, height, confidence = output[0]
            corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
            boxes.append(corners / np.tile(image.shape[1::-1], 2))
            scores.append(confidence)
        return suppress_overlaps(
            np.stack(boxes).astype(np.float32).clip(0, 1),
            np.stack(scores),
            iou=PEER_NMS_IOU,
            num_kept=MAX_DETECTIONS,
        )

    return predict


def _folder(*, settings: Settings, seed: int, threads: int) -> Path:
    decisive = digest_json(
        {
            "train": training_arguments(settings=settings, seed=seed),
            "warehouse": read_manifest(settings.manifests[settings.size]).version,
            "packages": PACKAGES,
            "threads": threads,
        }
    )[:12]
    name = f"{PEER_KEY}_{settings.time_budget}_{settings.size}_s{seed}_{decisive}"
    return settings.work / "runs" / name


def _read_result(folder: Path, *, settings: Settings, seed: int, reused: bool) -> PeerTraining:
    answer = json.loads((folder / "training.json").read_text())
    split = open_split(settings.manifests[settings.size], split="val")
    predict = peer_slots(folder / f"{settings.size}.onnx")
    shuffled = score(split, predict, threshold=THRESHOLD, shuffle_labels_seed=SHUFFLE_SEED)
    by_itself = Result(
        seed=seed,
        reused=reused,
        finished_at=answer["finished_at"],
        busy_before=answer["busy_before"],
        epochs=len(answer["epoch_times_s"]),
        images_per_s=median_images_per_s(
            answer["epoch_times_s"], epoch_images=answer["epoch_images"]
        ),
        scores=Scores(ap50=answer["ap50"], ap75=answer["ap75"], ap50_95=answer["ap50_95"]),
    )
    return PeerTraining(
        by_itself=by_itself,
        by_ours=replace(
            by_itself,
            scores=score(split, predict, threshold=THRESHOLD),
            shuffled_ap50=shuffled.ap50,
        ),
        versions=f"Ultralytics {answer['ultralytics']}, PyTorch {answer['torch']}",
        threads=answer["threads"],
        onnx_paths={size: folder / f"{size}.onnx" for size in LATENCY_SIZES},
    )


def read_peer(*, seed: int, settings: Settings, threads: int) -> PeerTraining | None:
    """Return the peer's finished training of an earlier call, or None."""
    folder = _folder(settings=settings, seed=seed, threads=threads)
    if not (folder / "training.json").is_file():
        return None
    return _read_result(folder, settings=settings, seed=seed, reused=True)


def measure_peer(*, python: Path, seed: int, settings: Settings, threads: int) -> PeerTraining:
    """Train, score and export the peer.

    Raises:
        StepError: Its process failed.
    """
    folder = _folder(settings=settings, seed=seed, threads=threads)
    shutil.rmtree(folder, ignore_errors=True)  # its tables would go on where they stopped
    folder.mkdir(parents=True)
    data = write_dataset(settings=settings)
    request = {
        "folder": str(folder),
        "architecture": "yolo11n.yaml",
        "export_sizes": sorted({settings.size, *LATENCY_SIZES}),
        "train": training_arguments(settings=settings, seed=seed) | {"data": str(data)},
    }
    write_json_atomic(folder / "request.json", value=request)
    busy = busy_share()
    run_logged(
        [
            *(python, Path(__file__).with_name("peer_script.py")),
            *(folder / "request.json", folder / "answer.json"),
        ],
        log=folder / "train.log",
        what=f"train {PEER_NAME}, seed {seed}, {settings.time_budget}",
        environment=_environment(settings.work, threads=threads),
    )
    answer = json.loads((folder / "answer.json").read_text())
    stored = answer | {"finished_at": now_text(), "busy_before": busy}
    write_json_atomic(folder / "training.json", value=stored)
    return _read_result(folder, settings=settings, seed=seed, reused=False)


def _environment(work: Path, *, threads: int) -> dict[str, str]:
    """Keep the peer's settings in the work folder, and keep it from installing and asking home."""
    configuration = work / "yolo_configuration"
    configuration.mkdir(exist_ok=True)
    return os.environ | {
        "YOLO_CONFIG_DIR": str(configuration),
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "OMP_NUM_THREADS": str(threads),
    }
