"""Makes golden files of a format version, once.

    python tests/golden/make.py warehouse | checkpoints FOLDER

Golden files are never made again. A new format version gets a folder of its own beside the others.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkpoints import golden_images
from haustra.core.digests import digest_bytes
from haustra.models.checkpoint import CheckpointHeader, write_checkpoint
from haustra.models.detector import ModelConfig, ModelKind, build_model
from haustra.models.predict import predict_slots
from haustra.models.tensor_file import weights_digest
from haustra.warehouse.dataset import open_split
from haustra.warehouse.etl import build_warehouse
from haustra.warehouse.etl_config import ETLConfig
from haustra.warehouse.format import SPLIT_NAMES
from scenes import write_captures


def make_warehouse(folder: Path) -> dict[str, Any]:
    """Write captures and their warehouse; return what reading them must give."""
    runs = write_captures(folder / "captures", num_runs=5, frames_per_run=3, size_wh=(32, 32))
    (runs[0] / "images/frame_00002.png").write_bytes(b"no picture")
    (runs[1] / "images/frame_00002.png").unlink()
    config = ETLConfig(
        captures=folder / "captures",
        output_root=folder,
        target_size="32",
        max_boxes=2,
        split="0.36,0.5,0.14",
        max_missing="1",
        samples_per_shard=2,
    )
    result = build_warehouse(config)
    samples = {}
    for name in SPLIT_NAMES:
        split = open_split(result.manifest_path, split=name)
        batch = split.gather(np.arange(len(split)))
        for number, sample_id in enumerate(split.sample_ids()):
            samples[sample_id] = {
                "split": name,
                "image_sha256": digest_bytes(batch.images[number].tobytes()),
                "boxes_xyxy": batch.boxes_xyxy[number][batch.mask[number] == 1].tolist(),
            }
    return {"version": result.manifest.version, "samples": samples}


def make_checkpoints(folder: Path) -> dict[str, Any]:
    """Write a small checkpoint of each kind; return its weights' digest and what it answers."""
    expected: dict[str, Any] = {}
    kinds: tuple[ModelKind, ...] = ("tiny", "big")
    for kind in kinds:
        config = ModelConfig(
            kind=kind,
            num_slots=1 if kind == "tiny" else 2,
            widths=(8, 8, 8, 8),
            depths=(1, 1, 1, 1),
            num_levels=1 if kind == "tiny" else 3,
            neck=8,
        )
        torch.manual_seed(0)
        model = build_model(config).eval()
        for parameter in model.parameters():  # or all cells would answer alike
            torch.nn.init.normal_(parameter, std=0.5)
        header = CheckpointHeader(
            model=config,
            input_size_wh=(64, 64),
            resize_mode="letterbox",
            max_boxes=2,
            class_names=("polyp",),
            warehouse_version="0123456789abcdef",
            training={"epochs": 0},
            haustra_version="0.1.0",
        )
        state = model.state_dict()
        write_checkpoint(folder / f"{kind}det.bin", header=header, state=state)
        boxes, scores = predict_slots(model)(golden_images())
        expected[kind] = {
            "weights_sha256": weights_digest(state),
            "boxes_xyxy": boxes.tolist(),
            "scores": scores.tolist(),
        }
    return expected


def main() -> None:
    """Make what is asked for."""
    makers = {"warehouse": make_warehouse, "checkpoints": make_checkpoints}
    what, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True)
    text = json.dumps(makers[what](folder), indent=1)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
