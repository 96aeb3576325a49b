"""Writes a detector as an ONNX graph that maps stored pixels to boxes and scores.

    images uint8 [batch,H,W,3] ── network ── boxes_xyxy float32 [batch,S,4] in 0..1 of the image
                                         └── scores float32 [batch,S] in 0..1, falling

Only the letterbox stays outside. The batch size is dynamic, the image size is fixed.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx
import onnxscript  # noqa: F401  the exporter imports it late; a missing package fails here
import torch
from torch import Tensor, nn

from haustra.core.letterbox import PAD_VALUE, ResizeMode
from haustra.inference.onnx_detector import (
    FORMAT_NAME,
    FORMAT_VERSION,
    INPUT_NAME,
    METADATA_KEY,
    NO_SEAL,
    OUTPUT_NAMES,
    seal_model,
)
from haustra.models.backbone import count_parameters
from haustra.models.checkpoint import CheckpointHeader, header_to_json
from haustra.models.detector import SlotDetector

RESIZING: dict[ResizeMode, str] = {
    "letterbox": "keep the aspect ratio, center, pad",
    "force": "stretch to the input size",
}


class PixelsToSlots(nn.Module):
    """A detector with the steps before and after it in `models.predict`.

    The weights of the first convolution take in the division of the pixels by 255, which saves a
    pass over the image. The given detector is copied.
    """

    def __init__(self, detector: SlotDetector) -> None:
        super().__init__()
        self.detector = deepcopy(detector)
        first = next(module for module in self.detector.modules() if isinstance(module, nn.Conv2d))
        first.weight.data /= 255

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images uint8 [B,H,W,3] to boxes [B,S,4] and scores [B,S]."""
        output = self.detector(images.permute(0, 3, 1, 2).to(torch.float32))
        return output.boxes_xyxy, output.logits.sigmoid()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence warnings of PyTorch's exporter about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is missing
    try:
        with warnings.catch_warnings():
            # torch 2.13 uses its own deprecated LeafSpec.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def describe_model(
    model: SlotDetector, *, header: CheckpointHeader, opset: int, precision: str
) -> dict[str, Any]:
    """Return the file's metadata: the checkpoint's header and how to use the graph."""
    return {
        **header_to_json(header),
        "history": header.history[-1:],  # only the last epoch
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "opset": opset,
        "parameters": count_parameters(model),
        "preprocessing": {
            "channels": "RGB",
            "resize": RESIZING[header.resize_mode],
            "interpolation": "average of the covered area to shrink, bilinear to enlarge",
            "pad_value": PAD_VALUE,
        },
    }


def export_onnx(model: SlotDetector, *, header: CheckpointHeader, path: Path, opset: int) -> None:
    """Write a detector as a float32 ONNX model.

    The header goes into the metadata and gives the image size.
    """
    width, height = header.input_size_wh
    # Two images, since PyTorch turns a batch size of one into a constant.
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            PixelsToSlots(model).eval(),
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise AssertionError("the exporter with dynamo=True returns a program")
    proto = program.model_proto
    # The exporter stores stack traces, which name paths of this machine.
    graph = proto.graph
    for element in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, graph):
        del element.metadata_props[:]
        element.doc_string = ""
    for element in graph.output:
        del element.metadata_props[:]
    onnx.checker.check_model(proto)
    description = describe_model(model, header=header, opset=opset, precision="float32")
    write_model(path, proto=proto, description=description)


def write_model(path: Path, *, proto: onnx.ModelProto, description: dict[str, Any]) -> None:
    """Write a model with its description as the only metadata."""
    used = {node.domain for node in proto.graph.node}
    for entry in [entry for entry in proto.opset_import if entry.domain not in used]:
        proto.opset_import.remove(entry)  # ONNX Runtime's tools list every domain
    del proto.metadata_props[:]
    description |= {"ir_version": proto.ir_version, "file_sha256": NO_SEAL.decode()}
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(description, allow_nan=False)})
    path.write_bytes(seal_model(proto.SerializeToString(deterministic=True)))
