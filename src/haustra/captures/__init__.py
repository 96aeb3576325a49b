"""Run folders: their schema, reading, writing, validation, pruning, overlays and importers."""
