"""haustra trains polyp detectors and shows what they see.

The pipeline is capture, prune, ETL, warehouse, train, evaluate, infer; each stage is one module
folder, one library function and one command, and the stages meet only at what is on disk.
"""

__version__ = "0.1.0"
