"""Inference: detectors from checkpoints and ONNX models, boxed pictures and videos."""
