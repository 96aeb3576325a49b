"""Untrained detectors whose scores spread from low to high, as those of trained ones do."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from haustra.models.checkpoint import CheckpointHeader, write_checkpoint
from haustra.models.detector import ModelKind, SlotDetector, build_model, default_config
from haustra.warehouse.format import read_manifest


def build_lively_model(kind: ModelKind, *, max_boxes: int = 4, seed: int = 0) -> SlotDetector:
    torch.manual_seed(seed)
    model = build_model(default_config(kind, max_boxes=max_boxes))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels in {1, 5}:
            nn.init.normal_(module.weight, std=0.5)
            module.bias = nn.Parameter(torch.empty(module.out_channels).uniform_(-0.1, 0.1))
    # Give batch normalisation the statistics of some images, or all features would fade to zero.
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
    return model.eval()


def write_lively_checkpoint(
    path: Path, *, manifest: Path, kind: ModelKind = "tiny", seed: int = 0
) -> SlotDetector:
    warehouse = read_manifest(manifest)
    model = build_lively_model(kind, max_boxes=warehouse.max_boxes, seed=seed)
    header = CheckpointHeader(
        model=model.config,
        input_size_wh=warehouse.target_size_wh,
        resize_mode=warehouse.resize_mode,
        max_boxes=warehouse.max_boxes,
        class_names=tuple(warehouse.class_names),
        warehouse_version=warehouse.version,
        training={"manifest": str(manifest), "seed": seed, "precision": "float32"},
        history=[
            {"epoch": 1, "seconds": 1.0, "loss": 2.0},
            {"epoch": 2, "seconds": 2.0, "loss": 1},
        ],
    )
    write_checkpoint(path, header=header, state=model.state_dict())
    return model


def golden_images() -> NDArray[np.uint8]:
    """Return two images of slopes and stripes, uint8 [2,64,64,3]."""
    y, x = np.mgrid[:64, :64]
    image = np.stack([x * 4, y * 4, (x + y) * 8 % 256], axis=-1).astype(np.uint8)
    return np.stack([image, image[::-1]])
