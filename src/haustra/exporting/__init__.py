"""Export to ONNX: the graph, its quantisation, and the checks that it must pass."""
