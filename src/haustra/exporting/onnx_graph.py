"""Writes a detector as an ONNX graph that maps stored pixels to boxes and scores.

    images uint8 [batch,H,W,3] ── network ── boxes_xyxy float32 [batch,S,4] in 0..1 of the image
                                         └── scores float32 [batch,S] in 0..1, falling

Only the letterbox stays outside. The batch size is dynamic, the image size is fixed.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401  the exporter imports it late; a missing package fails here
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from haustra.core.letterbox import PAD_VALUE
from haustra.inference.onnx_detector import (
    FORMAT_NAME,
    FORMAT_VERSION,
    INPUT_NAME,
    METADATA_KEY,
    OUTPUT_NAMES,
)
from haustra.models.backbone import count_parameters, images_to_input
from haustra.models.checkpoint import CheckpointHeader, header_to_json, weights_digest
from haustra.models.detector import SlotDetector

SCALAR_OPERATORS: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    "Add": lambda scale, shift, value: (scale, shift + value),
    "Sub": lambda scale, shift, value: (scale, shift - value),
    "Mul": lambda scale, shift, value: (scale * value, shift * value),
    "Div": lambda scale, shift, value: (scale / value, shift / value),
}
"""Effect of each operator on `scale * pixel + shift`, when its second input is a constant."""


class PixelsToSlots(nn.Module):
    """A detector with the steps before and after it in `models.predict`."""

    def __init__(self, detector: SlotDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images uint8 [B,H,W,3] to boxes [B,S,4] and scores [B,S]."""
        output = self.detector(images_to_input(images))
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
    """Return the file's metadata: the checkpoint's header and how to use the graph.

    Only the last epoch of the training's history is kept.
    """
    return {
        **header_to_json(header),
        "history": header.history[-1:],
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "opset": opset,
        "parameters": count_parameters(model),
        "weights_sha256": weights_digest(model.state_dict()),
        "preprocessing": {
            "channels": "RGB",
            "resize": (
                "keep the aspect ratio, center, pad"
                if header.resize_mode == "letterbox"
                else "stretch to the input size"
            ),
            "interpolation": "average of the covered area to shrink, bilinear to enlarge",
            "pad_value": PAD_VALUE,
        },
    }


def export_onnx(
    model: SlotDetector,
    *,
    header: CheckpointHeader,
    path: Path,
    opset: int,
) -> None:
    """Write a detector as a float32 ONNX model.

    Args:
        model: The detector. It is put into evaluation mode.
        header: Header of the checkpoint, which goes into the metadata and gives the image size.
        path: The file. Its folder exists.
        opset: Version of the ONNX operators.
    """
    width, height = header.input_size_wh
    wrapped = PixelsToSlots(model).eval()
    # Two images, since PyTorch turns a batch size of one into a constant.
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            wrapped,
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
    _remove_traces(proto)
    fold_normalization(proto.graph)
    onnx.checker.check_model(proto)
    description = describe_model(model, header=header, opset=opset, precision="float32")
    write_model(path, proto=proto, description=description)


def write_model(path: Path, *, proto: onnx.ModelProto, description: dict[str, Any]) -> None:
    """Write a model with its description as the only metadata."""
    used = {node.domain for node in proto.graph.node}
    for entry in [entry for entry in proto.opset_import if entry.domain not in used]:
        proto.opset_import.remove(entry)  # ONNX Runtime's tools list every domain
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(description, allow_nan=False)})
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _remove_traces(proto: onnx.ModelProto) -> None:
    """Remove the stack traces that the exporter stores, which name paths of this machine."""
    graph = proto.graph
    for element in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, graph):
        del element.metadata_props[:]
        element.doc_string = ""
    for element in graph.output:
        del element.metadata_props[:]


def fold_normalization(graph: onnx.GraphProto) -> None:
    """Reduce the arithmetic on pixels before the first convolution to one addition at most.

    `scale * pixel + shift` is `scale * (pixel + shift / scale)`, and the scale moves into the
    weights. A graph that begins differently is left alone, since this only saves time.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    scale, shift, current = 1.0, 0.0, INPUT_NAME
    arithmetic: list[onnx.NodeProto] = []
    while len(users.get(current, [])) == 1:
        node = users[current][0]
        if node.op_type in SCALAR_OPERATORS and node.input[0] == current:
            constant = constants.get(node.input[1])
            if constant is None or np.prod(constant.dims) != 1:
                return
            value = float(numpy_helper.to_array(constant).reshape(()))
            scale, shift = SCALAR_OPERATORS[node.op_type](scale, shift, value)
            arithmetic.append(node)
        elif node.op_type == "Conv":
            break
        elif node.op_type not in {"Transpose", "Cast"}:
            return
        current = node.output[0]
    else:
        return
    if not arithmetic or len(users[node.input[1]]) != 1:
        return
    weights = constants[node.input[1]]
    scaled = numpy_helper.to_array(weights).astype(np.float64) * scale
    weights.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), weights.name))
    first, last = arithmetic[0], arithmetic[-1]
    stale = {name for node in arithmetic for name in (node.input[1], node.output[0])}
    for node in arithmetic[1:]:
        graph.node.remove(node)
    if shift:
        offset = numpy_helper.from_array(np.array(shift / scale, dtype=np.float32), "pixel_offset")
        graph.initializer.append(offset)
        first.op_type = "Add"
        first.input[1] = offset.name
        first.output[0] = last.output[0]
        stale.remove(last.output[0])
    else:
        users[last.output[0]][0].input[0] = first.input[0]
        graph.node.remove(first)
    stale -= {name for node in graph.node for name in node.input}
    for elements in (graph.initializer, graph.value_info):
        for element in [element for element in elements if element.name in stale]:
            elements.remove(element)
