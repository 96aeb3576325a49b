"""The loader beside other libraries: `python -m benchmarks.loader.compare`."""
