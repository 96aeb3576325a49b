"""Export to ONNX: the graph, its quantization, and the checks that it must pass."""
