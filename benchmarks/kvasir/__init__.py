"""haustra's detectors beside YOLO11n on Kvasir-SEG: `python -m benchmarks.kvasir.compare`."""
