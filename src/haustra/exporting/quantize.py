"""Static quantization of an exported graph: 8-bit integers inside, float at both ends.

Activations are unsigned with a scale per tensor, weights signed with a scale per output channel.
The ranges are the lowest and highest values seen on the calibration images. Ignoring the outer
0.1 % of the values cost BigDet 3 points of AP50.

Weights use 7 of their 8 bits. CPUs without 8-bit dot products (x86 with AVX2 alone) add two
products in 16 bits, where the products of 8-bit weights saturate: the same file would lose up to
0.025 of AP50 there without a warning. Depthwise convolutions add in 32 bits everywhere, so their
weights use all 8 bits.

Rounding the weights shifts the mean of each channel; its bias corrects that.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from haustra.inference.onnx_detector import INPUT_NAME

LARGEST_WEIGHT, LARGEST_DEPTHWISE_WEIGHT = 64, 127
"""Integer of the largest weight of a channel, with 7 bits and with 8."""


class ImageReader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds images, uint8 [B,H,W,3], to ONNX Runtime's calibration."""

    def __init__(self, batches: Iterable[NDArray[np.uint8]]) -> None:
        self._inputs = ({INPUT_NAME: images} for images in batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch, or None after the last."""
        return next(self._inputs, None)


def float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that stay in float32: both ends of the network.

    These are the first convolutions, the last ones on every path to an output, and the nodes
    outside them. The last ones predict box sides through an exponential; 8 bits there cost 3 points
    of AP50-95. The first one has three input channels, for which ONNX Runtime's 8-bit kernel is
    slower than its float32 kernel. What reads the predicted boxes stays in float32 too, up to the
    next convolution: 8 bits of a coordinate are a coarse place to look at.
    """
    names: set[str] = set()
    pixels, results = {INPUT_NAME}, {output.name for output in graph.output}
    predictions: set[str] = set()
    # The nodes of an ONNX graph are sorted: the inputs of a node come before it.
    for node in graph.node:
        if pixels.intersection(node.input):
            names.add(node.name)
            if node.op_type != "Conv":
                pixels.update(node.output)
    for node in reversed(graph.node):
        if results.intersection(node.output):
            names.add(node.name)
            if node.op_type == "Conv":
                predictions.update(node.output)
            else:
                results.update(node.input)
    for node in graph.node:
        if node.op_type != "Conv" and predictions.intersection(node.input):
            names.add(node.name)
            predictions.update(node.output)
    return [node.name for node in graph.node if node.name in names]


def depthwise_weights(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the weights of grouped convolutions."""
    return [
        node.input[1]
        for node in graph.node
        if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]


def mean_inputs(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], *, batches: Iterable[NDArray[np.uint8]]
) -> dict[str, NDArray[np.float32]]:
    """Return the mean [C] over the images of each node's first input [B,C,H,W], by its name."""
    measuring = onnx.ModelProto()
    measuring.CopyFrom(model)
    del measuring.graph.output[:]
    names = sorted({node.input[0] for node in nodes})
    for name in names:
        mean = f"{name}.mean"
        measuring.graph.node.append(onnx.helper.make_node("GlobalAveragePool", [name], [mean]))
        measuring.graph.output.append(onnx.helper.make_empty_tensor_value_info(mean))
    session = onnxruntime.InferenceSession(
        measuring.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    means = [session.run(None, {INPUT_NAME: images}) for images in batches]
    return {
        name: np.concatenate(of_batches).mean(axis=(0, 2, 3))
        for name, of_batches in zip(names, zip(*means, strict=True), strict=True)
    }


def correct_biases(model: onnx.ModelProto, *, batches: Iterable[NDArray[np.uint8]]) -> None:
    """Correct each bias by the shift of its channel's mean that rounding the weights will cause.

    The correction is (W - rounded W) * mean input, per output channel (Nagel et al. 2019,
    *Data-Free Quantization Through Weight Equalization and Bias Correction*, section 4.2), with
    the means measured on `batches`, uint8 [B,H,W,3]. The model has folded batch normalization.
    """
    graph = model.graph
    ends, depthwise = float_nodes(graph), depthwise_weights(graph)
    values = {initializer.name: initializer for initializer in graph.initializer}
    nodes = [
        node
        for node in graph.node
        if node.op_type == "Conv" and node.name not in ends and len(node.input) == 3
    ]
    means = mean_inputs(model, nodes, batches=batches)
    for node in nodes:
        name, weights_name, bias_name = node.input
        weights = numpy_helper.to_array(values[weights_name])
        is_depthwise = weights_name in depthwise
        largest = LARGEST_DEPTHWISE_WEIGHT if is_depthwise else LARGEST_WEIGHT
        step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True).clip(1e-12) / largest
        error = (weights - np.round(weights / step) * step).sum(axis=(2, 3))
        shift = error[:, 0] * means[name] if is_depthwise else error @ means[name]
        bias = numpy_helper.to_array(values[bias_name]) + shift
        values[bias_name].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), bias_name))


def quantize_detector(
    float_path: Path, out_path: Path, *, batches: Callable[[], Iterable[NDArray[np.uint8]]]
) -> None:
    """Write an 8-bit version of a file of `export_onnx`.

    `batches` is called twice, for the letterboxed images of the calibration, uint8 [B,H,W,3].
    """
    with tempfile.TemporaryDirectory() as temporary:
        prepared = Path(temporary) / "prepared.onnx"
        # Only the batch size is dynamic, so plain shape inference finds every shape.
        quant_pre_process(float_path, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        correct_biases(model, batches=batches())
        onnx.save(model, prepared)
        graph = model.graph
        eight_bits = {n: [{"axis": 0, "reduce_range": False}] for n in depthwise_weights(graph)}
        quantization.quantize_static(
            prepared,
            out_path,
            ImageReader(batches()),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_exclude=float_nodes(graph),
            extra_options={"TensorQuantOverrides": eight_bits},
        )
