"""Makes the golden files of a format version, once: `python tests/golden/make.py FOLDER`.

Golden files are never made again. A new format version gets a folder of its own beside the others.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from haustra.core.digests import digest_bytes
from haustra.models.checkpoint import CheckpointHeader, weights_digest, write_checkpoint
from haustra.models.detector import ModelConfig, build_model
from haustra.warehouse.etl import ETLConfig, build_warehouse
from haustra.warehouse.format import SPLIT_NAMES
from haustra.warehouse.reading import open_split
from scenes import write_captures


def main() -> None:
    """Write captures, their warehouse, a small checkpoint, and what reading them must give."""
    folder = Path(sys.argv[1])
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
    model_config = ModelConfig(
        kind="tiny", num_slots=1, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_levels=1, neck=8
    )
    torch.manual_seed(0)
    state = build_model(model_config).state_dict()
    header = CheckpointHeader(
        model=model_config,
        input_size_wh=(32, 32),
        resize_mode="letterbox",
        max_boxes=2,
        class_names=("polyp",),
        warehouse_version=result.manifest.version,
        training={"epochs": 0},
        haustra_version="0.1.0",
    )
    write_checkpoint(folder / "tinydet.bin", header=header, state=state)
    expected = {
        "version": result.manifest.version,
        "samples": samples,
        "weights_sha256": weights_digest(state),
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
