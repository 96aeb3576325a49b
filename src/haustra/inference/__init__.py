"""Inference: a detector from a checkpoint, the heuristic, boxed pictures."""
