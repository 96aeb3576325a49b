"""Leaf types that every stage uses: boxes, detections, letterbox, digests, files, errors."""
