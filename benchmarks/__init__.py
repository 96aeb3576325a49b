"""Speed and accuracy, measured by scripts: `python -m benchmarks.NAME` from the repository root."""
